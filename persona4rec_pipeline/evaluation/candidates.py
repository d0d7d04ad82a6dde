"""What a collaborative filter proposes to the users of the panel, from positive train interactions alone.

Belongs here: the matrix of interactions, EASE, item-kNN, the choice of the best unseen items. Does not belong here:
personas, texts, vectors, held-out interactions; of those only who has one is read, never which.

Users live across catalogues, so one filter covers all of them. An item's key is `catalog || '/' || item_id`, here and
in `candidates.item_id`. The first slash separates: a catalogue's name has none, an item_id may.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from persona4rec_pipeline.settings import EvaluationSettings
from persona4rec_pipeline.warehouse.database import Database

SPLITS = ("valid", "test")
POPULARITY = "popularity"
COLUMNS = ["split", "user_id", "rank", "item_id", "score", "generator"]

# Users scored at once: bounds the dense scores to this many rows.
BLOCK_USERS = 512
# Scores are compared after rounding to this many decimals, so that the order of summation cannot decide a tie.
SCORE_DECIMALS = 9


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


def choose_generator(settings: EvaluationSettings, items: int) -> str:
    """`ease` or `item_knn`: what the settings say, and for `auto` what this many items allow."""
    if settings.candidate_generator != "auto":
        return settings.candidate_generator
    return "ease" if items <= settings.ease_max_items else "item_knn"


def propose(interactions: Interactions, panel: Panel, settings: EvaluationSettings) -> pd.DataFrame:
    """The table `candidates`: the best `settings.candidates` items that each panel user has not seen in train.

    Items with a score above 0 come first, best score first, equal scores by item key; where they are fewer than asked,
    the most popular ones fill up, with score 0 and generator `popularity`. A user with a target in both splits gets the
    same list in both: the candidates know nothing of the targets.
    """
    users = panel.everyone
    if not users or not len(interactions.items):
        return pd.DataFrame({name: pd.Series(dtype=_DTYPES[name]) for name in COLUMNS})
    generator = choose_generator(settings, len(interactions.items))
    similarity = (
        ease(interactions.positive, settings.ease_l2)
        if generator == "ease"
        else item_knn(interactions.positive, settings.knn_neighbours)
    )
    by_popularity = np.lexsort((np.arange(len(interactions.items)), -interactions.popularity))
    lists = {
        user: _best(scores, seen, by_popularity, settings.candidates)
        for user, scores, seen in _scored(interactions, users, similarity)
    }
    asked = [(split, user) for split in SPLITS for user in panel.users.get(split, [])]
    lengths = [len(lists[user][0]) for _, user in asked]
    scores = np.concatenate([lists[user][1] for _, user in asked])
    return pd.DataFrame(
        {
            "split": np.repeat([split for split, _ in asked], lengths),
            "user_id": np.repeat(np.array([user for _, user in asked], object), lengths),
            "rank": np.concatenate([np.arange(1, length + 1, dtype=np.int32) for length in lengths]),
            "item_id": interactions.items[np.concatenate([lists[user][0] for _, user in asked])],
            "score": scores,
            "generator": np.where(scores > 0, generator, POPULARITY),
        }
    )


def ease(positive: sparse.csr_matrix, l2: float) -> np.ndarray:
    """Item-item weights B, float64 (items, items), of EASE; a user's scores are the user's row of the matrix times B.

    B = I - P diag(1 / P_jj) off the diagonal and 0 on it, with P = (X^T X + l2 I)^-1 (Steck, "Embarrassingly Shallow
    Autoencoders for Sparse Data", WWW 2019, equation 8). Takes items^2 doubles, three times over while it inverts.
    """
    gram = (positive.T @ positive).toarray()
    gram[np.diag_indices_from(gram)] += l2
    inverse = np.linalg.inv(gram)
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


def item_knn(positive: sparse.csr_matrix, neighbours: int) -> sparse.csr_matrix:
    """Item-item cosines, CSR (items, items), of each item and its nearest `neighbours`, from `implicit`."""
    from implicit.nearest_neighbours import CosineRecommender
    from implicit.utils import ParameterWarning

    # An item is its own nearest neighbour there, hence one more.
    model = CosineRecommender(K=neighbours + 1, num_threads=1)
    with warnings.catch_warnings():
        # It complains about a matrix that it made itself.
        warnings.simplefilter("ignore", ParameterWarning)
        model.fit(positive, show_progress=False)
    similarity = sparse.csr_matrix(model.similarity)
    similarity.setdiag(0)
    similarity.eliminate_zeros()
    return similarity


_DTYPES = {"split": str, "user_id": str, "rank": "int32", "item_id": str, "score": "float64", "generator": str}


def _matrix(rows: pd.DataFrame, users: np.ndarray, items: np.ndarray) -> sparse.csr_matrix:
    cells = (pd.Index(users).get_indexer(rows["user_id"]), pd.Index(items).get_indexer(rows["item"]))
    return sparse.csr_matrix((np.ones(len(rows)), cells), shape=(len(users), len(items)))


def _scored(
    interactions: Interactions, users: Sequence[str], similarity: np.ndarray | sparse.csr_matrix
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(user, scores (items,), columns seen) of each user; zeros and nothing for a user without train interactions."""
    positions = pd.Index(interactions.users).get_indexer(users)
    empty = sparse.csr_matrix((1, len(interactions.items)))
    # A last, empty row stands for everybody who has no train interactions (position -1).
    positive, seen = (sparse.vstack([m, empty]).tocsr() for m in (interactions.positive, interactions.seen))
    for start in range(0, len(users), BLOCK_USERS):
        block = positions[start : start + BLOCK_USERS]
        block = np.where(block < 0, len(interactions.users), block)
        scores = positive[block] @ similarity
        dense = np.round(scores.toarray() if sparse.issparse(scores) else scores, SCORE_DECIMALS)
        for row, position in enumerate(block):
            yield users[start + row], dense[row], seen[position].indices


def _best(scores: np.ndarray, seen: np.ndarray, by_popularity: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and scores of the best unseen items; what is missing to `count` is filled up by popularity, score 0."""
    usable = np.maximum(scores, 0.0)
    usable[seen] = 0.0
    columns = np.flatnonzero(usable)
    if len(columns) > count:
        # Whatever ties with the last place stays in; the stable sort then decides by column, which is by key.
        columns = columns[usable[columns] >= np.partition(usable[columns], len(columns) - count)[len(columns) - count]]
    best = columns[np.argsort(-usable[columns], kind="stable")][:count]
    if len(best) < count:
        barred = np.concatenate([best, seen])
        popular = by_popularity[: count + len(barred)]
        best = np.concatenate([best, popular[~np.isin(popular, barred)]])[:count]
    return best, usable[best]
