"""What deleted data leaves behind: runs in Dagster's log that quote it, and pages of files that can still be read.

Belongs here: finding and removing such traces. Does not belong here: which data is deleted (`forgetting.py`,
`catalogs.py`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

from persona4rec_pipeline.personas.text import sentences
from persona4rec_pipeline.presentation import markdown_text
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.warehouse import open_ledger_database, open_warehouse

# Characters of a text by which a run's log is recognised as quoting it; shorter ones would hit by chance.
TELLING_CHARACTERS = 24
# Longest wait for a SQLite file that the daemon writes to, in seconds.
SQLITE_TIMEOUT_S = 60.0


def delete_runs_that_quote(
    instance: dg.DagsterInstance, assets: Iterable[str], names: Collection[str], texts: Iterable[str] = ()
) -> int:
    """Delete the runs of which a materialization of these assets, or any check, holds one of the names or quotes the texts.

    Where that takes away an asset's last materialization, its record is wiped as well, so that it counts as not made yet.
    Returns the number of runs.
    """
    pieces = [*names, *(piece for text in texts for piece in _pieces(text))]
    telling = {form for piece in pieces for form in (piece, markdown_text(piece, len(piece) + 8))}
    condemned = {run_id for run_id, told in _check_results(instance) if any(piece in told for piece in telling)}
    for asset in assets:
        records = list(_materializations(instance, asset))  # newest first
        found = {record.run_id for record in records if record.run_id in condemned or _tells(record, telling)}
        if records and records[0].run_id in found:
            instance.wipe_assets([dg.AssetKey(asset)])
        condemned |= found
    for run_id in condemned:
        _delete_run(instance, run_id)
    return len(condemned)


def delete_runs_of_partition(instance: dg.DagsterInstance, partition: str, assets: Iterable[str]) -> int:
    """Delete all runs of a partition key of these assets, with their logs; returns how many.

    Dagster shows the last materialization of an asset beside its name. Where it was of this partition, the newest of
    another one is told once more in its place, with the same versions.
    """
    runs = instance.get_runs(dg.RunsFilter(tags={"dagster/partition": partition}))
    for run in runs:
        _delete_run(instance, run.run_id)
    for asset in assets:
        newest = next((r for r in _materializations(instance, asset) if r.partition_key != partition), None)
        if newest is not None and newest.asset_materialization is not None:
            instance.report_runless_asset_event(newest.asset_materialization)
        else:
            instance.wipe_assets([dg.AssetKey(asset)])
    return len(runs)


def compact_files(settings: Settings) -> None:
    """Rewrite the database files: a deleted row stays readable in its file until its page is used again."""
    open_warehouse(settings).compact()
    open_ledger_database(settings).compact()
    for path in settings.dagster_path.rglob("*.db"):
        connection = sqlite3.connect(path, timeout=SQLITE_TIMEOUT_S)
        try:
            connection.execute("VACUUM")
        finally:
            connection.close()


def _delete_run(instance: dg.DagsterInstance, run_id: str) -> None:
    instance.delete_run(run_id)
    with _check_table(instance) as (connection, table):  # Dagster leaves these behind
        connection.execute(table.delete().where(table.c.run_id == run_id))


def _check_results(instance: dg.DagsterInstance) -> list[tuple[str, str]]:
    """(run, what was recorded) of every result of an asset check."""
    with _check_table(instance) as (connection, table):
        found = connection.execute(table.select().where(table.c.evaluation_event.is_not(None))).mappings()
        return [(row["run_id"], row["evaluation_event"]) for row in found]


@contextmanager
def _check_table(instance: dg.DagsterInstance) -> Iterator[tuple[Any, Any]]:
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise TypeError(
            f"Results of checks cannot be deleted from {type(storage).__name__}; delete them there by hand."
        )
    with storage.index_connection() as connection:
        yield connection, AssetCheckExecutionsTable


def _tells(record: Any, pieces: set[str]) -> bool:
    told = " ".join(str(value.value) for value in record.asset_materialization.metadata.values())
    return any(piece in told for piece in pieces)


def _materializations(instance: dg.DagsterInstance, asset: str) -> Iterator[Any]:
    cursor = None
    while True:
        found = instance.fetch_materializations(dg.AssetKey(asset), limit=500, cursor=cursor)
        yield from found.records
        if not found.has_more:
            return
        cursor = found.cursor


def _pieces(text: str) -> Iterator[str]:
    """The beginning of a text and of each of its sentences, where it is long enough to tell."""
    for sentence in sentences(text):
        if len(sentence.text) >= TELLING_CHARACTERS:
            yield " ".join(sentence.text.split())[:TELLING_CHARACTERS]
