"""Who is asking, and the profile that is made of it: the same for the service and for the command line.

Belongs here: what a user id, a history, a session and queued interactions mean together. Does not belong here: the
arithmetic of profiles (`index/scoring.py`), the wording of texts (`encoder/texts.py`), loading an encoder, HTTP.

What counts. A history that is given here replaces the stored one; without it, the stored one counts, with what was queued
since. Items of the session stand in front of either. An item that the user said nothing of has its vector in the index, so
that no encoder is needed; one with a review, or one that the index does not know, is encoded.

Where it leads to no profile, `fallback` says why; `session` says that the profile is made of the session alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from persona4rec_pipeline.encoder.texts import interaction_text
from persona4rec_pipeline.index import Filters, PersonaIndex, Recommendation, Tastes, UnknownItem
from persona4rec_pipeline.index.answers import NO_POSITIVE_HISTORY, NO_PROFILE, UNKNOWN_USER, Item
from persona4rec_pipeline.serving.bodies import PastItem, Question, as_items
from persona4rec_pipeline.serving.history import HistoryError

if TYPE_CHECKING:
    from persona4rec_pipeline.settings import Settings

SESSION = "session"
SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Queued:
    """What the queue knows of a user beyond the index, most recent first.

    vectors: float32 (l, d) of the liked items; days: float64 (l,), days since 1970; seen: items of any kind.
    """

    vectors: np.ndarray
    days: np.ndarray
    seen: tuple[Item, ...]


class Who(msgspec.Struct, frozen=True):
    """Who is asking, ready for the index; a struct, as one is made for each request.

    profile: float32 (d,), or (t, d) for several tastes; None where there is nothing to go by. interactions: liked items
    that it rests on. seen_by: the user whose seen items of the index are left out of recommendations; seen: further ones.
    ignored: items of the session that the index does not know.
    """

    user_id: str | None
    profile: np.ndarray | None
    fallback: str | None
    interactions: int
    seen_by: str | None = None
    seen: tuple[Item, ...] = ()
    ignored: tuple[Item, ...] = ()


@dataclass(slots=True)
class Draft:
    """A question on its way to `Who`: vectors that are known, and entries that wait for an encoder."""

    user_id: str | None
    tastes: Tastes
    vectors: list[np.ndarray | None] = field(default_factory=list)
    days: list[float] | None = field(default_factory=list)
    unread: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    fallback: str | None = None
    interactions: int = 0
    seen_by: str | None = None
    seen: tuple[Item, ...] = ()
    ignored: tuple[Item, ...] = ()


def known_user(index: PersonaIndex, user_id: str) -> Who:
    """A user as the index knows them; the short way of what is asked most."""
    profile = index.profile_of(user_id)
    if profile is None:
        return Who(user_id, None, index.fallback_for(user_id), 0, user_id)
    return Who(user_id, profile, None, index.interactions_of(user_id), user_id)


def is_plain(question: Question, tastes: Tastes, queued: Queued | None) -> bool:
    """Whether `known_user` answers the question."""
    return (
        question.user_id is not None
        and question.history is None
        and not question.session
        and queued is None
        and tastes == 1
    )


def draft(
    index: PersonaIndex, question: Question, tastes: Tastes = 1, queued: Queued | None = None, lenient: bool = False
) -> Draft:
    """What the question rests on; `Draft.unread` is not empty where an encoder is needed.

    `lenient` leaves items of the history that the index does not know out, and names them, as it is always done with those of
    the session. Raises HistoryError, naming the entry, for a history that cannot be used.
    """
    now = time.time() / SECONDS_PER_DAY
    found = Draft(question.user_id, tastes)
    if question.history is not None:
        _add_history(index, question.history, now, found, lenient)
    elif question.user_id is not None:
        _add_stored(index, question.user_id, queued, found)
    else:
        found.fallback = NO_PROFILE
    if question.session:
        _add_session(index, as_items(question.session), now, found)
    return found


def texts_of(drafted: Draft, settings: Settings) -> list[str]:
    """The texts that wait for an encoder, in the order of `Draft.unread`; slow as `text_of` is."""
    return [text_of(title, summary, review, settings) for title, summary, review in drafted.unread.values()]


def text_of(title: str, summary: str, review: str, settings: Settings) -> str:
    """One interaction as the encoder reads it; imports what reads reviews, so not for an event loop."""
    said: dict[str, str | None] = {}
    if review.strip():
        from persona4rec_pipeline.personas.aspects import extract_aspects
        from persona4rec_pipeline.personas.domains import get_domain

        slots = extract_aspects(review, get_domain(settings.personas.domain)).slots
        said = {name: slot.value if slot else None for name, slot in slots.items()}
    return interaction_text(title, summary, said)


def who(index: PersonaIndex, drafted: Draft, encoded: np.ndarray | None = None) -> Who:
    """The profile of a draft; `encoded`, float32 (n, d): the vectors of `texts_of`."""
    vectors = list(drafted.vectors)
    if drafted.unread:
        if encoded is None:
            raise ValueError("This history has texts that must be encoded first.")
        for place, vector in zip(drafted.unread, encoded, strict=True):
            vectors[place] = vector
    profile = None
    if vectors:
        stacked = np.array(vectors, np.float32)
        days = None if drafted.days is None else np.array(drafted.days)
        if drafted.tastes != 1:
            profile = index.tastes_from_vectors(stacked, days, drafted.tastes)
        else:
            profile = index.profile_from_vectors(stacked, days)
    return Who(
        drafted.user_id,
        profile,
        drafted.fallback,
        drafted.interactions,
        drafted.seen_by,
        drafted.seen,
        drafted.ignored,
    )


def best_for(
    index: PersonaIndex, who: Who, k: int, exclude: Sequence[Item] = (), filters: Filters | None = None
) -> list[Recommendation]:
    """The k best items of the catalogue that whoever is asking has not seen; without a profile, the most popular ones."""
    left_out = [*exclude, *who.seen]
    if who.profile is None:
        return index.popular(k, exclude=left_out, filters=filters, seen_by=who.seen_by, fallback=who.fallback)
    return index.search(who.profile, k, exclude=left_out, filters=filters, seen_by=who.seen_by)


def _add_history(
    index: PersonaIndex, history: Sequence[str | PastItem], now: float, found: Draft, lenient: bool
) -> None:
    entries = [PastItem(item_id=entry) if isinstance(entry, str) else entry for entry in history]
    if lenient:
        known = [entry for entry in entries if entry.title or _knows(index, entry)]
        found.ignored = tuple(_item_of(entry) for entry in entries if entry not in known and entry.item_id)
        entries = known
    entries = entries[: index.manifest.max_history]
    found.days = _days(entries, now)
    seen: list[Item] = []
    for place, entry in enumerate(entries, start=1):
        vector, item, text = _entry(index, entry, place)
        if item is not None:
            seen.append(item)
        if text is not None:
            found.unread[len(found.vectors)] = text
        found.vectors.append(vector)
    found.interactions = len(history) - len(found.ignored)
    found.fallback = None if entries else NO_PROFILE
    found.seen = tuple(seen)


def _entry(
    index: PersonaIndex, entry: PastItem, place: int
) -> tuple[np.ndarray | None, Item | None, tuple[str, str, str] | None]:
    """The vector, or else the title, summary and review to encode; and the item, where the index knows it."""
    title, summary, review = entry.title, entry.summary, entry.review or ""
    if entry.item_id is not None:
        item = _item_of(entry)
        try:
            if not (title or summary or review.strip()):
                return index.item_vector(item), item, None
            known: dict[str, Any] = index.item(item)
            return None, item, (title or known["title"], summary or known["summary"], review)
        except UnknownItem as error:
            if not title:
                raise HistoryError(f"History entry {place}: {error} Give its title, or leave it out.") from error
    if not title:
        raise HistoryError(f"History entry {place} has neither item_id nor title.")
    return None, None, (title, summary or "", review)


def _item_of(entry: PastItem) -> Item:
    item_id = str(entry.item_id)
    return item_id if entry.catalog is None else (entry.catalog, item_id)


def _knows(index: PersonaIndex, entry: PastItem) -> bool:
    if entry.item_id is None:
        return False
    try:
        index.item_vector(_item_of(entry))
    except UnknownItem:
        return False
    return True


def _days(entries: Sequence[PastItem], now: float) -> list[float] | None:
    """Time of each entry in days since 1970; None where no entry says. Raises HistoryError, naming the entry."""
    ages = [entry.days_ago for entry in entries]
    if all(age is None for age in ages):
        return None
    days: list[float] = []
    for place, age in enumerate(ages, start=1):
        if age is None:
            raise HistoryError(f"History entry {place} has no days_ago, and others have; give it for all or for none.")
        if days and now - age > days[-1]:
            raise HistoryError(f"History entry {place} is newer than the one before it; give the most recent first.")
        days.append(now - age)
    return days


def _add_stored(index: PersonaIndex, user_id: str, queued: Queued | None, found: Draft) -> None:
    vectors, days = index.history_vectors(user_id)
    found.interactions = index.interactions_of(user_id)
    found.seen_by = user_id
    if queued is not None:
        # The queue may tell of something older than what the index knows last.
        both = np.concatenate([queued.days, days])
        newest_first = np.argsort(-both, kind="stable")
        vectors = np.concatenate([queued.vectors, vectors])[newest_first]
        days = both[newest_first]
        found.interactions += len(queued.vectors)
        found.seen = queued.seen
    found.vectors = list(vectors)
    found.days = days.tolist()
    if not len(vectors):
        found.fallback = index.fallback_for(user_id) or NO_POSITIVE_HISTORY
        if queued is not None and found.fallback == UNKNOWN_USER:
            found.fallback = NO_POSITIVE_HISTORY


def _add_session(index: PersonaIndex, session: Sequence[Item], now: float, found: Draft) -> None:
    vectors: list[np.ndarray | None] = []
    ignored: list[Item] = []
    for item in session:
        try:
            vectors.append(index.item_vector(item))
        except UnknownItem:
            ignored.append(item)
    found.ignored += tuple(ignored)
    found.seen += tuple(item for item in session if item not in ignored)
    if not vectors:
        return
    if not found.vectors:
        found.fallback, found.interactions, found.days = SESSION, len(vectors), []
    found.unread = {place + len(vectors): text for place, text in found.unread.items()}
    found.vectors = vectors + found.vectors
    if found.days is not None:
        found.days = [now] * len(vectors) + found.days
