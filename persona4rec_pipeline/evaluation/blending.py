"""How much the personas count beside the candidate order: learned on validation targets, never below the candidate order there.

Belongs here: the choice of weights. Does not belong here: what a blend is and what it gives (`index/scoring.py`), which
serving calls as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from persona4rec_pipeline.evaluation import metrics
from persona4rec_pipeline.evaluation.panel import Slate, target_ranks
from persona4rec_pipeline.index import scoring
from persona4rec_pipeline.index.scoring import CANDIDATE_ORDER, SEGMENTS, Blend, Blends, segment_of

WEIGHTS = tuple(round(0.1 * step, 1) for step in range(11))
NORMALISATIONS = ("score", "rank")
# A segment with fewer users than these gets no weight of its own.
MIN_SEGMENT_USERS = 200
METRIC = "ndcg_at_10"


def learn_blends(slate: Slate, persona_scores: np.ndarray) -> Blends:
    """`learn_blend` for candidates that come with scores, and for those that come in an order alone."""
    return Blends(learn_blend(slate, persona_scores), learn_blend(slate, persona_scores, ("rank",)))


def learn_blend(slate: Slate, persona_scores: np.ndarray, normalisations: Sequence[str] = NORMALISATIONS) -> Blend:
    """The weights under which the targets of `slate` come first, by NDCG@10.

    A weight is worth its mean gain over the candidate order less one standard error of it, so that a gain by chance does
    not count; 0 is worth nothing and always among the choices. A segment of history length gets a weight of its own where
    that is better by the same measure. persona_scores: (users, depth), as the slate's. normalisations: to choose among.
    """
    known = slate.interactions > 0
    if not known.any():
        return replace(CANDIDATE_ORDER, normalisation=normalisations[0])
    before = _ndcg(slate, slate.scores)
    gains = {
        (normalisation, weight): _ndcg(
            slate, _blended(slate, persona_scores, np.where(known, weight, 0.0), normalisation)
        )
        - before
        for normalisation in normalisations
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


def blend_scores(blend: Blend, slate: Slate, persona_scores: np.ndarray) -> np.ndarray:
    """The blended scores of a slate, float64 (users, depth)."""
    weights = np.array([blend.weight_for(int(count)) for count in slate.interactions])
    return _blended(slate, persona_scores, weights, blend.normalisation)


def _worth(gains: np.ndarray) -> float:
    return float(gains.mean() - gains.std() / np.sqrt(len(gains)))


def _ndcg(slate: Slate, scores: np.ndarray) -> np.ndarray:
    return metrics.ndcg(target_ranks(slate, scores), 10)


def _blended(slate: Slate, persona_scores: np.ndarray, weights: np.ndarray, normalisation: str) -> np.ndarray:
    blended = np.full(slate.scores.shape, scoring.NO_SCORE)
    # Lists of one length together: what fills up the shorter ones must not enter a mean.
    for length in np.unique(slate.lengths):
        users = np.flatnonzero(slate.lengths == length)
        for weight in np.unique(weights[users]):
            rows = users[weights[users] == weight]
            blended[rows, :length] = scoring.combine(
                slate.scores[rows, :length], persona_scores[rows, :length], weight, normalisation
            )
    return blended
