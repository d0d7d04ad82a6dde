"""Adding and removing a catalogue as one act, across warehouse, ledger, index and Dagster.

Belongs here: acts that touch several rooms. Does not belong here: how each room does its part.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from persona4rec_pipeline.backtest import delete_backtests
from persona4rec_pipeline.evaluation.quality_page import delete_reports
from persona4rec_pipeline.generation import Ledger
from persona4rec_pipeline.index.build import build_index
from persona4rec_pipeline.index.files import IndexMissing, current_generation, generation_numbers, read_manifest
from persona4rec_pipeline.interactions import InteractionQueue
from persona4rec_pipeline.reviews.catalogs import (
    AUTO,
    Catalog,
    CatalogError,
    delete_catalog_rows,
    get_catalog,
    list_catalogs,
    register_catalog,
)
from persona4rec_pipeline.reviews.incoming import drop_copy, scan
from persona4rec_pipeline.runner import Finished, forget_partition, materialize_source
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.traces import compact_files
from persona4rec_pipeline.tracking import Tracking
from persona4rec_pipeline.warehouse import open_ledger_database, open_warehouse


@dataclass(frozen=True)
class Removal:
    """What the removal of a catalogue has deleted; `index_generation` is the one published without it, if there was one."""

    rows: int
    generations: int
    index_generation: int | None


def add_catalog(
    settings: Settings,
    name: str,
    reviews: str,
    items: str | None = None,
    source_format: str | None = None,
    column_mapping: Mapping[str, str] | None = None,
    limit_items: int | None = None,
    domain: str | None = None,
) -> list[Finished]:
    """Register a catalogue and ingest it through Dagster; a catalogue that cannot be ingested is not left registered.

    Raises what `register_catalog` raises, and RunFailed when the ingest fails.
    """
    if domain is not None:
        from persona4rec_pipeline.personas.domains import get_domain

        get_domain(domain)
    warehouse = open_warehouse(settings)
    is_new = name not in {entry.catalog.name for entry in list_catalogs(warehouse)}
    catalog = Catalog(name, reviews, items, source_format or AUTO, dict(column_mapping or {}), limit_items, domain)
    register_catalog(warehouse, catalog)
    try:
        return materialize_source(settings, name)
    except BaseException:
        if is_new:
            delete_catalog_rows(warehouse, name)
            forget_partition(settings, name)
        raise


def remove_catalog(settings: Settings, name: str) -> Removal:
    """Delete a catalogue's rows, queued interactions, generations, index shard, runs, partition key and quality reports; its
    source files stay.

    Index generations that hold it are deleted once one without it is published, and the database files rewritten, so that
    nothing can be read out of them. Raises CatalogError for an unknown one,
    and for one whose folder still lies in the watched location: it would come back with the next look.
    """
    warehouse = open_warehouse(settings)
    get_catalog(warehouse, name)
    for arrival in scan(settings):
        if arrival.name == name:
            raise CatalogError(
                f"{arrival.folder} still lies in the watched location, and the sensor would take catalogue {name} in "
                "again. Move that folder away first."
            )
    titles = {
        title
        for (title,) in warehouse.rows(
            "SELECT title FROM item_summaries GROUP BY title HAVING list(DISTINCT catalog) = [$catalog]",
            {"catalog": name},
        )
    }
    # First, while a repetition still finds the catalogue.
    InteractionQueue(settings.interactions_path).forget_catalog(name)
    rows = sum(delete_catalog_rows(warehouse, name).values())
    generations = Ledger(open_ledger_database(settings)).forget(name)
    forget_partition(settings, name, titles)
    delete_reports(settings, Tracking(settings.mlflow_path))
    delete_backtests(settings)
    drop_copy(settings, name)
    published = _publish_without(settings, name)
    compact_files(settings)
    return Removal(rows, generations, published)


def _publish_without(settings: Settings, name: str) -> int | None:
    index_path = settings.index_path
    try:
        manifest = read_manifest(current_generation(index_path))
    except IndexMissing:
        return None
    published = manifest.generation
    if name in manifest.catalogs:
        if len(manifest.catalogs) == 1:
            shutil.rmtree(index_path)
            return None
        publication = build_index(
            open_warehouse(settings),
            index_path,
            recency_decay=settings.encoder.recency_decay,
            half_life_days=settings.encoder.half_life_days,
            max_history=settings.encoder.max_history,
            keep_generations=settings.index.keep_generations,
            encoder=manifest.encoder,
        )
        published = publication.generation
    for number in generation_numbers(index_path):
        folder = index_path / "generations" / f"{number:06d}"
        if name in read_manifest(folder).catalogs:
            shutil.rmtree(folder)
    return published
