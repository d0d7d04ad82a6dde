"""How sure one may be of a mean over users, and of the difference of two.

Belongs here: intervals and tests over one value per user, and their correction where several are made. Does not belong
here: the values themselves (`metrics.py`), which rankings are compared (`report.py`, `contest.py`).

A metric of one target takes few distinct values, and so do differences of it. Users with the same value are
interchangeable: drawing how many of them fall one way is the same as drawing each, and costs little. A report asks for the
same figures many times (table, page, JSON, and again at each depth), so what was drawn for a distribution is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# Draws made at once: bounds what they take to this many rows of a number per distinct difference.
CHUNK_DRAWS = 500
# Distributions of which the result is kept; a report of five generators at two depths asks for about 1,500.
KEPT = 8192


@dataclass(frozen=True)
class Estimate:
    """A mean over users and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> Estimate:
        low, high = bootstrap_interval(values)
        return cls(float(values.mean()) if len(values) else 0.0, low, high)

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def bootstrap_interval(
    values: np.ndarray, resamples: int = 2000, confidence: float = 0.95, seed: int = 7
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of one value per user (Efron 1979).

    Users are drawn with replacement. (0, 0) where there are no users.
    """
    if not len(values):
        return 0.0, 0.0
    distinct, counts = np.unique(np.asarray(values, np.float64), return_counts=True)
    return _bootstrap(distinct.tobytes(), counts.tobytes(), resamples, confidence, seed)


@lru_cache(KEPT)
def _bootstrap(distinct: bytes, counts: bytes, resamples: int, confidence: float, seed: int) -> tuple[float, float]:
    values, users = np.frombuffer(distinct, np.float64), np.frombuffer(counts, np.int64)
    draws = np.random.default_rng(seed).multinomial(users.sum(), users / users.sum(), size=resamples)
    resampled = draws @ values / users.sum()
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def permutation_test(differences: np.ndarray, draws: int = 10_000, seed: int = 7) -> float:
    """Two-sided p value of the mean difference of two rankings, paired by user: float64 (users,), one minus the other.

    If the rankings were alike, each user's difference could as well have the other sign (Fisher 1935). Signs are drawn
    `draws` times; p = (b + 1) / (draws + 1), b the draws whose mean is at least as far from 0 as the observed one
    (Phipson and Smyth 2010), so it is never 0. 1 where there are no users or no differences. Raises ValueError when a
    difference is not finite.
    """
    if not np.isfinite(differences).all():
        raise ValueError("A difference is not a finite number.")
    # Users without a difference have no sign to turn.
    differences = differences[differences != 0]
    magnitudes, users = np.unique(np.abs(differences).astype(np.float64), return_counts=True)
    # Equal sums come out unequal by rounding; a draw that ties with what was observed has to count.
    observed = abs(differences.sum()) - 1e-12 * np.abs(differences).sum()
    return _permuted(magnitudes.tobytes(), users.tobytes(), float(observed), draws, seed)


@lru_cache(KEPT)
def _permuted(distinct: bytes, counts: bytes, observed: float, draws: int, seed: int) -> float:
    magnitudes, users = np.frombuffer(distinct, np.float64), np.frombuffer(counts, np.int64)
    generator = np.random.default_rng(seed)
    as_far = 0
    for start in range(0, draws, CHUNK_DRAWS):
        positive = generator.binomial(users, 0.5, size=(min(CHUNK_DRAWS, draws - start), len(users)))
        as_far += int((np.abs((2 * positive - users) @ magnitudes) >= observed).sum())
    return (as_far + 1) / (draws + 1)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """P values adjusted for a family of m tests, float64 (m,), in the order given; below alpha: rejected at level alpha.

    The i-th smallest becomes the largest of (m - j + 1) p_(j) over j <= i, at most 1 (Holm, "A Simple Sequentially
    Rejective Multiple Test Procedure", Scandinavian Journal of Statistics, 1979). The chance of any false rejection in
    the family is then at most alpha, however the tests depend on each other. Raises ValueError when a value is not
    between 0 and 1.
    """
    raw = np.asarray(p_values, np.float64)
    if not ((raw >= 0) & (raw <= 1)).all():
        raise ValueError("A p value is a number between 0 and 1.")
    order = np.argsort(raw, kind="stable")
    adjusted = np.empty(len(raw))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.arange(len(raw), 0, -1) * raw[order]), 1.0)
    return adjusted
