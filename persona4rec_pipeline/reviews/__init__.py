"""Step 1: sources become items, reviews and splits.

Belongs here: files (`files`), formats (`sources`, `metadata`, `times`), the registry of catalogues (`catalogs`), the
watched location (`incoming`), the ingest (`ingest`), the hold-out (`splits`), and the Dagster assets (`assets`). Does not
belong here: anything that reads what a review says.
"""
