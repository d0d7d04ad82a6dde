"""Like-minded sentences of one item's train reviews, found by similarity of meaning.

Belongs here: evidence sentences, their stance, and the groups that become personas. Does not belong here: how a persona
reads (`wording.py`, `construct.py`).

Sentences for and against an item are grouped apart, so that a persona is never half praise and half complaint by
accident of topic: "the whale chapters" may be one reader's delight and another's reason to stop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from persona4rec_pipeline.personas.aspects import tells_circumstance
from persona4rec_pipeline.personas.domains import Domain
from persona4rec_pipeline.personas.tastes import Taste, Tastes
from persona4rec_pipeline.personas.text import is_usable, sentences, sentiment, tidy

Polarity = Literal["appreciative", "critical", "mixed"]

# A rating this far below `positive_rating` is still neither praise nor complaint (3 of 5 when 4 is positive).
NEUTRAL_BAND = 1.0
# Lengths, in characters, between which a sentence reads well as a quote.
QUOTE_LENGTHS = (30, 220)


@dataclass(frozen=True)
class TrainReview:
    """What persona construction may know of one train review."""

    review_id: str
    text: str
    is_positive: bool
    rating: float | None


@dataclass(frozen=True)
class Evidence:
    """One usable sentence: where it comes from, and whether it speaks for (+1) or against (-1) the item, or neither (0)."""

    review_id: str
    text: str
    stance: int
    is_for: bool  # the pool in which it is grouped


@dataclass(frozen=True)
class Group:
    """Like-minded sentences, most telling first, with the unit vector of their centre, shape (d,)."""

    evidence: tuple[Evidence, ...]
    centre: np.ndarray
    polarity: Polarity
    taste: Taste | None  # the kind of taste or complaint it is about; None where none of the domain's is close

    @property
    def review_ids(self) -> list[str]:
        """The reviews it rests on, in order of centrality, each once."""
        return list(dict.fromkeys(sentence.review_id for sentence in self.evidence))


def collect_evidence(
    reviews: Sequence[TrainReview], domain: Domain, positive_rating: float, most: int
) -> list[Evidence]:
    """Usable sentences of the reviews, at most `most`, taken in turn so that every review keeps a voice.

    Deterministic for a given set of reviews: they are read in the order of their ids. Sentences that occur twice count
    once. Sentences that only tell when or why something was got ("Read it on the train") are used where nothing else is
    said: they describe an occasion, not a taste.
    """
    evidence = _in_turn(reviews, domain, positive_rating, most)
    telling = [sentence for sentence in evidence if not tells_circumstance(sentence.text)]
    return telling if len({sentence.review_id for sentence in telling}) * 2 >= len(reviews) else evidence


def _in_turn(reviews: Sequence[TrainReview], domain: Domain, positive_rating: float, most: int) -> list[Evidence]:
    split = [
        (review, [tidy(s.text, 400) for s in sentences(review.text) if is_usable(s.text, domain)])
        for review in sorted(reviews, key=lambda review: review.review_id)
    ]
    chosen: dict[str, Evidence] = {}
    for turn in range(max((len(pieces) for _, pieces in split), default=0)):
        for review, pieces in split:
            if turn < len(pieces) and pieces[turn].lower() not in chosen:
                chosen[pieces[turn].lower()] = _judge(review, pieces[turn], positive_rating)
                if len(chosen) == most:
                    return list(chosen.values())
    return list(chosen.values())


def group_evidence(
    evidence: Sequence[Evidence], vectors: np.ndarray, tastes: Tastes, most_groups: int, merge_similarity: float
) -> list[Group]:
    """Group sentences into like-minded groups, most reviews first.

    vectors: float32 (len(evidence), d), unit length. Sentences that are about one taste of the domain are one group. The
    sentences of reviews that are about none are grouped by similarity (Ward's method on unit vectors, then groups whose
    centres have a cosine of `merge_similarity` or more are joined); such groups count only where fewer than two
    have a taste. Never more than `most_groups`, and no more than one per two reviews (but two as soon as there are two), so that the number
    follows the variety and the weight of what was said; a complaint keeps a place if there is any.
    """
    if not evidence:
        return []
    review_count = len({sentence.review_id for sentence in evidence})
    wanted = 1 if review_count == 1 else min(most_groups, max(2, (review_count + 1) // 2))
    groups: list[Group] = []
    for is_for in (True, False):
        rows = [row for row, sentence in enumerate(evidence) if sentence.is_for == is_for]
        groups += _by_taste([evidence[row] for row in rows], vectors[rows], tastes, is_for, wanted, merge_similarity)
    # Talk about nothing in particular makes a persona only where there is nothing better.
    if sum(group.taste is not None for group in groups) >= 2:
        groups = [group for group in groups if group.taste is not None]
    # By reviews and not by sentences: one talkative reviewer is one voice.
    groups.sort(
        key=lambda group: (
            group.taste is None,
            -len(group.review_ids),
            group.evidence[0].review_id,
            group.evidence[0].text,
        )
    )
    kept = groups[:wanted]
    against = [group for group in groups if group.polarity == "critical"]
    if against and against[0] not in kept and wanted > 1:
        kept[-1] = against[0]
    return kept


def _by_taste(
    evidence: Sequence[Evidence],
    vectors: np.ndarray,
    tastes: Tastes,
    is_for: bool,
    most: int,
    merge_similarity: float,
) -> list[Group]:
    about = tastes.of_sentences(vectors, are_complaints=not is_for)
    rows_of: dict[str, list[int]] = defaultdict(list)
    taste_of: dict[str, Taste] = {}
    for row, taste in enumerate(about):
        if taste is not None:
            rows_of[taste.name].append(row)
            taste_of[taste.name] = taste
    groups = [_group([evidence[row] for row in rows], vectors[rows], taste_of[name]) for name, rows in rows_of.items()]
    told = {evidence[row].review_id for rows in rows_of.values() for row in rows}
    rest = [row for row, sentence in enumerate(evidence) if sentence.review_id not in told]
    if rest:
        members: dict[int, list[int]] = defaultdict(list)
        for row, label in zip(rest, _ward(vectors[rest], most), strict=True):
            members[int(label)].append(row)
        for rows in _merge(list(members.values()), vectors, merge_similarity):
            groups.append(_group([evidence[row] for row in rows], vectors[rows], None))
    return groups


def _judge(review: TrainReview, text: str, positive_rating: float) -> Evidence:
    if review.is_positive:
        stance = 1
    elif review.rating is not None and review.rating >= positive_rating - NEUTRAL_BAND:
        stance = 0
    else:
        stance = -1
    wording = sentiment(text)
    # Wording against the rating makes a sentence neutral; in a neutral review the wording decides.
    value = stance + wording
    value = (value > 0) - (value < 0)
    is_for = value > 0 or (value == 0 and stance >= 0 and wording >= 0) or (value == 0 and stance > 0)
    return Evidence(review.review_id, text, value, is_for)


def _ward(vectors: np.ndarray, groups: int) -> np.ndarray:
    if len(vectors) <= groups:
        return np.arange(len(vectors))
    if groups == 1:
        return np.zeros(len(vectors), dtype=int)
    return fcluster(linkage(vectors.astype(np.float64), method="ward"), groups, criterion="maxclust")


def _merge(members: list[list[int]], vectors: np.ndarray, merge_similarity: float) -> list[list[int]]:
    """Join the two most similar groups until none are as similar as `merge_similarity`."""
    members = [list(rows) for rows in members]
    while len(members) > 1:
        centres = np.stack([_centre(vectors[rows]) for rows in members])
        similarity = centres @ centres.T
        np.fill_diagonal(similarity, -1.0)
        first, second = np.unravel_index(int(similarity.argmax()), similarity.shape)
        if similarity[first, second] < merge_similarity:
            break
        joined = members[int(first)] + members[int(second)]
        members = [rows for place, rows in enumerate(members) if place not in (first, second)] + [joined]
    return members


def _group(evidence: list[Evidence], vectors: np.ndarray, taste: Taste | None) -> Group:
    centre = _centre(vectors)
    telling = vectors @ centre
    if taste is not None:
        telling = telling + 2 * (vectors @ taste.vector)
    # A quote that is a fragment or a paragraph says less than its similarity promises.
    fits = np.array([QUOTE_LENGTHS[0] <= len(sentence.text) <= QUOTE_LENGTHS[1] for sentence in evidence])
    order = sorted(range(len(evidence)), key=lambda row: (-(telling[row] + 0.15 * fits[row]), evidence[row].text))
    mean = sum(sentence.stance for sentence in evidence) / len(evidence)
    polarity: Polarity = "appreciative" if mean > 1 / 3 else "critical" if mean < -1 / 3 else "mixed"
    return Group(tuple(evidence[row] for row in order), centre, polarity, taste)


def _centre(vectors: np.ndarray) -> np.ndarray:
    mean = vectors.mean(axis=0)
    return mean / max(float(np.linalg.norm(mean)), 1e-12)
