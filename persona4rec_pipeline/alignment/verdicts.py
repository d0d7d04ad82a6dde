"""Which persona a judge's free-text answer names, for endpoints that cannot constrain what they say.

Belongs here: how personas are called in such an answer. Does not belong here: the reading of statements
(`generation/free_answers.py`) and asking (`judge.py`). Reading a recorded answer by its first number stored 38 of 50
verdicts of the original authors wrongly; a label that cannot be read for certain is None and never the first option.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

from persona4rec_pipeline.generation.free_answers import Named, stated_option

_ITEM_BEFORE = re.compile(r"(?<![\w-])[\w-]+_(?=P\d+\b)", re.IGNORECASE)
_FULL_ID = re.compile(r"(?<![\w-])(?P<item>[\w-]+_)P\d+\b", re.IGNORECASE)
_ARTICLE = re.compile(r"^the\s+", re.IGNORECASE)
_ITEM_PART = re.compile(r"^.+_(?=[A-Za-z]+\d+$)")


@dataclass(frozen=True)
class VerdictOption:
    """One persona as the judge saw it; its place in the list is its number (from 1) and its letter (from A)."""

    persona_id: str
    name: str = ""


def read_verdict(text: str, options: Sequence[VerdictOption]) -> int | None:
    """Position in `options` of the persona that the answer settles on, or None where that is not certain.

    Understood: "**Selection:** 2. B08QZRNL5Q_P2", "Answer: B.", "(B)", "P2" and a name alone. The last stated selection
    wins; a number and an id that contradict each other, two personas, or an id that is none of the options are no verdict.
    """
    ids = [option.persona_id for option in options]
    short = [_ITEM_PART.sub("", persona_id) for persona_id in ids]
    prefixes = {persona_id[: len(persona_id) - len(end)].casefold() for persona_id, end in zip(ids, short, strict=True)}
    if prefixes == {""}:
        # Options called "P2" may be answered with the item before it.
        text = _ITEM_BEFORE.sub("", text)
    # The same persona number of another item is no option, whatever number stands before it.
    foreign = {match[0] for match in _FULL_ID.finditer(text) if match["item"].casefold() not in prefixes}
    names = [option.name.strip() for option in options]
    named = [
        Named(
            marks=(str(place + 1), *string.ascii_uppercase[place : place + 1]),
            ids=(persona_id, end) if short.count(end) == 1 else (persona_id,),
            names=(name, _ARTICLE.sub("", name)),
        )
        for place, (persona_id, end, name) in enumerate(zip(ids, short, names, strict=True))
    ]
    place = stated_option(text, [*named, Named(ids=tuple(sorted(foreign)))])
    return place if place is not None and place < len(options) else None
