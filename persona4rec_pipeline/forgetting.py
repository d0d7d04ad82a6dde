"""Forgetting a user as one act: from warehouse, queue, ledger, index, quality reports, Dagster's log, and later ingests.

Belongs here: what must go, and in which order, so that a forgetting that was cut short can be repeated. Does not belong
here: how each room deletes its part.

What cannot be taken out is the influence of the user's choices on the weights of an encoder that was trained before; the
next training is without them. The source files are not ours to change: their rows of this user are left out from now on.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from persona4rec_pipeline.backtest import delete_backtests
from persona4rec_pipeline.encoder.stored import forget_orphans
from persona4rec_pipeline.encoder.together import delete_left_texts
from persona4rec_pipeline.evaluation.quality_page import delete_reports
from persona4rec_pipeline.generation import Ledger
from persona4rec_pipeline.index.files import IndexMissing, current_generation, generation_numbers
from persona4rec_pipeline.interactions import InteractionQueue
from persona4rec_pipeline.reviews.catalogs import list_catalogs
from persona4rec_pipeline.reviews.ids import user_hash
from persona4rec_pipeline.runner import (
    NIGHTLY,
    SILENT,
    SOURCE_STEP,
    STEPS,
    Listener,
    dagster_instance,
    record_as_made,
    run_stale,
)
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.traces import compact_files, delete_runs_that_quote
from persona4rec_pipeline.tracking import Tracking
from persona4rec_pipeline.warehouse import Database, open_ledger_database, open_warehouse

# Tables with a column user_id whose rows are the user's own.
OWN_TABLES = ("review_aspects", "alignment_pairs", "interaction_vectors", "candidates")


@dataclass(frozen=True)
class Forgotten:
    """What was deleted: reviews, rows of other tables, generations of the ledger, items whose personas were made again,
    runs of Dagster's log, old index generations, interactions of the queue."""

    reviews: int
    rows: int
    generations: int
    items: int
    runs: int
    index_generations: int
    queued: int = 0


def forget_user(settings: Settings, user_id: str, listener: Listener = SILENT) -> Forgotten:
    """Delete everything of a user, make again the personas that rested on their reviews, publish, and tidy the files.

    Interactions that came in while serving go from the queue as well, also those that no nightly run has folded in yet;
    should the site send more of them, the next run leaves them out and deletes them. A service that runs meanwhile answers
    from the queue as it is, and from the index of before until the new one is published.

    Raises ValueError for a user of whom nothing is known, in reviews or queue, and who was not forgotten before.
    """
    warehouse, ledger = open_warehouse(settings), Ledger(open_ledger_database(settings))
    reviews = warehouse.rows("SELECT catalog, review_id, item_id, text FROM reviews WHERE user_id = ?", [user_id])
    digest = user_hash(user_id)
    queue = InteractionQueue(settings.interactions_path)
    if not reviews and not warehouse.rows("SELECT 1 FROM forgotten_users WHERE user_hash = ?", [digest]):
        if not queue.after(0, user_id, limit=1):
            raise ValueError(f"No review of user {user_id!r} is known.")
        # Known from the queue alone: nothing was made of that yet.
        rows, queued = _delete_rows(warehouse, user_id, digest), queue.forget(user_id)
        compact_files(settings)
        return Forgotten(0, rows, 0, 0, 0, 0, queued)
    names = _persona_names(warehouse, user_id)
    # The ledger first: what it holds is found by the reviews, and must be found again if this is cut short here.
    generations = ledger.forget(*_subjects(warehouse, user_id))
    rows = _delete_rows(warehouse, user_id, digest)
    # After the hash is noted, so that a repetition finds the user, and a run in between leaves them out.
    queued = queue.forget(user_id)
    every = [entry.catalog.name for entry in list_catalogs(warehouse)]
    catalogs = sorted({catalog for catalog, *_ in reviews}) or every
    with dagster_instance(settings) as instance:
        # The sources may not be there to be read again.
        record_as_made(instance, settings, warehouse, SOURCE_STEP, catalogs, "A user was forgotten.")
        steps = tuple(step for step in NIGHTLY if step != SOURCE_STEP)
        run_stale(settings, catalogs, steps, listener, instance, "forget-user", force=True)
        # A vector tells much of its text.
        forget_orphans(warehouse)
        # Names that only the user's words gave rise to are traces, too.
        names -= {name for (name,) in warehouse.rows("SELECT DISTINCT name FROM personas")}
        # Most of their assets were materialized again just now.
        assets = [asset for step in STEPS for asset in step]
        runs = delete_runs_that_quote(instance, assets, [user_id, *names], [text for *_, text in reviews])
    # They quote reviews; the next run, or `persona4rec quality`, writes them anew.
    delete_reports(settings, Tracking(settings.mlflow_path))
    delete_backtests(settings)
    delete_left_texts(settings.home / "staging")
    old = _delete_old_generations(settings)
    compact_files(settings)
    items = len({(catalog, item_id) for catalog, _, item_id, _ in reviews})
    return Forgotten(len(reviews), rows, generations, items, runs, old, queued)


def _persona_names(warehouse: Database, user_id: str) -> set[str]:
    """Names of the personas that rest on the user's reviews, among others."""
    found = warehouse.rows(
        """SELECT DISTINCT name FROM (SELECT name, unnest(evidence_review_ids) AS review_id FROM personas)
           JOIN reviews USING (review_id) WHERE user_id = ?""",
        [user_id],
    )
    return {name for (name,) in found}


def _subjects(warehouse: Database, user_id: str) -> list[str]:
    """What in the ledger was made for the user, from their reviews, or about items whose personas may quote them."""
    parameters = {"user": user_id}
    found = warehouse.rows(
        """
        WITH items AS (SELECT DISTINCT catalog, item_id FROM reviews WHERE user_id = $user)
        SELECT catalog || '/review/' || review_id FROM reviews WHERE user_id = $user
        UNION ALL SELECT catalog || '/item/' || item_id FROM items
        UNION ALL SELECT catalog || '/user/' || user_id || '/' || review_id FROM reviews SEMI JOIN items
            USING (catalog, item_id)
        UNION ALL SELECT catalog || '/user/' || $user FROM catalogs
        """,
        parameters,
    )
    return [subject for (subject,) in found]


def _delete_rows(warehouse: Database, user_id: str, digest: str) -> int:
    deleted = 0
    with warehouse.write() as connection:
        connection.execute("INSERT OR IGNORE INTO forgotten_users VALUES (?, now()::TIMESTAMP)", [digest])
        for statement in (
            *(
                f"DELETE FROM {table} WHERE (catalog, review_id) IN "
                "(SELECT (catalog, review_id) FROM reviews WHERE user_id = ?)"
                for table in ("splits", "posted_reviews")
            ),
            # Pairs of others name the personas that they chose from; the judge is asked again about the new ones.
            "DELETE FROM alignment_pairs WHERE (catalog, item_id) IN "
            "(SELECT (catalog, item_id) FROM reviews WHERE user_id = ?)",
            *(f"DELETE FROM {table} WHERE user_id = ?" for table in OWN_TABLES),
            "DELETE FROM rejected_rows WHERE contains(row_text, ?)",
            "DELETE FROM reviews WHERE user_id = ?",
        ):
            row = connection.execute(statement, [user_id]).fetchone()
            deleted += int(row[0]) if row else 0
    return deleted


def _delete_old_generations(settings: Settings) -> int:
    try:
        current = current_generation(settings.index_path)
    except IndexMissing:
        return 0
    old = [number for number in generation_numbers(settings.index_path) if f"{number:06d}" != current.name]
    for number in old:
        shutil.rmtree(current.with_name(f"{number:06d}"))
    return len(old)
