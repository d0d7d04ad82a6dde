"""What a running service holds together: the index, the keys, the limits, the figures, the log.

Belongs here: the parts of one process and their life from start to stop. Does not belong here: routes, and what each part does.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from persona4rec_pipeline.index import IndexProblem, Tastes
from persona4rec_pipeline.serving.access_log import AccessLog
from persona4rec_pipeline.serving.current import CurrentIndex, Served, Watcher
from persona4rec_pipeline.serving.encoding import BackgroundEncoder
from persona4rec_pipeline.serving.experiment import TREATMENT, variant_of
from persona4rec_pipeline.serving.limits import TokenBuckets
from persona4rec_pipeline.serving.metrics import Metrics
from persona4rec_pipeline.serving.overlay import QueueUnusable, open_overlay
from persona4rec_pipeline.serving.security import ApiKeys, KeyProblem, check_door, hashed_user, keys_required, log_key
from persona4rec_pipeline.settings import Settings

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Arm(msgspec.Struct, frozen=True):
    """How a request is answered: the generation, and what an experiment changes."""

    served: Served
    tastes: Tastes
    weight: float | None = None
    variant: str | None = None


class Call:
    """One request, from its first byte to its line in the log."""

    __slots__ = ("key_name", "query", "route", "status", "user", "variant")

    def __init__(self) -> None:
        self.route = ""
        self.query = b""
        self.status = 0
        self.key_name: str | None = None
        self.variant: str | None = None
        self.user: str | None = None


class Service:
    """The parts of one process; `start` and `stop` frame its life."""

    def __init__(self, settings: Settings) -> None:
        serving = settings.serving
        self.settings = settings
        self.metrics = Metrics()
        self.folder = settings.serving_path
        self.keys = ApiKeys(self.folder)
        self.keys_required = keys_required(settings)
        self.experiment = serving.experiment if serving.experiment.name is not None else None
        options: dict[str, Any] = {
            "verify": serving.verify,
            "cache_bytes": serving.render_cache_mib << 20,
            "retry_refused_s": serving.retry_refused_s,
        }
        self.current = CurrentIndex(settings.index_path, **options)
        self.treatment: CurrentIndex | None = None
        if self.experiment is not None and self.experiment.generation is not None:
            self.treatment = CurrentIndex(settings.index_path, generation=self.experiment.generation, **options)
        self.buckets = None if serving.requests_per_s is None else TokenBuckets(serving.requests_per_s, serving.burst)
        self.log = AccessLog(serving.access_log_per_s) if serving.access_log else None
        self.encoder = BackgroundEncoder(settings)
        self.overlay = open_overlay(settings, self.encoder)
        self.shares_queue = serving.workers > 1
        self.in_progress = 0
        self._log_key = log_key(self.folder) if self.experiment is not None else b""
        self._pool = ThreadPoolExecutor(serving.threads, thread_name_prefix="persona4rec-answer")
        self._watcher = Watcher(serving.look_every_s, self.look)
        self._counted = {"swaps": 0, "refused": 0}

    def start(self) -> None:
        """Open the index and begin to watch. Without a published index it starts all the same, and says so. Raises KeyProblem
        where keys are required and there are none."""
        check_door(self.settings)
        self.look()
        self._watcher.start()
        if self.log is not None:
            self.log.start()

    def stop(self) -> None:
        """End the threads; what was collected for the log is written."""
        gc.unfreeze()
        self._watcher.stop()
        self.encoder.stop()
        self.overlay.queue.close()
        self._pool.shutdown(cancel_futures=True)
        if self.log is not None:
            self.log.stop()

    def look(self) -> None:
        """Take over what changed: a new generation, keys. Called by the watcher, never by a request."""
        self.current.look()
        if self.treatment is not None:
            self.treatment.look()
        try:
            self.keys.refresh()
        except KeyProblem as problem:
            logger.error("%s", problem)
        self.refresh_overlay()
        served = self.current.served
        if served is not None:
            self.overlay.encode(served.index)
        self.tell_metrics()

    def refresh_overlay(self) -> None:
        """Take in what others queued. A queue that cannot be read is logged, and what was read before goes on counting."""
        served = [one for one in (self.current.served, self.treatment and self.treatment.served) if one]
        if not served:
            return
        through = [one.index.manifest.interactions_through for one in served]
        oldest = {name: min(ids.get(name, 0) for ids in through) for name in through[0]}
        try:
            self.overlay.refresh(oldest)
        except QueueUnusable as problem:
            logger.error("%s", problem)

    def tell_metrics(self) -> None:
        """Bring the figures that are states, and not events, up to date."""
        served, metrics = self.current.served, self.metrics
        if served is not None:
            metrics.generation.set(served.index.generation)
            metrics.oldest_generation.set(served.index.generation)
            metrics.queue_depth.set(self.overlay.depth(served.index))
            metrics.age.set((datetime.now(UTC) - served.published_at).total_seconds())
        metrics.set_encoder_state(self.encoder.state)
        metrics.encoding.set(self.encoder.waiting)
        metrics.forget_dead_workers()
        metrics.in_progress.set(self.in_progress)
        swaps, refused = self.current.swaps, self.current.refused
        metrics.hot_swaps.inc(swaps - self._counted["swaps"])
        metrics.refused_generations.inc(refused - self._counted["refused"])
        self._counted = {"swaps": swaps, "refused": refused}

    def arm_for(self, user_id: str | None, call: Call) -> Arm:
        """How this user is answered. Raises IndexProblem while there is no index."""
        experiment, tastes = self.experiment, self.settings.serving.tastes
        if experiment is None or user_id is None:
            return Arm(self.current.get(), tastes)
        variant = variant_of(str(experiment.name), experiment.share, user_id)
        call.user = hashed_user(self._log_key, user_id)
        served = self.current.get()
        weight = None
        if variant == TREATMENT:
            if self.treatment is not None:
                try:
                    served = self.treatment.get()
                except IndexProblem:
                    # The treatment cannot be given; its users count for neither side.
                    return Arm(served, tastes)
            weight, tastes = experiment.weight, experiment.tastes or tastes
        call.variant = variant
        self.metrics.variant(variant)
        return Arm(served, tastes, weight, variant)

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Run what would hold up the others in one of a few threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    def is_ready(self) -> bool:
        """Whether there is an index to answer from."""
        return self.current.served is not None


def now() -> float:
    """Seconds of a clock that only goes forward."""
    return time.perf_counter()
