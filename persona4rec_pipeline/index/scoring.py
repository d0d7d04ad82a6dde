"""User profile and score: the one place where they are computed, for building, serving and evaluation alike.

Belongs here: arithmetic on vectors and scores, numpy only. Does not belong here: ids, files, texts. Vectors are float16 or float32
of shape (n, d) and unit length (up to float16 rounding); items are rows; the personas of item row i are the vector rows
`offsets[i]` to `offsets[i + 1]` (exclusive); `polarity` is 1 appreciative, 0 mixed, -1 critical.

Score of an item for a user (arXiv 2602.21756, section "Online"; polarity is ours): the largest cosine of the user's
profile and one of the item's appreciative or mixed personas. A critical persona never makes the score: resembling the
people an item disappointed is no reason to recommend it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

# Rows widened at a time: a block of 512 x 384 float32 stays in the processor's cache.
BLOCK_ROWS = 512
# Bits of a float32 that carry the sign and the shifted exponent and fraction of a float16.
_HALF_BITS = np.int32(0x8FFFE000 - (1 << 32))
_HALF_SCALE = np.float32(2.0**112)

NO_PERSONA = -1
NO_SCORE = float("-inf")
# Users by positive train interactions, lowest count of each segment: those that may have a blend weight of their own.
SEGMENTS = {"1": 1, "2-4": 2, "5+": 5}


@dataclass(frozen=True)
class Reranking:
    """Candidates in their new order.

    order: int64 (n,), positions in the candidates as given. scores: float32 (n,), in the order as given; NaN for an
    unknown candidate, -inf for an item without an appreciative or mixed persona. winners: int64 (n,), as given; the
    vector row of the winning persona, -1 where there is none.
    """

    order: np.ndarray
    scores: np.ndarray
    winners: np.ndarray


@dataclass(frozen=True)
class Blend:
    """How much the personas count beside the candidate order.

    normalisation: of the candidate scores, `score` or `rank`, see `blend`. weight: of the personas, 0 to 1. by_history: the
    weight of users of a segment of SEGMENTS that has its own.
    """

    normalisation: str
    weight: float
    by_history: Mapping[str, float] = field(default_factory=dict)

    def weight_for(self, interactions: int) -> float:
        """The weight for a user with so many positive train interactions; 0 without any."""
        return self.by_history.get(segment_of(interactions), self.weight) if interactions else 0.0


@dataclass(frozen=True)
class Blends:
    """What is served: `of_scores` for candidates that come with scores, `of_places` for those in an order alone."""

    of_scores: Blend
    of_places: Blend

    def to_json(self) -> str:
        """As one line of JSON, to be kept with the encoder."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Blends:
        """What `to_json` wrote."""
        return cls(**{name: Blend(**found) for name, found in json.loads(text).items()})


CANDIDATE_ORDER = Blend("score", 0.0)


def segment_of(interactions: int) -> str:
    """The segment of SEGMENTS of a user with at least one interaction."""
    return [name for name, lowest in SEGMENTS.items() if interactions >= lowest][-1]


def history_weights(
    offsets: np.ndarray, decay: float, days: np.ndarray | None = None, half_life_days: float | None = None
) -> np.ndarray:
    """Weight of each interaction in its user's profile, float64 (n,): user u has the rows offsets[u] to offsets[u + 1],
    most recent first.

    g^(l-1) with g = `decay` and l = 1 the most recent (arXiv 2602.21756); with `half_life_days` h also 2^-(a/h), where a
    is by how many days an interaction is older than the user's most recent one. days: float64 (n,), times in days since
    any moment.
    """
    counts = np.diff(offsets)
    firsts = np.repeat(offsets[:-1], counts)
    weights = np.power(decay, np.arange(offsets[-1]) - firsts, dtype=np.float64)
    if half_life_days is not None:
        if days is None:
            raise ValueError("A half-life needs the times of the interactions.")
        weights *= np.exp2((days - np.asarray(days)[firsts]) / half_life_days)
    return weights


def user_profile(
    vectors: np.ndarray, decay: float, days: np.ndarray | None = None, half_life_days: float | None = None
) -> np.ndarray:
    """`user_profiles` of one user, float32 (d,), whose interaction vectors (l, d) are given most recent first."""
    return user_profiles(vectors, np.array([0, len(vectors)]), decay, days, half_life_days)[0]


def user_profiles(
    vectors: np.ndarray,
    offsets: np.ndarray,
    decay: float,
    days: np.ndarray | None = None,
    half_life_days: float | None = None,
) -> np.ndarray:
    """Unit profiles, float32 (users, d): user u has the rows offsets[u] to offsets[u + 1] of `vectors`, most recent first.

    e_u = sum_l w_l e_l / sum_l w_l with w of `history_weights` (arXiv 2602.21756), then scaled to unit length, because the
    score is a cosine. Zero vectors stay zero. Raises ValueError for a user without interactions.
    """
    if (np.diff(offsets) <= 0).any():
        raise ValueError("A profile needs at least one interaction.")
    weights = history_weights(offsets, decay, days, half_life_days).astype(np.float32)
    # The denominator is a positive number per user, so scaling to unit length already divides by it.
    sums = np.add.reduceat(np.asarray(vectors, np.float32) * weights[:, None], offsets[:-1], axis=0)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.divide(sums, norms, out=np.zeros_like(sums), where=norms > 0)


def taste_profiles(vectors: np.ndarray, weights: np.ndarray, tastes: int) -> np.ndarray:
    """Unit profiles, float32 (t, d), t <= `tastes`, one of each group of alike interactions; the weightiest group first.

    vectors: (l, d) of unit length; weights: (l,), of `history_weights`. Groups are merged by the average cosine of their
    members, nearest first, until there are `tastes` (average linkage; that one mean hides distinct tastes is argued by PinnerSage,
    arXiv 2007.03634). With one taste this is `user_profile`. Raises ValueError without interactions or tastes.
    """
    if not len(vectors) or tastes < 1:
        raise ValueError("Tastes need at least one interaction, and there is at least one of them.")
    vectors = np.asarray(vectors, np.float32)
    groups = [[row] for row in range(len(vectors))]
    sums = vectors.astype(np.float64)
    while len(groups) > tastes:
        sizes = np.array([len(group) for group in groups], np.float64)
        nearness = (sums @ sums.T) / np.outer(sizes, sizes)
        np.fill_diagonal(nearness, -np.inf)
        first, second = sorted(divmod(int(np.argmax(nearness)), len(groups)))
        groups[first] += groups.pop(second)
        sums[first] += sums[second]
        sums = np.delete(sums, second, axis=0)
    groups.sort(key=lambda group: -float(weights[group].sum()))
    profiles = np.stack([(vectors[group] * weights[group, None]).sum(axis=0) for group in groups])
    norms = np.linalg.norm(profiles, axis=1, keepdims=True)
    return np.divide(profiles, norms, out=np.zeros_like(profiles), where=norms > 0).astype(np.float32)


def similarities(profile: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Cosines, float32 (n,), of a unit profile (d,) and unit vectors (n, d), in blocks that stay in the cache; with several
    profiles, (t, d), the largest of each vector's."""
    profile = np.asarray(profile, np.float32)
    if profile.ndim == 2:
        return np.max([similarities(taste, vectors) for taste in profile], axis=0)
    if len(vectors) <= BLOCK_ROWS:
        return _widen(vectors) @ profile
    found = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), BLOCK_ROWS):
        np.matmul(_widen(vectors[start : start + BLOCK_ROWS]), profile, out=found[start : start + BLOCK_ROWS])
    return found


def score_items(
    profile: np.ndarray, vectors: np.ndarray, offsets: np.ndarray, polarity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores, float32 (items,), and the winning persona's vector row, int64 (items,), of every item.

    An item without appreciative or mixed persona has score -inf and winner -1. Of equal personas the first one wins.
    """
    return _best_of_groups(similarities(profile, vectors), offsets, polarity)


def score_candidates(
    profile: np.ndarray, rows: np.ndarray, vectors: np.ndarray, offsets: np.ndarray, polarity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`score_items` for the item rows `rows`, int64 (n,), alone; a row of -1 is an unknown item: NaN and -1."""
    rows = np.asarray(rows, np.int64)
    scores = np.full(len(rows), np.nan, np.float32)
    winners = np.full(len(rows), NO_PERSONA, np.int64)
    known = rows >= 0
    if not known.any():
        return scores, winners
    starts = offsets[rows[known]]
    counts = offsets[rows[known] + 1] - starts
    local = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=local[1:])
    persona_rows = np.arange(local[-1]) + np.repeat(starts - local[:-1], counts)
    found, best = _best_of_groups(similarities(profile, vectors[persona_rows]), local, polarity[persona_rows])
    scores[known] = found
    winners[known] = np.where(best >= 0, persona_rows[best] if len(persona_rows) else NO_PERSONA, NO_PERSONA)
    return scores, winners


def order_candidates(scores: np.ndarray) -> np.ndarray:
    """Positions, int64 (n,), of candidates ordered by score: higher first, equal ones in the order given.

    A candidate whose score is NaN (unknown) keeps its place; the others share the remaining places.
    """
    scores = np.asarray(scores)
    order = np.arange(len(scores))
    places = np.flatnonzero(~np.isnan(scores))
    order[places] = places[np.argsort(-scores[places], kind="stable")]
    return order


def combine(
    candidate_scores: np.ndarray, persona_scores: np.ndarray, weight: float, normalisation: str = "score"
) -> np.ndarray:
    """What candidates are ordered by, float64 (..., n): their own scores at weight 0, the persona scores at weight 1,
    between them the `blend` of both. Arguments as there."""
    if weight <= 0:
        return np.asarray(candidate_scores, np.float64)
    if weight >= 1:
        return np.asarray(persona_scores, np.float64)
    return blend(candidate_scores, persona_scores, weight, normalisation)


def blend(
    candidate_scores: np.ndarray, persona_scores: np.ndarray, weight: float, normalisation: str = "score"
) -> np.ndarray:
    """(1 - w) N(candidate) + w N(persona), float64 (..., n): one order of candidates out of two.

    N scales to mean 0 and standard deviation 1 within a list (the last axis), since the scales of the two have nothing to
    do with each other; with `normalisation` "rank" the candidate's score is first replaced by -log2(its place), for
    generators whose scores mean little. Candidates are given best first. Weight 0 leaves their order as it is. An item
    without favourable persona (-inf) counts as the least similar one of its list; NaN, an unknown item, stays NaN.
    """
    persona = np.array(persona_scores, np.float64)
    unscored = np.isneginf(persona)
    if unscored.any():
        lowest = np.where(unscored | np.isnan(persona), np.inf, persona).min(axis=-1, keepdims=True)
        # Where no candidate has a persona, all are equal.
        persona = np.where(unscored, np.where(np.isposinf(lowest), 0.0, lowest), persona)
    if normalisation == "rank":
        candidate_scores = np.broadcast_to(-np.log2(np.arange(1, persona.shape[-1] + 1)), persona.shape)
    return (1 - weight) * _standardised(np.asarray(candidate_scores, np.float64)) + weight * _standardised(persona)


def rerank(
    profile: np.ndarray, rows: np.ndarray, vectors: np.ndarray, offsets: np.ndarray, polarity: np.ndarray
) -> Reranking:
    """Score the candidate item rows (-1: unknown, keeps its place) and order them."""
    scores, winners = score_candidates(profile, rows, vectors, offsets, polarity)
    return Reranking(order=order_candidates(scores), scores=scores, winners=winners)


def _best_of_groups(cosines: np.ndarray, offsets: np.ndarray, polarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counts = np.diff(offsets)
    scores = np.full(len(counts), NO_SCORE, np.float32)
    winners = np.full(len(counts), NO_PERSONA, np.int64)
    filled = np.flatnonzero(counts)
    if not len(filled):
        return scores, winners
    eligible = np.where(polarity >= 0, cosines, np.float32(NO_SCORE))
    scores[filled] = np.maximum.reduceat(eligible, offsets[filled])
    items = np.repeat(np.arange(len(counts)), counts)
    hits = np.flatnonzero((eligible == scores[items]) & (polarity >= 0))[::-1]
    # Written back to front, so that the first of equal personas is the one that stays.
    winners[items[hits]] = hits
    return scores, winners


def _standardised(scores: np.ndarray) -> np.ndarray:
    """Mean 0 and standard deviation 1 along the last axis, NaN left out; 0 where all are equal."""
    known = ~np.isnan(scores)
    if known.all() and scores.size:
        centred = scores - scores.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred * centred).mean(axis=-1, keepdims=True))
        return centred / np.where(deviation > 0, deviation, 1.0)
    filled, counts = np.where(known, scores, 0.0), np.maximum(known.sum(axis=-1, keepdims=True), 1)
    centred = np.where(known, scores - filled.sum(axis=-1, keepdims=True) / counts, 0.0)
    deviation = np.sqrt((centred * centred).sum(axis=-1, keepdims=True) / counts)
    return np.where(known, centred / np.where(deviation > 0, deviation, 1.0), np.nan)


def _widen(vectors: np.ndarray) -> np.ndarray:
    """float16 to float32, exact for finite numbers, five times as fast as numpy's own conversion."""
    if vectors.dtype != np.float16:
        return np.asarray(vectors, np.float32)
    bits = vectors.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= _HALF_BITS
    widened = bits.view(np.float32)
    widened *= _HALF_SCALE
    return widened
