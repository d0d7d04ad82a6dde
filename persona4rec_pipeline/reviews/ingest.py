"""Ingest: the files of a catalogue become its partition of `reviews`, `items` and `rejected_rows`.

Belongs here: staging, the limit on unusable rows, duplicates, the item limit, and the replacement of a partition in one
transaction. Does not belong here: the formats (`sources.py`) and Dagster (`assets.py`).

Parsing happens in a database of its own under `settings.home`, which DuckDB may spill to; the warehouse is locked only
for the final insert. Nothing in the warehouse changes unless all of a source was read.
"""

from __future__ import annotations

import glob
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from persona4rec_pipeline.reviews.catalogs import PENDING, Catalog, format_of, source_fingerprint
from persona4rec_pipeline.reviews.files import SourceError
from persona4rec_pipeline.reviews.ids import IS_FORGOTTEN, REVIEW_ID, forgotten_hashes
from persona4rec_pipeline.reviews.posted import (
    PostedCounts,
    choose_posted,
    forget_staged,
    read_progress,
    stage_posted,
    store_posted,
)
from persona4rec_pipeline.reviews.sources import stage_items, stage_reviews
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.warehouse import Database, replace_changed_rows

REASONS_SHOWN = 3
# A staging folder this old, in seconds, belongs to an ingest that was killed.
STALE_AFTER_S = 24 * 3600


class TooManyRejects(SourceError):
    """More rows of a source are unusable than `reviews.max_reject_fraction` allows; nothing was changed."""


@dataclass(frozen=True)
class IngestCounts:
    """What became of a source: kept = read - rejected - forgotten - duplicates - beyond_limit + from_reviews +
    posted.kept."""

    read: int
    rejected: int
    duplicates: int
    beyond_limit: int  # usable rows of items that `limit_items` leaves out
    from_reviews: int  # items only: those without metadata, known from their reviews
    kept: int
    forgotten: int = 0  # reviews only: rows of users who asked to be forgotten
    posted: PostedCounts = field(default_factory=PostedCounts)  # reviews only: what came in while serving


def ingest_reviews(database: Database, settings: Settings, catalog: Catalog) -> IngestCounts:
    """Replace the catalogue's reviews, and its rejected review rows, by what its review source and the queue hold now.

    Of rows with the same user, item and time the first is kept. With `limit_items`, only reviews of that many of the
    most reviewed items are kept (ties: by item id). Reading the same files again gives identical rows. What came in while
    serving joins them by the rules of `posted.py`; of items beyond the limit it waits.

    Raises SourceError if the source is missing, empty, damaged or not understood, or has no usable row, or if the queue was
    lost; TooManyRejects if too many rows are unusable. Then nothing has changed.
    """
    fingerprint = source_fingerprint(catalog)
    with database.read() as connection:
        hashes, progress = forgotten_hashes(connection), read_progress(connection, catalog.name)
    with _staging(settings) as (stage, folder):
        stage_reviews(stage, catalog.reviews_source, format_of(catalog), catalog.column_mapping, settings.reviews)
        read, rejected = _check_rejects(stage, "reviews", catalog, settings)
        # Narrow on purpose: which rows stay is decided without moving their texts.
        stage.execute(
            f"""
            CREATE TABLE first_rows AS SELECT file_number, line, item_id FROM staged_reviews
            WHERE problem IS NULL AND NOT {IS_FORGOTTEN}
            QUALIFY row_number() OVER (PARTITION BY user_id, item_id, reviewed_at ORDER BY file_number, line) = 1
            """,
            {"hashes": hashes},
        )
        forgotten = _count(stage, "staged_reviews", f"problem IS NULL AND {IS_FORGOTTEN}", {"hashes": hashes})
        unique = _count(stage, "first_rows")
        if catalog.limit_items is not None:
            stage.execute(
                "DELETE FROM first_rows WHERE item_id NOT IN "
                "(SELECT item_id FROM first_rows GROUP BY item_id ORDER BY count(*) DESC, item_id LIMIT ?)",
                [catalog.limit_items],
            )
        kept = _count(stage, "first_rows")
        progress = stage_posted(stage, settings, catalog.name, progress)
        forget_staged(stage, settings, hashes)
        posted = choose_posted(
            stage,
            settings.reviews,
            catalog.name,
            "SELECT user_id, item_id, reviewed_at FROM staged_reviews SEMI JOIN first_rows USING (file_number, line)",
            _known_items(stage, catalog),
        )
        _export(stage, "FROM posted_now", folder / "posted.parquet", {})
        _export(
            stage,
            f"""SELECT CAST($catalog AS VARCHAR) AS catalog, {REVIEW_ID} AS review_id, user_id, item_id, rating,
                    COALESCE(liked, rating >= $positive, $missing) AS is_positive, title, text, reviewed_at
                FROM staged_reviews SEMI JOIN first_rows USING (file_number, line)""",
            folder / "reviews.parquet",
            {
                "catalog": catalog.name,
                "positive": settings.reviews.positive_rating,
                "missing": settings.reviews.missing_rating_is_positive,
            },
        )
        # What a forgotten user wrote is not kept as a rejected row either; that there was one is.
        row_text = f"CASE WHEN {IS_FORGOTTEN} THEN NULL ELSE row_text END"
        _export_rejects(stage, "reviews", catalog, folder, row_text, {"hashes": hashes})
        with database.write() as warehouse:
            from_source, from_queue = (f"FROM {_parquet(folder / f'{name}.parquet')}" for name in ("reviews", "posted"))
            incoming = f"({from_source}) UNION ALL BY NAME ({from_queue})"
            replace_changed_rows(warehouse, "reviews", incoming, "catalog = $catalog", {"catalog": catalog.name})
            store_posted(warehouse, catalog.name, from_queue, progress)
            _replace_rejects(warehouse, "reviews", catalog, folder)
            warehouse.execute(
                "UPDATE catalogs SET source_fingerprint = ? WHERE catalog = ?", [PENDING + fingerprint, catalog.name]
            )
    return IngestCounts(
        read=read,
        rejected=rejected,
        duplicates=read - rejected - forgotten - unique,
        beyond_limit=unique - kept,
        from_reviews=0,
        kept=kept + posted.kept,
        forgotten=forgotten,
        posted=posted,
    )


def fold_in(database: Database, settings: Settings, catalog: Catalog) -> IngestCounts:
    """Bring the catalogue's reviews up to date with the queue alone; the rows of its source stay as they were read last.

    What `ingest_reviews` would do where no file has changed, without reading one: a night's clicks must not cost the
    parsing of all reviews, and a source that was deleted after it was read can still have new interactions. Of the counts
    only kept and posted say something. Raises SourceError if the queue was lost.
    """
    name = {"catalog": catalog.name}
    with _staging(settings) as (_, folder):
        with database.read() as connection:
            progress = stage_posted(connection, settings, catalog.name, read_progress(connection, catalog.name))
            forget_staged(connection, settings, forgotten_hashes(connection))
            posted = choose_posted(
                connection,
                settings.reviews,
                catalog.name,
                "SELECT user_id, item_id, reviewed_at FROM reviews ANTI JOIN posted_reviews USING (catalog, review_id) "
                "WHERE catalog = $catalog",
                "SELECT item_id FROM items WHERE catalog = $catalog",
                name,
            )
            _export(connection, "FROM posted_now", folder / "posted.parquet", {})
        with database.write() as warehouse:
            from_queue = f"FROM {_parquet(folder / 'posted.parquet')}"
            scope = (
                "catalog = $catalog AND review_id IN (SELECT review_id FROM posted_reviews WHERE catalog = $catalog)"
            )
            replace_changed_rows(warehouse, "reviews", from_queue, scope, name)
            store_posted(warehouse, catalog.name, from_queue, progress)
            kept = _count(warehouse, "reviews", "catalog = $catalog", name)
    return IngestCounts(read=0, rejected=0, duplicates=0, beyond_limit=0, from_reviews=0, kept=kept, posted=posted)


def ingest_items(database: Database, settings: Settings, catalog: Catalog) -> IngestCounts:
    """Replace the catalogue's items, and its rejected item rows: metadata, and every item that only reviews name.

    Runs after `ingest_reviews`. Of metadata rows of the same item the first is kept. With `limit_items`, metadata of
    items without kept reviews is dropped; without it, items that nobody reviewed are kept. An item without metadata has
    neither title nor description.

    Raises SourceError and TooManyRejects as `ingest_reviews` does, and SourceError if there are neither metadata nor
    reviews. Then nothing has changed.
    """
    fingerprint = source_fingerprint(catalog)
    with _staging(settings) as (stage, folder):
        read = rejected = unique = 0
        if catalog.items_source is not None:
            stage_items(stage, catalog.items_source, format_of(catalog), catalog.column_mapping)
            read, rejected = _check_rejects(stage, "items", catalog, settings)
            stage.execute("""
                CREATE TABLE first_rows AS SELECT file_number, line FROM staged_items WHERE problem IS NULL
                QUALIFY row_number() OVER (PARTITION BY item_id ORDER BY file_number, line) = 1
            """)
            unique = _count(stage, "first_rows")
            _export(
                stage,
                """SELECT CAST($catalog AS VARCHAR) AS catalog, item_id, title, description, categories, attributes
                   FROM staged_items SEMI JOIN first_rows USING (file_number, line)""",
                folder / "items.parquet",
                {"catalog": catalog.name},
            )
            _export_rejects(stage, "items", catalog, folder)
        with database.write() as warehouse:
            _gather_items(warehouse, catalog, folder / "items.parquet")
            described = _count(warehouse, "gathered_items", "is_described")
            kept = _count(warehouse, "gathered_items")
            if not kept:
                raise SourceError(
                    f"Catalogue {catalog.name} has no item: it has no reviews in the warehouse"
                    f"{'' if catalog.items_source is None else ' that its metadata could be kept for'}. "
                    "Ingest its reviews first."
                )
            incoming = "SELECT * EXCLUDE (is_described) FROM gathered_items"
            replace_changed_rows(warehouse, "items", incoming, "catalog = $catalog", {"catalog": catalog.name})
            _replace_rejects(warehouse, "items", catalog, folder)
            # Only a fingerprint that the reviews were read under: files that came in between are still new.
            warehouse.execute(
                "UPDATE catalogs SET source_fingerprint = ? WHERE catalog = ? AND source_fingerprint = ?",
                [fingerprint, catalog.name, PENDING + fingerprint],
            )
    return IngestCounts(
        read=read,
        rejected=rejected,
        duplicates=read - rejected - unique,
        beyond_limit=unique - described,
        from_reviews=kept - described,
        kept=kept,
    )


@contextmanager
def _staging(settings: Settings) -> Iterator[tuple[duckdb.DuckDBPyConnection, Path]]:
    """A database and a folder of this ingest alone, gone afterwards; what a killed ingest left is swept first."""
    parent = settings.home / "staging"
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob("ingest-*"):
        try:
            is_stale = time.time() - left.stat().st_mtime > STALE_AFTER_S
        except FileNotFoundError:  # another ingest has just ended
            continue
        if is_stale:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix="ingest-") as name:
        folder = Path(name)
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{settings.warehouse.memory_limit_gib}GiB",
            "temp_directory": str(folder / "spill"),
            "preserve_insertion_order": False,  # rows carry file and line; keeping order would cost memory
            "autoinstall_known_extensions": False,
        }
        if settings.warehouse.threads:
            config["threads"] = settings.warehouse.threads
        with duckdb.connect(str(folder / "stage.duckdb"), config=config) as connection:
            yield connection, folder


def _check_rejects(
    stage: duckdb.DuckDBPyConnection, asset: str, catalog: Catalog, settings: Settings
) -> tuple[int, int]:
    """(rows read, rows rejected); raises before anything is changed if too many, or all, are unusable."""
    read = _count(stage, f"staged_{asset}")
    reasons = stage.execute(
        f"SELECT problem, count(*) AS rows, min_by(file || ':' || line, (file_number, line)) AS example "
        f"FROM staged_{asset} WHERE problem IS NOT NULL GROUP BY problem ORDER BY rows DESC, problem"
    ).fetchall()
    rejected = sum(count for _, count, _ in reasons)
    source = catalog.reviews_source if asset == "reviews" else catalog.items_source
    if not read:
        raise SourceError(f"Source {source} of catalogue {catalog.name} has no rows; was it copied completely?")
    allowed = settings.reviews.max_reject_fraction
    if rejected / read > allowed or rejected == read:
        listed = "\n".join(
            f"  {count:,} x {reason}, first at {example}" for reason, count, example in reasons[:REASONS_SHOWN]
        )
        raise TooManyRejects(
            f"{rejected:,} of {read:,} {asset} rows of catalogue {catalog.name} ({rejected / read:.1%}) cannot be "
            f"used; reviews.max_reject_fraction allows {allowed:.1%}. Nothing was changed. Most frequent reasons:\n"
            f"{listed}\n"
            "Mend the source, state its format or column mapping, or raise reviews.max_reject_fraction."
        )
    return read, rejected


def _known_items(stage: duckdb.DuckDBPyConnection, catalog: Catalog) -> str:
    """A query of the items that the catalogue will have: those with reviews in its source, and those of its metadata.

    The metadata are read for it only where something is queued on an item that no review of the source names.
    """
    reviewed = "SELECT item_id FROM first_rows"
    is_asked = _count(stage, f"(FROM staged_posted ANTI JOIN ({reviewed}) USING (item_id))")
    if catalog.limit_items is not None or catalog.items_source is None or not is_asked:
        return reviewed
    stage_items(stage, catalog.items_source, format_of(catalog), catalog.column_mapping)
    return f"{reviewed} UNION SELECT item_id FROM staged_items WHERE problem IS NULL"


def _export(stage: duckdb.DuckDBPyConnection, query: str, path: Path, parameters: dict[str, Any]) -> None:
    # COPY takes no parameters inside its query, and the values are not ours to paste into SQL.
    stage.execute(f"CREATE OR REPLACE TEMP TABLE exported AS {query}", parameters)
    stage.execute(f"COPY exported TO '{_quoted(path)}' (FORMAT parquet)")
    stage.execute("DROP TABLE exported")


def _export_rejects(
    stage: duckdb.DuckDBPyConnection,
    asset: str,
    catalog: Catalog,
    folder: Path,
    row_text: str = "row_text",
    parameters: dict[str, Any] | None = None,
) -> None:
    _export(
        stage,
        f"SELECT CAST($catalog AS VARCHAR) AS catalog, '{asset}' AS asset, file, line, problem AS reason, "
        f"{row_text} AS row_text FROM staged_{asset} WHERE problem IS NOT NULL ORDER BY file_number, line",
        folder / "rejected.parquet",
        {"catalog": catalog.name, **(parameters or {})},
    )


def _replace_rejects(warehouse: duckdb.DuckDBPyConnection, asset: str, catalog: Catalog, folder: Path) -> None:
    warehouse.execute("DELETE FROM rejected_rows WHERE catalog = ? AND asset = ?", [catalog.name, asset])
    if (folder / "rejected.parquet").exists():
        source = _parquet(folder / "rejected.parquet")
        warehouse.execute(f"INSERT INTO rejected_rows BY NAME SELECT * FROM {source}")


def _gather_items(warehouse: duckdb.DuckDBPyConnection, catalog: Catalog, metadata: Path) -> None:
    """Fill the temporary table `gathered_items`: the metadata within the limit, and what only reviews name."""
    warehouse.execute(
        "CREATE OR REPLACE TEMP TABLE gathered_items AS SELECT *, TRUE AS is_described FROM items LIMIT 0"
    )
    reviewed = "SELECT item_id FROM reviews WHERE catalog = $catalog"
    name = {"catalog": catalog.name}
    if metadata.exists():
        source = f"INSERT INTO gathered_items BY NAME SELECT *, TRUE AS is_described FROM {_parquet(metadata)}"
        if catalog.limit_items is None:
            warehouse.execute(source)
        else:
            warehouse.execute(f"{source} SEMI JOIN ({reviewed}) USING (item_id)", name)
    warehouse.execute(
        "INSERT INTO gathered_items BY NAME SELECT DISTINCT $catalog AS catalog, item_id, FALSE AS is_described "
        f"FROM ({reviewed}) ANTI JOIN gathered_items USING (item_id)",
        name,
    )


def _count(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    condition: str = "TRUE",
    parameters: dict[str, Any] | None = None,
) -> int:
    row = connection.execute(f"SELECT count(*) FROM {table} WHERE {condition}", parameters or {}).fetchone()
    return int(row[0]) if row else 0


def _parquet(path: Path) -> str:
    """The file as a table in SQL; a view over it takes no parameters."""
    return f"read_parquet('{_quoted(Path(glob.escape(str(path))))}')"


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
