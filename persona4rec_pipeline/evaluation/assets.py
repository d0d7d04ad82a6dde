"""The Dagster assets of this step: `candidates`, `champion_encoder`, `evaluation_report` and `quality_report`."""

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import dagster as dg
import pandas as pd

from persona4rec_pipeline.automation import MODEL_POOL, patient
from persona4rec_pipeline.embedding import TextEncoder
from persona4rec_pipeline.encoder.assets import register_base
from persona4rec_pipeline.encoder.stored import base_encoder, forget_others, registered_encoder
from persona4rec_pipeline.evaluation import contest as contests
from persona4rec_pipeline.evaluation.candidates import (
    FILE,
    SPLITS,
    Interactions,
    Panel,
    choose_generators,
    empty_table,
    propose,
    propose_listed,
    read_interactions,
    read_main_generator,
    read_panel,
)
from persona4rec_pipeline.evaluation.candidates_file import read_candidates_file
from persona4rec_pipeline.evaluation.contest import Arena, Contest, hold_contest
from persona4rec_pipeline.evaluation.figures import gains_chart
from persona4rec_pipeline.evaluation.learning import learning_curve, repeated_seeds
from persona4rec_pipeline.evaluation.metrics import CUTOFFS
from persona4rec_pipeline.evaluation.panel import Described, describe, read_slate
from persona4rec_pipeline.evaluation.peers import ask_rerankers
from persona4rec_pipeline.evaluation.quality_page import report_quality, version_of
from persona4rec_pipeline.evaluation.report import HEADLINE, REPORTED_SPLIT, Encoders, Report, evaluate
from persona4rec_pipeline.evaluation.report_page import render_report
from persona4rec_pipeline.generation import LanguageModel
from persona4rec_pipeline.index.scoring import Blends
from persona4rec_pipeline.personas.assets import catalog_domains
from persona4rec_pipeline.personas.domains import Domain
from persona4rec_pipeline.personas.persona import Persona
from persona4rec_pipeline.personas.refresh import extractive_personas
from persona4rec_pipeline.presentation import markdown_table
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.tracking import BLENDS_TAG, CHALLENGER, ROLLED_BACK, RegisteredEncoder, Tracking
from persona4rec_pipeline.warehouse import Database

# Raised by hand when the code of an asset changes its results.
LOGIC_VERSIONS = {"candidates": "2", "champion_encoder": "3", "evaluation_report": "6", "quality_report": "1"}
EXPERIMENT = "evaluation"
_NOT_OF_CANDIDATES = {"rerankers", "reranked_users", "extractive_row", "learning_curve", "training_seeds"}


@dg.asset(
    group_name="evaluation",
    kinds={"duckdb", "numpy"},
    deps=["splits"],
    description="What each candidate generator, trained on train interactions alone, proposes to each user of the held-out "
    "panel, and what `evaluation.candidates_file` lists for them; the rankings of the report reorder the main generator's.",
)
@patient
def candidates(
    context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Database], settings: dg.ResourceParam[Settings]
) -> dg.MaterializeResult:
    interactions, panel = read_interactions(warehouse), read_panel(warehouse)
    tables: dict[str, pd.DataFrame] = {}
    seconds: dict[str, float] = {}
    from_file: dict[str, int] = {}
    for generator in choose_generators(settings.evaluation, len(interactions.items)):
        started = time.monotonic()
        if generator == FILE:
            tables[FILE], from_file = _candidates_of_file(warehouse, interactions, panel, settings)
        else:
            tables[generator] = propose(interactions, panel, settings.evaluation, generator)
        seconds[generator] = time.monotonic() - started
    rows = pd.concat([table for table in tables.values() if len(table)] or [empty_table()], ignore_index=True)
    warehouse.replace("candidates", rows)
    if rows.empty:
        context.log.warning("No candidates: nobody is in the evaluation panel, or there is nothing to learn from.")
    cutoffs = sorted({settings.evaluation.candidates, settings.evaluation.depth})
    recalls = {name: _recalls(warehouse, name, cutoffs) for name in tables}
    header = ("generator", "candidates", "filled up", "seconds", *(f"recall@{k}, valid" for k in cutoffs))
    lines = [
        (name, len(table), int(table["is_filled"].sum()), seconds[name], *recalls[name])
        for name, table in tables.items()
    ]
    return dg.MaterializeResult(
        metadata={
            "users": len(panel.everyone),
            "items": len(interactions.items),
            "candidates": len(rows),
            "main_generator": read_main_generator(warehouse, settings.evaluation),
            "generators": dg.MetadataValue.md(markdown_table(header, lines)),
            **{
                f"recall_at_{k}_{name}": recall
                for name in tables
                for k, recall in zip(cutoffs, recalls[name], strict=True)
            },
            **{f"seconds_{name}": value for name, value in seconds.items()},
            **from_file,
        },
        data_version=dg.DataVersion(warehouse.content_version("candidates")),
    )


@dg.asset(
    group_name="encoder",
    kinds={"pytorch", "mlflow"},
    deps=["persona_encoder", candidates, "splits", "personas", "item_summaries", "review_aspects"],
    description="The encoder that is in use, alias `champion` in MLflow: the newly trained one if it orders the candidates "
    "of the panel better (validation targets, NDCG@10), else the one that was; the reason is kept with the version.",
)
@patient
def champion_encoder(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Database],
    settings: dg.ResourceParam[Settings],
    tracking: dg.ResourceParam[Tracking],
) -> dg.MaterializeResult:
    challenger = tracking.encoder(CHALLENGER)
    champion = tracking.champion()
    if champion is None:
        champion = register_base(settings, tracking, context.run_id)
        tracking.set_champion(champion.version)
    arena = Arena.read(warehouse, settings)
    decision, contest = _decide(arena, warehouse, settings, challenger, champion)
    context.log.info(decision.reason)
    if challenger is not None and challenger.version != champion.version:
        tracking.set_tag(challenger.version, "decision", decision.reason)
        if decision.promoted:
            tracking.set_champion(challenger.version)
            champion = challenger
    used = _encoder(warehouse, settings, champion)
    blends = arena.blends(used)
    if blends is None:
        context.log.warning("nobody is in the panel to learn a blend from; candidates are reranked by personas alone")
        tracking.remove_tag(champion.version, BLENDS_TAG)
    else:
        tracking.set_tag(champion.version, BLENDS_TAG, blends.to_json())
    forget_others(warehouse, [used.fingerprint, base_encoder(warehouse, settings.encoder).fingerprint])
    return dg.MaterializeResult(
        metadata={
            "version": champion.version,
            **({} if blends is None else _told(blends)),
            "fingerprint": champion.fingerprint,
            "promoted": decision.promoted,
            "reason": decision.reason,
            **({} if contest is None else {f"contest_{name}": value for name, value in asdict(contest).items()}),
            "path": dg.MetadataValue.path(champion.path),
        },
        data_version=dg.DataVersion(_version_of(champion, blends)),
    )


@dg.asset(
    # For the rerankers, where the report is to compare with them.
    pool=MODEL_POOL,
    group_name="evaluation",
    kinds={"duckdb", "mlflow"},
    deps=[
        candidates,
        "persona_index",
        champion_encoder,
        "persona_vectors",
        "interaction_vectors",
        "personas",
        "item_summaries",
        "review_aspects",
        # For the learning curve.
        "alignment_pairs",
    ],
    description="Candidate order, random order, item summaries, one persona per item, personas with the untrained and with the "
    "trained encoder, and a blend with learned weights, on the same candidates of each generator: HR, MRR and NDCG at 5, 10 and "
    "20 with intervals, users that are missed included; segments, exposure, significance, costs. Where asked for, language-model "
    "rerankers and extractive personas beside them. Gain by length of history, by personas per item and by training pairs.",
)
@patient
def evaluation_report(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Database],
    settings: dg.ResourceParam[Settings],
    tracking: dg.ResourceParam[Tracking],
    language_model: dg.ResourceParam[LanguageModel],
    text_encoder: dg.ResourceParam[TextEncoder],
) -> dg.MaterializeResult:
    names, say = settings.evaluation.rerankers, context.log.info
    domains = catalog_domains(warehouse, settings)
    encoders = encoders_in_use(warehouse, settings, tracking)
    report = evaluate(
        warehouse,
        encoders,
        settings,
        (lambda keys: _extractive(warehouse, settings, text_encoder, domains, keys, say))
        if settings.evaluation.extractive_row and not language_model.is_extractive
        else None,
        (lambda slate: ask_rerankers(warehouse, slate, names, language_model, domains, say)) if names else None,
    )
    if report.tables:
        trained = (warehouse, settings, encoders.base, encoders.newest, REPORTED_SPLIT, say)
        report = replace(report, learning=learning_curve(*trained), seeds=repeated_seeds(*trained))
    table = report.rows()
    warehouse.replace("evaluation_report", table)
    path = settings.home / "evaluation" / "report.json"
    report.save(path)
    page = path.with_suffix(".html")
    page.write_text(render_report(report, settings), encoding="utf-8")
    version = warehouse.content_version("evaluation_report")
    if table.empty:
        context.log.warning("Nobody is in the evaluation panel; the report is empty. See splits.panel_fraction.")
    else:
        _log_to_mlflow(tracking, report, settings, version)
    return dg.MaterializeResult(
        metadata={
            "users": report.users[REPORTED_SPLIT],
            **_headlines(report),
            "report": dg.MetadataValue.md(report.markdown()),
            "report_all_cutoffs": dg.MetadataValue.md(report.markdown(cutoffs=CUTOFFS)),
            "report_valid": dg.MetadataValue.md(report.markdown("valid", CUTOFFS)),
            "chart": dg.MetadataValue.md(gains_chart(report.tables[0]) if report.tables else ""),
            "json": dg.MetadataValue.json(report.to_dict()),
            "page": dg.MetadataValue.path(page),
            "path": dg.MetadataValue.path(path),
        },
        data_version=dg.DataVersion(version),
    )


@dg.asset(
    group_name="evaluation",
    kinds={"duckdb", "mlflow"},
    deps=["personas", "alignment_pairs", "item_summaries", "review_aspects", "reviews", "splits"],
    description="What the personas and the judge are like, as a page and as JSON: acceptance by source, support, polarity "
    "against ratings, distinctness, length and form, personas against reviews, entropy and position bias of the judge, and "
    "20 personas to read. From train interactions alone.",
)
@patient
def quality_report(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Database],
    settings: dg.ResourceParam[Settings],
    tracking: dg.ResourceParam[Tracking],
    text_encoder: dg.ResourceParam[TextEncoder],
) -> dg.MaterializeResult:
    report = report_quality(settings, warehouse, tracking, text_encoder)
    if report.mlflow_run is None:
        context.log.warning("There are no personas yet; the report is empty.")
    return dg.MaterializeResult(
        metadata={
            **report.quality.main_figures(),
            "report": dg.MetadataValue.path(report.page),
            "json": dg.MetadataValue.path(report.json),
            **({"mlflow_run": report.mlflow_run} if report.mlflow_run else {}),
        },
        data_version=dg.DataVersion(version_of(report.quality)),
    )


def _extractive(
    warehouse: Database,
    settings: Settings,
    text_encoder: TextEncoder,
    domains: Mapping[str, Domain],
    keys: Sequence[str],
    say: Callable[[str], None],
) -> Described:
    """Extractive personas of these items, those that are in a catalogue."""
    found: dict[str, list[Persona]] = defaultdict(list)
    for catalog, domain in domains.items():
        items = [key.removeprefix(f"{catalog}/") for key in keys if key.startswith(f"{catalog}/")]
        for persona in extractive_personas(warehouse, catalog, domain, items, settings, text_encoder, say):
            found[f"{catalog}/{persona.item_id}"].append(persona)
    return describe(found)


ASSETS = [candidates, champion_encoder, evaluation_report, quality_report]


def code_versions(settings: Settings) -> dict[str, str]:
    """What, when changed, makes candidates and reports out of date: logic and the settings that each reads."""
    encoder = settings.encoder
    profile = [encoder.max_seq_length, encoder.max_history, encoder.recency_decay, encoder.half_life_days]
    reranked = [settings.evaluation.main_generator, settings.evaluation.candidates]
    parts: dict[str, list[object]] = {
        "candidates": [
            settings.evaluation.model_dump(mode="json", exclude=_NOT_OF_CANDIDATES),
            _state_of(settings.evaluation.candidates_file),
        ],
        "champion_encoder": [*profile, *reranked],
        "evaluation_report": [
            encoder.base_model,
            *profile,
            *reranked,
            settings.evaluation.depth,
            settings.evaluation.extractive_row,
            settings.evaluation.learning_curve,
            settings.evaluation.training_seeds,
            *_peers_of(settings),
        ],
        "quality_report": [
            settings.personas.embedding_model,
            settings.personas.duplicate_similarity,
            settings.reviews.positive_rating,
            encoder.max_seq_length,
        ],
    }
    return {
        name: hashlib.sha256(json.dumps([LOGIC_VERSIONS[name], *part]).encode()).hexdigest()[:12]
        for name, part in parts.items()
    }


def encoders_in_use(warehouse: Database, settings: Settings, tracking: Tracking) -> Encoders:
    """Base, newest and champion, as the report compares them."""
    base = base_encoder(warehouse, settings.encoder)
    newest, champion = tracking.encoder(CHALLENGER), tracking.champion()
    return Encoders(
        base=base,
        newest=None if newest is None else _encoder(warehouse, settings, newest),
        used=base if champion is None else _encoder(warehouse, settings, champion),
    )


def _peers_of(settings: Settings) -> list[object]:
    """What the rerankers of the report depend on; nothing where it has none."""
    names = settings.evaluation.rerankers
    return [*names, settings.evaluation.reranked_users, settings.generation.model] if names else []


def _state_of(path: Path | None) -> list[int] | None:
    """Size in bytes and time of the last change in nanoseconds, which tell a changed file; None if there is none."""
    if path is None or not path.is_file():
        return None
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


def _candidates_of_file(
    warehouse: Database, interactions: Interactions, panel: Panel, settings: Settings
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The candidates from elsewhere, and what the metadata say of the file."""
    path = settings.evaluation.candidates_file
    if path is None or not panel.everyone:
        return empty_table(), {}
    found = read_candidates_file(path, warehouse, panel)
    counts = {f"file_{name}": count for name, count in found.counts.items()}
    return propose_listed(interactions, panel, settings.evaluation, found.lists), counts


def _recalls(warehouse: Database, generator: str, cutoffs: Sequence[int]) -> list[float]:
    """Share of the validation targets among the first k candidates, for each cutoff k."""
    places = read_slate(warehouse, contests.SPLIT, generator, max(cutoffs)).places
    return [float(((places >= 0) & (places < k)).mean()) if len(places) else 0.0 for k in cutoffs]


@dataclass(frozen=True)
class _Decision:
    promoted: bool
    reason: str


def _decide(
    arena: Arena,
    warehouse: Database,
    settings: Settings,
    challenger: RegisteredEncoder | None,
    champion: RegisteredEncoder,
) -> tuple[_Decision, Contest | None]:
    """Whether the challenger takes the champion's place, why, and the contest if there had to be one."""
    if challenger is None:
        return _Decision(False, f"version {champion.version} stays: no other was trained"), None
    if challenger.fingerprint == champion.fingerprint:
        return _Decision(False, f"version {champion.version} stays: it is the newest"), None
    if ROLLED_BACK in challenger.tags:
        since = challenger.tags[ROLLED_BACK]
        return _Decision(
            False, f"version {champion.version} stays: version {challenger.version} was rolled back on {since}"
        ), None
    contest = hold_contest(arena, _encoder(warehouse, settings, challenger), _encoder(warehouse, settings, champion))
    names = f"version {challenger.version} against version {champion.version}"
    if contest is None:
        return _Decision(True, f"{names}: nobody is in the panel to compare them on; the newer one is taken"), None
    verdict = "promoted" if contest.is_won else "not better beyond noise, so the champion stays"
    return _Decision(contest.is_won, f"{names}: {verdict}; {contest}"), contest


def _encoder(warehouse: Database, settings: Settings, encoder: RegisteredEncoder) -> contests.TextEncoder:
    return registered_encoder(warehouse, settings.encoder, encoder)


def _told(blends: Blends) -> dict[str, dg.MetadataValue | float]:
    return {
        "blend_weight": blends.of_scores.weight,
        "blend_weight_without_scores": blends.of_places.weight,
        "blends": dg.MetadataValue.json(asdict(blends)),
    }


def _version_of(champion: RegisteredEncoder, blends: Blends | None) -> str:
    """Changes with the encoder, which decides the vectors, and with the blend, which the index carries."""
    text = "" if blends is None else blends.to_json()
    return f"{champion.fingerprint}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _headlines(report: Report) -> dict[str, float]:
    """One number per ranking, so that the UI plots it over time."""
    if not report.tables:
        return {}
    return {
        f"{HEADLINE}_{ranking.name}": float(ranking.headline(REPORTED_SPLIT).mean())
        for ranking in report.tables[0].rankings
    }


def _log_to_mlflow(tracking: Tracking, report: Report, settings: Settings, version: str) -> None:
    """One run per report; metrics are named ranking and metric, of the split `test` unless they begin with `valid_`."""
    table = report.tables[0]
    encoders = {f"encoder_{ranking.name}": ranking.encoder for ranking in table.rankings if ranking.encoder}
    with tracking.run(EXPERIMENT, f"report-{version[:8]}", {"data_version": version}) as run:
        run.log_params(
            {
                **encoders,
                "generator": table.generator,
                "depth": table.depth,
                "blend": json.dumps(asdict(table.blend)),
                "recency_decay": settings.encoder.recency_decay,
                "max_history": settings.encoder.max_history,
                "protocol": settings.splits.protocol,
                **{f"users_{split}": users for split, users in report.users.items()},
            }
        )
        for split in SPLITS:
            prefix = "" if split == REPORTED_SPLIT else f"{split}_"
            for ranking in table.rankings:
                estimates = ranking.estimates(split)
                run.log_metrics({f"{prefix}{ranking.name}_{name}": e.value for name, e in estimates.items()})
        run.log_text(json.dumps(report.to_dict(), indent=2), "report.json")
        run.log_text(report.markdown(cutoffs=CUTOFFS), "report.md")
        run.log_text(render_report(report, settings), "report.html")
