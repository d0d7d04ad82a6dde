"""From the warehouse to a published generation of the index.

Belongs here: the queries that say what goes into the index and in which order, and the refusals that keep a wrong index
from being published. Does not belong here: the layout of the files (`files`), arithmetic (`scoring`), Dagster.

Everything is streamed in batches and in a fixed order, so that equal tables give equal rows, and memory does not grow with
the catalogue. All reads share one connection, so a generation is one moment of the warehouse.

Of a catalogue that changed a little only the changed items are written, as a further segment; the others are linked from the
current generation (`write_changes` in `changes` decides, and compacts).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from persona4rec_pipeline.index import changes, files, scoring, segments
from persona4rec_pipeline.personas.summaries import safe_categories
from persona4rec_pipeline.reviews.posted import interactions_through
from persona4rec_pipeline.warehouse.database import Database

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

BATCH_ROWS = 8_192
# Longer values are texts and no attributes: nobody filters by them.
MAX_ATTRIBUTE_CHARACTERS = 200
# Categories and attributes come again and again; what was found out about so many of them is kept.
KNOWN_TEXTS = 65_536
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
# Items of the index: what has a summary or personas.
ITEMS = "SELECT catalog, item_id FROM item_summaries UNION SELECT catalog, item_id FROM personas"
# Everything that is stored of an item, as one hash. A vector is known by its text and its encoder.
DESCRIBED = f"""
    SELECT * EXCLUDE (persona_rows, text_hash),
           md5(to_json((title, summary, categories, attributes, persona_rows, text_hash))) AS made_from
    FROM (
        SELECT item_id, coalesce(item_summaries.title, items.title, item_id) AS title,
               coalesce(summary, '') AS summary, coalesce(categories, []) AS categories,
               coalesce(attributes, '{{}}')::VARCHAR AS attributes, coalesce(written.personas, 0) AS personas,
               written.rows AS persona_rows, item_vectors.text_hash AS text_hash
        FROM (FROM ({ITEMS}) WHERE catalog = $catalog) AS known
        LEFT JOIN item_summaries USING (catalog, item_id)
        LEFT JOIN items USING (catalog, item_id)
        LEFT JOIN item_vectors USING (catalog, item_id)
        LEFT JOIN (
            SELECT item_id, count(*) AS personas, md5(to_json(list((
                persona_id, name, description, preference_rationale, polarity, quotes, evidence_review_ids, source, text_hash
            ) ORDER BY persona_id))) AS rows
            FROM personas JOIN persona_vectors USING (catalog, item_id, persona_id) WHERE catalog = $catalog GROUP BY 1
        ) AS written USING (item_id)
    )
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

        def write(folder: Path, current: files.Published | None) -> files.Contents:
            dimension = _dimension(connection)
            if current is not None and not _shares_vectors(current.manifest, fingerprint, dimension):
                current = None
            catalogs = {}
            for (name,) in connection.execute("SELECT DISTINCT catalog FROM personas ORDER BY 1").fetchall():
                if name not in unfinished:
                    catalogs[name] = _write_shard(connection, folder, name, dimension, current)
                elif current is not None and name in current.manifest.catalogs:
                    files.link_files(files.shard_folder(current.path, name), files.shard_folder(folder, name))
                    catalogs[name] = current.manifest.catalogs[name]
            if not catalogs:
                what = ", ".join(f"{name} ({count})" for name, count in unfinished.items())
                raise IndexNotBuildable(
                    f"Personas or items without vector, by catalogue: {what}. Materialise persona_vectors and item_vectors, "
                    "then persona_index."
                )
            users, history = _write_users(connection, folder, dimension, recency_decay, half_life_days, max_history)
            return files.Contents(
                encoder=encoder,
                dimension=dimension,
                recency_decay=recency_decay,
                half_life_days=half_life_days,
                max_history=max_history,
                catalogs=catalogs,
                users=users,
                history=history,
                seen=_write_seen(connection, folder),
                blends=blends,
                interactions_through=interactions_through(connection),
            )

        return files.publish(index_path, write, keep_generations)


def unfinished_catalogs(connection: DuckDBPyConnection) -> dict[str, int]:
    """Catalogues with personas that have no vector yet, or with items of which none has one, and how many personas or items
    these are: their refresh is going on."""
    return dict(
        connection.execute(
            """
            SELECT catalog, sum(missing)::BIGINT FROM (
                SELECT catalog, count(*) AS missing
                FROM personas ANTI JOIN persona_vectors USING (catalog, item_id, persona_id) GROUP BY 1
                UNION ALL
                SELECT catalog, count(*) FROM item_summaries SEMI JOIN personas USING (catalog)
                WHERE catalog NOT IN (SELECT DISTINCT catalog FROM item_vectors) GROUP BY 1
            ) GROUP BY 1 ORDER BY 1
            """
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
            UNION ALL
            SELECT 'item_vectors', catalog, encoder FROM item_vectors SEMI JOIN ({ITEMS}) USING (catalog, item_id)
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
            "persona_vectors, interaction_vectors and item_vectors of every catalogue with the champion encoder, then persona_index."
        )
    return str(encoders.pop())


def _dimension(connection: DuckDBPyConnection) -> int:
    found = connection.execute(
        "SELECT len(vector) FROM persona_vectors SEMI JOIN personas USING (catalog, item_id, persona_id) LIMIT 1"
    ).fetchone()
    return int(found[0]) if found else 0


def _shares_vectors(manifest: files.Manifest, fingerprint: str, dimension: int) -> bool:
    return manifest.encoder.fingerprint == fingerprint and manifest.dimension == dimension


def _write_shard(
    connection: DuckDBPyConnection, folder: Path, catalog: str, dimension: int, current: files.Published | None
) -> files.CatalogCounts:
    named = {"catalog": catalog}
    connection.execute(f"CREATE OR REPLACE TEMP TABLE described AS {DESCRIBED}", named)
    wanted = dict(connection.execute("SELECT item_id, made_from FROM described").fetchall())
    popularity = dict(
        connection.execute(
            f"SELECT item_id, count(*) FROM ({POSITIVE_TRAIN}) WHERE catalog = $catalog GROUP BY 1", named
        ).fetchall()
    )

    def write(target: Path, item_ids: Sequence[str]) -> files.SegmentCounts:
        connection.register("written", pa.table({"item_id": pa.array(item_ids, pa.string())}))
        counts = connection.execute(
            "SELECT personas FROM described SEMI JOIN written USING (item_id) ORDER BY item_id"
        ).fetchnumpy()["personas"]
        made = segments.write_segment(
            target,
            dimension,
            _publishable(
                _stream(
                    connection,
                    f"SELECT {_columns(files.ITEMS)} FROM described SEMI JOIN written USING (item_id) ORDER BY item_id",
                )
            ),
            _stream(
                connection,
                f"SELECT {_columns(files.PERSONAS)} FROM personas SEMI JOIN written USING (item_id) WHERE catalog = $catalog "
                "ORDER BY item_id, persona_id",
                named,
            ),
            _vectors(
                connection,
                "SELECT vector FROM personas JOIN persona_vectors USING (catalog, item_id, persona_id) "
                "SEMI JOIN written USING (item_id) WHERE catalog = $catalog ORDER BY item_id, persona_id",
                named,
                dimension,
                f"persona_vectors[{catalog}]",
            ),
            _vectors(
                connection,
                "SELECT coalesce(vector, $zeros::FLOAT[]) AS vector FROM described SEMI JOIN written USING (item_id) "
                "LEFT JOIN (FROM item_vectors WHERE catalog = $catalog) AS item_vectors USING (item_id) ORDER BY item_id",
                named | {"zeros": [0.0] * dimension},
                dimension,
                f"item_vectors[{catalog}]",
            ),
            counts.astype(np.int64),
        )
        connection.unregister("written")
        return made

    return changes.write_changes(folder, catalog, dimension, current, wanted, popularity, write)


def _publishable(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Items without the categories and attributes that may not be shown: what a source says of them is strangers' text."""
    for batch in batches:
        rows = batch.to_pylist()
        for row in rows:
            row["categories"] = [text for text in row["categories"] if text and _may_be_shown(text)]
            stated = {name: str(value) for name, value in json.loads(row["attributes"]).items() if value is not None}
            shown = {name: value for name, value in stated.items() if _may_be_shown(name) and _may_be_shown(value)}
            row["attributes"] = json.dumps(shown, ensure_ascii=False, sort_keys=True)
        yield pa.RecordBatch.from_pylist(rows, batch.schema)


@lru_cache(KNOWN_TEXTS)
def _may_be_shown(text: str) -> bool:
    return len(text) <= MAX_ATTRIBUTE_CHARACTERS and bool(safe_categories([text]))


def _stream(
    connection: DuckDBPyConnection, query: str, parameters: Mapping[str, object] | None = None
) -> Iterator[pa.RecordBatch]:
    yield from connection.execute(query, parameters or {}).to_arrow_reader(BATCH_ROWS)


def _vectors(
    connection: DuckDBPyConnection, query: str, parameters: Mapping[str, object], dimension: int, origin: str
) -> Iterator[np.ndarray]:
    for batch in _stream(connection, query, parameters):
        yield _unit_vectors(batch.column("vector"), dimension, origin)


def _columns(schema: pa.Schema) -> str:
    return ", ".join(schema.names)


def _write_users(
    connection: DuckDBPyConnection,
    folder: Path,
    dimension: int,
    recency_decay: float,
    half_life_days: float | None,
    max_history: int,
) -> tuple[int, int]:
    """Users, their profiles, and the interactions that these are made of; (users, interactions)."""
    source = f"FROM interaction_vectors JOIN ({HISTORIES}) AS histories USING (catalog, review_id)"
    limit = {"max_history": max_history}
    counts = connection.execute(
        f"""
        SELECT histories.user_id AS user_id, any_value(total) AS interactions, count(*) AS of_profile {source}
        JOIN (SELECT user_id, count(*) AS total FROM ({POSITIVE_TRAIN}) GROUP BY 1) AS totals
            ON totals.user_id = histories.user_id
        GROUP BY 1 ORDER BY 1
        """,
        limit,
    ).to_arrow_table()
    files.write_table(folder / "users.arrow", counts.select(files.USERS.names).to_batches(), files.USERS)
    past = f"SELECT catalog, histories.item_id, reviewed_at AS at {source} ORDER BY histories.user_id, age"
    history = files.write_table(folder / "histories.arrow", _stream(connection, past, limit), files.HISTORIES)
    of_profile = counts.column("of_profile").to_numpy()
    offsets_of_users = files.write_array(folder / "history_offsets.npy", (counts.num_rows + 1,), "int64")
    offsets_of_users[0] = 0
    np.cumsum(of_profile, out=offsets_of_users[1:])
    files.flush(offsets_of_users)
    profiles = files.write_array(folder / "profiles.npy", (counts.num_rows, dimension), "float16")
    kept = files.write_array(folder / "history_vectors.npy", (history, dimension), "float16")
    rows = connection.execute(
        f"SELECT vector, epoch(reviewed_at) / 86400 AS days {source} ORDER BY histories.user_id, age",
        limit,
    ).to_arrow_reader(BATCH_ROWS)
    start = kept_rows = 0
    for group_counts, vectors, days in _whole_users(rows, of_profile, dimension):
        offsets = np.concatenate([[0], np.cumsum(group_counts)])
        found = scoring.user_profiles(vectors, offsets, recency_decay, days, half_life_days)
        profiles[start : start + len(group_counts)] = found
        kept[kept_rows : kept_rows + len(vectors)] = vectors
        start, kept_rows = start + len(group_counts), kept_rows + len(vectors)
    files.flush(profiles)
    files.flush(kept)
    return counts.num_rows, history


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
    seen = (
        "SELECT DISTINCT user_id, item_id, catalog FROM reviews JOIN splits USING (catalog, review_id) "
        "WHERE split = 'train' ORDER BY ALL"
    )
    return files.write_table(folder / "seen.arrow", _stream(connection, seen), files.SEEN)


def _unit_vectors(column: pa.ListArray, dimension: int, origin: str) -> np.ndarray:
    values = column.flatten().to_numpy(zero_copy_only=False)
    if len(values) != len(column) * dimension or not (column.value_lengths().to_numpy() == dimension).all():
        raise IndexNotBuildable(f"{origin} holds vectors that do not have {dimension} numbers. Materialise it again.")
    vectors = values.reshape(-1, dimension)
    lengths = np.linalg.norm(vectors, axis=1)
    # Zeros stand for an item without text.
    if not ((np.abs(lengths - 1) <= UNIT_TOLERANCE) | (lengths == 0)).all():
        raise IndexNotBuildable(f"{origin} holds vectors that are not of unit length. Materialise it again.")
    return vectors
