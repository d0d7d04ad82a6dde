"""How much the personas count beside the candidate order: learned on validation targets, never below the candidate order there.

Belongs here: the choice of weights, and the record of it. Does not belong here: the blend itself (`index/scoring.py`), which
serving calls as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from persona4rec_pipeline.evaluation import metrics
from persona4rec_pipeline.evaluation.panel import Slate, target_ranks
from persona4rec_pipeline.index import scoring

WEIGHTS = tuple(round(0.1 * step, 1) for step in range(11))
NORMALISATIONS = ("score", "rank")
# Users by positive train interactions, lowest count of each segment; a segment with fewer users than these gets no weight of
# its own.
SEGMENTS = {"1": 1, "2-4": 2, "5+": 5}
MIN_SEGMENT_USERS = 200
METRIC = "ndcg_at_10"


@dataclass(frozen=True)
class Blend:
    """normalisation: of the candidate scores, see `scoring.blend`. weight: of the personas, 0 to 1. by_history: the weight
    of users of a segment of SEGMENTS that has its own."""

    normalisation: str
    weight: float
    by_history: Mapping[str, float] = field(default_factory=dict)

    def weight_for(self, interactions: int) -> float:
        """The weight for a user with so many positive train interactions; 0 without any."""
        return self.by_history.get(segment_of(interactions), self.weight) if interactions else 0.0

    def scores(self, slate: Slate, persona_scores: np.ndarray) -> np.ndarray:
        """The blended scores of a slate, float64 (users, depth)."""
        weights = np.array([self.weight_for(int(count)) for count in slate.interactions])
        return _blended(slate, persona_scores, weights, self.normalisation)

    def to_json(self) -> str:
        """As one line of JSON, to be kept with the encoder."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Blend:
        """What `to_json` wrote."""
        return cls(**json.loads(text))


CANDIDATE_ORDER = Blend("score", 0.0)


def segment_of(interactions: int) -> str:
    """The segment of SEGMENTS of a user with at least one interaction."""
    return [name for name, lowest in SEGMENTS.items() if interactions >= lowest][-1]


def learn_blend(slate: Slate, persona_scores: np.ndarray) -> Blend:
    """The weights under which the targets of `slate` come first, by NDCG@10.

    A weight is worth its mean gain over the candidate order less one standard error of it, so that a gain by chance does
    not count; 0 is worth nothing and always among the choices. A segment of history length gets a weight of its own where
    that is better by the same measure. persona_scores: (users, depth), as the slate's.
    """
    known = slate.interactions > 0
    if not known.any():
        return CANDIDATE_ORDER
    before = _ndcg(slate, slate.scores)
    gains = {
        (normalisation, weight): _ndcg(
            slate, _blended(slate, persona_scores, np.where(known, weight, 0.0), normalisation)
        )
        - before
        for normalisation in NORMALISATIONS
        for weight in WEIGHTS
    }
    normalisation, weight = max(gains, key=lambda choice: _worth(gains[choice]))
    by_history = {}
    segments = np.array([segment_of(int(count)) if count else "" for count in slate.interactions])
    for segment in SEGMENTS:
        users = segments == segment
        if users.sum() < MIN_SEGMENT_USERS:
            continue
        over_common = {own: gains[normalisation, own][users] - gains[normalisation, weight][users] for own in WEIGHTS}
        own = max(WEIGHTS, key=lambda choice: _worth(over_common[choice]))
        if _worth(over_common[own]) > 0:
            by_history[segment] = own
    return Blend(normalisation, weight, by_history)


def _worth(gains: np.ndarray) -> float:
    return float(gains.mean() - gains.std() / np.sqrt(len(gains)))


def _ndcg(slate: Slate, scores: np.ndarray) -> np.ndarray:
    return metrics.ndcg(target_ranks(slate, scores), 10)


def _blended(slate: Slate, persona_scores: np.ndarray, weights: np.ndarray, normalisation: str) -> np.ndarray:
    blended = np.full(slate.scores.shape, scoring.NO_SCORE)
    # Lists of one length together: what fills up the shorter ones must not enter a mean.
    for length in np.unique(slate.lengths):
        users = np.flatnonzero((slate.lengths == length) & (weights > 0))
        for weight in np.unique(weights[users]):
            rows = users[weights[users] == weight]
            blended[rows, :length] = scoring.blend(
                slate.scores[rows, :length], persona_scores[rows, :length], weight, normalisation
            )
    plain = weights == 0
    blended[plain] = slate.scores[plain]
    return blended
