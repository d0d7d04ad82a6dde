"""The code location that Dagster loads: `build_definitions(...)` and `defs`. No logic.

Tests, the command line and deployments call `build_definitions` with their own settings or resources; `dagster dev`,
`dg check defs` and workspace.yaml use `defs`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import dagster as dg

import persona4rec_pipeline.alignment.assets as alignment
import persona4rec_pipeline.encoder.assets as encoder
import persona4rec_pipeline.evaluation.assets as evaluation
import persona4rec_pipeline.index.assets as index
import persona4rec_pipeline.personas.assets as personas
import persona4rec_pipeline.reviews.assets as reviews
from persona4rec_pipeline.automation import JOBS, build_schedules, build_sensors
from persona4rec_pipeline.checks import CHECKS
from persona4rec_pipeline.embedding import TextEncoder
from persona4rec_pipeline.generation import LanguageModel, Ledger
from persona4rec_pipeline.settings import Settings, load_settings
from persona4rec_pipeline.tracking import Tracking
from persona4rec_pipeline.warehouse import open_ledger_database, open_warehouse
from persona4rec_pipeline.warehouse.columns import declared_tables

ROOMS = (reviews, personas, alignment, encoder, index, evaluation)
OWNERS = ["team:persona4rec"]


def build_definitions(settings: Settings | None = None, resources: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Fresh definitions for these settings; `resources` replaces resources by name.

    Code versions are computed from the settings, so that a changed prompt, model or sampling shows exactly the assets
    that depend on it as out of date.
    """
    settings = settings or load_settings()
    # Caches of libraries belong to the state directory too; nothing is written elsewhere.
    os.environ.setdefault("MPLCONFIGDIR", str(settings.home / "cache" / "matplotlib"))
    os.environ.setdefault("VLLM_CACHE_ROOT", str(settings.home / "cache" / "vllm"))
    os.environ.setdefault("VLLM_CONFIG_ROOT", str(settings.home / "cache" / "vllm"))
    versions = {name: version for room in ROOMS for name, version in room.code_versions(settings).items()}
    # Every night looks at the index, changed or not; one that nobody looked at means that the night did not happen.
    late = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=settings.schedules.late_after_h))
    assets = dg.map_asset_specs(
        lambda spec: spec.replace_attributes(
            code_version=versions[spec.key.to_user_string()],
            owners=OWNERS,
            freshness_policy=late if spec.key.to_user_string() == "persona_index" else None,
            metadata={**spec.metadata, **_table_metadata(spec.key.to_user_string())},
        ),
        [asset for room in ROOMS for asset in room.ASSETS],
    )
    return dg.Definitions(
        assets=assets,
        asset_checks=CHECKS,
        jobs=JOBS,
        schedules=build_schedules(settings),
        sensors=build_sensors(settings),
        # One process per run: the language model is started once and serves all steps.
        executor=dg.in_process_executor,
        resources={**default_resources(settings), **(resources or {})},
    )


def _table_metadata(asset: str) -> dict[str, Any]:
    """Name and columns of the table of an asset, in the words of schema.sql; nothing for one without a table."""
    columns = declared_tables().get(asset)
    if columns is None:
        return {}
    described = [
        dg.TableColumn(
            column.name, column.type, column.description, dg.TableColumnConstraints(nullable=column.is_nullable)
        )
        for column in columns
    ]
    return {"dagster/table_name": f"main.{asset}", "dagster/column_schema": dg.TableSchema(columns=described)}


def default_resources(settings: Settings) -> dict[str, Any]:
    """The resources of a run; the language model is shut down when the run ends."""

    @dg.resource
    def language_model(_: dg.InitResourceContext) -> Iterator[LanguageModel]:
        with LanguageModel(settings, Ledger(open_ledger_database(settings))) as model:
            yield model

    return {
        "settings": settings,
        "warehouse": open_warehouse(settings),
        "tracking": Tracking(settings.mlflow_path),
        "text_encoder": TextEncoder(settings),
        "language_model": language_model,
    }


defs = build_definitions()
