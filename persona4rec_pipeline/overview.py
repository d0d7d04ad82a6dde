"""The state of an installation, and what a refresh would do to it.

Belongs here: reading every room and saying what is there, what is out of date and what it would cost. Does not belong
here: changing anything, and printing (`cli.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from persona4rec_pipeline.alignment.assets import ChoiceCounts, count_choices, pairs_to_ask_for
from persona4rec_pipeline.definitions import build_definitions
from persona4rec_pipeline.generation import LanguageModel, Ledger
from persona4rec_pipeline.index.files import IndexProblem, Manifest, current_generation, read_manifest
from persona4rec_pipeline.inventory import CatalogHealth, take_inventory
from persona4rec_pipeline.personas.assets import catalog_domain, row_version, summaries_to_ask_for
from persona4rec_pipeline.personas.refresh import changed_evidence
from persona4rec_pipeline.reviews.catalogs import CatalogCounts, has_new_data, list_catalogs
from persona4rec_pipeline.reviews.files import SourceError
from persona4rec_pipeline.reviews.incoming import IncomingUnreadable, needs_ingest, scan
from persona4rec_pipeline.runner import STEPS, dagster_instance, source_reasons, stale_reasons
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.tracking import RegisteredEncoder, Tracking
from persona4rec_pipeline.warehouse import Database, open_ledger_database, open_warehouse

# Tokens of a prompt and of its answer where the ledger knows no example of a task: (compact, full profile).
USUAL_TOKENS = {
    "review_aspects": {"compact": (180, 25), "full": (700, 90)},
    "item_summaries": {"compact": (420, 110), "full": (500, 90)},
    "personas": {"compact": (170, 2), "full": (2600, 700)},
    "alignment_pairs": {"compact": (500, 1), "full": (900, 1)},
}
# Tokens per second, prompts and answers together, of the packaged model on two cores.
USUAL_TOKENS_PER_SECOND = 1000.0
# In the place of a catalogue's name where a task is over all of them.
EVERY = "(all)"
# Newest materializations among which one is sought that asked the model for something.
RATES_LOOKED_AT = 50


@dataclass(frozen=True)
class CatalogState:
    """A catalogue: its counts, why it is out of date (asset -> reasons, in Dagster's words), and how it fares."""

    counts: CatalogCounts
    personas: int
    out_of_date: dict[str, tuple[str, ...]]
    health: CatalogHealth


@dataclass(frozen=True)
class Status:
    """What `persona4rec status` tells.

    arriving: folders of the watched location that are not taken in yet, with what is wrong with them or None; out_of_date:
    unpartitioned assets; index: the manifest of the current generation, or why there is none; cost: what the ledger's
    tokens cost at the prices of the settings.
    """

    catalogs: list[CatalogState]
    arriving: dict[str, str | None]
    out_of_date: dict[str, tuple[str, ...]]
    generations: int
    failed_generations: int
    tokens: int
    cost: float
    index: Manifest | None
    index_problem: str | None
    champion: RegisteredEncoder | None


@dataclass(frozen=True)
class Planned:
    """What a run would ask the model for one task of one catalogue, or of all (EVERY). seconds and cost are estimates.

    tokens_per_second: of the last run that did this task with this model (is_measured), else a usual one.
    """

    catalog: str
    task: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    cost: float
    tokens_per_second: float
    is_measured: bool


@dataclass(frozen=True)
class Plan:
    """What a refresh would do; `unread` names catalogues whose source files must be read before more can be said.

    choices: the users' choices that become alignment pairs, and those that the limit per user leaves out.
    """

    steps: dict[str, tuple[str, ...]]
    planned: list[Planned]
    unread: list[str]
    choices: ChoiceCounts


def read_status(settings: Settings) -> Status:
    """The state of everything; changes nothing."""
    warehouse = open_warehouse(settings)
    ledger = Ledger(open_ledger_database(settings)).summary()
    prompt, completion = (int(ledger.by_task[name].sum()) for name in ("prompt_tokens", "completion_tokens"))
    personas = dict(warehouse.rows("SELECT catalog, count(*) FROM personas GROUP BY catalog"))
    with dagster_instance(settings) as instance:
        definitions = build_definitions(settings)
        entries = list_catalogs(warehouse)
        names = [entry.catalog.name for entry in entries]
        inventory = take_inventory(instance, names, settings.schedules.late_after_h)
        catalogs = [
            CatalogState(
                entry,
                personas.get(entry.catalog.name, 0),
                _stale(settings, instance, definitions, warehouse, entry.catalog.name),
                health,
            )
            for entry, health in zip(entries, inventory, strict=True)
        ]
        out_of_date = _stale(settings, instance, definitions, warehouse, None)
    try:
        index: Manifest | None = read_manifest(current_generation(settings.index_path))
        problem = None
    except IndexProblem as error:
        index, problem = None, str(error)
    return Status(
        catalogs=catalogs,
        arriving=_arriving(settings, warehouse),
        out_of_date=out_of_date,
        generations=ledger.generations,
        failed_generations=ledger.failed,
        tokens=prompt + completion,
        cost=_cost(settings, prompt, completion),
        index=index,
        index_problem=problem,
        champion=Tracking(settings.mlflow_path).champion(),
    )


def read_plan(settings: Settings, catalogs: Sequence[str] | None = None) -> Plan:
    """What `persona4rec run` would make and ask the model, from what the warehouse holds now; asks nothing.

    Requests are those for new and changed reviews, for items with new or changed evidence, and those for summaries and
    pairs that the ledger cannot answer. What a review will turn out to say is not known before it is read, so the items of
    such reviews are counted as changed, and pairs are counted from the personas that there are. Tokens are the
    ledger's average per task and model; the time is at the rate of the last run that did the task with the model, or
    else at USUAL_TOKENS_PER_SECOND.
    """
    warehouse = open_warehouse(settings)
    known = [entry.catalog.name for entry in list_catalogs(warehouse)]
    names = list(catalogs or known)
    for name in names:
        if name not in known:
            raise ValueError(f"There is no catalogue {name!r}. Registered: {', '.join(known) or 'none yet'}.")
    with dagster_instance(settings) as instance:
        definitions = build_definitions(settings)
        steps = {
            f"{asset}[{name}]": reasons
            for name in names
            for asset, reasons in _stale(settings, instance, definitions, warehouse, name).items()
        }
        steps |= _stale(settings, instance, definitions, warehouse, None)
        planned = [] if settings.generation.engine == "extractive" else _requests(settings, instance, warehouse, names)
    unread = [name for name in names if _has_unread(warehouse, name)]
    unread += [name for name in _arriving(settings, warehouse) if name not in known]
    return Plan(steps, planned, unread, count_choices(warehouse, settings))


def _requests(
    settings: Settings, instance: dg.DagsterInstance, warehouse: Database, names: Sequence[str]
) -> list[Planned]:
    model = LanguageModel(settings, Ledger(open_ledger_database(settings)))
    rates = {task: _measured_rate(instance, task, model.name) for task in USUAL_TOKENS}
    averages = {
        task: (prompt, completion)
        for task, prompt, completion in open_ledger_database(settings).rows(
            "SELECT task, avg(prompt_tokens), avg(completion_tokens) FROM generations WHERE model = ? GROUP BY task",
            [model.name],
        )
    }
    requested: list[tuple[str, str, int]] = []
    for name in names:
        domain = catalog_domain(warehouse, settings, name)
        versions = {task: row_version(settings, task) for task in ("review_aspects", "personas")}
        reviews, items = changed_evidence(warehouse, name, domain, versions["review_aspects"], versions["personas"])
        summaries = model.count_unpaid(summaries_to_ask_for(warehouse, settings, name, model))
        counts = {"review_aspects": reviews, "item_summaries": summaries, "personas": items}
        requested += [(name, task, requests) for task, requests in counts.items()]
    requested.append((EVERY, "alignment_pairs", model.count_unpaid(pairs_to_ask_for(warehouse, settings, model))))
    planned = []
    for name, task, requests in requested:
        prompt, completion = averages.get(task, USUAL_TOKENS[task][model.prompt_profile])
        tokens = (round(prompt * requests), round(completion * requests))
        rate = rates[task] or USUAL_TOKENS_PER_SECOND
        cost = _cost(settings, *tokens)
        planned.append(Planned(name, task, requests, *tokens, sum(tokens) / rate, cost, rate, bool(rates[task])))
    return [entry for entry in planned if entry.requests]


def _measured_rate(instance: dg.DagsterInstance, asset: str, model: str) -> float | None:
    """Tokens per second of the last materialization of an asset that asked this model for something."""
    for record in instance.fetch_materializations(dg.AssetKey(asset), limit=RATES_LOOKED_AT).records:
        metadata = record.asset_materialization.metadata if record.asset_materialization else {}
        asked = metadata.get("engine", metadata.get("judge"))
        if "tokens_per_second" in metadata and asked is not None and asked.value == model:
            return float(str(metadata["tokens_per_second"].value))
    return None


def _stale(
    settings: Settings,
    instance: dg.DagsterInstance,
    definitions: dg.Definitions,
    warehouse: Database,
    catalog: str | None,
) -> dict[str, tuple[str, ...]]:
    graph = definitions.resolve_asset_graph()
    found = {}
    for asset in (asset for step in STEPS for asset in step):
        if graph.get(dg.AssetKey(asset)).is_partitioned != (catalog is not None):
            continue
        reasons = stale_reasons(instance, definitions, asset, catalog)
        if asset == "reviews" and catalog is not None:
            reasons += source_reasons(warehouse, settings, catalog, False, lambda line: None)
        if reasons:
            found[asset] = reasons
    return found


def _has_unread(warehouse: Database, catalog: str) -> bool:
    try:
        return has_new_data(warehouse, catalog)
    except SourceError:
        return False  # its source is gone, and with it all that could be new


def _arriving(settings: Settings, warehouse: Database) -> dict[str, str | None]:
    try:
        return {
            arrival.name: arrival.problem
            for arrival in scan(settings)
            if arrival.problem is not None or needs_ingest(warehouse, arrival)
        }
    except IncomingUnreadable as error:
        return {settings.incoming_location: str(error)}


def _cost(settings: Settings, prompt: int, completion: int) -> float:
    return (prompt * settings.generation.prompt_price + completion * settings.generation.completion_price) / 1e6
