"""When things run: the catalogue partitions, the jobs, the schedules and sensors.

Belongs here: partitions, jobs, schedules. Does not belong here: what an asset does. Jobs select assets by key, so that
this module imports no stage and every stage may import the partitions from here.
"""

from __future__ import annotations

import dagster as dg

# One partition per catalogue, named like it; `persona4rec add-catalog` registers them.
CATALOGS = dg.DynamicPartitionsDefinition(name="catalog")

ingest_catalog = dg.define_asset_job(
    "ingest_catalog",
    selection=dg.AssetSelection.assets("reviews", "items"),
    partitions_def=CATALOGS,
    description="Read one catalogue's source files again. Use it when files were changed or added.",
)

refresh_catalog = dg.define_asset_job(
    "refresh_catalog",
    selection=dg.AssetSelection.assets("review_aspects", "item_summaries", "personas"),
    partitions_def=CATALOGS,
    description="Make one catalogue's personas again from what was ingested. Only what changed is generated; what the "
    "ledger knows is not paid for twice. Run `splits` before it when reviews were added.",
)

train_encoder = dg.define_asset_job(
    "train_encoder",
    selection=dg.AssetSelection.assets("alignment_pairs", "persona_encoder"),
    description="Judge which personas explain past choices and train the encoder on them. Use it weekly, or after "
    "many new reviews; the vectors and the index must be made again after it.",
)

publish_index = dg.define_asset_job(
    "publish_index",
    selection=dg.AssetSelection.assets("persona_index", "candidates", "evaluation_report"),
    description="Publish the vectors as a new index generation and evaluate it on the held-out panel.",
)

JOBS = [ingest_catalog, refresh_catalog, train_encoder, publish_index]
