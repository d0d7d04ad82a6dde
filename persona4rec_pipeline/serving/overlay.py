"""What users did since the index was made: queued interactions, held in memory until a generation contains them.

Belongs here: which queued interactions count for whom, and the vectors of what was written. Does not belong here: the file of
the queue (`persona4rec_pipeline/interactions.py`), the profile that is made of it (`ask`).

Which ones count is asked of the generation that answers: it states, per catalogue, up to which id of the queue it contains
them. So nothing counts twice or not at all while generations are swapped, or compared in an experiment. A liked item counts at
once with the vector that it has in the index; what was written of it replaces that when the encoder has read it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from persona4rec_pipeline.index import Item, PersonaIndex, UnknownItem
from persona4rec_pipeline.interactions import Interaction, InteractionQueue, QueueUnusable
from persona4rec_pipeline.serving.ask import SECONDS_PER_DAY, Queued, text_of
from persona4rec_pipeline.serving.encoding import BackgroundEncoder
from persona4rec_pipeline.serving.problems import Problem
from persona4rec_pipeline.settings import Settings

# Texts that are encoded at once, and the pause after the encoder could not be had.
TEXTS_AT_ONCE = 64
PAUSE_AFTER_FAILURE_S = 60.0
ROWS_AT_ONCE = 10_000

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Entry:
    """One queued interaction; `vector` is what the encoder `fingerprint` read in `text`, once it has. The text stays, for the
    encoder of a later generation."""

    id: int
    catalog: str
    item_id: str
    kind: str
    liked: bool
    day: float
    text: str | None = None
    vector: np.ndarray | None = field(default=None, repr=False)
    fingerprint: str | None = None

    def counts_for(self, through: dict[str, int]) -> bool:
        """Whether a generation that contains the queue up to these ids does not contain this one."""
        return self.id > through.get(self.catalog, 0)


class Overlay:
    """The queued interactions by user. Any thread may ask; `refresh` and `encode` are called by the watcher and after an append."""

    def __init__(self, queue: InteractionQueue, settings: Settings, encoder: BackgroundEncoder | None = None) -> None:
        self.queue = queue
        self._encoder = encoder
        self._settings = settings
        # Replaced and not changed: whoever reads one user's entries reads them as they were.
        self._entries: dict[str, dict[int, Entry]] = {}
        self._last_id = 0
        self._stamp: object = None
        self._deletions = 0
        self._lock = threading.Lock()
        self._encoding: Future[np.ndarray] | None = None
        self._pause_until = float("-inf")

    def is_liked(self, interaction: Interaction) -> bool:
        """Whether an interaction speaks for its item, by the rules that reviews are read with."""
        reviews = self._settings.reviews
        if interaction.kind != "review":
            return interaction.kind != "dislike"
        if interaction.rating is None:
            return reviews.missing_rating_is_positive
        return interaction.rating >= reviews.positive_rating

    def append(self, interaction: Interaction) -> int:
        """Queue an interaction, durably, and let it count from now on; its id. Raises BadInteraction, QueueUnusable."""
        taken = self.queue.append(interaction)
        # Read back: where the key was there before, it is the first one that counts.
        rows = self.queue.after(taken - 1, interaction.user_id, limit=1)
        with self._lock:
            self._take_in(rows)
        return taken

    def has_changed(self) -> bool:
        """Whether the file of the queue has changed since it was last read; costs two microseconds."""
        return self._read_stamp() != self._stamp

    def refresh(self, oldest_through: dict[str, int] | None = None, user_id: str | None = None) -> None:
        """Take in what other processes queued, and let go of what was forgotten and of what every generation contains that
        answers: those contain at least `oldest_through`. `user_id`: of this user alone. Raises QueueUnusable."""
        with self._lock:
            stamp = self._read_stamp()
            if stamp != self._stamp:
                while rows := self.queue.after(self._start(oldest_through), user_id, limit=ROWS_AT_ONCE):
                    self._take_in(rows)
                    self._last_id = int(rows[-1].id or 0)
                # The queue keeps everything; who is still in it is asked only when something went.
                if self._entries and (deletions := self.queue.deletions()) != self._deletions:
                    for forgotten in self._entries.keys() - set(self.queue.users()):
                        del self._entries[forgotten]
                    self._deletions = deletions
                self._stamp = stamp
            if oldest_through:
                self._let_go(oldest_through)

    def of(self, user_id: str, index: PersonaIndex) -> Queued | None:
        """What counts for a user beside this index; None where nothing does."""
        entries = self._entries.get(user_id)
        if not entries:
            return None
        through = index.manifest.interactions_through
        counted = sorted((entry for entry in entries.values() if entry.counts_for(through)), key=_newest_first)
        if not counted:
            return None
        # What was said last of an item is what counts, and a click only where nothing was said: a dislike takes a like back, a
        # click does not take a dislike back, and ten clicks are one. The nightly run counts alike (`reviews/posted.py`).
        said: dict[Item, Entry] = {}
        for entry in counted:
            known = said.setdefault((entry.catalog, entry.item_id), entry)
            if known.kind == "click" and entry.kind != "click":
                said[entry.catalog, entry.item_id] = entry
        vectors, days = [], []
        for entry in sorted(said.values(), key=_newest_first):
            if entry.liked and (vector := _vector(entry, index)) is not None:
                vectors.append(vector)
                days.append(entry.day)
        return Queued(
            vectors=np.array(vectors, np.float32).reshape(-1, index.dimension),
            days=np.array(days, np.float64),
            seen=tuple(said),
        )

    def history_of(self, user_id: str, index: PersonaIndex) -> list[dict[str, Any]]:
        """The same interactions as they are shown, most recent first."""
        through = index.manifest.interactions_through
        entries = self._entries.get(user_id, {}).values()
        return [
            {
                "item_id": entry.item_id,
                "catalog": entry.catalog,
                "title": _title(entry, index),
                "at": _as_time(entry.day),
                "queued": True,
                "kind": entry.kind,
            }
            for entry in sorted((one for one in entries if one.counts_for(through)), key=_newest_first)
        ]

    def depth(self, index: PersonaIndex) -> int:
        """How many queued interactions this index does not contain."""
        through = index.manifest.interactions_through
        return sum(entry.counts_for(through) for entries in list(self._entries.values()) for entry in entries.values())

    def encode(self, index: PersonaIndex) -> None:
        """Have the encoder read what was written and is not read yet; returns at once."""
        with self._lock:
            if self._encoder is None or self._encoding is not None or time.monotonic() < self._pause_until:
                return
            unread = [entry for entry in self._unread(index) if _known(entry, index)][:TEXTS_AT_ONCE]
            if not unread:
                return
            try:
                self._encoding = self._encoder.submit(index, lambda: self._texts(unread, index))
            except Problem:
                # The queue before the encoder is full of people who wait; the watcher comes again.
                return
        self._encoding.add_done_callback(lambda done: self._read(unread, index, done))

    def _start(self, oldest_through: dict[str, int] | None) -> int | dict[str, int]:
        return self._last_id or dict(oldest_through or {})

    def _take_in(self, rows: Iterable[Interaction]) -> None:
        for row in rows:
            known = self._entries.get(row.user_id, {})
            if row.id is None or row.id in known:
                continue
            liked = self.is_liked(row)
            entry = Entry(
                id=row.id,
                catalog=row.catalog,
                item_id=row.item_id,
                kind=row.kind,
                liked=liked,
                day=row.at.timestamp() / SECONDS_PER_DAY,
                text=row.review if liked else None,
            )
            self._entries[row.user_id] = known | {row.id: entry}

    def _let_go(self, through: dict[str, int]) -> None:
        for user_id, entries in list(self._entries.items()):
            kept = {id: entry for id, entry in entries.items() if entry.counts_for(through)}
            if not kept:
                del self._entries[user_id]
            elif len(kept) < len(entries):
                self._entries[user_id] = kept

    def _unread(self, index: PersonaIndex) -> Iterable[Entry]:
        for entries in self._entries.values():
            for entry in entries.values():
                if entry.text is not None and entry.fingerprint != index.encoder_fingerprint:
                    yield entry

    def _texts(self, unread: list[Entry], index: PersonaIndex) -> list[str]:
        texts = []
        for entry in unread:
            known = index.item((entry.catalog, entry.item_id))
            texts.append(text_of(known["title"], known["summary"], entry.text or "", self._settings))
        return texts

    def _read(self, unread: list[Entry], index: PersonaIndex, done: Future[np.ndarray]) -> None:
        """Called by the encoder's thread when it is done, well or not."""
        self._encoding = None
        if done.cancelled():
            return
        error = done.exception()
        if error is not None:
            logger.warning("What %d queued reviews say cannot be read now: %s", len(unread), error)
            self._pause_until = time.monotonic() + PAUSE_AFTER_FAILURE_S
            return
        for entry, vector in zip(unread, done.result(), strict=True):
            entry.vector, entry.fingerprint = vector, index.encoder_fingerprint
        self.encode(index)

    def _read_stamp(self) -> object:
        """What changes with every append: time and size of the write-ahead log, which also begins anew."""
        found = []
        for path in (self.queue.path, self.queue.path.with_name(f"{self.queue.path.name}-wal")):
            try:
                stat = os.stat(path)  # noqa: PTH116 - twice as fast as Path.stat, and asked for with each answer
                found.append((stat.st_mtime_ns, stat.st_size))
            except FileNotFoundError:
                found.append((0, 0))
        return tuple(found)


def open_overlay(settings: Settings, encoder: BackgroundEncoder | None = None) -> Overlay:
    """The overlay over the queue of these settings; nothing is read yet. Without an encoder no text ever is."""
    return Overlay(InteractionQueue(settings.interactions_path), settings, encoder)


def _newest_first(entry: Entry) -> tuple[float, int]:
    return (-entry.day, -entry.id)


def _vector(entry: Entry, index: PersonaIndex) -> np.ndarray | None:
    if entry.vector is not None and entry.fingerprint == index.encoder_fingerprint:
        return entry.vector
    try:
        return index.item_vector((entry.catalog, entry.item_id))
    except UnknownItem:
        return None


def _known(entry: Entry, index: PersonaIndex) -> bool:
    return _title(entry, index) is not None


def _title(entry: Entry, index: PersonaIndex) -> str | None:
    try:
        return str(index.item((entry.catalog, entry.item_id))["title"])
    except UnknownItem:
        return None


def _as_time(day: float) -> str:
    return datetime.fromtimestamp(day * SECONDS_PER_DAY, UTC).isoformat(timespec="seconds")


__all__ = ["Entry", "Overlay", "QueueUnusable", "open_overlay"]
