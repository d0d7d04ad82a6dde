"""The text that the encoder reads, for training, indexing, evaluation and serving alike.

Belongs here: how a record becomes the text to encode, and the hash that tells whether that text changed. Does not
belong here: tokens, vectors, models; this module imports nothing heavy, so anything may import it. Nobody else may
build such a text: a profile encoded from another wording than the one trained on is a silent loss of quality.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from persona4rec_pipeline.personas.stated import what_is_stated

# In the order in which they are read. Most telling first, as a text is cut at `encoder.max_seq_length` tokens.
ASPECT_SLOTS = ("category_preference", "purchase_purpose", "quality_criteria", "usage_context")

_SPACES = re.compile(r"\s+")
_SENTENCE_ENDS = (".", "!", "?", "…", ":", ";")


def interaction_text(title: str, summary: str, aspects: Mapping[str, str | None]) -> str:
    """One interaction as text: what this user said in the four slots, then what the item is.

    `aspects` maps names of `ASPECT_SLOTS` to text; missing, null and meaningless slots ("n/a", "the user does not
    state ...") leave no trace. With no slot left the text is that of the item alone. No ids.
    """
    said: list[str] = []
    for slot in ASPECT_SLOTS:
        value = _slot(aspects.get(slot))
        if value and value not in said:
            said.append(value)
    return _sentences(*said, summary_text(title, summary))


def persona_text(name: str, description: str, preference_rationale: str) -> str:
    """One persona as text: its name, its description, then its rationale (the part that is cut first)."""
    return _sentences(name, description, preference_rationale)


def summary_text(title: str, summary: str) -> str:
    """One item as text, for items without personas and the summary-only baseline; the title is not said twice."""
    title, summary = _clean(title), _clean(summary)
    if title and summary.casefold().startswith(title.casefold()):
        return _sentences(summary)
    return _sentences(title, summary)


def text_hash(text: str) -> str:
    """16 hexadecimal digits of the SHA-256 of a text; equal hash and equal encoder mean an equal vector."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _slot(value: object) -> str:
    if not isinstance(value, str):  # None, or the NaN that a data frame makes of it
        return ""
    return what_is_stated(value) or ""


def _sentences(*parts: str) -> str:
    cleaned = [part for part in map(_clean, parts) if part]
    return " ".join(part if part.endswith(_SENTENCE_ENDS) else f"{part}." for part in cleaned)


def _clean(value: object) -> str:
    return _SPACES.sub(" ", value).strip() if isinstance(value, str) else ""
