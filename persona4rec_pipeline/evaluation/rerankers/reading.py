"""Cases and examples out of the warehouse, from train interactions alone.

Belongs here: what a model may read of users and items. Does not belong here: prompts, and which users are compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pandas as pd

from persona4rec_pipeline.evaluation.panel import Slate
from persona4rec_pipeline.evaluation.rerankers.asking import MAX_HISTORY
from persona4rec_pipeline.evaluation.rerankers.cases import Candidate, Case, Example, PastItem
from persona4rec_pipeline.evaluation.rerankers.pointwise import EXAMPLE_HISTORY
from persona4rec_pipeline.index.build import HISTORIES, POSITIVE_TRAIN
from persona4rec_pipeline.personas.domains import Domain
from persona4rec_pipeline.warehouse.database import Database

# Decisions of each kind that are read; of these the few-shot reranker takes the first that are not the user's own.
EXAMPLES = 8

_TITLES = "coalesce(item_summaries.title, ''), coalesce(item_summaries.summary, '')"
# What was decided by whom after something that they had liked; the same ones as long as they are there.
_EXAMPLES = f"""
WITH decided AS (
    SELECT reviews.* FROM reviews JOIN splits USING (catalog, review_id)
    WHERE splits.split = 'train' AND catalog IN (SELECT unnest($catalogs))
), first_liked AS (SELECT user_id, min(reviewed_at) AS began FROM ({POSITIVE_TRAIN}) GROUP BY 1),
chosen AS (
    SELECT decided.* FROM decided JOIN first_liked USING (user_id) WHERE decided.reviewed_at > began
    QUALIFY row_number() OVER (PARTITION BY is_positive ORDER BY md5(user_id || decided.review_id)) <= {EXAMPLES}
)
SELECT chosen.catalog, chosen.review_id, chosen.user_id, chosen.item_id, chosen.is_positive, {_TITLES} FROM chosen
LEFT JOIN item_summaries USING (catalog, item_id) ORDER BY md5(chosen.user_id || chosen.review_id)
"""
_EARLIER = f"""
SELECT {_TITLES}, past.text FROM ({POSITIVE_TRAIN}) AS past LEFT JOIN item_summaries USING (catalog, item_id)
WHERE past.user_id = $user AND past.reviewed_at < (
    SELECT reviewed_at FROM reviews WHERE catalog = $catalog AND review_id = $review
) ORDER BY past.reviewed_at DESC, past.review_id LIMIT {EXAMPLE_HISTORY}
"""


def read_cases(database: Database, slate: Slate, domains: dict[str, Domain]) -> list[Case]:
    """A case for each user of the slate, in order. domains: of each catalogue; a list takes that of its first candidate, and
    an empty one any."""
    anywhere = next(iter(domains.values()))
    histories = _histories(database, slate.users)
    known = _described(database, sorted({key for keys in slate.keys for key in keys}))
    return [
        Case(
            user,
            tuple(histories.get(user, ())),
            tuple(Candidate(key, *known.get(key, ("", ""))) for key in keys),
            domains.get(keys[0].partition("/")[0], anywhere) if keys else anywhere,
        )
        for user, keys in zip(slate.users, slate.keys, strict=True)
    ]


def read_examples(database: Database, catalogs: Sequence[str]) -> list[Example]:
    """Train decisions on items of these catalogues by users who had liked something before."""
    with database.read() as connection:
        rows = connection.execute(_EXAMPLES, {"catalogs": list(catalogs)}).fetchall()
        return [
            Example(
                user,
                tuple(
                    PastItem(*entry)
                    for entry in connection.execute(
                        _EARLIER, {"user": user, "catalog": catalog, "review": review_id}
                    ).fetchall()
                ),
                Candidate(f"{catalog}/{item_id}", title, summary),
                liked,
            )
            for catalog, review_id, user, item_id, liked, title, summary in rows
        ]


def _histories(database: Database, users: Sequence[str]) -> dict[str, list[PastItem]]:
    with database.read() as connection:
        connection.register("panel", pd.DataFrame({"user_id": pd.Series(users, dtype=str)}))
        rows = connection.execute(
            f"""
            SELECT histories.user_id, {_TITLES}, reviews.text
            FROM ({HISTORIES}) AS histories SEMI JOIN panel USING (user_id)
            JOIN reviews USING (catalog, review_id)
            LEFT JOIN item_summaries ON item_summaries.catalog = histories.catalog
                AND item_summaries.item_id = histories.item_id
            ORDER BY histories.user_id, age
            """,
            {"max_history": MAX_HISTORY},
        ).fetchall()
    found: dict[str, list[PastItem]] = defaultdict(list)
    for user, *entry in rows:
        found[user].append(PastItem(*entry))
    return found


def _described(database: Database, keys: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Title and summary of items by key."""
    with database.read() as connection:
        connection.register("wanted", pd.DataFrame({"key": pd.Series(keys, dtype=str)}))
        rows = connection.execute(
            f"SELECT key, {_TITLES} FROM wanted JOIN item_summaries ON key = catalog || '/' || item_id"
        ).fetchall()
    return {key: (title, summary) for key, title, summary in rows}
