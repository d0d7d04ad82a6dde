"""Small pieces of a catalogue for the tests of persona construction, and an encoder of words that needs no model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from zlib import crc32

import numpy as np

from persona4rec_pipeline.personas.background import Catalogue, ItemEvidence, know_catalogue, sample_sentences
from persona4rec_pipeline.personas.domains import get_domain
from persona4rec_pipeline.personas.grouping import TrainReview
from persona4rec_pipeline.personas.tastes import Tastes
from persona4rec_pipeline.personas.text import content_words
from persona4rec_pipeline.personas.wording import PhraseStatistics
from persona4rec_pipeline.settings import PersonaSettings

BOOK = get_domain("book")
SETTINGS = PersonaSettings()


def embed_words(texts: Sequence[str]) -> np.ndarray:
    """Unit vectors, float32 (n, 64), in which texts that share content words are close: a bag of hashed words."""
    vectors = np.full((len(texts), 64), 1e-3, dtype=np.float32)
    for row, text in enumerate(texts):
        for word in content_words(text):
            vectors[row] += _word_vector(word.rstrip("s"))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@cache
def _word_vector(word: str) -> np.ndarray:
    return np.random.default_rng(crc32(word.encode())).normal(size=64).astype(np.float32)


def review(review_id: str, text: str, rating: float | None = 5.0) -> TrainReview:
    return TrainReview(review_id, text, rating is None or rating >= 4, rating)


def item(*reviews: TrainReview, title: str = "The Old House", item_id: str = "b1") -> ItemEvidence:
    tuples = tuple((entry.review_id, f"quality criteria: {entry.text}") for entry in reviews)
    summary = "A family moves into an old house on the moor and learns who lived there before."
    return ItemEvidence("books", item_id, title, summary, ("Books", "Horror"), reviews, tuples)


def gothic_and_comic_reviews() -> list[TrainReview]:
    """Six readers who love the dread and six who love the jokes, and two who find it slow."""
    dread = [
        "creeping fear",
        "an atmosphere of dread",
        "dark houses and dread",
        "fear that lingers",
        "dark dread",
        "fear",
    ]
    jokes = [
        "jokes that made me laugh",
        "silly mishaps and jokes",
        "I laugh at the jokes",
        "silly jokes",
        "mishaps",
        "jokes",
    ]
    slow = ["The plot crawls and nothing happens in many chapters", "A plot that crawls, chapters drag"]
    return [
        *(review(f"d{n}", f"I shivered at {words} in the dark corridor number {n}.") for n, words in enumerate(dread)),
        *(
            review(f"j{n}", f"Wonderful are {words} about the silly butler number {n}.")
            for n, words in enumerate(jokes)
        ),
        *(review(f"s{n}", f"{words}.", rating=1.0) for n, words in enumerate(slow)),
    ]


def statistics_of(*items: ItemEvidence) -> PhraseStatistics:
    return PhraseStatistics.of((entry.text for item in items for entry in item.reviews), BOOK)


@cache
def tastes() -> Tastes:
    return Tastes(BOOK, embed_words)


@cache
def catalogue_of(*items: ItemEvidence) -> Catalogue:
    sampled = sample_sentences(items, embed_words, SETTINGS, BOOK, 4.0)
    return know_catalogue(sampled, statistics_of(*items), BOOK, embed_words)
