"""Catalogues: which there are, where their rows come from, and whether there is anything new.

Belongs here: the table `catalogs`, the rules for a catalogue's name, and the fingerprint of its files. Does not belong
here: reading the files (`sources.py`), storing their rows (`ingest.py`), and Dagster's partitions, which are named like
the catalogues.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from persona4rec_pipeline.reviews.files import SourceError, find_files
from persona4rec_pipeline.reviews.sources import AUTO, FORMATS, check_mapping, check_sources, detect_format
from persona4rec_pipeline.warehouse import Database

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
# Between the ingest of the reviews and that of the items, a fingerprint is marked: it equals no fingerprint, so that a
# catalogue whose items failed still counts as having new data.
PENDING = "pending:"


class CatalogError(ValueError):
    """A catalogue is unknown, badly named or registered already; the message says how to mend it."""


@dataclass(frozen=True)
class Catalog:
    """A named batch of items and their reviews, as a user states it.

    `reviews_source` and `items_source` are a file, a folder or a glob; without `items_source` the items are those that
    the reviews name. `column_mapping` maps our columns to those of a generic source (`{"rating": "stars"}`).
    """

    name: str
    reviews_source: str
    items_source: str | None = None
    source_format: str = AUTO
    column_mapping: dict[str, str] = field(default_factory=dict)
    limit_items: int | None = None
    domain: str | None = None


@dataclass(frozen=True)
class CatalogCounts:
    """A registered catalogue and what the warehouse holds of it (rows; users are distinct)."""

    catalog: Catalog
    items: int
    reviews: int
    users: int
    rejected: int
    source_fingerprint: str | None
    registered_at: datetime


def validate_catalog_name(name: str) -> str:
    """The name itself, or CatalogError: 1-64 of a-z, 0-9, '-' and '_', starting with a letter.

    Dagster accepts any text as a partition key, also empty ones and line breaks; this rule keeps names usable as
    partition, folder and shell word.
    """
    if not _NAME.fullmatch(name):
        raise CatalogError(
            f"{name!r} cannot be the name of a catalogue. Use 1 to 64 lower-case letters, digits, '-' and '_', "
            "starting with a letter, for example books-2026-11."
        )
    return name


def register_catalog(database: Database, catalog: Catalog, replace_existing: bool = False) -> Catalog:
    """Store a catalogue and return it as stored: sources absolute, format detected if it was `auto`. Ingests nothing.

    Registering the same again changes nothing. Raises CatalogError for a bad name or limit, or if the name is taken by
    another statement and `replace_existing` is false; SourceError if a source is missing or not understood.
    """
    validate_catalog_name(catalog.name)
    if catalog.limit_items is not None and catalog.limit_items < 1:
        raise CatalogError(
            f"limit_items of catalogue {catalog.name} is {catalog.limit_items}; give at least 1, or none."
        )
    if catalog.source_format not in (AUTO, *FORMATS):
        raise SourceError(f"Unknown source format {catalog.source_format!r}; known: {AUTO}, {', '.join(FORMATS)}.")
    check_mapping(catalog.column_mapping, catalog.source_format)
    catalog = replace(
        catalog,
        reviews_source=_absolute(catalog.reviews_source),
        items_source=None if catalog.items_source is None else _absolute(catalog.items_source),
    )
    catalog = replace(catalog, source_format=format_of(catalog))
    check_sources(catalog.reviews_source, catalog.items_source, catalog.source_format, catalog.column_mapping)
    with database.write() as connection:
        found = connection.execute(f"SELECT {_COLUMNS} FROM catalogs WHERE catalog = ?", [catalog.name]).fetchone()
        if found is not None:
            existing = _catalog(found)
            if existing == catalog:
                return existing
            if not replace_existing:
                raise CatalogError(
                    f"Catalogue {catalog.name} is registered already, with other sources or options "
                    f"({existing.reviews_source}). Choose another name, replace it, or delete it first."
                )
            connection.execute("DELETE FROM catalogs WHERE catalog = ?", [catalog.name])
        # Without a fingerprint: what was ingested so far, if anything, was read in another way.
        connection.execute(
            f"INSERT INTO catalogs ({_COLUMNS}, source_fingerprint, registered_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, NULL, ?)",
            [
                catalog.name,
                catalog.reviews_source,
                catalog.items_source,
                catalog.source_format,
                json.dumps(catalog.column_mapping, ensure_ascii=False, sort_keys=True),
                catalog.limit_items,
                catalog.domain,
                datetime.now(UTC).replace(tzinfo=None),
            ],
        )
    return catalog


def find_catalog(database: Database, name: str) -> Catalog | None:
    """A registered catalogue, None if there is none of that name."""
    rows = database.rows(f"SELECT {_COLUMNS} FROM catalogs WHERE catalog = ?", [name])
    return _catalog(rows[0]) if rows else None


def get_catalog(database: Database, name: str) -> Catalog:
    """A registered catalogue. Raises CatalogError, naming those that there are."""
    rows = database.rows(f"SELECT {_COLUMNS} FROM catalogs ORDER BY catalog")
    for row in rows:
        if row[0] == name:
            return _catalog(row)
    known = ", ".join(row[0] for row in rows) or "none"
    raise CatalogError(f"Catalogue {name!r} is not registered (registered: {known}). Register it first.")


def list_catalogs(database: Database) -> list[CatalogCounts]:
    """All registered catalogues by name, with what the warehouse holds of each."""
    rows = database.rows(f"""
        SELECT {_COLUMNS}, source_fingerprint, registered_at,
            (SELECT count(*) FROM items WHERE items.catalog = catalogs.catalog),
            (SELECT count(*) FROM reviews WHERE reviews.catalog = catalogs.catalog),
            (SELECT count(DISTINCT user_id) FROM reviews WHERE reviews.catalog = catalogs.catalog),
            (SELECT count(*) FROM rejected_rows WHERE rejected_rows.catalog = catalogs.catalog)
        FROM catalogs ORDER BY catalog
    """)
    return [
        CatalogCounts(
            catalog=_catalog(row),
            source_fingerprint=row[7],
            registered_at=row[8],
            items=row[9],
            reviews=row[10],
            users=row[11],
            rejected=row[12],
        )
        for row in rows
    ]


def delete_catalog_rows(database: Database, name: str) -> dict[str, int]:
    """Delete a catalogue from every table that has a column `catalog`, and from `candidates`, in one transaction.

    Returns table -> rows deleted.

    The tables are looked up, not listed here, so that a table added later cannot be forgotten. An unknown catalogue
    deletes nothing, so that a deletion that was cut short can be repeated.
    """
    with database.write() as connection:
        tables = connection.execute("""
            SELECT table_name FROM information_schema.columns JOIN information_schema.tables
                USING (table_catalog, table_schema, table_name)
            WHERE column_name = 'catalog' AND table_type = 'BASE TABLE'
                AND table_catalog = current_database() AND table_schema = current_schema()
            ORDER BY table_name
        """).fetchall()
        deleted = {}
        for (table,) in tables:
            row = connection.execute(f'DELETE FROM "{table}" WHERE catalog = ?', [name]).fetchone()
            deleted[table] = int(row[0]) if row else 0
        # Made over all catalogues, it names items with their catalogue, and users who may be gone with it.
        row = connection.execute(
            "DELETE FROM candidates WHERE starts_with(item_id, ? || '/') OR user_id NOT IN (SELECT user_id FROM reviews)",
            [name],
        ).fetchone()
        deleted["candidates"] = int(row[0]) if row else 0
    return deleted


def format_of(catalog: Catalog) -> str:
    """The stated format, or the one detected from the review source. Raises SourceError if none fits."""
    if catalog.source_format != AUTO:
        return catalog.source_format
    return detect_format(catalog.reviews_source, catalog.column_mapping)


def source_fingerprint(catalog: Catalog) -> str:
    """A hash of path, size (bytes) and modification time (ns) of all files of both sources.

    Cheap: reads no file. Raises SourceError if a source is missing or empty, since a failed read must never look like
    an empty source.
    """
    parts = []
    for source in (catalog.reviews_source, catalog.items_source):
        parts.append(str(source))
        for path in find_files(source) if source is not None else ():
            try:
                status = path.stat()
            except OSError as error:
                raise SourceError(f"{path} vanished while its source was looked at: {error}.") from error
            parts.append(f"{path}\0{status.st_size}\0{status.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def has_new_data(database: Database, name: str) -> bool:
    """Whether the files of a catalogue differ from those of its last complete ingest (or it has none).

    Raises CatalogError if it is unknown and SourceError if a source is missing or empty.
    """
    catalog = get_catalog(database, name)
    stored = database.rows("SELECT source_fingerprint FROM catalogs WHERE catalog = ?", [name])
    return not stored or stored[0][0] != source_fingerprint(catalog)


_COLUMNS = "catalog, reviews_source, items_source, source_format, column_mapping, limit_items, domain"


def _catalog(row: tuple[Any, ...]) -> Catalog:
    name, reviews_source, items_source, source_format, mapping, limit_items, domain = row[:7]
    return Catalog(name, reviews_source, items_source, source_format, json.loads(mapping), limit_items, domain)


def _absolute(source: str) -> str:
    # A schedule runs in another directory than the command that registered the catalogue.
    return str(Path(source).expanduser().absolute())
