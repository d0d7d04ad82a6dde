"""For whom personas help, and how many of them an item needs.

Belongs here: the gain by length of history, and the ranking with fewer personas per item. Does not belong here: what more
training pairs bring (`learning.py`), the rows of the report (`report.py`), drawing (`curves.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from persona4rec_pipeline.evaluation import metrics
from persona4rec_pipeline.evaluation.panel import (
    Described,
    Slate,
    TextEncoder,
    profile_scores,
    read_personas,
    target_ranks,
)
from persona4rec_pipeline.evaluation.significance import Estimate
from persona4rec_pipeline.warehouse.database import Database

METRIC = "ndcg_at_10"
# Fewest positive train interactions of each bin; the last one is open.
BIN_STARTS = (0, 1, 2, 3, 5, 8, 15)
PERSONA_LIMITS = (1, 3, 5, 7)


@dataclass(frozen=True)
class HistoryBin:
    """Users with so many positive train interactions (`3-4`, `15+`), and the gain of each ranking for them."""

    interactions: str
    users: int
    gains: Mapping[str, Estimate]


@dataclass(frozen=True)
class PersonaLimit:
    """The candidates ranked with at most `most` personas per item.

    gain_over_one: paired by user, over one persona per item. items_with_more: items that lost a persona by the limit.
    """

    most: int
    ndcg_at_10: Estimate
    gain_over_one: Estimate
    items_with_more: int


@dataclass(frozen=True)
class PersonaLimits:
    """items: those among the candidates that have a persona; personas: of these that are not critical per item, mean, where
    an item that has only critical ones counts as one that has one."""

    items: int
    personas: float
    limits: Sequence[PersonaLimit]


def history_bins(interactions: np.ndarray) -> dict[str, np.ndarray]:
    """Name of the bin -> bool (users,), by length; every user is in exactly one. interactions: int (users,)."""
    bins = {
        str(start) if end == start + 1 else f"{start}-{end - 1}": (interactions >= start) & (interactions < end)
        for start, end in itertools.pairwise(BIN_STARTS)
    }
    return bins | {f"{BIN_STARTS[-1]}+": interactions >= BIN_STARTS[-1]}


def gains_by_history(interactions: np.ndarray, gains: Mapping[str, np.ndarray]) -> list[HistoryBin]:
    """The mean gain of each ranking by length of history; bins without users are left out.

    interactions: int (users,). gains: of each ranking over the candidate order, float64 (users,).
    """
    return [
        HistoryBin(name, int(users.sum()), {ranking: Estimate.of(values[users]) for ranking, values in gains.items()})
        for name, users in history_bins(interactions).items()
        if users.any()
    ]


def limit_personas(
    database: Database, slate: Slate, profiles: Mapping[str, np.ndarray], encoder: TextEncoder
) -> PersonaLimits | None:
    """The slate ranked with 1, 3, 5 and 7 personas per item, those that most reviews speak for; None without personas.

    1 is the row of single personas: an item that has only critical ones counts as one that has one.
    """
    keys = sorted({key for found in slate.keys for key in found})
    # All of them, to count those that are left out.
    personas = read_personas(database, keys)
    if not len(personas.keys):
        return None
    vectors = encoder.encode(personas.texts)
    counts = np.diff(personas.offsets)
    places = np.arange(len(personas.keys)) - np.repeat(personas.offsets[:-1], counts)
    ndcg = {}
    for most in PERSONA_LIMITS:
        kept = places < most
        fewer = Described(personas.keys[kept], list(itertools.compress(personas.texts, kept)), personas.polarity[kept])
        ranks = target_ranks(slate, profile_scores(slate, profiles, fewer, vectors[kept]))
        ndcg[most] = metrics.per_user(ranks)[METRIC]
    limits = [
        PersonaLimit(most, Estimate.of(found), Estimate.of(found - ndcg[PERSONA_LIMITS[0]]), int((counts > most).sum()))
        for most, found in ndcg.items()
    ]
    return PersonaLimits(len(counts), float(counts.mean()), limits)
