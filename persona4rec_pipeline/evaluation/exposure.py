"""What a ranking shows, whoever it hits: how much of the catalogue, how evenly, how popular, how alike.

Belongs here: numbers from lists of items. Does not belong here: targets and hits (`metrics.py`), ids, tables, where
lists and vectors come from.

Items are numbers from 0 into the whole catalogue, not into what was ever shown: an item that no list holds counts too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.stats import rankdata

PADDING = -1


@dataclass(frozen=True)
class Exposure:
    """Figures of the lists of all users; None where there is nothing to take them of.

    coverage: `distinct_items` / items of the catalogue, 0 to 1. gini: see `gini_index`; None when nothing is shown.
    mean_popularity_rank: over all places of all lists, 1 the most popular; None when nothing is shown.
    intra_list_similarity: see `intra_list_similarity`; None without vectors or without a list of two.
    """

    coverage: float
    distinct_items: int
    gini: float | None
    mean_popularity_rank: float | None
    intra_list_similarity: float | None


def exposure(lists: np.ndarray, popularity: np.ndarray, vectors: np.ndarray | None = None) -> Exposure:
    """How the lists expose the catalogue.

    lists: int (users, k), the first k items of each user, -1 where a list is shorter. popularity: int (items,), train
    interactions of each item of the catalogue; equal ones share the mean of their ranks. vectors: float32 (items, d),
    unit length. Raises ValueError when a list names an item twice or one that the catalogue does not have.
    """
    shown = _shown(lists, len(popularity))
    counts = np.bincount(shown.indices, minlength=len(popularity))
    distinct = int((counts > 0).sum())
    ranks = rankdata(-np.asarray(popularity, np.float64))
    return Exposure(
        coverage=distinct / len(popularity) if len(popularity) else 0.0,
        distinct_items=distinct,
        gini=gini_index(counts),
        mean_popularity_rank=float(counts @ ranks / counts.sum()) if distinct else None,
        intra_list_similarity=None if vectors is None else intra_list_similarity(lists, vectors),
    )


def gini_index(counts: np.ndarray) -> float | None:
    """Gini index of how often each item of the catalogue is shown, int (items,): 0 all equally often, 1 always the same.

    G = sum_j (2j - n - 1) p_j / (n - 1) with the shares p_1 <= ... <= p_n of the n items (Shani and Gunawardana,
    "Evaluating Recommendation Systems", Recommender Systems Handbook, 2011). The Gini coefficient of economics divides
    by n instead and so never reaches 1. None when nothing is shown; 0 for a catalogue of one item.
    """
    total, n = counts.sum(), len(counts)
    if not total:
        return None
    return float((2 * np.arange(1, n + 1) - n - 1) @ np.sort(counts) / total / max(n - 1, 1))


def intra_list_similarity(lists: np.ndarray, vectors: np.ndarray) -> float | None:
    """Mean cosine of the pairs of items in a list, averaged over lists; None when no list has two items.

    The intra-list similarity of Ziegler et al., "Improving Recommendation Lists Through Topic Diversification" (WWW
    2005), divided by the number of pairs, so that short lists compare with long ones. Lists with fewer than two items
    are left out. Arguments and errors as of `exposure`.
    """
    shown = _shown(lists, len(vectors))
    shown = shown[np.diff(shown.indptr) > 1]
    if not shown.shape[0]:
        return None
    # The squared length of a sum holds every pair twice, and every vector with itself.
    sums = (shown @ np.asarray(vectors, np.float32)).astype(np.float64)
    selves = shown @ np.square(vectors, dtype=np.float64).sum(axis=1)
    lengths = np.diff(shown.indptr)
    return float(((np.square(sums).sum(axis=1) - selves) / (lengths * (lengths - 1))).mean())


def _shown(lists: np.ndarray, items: int) -> sparse.csr_matrix:
    """Ones where a list holds an item, float32 (users, items)."""
    users, places = np.nonzero(lists != PADDING)
    numbers = lists[users, places]
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < items:
        raise ValueError(f"A list names an item outside the catalogue of {items} items.")
    shown = sparse.csr_matrix((np.ones(len(users), np.float32), (users, numbers)), shape=(len(lists), items))
    if shown.nnz < len(users):
        raise ValueError("A list names an item twice.")
    return shown
