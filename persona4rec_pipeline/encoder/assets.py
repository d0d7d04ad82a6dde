"""The Dagster assets of this step: `persona_encoder`, and the vectors by the champion.

Belongs here: fetching, calling one function, storing, reporting. Does not belong here: how a text is worded, a model
trained or a vector made.
"""

import hashlib
import json
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any

import dagster as dg

from persona4rec_pipeline.automation import CATALOGS, TRAINING_POOL, patient
from persona4rec_pipeline.embedding import fingerprint, model_folder
from persona4rec_pipeline.encoder.pairs import (
    MIN_PAIRS,
    TRAINING_VERSION,
    TrainingPair,
    pairs_fingerprint,
    read_training_pairs,
    training_key,
    training_settings,
)
from persona4rec_pipeline.encoder.stored import (
    BASE_FINGERPRINT,
    METHOD,
    StoredEncoder,
    base_encoder,
    registered_encoder,
)
from persona4rec_pipeline.encoder.training import TrainingResult, train_encoder
from persona4rec_pipeline.encoder.vectors import (
    VectorCounts,
    refresh_interaction_vectors,
    refresh_item_vectors,
    refresh_persona_vectors,
)
from persona4rec_pipeline.presentation import image, markdown_table
from persona4rec_pipeline.reviews.posted import read_progress, with_progress
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.tracking import CHALLENGER, RegisteredEncoder, Run, Tracking
from persona4rec_pipeline.warehouse import Database

# What a training is made of, from sources and hold-out to what a model made of them: its run names their versions.
MADE_FROM = ("reviews", "splits", "review_aspects", "item_summaries", "personas", "alignment_pairs")
# Raised by hand when the code of these assets changes their results.
LOGIC_VERSION = "2"


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
        # Named by what decides the training, so that one that was killed is found and goes on.
        scratch = settings.home / "staging" / f"training-{key}"
        with tracking.run(
            "encoder", f"persona_encoder {context.run_id[:8]}", {"dagster_run_id": context.run_id}
        ) as run:
            run.log_params(_params(warehouse, settings, pairs, base_fingerprint))
            encode = base_encoder(warehouse, settings.encoder, context.log.info).encode
            result = train_encoder(base, pairs, settings.encoder, scratch, context.log.info, encode)
            report |= _report_training(run, result)
            run.log_text(_model_card(warehouse, settings, result), "model_card.md")
            tags = {"training_key": key, "trained": "true", METHOD: settings.encoder.method}
            version = tracking.register_encoder(
                result.path, run.run_id, result.fingerprint, tags | {BASE_FINGERPRINT: base_fingerprint}
            )
        shutil.rmtree(scratch)
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
    encoder = _champion(context, warehouse, settings, tracking)
    counts = refresh_persona_vectors(warehouse, context.partition_key, encoder.fingerprint, encoder.encode)
    return _vectors_result(warehouse, "persona_vectors", context.partition_key, encoder.fingerprint, counts)


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
    encoder = _champion(context, warehouse, settings, tracking)
    max_history = settings.encoder.max_history
    counts = refresh_interaction_vectors(
        warehouse, context.partition_key, max_history, encoder.fingerprint, encoder.encode
    )
    return _vectors_result(warehouse, "interaction_vectors", context.partition_key, encoder.fingerprint, counts)


@dg.asset(
    partitions_def=CATALOGS,
    group_name="encoder",
    kinds={"pytorch", "duckdb"},
    deps=["item_summaries", "champion_encoder"],
    description="Unit vectors of the catalogue's items by the champion encoder, for interactions in which nothing is said: a "
    "session, a click; only new and changed texts cost.",
)
@patient
def item_vectors(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Database],
    settings: dg.ResourceParam[Settings],
    tracking: dg.ResourceParam[Tracking],
) -> dg.MaterializeResult:
    encoder = _champion(context, warehouse, settings, tracking)
    counts = refresh_item_vectors(warehouse, context.partition_key, encoder.fingerprint, encoder.encode)
    return _vectors_result(warehouse, "item_vectors", context.partition_key, encoder.fingerprint, counts)


ASSETS = [persona_encoder, persona_vectors, interaction_vectors, item_vectors]


def code_versions(settings: Settings) -> dict[str, str]:
    """What, when changed, makes encoder and vectors out of date: logic and the settings that each reads."""
    encoder = settings.encoder
    flat = [settings.alignment.flat_pairs, settings.alignment.flat_entropy]
    parts: dict[str, list[Any]] = {
        "persona_encoder": [TRAINING_VERSION, MIN_PAIRS, training_settings(encoder), *flat],
        "persona_vectors": [encoder.max_seq_length],
        "interaction_vectors": [encoder.max_seq_length, encoder.max_history],
        "item_vectors": [encoder.max_seq_length],
    }
    return {
        name: hashlib.sha256(json.dumps([LOGIC_VERSION, *part], sort_keys=True).encode()).hexdigest()[:12]
        for name, part in parts.items()
    }


def _params(
    warehouse: Database, settings: Settings, pairs: Sequence[TrainingPair], base_fingerprint: str
) -> dict[str, Any]:
    return {
        **training_settings(settings.encoder),
        "base_fingerprint": base_fingerprint,
        "pairs": len(pairs),
        "pairs_fingerprint": pairs_fingerprint(pairs),
        **{f"version_of_{table}": warehouse.content_version(table) for table in MADE_FROM},
        "generation_engine": settings.generation.engine,
        "generation_model": settings.generation.model,
        **{
            package: metadata.version(package)
            for package in ("persona4rec", "torch", "transformers", "sentence-transformers")
        },
        "python": platform.python_version(),
    }


def _report_training(run: Run, result: TrainingResult) -> dict[str, Any]:
    from matplotlib.figure import Figure  # not at the top: a code location should load without it

    curves = {"loss": result.losses, "validation_loss": result.validation_losses}
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        if curve:
            run.log_curve(name, curve)
            axes.plot(*zip(*curve, strict=True), label=name.replace("_", " "))
    axes.set(title="InfoNCE", xlabel="step", ylabel="loss")
    axes.legend()
    run.log_figure(figure, "loss.png")
    run.log_metrics({"seconds": result.seconds, "best_step": result.best_step, "resumed_at": result.resumed_at})
    return {
        "steps": result.losses[-1][0],
        "best_step": result.best_step,
        "resumed_at": result.resumed_at,
        "validation_pairs": result.validation_pairs,
        "loss_first": result.losses[0][1],
        "loss_last": result.losses[-1][1],
        **({"validation_loss": min(loss for _, loss in result.validation_losses)} if result.validation_losses else {}),
        "seconds": result.seconds,
        "loss": dg.MetadataValue.md(image(figure, "Training loss (InfoNCE)")),
    }


def _model_card(warehouse: Database, settings: Settings, result: TrainingResult) -> str:
    """What the model is made of, for whoever finds it in the registry."""
    rows = [
        (name, reviews, held_out, warehouse.content_version("reviews", name), warehouse.content_version("splits", name))
        for name, reviews, held_out in warehouse.rows(
            "SELECT catalog, count(*), count(*) FILTER (split <> 'train') FROM splits GROUP BY 1 ORDER BY 1"
        )
    ]
    catalogs = markdown_table(("catalogue", "reviews", "held out", "version of reviews", "version of splits"), rows)
    judges = warehouse.rows("SELECT source, count(*) FROM alignment_pairs GROUP BY 1 ORDER BY 1")
    return f"""# persona_encoder {result.fingerprint}

Puts what a user said of past items near the personas of items that they will like: the same encoder for both, a profile is
the weighted mean of the user's interactions, a score the largest cosine with a persona that is not critical.

- Base model: {settings.encoder.base_model}; method: {settings.encoder.method}; texts are cut at
  {settings.encoder.max_seq_length} tokens and worded by `persona4rec_pipeline/encoder/texts.py`, which no other text replaces.
- Trained on {result.pairs} alignment pairs, {result.validation_pairs} held out; judged by
  {", ".join(f"{source} ({count})" for source, count in judges)}; language model: {settings.generation.engine},
  {settings.generation.model}. Step {result.best_step} of {result.losses[-1][0]} is kept.
- Made from train interactions alone. Held-out interactions never reached a text, a persona or a pair.

{catalogs}
"""


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
    context: dg.AssetExecutionContext, warehouse: Database, settings: Settings, tracking: Tracking
) -> StoredEncoder:
    """The champion; it loads its model when there is something to encode.

    Where none was chosen yet the base encoder becomes the first champion, so that a first catalogue is served at once.
    """
    champion = tracking.champion()
    if champion is None:
        context.log.info("no encoder was trained yet; the base encoder is the champion until a better one is")
        champion = register_base(settings, tracking, context.run_id)
        tracking.set_champion(champion.version)
    return registered_encoder(warehouse, settings.encoder, champion, context.log.info)


def _vectors_result(
    warehouse: Database, table: str, catalog: str, encoder: str, counts: VectorCounts
) -> dg.MaterializeResult:
    # Equal text hash and encoder mean an equal vector, so the vectors themselves need not be read for the version.
    version = warehouse.content_version(table, catalog, ignore=["vector"])
    if table == "interaction_vectors":
        with warehouse.read() as connection:
            version = with_progress(version, read_progress(connection, catalog).counted_through)
    return dg.MaterializeResult(
        metadata={**asdict(counts), "dagster/partition_row_count": counts.rows, "encoder": encoder},
        data_version=dg.DataVersion(version),
    )
