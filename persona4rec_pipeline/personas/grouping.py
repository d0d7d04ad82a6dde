"""Like-minded passages of one item's train reviews: the groups that become personas.

Belongs here: evidence sentences, their stance, passages, and the groups. Does not belong here: telling what a passage is
about (`tastes.py`) and how a persona reads (`wording.py`, `construct.py`).

What is said for and against an item is grouped apart, so that a persona is never half praise and half complaint by
accident of topic: "the whale chapters" may be one reader's delight and another's reason to stop.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from persona4rec_pipeline.personas.domains import Domain, Topic
from persona4rec_pipeline.personas.polarity import Polarity, sentence_stance
from persona4rec_pipeline.personas.tastes import MIN_WEIGHT, Passages, Recogniser, Tastes
from persona4rec_pipeline.personas.text import is_usable, safe_sentences, tidy

__all__ = ["Evidence", "Group", "Polarity", "TrainReview", "collect_evidence", "group_evidence", "passages_of"]

# A rating this far below `positive_rating` is still neither praise nor complaint (3 of 5 when 4 is positive).
NEUTRAL_BAND = 1.0
# How clearly a sentence must feel to count as praise or complaint by its wording.
CLEAR_STANCE = 0.25
# How clearly the wording must contradict the rating for a sentence to be left out: it may be irony or a concession.
CONTRADICTING_STANCE = 0.5
# Sentences of a passage, of a review, and the share of the sentences that reviews of the rarer verdict may fill.
PASSAGE_SENTENCES = 4
MAX_REVIEW_SENTENCES = 12
MIN_MINORITY_SHARE = 0.3
# Share of a group's reviewers who must be of two minds for its polarity to be mixed.
MIXED_SHARE = 0.6
# Among how many likeliest topics of a sentence a passage's own must be, and ahead of idle talk, for the sentence to be
# evidence of it.
CLOSE_RANK = 2
# Lengths, in characters, between which a sentence reads well as a quote.
QUOTE_LENGTHS = (30, 220)


@dataclass(frozen=True)
class TrainReview:
    """What persona construction may know of one train review."""

    review_id: str
    text: str
    is_positive: bool
    rating: float | None
    title: str | None = None
    language: str | None = None  # ISO 639-1; None where it was not told


Verdict = Literal["positive", "neutral", "negative"]


@dataclass(frozen=True)
class Evidence:
    """One usable sentence, and the characters [start, end) of the review's text where it stands; a review's title has no
    place in its text (start -1), helps to recognise, and is never quoted."""

    review_id: str
    text: str
    start: int
    end: int
    is_for: bool
    verdict: Verdict
    is_foreign: bool = False  # in a language that the sentence encoder does not read: never matched with a topic

    @property
    def is_title(self) -> bool:
        return self.start < 0


@dataclass(frozen=True)
class Group:
    """Like-minded sentences, most telling first, with the unit vector of their centre, shape (d,).

    review_ids: the reviews it rests on, most telling first, each once. near: what the group may also be about, closest
    first, itself among them; empty without a topic.
    """

    evidence: tuple[Evidence, ...]
    review_ids: tuple[str, ...]
    centre: np.ndarray
    polarity: Polarity
    taste: Topic | None  # the kind of taste or complaint it is about; None where none of the domain's is
    near: tuple[Topic, ...] = ()


def collect_evidence(
    reviews: Sequence[TrainReview],
    domain: Domain,
    positive_rating: float,
    most: int,
    encoder_languages: Sequence[str] = (),
) -> list[Evidence]:
    """Usable sentences of the reviews, about `most` of them.

    Of an item with more, whole reviews are drawn by the hash of their ids, so that the sample is the same for a given
    set of reviews, and a few new ones change little of it; reviews of the rarer verdict keep a third of the room, so that
    a minority is heard. Deterministic, whatever the order of the reviews. Sentences that occur twice count once.
    encoder_languages: what the sentence encoder reads; empty: everything.
    """
    told: dict[str, list[Evidence]] = {}
    known: set[str] = set()
    for review in sorted(reviews, key=lambda review: _draw(review.review_id)):
        found = [
            piece
            for piece in _read(review, domain, positive_rating, encoder_languages)
            if piece.text.lower() not in known
        ]
        if any(not piece.is_title for piece in found):
            told[review.review_id] = found
            known.update(piece.text.lower() for piece in found if not piece.is_title)
    pools: dict[bool, list[list[Evidence]]] = {True: [], False: []}
    for found in told.values():
        pools[found[0].verdict == "positive"].append(found)
    minor, major = sorted(pools.values(), key=lambda pool: sum(map(len, pool)))
    room = max(round(MIN_MINORITY_SHARE * most), most - sum(map(len, major)))
    chosen = _fill(minor, room)
    return chosen + _fill(major, most - len(chosen))


def passages_of(
    evidence: Sequence[Evidence], vectors: np.ndarray, is_for: bool, with_foreign: bool = False
) -> tuple[Passages, list[list[int]]]:
    """The passages of one side that the sentence encoder can read (or all), and for each the places of its sentences in `evidence`.

    vectors: float32 (len(evidence), d). A review's sentences in their order, a few at a time; its title goes with the first.
    """
    of_review: dict[str, list[int]] = defaultdict(list)
    for place, sentence in enumerate(evidence):
        if sentence.is_for == is_for and (with_foreign or not sentence.is_foreign):
            of_review[sentence.review_id].append(place)
    places: list[list[int]] = []
    for review_id in sorted(of_review):
        said = sorted(of_review[review_id], key=lambda place: evidence[place].start)
        titles = [place for place in said if evidence[place].is_title]
        body = said[len(titles) :]
        for start in range(0, len(body), PASSAGE_SENTENCES):
            places.append([*(titles if start == 0 else ()), *body[start : start + PASSAGE_SENTENCES]])
    flat = [place for passage in places for place in passage]
    starts = np.cumsum([0, *map(len, places)])
    rows = [range(starts[number], starts[number + 1]) for number in range(len(places))]
    return Passages([evidence[place].text for place in flat], vectors[flat], rows), places


def group_evidence(
    evidence: Sequence[Evidence], vectors: np.ndarray, tastes: Tastes, most_groups: int, near_tie: float
) -> list[Group]:
    """The groups of one item, most reviews first; never more than `most_groups`, and one if there is one review.

    vectors: float32 (len(evidence), d), unit length. Passages that are about one topic are one group, so the number of
    groups follows the variety of what is said. Where nothing that speaks for the item has a topic, the most central of
    these sentences make one group without one. The largest group of either side keeps a place.
    near_tie: nats per sentence within which two topics of a group do not differ.
    """
    if not evidence:
        return []
    only_one = len({sentence.review_id for sentence in evidence}) == 1
    groups: list[Group] = []
    for is_for in (True, False):
        passages, places = passages_of(evidence, vectors, is_for)
        found = _by_topic(evidence, vectors, passages, places, tastes.side(is_for), is_for, near_tie)
        if not found and (is_for or not groups):
            _, places = passages_of(evidence, vectors, is_for, with_foreign=True)
            found = [_without_topic(evidence, vectors, places, is_for)] if places else []
        groups += found
    groups.sort(key=lambda group: (-len(group.review_ids), group.evidence[0].review_id, group.evidence[0].text))
    return [groups[place] for place in largest([group.polarity for group in groups], 1 if only_one else most_groups)]


def largest(polarities: Sequence[Polarity], most: int) -> list[int]:
    """The first `most` places of what is sorted by size; if there is room for two, the first of either side is among them.

    Critical is one side, all else the other.
    """
    places = list(range(len(polarities)))[:most]
    for side in (True, False):
        first = next((place for place, polarity in enumerate(polarities) if (polarity == "critical") == side), None)
        if first is not None and first not in places and len(places) > 1:
            places[-1] = first
    return places


def _read(
    review: TrainReview, domain: Domain, positive_rating: float, encoder_languages: Sequence[str]
) -> list[Evidence]:
    """The title and the usable sentences of one review, with their side; those that contradict the rating are left out."""
    verdict: Verdict = "negative"
    if review.is_positive:
        verdict = "positive"
    elif review.rating is not None and review.rating >= positive_rating - NEUTRAL_BAND:
        verdict = "neutral"
    is_foreign = bool(encoder_languages and review.language and review.language not in encoder_languages)
    found: list[Evidence] = []
    title = tidy(review.title or "", 120)
    if title and is_usable_title(title, domain):
        is_for = verdict == "positive" or (verdict == "neutral" and sentence_stance(title) > 0)
        found.append(Evidence(review.review_id, title, -1, -1, is_for, verdict, is_foreign))
    for piece in safe_sentences(review.text, domain):
        if not is_usable(piece.text, domain):
            continue
        stance = sentence_stance(piece.text)
        if verdict == "neutral":
            is_for = stance > CLEAR_STANCE
        elif stance * (1 if verdict == "positive" else -1) <= -CONTRADICTING_STANCE:
            continue
        else:
            is_for = verdict == "positive"
        quote = tidy(piece.text, 400)
        found.append(Evidence(review.review_id, quote, piece.start, piece.end, is_for, verdict, is_foreign))
        if len(found) == MAX_REVIEW_SENTENCES:
            break
    return found


def is_usable_title(title: str, domain: Domain) -> bool:
    """Whether a review's title may help to tell what the review is about: it is safe and has a word of its own."""
    return bool(safe_sentences(title, domain)) and not title.lower().endswith((" stars", " star"))


def _draw(review_id: str) -> tuple[bytes, str]:
    return hashlib.md5(review_id.encode(), usedforsecurity=False).digest(), review_id


def _fill(pool: Sequence[Sequence[Evidence]], room: int) -> list[Evidence]:
    chosen: list[Evidence] = []
    for found in pool:
        if chosen and len(chosen) + len(found) > room:
            break
        chosen += found
    return chosen[: max(room, 0)]


def _by_topic(
    evidence: Sequence[Evidence],
    vectors: np.ndarray,
    passages: Passages,
    places: Sequence[Sequence[int]],
    recogniser: Recogniser,
    is_for: bool,
    near_tie: float,
) -> list[Group]:
    recognised = recogniser.recognise(passages)
    place_rows = {place: row for row, place in enumerate(place for passage in places for place in passage)}
    decided = recognised.probabilities.argmax(axis=1)
    groups = []
    for number, topic in enumerate(recogniser.topics):
        members = np.flatnonzero(decided == number)
        if not len(members) or recognised.weights[number] < MIN_WEIGHT:
            continue
        if not recogniser.is_sure(number, recognised.alone[members, number]):
            continue
        said: list[tuple[float, int]] = []
        for member in members:
            own = {place: recognised.by_sentence[place_rows[place], number] for place in places[member]}
            body = [place for place in places[member] if not evidence[place].is_title]
            # What a passage says beside its topic is no evidence of it; its most telling sentence always is.
            best = max(body, key=lambda place: (own[place], -place))
            for place in body:
                scores = recognised.by_sentence[place_rows[place]]
                rival = max(np.sort(scores)[-CLOSE_RANK], scores[len(recogniser.topics) :].max())
                if place == best or own[place] >= rival:
                    said.append((float(own[place]), place))
        advantage = recognised.advantage[members].mean(axis=0)[: len(recogniser.topics)]
        close = [int(other) for other in np.argsort(-advantage, kind="stable")]
        near = tuple(recogniser.topics[other] for other in close if advantage[other] >= advantage[number] - near_tie)
        groups.append(_group(evidence, vectors, said, is_for, topic, near))
    return groups


def _without_topic(
    evidence: Sequence[Evidence], vectors: np.ndarray, places: Sequence[Sequence[int]], is_for: bool
) -> Group:
    """The largest like-minded part of what is said about nothing in particular."""
    body = [place for passage in places for place in passage if not evidence[place].is_title]
    labels = np.ones(len(body), dtype=int)
    if len(body) > 3:
        labels = fcluster(linkage(vectors[body].astype(np.float64), method="ward"), len(body) // 3, "maxclust")
    sizes = {label: len({evidence[p].review_id for p, own in zip(body, labels, strict=True) if own == label})
             for label in sorted(set(labels.tolist()))}  # fmt: skip
    largest = max(sizes, key=lambda label: (sizes[label], -label))
    members = [place for place, label in zip(body, labels, strict=True) if label == largest]
    centre = _centre(vectors[members])
    return _group(evidence, vectors, [(float(vectors[place] @ centre), place) for place in members], is_for, None, ())


def _group(
    evidence: Sequence[Evidence],
    vectors: np.ndarray,
    said: Sequence[tuple[float, int]],
    is_for: bool,
    topic: Topic | None,
    near: tuple[Topic, ...],
) -> Group:
    def telling(entry: tuple[float, int]) -> tuple[float, str, str]:
        score, place = entry
        # A quote that is a fragment or a paragraph says less than its probability promises.
        fits = QUOTE_LENGTHS[0] <= len(evidence[place].text) <= QUOTE_LENGTHS[1]
        return -(score + (0.5 if fits else 0.0)), evidence[place].review_id, evidence[place].text

    order = [place for _, place in sorted(said, key=telling)]
    sentences = tuple(evidence[place] for place in order)
    reviews = dict.fromkeys(sentence.review_id for sentence in sentences)
    verdicts = {sentence.review_id: sentence.verdict for sentence in sentences}
    undecided = sum(verdict != "positive" for verdict in verdicts.values()) / len(verdicts)
    polarity: Polarity = "critical" if not is_for else "mixed" if undecided > MIXED_SHARE else "appreciative"
    return Group(sentences, tuple(reviews), _centre(vectors[order]), polarity, topic, near)


def _centre(vectors: np.ndarray) -> np.ndarray:
    mean = vectors.mean(axis=0)
    return mean / max(float(np.linalg.norm(mean)), 1e-12)
