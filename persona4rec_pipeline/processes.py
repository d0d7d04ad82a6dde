"""Several processes at work on one installation: who waits for whom, and what becomes of what a dead one left.

Belongs here: one process at a time per catalogue, the tag that ties a run to its process, and ending runs that a kill -9
or a power cut left standing. Does not belong here: what a run does, and the lock around a transaction
(`warehouse/database.py`), which is held for moments.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psutil

# Between two looks at a taken lock, and between two lines about the waiting, in seconds.
LOCK_POLL_S, TOLD_EVERY_S = 0.5, 30.0

# Tag of every run: the process that it lives and dies with.
PROCESS_TAG = "persona4rec/process"
STARTED = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


@contextmanager
def one_at_a_time(path: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Wait until no other process is within this for the same path, which becomes an empty file.

    The night and a new file of a catalogue may start two runs of it at one moment. Both would ask the model for the same
    answers, and pay twice; the second waits instead, however long the first takes, and finds everything done. The kernel
    frees the lock of a process that dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    told = 0.0
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - told >= TOLD_EVERY_S:
                    tell(f"another run is at work on {path.stem}; this one waits for it")
                    told = time.monotonic()
                time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)


def process_of(run_id: str) -> str:
    """For the tag of a run that lives in this process: `run/host/pid/start`.

    The start tells the process apart from any other that had or will have its number; the run, this run from those that
    Dagster makes with a copy of its tags, to try it again.
    """
    return f"{run_id}/{socket.gethostname()}/{os.getpid()}/{psutil.Process().create_time():.0f}"


def tie_to_this_process(context: dg.OpExecutionContext | dg.AssetExecutionContext) -> None:
    """Note in the tags of a run that it lives in this process."""
    stated = process_of(context.run.run_id)
    if context.run.tags.get(PROCESS_TAG) != stated:
        context.instance.add_run_tags(context.run.run_id, {PROCESS_TAG: stated})


def end_abandoned_runs(instance: dg.DagsterInstance) -> int:
    """Mark runs as failed whose process on this machine is gone; returns how many.

    Dagster notices when a run dies under a server that lives on, and not when both were killed: such a run would stand
    as started for ever, with its place in the queue and what it holds of the pools. Once it has failed, Dagster starts
    it again if its job says so. Runs of other machines are left alone.
    """
    ended = 0
    for run in instance.get_runs(dg.RunsFilter(statuses=STARTED)):
        if not _lost_its_process(run):
            continue
        # Looked at once more: its process may have ended because the run had.
        now = instance.get_run_by_id(run.run_id)
        if now is not None and now.status in STARTED:
            instance.report_run_failed(now, "The process of this run is gone: it was killed, or the machine stopped.")
            # Dagster frees them a minute later, in case the run is still at work. This one is not.
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            ended += 1
    return ended


def _lost_its_process(run: dg.DagsterRun) -> bool:
    """Whether a run's process, on this machine, has ended; False for one that cannot be seen from here."""
    parts = run.tags.get(PROCESS_TAG, "").split("/")
    if len(parts) != 4 or parts[:2] != [run.run_id, socket.gethostname()]:
        return False
    try:
        return f"{psutil.Process(int(parts[2])).create_time():.0f}" != parts[3]
    except psutil.NoSuchProcess:
        return True
