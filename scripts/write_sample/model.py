"""The records that the other modules hand to each other. No behaviour beyond small look-ups belongs here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Motive:
    """A reason for which people take to a book, or are put off it, with the sentences they say it in."""

    motive_id: str
    polarity: str
    name: str
    description: str
    sentences: dict[str, list[str]]


@dataclass(frozen=True)
class Passage:
    """What one book offers for one motive: noun phrases to put into frames, and remarks that stand alone."""

    moments: list[str]
    remarks: list[str]


@dataclass(frozen=True)
class Book:
    """One title with its metadata and what is planted in it."""

    asin: str
    title: str
    author: str
    first_published: str
    popularity: float
    spoken_name: str
    categories: list[str]
    features: list[str]
    description: str
    appreciative: dict[str, Passage]
    critical: dict[str, Passage]

    @property
    def surname(self) -> str:
        """The name by which readers refer to the author."""
        return SURNAMES.get(self.author, self.author.split()[-1])


# Authors whose last word is not the name that people use.
SURNAMES = {
    "Arthur Conan Doyle": "Conan Doyle",
    "Frances Hodgson Burnett": "Hodgson Burnett",
    "Marcus Aurelius": "Marcus Aurelius",
}


@dataclass(frozen=True)
class OneOff:
    """A review that was written whole, to be used at most once."""

    kind: str
    asin: str
    motive_id: str | None
    rating: float
    title: str
    text: str


@dataclass
class Reader:
    """A person: what they like, what annoys them, how they live and how they talk."""

    user_id: str
    tastes: list[str]
    late_taste: str | None
    peeve: str
    life: str
    register: str
    american_spelling: bool
    review_count: int
    one_off: OneOff | None = None

    def tastes_at(self, position: int, total: int) -> list[str]:
        """Return the tastes held at one review: the late taste replaces the second one in the last third."""
        if self.late_taste is None or position * 3 < total * 2:
            return self.tastes
        return [self.tastes[0], self.late_taste]


@dataclass
class PlannedReview:
    """A decision that a reader reviews a book, before any word of it is written."""

    reader: Reader
    book: Book
    timestamp: int
    kind: str
    motive_id: str | None
    rating: float
    one_off: OneOff | None = None


@dataclass(frozen=True)
class WrittenReview:
    """A planned review with its words."""

    plan: PlannedReview
    title: str
    text: str
    helpful_vote: int
    verified_purchase: bool
