"""When things run: the catalogue partitions, the jobs, the schedules and the sensor.

Belongs here: partitions, jobs, schedules, sensors. Does not belong here: what an asset does (the steps), what is out of
date (`runner.py`), and what lies in the watched location (`reviews/incoming.py`). Jobs select assets by key, so that
every step may import the partitions from here.
"""

import json
import time
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import dagster as dg

from persona4rec_pipeline.processes import end_abandoned_runs, one_at_a_time, tie_to_this_process
from persona4rec_pipeline.reviews.incoming import Arrival, IncomingUnreadable, needs_ingest, scan
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.warehouse import Database, WarehouseBusy

# One partition per catalogue, named like it; `persona4rec add-catalog` and the sensor `new_catalogs` register them.
CATALOGS = dg.DynamicPartitionsDefinition(name="catalog")

# Pools of dagster.yaml: one language model and one training fill a machine. Correctness does not rest on them.
MODEL_POOL, TRAINING_POOL = "language_model", "training"

# A run whose process died is started again this often; what failed with an error is not, it would fail again.
CRASH_RETRIES = {"dagster/max_retries": "3", "dagster/retry_on_asset_or_op_failure": "false"}

# Between two looks for runs whose process is gone, in seconds.
ABANDONED_EVERY_S = 30

# What may be gone at the next try; everything else would fail again, and is not tried again.
PASSING = (WarehouseBusy, IncomingUnreadable)
TRIES, FIRST_WAIT_S = 3, 10

Compute = TypeVar("Compute", bound=Callable[..., Any])


def patient(compute: Compute) -> Compute:
    """What every asset does while it is made: one process at a time per catalogue, and retries.

    A catalogue, or an asset without partitions, is worked on by one run at a time, whoever started it. What fails by
    what can pass (PASSING), and only that, is tried again, with doubling waits.
    """

    @wraps(compute)
    def tried(context: dg.AssetExecutionContext, *, settings: Settings, **resources: Any) -> dg.MaterializeResult[Any]:
        tie_to_this_process(context)
        name = context.partition_key if context.has_partition_key else context.asset_key.to_user_string()
        try:
            with one_at_a_time(settings.home / "locks" / f"{name}.lock", context.log.info):
                return compute(context, settings=settings, **resources)
        except PASSING as error:
            wait = FIRST_WAIT_S * 2**context.retry_number
            raise dg.RetryRequested(max_retries=TRIES, seconds_to_wait=wait) from error

    return cast(Compute, tried)


refresh_catalog = dg.define_asset_job(
    "refresh_catalog",
    selection=dg.AssetSelection.assets(
        "reviews", "items", "splits", "review_aspects", "item_summaries", "personas",
        "persona_vectors", "interaction_vectors", "item_vectors", "persona_index",
    ),
    description="One catalogue from its source files to a published index. Use it for a new catalogue, after files were "
    "changed, or to repair one; backfill it over several. Only what changed is worked on: without a change it generates, "
    "writes and publishes nothing.",
    tags=CRASH_RETRIES,
)  # fmt: skip

publish_index = dg.define_asset_job(
    "publish_index",
    selection=dg.AssetSelection.assets("persona_index", "candidates", "evaluation_report"),
    description="Publish the vectors that are there as a new index generation, and evaluate it on the held-out panel. "
    "Use it after catalogues were made again one by one.",
    tags=CRASH_RETRIES,
)


class Refresh(dg.Config):
    """Which catalogues; none named: all of them."""

    catalogs: list[str] = []


@dg.op(tags={"kind": "persona4rec"})
def refresh_what_changed(context: dg.OpExecutionContext, config: Refresh, settings: dg.ResourceParam[Settings]) -> None:
    """Take in what is new, make again what is out of date, publish one index generation."""
    from persona4rec_pipeline.runner import NIGHTLY, run_in_job  # runner stands above: it builds the definitions

    tie_to_this_process(context)
    run_in_job(context, settings, NIGHTLY, config.catalogs)


@dg.op(tags={"kind": "persona4rec"})
def train_what_changed(context: dg.OpExecutionContext, settings: dg.ResourceParam[Settings]) -> None:
    """Judge, train, embed again, publish, evaluate."""
    from persona4rec_pipeline.runner import WEEKLY, run_in_job

    tie_to_this_process(context)
    run_in_job(context, settings, WEEKLY, [])


@dg.job(
    description="All catalogues at once, in one process with one start of the language model: take in what is new, make "
    "again what is out of date, publish one index generation. The schedule nightly_persona_refresh runs it; start it by "
    "hand for several catalogues, naming them in the configuration. Every asset made is a run of its own; a catalogue "
    "that fails does not stop the others.",
    tags=CRASH_RETRIES,
)
def refresh_catalogs() -> None:
    refresh_what_changed()


@dg.job(
    description="Judge which personas explain past choices, train the encoder on them, put it in use if it orders the "
    "candidates of the panel better, embed everything with it again, publish, evaluate, and write the quality report. The schedule "
    "weekly_encoder_training runs it; start it by hand after many new reviews.",
    tags=CRASH_RETRIES,
)
def train_encoder() -> None:
    train_what_changed()


daily_inventory = dg.define_asset_job(
    "daily_inventory",
    selection=dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey("persona_index"), "every_catalog_is_current")),
    description="Names the catalogues whose last run failed, with the reason and what to do, and those that no refresh has "
    "looked at in time. The schedule daily_inventory runs it every morning; it makes and changes nothing.",
    tags=CRASH_RETRIES,
)

JOBS: Sequence[Any] = [refresh_catalog, refresh_catalogs, train_encoder, publish_index, daily_inventory]


def build_schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """The nightly refresh, the weekly training and the daily inventory, at the times of the settings."""
    status = dg.DefaultScheduleStatus.RUNNING if settings.schedules.running else dg.DefaultScheduleStatus.STOPPED
    stated: list[tuple[str, Any, str, str]] = [
        (
            "nightly_persona_refresh",
            refresh_catalogs,
            settings.schedules.nightly,
            "Every night: take in what is new, make again what is out of date, publish one index generation.",
        ),
        (
            "weekly_encoder_training",
            train_encoder,
            settings.schedules.weekly,
            "Every week: judge, train, put the new encoder in use if it is better, embed again with it, publish, evaluate.",
        ),
        (
            "daily_inventory",
            daily_inventory,
            settings.schedules.inventory,
            "Every morning: name the catalogues whose last run failed and those that are late, and what to do.",
        ),
    ]
    return [
        dg.ScheduleDefinition(
            name=name,
            job=job,
            cron_schedule=cron,
            execution_timezone=settings.schedules.timezone,
            default_status=status,
            description=description,
        )
        for name, job, cron, description in stated
    ]


def build_sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """The sensor over the watched location, and the one over runs whose process is gone."""

    @dg.sensor(
        job=refresh_catalog,
        minimum_interval_seconds=settings.incoming.check_every_s,
        default_status=dg.DefaultSensorStatus.RUNNING if settings.incoming.watched else dg.DefaultSensorStatus.STOPPED,
        description="Looks at the watched location: a new folder becomes a catalogue and a changed one is refreshed, "
        "once it has stayed the same for incoming.settle_s. A location that cannot be read fails the tick; a deleted "
        "folder deletes nothing.",
    )
    def new_catalogs(context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Database]) -> dg.SensorResult:
        before = json.loads(context.cursor) if context.cursor else {}
        now = time.time()
        arrivals = scan(settings)
        # Name -> fingerprint and when it was first looked at.
        seen: dict[str, tuple[str, float]] = {}
        for arrival in arrivals:
            fingerprint, since = before.get(arrival.name, (None, now))
            seen[arrival.name] = (arrival.fingerprint, since if fingerprint == arrival.fingerprint else now)
        ready: list[Arrival] = []
        notes: list[str] = []
        for arrival in arrivals:
            note = _why_not_yet(settings, warehouse, arrival, now - seen[arrival.name][1])
            if note is None:
                ready.append(arrival)
            else:
                notes.append(f"{arrival.name}: {note}")
        if not ready:
            skipped = "; ".join(notes) or f"No folder lies in {settings.incoming_location}."
            return dg.SensorResult(skip_reason=skipped, cursor=json.dumps(seen))
        known = set(context.instance.get_dynamic_partitions(str(CATALOGS.name)))
        fresh = [arrival.name for arrival in ready if arrival.name not in known]
        return dg.SensorResult(
            # The time of the first look is part of the key: content that comes back is a change, too.
            run_requests=[
                dg.RunRequest(
                    run_key=f"{arrival.name}:{arrival.fingerprint}:{seen[arrival.name][1]}", partition_key=arrival.name
                )
                for arrival in ready
            ],
            dynamic_partitions_requests=[CATALOGS.build_add_request(fresh)] if fresh else [],
            cursor=json.dumps(seen),
        )

    @dg.sensor(
        minimum_interval_seconds=ABANDONED_EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Ends runs that a kill -9 or a power cut left standing as started, so that Dagster starts them again "
        "and nothing waits behind them.",
    )
    def abandoned_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        return dg.SkipReason(f"{end_abandoned_runs(context.instance)} runs had lost their process.")

    return [new_catalogs, abandoned_runs]


def _why_not_yet(settings: Settings, warehouse: Database, arrival: Arrival, unchanged_s: float) -> str | None:
    """Why a folder starts no run now; None if it does."""
    if arrival.problem is not None:
        return arrival.problem
    if not needs_ingest(warehouse, arrival):
        return "nothing new"
    if not arrival.is_marked:
        return f"waits for its {settings.incoming.success_marker}"
    if settings.incoming.success_marker is None and unchanged_s < settings.incoming.settle_s:
        return f"has changed; waits until it has stayed the same for {settings.incoming.settle_s:.0f} s"
    return None
