"""How far a generation has come: a bar on a terminal, a line now and then elsewhere.

Belongs here: drawing and wording. Does not belong here: the statistics that outlive one call (`language_model.py`).
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from persona4rec_pipeline.generation.records import Result

# Between two lines, in seconds: a night's log stays readable, and a waiting person sees movement.
LINE_EVERY_S = 5.0

logger = logging.getLogger(__name__)


class Progress:
    """Follows one call of `LanguageModel.generate`.

    total: number of requests, None when they come from a generator (then no time left is given).
    on_progress: gets the lines; None draws a bar if stderr is a terminal and logs the lines otherwise.
    """

    def __init__(self, total: int | None, on_progress: Callable[[str], None] | None):
        self._total = total
        self._done = self._hits = self._failed = self._tokens = self._in_flight = 0
        self._began = time.monotonic()
        self._last_line = self._began
        self._bar = _Bar(total) if sys.stderr.isatty() else None
        self._say = on_progress or (None if self._bar else logger.info)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        if self._say and self._done:
            self._say(self.line())

    def started(self, seconds: float) -> None:
        """The engine took this long to start; no rate counts it."""
        self._began += seconds

    def answered(self, n: int) -> None:
        """`n` more answers of the running chunk have arrived; they are not committed yet."""
        self._in_flight += n
        self._show()

    def retried(self, n: int) -> None:
        """`n` second or later tries have arrived; their requests were counted at the first."""
        self._show()

    def tokens(self, n: int) -> None:
        """`n` more output tokens."""
        self._tokens += n

    def finished(self, results: Sequence[Result]) -> None:
        """A chunk is committed."""
        self._in_flight = 0
        self._done += len(results)
        self._hits += sum(result.from_ledger for result in results)
        self._failed += sum(not result.ok for result in results)
        self._show()

    def line(self) -> str:
        """`128/1000 done, 30 from the ledger, 2 failed, 3.1 requests/s, 210 tokens/s, 4 min left`."""
        seconds = max(time.monotonic() - self._began, 1e-3)
        paid = self._done - self._hits + self._in_flight
        of = f"/{self._total}" if self._total is not None else ""
        parts = [f"{self._done}{of} done", f"{self._hits} from the ledger", f"{self._failed} failed"]
        if paid:
            parts += [f"{paid / seconds:.1f} requests/s", f"{self._tokens / seconds:.0f} tokens/s"]
            # As if all that is left had to be paid for: after an interruption the ledger's share comes first.
            if self._total is not None and self._done and (left := self._total - self._done - self._in_flight) > 0:
                parts.append(f"{_duration(left * seconds / paid)} left")
        return ", ".join(parts)

    def _show(self) -> None:
        if self._bar:
            self._bar.update(self._done + self._in_flight, self.line())
        now = time.monotonic()
        if self._say and now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            self._say(self.line())


class _Bar:
    def __init__(self, total: int | None):
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._progress = RichProgress(
            SpinnerColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            transient=False,
        )
        self._task = self._progress.add_task("starting", total=total)

    def start(self) -> None:
        self._progress.start()

    def update(self, completed: int, description: str) -> None:
        self._progress.update(self._task, completed=completed, description=description)

    def stop(self) -> None:
        self._progress.stop()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
