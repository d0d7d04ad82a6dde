"""From the warehouse to a published generation of the index.

Belongs here: the queries that say what goes into the index and in which order, and the refusals that keep a wrong index
from being published. Does not belong here: the layout of the files (`files`), arithmetic (`scoring`), Dagster.

Everything is streamed in batches and in a fixed order, so that equal tables give equal bytes, and memory does not grow
with the catalogue. All reads share one connection, so a generation is one moment of the warehouse.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from persona4rec_pipeline.index import files, scoring
from persona4rec_pipeline.warehouse.database import Database

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

BATCH_ROWS = 8_192
# How far from 1 the length of a stored vector may be before it is taken for a mistake.
UNIT_TOLERANCE = 1e-2

# Positive train interactions, the only ones that may describe a user or count for a popularity.
POSITIVE_TRAIN = """
    SELECT reviews.* FROM reviews JOIN splits USING (catalog, review_id)
    WHERE splits.split = 'train' AND reviews.is_positive
"""
# A user's interactions that make the profile, over all catalogues; `age` 1 is the most recent.
HISTORIES = f"""
    SELECT * FROM (
        SELECT catalog, review_id, user_id, item_id, row_number() OVER (
            PARTITION BY user_id ORDER BY reviewed_at DESC, catalog, item_id, review_id
        ) AS age FROM ({POSITIVE_TRAIN})
    ) WHERE age <= $max_history
"""


class IndexNotBuildable(RuntimeError):
    """The tables do not make one consistent index; the message says which assets to materialise first."""


def build_index(
    database: Database,
    index_path: Path,
    *,
    recency_decay: float,
    half_life_days: float | None,
    max_history: int,
    keep_generations: int,
    encoder: files.EncoderReference | None = None,
    blends: scoring.Blends | None = None,
) -> files.Publication:
    """Write the index of everything that has personas, and publish it unless the current generation is the same.

    A catalogue in the middle of its refresh, with personas that have no vector yet, keeps the shard of the current
    generation, or waits for the next one if it is new; `unfinished_catalogs` names such. `encoder` adds where the
    encoder of the vectors can be loaded; it and the `blends` learned with it are recorded only if its fingerprint is
    theirs.

    Raises IndexNotBuildable when no catalogue is complete, or when the vectors come from more than one encoder; the old
    generation then stays current.
    """
    with database.read() as connection:
        fingerprint = uniform_fingerprint(connection, max_history)
        if encoder is None or encoder.fingerprint != fingerprint:
            encoder, blends = files.EncoderReference(fingerprint=fingerprint), None
        unfinished = unfinished_catalogs(connection)

        def write(folder: Path) -> files.Contents:
            dimension = _dimension(connection)
            catalogs = {}
            for (name,) in connection.execute("SELECT DISTINCT catalog FROM personas ORDER BY 1").fetchall():
                if name not in unfinished:
                    catalogs[name] = _write_shard(connection, folder, name, dimension)
                elif (counts := files.keep_shard(index_path, folder, name, fingerprint)) is not None:
                    catalogs[name] = counts
            if not catalogs:
                what = ", ".join(f"{name} ({count})" for name, count in unfinished.items())
                raise IndexNotBuildable(
                    f"Personas without vector, by catalogue: {what}. Materialise persona_vectors, then persona_index."
                )
            return files.Contents(
                encoder=encoder,
                dimension=dimension,
                recency_decay=recency_decay,
                half_life_days=half_life_days,
                max_history=max_history,
                catalogs=catalogs,
                users=_write_users(connection, folder, dimension, recency_decay, half_life_days, max_history),
                seen=_write_seen(connection, folder),
                blends=blends,
            )

        return files.publish(index_path, write, keep_generations)


def unfinished_catalogs(connection: DuckDBPyConnection) -> dict[str, int]:
    """Catalogues with personas that have no vector yet, and how many such personas: their refresh is going on."""
    return dict(
        connection.execute(
            "SELECT catalog, count(*) FROM personas ANTI JOIN persona_vectors USING (catalog, item_id, persona_id) "
            "GROUP BY 1 ORDER BY 1"
        ).fetchall()
    )


def uniform_fingerprint(connection: DuckDBPyConnection, max_history: int) -> str:
    """Fingerprint of the one encoder of all vectors that are needed.

    Raises IndexNotBuildable, saying what to do, when there are several, or when no persona has a vector.
    """
    found = connection.execute(
        f"""
        SELECT asset, catalog, encoder, count(*) FROM (
            SELECT 'persona_vectors' AS asset, catalog, encoder
            FROM persona_vectors SEMI JOIN personas USING (catalog, item_id, persona_id)
            UNION ALL
            SELECT 'interaction_vectors', catalog, encoder
            FROM interaction_vectors SEMI JOIN ({HISTORIES}) USING (catalog, review_id)
        ) GROUP BY ALL ORDER BY ALL
        """,
        {"max_history": max_history},
    ).fetchall()
    if not any(asset == "persona_vectors" for asset, *_ in found):
        raise IndexNotBuildable(
            "There are no personas with vectors. Materialise personas and persona_vectors, then persona_index."
        )
    encoders = {encoder for _, _, encoder, _ in found}
    if len(encoders) > 1:
        what = "; ".join(f"{asset}[{catalog}]: {count} by {encoder}" for asset, catalog, encoder, count in found)
        raise IndexNotBuildable(
            f"The vectors come from {len(encoders)} encoders and cannot be compared: {what}. Materialise "
            "persona_vectors and interaction_vectors of every catalogue with the champion encoder, then persona_index."
        )
    return str(encoders.pop())


def _dimension(connection: DuckDBPyConnection) -> int:
    found = connection.execute(
        "SELECT len(vector) FROM persona_vectors SEMI JOIN personas USING (catalog, item_id, persona_id) LIMIT 1"
    ).fetchone()
    return int(found[0]) if found else 0


def _write_shard(connection: DuckDBPyConnection, folder: Path, catalog: str, dimension: int) -> files.CatalogCounts:
    shard = files.shard_folder(folder, catalog)
    shard.mkdir(parents=True)
    items = connection.execute(
        f"""
        WITH popularity AS (
            SELECT item_id, count(*) AS train_popularity FROM ({POSITIVE_TRAIN}) WHERE catalog = $catalog GROUP BY 1
        ), known AS (
            SELECT item_id FROM item_summaries WHERE catalog = $catalog
            UNION SELECT item_id FROM personas WHERE catalog = $catalog
        )
        SELECT item_id, coalesce(item_summaries.title, items.title, item_id) AS title,
               coalesce(item_summaries.summary, '') AS summary,
               coalesce(train_popularity, 0)::BIGINT AS train_popularity
        FROM known
        LEFT JOIN (FROM item_summaries WHERE catalog = $catalog) AS item_summaries USING (item_id)
        LEFT JOIN (FROM items WHERE catalog = $catalog) AS items USING (item_id)
        LEFT JOIN popularity USING (item_id) ORDER BY item_id
        """,
        {"catalog": catalog},
    )
    item_count = files.write_table(shard / "items.parquet", items.to_arrow_reader(BATCH_ROWS), files.ITEMS)
    counts = connection.execute(
        """
        SELECT count(persona_id) FROM (
            SELECT item_id FROM item_summaries WHERE catalog = $catalog
            UNION SELECT item_id FROM personas WHERE catalog = $catalog
        ) LEFT JOIN (FROM personas WHERE catalog = $catalog) USING (item_id) GROUP BY item_id ORDER BY item_id
        """,
        {"catalog": catalog},
    ).fetchnumpy()["count(persona_id)"]
    offsets = files.write_array(shard / "offsets.npy", (item_count + 1,), "int64")
    offsets[0] = 0
    np.cumsum(counts, out=offsets[1:])
    _flush(offsets)

    columns = ", ".join(files.PERSONAS.names)
    personas = connection.execute(
        f"SELECT {columns} FROM personas WHERE catalog = ? ORDER BY item_id, persona_id", [catalog]
    )
    persona_count = files.write_table(shard / "personas.parquet", personas.to_arrow_reader(BATCH_ROWS), files.PERSONAS)
    vectors = files.write_array(shard / "vectors.npy", (persona_count, dimension), "float16")
    polarity = files.write_array(shard / "polarity.npy", (persona_count,), "int8")
    rows = connection.execute(
        """
        SELECT polarity, vector FROM personas JOIN persona_vectors USING (catalog, item_id, persona_id)
        WHERE catalog = ? ORDER BY item_id, persona_id
        """,
        [catalog],
    )
    start = 0
    for batch in rows.to_arrow_reader(BATCH_ROWS):
        stop = start + batch.num_rows
        vectors[start:stop] = _unit_vectors(batch.column("vector"), dimension, f"persona_vectors[{catalog}]")
        polarity[start:stop] = [files.POLARITY[name] for name in batch.column("polarity").to_pylist()]
        start = stop
    _flush(vectors)
    _flush(polarity)
    return files.CatalogCounts(items=item_count, personas=persona_count)


def _write_users(
    connection: DuckDBPyConnection,
    folder: Path,
    dimension: int,
    recency_decay: float,
    half_life_days: float | None,
    max_history: int,
) -> int:
    source = f"FROM interaction_vectors JOIN ({HISTORIES}) AS histories USING (catalog, review_id)"
    counts = connection.execute(
        f"""
        SELECT histories.user_id AS user_id, any_value(total) AS interactions, count(*) AS of_profile {source}
        JOIN (SELECT user_id, count(*) AS total FROM ({POSITIVE_TRAIN}) GROUP BY 1) AS totals
            ON totals.user_id = histories.user_id
        GROUP BY 1 ORDER BY 1
        """,
        {"max_history": max_history},
    ).to_arrow_table()
    files.write_table(folder / "users.parquet", counts.select(files.USERS.names).to_batches(), files.USERS)
    profiles = files.write_array(folder / "profiles.npy", (counts.num_rows, dimension), "float16")
    rows = connection.execute(
        f"SELECT vector, epoch(reviewed_at) / 86400 AS days {source} ORDER BY histories.user_id, age",
        {"max_history": max_history},
    ).to_arrow_reader(BATCH_ROWS)
    start = 0
    for group_counts, vectors, days in _whole_users(rows, counts.column("of_profile").to_numpy(), dimension):
        offsets = np.concatenate([[0], np.cumsum(group_counts)])
        found = scoring.user_profiles(vectors, offsets, recency_decay, days, half_life_days)
        profiles[start : start + len(group_counts)] = found
        start += len(group_counts)
    _flush(profiles)
    return counts.num_rows


def _whole_users(
    batches: Iterator[pa.RecordBatch], counts: np.ndarray, dimension: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(interactions per user, vectors, days) of as many whole users as are there; a batch may end within a user."""
    ends = np.cumsum(counts)
    pending = np.empty((0, dimension), np.float32)
    pending_days = np.empty(0)
    read = done = 0
    for batch in batches:
        pending = np.concatenate([pending, _unit_vectors(batch.column("vector"), dimension, "interaction_vectors")])
        pending_days = np.concatenate([pending_days, batch.column("days").to_numpy()])
        read += batch.num_rows
        upto = int(np.searchsorted(ends, read, side="right"))
        if upto > done:
            rows = int(counts[done:upto].sum())
            yield counts[done:upto], pending[:rows], pending_days[:rows]
            pending, pending_days = pending[rows:], pending_days[rows:]
            done = upto


def _write_seen(connection: DuckDBPyConnection, folder: Path) -> int:
    rows = connection.execute(
        "SELECT DISTINCT user_id, item_id, catalog FROM reviews JOIN splits USING (catalog, review_id) "
        "WHERE split = 'train' ORDER BY ALL"
    )
    return files.write_table(folder / "seen.parquet", rows.to_arrow_reader(BATCH_ROWS), files.SEEN)


def _unit_vectors(column: pa.ListArray, dimension: int, origin: str) -> np.ndarray:
    values = column.flatten().to_numpy(zero_copy_only=False)
    if len(values) != len(column) * dimension or not (column.value_lengths().to_numpy() == dimension).all():
        raise IndexNotBuildable(f"{origin} holds vectors that do not have {dimension} numbers. Materialise it again.")
    vectors = values.reshape(-1, dimension)
    if not (np.abs(np.linalg.norm(vectors, axis=1) - 1) <= UNIT_TOLERANCE).all():
        raise IndexNotBuildable(f"{origin} holds vectors that are not of unit length. Materialise it again.")
    return vectors


def _flush(array: np.ndarray) -> None:
    if isinstance(array, np.memmap):
        array.flush()
