"""The Dagster asset of this step: `persona_index`."""

import hashlib
import json

import dagster as dg

from persona4rec_pipeline.automation import patient
from persona4rec_pipeline.embedding import fingerprint, model_folder
from persona4rec_pipeline.index.build import build_index, unfinished_catalogs, uniform_fingerprint
from persona4rec_pipeline.index.files import EncoderReference, Publication
from persona4rec_pipeline.index.scoring import Blends
from persona4rec_pipeline.presentation import bar_chart, markdown_table
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.tracking import BLENDS_TAG, Tracking
from persona4rec_pipeline.warehouse import Database

# Raised by hand when the code of this step changes its results.
LOGIC_VERSION = "3"
SAMPLE_ROWS = 3


@dg.asset(
    group_name="index",
    kinds={"duckdb", "numpy"},
    deps=[
        "splits",
        "items",
        "item_summaries",
        "personas",
        "champion_encoder",
        "persona_vectors",
        "interaction_vectors",
        "item_vectors",
    ],
    description="The published index: personas, their vectors, the profiles of the users and the learned blend as files, made current by "
    "one atomic rename. Equal content publishes nothing; vectors of more than one encoder are refused.",
)
@patient
def persona_index(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Database],
    settings: dg.ResourceParam[Settings],
    tracking: dg.ResourceParam[Tracking],
) -> dg.MaterializeResult:
    encoder, blends = _encoder_of_the_vectors(warehouse, settings, tracking)
    publication = build_index(
        warehouse,
        settings.index_path,
        recency_decay=settings.encoder.recency_decay,
        half_life_days=settings.encoder.half_life_days,
        max_history=settings.encoder.max_history,
        keep_generations=settings.index.keep_generations,
        encoder=encoder,
        blends=blends,
    )
    manifest = publication.manifest
    with warehouse.read() as connection:
        unfinished = unfinished_catalogs(connection)
    if unfinished:
        context.log.warning(
            f"still without vectors, as they were before or left out: {', '.join(unfinished)}; they come in with the "
            "end of their own refresh, or make persona_vectors and item_vectors for them"
        )
    what = "published" if publication.published else "unchanged, nothing published; current is"
    context.log.info(f"{what} generation {manifest.generation} at {publication.path}")
    return dg.MaterializeResult(
        metadata={
            "generation": manifest.generation,
            "published": publication.published,
            "items": sum(counts.items for counts in manifest.catalogs.values()),
            "personas": sum(counts.personas for counts in manifest.catalogs.values()),
            "users": manifest.users,
            "unfinished_catalogs": ", ".join(unfinished) or "none",
            "path": dg.MetadataValue.path(publication.path),
            "encoder": manifest.encoder.version or manifest.encoder.path or manifest.encoder.fingerprint,
            "encoder_fingerprint": manifest.encoder.fingerprint,
            "blend_weight": "none learned" if manifest.blends is None else manifest.blends.of_scores.weight,
            "catalogs": dg.MetadataValue.md(_catalogs(publication)),
            "personas_per_item": dg.MetadataValue.md(_histogram(warehouse)),
            "sample": dg.MetadataValue.md(_sample(warehouse)),
        },
        data_version=dg.DataVersion(manifest.content_hash[:16]),
    )


ASSETS = [persona_index]


def code_versions(settings: Settings) -> dict[str, str]:
    """What, when changed, makes the index out of date: logic and the settings of the profile."""
    encoder = settings.encoder
    parts = [LOGIC_VERSION, encoder.recency_decay, encoder.half_life_days, encoder.max_history]
    return {"persona_index": hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]}


def _encoder_of_the_vectors(
    warehouse: Database, settings: Settings, tracking: Tracking
) -> tuple[EncoderReference | None, Blends | None]:
    """Where the encoder of the vectors can be loaded: the champion, with the blend that was learned with it, or the
    untrained one; None if it is neither."""
    with warehouse.read() as connection:
        stated = uniform_fingerprint(connection, settings.encoder.max_history)
    champion, cut = tracking.champion(), settings.encoder.max_seq_length
    if champion is not None and fingerprint(champion.path, cut) == stated:
        learned = champion.tags.get(BLENDS_TAG)
        reference = EncoderReference(fingerprint=stated, path=str(champion.path), version=str(champion.version))
        return reference, Blends.from_json(learned) if learned else None
    base = settings.encoder.base_model
    if fingerprint(model_folder(base), cut) == stated:
        return EncoderReference(fingerprint=stated, path=base), None
    return None, None


def _catalogs(publication: Publication) -> str:
    rows = [(name, counts.items, counts.personas) for name, counts in publication.manifest.catalogs.items()]
    return markdown_table(("catalogue", "items", "personas"), rows)


def _histogram(warehouse: Database) -> str:
    rows = warehouse.rows(
        "SELECT personas, count(*) FROM (SELECT count(*) AS personas FROM personas GROUP BY catalog, item_id) "
        "GROUP BY 1 ORDER BY 1"
    )
    return bar_chart([row[0] for row in rows], [row[1] for row in rows], "Personas per item", "items")


def _sample(warehouse: Database) -> str:
    """Three personas, the same ones as long as the personas stay the same."""
    rows = warehouse.rows(
        "SELECT title, name, polarity, preference_rationale FROM personas LEFT JOIN item_summaries "
        "USING (catalog, item_id) ORDER BY md5(catalog || item_id || persona_id) LIMIT ?",
        [SAMPLE_ROWS],
    )
    return markdown_table(("item", "persona", "polarity", "why"), rows)
