"""Materialize what is out of date, in one process, through Dagster.

Belongs here: which assets are stale (Dagster's own answer, plus source files that changed), in which order they run, and
what is told while they do. Does not belong here: the command line (`cli.py`) and what an asset does.

Each asset and partition is a Dagster run of its own, recorded in the same instance that the UI shows; after each one
staleness is asked again, so that an asset whose inputs came out equal is not run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.instance.ref import InstanceRef
from dagster._core.loader import LoadingContextForTest

from persona4rec_pipeline.automation import CATALOGS
from persona4rec_pipeline.definitions import build_definitions
from persona4rec_pipeline.generation import LanguageModel, Ledger
from persona4rec_pipeline.reviews.catalogs import has_new_data, list_catalogs
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.warehouse import open_ledger_database, open_warehouse

# The story of the data, in the order in which it is told; partitioned steps run for every catalogue before the next.
STEPS: tuple[tuple[str, ...], ...] = (
    ("reviews", "items"),
    ("splits",),
    ("review_aspects", "item_summaries", "personas"),
    ("alignment_pairs",),
    ("persona_encoder",),
    ("persona_vectors", "interaction_vectors"),
    ("persona_index",),
    ("candidates", "evaluation_report"),
)
# The last step that asks the language model; its engine is stopped before training needs the memory and the cores.
LAST_GENERATING_STEP = ("alignment_pairs",)
SOURCE_STEPS = frozenset({"reviews", "items"})


class RunFailed(RuntimeError):
    """An asset failed; the message names it, its partition and the reason. What was finished before it is kept."""


@dataclass(frozen=True)
class Finished:
    """One asset that was looked at: up to date, or materialized just now."""

    asset: str
    catalog: str | None
    was_stale: bool
    reasons: tuple[str, ...]
    seconds: float
    metadata: Mapping[str, Any]


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
    on_start: Callable[[str, str | None], None] | None = None,
    on_finish: Callable[[Finished], None] | None = None,
) -> list[Finished]:
    """Materialize every asset that is out of date, for the named catalogues (default: all), in order.

    Raises RunFailed at the first asset that fails, and ValueError for a catalogue that is not registered.
    """
    warehouse = open_warehouse(settings)
    known = [entry.catalog.name for entry in list_catalogs(warehouse)]
    for name in catalogs or ():
        if name not in known:
            listed = ", ".join(known) or "none yet; add one with `persona4rec add-catalog`"
            raise ValueError(f"There is no catalogue {name!r}. Registered: {listed}.")
    finished: list[Finished] = []
    with (
        LanguageModel(settings, Ledger(open_ledger_database(settings))) as model,
        dagster_instance(settings) as instance,
    ):
        definitions = build_definitions(settings, {"language_model": model})
        _agree_on_partitions(instance, known)
        for step in STEPS:
            for catalog in list(catalogs or known) if _is_partitioned(definitions, step[0]) else [None]:
                for asset in step:
                    changed = asset in SOURCE_STEPS and catalog is not None and has_new_data(warehouse, catalog)
                    reasons = stale_reasons(instance, definitions, asset, catalog)
                    if changed:
                        reasons = (*reasons, "its source files changed")
                    if on_start and reasons:
                        on_start(asset, catalog)
                    outcome = _materialize(instance, definitions, asset, catalog, reasons)
                    finished.append(outcome)
                    if on_finish:
                        on_finish(outcome)
            if step == LAST_GENERATING_STEP:
                model.close()
    return finished


def materialize_source(settings: Settings, catalog: str) -> list[Finished]:
    """Read one registered catalogue's source files: `reviews` and `items`, whether they changed or not."""
    with dagster_instance(settings) as instance:
        definitions = build_definitions(settings)
        _agree_on_partitions(instance, [entry.catalog.name for entry in list_catalogs(open_warehouse(settings))])
        return [_materialize(instance, definitions, asset, catalog, ("asked for",)) for asset in ("reviews", "items")]


def forget_partition(settings: Settings, catalog: str) -> None:
    """Take a catalogue's partition key out of Dagster; its rows and files are the caller's matter."""
    with dagster_instance(settings) as instance:
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


def _materialize(
    instance: dg.DagsterInstance,
    definitions: dg.Definitions,
    asset: str,
    catalog: str | None,
    reasons: tuple[str, ...],
) -> Finished:
    if not reasons:
        return Finished(asset, catalog, False, (), 0.0, {})
    began = time.monotonic()
    result = dg.materialize(
        list(definitions.assets or ()),  # type: ignore[arg-type]
        selection=[asset],
        partition_key=catalog,
        instance=instance,
        resources=definitions.resources,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        raise_on_error=False,
        tags={"persona4rec/command": "run"},
    )
    if not result.success:
        raise RunFailed(_failure(result, asset, catalog))
    metadata: dict[str, Any] = {}
    for event in result.get_asset_materialization_events():
        metadata = {name: value.value for name, value in event.materialization.metadata.items()}
    return Finished(asset, catalog, True, reasons, time.monotonic() - began, metadata)


def _failure(result: dg.ExecuteInProcessResult, asset: str, catalog: str | None) -> str:
    where = f"{asset}[{catalog}]" if catalog else asset
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            # Dagster wraps the error of the asset in one of its own; the innermost is what happened.
            while error is not None and error.cause is not None:
                error = error.cause
            if error is not None:
                return f"{where} failed: {error.message.strip()}"
    return f"{where} failed; see the run in the Dagster UI."


def _is_partitioned(definitions: dg.Definitions, asset: str) -> bool:
    return definitions.resolve_asset_graph().get(dg.AssetKey(asset)).is_partitioned


def _agree_on_partitions(instance: dg.DagsterInstance, known: Sequence[str]) -> None:
    """The warehouse says which catalogues there are; Dagster's keys follow it."""
    registered = set(instance.get_dynamic_partitions("catalog"))
    if missing := [name for name in known if name not in registered]:
        instance.add_dynamic_partitions(str(CATALOGS.name), missing)
    for name in sorted(registered - set(known)):
        instance.delete_dynamic_partition(str(CATALOGS.name), name)
