"""What candidate generators propose to the users of the panel, from positive train interactions alone.

Belongs here: the matrix of interactions, which generators are asked, the choice of the best unseen items, the table. Does
not belong here: what a generator learns (`generators.py`), candidates from elsewhere (`candidates_file.py`), personas,
texts, vectors, held-out interactions; of those only who has one is read, never which.

Users live across catalogues, so one generator covers all of them. An item's key is `catalog || '/' || item_id`, here and
in `candidates.item_id`. The first slash separates: a catalogue's name has none, an item_id may.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from persona4rec_pipeline.evaluation import generators
from persona4rec_pipeline.evaluation.generators import EASE, GENERATORS, ITEM_KNN, POPULARITY
from persona4rec_pipeline.settings import EvaluationSettings
from persona4rec_pipeline.warehouse.database import Database

SPLITS = ("valid", "test")
FILE = "file"
AUTO = "auto"
COLUMNS = ["generator", "split", "user_id", "rank", "item_id", "score", "is_filled"]

# Users scored at once: bounds the dense scores to this many rows.
BLOCK_USERS = 512

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CandidateList:
    """Candidates of one user, best first: n keys, and their scores, float64 (n,), on the generator's own scale."""

    keys: list[str]
    scores: np.ndarray


@dataclass(frozen=True)
class Interactions:
    """Train interactions of all users; rows are users and columns are items that have a positive one.

    positive: float64 CSR (users, items) of ones. seen: the same with negative interactions added, to be left out.
    items: keys, ascending, so that the lower column is the lower key. popularity: positive interactions per item,
    int64.
    """

    users: np.ndarray
    items: np.ndarray
    positive: sparse.csr_matrix
    seen: sparse.csr_matrix
    popularity: np.ndarray


@dataclass(frozen=True)
class Panel:
    """Who is evaluated in which split: users, ascending, per split."""

    users: dict[str, list[str]]

    @property
    def everyone(self) -> list[str]:
        """Users with a target in any split, ascending."""
        return sorted(set().union(*self.users.values()))


def read_interactions(database: Database) -> Interactions:
    """The train interactions of the warehouse; several of one user with one item count once."""
    rows = database.frame(
        """
        SELECT user_id, catalog || '/' || item_id AS item, bool_or(is_positive) AS positive
        FROM reviews JOIN splits USING (catalog, review_id) WHERE split = 'train' GROUP BY ALL
        """
    )
    users = np.unique(rows["user_id"].to_numpy(dtype=object)) if len(rows) else np.empty(0, object)
    liked = rows[rows["positive"].astype(bool)]
    items = np.unique(liked["item"].to_numpy(dtype=object)) if len(liked) else np.empty(0, object)
    positive = _matrix(liked, users, items)
    return Interactions(
        users=users,
        items=items,
        positive=positive,
        seen=_matrix(rows[rows["item"].isin(items)], users, items),
        popularity=np.asarray(positive.sum(axis=0), np.int64).ravel(),
    )


def read_panel(database: Database) -> Panel:
    """The users that have a target, by split."""
    rows = database.rows(
        "SELECT DISTINCT split, user_id FROM splits JOIN reviews USING (catalog, review_id) "
        "WHERE is_target ORDER BY ALL"
    )
    return Panel({split: [user for where, user in rows if where == split] for split in SPLITS})


def choose_generators(settings: EvaluationSettings, items: int) -> list[str]:
    """The generators whose candidates are made for this many items, in the order of GENERATORS, `file` last.

    EASE is left out, with a warning, above `settings.ease_max_items`, unless `settings.main_generator` names it. The main
    generator is always among them.
    """
    chosen: set[str] = {*settings.generators}
    if items > settings.ease_max_items and EASE in chosen:
        logger.warning(
            "EASE is left out: %d items are more than evaluation.ease_max_items (%d).", items, settings.ease_max_items
        )
        chosen.remove(EASE)
    if settings.candidates_file is not None:
        chosen.add(FILE)
    if settings.main_generator != AUTO:
        chosen.add(settings.main_generator)
    elif settings.candidates_file is None:
        chosen.add(EASE if items <= settings.ease_max_items else ITEM_KNN)
    return [generator for generator in (*GENERATORS, FILE) if generator in chosen]


def read_main_generator(database: Database, settings: EvaluationSettings) -> str:
    """The generator whose candidates are reranked: as the settings say; for `auto`, `file`, EASE or item-kNN, the first of
    them that the table `candidates` has."""
    if settings.main_generator != AUTO:
        return settings.main_generator
    stored = {generator for (generator,) in database.rows("SELECT DISTINCT generator FROM candidates")}
    return next((generator for generator in (FILE, EASE) if generator in stored), ITEM_KNN)


def propose(interactions: Interactions, panel: Panel, settings: EvaluationSettings, generator: str) -> pd.DataFrame:
    """The rows of the table `candidates` of one generator of GENERATORS: for each panel user the best items that the user
    has not seen in train, as many as the larger of `settings.depth` and `settings.candidates`.

    Best score first, equal scores by item key. Where the generator scores fewer items than asked (see `generators.fit`),
    and for a user without positive train interactions, the most popular items fill up. They say so in `is_filled`, and
    their score is 0, or the list's lowest where that is below. A user with a target in both splits gets the same list in
    both: the candidates know nothing of the targets.
    """
    users = panel.everyone
    if not users or not len(interactions.items):
        return empty_table()
    scorer = generators.fit(generator, interactions.positive, settings)
    depth = max(settings.depth, settings.candidates)
    popular = by_popularity(interactions)
    lists = {}
    for user, scores, seen in _scored(interactions, users, scorer, for_everyone=generator == POPULARITY):
        best = _best(scores, seen, depth)
        filler = _filler(popular, np.concatenate([best, seen]), depth - len(best))
        lists[user] = (interactions.items[best], scores[best], interactions.items[filler])
    return table(generator, {(split, user): lists[user] for split in SPLITS for user in panel.users.get(split, [])})


def propose_listed(
    interactions: Interactions,
    panel: Panel,
    settings: EvaluationSettings,
    listed: Mapping[tuple[str, str], CandidateList],
) -> pd.DataFrame:
    """The rows of the table `candidates` of the generator `file`: (split, user) -> the candidates from elsewhere, none of
    them seen in train, cut and filled up as in `propose`."""
    depth = max(settings.depth, settings.candidates)
    popular = by_popularity(interactions)
    positions = dict(zip(panel.everyone, _positions(interactions, panel.everyone), strict=True))
    _, seen = _with_stranger(interactions)
    columns = pd.Index(interactions.items)
    nothing = CandidateList([], np.empty(0))
    lists = {}
    for split in SPLITS:
        for user in panel.users.get(split, []):
            found = listed.get((split, user), nothing)
            keys = np.array(found.keys[:depth], object)
            barred = np.concatenate([columns.get_indexer(keys), seen[positions[user]].indices])
            filler = _filler(popular, barred, depth - len(keys))
            lists[split, user] = (keys, found.scores[:depth], interactions.items[filler])
    return table(FILE, lists)


def by_popularity(interactions: Interactions) -> np.ndarray:
    """Columns, int64 (items,), by positive train interactions, most first, equal ones by item key."""
    return np.lexsort((np.arange(len(interactions.items)), -interactions.popularity))


def table(generator: str, lists: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray, np.ndarray]]) -> pd.DataFrame:
    """(split, user) -> keys (n,), best first, their scores float64 (n,), and the keys that fill up, as rows of `candidates`."""
    if not lists:
        return empty_table()
    lengths = [len(keys) + len(filler) for keys, _, filler in lists.values()]
    return pd.DataFrame(
        {
            "generator": generator,
            "split": np.repeat([split for split, _ in lists], lengths),
            "user_id": np.repeat(np.array([user for _, user in lists], object), lengths),
            "rank": np.concatenate([np.arange(1, length + 1, dtype=np.int32) for length in lengths]),
            "item_id": np.concatenate([part for keys, _, filler in lists.values() for part in (keys, filler)]),
            "score": np.concatenate(
                [
                    part
                    for _, scores, filler in lists.values()
                    for part in (scores, np.full(len(filler), scores.min(initial=0.0)))
                ]
            ),
            "is_filled": np.concatenate(
                [np.arange(length) >= len(keys) for length, (keys, _, _) in zip(lengths, lists.values(), strict=True)]
            ),
        }
    )


def empty_table() -> pd.DataFrame:
    """No candidates, in the columns of the table."""
    return pd.DataFrame({name: pd.Series(dtype=_DTYPES[name]) for name in COLUMNS})


_DTYPES = {
    "generator": str, "split": str, "user_id": str, "rank": "int32", "item_id": str, "score": "float64", "is_filled": bool,
}  # fmt: skip


def _matrix(rows: pd.DataFrame, users: np.ndarray, items: np.ndarray) -> sparse.csr_matrix:
    cells = (pd.Index(users).get_indexer(rows["user_id"]), pd.Index(items).get_indexer(rows["item"]))
    return sparse.csr_matrix((np.ones(len(rows)), cells), shape=(len(users), len(items)))


def _positions(interactions: Interactions, users: Sequence[str]) -> np.ndarray:
    """Rows of these users, int64 (n,); of those without train interactions the last row of `_with_stranger`."""
    rows = pd.Index(interactions.users).get_indexer(users)
    return np.where(rows < 0, len(interactions.users), rows)


def _with_stranger(interactions: Interactions) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """`positive` and `seen` with a last, empty row for everybody who has no train interactions."""
    empty = sparse.csr_matrix((1, len(interactions.items)))
    positive, seen = (sparse.vstack([m, empty]).tocsr() for m in (interactions.positive, interactions.seen))
    return positive, seen


def _scored(
    interactions: Interactions, users: Sequence[str], scorer: generators.Scorer, for_everyone: bool
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(user, scores (items,), columns seen) of each user; -inf throughout for a user without positive train interactions,
    unless the generator scores for everyone."""
    positions = _positions(interactions, users)
    positive, seen = _with_stranger(interactions)
    has_history = np.diff(positive.indptr) > 0
    for start in range(0, len(users), BLOCK_USERS):
        block = positions[start : start + BLOCK_USERS]
        scores = np.full((len(block), len(interactions.items)), -np.inf)
        scored = np.arange(len(block)) if for_everyone else np.flatnonzero(has_history[block])
        scores[scored] = scorer(block[scored])
        for row, position in enumerate(block):
            yield users[start + row], scores[row], seen[position].indices


def _best(scores: np.ndarray, seen: np.ndarray, count: int) -> np.ndarray:
    """Columns of the best unseen items that have a score, at most `count`."""
    usable = np.isfinite(scores)
    usable[seen] = False
    columns = np.flatnonzero(usable)
    if len(columns) > count:
        # Whatever ties with the last place stays in; the stable sort then decides by column, which is by key.
        columns = columns[scores[columns] >= np.partition(scores[columns], len(columns) - count)[len(columns) - count]]
    return columns[np.argsort(-scores[columns], kind="stable")][:count]


def _filler(popular: np.ndarray, barred: np.ndarray, count: int) -> np.ndarray:
    """The `count` most popular columns that are not barred."""
    first = popular[: count + len(barred)] if count > 0 else popular[:0]
    return first[~np.isin(first, barred)][:count]
