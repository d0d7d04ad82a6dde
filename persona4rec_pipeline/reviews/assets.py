"""Step 1 for Dagster: the assets `reviews`, `items` and `splits`.

Belongs here: fetching a catalogue, calling one function, and reporting what came of it. Does not belong here: how rows
are read, kept or split.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import dagster as dg

from persona4rec_pipeline.automation import CATALOGS, patient
from persona4rec_pipeline.presentation import bar_chart, markdown_table
from persona4rec_pipeline.reviews.catalogs import get_catalog
from persona4rec_pipeline.reviews.incoming import take_in
from persona4rec_pipeline.reviews.ingest import IngestCounts, fold_in, ingest_items, ingest_reviews
from persona4rec_pipeline.reviews.posted import read_progress, with_progress
from persona4rec_pipeline.reviews.splits import assign_splits
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.warehouse import Database

# Raised by hand when the code of this step changes its results.
LOGIC_VERSION = "1"
PREVIEW_ROWS = 5
# Tag of runs of `reviews` and `items` that are to take in what came in while serving, and need not read the source.
QUEUE_ALONE = "persona4rec/queue_alone"


@dg.asset(
    partitions_def=CATALOGS,
    group_name="reviews",
    kinds={"duckdb"},
    description="One user's review of one item at one time, read from the catalogue's source, and what came in while "
    "serving; bad rows are kept apart, with file, line and reason.",
)
@patient
def reviews(
    context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Database], settings: dg.ResourceParam[Settings]
) -> dg.MaterializeResult:
    name = context.partition_key
    if QUEUE_ALONE in context.run.tags:
        counts = fold_in(warehouse, settings, get_catalog(warehouse, name))
    else:
        catalog = take_in(settings, warehouse, name) or get_catalog(warehouse, name)
        counts = ingest_reviews(warehouse, settings, catalog)
    with warehouse.read() as connection:
        progress = read_progress(connection, name)
    users, items, positive, first, last = warehouse.rows(
        "SELECT count(DISTINCT user_id), count(DISTINCT item_id), count(*) FILTER (WHERE is_positive), "
        "min(reviewed_at), max(reviewed_at) FROM reviews WHERE catalog = ?",
        [name],
    )[0]
    ratings = warehouse.rows(
        "SELECT COALESCE(CAST(step AS VARCHAR), 'none'), count(*), count(*) FILTER (WHERE is_positive) "
        "FROM (SELECT round(rating * 2) / 2 AS step, is_positive FROM reviews WHERE catalog = ?) "
        "GROUP BY step ORDER BY step NULLS LAST LIMIT 25",
        [name],
    )
    return dg.MaterializeResult(
        metadata={
            **_counted(counts, QUEUE_ALONE not in context.run.tags),
            "posted": counts.posted.kept,
            "posted_waiting": counts.posted.waiting,
            "posted_waiting_for": dg.MetadataValue.md(
                markdown_table(("unknown item", "interactions"), list(counts.posted.waiting_for.items()))
            ),
            "posted_left_out": counts.posted.left_out,
            "posted_read_through": progress.read_through,
            "dagster/partition_row_count": counts.kept,
            "users": users,
            "items": items,
            "positive": positive,
            "first_review": f"{first:%Y-%m-%d}",
            "last_review": f"{last:%Y-%m-%d}",
            "ratings": dg.MetadataValue.md(markdown_table(("rating", "reviews", "positive"), ratings)),
            "ratings_histogram": dg.MetadataValue.md(
                bar_chart([row[0] for row in ratings], [row[1] for row in ratings], "Ratings", "reviews")
            ),
            "rejected_because": _rejects(warehouse, "reviews", name),
            "preview": _table(
                warehouse,
                ("user", "item", "rating", "positive", "time", "text"),
                "SELECT user_id, item_id, rating, is_positive, reviewed_at, text FROM reviews WHERE catalog = ? "
                f"ORDER BY review_id LIMIT {PREVIEW_ROWS}",
                [name],
            ),
        },
        data_version=dg.DataVersion(with_progress(warehouse.content_version("reviews", name), progress.read_through)),
    )


@dg.asset(
    partitions_def=CATALOGS,
    deps=[reviews],
    group_name="reviews",
    kinds={"duckdb"},
    description="The items of the catalogue: its metadata, and every item that is known from reviews alone.",
)
@patient
def items(
    context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Database], settings: dg.ResourceParam[Settings]
) -> dg.MaterializeResult:
    name = context.partition_key
    reads = QUEUE_ALONE not in context.run.tags
    # What came in while serving is about items that are there.
    counts = ingest_items(warehouse, settings, get_catalog(warehouse, name)) if reads else None
    stored, titled, described, unreviewed = warehouse.rows(
        "SELECT count(*), count(title), count(description), count(*) FILTER (WHERE item_id NOT IN "
        "(SELECT item_id FROM reviews WHERE catalog = $catalog)) FROM items WHERE catalog = $catalog",
        {"catalog": name},
    )[0]
    return dg.MaterializeResult(
        metadata={
            **(_counted(counts) if counts else {}),
            "dagster/partition_row_count": stored,
            "with_title": titled,
            "with_description": described,
            "without_reviews": unreviewed,
            "rejected_because": _rejects(warehouse, "items", name),
            "preview": _table(
                warehouse,
                ("item", "title", "categories", "attributes", "description"),
                "SELECT item_id, title, array_to_string(categories, ', '), attributes, description FROM items "
                f"WHERE catalog = ? ORDER BY title IS NULL, item_id LIMIT {PREVIEW_ROWS}",
                [name],
            ),
        },
        data_version=dg.DataVersion(warehouse.content_version("items", name)),
    )


@dg.asset(
    partitions_def=CATALOGS,
    # A user's last interaction may lie in any catalogue, so new reviews of one may move the splits of another.
    deps=[dg.AssetDep(reviews, partition_mapping=dg.AllPartitionMapping())],
    group_name="reviews",
    kinds={"duckdb"},
    description="Train, valid or test for every interaction: the last positive interactions of a hashed panel of "
    "users, and all that these users did later, are held out from everything downstream.",
)
@patient
def splits(
    context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Database], settings: dg.ResourceParam[Settings]
) -> dg.MaterializeResult:
    name = context.partition_key
    counts = assign_splits(warehouse, settings, name)
    return dg.MaterializeResult(
        metadata={**counts, "dagster/partition_row_count": counts["train"] + counts["valid"] + counts["test"]},
        data_version=dg.DataVersion(warehouse.content_version("splits", name)),
    )


ASSETS = [reviews, items, splits]


def code_versions(settings: Settings) -> dict[str, str]:
    """Asset name -> short hash of the settings that change its result and of LOGIC_VERSION."""
    rows = settings.reviews
    relevant: dict[str, dict[str, Any]] = {
        "reviews": rows.model_dump(
            include={"positive_rating", "missing_rating_is_positive", "rating_min", "rating_max"}
        ),
        "items": {},
        "splits": settings.splits.model_dump(mode="json"),
    }
    return {
        name: hashlib.sha256(json.dumps([LOGIC_VERSION, values], sort_keys=True).encode()).hexdigest()[:12]
        for name, values in relevant.items()
    }


def _counted(counts: IngestCounts, has_read: bool = True) -> dict[str, int]:
    """The counts of what was read, and of what is there."""
    told = asdict(counts)
    del told["posted"]
    return told if has_read else {"kept": counts.kept}


def _table(warehouse: Database, header: Sequence[str], query: str, parameters: Any = None) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(markdown_table(header, warehouse.rows(query, parameters), 120))


def _rejects(warehouse: Database, asset: str, catalog: str) -> dg.MarkdownMetadataValue:
    return _table(
        warehouse,
        ("reason", "rows", "first at"),
        "SELECT reason, count(*) AS rows, min_by(file || ':' || line, (file, line)) FROM rejected_rows "
        "WHERE catalog = ? AND asset = ? GROUP BY reason ORDER BY rows DESC, reason",
        [catalog, asset],
    )
