"""Materialize what is out of date, in one process, through Dagster.

Belongs here: which assets are stale (Dagster's own answer, plus source files that changed and what is queued), in which order they run, and
what is told while they do. Does not belong here: the command line (`cli.py`), schedules (`automation.py`) and what an
asset does.

Each asset and partition is a Dagster run of its own, recorded in the same instance that the UI shows; after each one
staleness is asked again, so that an asset whose inputs came out equal is not run. One process means one start of the
language model for all catalogues. Dagster's own single-run backfills would give that too, but they record one data
version for all partitions together, so that the UI shows a catalogue as out of date when another one changed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.instance.ref import InstanceRef
from dagster._core.loader import LoadingContextForTest

from persona4rec_pipeline.automation import CATALOGS
from persona4rec_pipeline.definitions import build_definitions
from persona4rec_pipeline.generation import LanguageModel, Ledger
from persona4rec_pipeline.inventory import note_looked_at, told_error
from persona4rec_pipeline.processes import PROCESS_TAG, end_abandoned_runs, process_of
from persona4rec_pipeline.reviews.assets import QUEUE_ALONE, code_versions
from persona4rec_pipeline.reviews.catalogs import find_catalog, has_new_data, list_catalogs
from persona4rec_pipeline.reviews.files import SourceError
from persona4rec_pipeline.reviews.incoming import needs_ingest, scan
from persona4rec_pipeline.reviews.posted import QUEUED, has_new_interactions
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.traces import delete_runs_of_partition, delete_runs_that_quote
from persona4rec_pipeline.warehouse import Database, open_ledger_database, open_warehouse

Steps = tuple[tuple[str, ...], ...]

# The story of the data, in the order in which it is told; partitioned steps run for every catalogue before the next.
STEPS: Steps = (
    ("reviews", "items"),
    ("splits",),
    ("review_aspects", "item_summaries", "personas"),
    ("alignment_pairs",),
    ("candidates",),
    ("persona_encoder",),
    ("champion_encoder",),
    ("persona_vectors", "interaction_vectors", "item_vectors"),
    ("persona_index",),
    ("evaluation_report",),
    # Last, as nothing is made from it, and every week: a night should not wait for an encoder to be loaded for a page.
    ("quality_report",),
)
# Every night the catalogues, with the encoder that there is; every week the encoder, with the catalogues that there are.
NIGHTLY: Steps = (*STEPS[:3], *STEPS[7:9])
WEEKLY: Steps = STEPS[3:]
SOURCE_STEP = STEPS[0]
# Assets with a partition per catalogue, and without.
OF_EACH_CATALOG = tuple(asset for step in NIGHTLY[:-1] for asset in step)
OVER_ALL_CATALOGS = tuple(asset for step in WEEKLY for asset in step if asset not in OF_EACH_CATALOG)
# The steps that ask the language model; its engine is stopped before training needs the memory and the cores.
GENERATING_STEPS = (STEPS[2], STEPS[3])
# Why a catalogue is out of date whose files are others than at its last ingest.
FILES_CHANGED = "its source files changed"
# Tag of the runs made here: what started them.
COMMAND_TAG = "persona4rec/command"


class RunFailed(RuntimeError):
    """Assets failed; the message names each, its partition and the reason. Whatever else was finished is kept."""


@dataclass(frozen=True)
class Finished:
    """One asset that was looked at: up to date, or materialized just now."""

    asset: str
    catalog: str | None
    was_stale: bool
    reasons: tuple[str, ...]
    seconds: float
    metadata: Mapping[str, Any]

    @property
    def where(self) -> str:
        return f"{self.asset}[{self.catalog}]" if self.catalog else self.asset


@dataclass(frozen=True)
class Listener:
    """Who is told what happens; each gets it as it happens."""

    started: Callable[[str, str | None, tuple[str, ...]], None] = lambda asset, catalog, reasons: None
    finished: Callable[[Finished], None] = lambda outcome: None
    noted: Callable[[str], None] = lambda line: None


SILENT = Listener()


@contextmanager
def dagster_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance under the state directory, the one that the UI and the daemon use as well.

    Output of steps is not captured into files here, so that progress bars reach the terminal.
    """
    home = prepare_dagster_home(settings)
    overrides = {
        "compute_logs": {
            "module": "dagster._core.storage.noop_compute_log_manager",
            "class": "NoOpComputeLogManager",
        }
    }
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides=overrides)) as instance:
        yield instance


def prepare_dagster_home(settings: Settings) -> Path:
    """Make the directory of Dagster's state, point DAGSTER_HOME at it, and give it the project's dagster.yaml."""
    home = settings.dagster_path
    home.mkdir(parents=True, exist_ok=True)
    configuration = Path(__file__).parent.parent / "dagster.yaml"
    target = home / "dagster.yaml"
    if configuration.exists() and not target.exists():
        target.unlink(missing_ok=True)  # a link whose checkout has moved away
        target.symlink_to(configuration)
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def run_stale(
    settings: Settings,
    catalogs: Sequence[str] | None = None,
    steps: Steps = STEPS,
    listener: Listener = SILENT,
    instance: dg.DagsterInstance | None = None,
    command: str = "run",
    force: bool = False,
    always: Sequence[str] = (),
) -> list[Finished]:
    """Materialize every asset of `steps` that is out of date, for the named catalogues (default: all), in order.

    Folders of the watched location that are complete and hold something new are taken in first. A catalogue that fails
    is left out of the steps that follow, and the others go on; an unpartitioned asset that fails ends the run. With
    `force` the assets of the named catalogues are made whether they are out of date or not, and those of `always` are in
    any case.

    Raises RunFailed at the end if anything failed, ValueError for a catalogue that is not known, and IncomingUnreadable.
    """
    warehouse = open_warehouse(settings)
    arrived = _arrived(settings, warehouse, listener) if SOURCE_STEP in steps else []
    known = sorted({entry.catalog.name for entry in list_catalogs(warehouse)} | set(arrived))
    for name in catalogs or ():
        if name not in known:
            listed = ", ".join(known) or "none yet; add one with `persona4rec add-catalog`"
            raise ValueError(f"There is no catalogue {name!r}. Registered: {listed}.")
    if not known:
        listener.noted(
            "No catalogue is there yet: add one with `persona4rec add-catalog`, or put it into the watched location."
        )
        return []
    finished: list[Finished] = []
    failures: dict[str | None, str] = {}
    last_generating = max((place for place, step in enumerate(steps) if step in GENERATING_STEPS), default=-1)
    with (
        LanguageModel(settings, Ledger(open_ledger_database(settings))) as model,
        dagster_instance(settings) if instance is None else nullcontext(instance) as running,
    ):
        end_abandoned_runs(running)
        definitions = build_definitions(settings, {"language_model": model})
        _register_partitions(running, known)
        for place, step in enumerate(steps):
            for catalog in (catalogs or known) if _is_partitioned(definitions, step[0]) else [None]:
                if catalog in failures:
                    continue
                changed: tuple[str, ...] = ()
                tags: dict[str, str] = {}
                if step == SOURCE_STEP and catalog is not None:
                    changed = source_reasons(warehouse, settings, catalog, catalog in arrived, listener.noted)
                    is_fresh = not any(stale_reasons(running, definitions, asset, catalog) for asset in step)
                    # What was read of the source holds as long as nothing else is out of date.
                    if changed == (QUEUED,) and is_fresh and not force:
                        tags[QUEUE_ALONE] = "true"
                for asset in step:
                    reasons = stale_reasons(running, definitions, asset, catalog)
                    if (force and catalog is not None) or asset in always:
                        reasons = reasons or ("asked for",)
                    reasons += changed
                    if reasons:
                        listener.started(asset, catalog, reasons)
                    try:
                        outcome = _materialize(running, definitions, asset, catalog, reasons, command, tags)
                    except RunFailed as failure:
                        failures[catalog] = str(failure)
                        if catalog is not None:
                            listener.noted(
                                f"{asset}[{catalog}] failed; {catalog} is left out of the steps that follow."
                            )
                        break
                    finished.append(outcome)
                    listener.finished(outcome)
            if None in failures:
                break
            if place == last_generating:
                model.close()
            if "personas" in step:
                for catalog in catalogs or known:
                    if catalog not in failures:
                        note_looked_at(running, catalog)
    if failures:
        raise RunFailed("\n".join(failures.values()))
    return finished


def run_in_job(
    context: dg.OpExecutionContext, settings: Settings, steps: Steps, catalogs: Sequence[str]
) -> list[Finished]:
    """`run_stale` within a run of a job: what happens is told in that run's log and, at its end, in its metadata."""

    def started(asset: str, catalog: str | None, reasons: tuple[str, ...]) -> None:
        where = f"{asset}[{catalog}]" if catalog else asset
        context.log.info(f"{where}: {'; '.join(reasons)}")

    def finished(outcome: Finished) -> None:
        if outcome.was_stale:
            context.log.info(f"{outcome.where}: done in {outcome.seconds:.1f} s{_costs(outcome.metadata)}")

    outcomes = run_stale(
        settings,
        catalogs or None,
        steps,
        Listener(started, finished, context.log.warning),
        context.instance,
        context.job_name,
        # Made from the same tables it publishes nothing; that it was looked at is what its freshness goes by.
        always=["persona_index"],
    )
    made = [outcome for outcome in outcomes if outcome.was_stale]
    # The splits of every catalogue are looked at whenever one has new reviews; that alone is no refresh.
    refreshed = {outcome.catalog for outcome in made if outcome.catalog and outcome.asset != "splits"}
    context.add_output_metadata(
        {
            "looked_at": len(outcomes),
            "made": len(made),
            "catalogs": sorted(refreshed),
            "generated": sum(int(outcome.metadata.get("generated", 0)) for outcome in made),
            "ledger_hits": sum(int(outcome.metadata.get("ledger_hits", 0)) for outcome in made),
        }
    )
    return outcomes


def materialize_source(settings: Settings, catalog: str) -> list[Finished]:
    """Read one registered catalogue's source files: `reviews` and `items`, whether they changed or not."""
    with dagster_instance(settings) as instance:
        definitions = build_definitions(settings)
        _register_partitions(instance, [catalog])
        return [
            _materialize(instance, definitions, asset, catalog, ("asked for",), "add-catalog") for asset in SOURCE_STEP
        ]


def record_as_made(
    instance: dg.DagsterInstance,
    settings: Settings,
    warehouse: Database,
    assets: Sequence[str],
    catalogs: Sequence[str],
    why: str,
) -> None:
    """Tell Dagster that these source assets hold what the warehouse holds now, though no source was read, so that what it
    outdates, and no more, is made again. Where one of them is made from another of them, they are named in their order, and
    it counts as made from what that holds."""
    versions = code_versions(settings)
    graph = build_definitions(settings).resolve_asset_graph()
    for asset in assets:
        parents = {key.to_user_string() for key in graph.get(dg.AssetKey(asset)).parent_keys} & set(assets)
        for catalog in catalogs:
            made_from: dict[str, str] = {}
            for parent in parents:
                newest = dg.AssetRecordsFilter(dg.AssetKey(parent), asset_partitions=[catalog])
                (record,) = instance.fetch_materializations(newest, limit=1).records
                made_from |= {
                    f"dagster/input_data_version/{parent}": warehouse.content_version(parent, catalog),
                    f"dagster/input_event_pointer/{parent}": str(record.storage_id),
                }
            instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    asset,
                    partition=catalog,
                    description=why,
                    tags={
                        "dagster/data_version": warehouse.content_version(asset, catalog),
                        "dagster/data_version_is_user_provided": "true",
                        "dagster/code_version": versions[asset],
                        **made_from,
                    },
                )
            )


def forget_partition(settings: Settings, catalog: str, titles: Collection[str] = ()) -> None:
    """Take a catalogue's partition key and runs out of Dagster, and the runs over all catalogues that show its titles; its
    rows and files are the caller's matter."""
    with dagster_instance(settings) as instance:
        delete_runs_that_quote(instance, OVER_ALL_CATALOGS, titles)
        delete_runs_of_partition(instance, catalog, OF_EACH_CATALOG)
        instance.delete_dynamic_partition("catalog", catalog)


def stale_reasons(
    instance: dg.DagsterInstance, definitions: dg.Definitions, asset: str, catalog: str | None
) -> tuple[str, ...]:
    """Why Dagster holds an asset (or one partition of it) to be out of date, in its words; empty when it is fresh."""
    graph = definitions.resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    key = dg.AssetKey(asset)
    status = resolver.get_status(key, catalog)
    if status == StaleStatus.FRESH:
        return ()
    if status == StaleStatus.MISSING:
        return ("it was never made",)
    return tuple(
        dict.fromkeys(
            f"{cause.asset_key.to_user_string()} {cause.reason}"
            for cause in resolver.get_stale_root_causes(key, catalog)
        )
    ) or ("its inputs changed",)


def source_reasons(
    warehouse: Database, settings: Settings, catalog: str, arrived: bool, tell: Callable[[str], None]
) -> tuple[str, ...]:
    """Why a catalogue's `reviews` are out of date, which Dagster cannot know: FILES_CHANGED, QUEUED, both or neither."""
    if find_catalog(warehouse, catalog) is None:
        return (FILES_CHANGED,) if arrived else ()
    reasons: list[str] = []
    try:
        if arrived or has_new_data(warehouse, catalog):
            reasons.append(FILES_CHANGED)
    except SourceError as error:
        # Whoever deletes a source does not ask for the catalogue's deletion; that is `remove-catalog`.
        tell(f"{catalog} is kept as it was read last: {error}")
    if has_new_interactions(warehouse, settings, catalog):
        reasons.append(QUEUED)
    return tuple(reasons)


def _arrived(settings: Settings, warehouse: Database, listener: Listener) -> list[str]:
    """Folders of the watched location that can be read now and hold something new."""
    arrived = []
    for arrival in scan(settings):
        if arrival.problem is not None:
            listener.noted(arrival.problem)
        elif needs_ingest(warehouse, arrival):
            if arrival.is_complete(settings):
                arrived.append(arrival.name)
            else:
                listener.noted(f"{arrival.folder} is still being written to; it is left for later.")
    return arrived


def _materialize(
    instance: dg.DagsterInstance,
    definitions: dg.Definitions,
    asset: str,
    catalog: str | None,
    reasons: tuple[str, ...],
    command: str,
    tags: Mapping[str, str] | None = None,
) -> Finished:
    if not reasons:
        return Finished(asset, catalog, False, (), 0.0, {})
    began = time.monotonic()
    run_id = str(uuid4())
    result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        asset_selection=[dg.AssetKey(asset)],
        partition_key=catalog,
        instance=instance,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        raise_on_error=False,
        tags={COMMAND_TAG: command, PROCESS_TAG: process_of(run_id), **(tags or {})},
        run_id=run_id,
    )
    if not result.success:
        raise RunFailed(_failure(result, asset, catalog))
    metadata: dict[str, Any] = {}
    for event in result.get_asset_materialization_events():
        metadata = {name: value.value for name, value in event.materialization.metadata.items()}
    return Finished(asset, catalog, True, reasons, time.monotonic() - began, metadata)


def _costs(metadata: Mapping[str, Any]) -> str:
    told = [f"{metadata[key]:,} {label}" for key, label in (("generated", "generated"), ("ledger_hits", "from the ledger"))
            if isinstance(metadata.get(key), int)]  # fmt: skip
    return f", {', '.join(told)}" if told else ""


def _failure(result: dg.ExecuteInProcessResult, asset: str, catalog: str | None) -> str:
    where = f"{asset}[{catalog}]" if catalog else asset
    for event in result.all_events:
        if event.is_step_failure:
            told = told_error(event.step_failure_data.error)
            if told:
                return f"{where} failed: {told}"
    return f"{where} failed; see the run in the Dagster UI."


def _is_partitioned(definitions: dg.Definitions, asset: str) -> bool:
    return definitions.resolve_asset_graph().get(dg.AssetKey(asset)).is_partitioned


def _register_partitions(instance: dg.DagsterInstance, names: Sequence[str]) -> None:
    missing = sorted(set(names) - set(instance.get_dynamic_partitions(str(CATALOGS.name))))
    if missing:
        instance.add_dynamic_partitions(str(CATALOGS.name), missing)
