"""What a persona is, and when one is good enough to be published.

Belongs here: the records, their limits, and the acceptance gate. Does not belong here: how personas are made
(`construct.py`, `compact_profile.py`, `full_profile.py`) and what no published text may say (`publishing.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from persona4rec_pipeline.personas.domains import Domain
from persona4rec_pipeline.personas.polarity import Polarity
from persona4rec_pipeline.personas.text import is_usable, repeats_itself, words
from persona4rec_pipeline.personas.wording import claim
from persona4rec_pipeline.settings import PersonaSettings

MAX_QUOTES = 3
MAX_QUOTE_CHARACTERS = 220
MAX_DESCRIPTION_CHARACTERS = 600
MAX_RATIONALE_CHARACTERS = 320
# Sentences of a persona whose fit with it is measured.
MAX_SUPPORTING = 8
_MARKUP = re.compile(r"[<>{}\[\]|`]|https?:|www\.|\S+@\S+")


@dataclass(frozen=True)
class Span:
    """Characters [start, end) of the text of a review."""

    review_id: str
    start: int
    end: int


@dataclass(frozen=True)
class Persona:
    """One persona of one item; see the table `personas` in warehouse/schema.sql."""

    item_id: str
    persona_id: str
    name: str
    description: str
    preference_rationale: str
    polarity: Polarity
    evidence_review_ids: tuple[str, ...]
    evidence_spans: tuple[Span, ...]
    quotes: tuple[str, ...]
    support: float | None
    language: str
    source: Literal["llm", "extractive", "summary"]
    fallback_reason: str | None = None

    @property
    def claim(self) -> str:
        """What it says of people, without the quotes that back it."""
        return claim(self.name, self.description)


@dataclass(frozen=True)
class Rejected:
    """A persona that was not published; see the table `rejected_personas`. attempt: 1, or 2 after it was told why."""

    item_id: str
    name: str
    description: str
    polarity: str
    support: float | None
    source: Literal["llm", "extractive"]
    attempt: int
    reason: str


def acceptance_problem(
    name: str, description: str, title: str, support: float | None, settings: PersonaSettings, domain: Domain
) -> str | None:
    """Why a generated persona is not accepted, or None when it is.

    support: as `Catalogue.support` gives it, None where it could not be measured.
    """
    name_words = words(name)
    if not 2 <= len(name_words) <= 6 or len(name) > 60:
        return "the name is not two to six words"
    if len(set(name_words)) < len(name_words):
        return "the name repeats a word"
    title_words = set(words(title)) - {"the", "a", "an", "of", "and", "in", "to"}
    if title_words and title_words & set(name_words) - domain.generic_words:
        return "the name is made of the title"
    if name_words[0] in {"the", "this", "a", "an"} and len(name_words) < 3:
        return "the name names a thing, not a kind of person"
    if len(words(description)) < 6:
        return "the description says too little"
    if settings.language == "en":
        if not re.search(rf"\b(?:{domain.person}s?|they|people|someone|those|who)\b", description, re.IGNORECASE):
            return "the description is not about a kind of person"
        if re.search(r"\b(?:I|my|me)\b", description):
            return "the description is in the first person"
    if repeats_itself(description):
        return "the description repeats itself"
    if _MARKUP.search(name + description) or not is_usable(description, domain):
        return "the text carries markup, a link or an instruction"
    return support_problem(support, settings)


def persona_identifier(name: str, taken: Iterable[str]) -> str:
    """A readable id, unique in its item: the name in lower case with hyphens, so that the same name keeps its id."""
    base = "-".join(words(name))[:60].strip("-") or "persona"
    taken = set(taken)
    if base not in taken:
        return base
    return next(f"{base}-{number}" for number in range(2, 1000) if f"{base}-{number}" not in taken)


def support_problem(support: float | None, settings: PersonaSettings) -> str | None:
    if support is not None and support < settings.min_support:
        return f"its evidence does not support it ({support:.2f} < {settings.min_support:.2f})"
    return None


def rejection(persona: Persona, attempt: int, reason: str) -> Rejected:
    source: Literal["llm", "extractive"] = "llm" if persona.source == "llm" else "extractive"
    return Rejected(
        persona.item_id,
        persona.name,
        persona.description,
        persona.polarity,
        persona.support,
        source,
        attempt,
        reason,
    )
