"""Which items an answer may hold: by catalogue, category, attribute, and lists of what is allowed and what is not.

Belongs here: what may be asked for, and the rows that fit. Does not belong here: seen items, which are a user's (`people`), and
searching (`reader`): a filter is applied before the best are taken, so that there are k of them if there are k at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from persona4rec_pipeline.index.answers import Item
from persona4rec_pipeline.index.segments import Segment

# Filters whose rows are kept: callers ask for the same few again and again.
KEPT_FILTERS = 64


@dataclass(frozen=True)
class Filters:
    """What an item must fit; what is None or empty asks for nothing. Comparisons ignore case.

    catalogs: it is in one of these. categories: it has at least one of these. attributes: it has, for each name, one of the
    values. allow: it is one of these; a bare item_id stands for that item of every catalogue. deny: it is none of these.
    """

    catalogs: Collection[str] | None = None
    categories: Collection[str] | None = None
    attributes: Mapping[str, Collection[str]] = field(default_factory=dict)
    allow: Collection[Item] | None = None
    deny: Collection[Item] = ()

    def describes(self) -> bool:
        """Whether it asks for something that is known of items of the index alone."""
        return self.catalogs is not None or self.categories is not None or bool(self.attributes)

    def key(self) -> tuple[object, ...]:
        """Equal keys, equal rows."""
        attributes = tuple(sorted((name, _lowered(values)) for name, values in self.attributes.items()))
        listed = [None if some is None else frozenset(some) for some in (self.catalogs, self.allow, self.deny)]
        return (*listed, None if self.categories is None else _lowered(self.categories), attributes)


class ItemFilter:
    """Finds the rows of an index that fit; what it needs is read when it is first asked for."""

    def __init__(self, segments: Sequence[Segment], rows_of: Callable[[Item], list[int]]) -> None:
        self._segments = segments
        self._rows_of = rows_of
        self._categories: dict[str, np.ndarray] | None = None
        self._attributes: dict[tuple[str, str], np.ndarray] | None = None
        self._kept: dict[tuple[object, ...], np.ndarray] = {}

    def barred(self, filters: Filters) -> np.ndarray:
        """bool (rows,), not to be changed: what does not fit. Dead rows are not told apart."""
        key = filters.key()
        found = self._kept.get(key)
        if found is None:
            found = ~self._fits(filters)
            found.flags.writeable = False
            kept = dict(list(self._kept.items())[-KEPT_FILTERS + 1 :])
            # Replaced, not changed: other threads may be reading it.
            self._kept = kept | {key: found}
        return found

    def _fits(self, filters: Filters) -> np.ndarray:
        fits = np.ones(self._segments[-1].rows.stop if self._segments else 0, bool)
        if filters.catalogs is not None:
            wanted = set(filters.catalogs)
            for segment in self._segments:
                if segment.catalog not in wanted:
                    fits[segment.rows] = False
        if filters.categories is not None:
            if self._categories is None:
                self._categories = self._read_categories()
            fits &= self._any(self._categories.get(name.casefold()) for name in filters.categories)
        for name, values in filters.attributes.items():
            if self._attributes is None:
                self._attributes = self._read_attributes()
            fits &= self._any(self._attributes.get((name.casefold(), value.casefold())) for value in values)
        if filters.allow is not None:
            fits &= self._any(np.array(self._rows_of(item), np.int64) for item in filters.allow)
        for item in filters.deny:
            fits[self._rows_of(item)] = False
        return fits

    def _any(self, groups: Iterable[np.ndarray | None]) -> np.ndarray:
        found = np.zeros(self._segments[-1].rows.stop if self._segments else 0, bool)
        for rows in groups:
            if rows is not None:
                found[rows] = True
        return found

    def _read_categories(self) -> dict[str, np.ndarray]:
        rows: dict[str, list[int]] = {}
        for segment in self._segments:
            for row, names in enumerate(segment.items.column("categories").to_pylist(), start=segment.first):
                for name in names:
                    rows.setdefault(name.casefold(), []).append(row)
        return {name: np.array(found, np.int64) for name, found in rows.items()}

    def _read_attributes(self) -> dict[tuple[str, str], np.ndarray]:
        rows: dict[tuple[str, str], list[int]] = {}
        for segment in self._segments:
            for row, text in enumerate(segment.items.column("attributes").to_pylist(), start=segment.first):
                for name, value in json.loads(text).items():
                    rows.setdefault((name.casefold(), str(value).casefold()), []).append(row)
        return {key: np.array(found, np.int64) for key, found in rows.items()}


def _lowered(values: Collection[str]) -> frozenset[str]:
    return frozenset(value.casefold() for value in values)
