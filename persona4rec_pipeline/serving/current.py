"""The generation that is being served: opened once, replaced when another one becomes current.

Belongs here: noticing and opening a new generation. Does not belong here: HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from persona4rec_pipeline.index import IndexProblem, PersonaIndex
from persona4rec_pipeline.index.files import current_generation

# Between two looks at the `current` link, in seconds.
LOOK_EVERY_S = 1.0

logger = logging.getLogger(__name__)


class CurrentIndex:
    """Gives the index to every request; opens a newly published generation at most `look_every_s` late.

    While a request opens a new generation, the others go on with the old one. A new generation that cannot be opened is
    reported in `problem` and in the log, and the old one stays in service; the next look tries again.
    """

    def __init__(self, index_path: Path, look_every_s: float = LOOK_EVERY_S, verify: bool = True) -> None:
        self._index_path = index_path
        self._look_every_s = look_every_s
        self._verify = verify
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._index: PersonaIndex | None = None
        self.problem: str | None = None

    def get(self) -> PersonaIndex:
        """The index to answer from. Raises IndexProblem when no generation could be opened yet."""
        # Without any index everybody waits for the one who opens it; with one, nobody waits.
        if self._lock.acquire(blocking=self._index is None):
            try:
                if time.monotonic() - self._looked_at >= self._look_every_s:
                    self._look()
                    self._looked_at = time.monotonic()
            finally:
                self._lock.release()
        if self._index is None:
            raise IndexProblem(self.problem or f"The index at {self._index_path} is not open.")
        return self._index

    def _look(self) -> None:
        try:
            generation = current_generation(self._index_path)
            if self._index is None or self._index.path != generation:
                self._index = PersonaIndex.open(self._index_path, verify=self._verify)
                logger.info("Serving generation %s of %s", self._index.generation, self._index_path)
            self.problem = None
        except IndexProblem as problem:
            if str(problem) != self.problem:
                logger.error("%s", problem)
            self.problem = str(problem)
