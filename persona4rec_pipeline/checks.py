"""What must hold of what was made: asset checks, and the rooms' data seen from outside.

Belongs here: questions to the warehouse and to the published index whose answer is known beforehand. Does not belong
here: making or mending anything. A blocking check stops the assets after it in the same run, so that bad data does not
spread; the others warn.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import dagster as dg
import numpy as np

from persona4rec_pipeline.automation import CATALOGS
from persona4rec_pipeline.embedding import fingerprint
from persona4rec_pipeline.index import PersonaIndex
from persona4rec_pipeline.index.build import POSITIVE_TRAIN, UNIT_TOLERANCE, unfinished_catalogs
from persona4rec_pipeline.inventory import take_inventory
from persona4rec_pipeline.presentation import markdown_table
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.tracking import Tracking
from persona4rec_pipeline.warehouse import Database

# Share of a model's answers that may fail, and of personas that may be fallbacks, before the check warns.
MAX_FAILED_SHARE = 0.2
MAX_FALLBACK_SHARE = 0.5
# A check shows this many of the rows that break it.
EXAMPLES = 5
# The inventory shows at most this many catalogues, those with a problem first.
INVENTORY_ROWS = 50
# Users of the index whose recommendations are asked for.
CANARIES = 3

Rows = list[tuple[Any, ...]]

# Checks by partition are new in Dagster 1.13 and announce that they may still change; the version is pinned.
warnings.filterwarnings("ignore", message=".*partitions_def on an AssetCheckSpec", category=dg.PreviewWarning)


def _nothing_wrong(
    warehouse: Database, query: str, parameters: dict[str, Any], columns: Sequence[str]
) -> dg.AssetCheckResult:
    """Passes if the query, whose rows are what is wrong, has none; shows the first few if it has."""
    count = warehouse.rows(f"SELECT count(*) FROM ({query})", parameters)[0][0]
    examples = warehouse.rows(f"SELECT * FROM ({query}) LIMIT {EXAMPLES}", parameters) if count else []
    return dg.AssetCheckResult(
        passed=not count,
        metadata={"wrong": count, **({"examples": _table(columns, examples)} if examples else {})},
    )


def _share(name: str, part: int, whole: int, most: float) -> dg.AssetCheckResult:
    share = part / whole if whole else 0.0
    return dg.AssetCheckResult(
        passed=share <= most,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={name: part, "of": whole, "share": share, "share_allowed": most},
    )


def _table(columns: Sequence[str], rows: Rows) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(markdown_table(columns, rows, 80))


@dg.asset_check(
    asset="reviews",
    partitions_def=CATALOGS,
    description="At most half of the share of unusable rows that would fail the ingest.",
)
def few_rows_rejected(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Database], settings: dg.ResourceParam[Settings]
) -> dg.AssetCheckResult:
    kept, rejected = warehouse.rows(
        "SELECT (SELECT count(*) FROM reviews WHERE catalog = $catalog), "
        "(SELECT count(*) FROM rejected_rows WHERE catalog = $catalog AND asset = 'reviews')",
        {"catalog": context.partition_key},
    )[0]
    return _share("rejected", rejected, kept + rejected, settings.reviews.max_reject_fraction / 2)


@dg.asset_check(
    asset="splits",
    partitions_def=CATALOGS,
    blocking=True,
    description="Every interaction has a split, and no user has a train interaction later than a held-out one.",
)
def nothing_later_than_the_held_out_is_train(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Database]
) -> dg.AssetCheckResult:
    return _nothing_wrong(
        warehouse,
        """
        WITH held_out AS (
            SELECT user_id, min(reviewed_at) AS since FROM reviews JOIN splits USING (catalog, review_id)
            WHERE split <> 'train' GROUP BY user_id
        )
        SELECT user_id, review_id, COALESCE(split, 'no split') FROM reviews
        LEFT JOIN splits USING (catalog, review_id) LEFT JOIN held_out USING (user_id)
        WHERE reviews.catalog = $catalog AND (split IS NULL OR (split = 'train' AND reviewed_at > since))
        """,
        {"catalog": context.partition_key},
        ("user", "review", "split"),
    )


@dg.asset_check(
    asset="review_aspects",
    partitions_def=CATALOGS,
    blocking=True,
    description="No leak: aspects are read from train reviews alone, and every span lies within its review.",
)
def aspects_come_from_train_reviews(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Database]
) -> dg.AssetCheckResult:
    return _nothing_wrong(
        warehouse,
        """
        SELECT review_id, COALESCE(split, 'no such review') FROM review_aspects
        LEFT JOIN splits USING (catalog, review_id) LEFT JOIN reviews USING (catalog, review_id)
        WHERE catalog = $catalog AND (split IS DISTINCT FROM 'train' OR greatest(
            category_preference_span[2], purchase_purpose_span[2], quality_criteria_span[2], usage_context_span[2]
        ) > length(reviews.text))
        """,
        {"catalog": context.partition_key},
        ("review", "split"),
    )


@dg.asset_check(
    asset="review_aspects",
    partitions_def=CATALOGS,
    description="Few of the model's answers were unusable (invalid, cut off, or not grounded in the review).",
)
def few_answers_unusable(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Database]
) -> dg.AssetCheckResult:
    failed, total = warehouse.rows(
        "SELECT count(fallback_reason), count(*) FROM review_aspects WHERE catalog = ?", [context.partition_key]
    )[0]
    return _share("unusable", failed, total, MAX_FAILED_SHARE)


@dg.asset_check(
    asset="personas",
    partitions_def=CATALOGS,
    blocking=True,
    description="Every item has one to seven personas, and at least one that is not critical.",
)
def one_to_seven_personas_per_item(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Database]
) -> dg.AssetCheckResult:
    return _nothing_wrong(
        warehouse,
        """
        SELECT item_id, count(persona_id) AS personas, count(*) FILTER (WHERE polarity <> 'critical') AS recommending
        FROM (FROM item_summaries WHERE catalog = $catalog) LEFT JOIN (FROM personas WHERE catalog = $catalog)
        USING (item_id) GROUP BY item_id HAVING personas NOT BETWEEN 1 AND 7 OR recommending = 0
        """,
        {"catalog": context.partition_key},
        ("item", "personas", "not critical"),
    )


@dg.asset_check(
    asset="personas",
    partitions_def=CATALOGS,
    blocking=True,
    description="No leak: the evidence of every persona exists, is train, and is about its item.",
)
def evidence_is_train(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Database]
) -> dg.AssetCheckResult:
    return _nothing_wrong(
        warehouse,
        """
        SELECT item_id, persona_id, review_id, COALESCE(split, 'no such review') FROM (
            SELECT catalog, item_id, persona_id, unnest(evidence_review_ids) AS review_id
            FROM personas WHERE catalog = $catalog
        ) AS evidence LEFT JOIN splits USING (catalog, review_id)
        LEFT JOIN (SELECT catalog, review_id, item_id AS reviewed FROM reviews) USING (catalog, review_id)
        WHERE split IS DISTINCT FROM 'train' OR reviewed IS DISTINCT FROM item_id
        """,
        {"catalog": context.partition_key},
        ("item", "persona", "review", "split"),
    )


@dg.asset_check(
    asset="personas",
    partitions_def=CATALOGS,
    description="Few personas are fallbacks for what a model wrote and a check rejected.",
)
def few_fallbacks(context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Database]) -> dg.AssetCheckResult:
    fallbacks, total = warehouse.rows(
        "SELECT count(fallback_reason), count(*) FROM personas WHERE catalog = ?", [context.partition_key]
    )[0]
    return _share("fallbacks", fallbacks, total, MAX_FALLBACK_SHARE)


@dg.asset_check(
    asset="alignment_pairs",
    blocking=True,
    description="No leak: explained choices and the histories shown to the judge are train, and earlier than the choice.",
)
def pairs_come_from_train_interactions(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Database]
) -> dg.AssetCheckResult:
    return _nothing_wrong(
        warehouse,
        """
        SELECT pair, review_id, COALESCE(split, 'no such review') FROM (
            SELECT review_id AS pair, user_id, reviewed_at AS chosen_at,
                unnest(list_append(history_review_ids, review_id)) AS review_id FROM alignment_pairs
        ) LEFT JOIN splits USING (review_id)
        LEFT JOIN (SELECT review_id, user_id AS writer, reviewed_at FROM reviews) USING (review_id)
        WHERE split IS DISTINCT FROM 'train' OR writer <> user_id OR (review_id <> pair AND reviewed_at >= chosen_at)
        """,
        {},
        ("pair", "review", "split"),
    )


@dg.asset_check(
    asset="persona_vectors",
    partitions_def=CATALOGS,
    blocking=True,
    description="One vector per persona, finite, of unit length, made by the champion encoder.",
)
def persona_vectors_are_complete(
    context: dg.AssetCheckExecutionContext,
    warehouse: dg.ResourceParam[Database],
    settings: dg.ResourceParam[Settings],
    tracking: dg.ResourceParam[Tracking],
) -> dg.AssetCheckResult:
    problem = _vector_problem("encoder", "vector")
    return _nothing_wrong(
        warehouse,
        f"""
        SELECT item_id, persona_id, CASE WHEN made.name IS NULL THEN 'no persona' ELSE {problem} END AS problem
        FROM (FROM personas WHERE catalog = $catalog) AS made
        FULL JOIN (FROM persona_vectors WHERE catalog = $catalog) AS vectors USING (catalog, item_id, persona_id)
        WHERE problem IS NOT NULL
        """,
        {"catalog": context.partition_key, "encoder": _champion_fingerprint(settings, tracking)},
        ("item", "persona", "problem"),
    )


@dg.asset_check(
    asset="interaction_vectors",
    partitions_def=CATALOGS,
    blocking=True,
    description="No leak: vectors of positive train interactions alone; finite, of unit length, by the champion encoder.",
)
def interaction_vectors_are_train(
    context: dg.AssetCheckExecutionContext,
    warehouse: dg.ResourceParam[Database],
    settings: dg.ResourceParam[Settings],
    tracking: dg.ResourceParam[Tracking],
) -> dg.AssetCheckResult:
    problem = _vector_problem("encoder", "vector")
    return _nothing_wrong(
        warehouse,
        f"""
        SELECT review_id, COALESCE({problem}, split, 'no such review') FROM interaction_vectors
        LEFT JOIN splits USING (catalog, review_id)
        LEFT JOIN (SELECT catalog, review_id, is_positive FROM reviews) USING (catalog, review_id)
        WHERE catalog = $catalog AND (split IS DISTINCT FROM 'train' OR NOT is_positive OR {problem} IS NOT NULL)
        """,
        {"catalog": context.partition_key, "encoder": _champion_fingerprint(settings, tracking)},
        ("review", "problem"),
    )


@dg.asset_check(
    asset="item_vectors",
    partitions_def=CATALOGS,
    blocking=True,
    description="One vector per item that has a text, finite, of unit length, made by the champion encoder.",
)
def item_vectors_are_complete(
    context: dg.AssetCheckExecutionContext,
    warehouse: dg.ResourceParam[Database],
    settings: dg.ResourceParam[Settings],
    tracking: dg.ResourceParam[Tracking],
) -> dg.AssetCheckResult:
    problem = _vector_problem("encoder", "vector")
    return _nothing_wrong(
        warehouse,
        f"""
        SELECT item_id, CASE WHEN made.title IS NULL THEN 'no item with a text' ELSE {problem} END AS problem
        FROM (FROM item_summaries WHERE catalog = $catalog AND trim(title || summary) <> '') AS made
        FULL JOIN (FROM item_vectors WHERE catalog = $catalog) AS vectors USING (catalog, item_id)
        WHERE problem IS NOT NULL
        """,
        {"catalog": context.partition_key, "encoder": _champion_fingerprint(settings, tracking)},
        ("item", "problem"),
    )


@dg.asset_check(
    asset="candidates",
    blocking=True,
    description="Nobody is proposed what they have in train, and every proposed item is in a catalogue, unless it comes from "
    "`evaluation.candidates_file`.",
)
def candidates_are_unseen_and_known(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Database]
) -> dg.AssetCheckResult:
    return _nothing_wrong(
        warehouse,
        """
        WITH train AS (
            -- A candidate is named with its catalogue: two of them may use the same ids.
            SELECT user_id, catalog || '/' || item_id AS item_id FROM reviews JOIN splits USING (catalog, review_id)
            WHERE split = 'train'
        )
        SELECT user_id, item_id, 'seen in train' FROM candidates SEMI JOIN train USING (user_id, item_id)
        UNION ALL
        SELECT user_id, item_id, 'in no catalogue' FROM candidates
        ANTI JOIN (SELECT catalog || '/' || item_id AS item_id FROM items) USING (item_id)
        WHERE generator <> 'file'
        """,
        {},
        ("user", "item", "problem"),
    )


@dg.asset_check(
    asset="persona_index",
    description="The published index holds what the warehouse holds, and counts train interactions alone as popularity.",
)
def index_equals_the_warehouse(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Database], settings: dg.ResourceParam[Settings]
) -> dg.AssetCheckResult:
    index = PersonaIndex.open(settings.index_path)
    with warehouse.read() as connection:
        unfinished = unfinished_catalogs(connection)
    stored = {
        name: (items, personas)
        for name, items, personas in warehouse.rows(
            """SELECT catalog, (SELECT count(*) FROM item_summaries WHERE item_summaries.catalog = counted.catalog),
               count(*) FROM personas AS counted GROUP BY catalog"""
        )
        if name not in unfinished
    }
    published = {name: (counts.items, counts.personas) for name, counts in index.manifest.catalogs.items()}
    popularity = warehouse.rows(
        f"SELECT count(*) FROM ({POSITIVE_TRAIN}) WHERE catalog IN (SELECT DISTINCT catalog FROM personas)"
    )[0][0]
    counted = sum(int(segment.popularity[~segment.dead].sum()) for segment in index.segments)
    differing = [
        (name, *published.get(name, (0, 0)), *counts)
        for name, counts in stored.items()
        if published.get(name) != counts
    ]
    return dg.AssetCheckResult(
        passed=not differing and (popularity == counted or bool(unfinished)),
        metadata={
            "generation": index.generation,
            "popularity_in_index": counted,
            "train_interactions": popularity,
            "unfinished_catalogs": ", ".join(unfinished) or "none",
            "differing": _table(("catalogue", "items", "personas", "items stored", "personas stored"), differing),
        },
    )


@dg.asset_check(
    asset="persona_index",
    description="The published index answers: recommendations for a few users, finite scores, a reason for each.",
)
def index_answers(context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.AssetCheckResult:
    index = PersonaIndex.open(settings.index_path)
    users = (
        [index.users[place] for place in np.linspace(0, len(index.users) - 1, CANARIES, dtype=int)]
        if len(index.users)
        else []
    )
    answers = [(user, index.recommend(user, 3)) for user in dict.fromkeys(users)]
    wrong = [
        (user, len(found))
        for user, found in answers
        if not all(np.isfinite(entry.score or 0.0) and entry.why for entry in found)
    ]
    rows = [(entry.title, entry.persona_name, entry.score) for _, found in answers for entry in found[:1]]
    return dg.AssetCheckResult(
        passed=not wrong,
        metadata={"asked": len(answers), "first_answers": _table(("item", "persona", "score"), rows)},
    )


@dg.asset_check(
    asset="persona_index",
    description="The daily inventory: no catalogue's last run has failed, and all were looked at when they should have been.",
)
def every_catalog_is_current(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Database], settings: dg.ResourceParam[Settings]
) -> dg.AssetCheckResult:
    names = [name for (name,) in warehouse.rows("SELECT catalog FROM catalogs ORDER BY catalog")]
    inventory = take_inventory(context.instance, names, settings.schedules.late_after_h)
    wrong = [entry for entry in inventory if entry.remedy]
    failed = [entry for entry in wrong if entry.status != "SUCCESS"]
    rows: Rows = [
        (
            entry.name,
            f"{entry.status or 'no run'} {entry.ended:%Y-%m-%d %H:%M}" if entry.ended else entry.status or "no run",
            f"{entry.looked_at:%Y-%m-%d %H:%M}{', late' if entry.is_late else ''}" if entry.looked_at else "never",
            entry.problem or "",
            entry.remedy or "",
        )
        for entry in [*wrong, *(entry for entry in inventory if entry not in wrong)][:INVENTORY_ROWS]
    ]
    return dg.AssetCheckResult(
        passed=not wrong,
        severity=dg.AssetCheckSeverity.ERROR if failed else dg.AssetCheckSeverity.WARN,
        metadata={
            "catalogs": len(inventory),
            "last_run_failed": ", ".join(entry.name for entry in failed) or "none",
            "late": ", ".join(entry.name for entry in wrong if entry.is_late) or "none",
            "inventory": dg.MetadataValue.md(
                markdown_table(("catalogue", "last run", "looked at (UTC)", "problem", "what to do"), rows, 300)
            ),
        },
    )


CHECKS: list[Any] = [
    few_rows_rejected,
    nothing_later_than_the_held_out_is_train,
    aspects_come_from_train_reviews,
    few_answers_unusable,
    one_to_seven_personas_per_item,
    evidence_is_train,
    few_fallbacks,
    pairs_come_from_train_interactions,
    persona_vectors_are_complete,
    interaction_vectors_are_train,
    item_vectors_are_complete,
    candidates_are_unseen_and_known,
    index_equals_the_warehouse,
    index_answers,
    every_catalog_is_current,
]


def _vector_problem(encoder: str, vector: str) -> str:
    """SQL: what is wrong with a vector, NULL if nothing is."""
    return f"""CASE
        WHEN {vector} IS NULL THEN 'no vector'
        WHEN {encoder} <> $encoder THEN 'by another encoder'
        WHEN NOT list_bool_and(list_transform({vector}, lambda x: isfinite(x))) THEN 'not finite'
        WHEN abs(sqrt(list_inner_product({vector}, {vector})) - 1) > {UNIT_TOLERANCE} THEN 'not of unit length'
    END"""


def _champion_fingerprint(settings: Settings, tracking: Tracking) -> str:
    champion = tracking.champion()
    return fingerprint(champion.path, settings.encoder.max_seq_length) if champion else "none"
