"""How each catalogue fares: when it was last looked at, how its last run ended, and what to do about it.

Belongs here: reading that out of Dagster's log. Does not belong here: what is out of date (`runner.py`), and who is told
(`checks.py`, `overview.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._utils.error import SerializableErrorInfo

# Errors in which Dagster wraps another.
DAGSTERS_OWN = ("DagsterExecutionStepExecutionError", "RetryRequestedFromPolicy", "RetryRequested")
_OUR_ERROR = re.compile(r"^persona4rec_pipeline\.[\w.]+: ")
ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
# The asset whose partitions stand for the catalogues: it is the last that a refresh makes of each.
STANDS_FOR_CATALOGS = dg.AssetKey("personas")


@dataclass(frozen=True)
class CatalogHealth:
    """One catalogue.

    looked_at: when it was last refreshed, or found to be up to date (UTC); None if never. is_late: that was too long ago.
    status, ended, run_id: of its last run that is over; None if there was none. problem: why that run failed.
    """

    name: str
    looked_at: datetime | None
    is_late: bool
    status: str | None
    ended: datetime | None
    run_id: str | None
    problem: str | None

    @property
    def remedy(self) -> str | None:
        """What to do, None if nothing is wrong."""
        if self.status in ("FAILURE", "CANCELED"):
            return f"mend the cause, then `persona4rec backfill {self.name}`, or the job refresh_catalog for it"
        if self.is_late:
            return "see whether the daemon runs and nightly_persona_refresh is on; `persona4rec run` makes up for it"
        return None


def take_inventory(instance: dg.DagsterInstance, catalogs: Sequence[str], late_after_h: float) -> list[CatalogHealth]:
    """The health of these catalogues, in their order."""
    return [_health(instance, name, late_after_h) for name in catalogs]


def note_looked_at(instance: dg.DagsterInstance, catalog: str) -> None:
    """Record that a catalogue was refreshed, or found to be up to date."""
    instance.report_runless_asset_event(
        dg.AssetObservation(
            STANDS_FOR_CATALOGS, partition=catalog, description="Looked at; what was stale is made again."
        )
    )


def told_error(error: SerializableErrorInfo | None) -> str | None:
    """The message of what an asset raised: Dagster wraps that in an error of its own, and it may have a cause in turn."""
    while error is not None and error.cause is not None and error.cls_name in DAGSTERS_OWN:
        error = error.cause
    # Our own errors speak for themselves; the name of another tells what it is.
    return _OUR_ERROR.sub("", error.message.strip()) if error is not None else None


def _health(instance: dg.DagsterInstance, name: str, late_after_h: float) -> CatalogHealth:
    of_this = dg.AssetRecordsFilter(STANDS_FOR_CATALOGS, asset_partitions=[name])
    records = [
        *instance.fetch_materializations(of_this, limit=1).records,
        *instance.fetch_observations(of_this, limit=1).records,
    ]
    looked_at = max((datetime.fromtimestamp(record.timestamp, UTC) for record in records), default=None)
    is_late = looked_at is None or datetime.now(UTC) - looked_at > timedelta(hours=late_after_h)
    runs = instance.get_run_records(dg.RunsFilter(tags={"dagster/partition": name}, statuses=ENDED), limit=1)
    if not runs:
        return CatalogHealth(name, looked_at, is_late, None, None, None, None)
    run = runs[0].dagster_run
    ended = datetime.fromtimestamp(runs[0].end_time, UTC) if runs[0].end_time else None
    problem = _problem(instance, run.run_id) if run.status != dg.DagsterRunStatus.SUCCESS else None
    return CatalogHealth(name, looked_at, is_late, run.status.value, ended, run.run_id, problem)


def _problem(instance: dg.DagsterInstance, run_id: str) -> str | None:
    """Why a run failed: the error of the step, or what Dagster said of the run."""
    kinds = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_CANCELED}
    for entry in instance.all_logs(run_id, of_type=kinds):
        event = entry.dagster_event
        if event is None:
            continue
        if event.is_step_failure:
            step = event.step_failure_data
            told = told_error(step.error)
            if told:
                return f"{event.step_key}: {told}"
        elif event.message:
            return event.message
    return None
