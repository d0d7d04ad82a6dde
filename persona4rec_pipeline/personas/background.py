"""What persona construction knows of a catalogue beside the item at hand: how it speaks, and what is said of other items.

Belongs here: the sample of a catalogue, the recognisers adapted to it, and the support of a persona, measured against it.
Does not belong here: which items are sampled (`refresh.py`) and what is made of an item (`construct.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from persona4rec_pipeline.personas.domains import Domain
from persona4rec_pipeline.personas.grouping import Evidence, TrainReview, collect_evidence, passages_of
from persona4rec_pipeline.personas.polarity import feeling_words
from persona4rec_pipeline.personas.tastes import Embed, Tastes
from persona4rec_pipeline.personas.text import words
from persona4rec_pipeline.personas.wording import PhraseStatistics
from persona4rec_pipeline.settings import PersonaSettings

# Sentences of an item that enter the sample of the catalogue.
SAMPLE_SENTENCES = 120
# Sentences of the background: the resolution of a support.
MAX_BACKGROUND = 1000


@dataclass(frozen=True)
class ItemEvidence:
    """All that persona construction reads of one item."""

    catalog: str
    item_id: str
    title: str
    summary: str
    categories: tuple[str, ...]
    reviews: tuple[TrainReview, ...]  # train reviews with enough aspects to be evidence
    tuples: tuple[tuple[str, str], ...]  # (review_id, "taste: ...; quality: ..."), for the full prompt


@dataclass(frozen=True, eq=False)
class Catalogue:
    """What construction knows of the catalogue beside the item at hand.

    statistics: how common words are. vocabulary: lower-cased words that are plainly no names: those that reviews, the
    domain and feelings are told in. tastes: the recognisers. background: sentences of some of its items, as (item_id,
    whether it speaks for the item) and unit vectors, float32 (n, d); what a persona is measured against.
    """

    statistics: PhraseStatistics
    vocabulary: frozenset[str]
    tastes: Tastes
    background: Sequence[tuple[str, bool]]
    vectors: np.ndarray

    def support(self, item_id: str, is_for: bool, claim: np.ndarray, evidence: np.ndarray) -> float | None:
        """How much better a persona fits its evidence than what is said of other items: 0 to 1.

        The share of other items' sentences (of the same side) that are less like the claim than its evidence is, mean
        over the evidence: the area under the ROC curve, as Mann and Whitney's U counts it. claim: (d,), evidence: (n, d),
        unit vectors. None without evidence or without anything to compare it with.
        """
        others = [row for row, (item, side) in enumerate(self.background) if item != item_id and side == is_for]
        if not len(evidence) or not others:
            return None
        level = np.sort(self.vectors[others] @ claim)
        found = np.searchsorted(level, evidence @ claim, side="left") / len(level)
        return float(found.mean())


def sample_sentences(
    items: Sequence[ItemEvidence], embed: Embed, settings: PersonaSettings, domain: Domain, positive_rating: float
) -> list[tuple[str, list[Evidence], np.ndarray]]:
    """(item id, evidence, vectors) of a sample of items: what the recognisers adapt to, and the background is drawn from."""
    evidence = [
        (
            item.item_id,
            collect_evidence(item.reviews, domain, positive_rating, SAMPLE_SENTENCES, settings.encoder_languages),
        )
        for item in items
    ]
    vectors = embed([sentence.text for _, found in evidence for sentence in found])
    sampled = []
    start = 0
    for item_id, found in evidence:
        sampled.append((item_id, found, vectors[start : start + len(found)]))
        start += len(found)
    return sampled


def know_catalogue(
    sampled: Sequence[tuple[str, list[Evidence], np.ndarray]],
    statistics: PhraseStatistics,
    domain: Domain,
    embed: Embed,
) -> Catalogue:
    """Recognisers adapted to a sample of the catalogue's items, and the background."""
    tastes = Tastes(domain, embed)
    for is_for in (True, False):
        passages = [passages_of(found, vectors, is_for)[0] for _, found, vectors in sampled]
        tastes.side(is_for).adapt([entry for entry in passages if entry.rows])
    rows = [
        (item_id, sentence.is_for, vector)
        for item_id, found, vectors in sampled
        for sentence, vector in zip(found, vectors, strict=True)
        if not sentence.is_title
    ]
    rows = rows[:: -(-len(rows) // MAX_BACKGROUND)] if rows else []
    background = [(item_id, is_for) for item_id, is_for, _ in rows]
    topics = [*domain.tastes.values(), *domain.complaints.values()]
    said = words(" ".join(text for topic in topics for text in (topic.name, topic.who, topic.meaning, *topic.says)))
    vocabulary = frozenset(said) | feeling_words() | (set(statistics.counts) - statistics.names)
    against = np.stack([vector for *_, vector in rows]) if rows else np.zeros((0, 1))
    return Catalogue(statistics, vocabulary, tastes, background, against)
