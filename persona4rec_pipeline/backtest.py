"""What the ranking would have been worth: everything is built again from reviews before a cut, in a place of its own.

Belongs here: the namespace of a backtest, the copy of its reviews, running it. Does not belong here: what is held out
(`reviews/splits.py`), the assets, the report (`evaluation/`).

A backtest is an installation like any other, under `<home>/backtests/`, that shares ledger and language models with the one
it belongs to: no generation that either has paid for is paid for again, and nothing that is served is touched. Killed, it
goes on; run again, it makes only what is out of date.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from persona4rec_pipeline.reviews.catalogs import list_catalogs
from persona4rec_pipeline.runner import (
    SILENT,
    SOURCE_STEP,
    STEPS,
    Listener,
    dagster_instance,
    record_as_made,
    run_stale,
)
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.warehouse import Database, open_warehouse

PROTOCOLS = ("temporal", "loo")

# What a backtest starts from; everything else is made from it. `forgotten_users` are gone from the reviews already, and what
# came in while serving is in them as far as it was folded in: a backtest is of the rows that are served, and the queue stays
# with the installation that serves.
COPIED = ("catalogs", "items", "reviews")
STEPS_AFTER_SOURCES = tuple(step for step in STEPS if step != SOURCE_STEP and step != ("quality_report",))


@dataclass(frozen=True)
class Backtest:
    """A finished backtest. folder: its installation; report, page: JSON and HTML of the evaluation."""

    folder: Path
    report: Path
    page: Path


def run_backtest(
    settings: Settings,
    protocol: str = "temporal",
    as_of: datetime | None = None,
    catalogs: Sequence[str] | None = None,
    listener: Listener = SILENT,
) -> Backtest:
    """Build everything from reviews before the cut and evaluate on what came after.

    protocol: `temporal` holds out everything from `as_of` on (default: the last tenth of interactions), and for validation
    the last `splits.valid_share` before it; `loo` the last two liked items of every user, as the paper does. catalogs:
    those alone, default: all.

    Raises ValueError for a catalogue that is not registered or has no reviews, and for `as_of` with `loo`; RunFailed as
    `run_stale` does.
    """
    if as_of is not None and protocol == "loo":
        raise ValueError("Leave-one-out has no date: give --as-of or --protocol loo, not both.")
    source = open_warehouse(settings)
    known = {entry.catalog.name: entry.reviews for entry in list_catalogs(source)}
    chosen = sorted(catalogs or known)
    for name in chosen:
        if not known.get(name):
            listed = ", ".join(name for name, reviews in known.items() if reviews) or "none"
            raise ValueError(f"There is no catalogue {name!r} with reviews. There are: {listed}.")
    if not chosen:
        raise ValueError("There is no catalogue yet; add one with `persona4rec add-catalog`.")
    own = settings_of(settings, protocol, as_of, catalogs)
    warehouse = open_warehouse(own)
    _copy(source, warehouse, chosen)
    with dagster_instance(own) as instance:
        record_as_made(instance, own, warehouse, SOURCE_STEP, chosen, "Copied for a backtest.")
        run_stale(own, chosen, STEPS_AFTER_SOURCES, listener, instance, "backtest")
    report = own.home / "evaluation" / "report.json"
    return Backtest(own.home, report, report.with_suffix(".html"))


def settings_of(
    settings: Settings, protocol: str, as_of: datetime | None = None, catalogs: Sequence[str] | None = None
) -> Settings:
    """The settings of a backtest: its own home, the ledger and models of `settings`, and the rule of the hold-out."""
    of = "-".join(sorted(catalogs)) if catalogs else "all"
    when = "" if as_of is None else f"-{as_of:%Y%m%dT%H%M%S}"
    rule = (
        {"protocol": "temporal", "as_of": as_of}
        if protocol == "temporal"
        else {"protocol": "last_positive", "panel_fraction": 1.0}
    )
    return settings.model_copy(
        update={
            "home": backtests_path(settings) / f"{protocol}{when}-{of}",
            "shared": settings.shared or settings.home,
            "splits": settings.splits.model_copy(update=rule),
            "incoming": settings.incoming.model_copy(update={"location": None}),
        }
    )


def backtests_path(settings: Settings) -> Path:
    """Folder of all backtests of an installation."""
    return settings.home / "backtests"


def delete_backtests(settings: Settings) -> None:
    """Delete every backtest: they hold copies of reviews, which a forgotten user or a removed catalogue must leave."""
    shutil.rmtree(backtests_path(settings), ignore_errors=True)


def _copy(source: Database, target: Database, catalogs: Sequence[str]) -> None:
    """Make the copied tables of `target` hold the rows of these catalogues in `source`."""
    for table in COPIED:
        for name in catalogs:
            target.replace(table, source.frame(f"SELECT * FROM {table} WHERE catalog = ?", [name]), name)
