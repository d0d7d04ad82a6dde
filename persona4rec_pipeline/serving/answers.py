"""Answers as bytes of JSON.

Belongs here: how what the index says becomes JSON, and the cache of the parts that are the same for everybody. Does not
belong here: what is answered. In this JSON no text can end a script or open a tag, wherever a caller pastes it: < > & and
the two line separators of Unicode are written as \\u003c and so on; they stand only inside strings.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from persona4rec_pipeline.index import PersonaIndex, Recommendation
from persona4rec_pipeline.index.reader import Ranking

# What is left out of an entry where no reasons are wanted.
REASONS = ("persona_id", "persona_name", "why", "quotes")

_ENCODE = msgspec.json.Encoder().encode
_ESCAPES = [(c.encode(), b"\\u%04x" % ord(c)) for c in ("<", ">", "&", "\u2028", "\u2029")]


def _place(position: int) -> bytes:
    return b',"candidate_place":%d},' % (position + 1)


_PLACES = [_place(position) for position in range(1_000)]


def to_json(value: Any) -> bytes:
    """JSON of plain types, with nothing in it that HTML or JavaScript would read as its own."""
    text = _ENCODE(value)
    for character, escaped in _ESCAPES:
        if character in text:
            text = text.replace(character, escaped)
    return text


def entry(found: Recommendation, explain: bool = True) -> bytes:
    """One entry of a list."""
    stated = found.to_dict()
    if not explain:
        for name in REASONS:
            del stated[name]
    return to_json(stated)


def entries(found: Iterable[Recommendation], explain: bool = True) -> bytes:
    """A list of entries."""
    return b"[" + b",".join([entry(one, explain) for one in found]) + b"]"


class Renderer:
    """Rankings of one generation as JSON. What an entry says of an item and its persona is the same for everybody, and
    is kept, up to about `cache_bytes`; score and place are added."""

    def __init__(self, index: PersonaIndex, cache_bytes: int = 32 << 20) -> None:
        self._index = index
        # Two generations of a cache: what was asked for lately is in the young one; when that is full it becomes the old one,
        # which is forgotten. Plain dictionaries, so that threads need no lock.
        self._half_bytes = cache_bytes // 2
        self._young: dict[tuple[int, int, bool], bytes] = {}
        self._old: dict[tuple[int, int, bool], bytes] = {}
        self._young_bytes = 0

    def ranked(self, ranking: Ranking, order: Sequence[int], explain: bool = True) -> bytes:
        """The entries at these positions of a ranking, as a list."""
        if ranking.scores is None or ranking.winners is None:
            return entries((self._index.entry(ranking, position) for position in order), explain)
        rows, winners, young = ranking.rows.tolist(), ranking.winners.tolist(), self._young
        # All numbers at once: one by one they would cost more than the ranking.
        scores = _ENCODE(ranking.scores.tolist())[1:-1].split(b",")
        parts = [b"["]
        for position in order:
            winner = winners[position]
            if winner < 0:
                parts += (entry(self._index.entry(ranking, position), explain), b",")
                continue
            key = (rows[position], winner, explain)
            fixed = young.get(key) or self._fixed(key, ranking, position)
            place = _PLACES[position] if position < len(_PLACES) else _place(position)
            parts += (fixed, scores[position], place)
        if len(parts) == 1:
            return b"[]"
        return b"".join(parts)[:-1] + b"]"

    def _fixed(self, key: tuple[int, int, bool], ranking: Ranking, position: int) -> bytes:
        fixed = self._old.get(key)
        if fixed is None:
            stated = self._index.entry(ranking, position).to_dict()
            del stated["score"], stated["candidate_place"]
            if not key[2]:
                for name in REASONS:
                    del stated[name]
            fixed = to_json(stated)[:-1] + b',"score":'
        if self._young_bytes > self._half_bytes:
            self._old, self._young, self._young_bytes = self._young, {}, 0
        self._young[key] = fixed
        # What Python keeps beside the text: the key, the two objects, the place in the dictionary.
        self._young_bytes += len(fixed) + 300
        return fixed
