"""What Prometheus is told.

Belongs here: names, meanings and labels of the metrics, one child per label looked up once. Does not belong here: when
something is counted. With several workers (`serve --workers N`) prometheus_client adds their figures up in files of the
folder PROMETHEUS_MULTIPROC_DIR, which `serve` sets before it is imported.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
# Seconds; a rerank takes well under a millisecond, an encoded history up to seconds.
BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
ENCODER_STATES = ("idle", "loading", "ready", "failed")
OTHER_ROUTE = "other"


class Metrics:
    """The figures of one application; every method is cheap enough for every request."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"persona4rec_{name}", meaning, labels, registry=registry)

        def gauge(name: str, meaning: str, *labels: str, mode: Any = "livemax") -> Gauge:
            return Gauge(f"persona4rec_{name}", meaning, labels, registry=registry, multiprocess_mode=mode)

        self._seconds = Histogram(
            "persona4rec_request_seconds",
            "Time from the first byte of a request to the last byte of its answer, by route.",
            ["route"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._requests = counter("requests", "Requests, by route, method and status.", "route", "method", "status")
        self._fallbacks = counter("fallbacks", "Answers that do not come from a stored profile, by kind.", "kind")
        self.unknown_candidates = counter("unknown_candidates", "Candidates that the index does not know.")
        self.unauthorised = counter("unauthorised", "Requests without a valid API key, where one is required.")
        self.rate_limited = counter("rate_limited", "Requests refused because their key or address asked too often.")
        self.overloaded = counter("overloaded", "Requests refused because too many were in progress.")
        self._variants = counter("experiment_answers", "Answers by variant of the experiment.", "variant")
        self.interactions = counter("interactions", "Interactions queued through this service, by kind.", "kind")
        self.hot_swaps = counter("hot_swaps", "Generations swapped in while running, per worker.")
        self.refused_generations = counter("refused_generations", "Tries to open a generation that failed, per worker.")
        self.in_progress = gauge("requests_in_progress", "Requests being answered now.", mode="livesum")
        self.generation = gauge("index_generation", "Number of the generation that is served.")
        self.oldest_generation = gauge(
            "index_generation_oldest_worker", "Lowest generation that any worker serves.", mode="livemin"
        )
        self.age = gauge("index_age_seconds", "Time since the generation that is served was published.")
        self.queue_depth = gauge("queue_depth", "Queued interactions that the index does not contain yet.")
        self.encoding = gauge("encoder_queue_depth", "Texts jobs waiting for the encoder.", mode="livesum")
        self.encoder_state = gauge("encoder_state", "1 for the state of the encoder, else 0.", "state")
        self._children: dict[tuple[str, str, int], tuple[Any, Any]] = {}
        self._kinds: dict[str, Any] = {}
        self._of_variant: dict[str, Any] = {}

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request is over."""
        children = self._children.get((route, method, status))
        if children is None:
            children = (self._requests.labels(route, method, str(status)), self._seconds.labels(route))
            self._children[route, method, status] = children
        children[0].inc()
        children[1].observe(seconds)

    def fallback(self, kind: str) -> None:
        """An answer was given for this reason without a stored profile."""
        child = self._kinds.get(kind)
        if child is None:
            child = self._kinds[kind] = self._fallbacks.labels(kind)
        child.inc()

    def variant(self, name: str) -> None:
        """An answer of this variant of the experiment was given."""
        child = self._of_variant.get(name)
        if child is None:
            child = self._of_variant[name] = self._variants.labels(name)
        child.inc()

    def set_encoder_state(self, state: str) -> None:
        """What the encoder is doing, one of ENCODER_STATES."""
        for name in ENCODER_STATES:
            self.encoder_state.labels(name).set(name == state)

    def forget_dead_workers(self) -> None:
        """Take the states of workers that ended out of the sums; what they counted stays."""
        folder = os.environ.get(MULTIPROCESS_VARIABLE)
        if not folder:
            return
        from prometheus_client.multiprocess import mark_process_dead

        found = {path.stem.rpartition("_")[2] for path in Path(folder).glob("gauge_live*_*.db")}
        for process in (int(number) for number in found if number.isdigit()):
            if not Path(f"/proc/{process}").exists():
                mark_process_dead(process)

    def render(self) -> bytes:
        """All figures in Prometheus' text format, of all workers."""
        if os.environ.get(MULTIPROCESS_VARIABLE):
            from prometheus_client.multiprocess import MultiProcessCollector

            together = CollectorRegistry()
            MultiProcessCollector(together)
            return generate_latest(together)
        return generate_latest(self.registry)
