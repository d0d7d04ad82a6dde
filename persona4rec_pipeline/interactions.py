"""The queue of interactions that come in while serving: durable when accepted, read by the service and by the nightly run.

Belongs here: the SQLite file, its schema, and what goes in, comes out and is forgotten. Does not belong here: how the queue
becomes reviews (`reviews/posted.py`), and HTTP.

SQLite and not the warehouse, as DuckDB lets one process alone write and each of its transactions opens the file anew: the
nightly run would keep requests waiting. Nothing is taken out once it is in the warehouse: a catalogue's reviews are made
from its source files and from this queue, whole, each time. So the file belongs to the data that are backed up.
"""

from __future__ import annotations

import fcntl
import math
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

Kind = Literal["click", "like", "dislike", "review"]
KINDS: tuple[str, ...] = get_args(Kind)
# Characters. Callers have shorter limits of their own; these keep a mistake of theirs from filling the disk.
MAX_REVIEW_CHARACTERS, MAX_ID_CHARACTERS = 20_000, 2_000

_SCHEMA = """
-- One row per interaction that was accepted. Rows are only added, and deleted when a user or a catalogue must go.
CREATE TABLE interactions (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,  -- ascending in the order of acceptance, never given twice
    key       TEXT NOT NULL,                      -- of the caller; a second one of the same user is the same interaction
    user_id   TEXT NOT NULL,
    catalog   TEXT NOT NULL,
    item_id   TEXT NOT NULL,
    kind      TEXT NOT NULL,                      -- click, like, dislike or review
    rating    REAL,                               -- NULL: none was given
    review    TEXT,                               -- NULL: nothing was said
    at        INTEGER NOT NULL,                   -- when it happened, in microseconds since 1970 (UTC)
    UNIQUE (user_id, key)
);
-- What the service asks for: one user's interactions after an id.
CREATE INDEX interactions_of_user ON interactions (user_id, id);
-- What the nightly run asks for: one catalogue's interactions after an id, and its highest id.
CREATE INDEX interactions_of_catalog ON interactions (catalog, id);
-- One row. By its identity a queue is told apart from one that was begun anew in its place, whose ids mean something else.
CREATE TABLE queue (identity TEXT NOT NULL, deletions INTEGER NOT NULL);
INSERT INTO queue VALUES (lower(hex(randomblob(8))), 0);
"""
_COLUMNS = "id, key, user_id, catalog, item_id, kind, rating, review, at"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BadInteraction(ValueError):
    """An interaction cannot be queued; the message names the field and says what to mend."""


class QueueUnusable(RuntimeError):
    """The file of the queue cannot be read or written: locked for too long, damaged, or the disk is full."""


@dataclass(frozen=True)
class Interaction:
    """One interaction of one user with one item at one time (`at`, with its time zone).

    id: None before it is queued. key: what makes a repetition recognisable: the same key of the same user is the same
    interaction. kind: click and like are positive, dislike is not, a review is by its rating. Only a review has text.
    """

    id: int | None
    key: str
    user_id: str
    catalog: str
    item_id: str
    kind: Kind
    rating: float | None
    review: str | None
    at: datetime


class InteractionQueue:
    """The queue in one file, for several threads and processes at once. Cheap to make: it opens nothing by itself.

    All methods raise QueueUnusable when the file cannot be used; a queue that was never written to is empty. Readers do not
    wait for a writer.
    """

    def __init__(self, path: Path | str, busy_timeout_s: float = 10.0):
        self.path = Path(path)
        self.busy_timeout_s = busy_timeout_s
        # A connection of its own for reading, so that nobody who asks waits for a disk to confirm what others append.
        self._reading, self._writing = threading.Lock(), threading.Lock()
        # By process: a connection must not be used, nor closed, in a fork of the process that opened it.
        self._connections: dict[tuple[str, int], sqlite3.Connection] = {}

    def append(self, interaction: Interaction) -> int:
        """Queue an interaction and return its id; it is on the disk when this returns.

        A key that the user has queued before gives the id of the first, and changes nothing. Ids are stripped of blanks, as
        those of source files are; null characters are left out and half surrogates replaced, as neither survives in a
        database. Raises BadInteraction.
        """
        values = _checked(interaction)
        with self._writing, self._told():
            connection = self._open("write")
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                found = connection.execute(
                    "SELECT id FROM interactions WHERE user_id = ? AND key = ?", (values[1], values[0])
                ).fetchone()
                if found is not None:
                    return int(found[0])
                cursor = connection.execute(
                    "INSERT INTO interactions (key, user_id, catalog, item_id, kind, rating, review, at) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    values,
                )
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def after(
        self,
        id: int | Mapping[str, int],
        user_id: str | None = None,
        *,
        catalog: str | None = None,
        limit: int | None = None,
    ) -> list[Interaction]:
        """Interactions with a higher id, ascending; of one user, of one catalogue, at most `limit`, where stated.

        id: a number, or catalogue -> number, as an index generation states it; a catalogue that is not named counts from 0.
        """
        conditions, parameters = [], []
        if isinstance(id, Mapping):
            cases = "".join(" WHEN ? THEN ?" for _ in id)
            conditions.append(f"id > CASE catalog{cases} ELSE 0 END" if id else "id > 0")
            parameters += [value for pair in id.items() for value in pair]
        else:
            conditions.append("id > ?")
            parameters.append(id)
        for column, value in (("user_id", user_id), ("catalog", catalog)):
            if value is not None:
                conditions.append(f"{column} = ?")
                parameters.append(_clean(value).strip())
        query = f"SELECT {_COLUMNS} FROM interactions WHERE {' AND '.join(conditions)} ORDER BY id LIMIT ?"
        return [_interaction(row) for row in self._rows(query, [*parameters, -1 if limit is None else limit])]

    def last_id(self, catalog: str | None = None) -> int:
        """The highest id that was ever given, or the highest one that is queued of a catalogue; 0 if there is none."""
        if catalog is None:
            rows = self._rows("SELECT seq FROM sqlite_sequence WHERE name = 'interactions'", [])
        else:
            rows = self._rows("SELECT max(id) FROM interactions WHERE catalog = ?", [_clean(catalog).strip()])
        return int(rows[0][0] or 0) if rows else 0

    def users(self) -> list[str]:
        """The ids of all users of whom something is queued, in order."""
        return [user for (user,) in self._rows("SELECT DISTINCT user_id FROM interactions ORDER BY user_id", [])]

    def deletions(self) -> int:
        """How often something was deleted; as long as it stays the same, what was read before is still there."""
        return sum(number for (number,) in self._rows("SELECT deletions FROM queue", []))

    def identity(self) -> str:
        """What tells this file from one that was begun anew in its place; empty for one that is not there."""
        return "".join(identity for (identity,) in self._rows("SELECT identity FROM queue", []))

    def skip_to(self, id: int) -> None:
        """Give no id up to this one any more: for a queue in the place of one that had given them."""
        with self._writing, self._told():
            connection = self._open("write")
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                last = connection.execute("SELECT max(seq) FROM sqlite_sequence").fetchone()[0] or 0
                connection.execute("DELETE FROM sqlite_sequence WHERE name = 'interactions'")
                connection.execute("INSERT INTO sqlite_sequence VALUES ('interactions', ?)", [max(last, id)])

    def forget(self, user_id: str) -> int:
        """Delete all interactions of a user, so that the file holds no trace of them; returns how many there were."""
        return self._delete("user_id", user_id)

    def forget_catalog(self, catalog: str) -> int:
        """Delete all interactions of a catalogue, as `forget` does those of a user."""
        return self._delete("catalog", catalog)

    def close(self) -> None:
        """Close the connections of this process; the next call opens them again."""
        with self._reading, self._writing:
            for key in [key for key in self._connections if key[1] == os.getpid()]:
                self._connections.pop(key).close()

    def _delete(self, column: str, value: str) -> int:
        if not self.path.exists():
            return 0
        with self._writing, self._told():
            connection = self._open("write")
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                statement = f"DELETE FROM interactions WHERE {column} = ?"
                deleted = connection.execute(statement, [_clean(value).strip()]).rowcount
                if deleted:
                    connection.execute("UPDATE queue SET deletions = deletions + 1")
            # What was appended lies in the write-ahead log as well until that begins anew. Repeated even where nothing was
            # deleted: a forgetting that was cut short here is one that is not finished.
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                raise QueueUnusable(
                    f"The rows are deleted, but {self.path}-wal may still hold their text: another process reads the queue. "
                    "Repeat this when it is done."
                )
            return deleted

    def _rows(self, query: str, parameters: list) -> list[tuple]:
        if not self.path.exists():
            return []
        with self._reading, self._told():
            return self._open("read").execute(query, parameters).fetchall()

    def _open(self, purpose: str) -> sqlite3.Connection:
        key = (purpose, os.getpid())
        if key not in self._connections:
            if not self.path.parent.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                _sync(self.path.parent.parent)
            connection = sqlite3.connect(
                self.path, timeout=self.busy_timeout_s, isolation_level=None, check_same_thread=False
            )
            # One process at a time: SQLite does not wait for another that changes the journal mode.
            with _exclusive(self.path.with_suffix(".lock")):
                connection.execute("PRAGMA journal_mode = WAL")
                # Looked at first: to declare what is there would still wait for another's transaction.
                if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'queue'").fetchone():
                    connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            # FULL: the log is on the disk before `append` returns, so that a power cut loses nothing that was accepted.
            connection.execute("PRAGMA synchronous = FULL")
            # What is deleted is overwritten with zeros.
            connection.execute("PRAGMA secure_delete = ON")
            if purpose == "read":
                connection.execute("PRAGMA query_only = ON")
            self._connections[key] = connection
        return self._connections[key]

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise QueueUnusable(
                f"The interaction queue {self.path} cannot be used: {error}. See that the disk has room and the file is "
                "readable and writable; a damaged file is replaced from a backup."
            ) from error


def _checked(interaction: Interaction) -> tuple[object, ...]:
    """The values of the columns after `id`. Raises BadInteraction."""
    ids = {name: _clean(getattr(interaction, name)).strip() for name in ("key", "user_id", "catalog", "item_id")}
    for name, value in ids.items():
        if not 0 < len(value) <= MAX_ID_CHARACTERS:
            raise BadInteraction(f"{name} must have 1 to {MAX_ID_CHARACTERS:,} characters that are not blank.")
    if interaction.kind not in KINDS:
        raise BadInteraction(f"kind must be one of {', '.join(KINDS)}.")
    if interaction.rating is not None and not math.isfinite(interaction.rating):
        raise BadInteraction("rating must be a finite number, or none.")
    review = None if interaction.review is None else _clean(interaction.review)
    if review is not None and len(review) > MAX_REVIEW_CHARACTERS:
        raise BadInteraction(f"review has {len(review):,} characters; at most {MAX_REVIEW_CHARACTERS:,} are taken.")
    if review and interaction.kind != "review":
        raise BadInteraction(f"A {interaction.kind} has no text; give kind review, or no review.")
    if interaction.at.tzinfo is None:
        raise BadInteraction("at has no time zone; give one, such as 2026-11-03T12:00:00Z.")
    at = (interaction.at - _EPOCH) // timedelta(microseconds=1)
    return (*ids.values(), interaction.kind, interaction.rating, review or None, at)


def _interaction(row: tuple) -> Interaction:
    *values, at = row
    return Interaction(*(*values, _EPOCH + timedelta(microseconds=at)))


def _clean(text: str) -> str:
    """The text without null characters; surrogates are paired, and those that have no pair replaced."""
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\0", "")


def _sync(folder: Path) -> None:
    """Have the entries of a folder on the disk: a new folder that a power cut loses takes its files along."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
