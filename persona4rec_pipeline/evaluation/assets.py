"""The Dagster assets of this step: `candidates`, `champion_encoder`, `evaluation_report` and `quality_report`."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import dagster as dg
import pandas as pd

from persona4rec_pipeline.automation import patient
from persona4rec_pipeline.embedding import Encoder, TextEncoder
from persona4rec_pipeline.encoder.assets import register_base
from persona4rec_pipeline.evaluation import contest as contests
from persona4rec_pipeline.evaluation import metrics
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
from persona4rec_pipeline.evaluation.contest import Contest, hold_contest
from persona4rec_pipeline.evaluation.figures import gains_chart
from persona4rec_pipeline.evaluation.metrics import CUTOFFS
from persona4rec_pipeline.evaluation.panel import keys_of, read_candidates, read_targets
from persona4rec_pipeline.evaluation.quality_page import report_quality, version_of
from persona4rec_pipeline.evaluation.report import REPORTED_SPLIT, Report, evaluate
from persona4rec_pipeline.presentation import markdown_table
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.tracking import CHALLENGER, ROLLED_BACK, RegisteredEncoder, Tracking
from persona4rec_pipeline.warehouse import Database

# Raised by hand when the code of an asset changes its results.
LOGIC_VERSIONS = {"candidates": "2", "champion_encoder": "1", "evaluation_report": "1", "quality_report": "1"}
EXPERIMENT = "evaluation"


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
    decision, contest = _decide(warehouse, settings, challenger, champion)
    context.log.info(decision.reason)
    if challenger is not None and challenger.version != champion.version:
        tracking.set_tag(challenger.version, "decision", decision.reason)
        if decision.promoted:
            tracking.set_champion(challenger.version)
            champion = challenger
    return dg.MaterializeResult(
        metadata={
            "version": champion.version,
            "fingerprint": champion.fingerprint,
            "promoted": decision.promoted,
            "reason": decision.reason,
            **({} if contest is None else {f"contest_{name}": value for name, value in asdict(contest).items()}),
            "path": dg.MetadataValue.path(champion.path),
        },
        data_version=dg.DataVersion(champion.fingerprint),
    )


@dg.asset(
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
    ],
    description="Candidate order, item summaries, personas with the untrained and with the trained encoder, on the "
    "same candidates: HR, MRR and NDCG at 5, 10 and 20 with intervals, users that are missed included.",
)
@patient
def evaluation_report(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Database],
    settings: dg.ResourceParam[Settings],
    tracking: dg.ResourceParam[Tracking],
) -> dg.MaterializeResult:
    report = evaluate(
        warehouse,
        lambda: _encoder(settings, settings.encoder.base_model),
        recency_decay=settings.encoder.recency_decay,
        max_history=settings.encoder.max_history,
        evaluation=settings.evaluation,
    )
    table = report.table()
    warehouse.replace("evaluation_report", table)
    path = settings.home / "evaluation" / "report.json"
    report.save(path)
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
            "chart": dg.MetadataValue.md(gains_chart(report)),
            "json": dg.MetadataValue.json(report.to_dict()),
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


ASSETS = [candidates, champion_encoder, evaluation_report, quality_report]


def code_versions(settings: Settings) -> dict[str, str]:
    """What, when changed, makes candidates and reports out of date: logic and the settings that each reads."""
    encoder = settings.encoder
    profile = [encoder.max_seq_length, encoder.max_history, encoder.recency_decay]
    reranked = [settings.evaluation.main_generator, settings.evaluation.candidates]
    parts: dict[str, list[object]] = {
        "candidates": [settings.evaluation.model_dump(mode="json"), _state_of(settings.evaluation.candidates_file)],
        "champion_encoder": [*profile, *reranked],
        "evaluation_report": [encoder.base_model, *profile, *reranked],
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
    """Recall at each cutoff, averaged over the validation targets; with one target a user it is the hit rate."""
    targets = read_targets(warehouse, contests.SPLIT)
    lists = keys_of(read_candidates(warehouse, contests.SPLIT, generator, max(cutoffs)))
    ranks = metrics.target_ranks(lists, targets)
    return [metrics.means(ranks, [k])[f"hr_at_{k}"] for k in cutoffs]


@dataclass(frozen=True)
class _Decision:
    promoted: bool
    reason: str


def _decide(
    warehouse: Database, settings: Settings, challenger: RegisteredEncoder | None, champion: RegisteredEncoder
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
    contest = hold_contest(
        warehouse,
        _encoder(settings, challenger.path),
        _encoder(settings, champion.path),
        settings.encoder.recency_decay,
        settings.encoder.max_history,
        settings.evaluation,
    )
    names = f"version {challenger.version} against version {champion.version}"
    if contest is None:
        return _Decision(True, f"{names}: nobody is in the panel to compare them on; the newer one is taken"), None
    verdict = "promoted" if contest.is_won else "not better, so the champion stays"
    return _Decision(contest.is_won, f"{names}: {verdict}; {contest}"), contest


def _encoder(settings: Settings, path_or_name: str | Path) -> Encoder:
    encoder = settings.encoder
    return Encoder.load(path_or_name, encoder.max_seq_length, encoder.encode_batch_size)


def _headlines(report: Report) -> dict[str, float]:
    """One number per ranking, so that the UI plots it over time."""
    return {
        f"ndcg_at_10_{ranking.name}": ranking.estimates(REPORTED_SPLIT)["ndcg_at_10"].value
        for ranking in report.rankings
        if report.users[REPORTED_SPLIT]
    }


def _log_to_mlflow(tracking: Tracking, report: Report, settings: Settings, version: str) -> None:
    """One run per report; metrics are named ranking and metric, of the split `test` unless they begin with `valid_`."""
    encoders = {f"encoder_{ranking.name}": ranking.encoder for ranking in report.rankings if ranking.encoder}
    with tracking.run(EXPERIMENT, f"report-{version[:8]}", {"data_version": version}) as run:
        run.log_params(
            {
                **encoders,
                "recency_decay": settings.encoder.recency_decay,
                "max_history": settings.encoder.max_history,
                **{f"users_{split}": users for split, users in report.users.items()},
            }
        )
        for split in SPLITS:
            if not report.users[split]:
                continue
            prefix = "" if split == REPORTED_SPLIT else f"{split}_"
            for ranking in report.rankings:
                estimates = ranking.estimates(split)
                run.log_metrics({f"{prefix}{ranking.name}_{name}": e.value for name, e in estimates.items()})
        run.log_text(json.dumps(report.to_dict(), indent=2), "report.json")
        run.log_text(report.markdown(cutoffs=CUTOFFS), "report.md")
