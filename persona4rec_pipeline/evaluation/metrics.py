"""Hit rate, MRR and NDCG for one target per user.

Belongs here: numbers from ranks. Does not belong here: where a ranking comes from, ids, tables, how sure one may be of a
mean (`significance.py`).

Everything works on `ranks`, int64 (users,): the place of each user's one target in the user's list, 1 the best, 0 a
miss. A user whose target is not in the list, or who has no list, is a miss and stays in every mean: leaving such users
out is how a ranking is flattered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

CUTOFFS = (5, 10, 20)
MISS = 0


def target_ranks(rankings: Mapping[str, Sequence[str]], targets: Mapping[str, str]) -> np.ndarray:
    """Rank of each user's target, int64 (users,), in the order of `targets`; 0 when it is in no list.

    Raises ValueError when a ranking names an item twice, as its ranks would then mean nothing.
    """
    ranks = np.zeros(len(targets), np.int64)
    for place, (user, target) in enumerate(targets.items()):
        ranking = rankings.get(user, ())
        if len(set(ranking)) != len(ranking):
            raise ValueError(f"The ranking of user {user} names an item twice.")
        for rank, item in enumerate(ranking, start=1):
            if item == target:
                ranks[place] = rank
    return ranks


def hit_rate(ranks: np.ndarray, k: int) -> np.ndarray:
    """HR@k per user, float64: 1 when the target is among the first k."""
    return _within(ranks, k).astype(np.float64)


def reciprocal_rank(ranks: np.ndarray, k: int) -> np.ndarray:
    """MRR@k per user, float64: 1 / rank among the first k, else 0."""
    return np.divide(1.0, ranks, out=np.zeros(len(ranks)), where=_within(ranks, k))


def ndcg(ranks: np.ndarray, k: int) -> np.ndarray:
    """NDCG@k per user, float64: 1 / log2(rank + 1) among the first k, else 0 (one target, so the ideal gain is 1)."""
    return np.divide(1.0, np.log2(np.asarray(ranks) + 1.0), out=np.zeros(len(ranks)), where=_within(ranks, k))


# Names without "@", which MLflow refuses.
METRICS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"hr": hit_rate, "mrr": reciprocal_rank, "ndcg": ndcg}


def per_user(ranks: np.ndarray, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, np.ndarray]:
    """Every metric at every cutoff per user: `ndcg_at_10` -> float64 (users,)."""
    return {f"{name}_at_{k}": metric(ranks, k) for name, metric in METRICS.items() for k in cutoffs}


def means(ranks: np.ndarray, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """Every metric at every cutoff, averaged over all users; 0 where there are none."""
    return {name: float(values.mean()) if len(values) else 0.0 for name, values in per_user(ranks, cutoffs).items()}


def _within(ranks: np.ndarray, k: int) -> np.ndarray:
    ranks = np.asarray(ranks)
    return (ranks > MISS) & (ranks <= k)
