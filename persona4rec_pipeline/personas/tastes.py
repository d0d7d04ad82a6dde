"""Which kind of taste or of complaint a passage of a review is about.

Belongs here: the recogniser, learnt from the domain's example sentences and adapted to a catalogue. Does not belong
here: the examples themselves (`domain_words/`), how passages become groups (`grouping.py`) and how a persona is worded
(`wording.py`).

A passage is a few neighbouring sentences of one review, for or against the item. Each sentence is a unit vector of the
sentence encoder beside the words that it shares with the examples, because meaning alone is blind to telling words
("glacial pace"). Softmax regression gives the probability of every topic, of idle talk, of talk about the occasion and
about the shop. Which topics an item has is then decided for all its passages together: a mixture per item, fitted by
expectation maximisation, in which a topic with too little weight dies out (a Dirichlet prior below 1) and topics that are
common in the catalogue start ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from persona4rec_pipeline.personas.domains import Domain, Topic
from persona4rec_pipeline.personas.text import content_words, stem

Embed = Callable[[Sequence[str]], np.ndarray]

# Inverse strength of the regularisation, of the examples alone and with sentences of the catalogue beside them.
EXAMPLES_C = 20.0
ADAPTED_C = 50.0
# How sure a passage must be for its sentences to become examples, and what one weighs beside a written example.
SURE = 0.9
PASSAGE_WEIGHT = 0.3
ADAPTATIONS = 1
# Written examples that the passages of a topic may weigh in sum.
MOST_WEIGHT = 9.0
# What idle talk and talk about the occasion lose per sentence, in nats: a passage may be about something even if most of
# it is chat.
IDLE_PENALTY = 0.5
# Weight (in passages) that a topic of an item loses in every step, and that the catalogue's prior adds.
SPARSITY = 0.3
PRIOR_WEIGHT = 3.0
# Weight, in passages, that a topic needs to make a group.
MIN_WEIGHT = 0.8
# With hardly more items than this nothing can be called common.
FEW_ITEMS = 10
_STEPS = 30
_FLOOR = 1e-3
# What reviews of anything say, whatever they are about.
_IDLE_TALK = (
    "I read it last week and finished it in two days.",
    "I had put this off for far too long.",
    "I would recommend it to anyone.",
    "It was as good as everybody says.",
    "I have been using it every day at home.",
    "My sister gave it to me for my birthday.",
    "There is a reason people still talk about it.",
    "I kept thinking about it on the train.",
    "Some parts were better than others.",
    "It has earned its place on my shelf.",
    "I did not expect to like it this much.",
    "What stays with me is the scene with the two of them.",
)
# What they say of themselves and of the occasion.
_OCCASION_TALK = (
    "It was assigned at college and I kept my copy.",
    "Our club picked it for March and everybody came.",
    "I did it in the night train, half asleep.",
    "It took me three weeks of lunch breaks.",
    "At seventy I finally have the time for such things.",
    "English is my second language and I managed well.",
    "With small children I get ten minutes a night.",
    "I have used it in my class for eight years.",
    "I took it on holiday and finished it by the pool.",
    "I do not usually go for this kind of thing.",
    "It was on a list of things everybody should know.",
    "This is my third time, with the same old copy.",
    "Thank you, whoever you are!",
    "What a joy, five stars.",
)
# What they say of the shop and the parcel, and not of the item.
_SHOP_TALK = (
    "It arrived a week late and the box was crushed.",
    "It came quickly and was well packed.",
    "I ordered it for the first day of term and it came on Friday.",
    "The seller never answered my message.",
    "The price went down by half the day after I bought it.",
    "I sent it back and got a refund.",
    "My copy had a torn cover and a page was missing.",
    "This is not the edition that the listing shows.",
    "They sent me the wrong one twice.",
    "Would buy again from this shop.",
    "The download did not work on my device.",
    "Cheaper here than anywhere else in town.",
)


@dataclass(frozen=True)
class Passages:
    """Passages of one item: the texts of their sentences, the vectors of these, float32 (sentences, d), and for each
    passage its rows among them."""

    texts: Sequence[str]
    vectors: np.ndarray
    rows: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Recognised:
    """What the passages of an item are about.

    probabilities: float64 (passages, topics + 3), rows sum to 1, the last columns are idle talk, occasions and the shop.
    advantage: float64, same shape: log probability of each topic by the passage alone, per sentence. by_sentence: float64
    (sentences, topics + 3). alone: float64, shape of probabilities: by the passage alone, whatever else the item has.
    """

    probabilities: np.ndarray
    advantage: np.ndarray
    by_sentence: np.ndarray
    alone: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """Passages per topic, float64 (topics + 3,)."""
        return self.probabilities.sum(axis=0)


class Recogniser:
    """Tells which of some topics passages are about. `topics` in the order of the columns of `Recognised`."""

    def __init__(self, topics: Mapping[str, Topic], embed: Embed):
        """embed: texts -> float32 (n, d), unit length."""
        self.topics = list(topics.values())
        texts: list[str] = []
        labels: list[int] = []
        for label, topic in enumerate(self.topics):
            examples = [f"{topic.name}: {topic.meaning}", *topic.says]
            texts += examples
            labels += [label] * len(examples)
        self._idle = len(self.topics)
        for column, talk in ((self._idle, _IDLE_TALK), (self._idle + 1, _OCCASION_TALK), (self._idle + 2, _SHOP_TALK)):
            texts += talk
            labels += [column] * len(talk)
        self._columns = self._idle + 3
        self._words = TfidfVectorizer(analyzer=_stems, sublinear_tf=True).fit(texts)
        self._features = self._of(texts, embed(texts))
        self._labels = np.array(labels)
        self._model = _fitted(EXAMPLES_C, self._features, self._labels, None)
        self._prior = np.full(self._columns, 1 / self._columns)
        self._commonness = np.zeros(self._columns)

    def adapt(self, items: Sequence[Passages]) -> None:
        """Learn how this catalogue speaks: passages that are surely about a topic become examples of it.

        items: passages of a sample of its items. Deterministic. Without a sure passage nothing changes but the prior.
        """
        features = [self._of(item.texts, item.vectors) for item in items]
        for last in range(ADAPTATIONS + 1):
            found = [self._recognise(item, known) for item, known in zip(items, features, strict=True)]
            self._prior = self._common_topics(found)
            if last == ADAPTATIONS:
                self._commonness = self._share_of_items(items, features)
                return
            rows, labels, weights = [], [], []
            for item, known, recognised in zip(items, features, found, strict=True):
                for passage, probabilities in zip(item.rows, recognised.probabilities, strict=True):
                    label = int(probabilities.argmax())
                    if probabilities[label] >= SURE:
                        rows.append(known[list(passage)])
                        labels += [label] * len(passage)
                        weights += [PASSAGE_WEIGHT * probabilities[label] / np.sqrt(len(passage))] * len(passage)
            if rows:
                own = np.array(weights)
                # However often a topic is met, its passages weigh no more than so many written examples: a topic that is
                # met often would otherwise take over those beside it.
                total = np.bincount(labels, own, self._columns)
                own *= np.minimum(1.0, MOST_WEIGHT / np.maximum(total, 1e-12))[labels]
                self._model = _fitted(
                    ADAPTED_C,
                    np.concatenate([self._features, *rows]),
                    np.concatenate([self._labels, labels]),
                    np.concatenate([np.ones(len(self._labels)), own]),
                )

    def recognise(self, item: Passages) -> Recognised:
        """What the passages of one item are about; deterministic, and independent of their order up to rounding."""
        return self._recognise(item, self._of(item.texts, item.vectors))

    def _recognise(self, item: Passages, features: np.ndarray) -> Recognised:
        if not len(item.rows):
            nothing = np.zeros((0, self._columns))
            return Recognised(nothing, nothing, nothing, nothing)
        by_sentence = self._model.predict_log_proba(features)
        evidence = np.stack([by_sentence[list(rows)].sum(axis=0) for rows in item.rows])
        lengths = np.array([len(rows) for rows in item.rows])
        evidence[:, self._idle : self._idle + 2] -= IDLE_PENALTY * lengths[:, None]
        mixture = self._prior
        for _ in range(_STEPS):
            probabilities = softmax(evidence + np.log(mixture), axis=1)
            mixture = np.maximum(probabilities.sum(axis=0) - SPARSITY, 0) + PRIOR_WEIGHT * self._prior + _FLOOR
            mixture = mixture / mixture.sum()
        return Recognised(probabilities, evidence / lengths[:, None], by_sentence, softmax(evidence, axis=1))

    def is_sure(self, number: int, alone: np.ndarray) -> bool:
        """Whether one of a topic's passages is by itself at least as surely about it as the topic is common.

        number: the topic's column; alone: of its passages and this topic, float64 (passages,), as in `Recognised`. A topic
        found on two items of three has become what anything is about that is about nothing else; it has to be stated.
        """
        return bool(alone.max() >= self._commonness[number])

    def _share_of_items(self, items: Sequence[Passages], features: Sequence[np.ndarray]) -> np.ndarray:
        """Share (0-1) of the items that each topic has weight enough on, float64 (topics + 3,), lower for few items."""
        if not items:
            return np.zeros(self._columns)
        found = [self._recognise(item, known) for item, known in zip(items, features, strict=True)]
        return np.sum([recognised.weights >= MIN_WEIGHT for recognised in found], axis=0) / (len(found) + FEW_ITEMS)

    def _common_topics(self, found: Sequence[Recognised]) -> np.ndarray:
        # An item counts for so much and no more: one best-seller is not the catalogue.
        total = sum((np.minimum(recognised.weights, 4.0) for recognised in found), np.zeros(self._columns))
        prior = total + 0.5
        return prior / prior.sum()

    def _of(self, texts: Sequence[str], vectors: np.ndarray) -> np.ndarray:
        if not len(texts):
            return np.zeros((0, vectors.shape[1] + len(self._words.vocabulary_)), np.float32)
        return np.hstack([vectors, self._words.transform(texts).toarray().astype(np.float32)])


class Tastes:
    """The recognisers of a domain: of tastes, for what speaks for an item, and of complaints, for what speaks against."""

    def __init__(self, domain: Domain, embed: Embed):
        """embed: texts -> float32 (n, d), unit length."""
        self._for = Recogniser(domain.tastes, embed)
        self._against = Recogniser(domain.complaints, embed)

    def side(self, is_for: bool) -> Recogniser:
        return self._for if is_for else self._against


def _stems(text: str) -> list[str]:
    return [stem(word) for word in content_words(text)]


def _fitted(
    inverse_strength: float, features: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
) -> LogisticRegression:
    # Handing such small products to several threads takes longer than the products, and far longer beside other work.
    with threadpool_limits(1):
        return LogisticRegression(C=inverse_strength, max_iter=1000).fit(features, labels, sample_weight=weights)
