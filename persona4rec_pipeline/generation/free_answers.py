"""Which of several options a free-text answer names, for models that were asked to choose and talk instead.

Belongs here: reading the last selection that a text states, by mark ("B", "2"), id or name. Does not belong here: what the
options are, and asking. An answer that names none or contradicts itself is no answer: a wrong label is worse than none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Named:
    """How one option may be called.

    marks: what stands before it in a list ("B", "2"); counts only where a selection is stated, or alone.
    ids: exact identifiers; count anywhere. names: longer wording; counts where neither a mark nor an id is stated.
    """

    marks: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


# "**Selection:** ...", "the answer is ...", "I would choose ...", "B is the best fit".
_STATES = re.compile(
    r"\b(?:final\s+)?(?:selection|selected(?:\s+(?:persona|option|choice|id))?|answer|choice|"
    r"chosen(?:\s+(?:persona|option))?|verdict|decision|"
    r"conclusion|best\s+(?:fit|match|option|choice|persona)|correct\s+(?:option|choice))\b(?:\s+(?:here|"
    r"would\s+be|must\s+be|is|was))?\s*(?:[:=→-]+>?|\bis\b|(?<=is)|"
    r"(?<=was)|(?<=be))\s*|\bi(?:'d|\s+would|\s+will|'ll)?\s+(?:choose|select|pick|go\s+with|chose|selected|picked)\b\s*:?\s*",
    re.IGNORECASE,
)
_STATED_AFTER = re.compile(
    r"\s+(?:is|would be|seems|remains)\s+(?:clearly\s+)?(?:the|my|thus the)\s+(?:\w+\s+)?(?:best|right|correct|"
    r"closest|final)?\s*(?:fit|match|option|choice|answer|one|"
    r"persona|selection)\b|\s+(?:fits|matches|explains)\s+(?:it\s+|this\s+)?best\b",
    re.IGNORECASE,
)
_LEAD = r"(?i:the\s+)?(?i:(?:option|persona|choice|number|answer|letter|candidate|no\.?)\s*)?[\"'(\[#<]*\s*"
_MARK = re.compile(rf"^{_LEAD}(?P<mark>\d{{1,3}}|[A-Za-z])(?P<end>[)\].:,;\"'>]|$|\s)")
_AFTER_MARK = re.compile(r"^\s*(?:[^\w\s]|(?:because|as|since|for|is|and|or|fits|it|given|due|which)\b)", re.IGNORECASE)
_ANOTHER_MARK = re.compile(rf"^\W*(?:/|,|\bor\b|\band\b|&)\s*{_LEAD}(?P<mark>\d{{1,3}}|[A-Z])(?![\w'])")
_REFUSED = re.compile(
    r"(?:\bnot|\brather\s+than|\binstead\s+of|\bover|\bunlike|\bthan|\bversus|\bvs\.?|"
    r"n't)\s+(?:the\s+)?(?:option\s+|persona\s+)?[\"'(]*$",
    re.IGNORECASE,
)
_EMPHASIS = re.compile(r"\*+|`+|(?<!\w)_+|_+(?!\w)|^#+\s*", re.MULTILINE)


def stated_option(text: str, options: Sequence[Named]) -> int | None:
    """Position of the option that the answer settles on, or None where it names none, several, or contradicts itself.

    The last stated selection counts ("Selection: A ... Selection: B" is B). Without one, an answer that is nothing but a
    mark, an id or a name counts, in full or as its last line; and then an id or a name if the whole text names only one.
    """
    plain = _plain(text)
    for start in reversed([match.end() for match in _STATES.finditer(plain)]):
        line = next((line for line in plain[start:].splitlines() if line.strip()), "")
        found = _in_statement(line.strip(), options)
        if found is not None:
            return found[0] if len(found) == 1 else None
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    for line in (plain.strip(), *lines[-1:]):
        found = _alone(line, options)
        if found:
            return found[0] if len(found) == 1 else None
    after = [found for line in lines for found in _stated_after(line, options)]
    if after:
        return after[-1]
    for kind in ("ids", "names"):
        found = _mentioned(plain, options, kind)
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _plain(text: str) -> str:
    """The text without emphasis and with plain quotes; ids keep their underscores."""
    line = unicodedata.normalize("NFKC", text).replace("’", "'").replace("“", '"').replace("”", '"')
    return _EMPHASIS.sub("", line)


def _in_statement(line: str, options: Sequence[Named]) -> list[int] | None:
    """The options that the rest of a statement names; not exactly one where it contradicts itself; None where it is silent."""
    ids = _mentioned(line, options, "ids")
    match = _MARK.match(line)
    mark = match["mark"] if match and _is_mark(match) else None
    if mark is None:
        return ids or _mentioned(line, options, "names") or None
    by_mark = [place for place, option in enumerate(options) if _equals_mark(mark, option.marks)]
    if len(ids) == 1:
        # In a list of some options the number may be that of the id ("3. X_P3") and not of the place.
        agrees = by_mark == ids or any(re.search(rf"(?<!\d){mark}$", known) for known in options[ids[0]].ids)
        return ids if agrees else [*by_mark, *ids, -1]
    if ids:
        return ids
    assert match is not None
    another = _ANOTHER_MARK.match(line[match.end("mark") :])
    if another and any(_equals_mark(another["mark"], option.marks) for option in options):
        return [*by_mark, -1]
    return by_mark


def _is_mark(match: re.Match[str]) -> bool:
    """Whether what stands first is a mark, and neither the word "a" nor a count ("2 reasons")."""
    rest = match.string[match.end("mark") :]
    if match["end"].strip() or not rest.strip():
        return True
    return (match["mark"].isdigit() or match["mark"].isupper()) and _AFTER_MARK.match(rest) is not None


def _alone(line: str, options: Sequence[Named]) -> list[int]:
    bare = line.strip(" \t.,:;!\"'()[]{}<>#")
    exact = [
        place
        for place, option in enumerate(options)
        if _equals_mark(bare, option.marks)
        or bare.casefold() in {known.casefold() for known in (*option.ids, *option.names)}
    ]
    if exact:
        return exact
    # "B) Sea story reader", "2. B08_P2", "Option C"
    match = _MARK.match(line)
    if match and _is_mark(match) and (match["end"].strip() or not line[match.end("mark") :].strip()):
        rest = line[match.end() :].strip()
        if not rest or _mentioned(rest, options, "ids") or _mentioned(rest, options, "names"):
            return _in_statement(line, options) or []
    return []


def _stated_after(line: str, options: Sequence[Named]) -> list[int]:
    """Options of which the line says that they are the best, in order."""
    found = []
    for match in _STATED_AFTER.finditer(line):
        before = line[: match.start()]
        named: list[tuple[int, int]] = []
        for place, option in enumerate(options):
            ends = [spot.end() for kind in ("ids", "names") for spot in _spots(before, getattr(option, kind))]
            mark = re.search(r"(?:\b(?:option|persona|choice)\s+|^|\()([A-Z]|\d{1,3})\)?$", before, re.IGNORECASE)
            if mark and _equals_mark(mark[1], option.marks):
                ends.append(len(before))
            named += [(end, place) for end in ends if end >= len(before) - 12]
        if len({place for _, place in named}) == 1:
            found.append(named[0][1])
    return found


def _equals_mark(mark: str, marks: Sequence[str]) -> bool:
    return any(mark.casefold() == known.casefold() for known in marks)


def _mentioned(text: str, options: Sequence[Named], kind: str) -> list[int]:
    """Positions of the options that the text names by ids or names and does not set aside ("not X", "rather than X").

    Of names within longer names ("Reader" in "Casual Reader") the longer one counts.
    """
    spots = [(spot, place) for place, option in enumerate(options) for spot in _spots(text, getattr(option, kind))]
    found: list[int] = []
    for spot, place in spots:
        is_within = any(
            other.start() <= spot.start() and spot.end() <= other.end() and len(other[0]) > len(spot[0])
            for other, _ in spots
        )
        if not is_within and place not in found and not _REFUSED.search(text[: spot.start()]):
            found.append(place)
    return sorted(found)


def _spots(text: str, wordings: Sequence[str]) -> list[re.Match[str]]:
    return [
        match
        for wording in wordings
        if wording.strip()
        for match in re.finditer(rf"(?<![\w-]){re.escape(_plain(wording).strip())}(?![\w-])", text, re.IGNORECASE)
    ]
