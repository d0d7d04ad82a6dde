"""The generation that is being served: opened once, replaced when another one becomes current.

Belongs here: noticing, opening, warming and swapping a generation, off the path of any request. Does not belong here: HTTP.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from persona4rec_pipeline.index import IndexProblem, PersonaIndex
from persona4rec_pipeline.index.files import GENERATIONS, current_generation
from persona4rec_pipeline.serving.answers import Renderer

# Time after which a refused generation is tried again though nothing about it has changed, in seconds.
RETRY_REFUSED_S = 60.0
# Items that are scored once before a generation is served, so that its first request finds everything compiled and mapped.
WARM_ITEMS = 50

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Served:
    """A generation as requests get it: they keep theirs to the end, whatever is swapped meanwhile."""

    index: PersonaIndex
    renderer: Renderer

    @property
    def published_at(self) -> datetime:
        """When it was published, UTC."""
        return datetime.fromisoformat(self.index.manifest.created_at)


class CurrentIndex:
    """Holds the generation that is current, or a fixed one; `look` opens another one when it became current.

    A generation that cannot be opened is reported in `problem`, counted in `refused` and logged, and the old one stays in
    service. It is tried again when its files or the link have changed, or after RETRY_REFUSED_S: verification reads it all.
    """

    def __init__(
        self,
        index_path: Path,
        *,
        generation: int | None = None,
        verify: bool = True,
        cache_bytes: int = 32 << 20,
        retry_refused_s: float = RETRY_REFUSED_S,
    ) -> None:
        self._index_path = index_path
        self._fixed = generation
        self._verify = verify
        self._cache_bytes = cache_bytes
        self._retry_refused_s = retry_refused_s
        self._looking = threading.Lock()
        self._served: Served | None = None
        self._refused: tuple[object, float] | None = None
        self._retired: weakref.ref[PersonaIndex] | None = None
        self._is_tidy = True
        self.problem: str | None = None
        self.refused = 0
        self.swaps = 0

    def get(self) -> Served:
        """What to answer from. Raises IndexProblem when no generation could be opened yet."""
        served = self._served
        if served is None:
            raise IndexProblem(self.problem or f"The index at {self._index_path} is not open yet.")
        return served

    @property
    def served(self) -> Served | None:
        """What is served, if anything."""
        return self._served

    def look(self) -> bool:
        """Open what became current, unless it was refused before and is unchanged; whether something was swapped in."""
        with self._looking:
            if not self._is_tidy:
                self._tidy_up()
            return self._look()

    def _look(self) -> bool:
        state: object = None
        try:
            target = self._target()
            if self._served is not None and self._served.index.path == target:
                self.problem = None
                return False
            state = _state(target)
            if self._refused is not None:
                refused, at = self._refused
                if refused == state and time.monotonic() - at < self._retry_refused_s:
                    return False
            index = self._open()
            warm(index)
        except (IndexProblem, OSError, ValueError, KeyError, pa.ArrowException) as error:
            self._refuse(error, state)
            return False
        if self._served is not None:
            self.swaps += 1
            self._retired = weakref.ref(self._served.index)
        self._served = Served(index, Renderer(index, self._cache_bytes))
        self.problem, self._refused = None, None
        logger.info("Serving generation %s of %s", index.generation, self._index_path)
        gc.unfreeze()
        self._tidy_up()
        return True

    def _tidy_up(self) -> None:
        """Let the memory of the generation before go as soon as no request in flight holds it, and then have the garbage
        collector leave alone what is there: modules and index live long, and looking through them for garbage holds up every
        request for tens of milliseconds."""
        gc.collect()
        if self._retired is not None and self._retired() is not None:
            self._is_tidy = False
            return
        gc.freeze()
        release_memory()
        self._retired, self._is_tidy = None, True

    def _target(self) -> Path:
        if self._fixed is None:
            return current_generation(self._index_path)
        return self._index_path / GENERATIONS / f"{self._fixed:06d}"

    def _open(self) -> PersonaIndex:
        if self._fixed is None:
            return PersonaIndex.open(self._index_path, verify=self._verify)
        return PersonaIndex.open(self._index_path, verify=self._verify, generation=self._fixed)

    def _refuse(self, error: Exception, state: object) -> None:
        problem = str(error)
        if problem != self.problem:
            logger.error("%s", problem)
        # Where nothing was published there is nothing to refuse, and looking costs nothing.
        if state is not None:
            self.refused += 1
            self._refused = (state, time.monotonic())
        self.problem = problem


class Watcher:
    """A thread that calls functions one after the other, every so many seconds, until it is stopped."""

    def __init__(self, every_s: float, *tasks: Callable[[], object]) -> None:
        self._every_s = every_s
        self._tasks = tasks
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="persona4rec-watcher", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, after the task in hand."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(self._every_s):
            for task in self._tasks:
                try:
                    task()
                except Exception:
                    logger.exception("A look at what changed failed; it is tried again in %s s.", self._every_s)


def warm(index: PersonaIndex) -> None:
    """Answer once from an index before anybody asks: compiles, maps and touches what a request needs."""
    profile = np.zeros(index.dimension, np.float32)
    profile[0] = 1
    names = [(one.catalog or "", one.item_id) for one in index.popular(WARM_ITEMS)]
    index.rerank(profile, names)
    index.search(profile, WARM_ITEMS)


def release_memory() -> None:
    """Give the memory of a released generation back to the system; without it the process would seem to grow."""
    pa.default_memory_pool().release_unused()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        # Another C library than glibc; it keeps the memory for later.
        return


def _state(generation: Path) -> object:
    """What changes when somebody mends a generation: its place, and size and time of every file."""
    stats = [(path, path.stat()) for path in sorted(generation.rglob("*"))]
    return (generation, [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats])
