"""What one review says: four slots, each with the span of the review that supports it.

Belongs here: the slots, their cleaning, the rules that find them without a model, and the prompts' answers turned into
grounded slots. Does not belong here: which reviews are read (the asset reads train reviews only).

A slot without a span is never kept: a model's value is looked up in the review, and what cannot be found there becomes
null. Answers such as "not stated" or "n/a" are nulls written as text; they must not reach a profile.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from persona4rec_pipeline.generation import InvalidAnswer, Message, PromptTemplate, Request, delimit
from persona4rec_pipeline.generation.scrub import publishable
from persona4rec_pipeline.personas.domains import Domain
from persona4rec_pipeline.personas.stated import what_is_stated
from persona4rec_pipeline.personas.text import (
    Piece,
    clauses,
    content_words,
    is_safe,
    is_usable,
    safe_sentences,
    sentences,
    words,
)

SLOTS = ("category_preference", "purchase_purpose", "quality_criteria", "usage_context")
PROMPTS = "persona4rec_pipeline.personas.prompts"

# The slots that the compact profile asks for; purpose and context have such plain cues that rules find them better.
COMPACT_SLOTS = ("quality_criteria", "category_preference")
# Clauses of a review that the compact profile chooses from, and their longest length in characters.
MAX_CLAUSES = 8
MAX_CLAUSE_CHARACTERS = 90

# Longest value of a slot and longest review shown to a model, in characters.
MAX_SLOT_CHARACTERS = 120
MAX_REVIEW_CHARACTERS = {"compact": 500, "full": 3000}
# Share of a generated value's words that must stand in one sentence of the review for that sentence to support it.
MIN_GROUNDED_SHARE = 0.6

_PURPOSE = re.compile(
    r"\b(?:gift|present) (?:for|to)\b|\bas a (?:gift|present)\b|\b(?:bought|got|picked (?:it|this) up|chose|purchased|ordered|"
    r"borrowed|wanted|needed|came to (?:it|this))\b[^.!?]{0,60}\b(?:for|because|to|as|after)\b|\bfor (?:my|our|a|the) (?:book ?club|class|"
    r"course|school|daughter|son|kids?|child|children|niece|nephew|wife|husband|mother|mum|mom|father|dad|students?|"
    r"grand\w+|studio|band|church|trip|research|thesis|birthday|anniversary)\b|\b(?:recommended by|assigned|looking for|"
    r"in search of|on the recommendation|because of the (?:film|movie|series)|was in the mood|needed something)\b",
    re.IGNORECASE,
)
_CONTEXT = re.compile(
    r"\b(?:on (?:the|my|a) (?:train|bus|plane|commute|beach|sofa|couch|porch|road|flight|ferry|stage)|commut\w+|at bedtime|before bed|"
    r"in bed|at night|late at night|by the fire\w*|in one sitting|over (?:the |a )?(?:summer|winter|christmas|holidays?|weekend|"
    r"week|month)|on holiday|on vacation|during (?:the|my|a) \w+|while (?:i|my|we|the|recovering|travel\w+|commuting)|aloud|"
    r"audiobook|re-?read(?:ing)?|every (?:year|night|summer|winter|autumn|morning|evening|christmas)|a (?:chapter|page) a (?:night|day)|"
    r"with (?:my|the) (?:kids?|son|daughter|children|family|wife|husband|students?|class|friends|mother|father)|rainy|"
    r"insomnia|sick|ill|hospital|at (?:home|school|work|gigs?|practice)|live shows?|home studio|for dinner|for lunch|date night)\b",
    re.IGNORECASE,
)
_CATEGORY = re.compile(
    r"\b(?:genres?|fan of|fans of|sucker for|weakness for|fond of|partial to|if you (?:like|love|enjoy)|for (?:lovers|fans) of|"
    r"(?:romance|romantic|gothic|horror|mystery|mysteries|detective|thriller|adventure|fantasy|science fiction|sci-?fi|"
    r"memoir|poetry|poems?|philosophy|philosophical|satire|comedy|comic|tragedy|drama|history|historical|epic|fairy ?tales?|"
    r"children's|sea (?:story|stories|tales?)|ghost stor(?:y|ies)|family saga|social|political|psychological|nature|"
    r"documentary|animat\w+|western|war|noir|musical|biopic|sequel|slapstick|"
    r"acoustic|electric|strings?|pedals?|guitar|bass|drum|microphone|cable|picks?|tuner|amp))\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Slot:
    """The value of one slot and the characters [start, end) of the review's text that support it."""

    value: str
    start: int
    end: int


@dataclass(frozen=True)
class Aspects:
    """The four slots of one review, and whether rules or a model filled them."""

    slots: Mapping[str, Slot | None]
    source: Literal["llm", "extractive"]

    @property
    def null_fraction(self) -> float:
        """Share (0-1) of empty slots."""
        return sum(slot is None for slot in self.slots.values()) / len(SLOTS)


def clean_value(value: Any) -> str | None:
    """A slot's value as one line, or None where it is empty or says no more than that nothing is stated."""
    stated = what_is_stated(value) if isinstance(value, str) else None
    line = (stated or "").strip(" \"'.,;:-")
    return line[:MAX_SLOT_CHARACTERS].strip() if len(line) >= 3 else None


def tells_circumstance(sentence: str) -> bool:
    """Whether a sentence is about why or when something was got or used."""
    return bool(_PURPOSE.search(sentence) or _CONTEXT.search(sentence))


def extract_aspects(text: str, domain: Domain) -> Aspects:
    """Fill the slots by rules alone: cue words find purpose, context and category; what is judged becomes quality.

    Deterministic. Values are clauses of the review as written, so every slot carries an exact span.
    """
    safe = safe_sentences(text, domain)
    pieces = [piece for sentence in safe for piece in clauses(text, sentence)]
    taken: set[int] = set()
    slots: dict[str, Slot | None] = dict.fromkeys(SLOTS)
    for name, cue in (("purchase_purpose", _PURPOSE), ("usage_context", _CONTEXT), ("category_preference", _CATEGORY)):
        for piece in pieces:
            if piece.start not in taken and len(words(piece.text)) >= 2 and cue.search(piece.text):
                slots[name] = _slot(piece)
                taken.add(piece.start)
                break
    usable = [sentence for sentence in safe if is_usable(sentence.text, domain)]
    rest = [
        piece
        for sentence in usable
        for piece in clauses(text, sentence)
        if piece.start not in taken and content_words(piece.text, domain)
    ]
    if rest:
        slots["quality_criteria"] = _slot(
            max(rest, key=lambda piece: (len(set(content_words(piece.text, domain))), -piece.start))
        )
    return Aspects(slots, "extractive")


def aspects_request(
    subject: str, title: str, text: str, domain: Domain, profile: str, template: PromptTemplate
) -> Request | None:
    """The prompt for one review, or None when no sentence of it says anything (a model would only make something up)."""
    safe = [sentence.text for sentence in safe_sentences(text, domain)]
    if not any(is_usable(sentence, domain) or tells_circumstance(sentence) for sentence in safe):
        return None
    shown = " ".join(safe)
    messages: tuple[Message, ...] = template.render(
        domain=domain, title=delimit(title, 120), review=delimit(shown, MAX_REVIEW_CHARACTERS[profile])
    )
    if profile == "compact":
        # A small model invents and repeats; choosing among the review's own clauses it can only be right or beside the
        # point. The first slot may not be null: the easiest answer would otherwise be nulls alone.
        clause = {"enum": _choices(shown, domain)}
        schema: dict[str, Any] = {
            "type": "array",
            "prefixItems": [clause, {"anyOf": [clause, {"type": "null"}]}],
            "items": False,
            "minItems": len(COMPACT_SLOTS),
            "maxItems": len(COMPACT_SLOTS),
        }
    else:
        nullable = {"anyOf": [{"type": "string", "maxLength": 160}, {"type": "null"}]}
        schema = {
            "type": "object",
            "properties": dict.fromkeys(SLOTS, nullable),
            "required": list(SLOTS),
            "additionalProperties": False,
        }
    return Request(
        task="review_aspects",
        subject=subject,
        messages=messages,
        template=template.fingerprint,
        schema=schema,
        max_tokens=160 if profile == "compact" else 320,
    )


def check_aspects(request: Request, answer: Any) -> dict[str, str | None]:
    """Normalise a model's answer (an object of the four slots, or a list of COMPACT_SLOTS) to slot -> cleaned value.

    Raises InvalidAnswer when the answer has another shape.
    """
    if isinstance(answer, list) and len(answer) == len(COMPACT_SLOTS):
        answer = dict.fromkeys(SLOTS) | dict(zip(COMPACT_SLOTS, answer, strict=True))
    if not isinstance(answer, dict) or set(answer) != set(SLOTS):
        raise InvalidAnswer("the answer does not hold the four slots")
    return {name: clean_value(answer[name]) for name in SLOTS}


def ground_aspects(values: Mapping[str, str | None], text: str, domain: Domain) -> Aspects:
    """Tie each generated value to the review: the clause that shares most of its words supports it, or it is dropped.

    Of two slots resting on the same words the first keeps them, because a small model likes to repeat itself. Slots that
    are left are filled by rules, from clauses that no other slot uses; with nothing of the model's left, all of them are.
    """
    pieces = [piece for s in safe_sentences(text, domain) for piece in [s, *clauses(text, s)]]
    slots: dict[str, Slot | None] = dict.fromkeys(SLOTS)
    by_rules = extract_aspects(text, domain).slots
    for name in SLOTS:
        value = values.get(name)
        # The words of a value stand in the review, but not always in this order.
        if value is None or not is_safe(value, domain):
            continue
        wanted = set(content_words(value)) or set(words(value))
        best: tuple[float, int, Piece] | None = None
        for piece in pieces:
            share = len(wanted.intersection(words(piece.text))) / len(wanted) if wanted else 0.0
            if share >= MIN_GROUNDED_SHARE and (best is None or (share, -len(piece.text)) > best[:2]):
                best = (share, -len(piece.text), piece)
        if best is not None and not _overlaps(best[2], slots):
            slots[name] = Slot(publishable(value), best[2].start, best[2].end)
    source: Literal["llm", "extractive"] = "llm" if any(slots.values()) else "extractive"
    for name, slot in by_rules.items():
        if slots[name] is None and slot is not None and not _overlaps(slot, slots):
            slots[name] = slot
    return Aspects(slots, source)


def _overlaps(piece: Piece | Slot, slots: Mapping[str, Slot | None]) -> bool:
    return any(slot is not None and slot.start < piece.end and piece.start < slot.end for slot in slots.values())


def _choices(shown: str, domain: Domain) -> list[str]:
    """The clauses that may fill a slot, each once, in the order of the text."""
    found = [piece.text for sentence in sentences(shown) for piece in clauses(shown, sentence)]
    told = [text for text in found if content_words(text, domain) and not tells_circumstance(text)]
    told = told or [text for text in found if content_words(text, domain)] or found
    cut = [
        text if len(text) <= MAX_CLAUSE_CHARACTERS else text[:MAX_CLAUSE_CHARACTERS].rsplit(" ", 1)[0] for text in told
    ]
    return list(dict.fromkeys(text.strip(" \"'“”.,;:!?-") or text for text in cut))[:MAX_CLAUSES]


def _slot(piece: Piece) -> Slot:
    value = publishable(piece.text).strip(" \"'“”.,;:!?-")
    if len(value) > MAX_SLOT_CHARACTERS:
        value = value[:MAX_SLOT_CHARACTERS].rsplit(" ", 1)[0]
    return Slot(value, piece.start, piece.end)
