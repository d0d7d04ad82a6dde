"""Small sources and warehouses for the tests of step 1; every file is made by the test that reads it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from persona4rec_pipeline.reviews.catalogs import Catalog, register_catalog
from persona4rec_pipeline.reviews.ingest import IngestCounts, ingest_items, ingest_reviews
from persona4rec_pipeline.settings import Settings, load_settings
from persona4rec_pipeline.warehouse import Database, open_warehouse

NOON = datetime(2020, 1, 1, 12)


def review(user: str = "ann", item: str = "dune", day: int = 0, **columns: Any) -> dict[str, Any]:
    """A row of a generic review source; `day` counts from 2020-01-01."""
    moment = NOON + timedelta(days=day)
    row = {"user_id": user, "item_id": item, "rating": 5, "text": f"{user} on {item}", "timestamp": moment.isoformat()}
    return {**row, **columns}


def json_lines(rows: Iterable[Mapping[str, Any] | str]) -> str:
    """One JSON object per line; texts go in as they are."""
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def write(path: Path, content: str | bytes) -> Path:
    """A file, gzipped if its name says so."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


class Workshop:
    """A home folder with its settings and warehouse, and a folder for sources."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.sources = home / "sources"
        self.settings: Settings = load_settings({}, home=home / "var", **settings)
        self.database: Database = open_warehouse(self.settings)

    def catalog(
        self,
        reviews: Iterable[Mapping[str, Any] | str] | Path | str,
        items: Iterable[Mapping[str, Any] | str] | Path | str | None = None,
        name: str = "books",
        **options: Any,
    ) -> Catalog:
        """A catalogue of these rows, or of the source at a path."""
        reviews_source = self._source(f"{name}-reviews.jsonl", reviews)
        items_source = None if items is None else self._source(f"{name}-items.jsonl", items)
        return Catalog(name, reviews_source, items_source, **options)

    def store_reviews(self, rows: Iterable[Mapping[str, Any]], name: str = "books") -> None:
        """Put rows of `review` straight into the warehouse, for tests of what comes after the ingest."""
        stored = [
            {
                "catalog": name,
                "review_id": f"{name}/{row['user_id']}/{row['item_id']}/{row['timestamp']}",
                "user_id": row["user_id"],
                "item_id": row["item_id"],
                "is_positive": (row["rating"] or 5) >= 4,
                "text": row["text"],
                "reviewed_at": datetime.fromisoformat(row["timestamp"]),
            }
            for row in rows
        ]
        self.database.replace("reviews", pd.DataFrame(stored).drop_duplicates("review_id"), name)

    def ingest(self, *arguments: Any, **options: Any) -> IngestCounts:
        """Register and ingest the reviews of a catalogue; takes a Catalog, or what `catalog` takes."""
        return ingest_reviews(self.database, self.settings, self._registered(*arguments, **options))

    def ingest_both(self, *arguments: Any, **options: Any) -> IngestCounts:
        """Reviews, then items; the counts of the items."""
        catalog = self._registered(*arguments, **options)
        ingest_reviews(self.database, self.settings, catalog)
        return ingest_items(self.database, self.settings, catalog)

    def reviews(self, *columns: str) -> list[tuple[Any, ...]]:
        """These columns of all reviews, by time, user and item; a plain list for one column."""
        return self._rows(columns, "reviews ORDER BY reviewed_at, user_id, item_id")

    def items(self, *columns: str) -> list[tuple[Any, ...]]:
        return self._rows(columns, "items ORDER BY item_id")

    def rejected(self, *columns: str) -> list[tuple[Any, ...]]:
        return self._rows(columns, "rejected_rows ORDER BY asset, file, line")

    def _rows(self, columns: tuple[str, ...], source: str) -> list[Any]:
        rows = self.database.rows(f"SELECT {', '.join(columns)} FROM {source}")
        return [row[0] for row in rows] if len(columns) == 1 else rows

    def _registered(self, *arguments: Any, **options: Any) -> Catalog:
        given = bool(arguments) and isinstance(arguments[0], Catalog)
        catalog = arguments[0] if given else self.catalog(*arguments, **options)
        return register_catalog(self.database, catalog, replace_existing=True)

    def _source(self, name: str, rows: Iterable[Mapping[str, Any] | str] | Path | str) -> str:
        if isinstance(rows, (str, Path)):
            return str(rows)
        return str(write(self.sources / name, json_lines(rows)))
