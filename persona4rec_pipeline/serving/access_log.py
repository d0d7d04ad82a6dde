"""One line of JSON per request, for whoever reads logs.

Belongs here: the line, and how many of them are written. Does not belong here: what is counted (`metrics`). A line holds the
method, the template of the route, the status, the time and the name of the key; never a text, an id of a user or a key. A
thread writes, so that no request waits for a disk; beyond so many lines per second they are counted and left out.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import TextIO

import msgspec

WRITE_EVERY_S = 0.5


class AccessLog:
    """Collects lines and writes them in the background; `per_s` bounds how many."""

    def __init__(self, per_s: int, stream: TextIO | None = None) -> None:
        self._room = self._lines_at_a_time = max(1, round(per_s * WRITE_EVERY_S))
        self._lines: deque[tuple[float, str, str, int, float, str | None, str | None, str | None]] = deque()
        self._left_out = 0
        self._stream = stream
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin writing."""
        self._stopped.clear()
        self._thread = threading.Thread(target=self._work, name="persona4rec-access-log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what is left and end."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()

    def add(
        self,
        method: str,
        route: str,
        status: int,
        seconds: float,
        key: str | None = None,
        variant: str | None = None,
        user: str | None = None,
    ) -> None:
        """Tell of one request; `user` is a hash."""
        if self._room > 0:
            self._room -= 1
            self._lines.append((time.time(), method, route, status, seconds, key, variant, user))
        else:
            self._left_out += 1

    def flush(self) -> None:
        """Write what was collected."""
        told = []
        # Taken out one by one: the event loop may add at any moment.
        while self._lines:
            told.append(_line(*self._lines.popleft()))
        left_out, self._left_out = self._left_out, 0
        self._room = self._lines_at_a_time
        if not told and not left_out:
            return
        if left_out:
            told.append(msgspec.json.encode({"at": _at(time.time()), "left_out": left_out}).decode())
        stream = self._stream or sys.stderr
        stream.write("\n".join(told) + "\n")
        stream.flush()

    def _work(self) -> None:
        while not self._stopped.wait(WRITE_EVERY_S):
            self.flush()


def _line(
    at: float,
    method: str,
    route: str,
    status: int,
    seconds: float,
    key: str | None,
    variant: str | None,
    user: str | None,
) -> str:
    stated: dict[str, object] = {
        "at": _at(at),
        "method": method,
        "route": route,
        "status": status,
        "ms": round(seconds * 1000, 3),
    }
    stated.update({name: value for name, value in (("key", key), ("variant", variant), ("user", user)) if value})
    return msgspec.json.encode(stated).decode()


def _at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
