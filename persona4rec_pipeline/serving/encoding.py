"""The encoder of the index, for texts that arrive now.

Belongs here: loading it when it is first needed, and a queue before it, so that the event loop never waits and the process
never drowns. Does not belong here: which texts (`ask`, `overlay`), how they are encoded (`embedding`).

torch and what reads reviews are imported in the thread that encodes; a server that is never asked for a text never pays.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from persona4rec_pipeline.index import PersonaIndex
from persona4rec_pipeline.serving.limits import too_busy
from persona4rec_pipeline.settings import Settings

if TYPE_CHECKING:
    from persona4rec_pipeline.embedding import Encoder

# Loading a large encoder from a slow disk is the longest that it should take.
ENCODE_TIMEOUT_S = 120.0
IDLE, LOADING, READY, FAILED = "idle", "loading", "ready", "failed"

logger = logging.getLogger(__name__)


class EncoderUnavailable(RuntimeError):
    """The encoder that made the index cannot be had here; the message says how to mend it."""


def load_encoder(index: PersonaIndex, settings: Settings) -> Encoder:
    """The encoder that made the index. Raises EncoderUnavailable, saying what to do, when it is not on this machine."""
    # A server for known users does without most of the requirements.
    missing = "This installation cannot encode texts ({}); install all requirements, or leave texts out."
    try:
        from persona4rec_pipeline.embedding import Encoder, EncoderError
    except ImportError as error:
        raise EncoderUnavailable(missing.format(error)) from error
    path, again = index.manifest.encoder.path, "publish the index again with `persona4rec run`"
    if path is None:
        raise EncoderUnavailable(f"The index does not say where its encoder ({index.encoder_fingerprint}) is; {again}.")
    if Path(path).is_absolute() and not Path(path).is_dir():
        raise EncoderUnavailable(
            f"The encoder that made the index ({index.encoder_fingerprint}) is not on this machine; {again}."
        )
    try:
        encoder = Encoder.load(path, settings.encoder.max_seq_length, settings.encoder.encode_batch_size)
    except ImportError as error:
        raise EncoderUnavailable(missing.format(error)) from error
    except (EncoderError, OSError) as error:
        raise EncoderUnavailable(
            f"The encoder that made the index cannot be loaded: {error} To mend it, {again}."
        ) from error
    if encoder.fingerprint != index.encoder_fingerprint:
        raise EncoderUnavailable(
            f"The encoder ({encoder.fingerprint}) is not the one that made the index ({index.encoder_fingerprint}); {again}."
        )
    return encoder


def load_leaving_cores(index: PersonaIndex, settings: Settings) -> Encoder:
    """`load_encoder`, which then takes no more threads than the service leaves it."""
    encoder = load_encoder(index, settings)
    import torch

    torch.set_num_threads(settings.serving.encoder_threads)
    return encoder


@dataclass(frozen=True)
class _Job:
    index: PersonaIndex
    texts: Callable[[], list[str]]
    done: Future[np.ndarray]


class BackgroundEncoder:
    """One thread that encodes, one job after the other; `waiting` of them at most."""

    def __init__(
        self,
        settings: Settings,
        load: Callable[[PersonaIndex, Settings], Encoder] = load_leaving_cores,
    ) -> None:
        self._settings = settings
        self.load = load
        self._jobs: queue.Queue[_Job | None] = queue.Queue(settings.serving.encoder_queue)
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._encoder: Encoder | None = None
        self.state = IDLE

    @property
    def waiting(self) -> int:
        """Jobs that wait."""
        return self._jobs.qsize()

    def submit(self, index: PersonaIndex, texts: Callable[[], list[str]]) -> Future[np.ndarray]:
        """Have texts encoded by the encoder of an index; `texts` is called in the thread. Raises Problem (503) when too many
        wait; the future raises EncoderUnavailable."""
        job = _Job(index, texts, Future())
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise too_busy("Too many histories with texts wait for the encoder.", 5) from None
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="persona4rec-encoder", daemon=True)
                self._thread.start()
        return job.done

    async def encode(self, index: PersonaIndex, texts: Callable[[], list[str]]) -> np.ndarray:
        """`submit`, awaited: float32 (n, d). Raises EncoderUnavailable also when it takes longer than ENCODE_TIMEOUT_S."""
        try:
            async with asyncio.timeout(ENCODE_TIMEOUT_S):
                return await asyncio.wrap_future(self.submit(index, texts))
        except TimeoutError:
            raise EncoderUnavailable(f"The encoder has not answered within {ENCODE_TIMEOUT_S:.0f} s.") from None

    def stop(self) -> None:
        """End; jobs that still wait are cancelled."""
        try:
            while (job := self._jobs.get_nowait()) is not None:
                job.done.cancel()
        except queue.Empty:
            pass
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join(timeout=5)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not job.done.set_running_or_notify_cancel():
                continue
            try:
                job.done.set_result(self._encoder_of(job.index).encode(job.texts()))
            except Exception as error:  # noqa: BLE001 - it is the asker's, who waits for it
                # A future of asyncio takes any exception but this one, and would never be done.
                job.done.set_exception(RuntimeError(repr(error)) if isinstance(error, StopIteration) else error)

    def _encoder_of(self, index: PersonaIndex) -> Encoder:
        if self._encoder is None or self._encoder.fingerprint != index.encoder_fingerprint:
            self.state = LOADING
            try:
                self._encoder = None
                self._encoder = self.load(index, self._settings)
            except Exception as error:
                self.state = FAILED
                if not isinstance(error, EncoderUnavailable):
                    logger.exception("The encoder of generation %s cannot be loaded.", index.generation)
                raise
            self.state = READY
        return self._encoder
