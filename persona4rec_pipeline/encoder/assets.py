"""The Dagster assets of this step: `persona_encoder`, `persona_vectors`, `interaction_vectors`.

Belongs here: fetching, calling one function, storing, reporting. Does not belong here: how a text is worded, a model
trained or a vector made.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np

from persona4rec_pipeline.automation import CATALOGS, TRAINING_POOL, patient
from persona4rec_pipeline.embedding import Encoder, fingerprint, model_folder
from persona4rec_pipeline.encoder.pairs import (
    TRAINING_VERSION,
    pairs_fingerprint,
    read_training_pairs,
    training_key,
    training_settings,
)
from persona4rec_pipeline.encoder.training import TrainingPair, TrainingResult, train_encoder
from persona4rec_pipeline.encoder.vectors import VectorCounts, refresh_interaction_vectors, refresh_persona_vectors
from persona4rec_pipeline.presentation import line_chart
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.tracking import CHALLENGER, RegisteredEncoder, Run, Tracking
from persona4rec_pipeline.warehouse import Database

# Raised by hand when the code of these assets changes their results.
LOGIC_VERSION = "1"
# With fewer pairs a fine-tuned encoder would only know its few users by heart.
MIN_PAIRS = 8


@dg.asset(
    pool=TRAINING_POOL,
    group_name="encoder",
    kinds={"pytorch", "mlflow"},
    deps=["alignment_pairs", "personas", "review_aspects", "item_summaries"],
    description="The text encoder of users and personas, fine-tuned on the alignment pairs and registered in MLflow as "
    "`persona_encoder`, alias `challenger`. The same pairs and settings train nothing anew; with too few pairs it is the "
    "base encoder as it is.",
)
@patient
def persona_encoder(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Database],
    settings: dg.ResourceParam[Settings],
    tracking: dg.ResourceParam[Tracking],
) -> dg.MaterializeResult:
    base = model_folder(settings.encoder.base_model)
    base_fingerprint = fingerprint(base, settings.encoder.max_seq_length)
    pairs = read_training_pairs(warehouse, settings.encoder, settings.alignment)
    trains = len(pairs) >= MIN_PAIRS
    key = training_key(base_fingerprint, pairs if trains else [], settings.encoder)
    known = tracking.version_of(key)
    report: dict[str, Any] = {"pairs": len(pairs), "users": len({pair.user_id for pair in pairs}), "trained": trains}
    report["reused"] = known is not None
    if known is not None:
        context.log.info(f"version {known.version} was made from exactly this; nothing to train")
        version = known.version
    elif not trains:
        context.log.warning(f"{len(pairs)} pairs are too few to train on; the base encoder is taken as it is")
        version = register_base(settings, tracking, context.run_id).version
    else:
        tags = {"dagster_run_id": context.run_id}
        with (
            tracking.run("encoder", f"persona_encoder {context.run_id[:8]}", tags) as run,
            tempfile.TemporaryDirectory(prefix="training-", dir=tracking.path) as scratch,
        ):
            run.log_params(_params(settings, pairs, base_fingerprint))
            result = train_encoder(base, pairs, settings.encoder, Path(scratch), context.log.info)
            report |= _report_training(run, result)
            version = tracking.register_encoder(
                result.path, run.run_id, result.fingerprint, {"training_key": key, "trained": "true"}
            )
    tracking.set_alias(CHALLENGER, version)
    challenger = tracking.encoder(CHALLENGER)
    assert challenger is not None
    return dg.MaterializeResult(
        metadata={
            **report,
            "version": challenger.version,
            "fingerprint": challenger.fingerprint,
            "base_model": settings.encoder.base_model,
            "mlflow_run": challenger.run_id,
            "path": dg.MetadataValue.path(challenger.path),
        },
        data_version=dg.DataVersion(challenger.fingerprint),
    )


@dg.asset(
    partitions_def=CATALOGS,
    group_name="encoder",
    kinds={"pytorch", "duckdb"},
    deps=["personas", "champion_encoder"],
    description="Unit vectors of the catalogue's personas by the champion encoder; only new and changed texts cost.",
)
@patient
def persona_vectors(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Database],
    settings: dg.ResourceParam[Settings],
    tracking: dg.ResourceParam[Tracking],
) -> dg.MaterializeResult:
    encoder, encode = _champion(context, settings, tracking)
    counts = refresh_persona_vectors(warehouse, context.partition_key, encoder, encode)
    return _vectors_result(warehouse, "persona_vectors", context.partition_key, encoder, counts)


@dg.asset(
    partitions_def=CATALOGS,
    group_name="encoder",
    kinds={"pytorch", "duckdb"},
    deps=["reviews", "review_aspects", "item_summaries", "splits", "champion_encoder"],
    description="Unit vectors of every user's most recent positive train interactions by the champion encoder, of "
    "which profiles are made; only new and changed texts cost.",
)
@patient
def interaction_vectors(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Database],
    settings: dg.ResourceParam[Settings],
    tracking: dg.ResourceParam[Tracking],
) -> dg.MaterializeResult:
    encoder, encode = _champion(context, settings, tracking)
    max_history = settings.encoder.max_history
    counts = refresh_interaction_vectors(warehouse, context.partition_key, max_history, encoder, encode)
    return _vectors_result(warehouse, "interaction_vectors", context.partition_key, encoder, counts)


ASSETS = [persona_encoder, persona_vectors, interaction_vectors]


def code_versions(settings: Settings) -> dict[str, str]:
    """What, when changed, makes encoder and vectors out of date: logic and the settings that each reads."""
    encoder = settings.encoder
    flat = [settings.alignment.flat_pairs, settings.alignment.flat_entropy]
    parts: dict[str, list[Any]] = {
        "persona_encoder": [TRAINING_VERSION, MIN_PAIRS, training_settings(encoder), *flat],
        "persona_vectors": [encoder.max_seq_length],
        "interaction_vectors": [encoder.max_seq_length, encoder.max_history],
    }
    return {
        name: hashlib.sha256(json.dumps([LOGIC_VERSION, *part], sort_keys=True).encode()).hexdigest()[:12]
        for name, part in parts.items()
    }


def _params(settings: Settings, pairs: Sequence[TrainingPair], base_fingerprint: str) -> dict[str, Any]:
    return {
        **training_settings(settings.encoder),
        "base_fingerprint": base_fingerprint,
        "pairs": len(pairs),
        "pairs_fingerprint": pairs_fingerprint(pairs),
    }


def _report_training(run: Run, result: TrainingResult) -> dict[str, Any]:
    from matplotlib.figure import Figure  # not at the top: a code location should load without it

    steps = [step for step, _ in result.losses]
    losses = [loss for _, loss in result.losses]
    run.log_curve("loss", result.losses)
    run.log_metrics({"seconds": result.seconds})
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, marker=".")
    axes.set(title="Training loss (InfoNCE)", xlabel="step", ylabel="loss")
    run.log_figure(figure, "loss.png")
    return {
        "steps": steps[-1],
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "seconds": result.seconds,
        "loss": dg.MetadataValue.md(line_chart(steps, losses, "Training loss (InfoNCE)", "step", "loss")),
    }


def register_base(settings: Settings, tracking: Tracking, run_id: str) -> RegisteredEncoder:
    """The untrained base encoder as a version of the registry, registered now if it was not; run_id: of Dagster."""
    base = model_folder(settings.encoder.base_model)
    stated = fingerprint(base, settings.encoder.max_seq_length)
    key = training_key(stated, [], settings.encoder)

    if (found := tracking.version_of(key)) is not None:
        return found
    with tracking.run("encoder", "base encoder", {"dagster_run_id": run_id}) as run:
        tracking.register_encoder(base, run.run_id, stated, {"training_key": key, "trained": "false"})
    registered = tracking.version_of(key)
    assert registered is not None
    return registered


def _champion(
    context: dg.AssetExecutionContext, settings: Settings, tracking: Tracking
) -> tuple[str, Callable[[Sequence[str]], np.ndarray]]:
    """The champion's fingerprint, and a function that loads it when there is something to encode.

    Where none was chosen yet the base encoder becomes the first champion, so that a first catalogue is served at once.
    """
    champion = tracking.champion()
    if champion is None:
        context.log.info("no encoder was trained yet; the base encoder is the champion until a better one is")
        champion = register_base(settings, tracking, context.run_id)
        tracking.set_champion(champion.version)
    path = champion.path

    def encode(texts: Sequence[str]) -> np.ndarray:
        encoder = Encoder.load(path, settings.encoder.max_seq_length, settings.encoder.encode_batch_size)
        return encoder.encode(texts, context.log.info)

    return fingerprint(path, settings.encoder.max_seq_length), encode


def _vectors_result(
    warehouse: Database, table: str, catalog: str, encoder: str, counts: VectorCounts
) -> dg.MaterializeResult:
    # Equal text hash and encoder mean an equal vector, so the vectors themselves need not be read for the version.
    version = warehouse.content_version(table, catalog, ignore=["vector"])
    return dg.MaterializeResult(
        metadata={**asdict(counts), "dagster/partition_row_count": counts.rows, "encoder": encoder},
        data_version=dg.DataVersion(version),
    )
