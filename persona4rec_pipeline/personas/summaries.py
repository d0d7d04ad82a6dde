"""What an item is, in two or three neutral sentences, and a title for items whose source gives none.

Belongs here: summaries from metadata or, without metadata, from train reviews; the gate that keeps invention out. Does
not belong here: anything about who likes the item.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from persona4rec_pipeline.generation import PromptTemplate, Request, delimit
from persona4rec_pipeline.generation.cleaning import without_markup
from persona4rec_pipeline.generation.scrub import publishable
from persona4rec_pipeline.personas.domains import Domain
from persona4rec_pipeline.personas.hostile import is_hostile, is_suspicious
from persona4rec_pipeline.personas.text import (
    content_words,
    is_usable,
    phrases,
    repeats_itself,
    safe_sentences,
    sentences,
    shares_words,
    tidy,
    words,
)

MAX_SUMMARY_CHARACTERS = 420
MAX_FACTS_CHARACTERS = {"compact": 700, "full": 4000}
# Share of a generated summary's content words that must stand in what it summarises.
MIN_SHARED_WORDS = 0.75
_CAPITAL = re.compile(r"(?<![.!?]\s)(?<!^)\b[A-Z][\w'’-]+")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class ItemFacts:
    """What is known of one item: metadata as far as the source has it, and usable sentences of its train reviews."""

    catalog: str
    item_id: str
    title: str | None
    description: str | None
    categories: tuple[str, ...]
    attributes: str | None  # JSON object as text
    review_sentences: tuple[str, ...]

    def __post_init__(self) -> None:
        """Metadata comes from strangers too (a marketplace's sellers): what could not be published is as good as absent."""
        object.__setattr__(self, "title", safe_metadata(self.title))
        object.__setattr__(self, "description", safe_metadata(self.description))
        object.__setattr__(self, "categories", safe_categories(self.categories))

    @property
    def has_metadata(self) -> bool:
        return bool(self.title or self.description)


@dataclass(frozen=True)
class ItemSummary:
    """Title and summary of one item."""

    title: str
    summary: str
    source: Literal["llm", "extractive"]


def safe_metadata(text: str | None) -> str | None:
    """A title or description as it may be shown: scrubbed, without markup, without the sentences that give orders or
    advertise; None where nothing is left, or where the whole was written for a machine."""
    # Sellers write HTML in good faith; it is taken out, and what is left is judged.
    if not text or is_hostile(without_markup(text)):
        return None
    cleaned = publishable(text)
    kept = [piece.text for piece in sentences(cleaned) if not is_suspicious(piece.text)]
    return (cleaned if len(kept) == len(sentences(cleaned)) else " ".join(kept)) or None


def safe_categories(categories: Sequence[str]) -> tuple[str, ...]:
    """The categories that may be shown; one with personal data, markup or an order in it is left out whole."""
    return tuple(text for text in categories if publishable(text) == " ".join(text.split()) and not is_suspicious(text))


def item_title(facts: ItemFacts, domain: Domain) -> str:
    """The item's title; without one, the opening of its description, or what most of its train reviews speak of."""
    if facts.title:
        return tidy(facts.title, 160)
    if facts.description:
        return tidy(facts.description, 60)
    counts = Counter(phrase for text in facts.review_sentences for phrase in set(phrases(text, domain, set())))
    # Two words name a thing better than one, if at least two reviews use them.
    for wanted in (2, 1):
        common = [(count, phrase) for phrase, count in counts.items() if count >= 2 and len(phrase.split()) == wanted]
        if common:
            return max(common, key=lambda pair: (pair[0], pair[1]))[1].capitalize()
    return f"Untitled {domain.item}"


def known_facts(facts: ItemFacts, max_characters: int) -> str:
    """The facts that a summary may use, on one line."""
    parts: list[str] = []
    if facts.description:
        parts.append(tidy(facts.description, max_characters))
    if facts.categories:
        parts.append(", ".join(facts.categories[-4:]) + ".")
    if facts.attributes:
        named = {key: value for key, value in json.loads(facts.attributes).items() if isinstance(value, str)}
        for key in ("author", "Author", "director", "brand", "store", "city"):
            if named.get(key) and (name := safe_metadata(named[key])):
                parts.append(f"{key.capitalize()}: {name}.")
                break
    if not facts.has_metadata or not parts:
        parts += [tidy(text, 200) for text in facts.review_sentences[:6]]
    return tidy(" ".join(parts), max_characters)


def extract_summary(facts: ItemFacts, domain: Domain) -> ItemSummary:
    """Summary by rules: the first sentences of the description and the categories; else what reviews mention most."""
    title = item_title(facts, domain)
    kind = ", ".join(category for category in facts.categories[-3:] if category.lower() not in domain.generic_words)
    if facts.description:
        chosen: list[str] = []
        description = tidy(facts.description, 2000)
        for sentence in sentences(description):
            if chosen and sum(map(len, chosen)) + len(sentence.text) > MAX_SUMMARY_CHARACTERS - 80:
                break
            chosen.append(sentence.text)
            if len(chosen) == 3:
                break
        summary = tidy(" ".join(chosen), MAX_SUMMARY_CHARACTERS - 80)
        if kind:
            summary += f" ({kind})"
    elif facts.review_sentences:
        counts = Counter(word for text in facts.review_sentences for word in set(content_words(text, domain)))
        topics = [word for word, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:5]]
        summary = f"A {domain.item} whose {domain.person}s speak of {_list(topics)}."
        if kind:
            summary += f" ({kind})"
    elif kind:
        summary = f"A {domain.item} in {kind}."
    else:
        summary = f"A {domain.item} of which nothing is told yet."
    return ItemSummary(title, summary, "extractive")


def summary_request(facts: ItemFacts, domain: Domain, profile: str, template: PromptTemplate) -> Request | None:
    """The prompt for one item, or None when nothing is known that could be summarised."""
    material = known_facts(facts, MAX_FACTS_CHARACTERS[profile])
    if len(words(material)) < 8:
        return None
    return Request(
        task="item_summaries",
        subject=f"{facts.catalog}/item/{facts.item_id}",
        messages=template.render(
            domain=domain,
            title=delimit(item_title(facts, domain), 160),
            facts=delimit(material, MAX_FACTS_CHARACTERS[profile]),
            has_metadata=facts.has_metadata,
        ),
        template=template.fingerprint,
        max_tokens=110 if profile == "compact" else 200,
    )


def check_summary(material: str, title: str, answer: Any, domain: Domain) -> tuple[str | None, str | None]:
    """(a generated summary as one line, None), or (None, the reason) when it says what the material does not.

    Names and numbers that the material lacks are invention; so is a text that shares too few words with it.
    """
    if not isinstance(answer, str):
        return None, "the summary is no text"
    said = sentences(tidy(answer, 2000))
    complete = [piece.text for piece in said if piece.text[-1:] in ".!?"]
    text = tidy(" ".join(complete[:3]), MAX_SUMMARY_CHARACTERS)
    if publishable(text) != text or is_hostile(text):
        return None, "the summary carries markup, a link, an address or an instruction"
    if len(words(text)) < 6:
        return None, "the summary has no complete sentence"
    if not all(is_usable(sentence, domain) or len(words(sentence)) < 6 for sentence in complete[:3]):
        return None, "the summary carries a link, an address or an instruction"
    known = set(words(f"{material} {title}"))
    invented = [name for name in _CAPITAL.findall(text) if not known.issuperset(words(name))]
    invented += [number for number in _NUMBER.findall(text) if number not in material + title]
    if invented:
        return None, f"the summary names {invented[0]!r}, which the facts do not"
    if shares_words(text, f"{material} {title}") < MIN_SHARED_WORDS:
        return None, "the summary shares too few words with the facts"
    if repeats_itself(text):
        return None, "the summary repeats itself"
    return text, None


def usable_sentences(texts: Sequence[str], domain: Domain, most: int) -> tuple[str, ...]:
    """Up to `most` usable sentences of the given reviews, taken in turn so that every review keeps a voice."""
    split = [[s.text for s in safe_sentences(text, domain) if is_usable(s.text, domain)] for text in texts]
    chosen: list[str] = []
    for turn in range(max(map(len, split), default=0)):
        for pieces in split:
            if turn < len(pieces):
                chosen.append(pieces[turn])
                if len(chosen) == most:
                    return tuple(chosen)
    return tuple(chosen)


def _list(items: Sequence[str]) -> str:
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"
