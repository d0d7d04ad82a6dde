"""What each step of the method adds where the truth is known: samples of the sample's writer, scaled up, leave-one-out.

    python -m benchmarks.planted_ranking --home /tmp/planted --readers 2200 --seeds 7 8 9

Each seed is a catalogue of its own, with the noise that the bundled sample has. Killed, it goes on. The engine is extractive.
At the end: NDCG@10 of every row by generator, and the steps with their 95 % intervals, of each seed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from persona4rec_pipeline.backtest import run_backtest
from persona4rec_pipeline.catalogs import add_catalog
from persona4rec_pipeline.presentation import markdown_table
from persona4rec_pipeline.runner import Listener
from persona4rec_pipeline.settings import load_settings
from scripts.write_sample.__main__ import write_sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", required=True, type=Path, help="A folder that is new, empty, or of an earlier run.")
    parser.add_argument("--readers", type=int, default=2200, help="Readers of each sample.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9], help="One sample per seed.")
    given = parser.parse_args()
    reports = {seed: backtest(seed, given.readers, given.home / f"{seed}") for seed in given.seeds}
    for generator, depth in [(table["generator"], table["depth"]) for table in reports[given.seeds[0]]["tables"]]:
        tables = {
            seed: table
            for seed, report in reports.items()
            for table in report["tables"]
            if (table["generator"], table["depth"]) == (generator, depth)
        }
        print(f"\n{generator}, {depth} candidates: NDCG@10\n")
        print(markdown_table(["row", *(f"seed {seed}" for seed in tables), "mean"], ndcg(list(tables.values()))))
        print(f"\n{generator}, {depth} candidates: what each step adds, and its 95 % interval\n")
        print(markdown_table(["step", *(f"seed {seed}" for seed in tables)], steps(list(tables.values()))))


def backtest(seed: int, readers: int, place: Path) -> dict[str, Any]:
    """The report of one sample, made where it is not there yet."""
    settings = load_settings({}, home=place / "home", generation={"engine": "extractive"})
    if not (place / "truth").exists():
        write_sample(seed, readers, place / "sample", place / "truth")
    sample = place / "sample" / "books"
    add_catalog(settings, "books", str(sample / "reviews.jsonl"), str(sample / "items.jsonl"))
    listener = Listener(lambda asset, *_: print(f"seed {seed}: {asset}", flush=True))
    return json.loads(run_backtest(settings, "loo", listener=listener).report.read_text())


def ndcg(tables: list[dict[str, Any]]) -> list[list[object]]:
    """One line per row: of each table, and their mean."""
    lines: list[list[object]] = []
    for name in tables[0]["rankings"]:
        found = [table["rankings"][name]["metrics"]["test"]["ndcg_at_10"]["value"] for table in tables]
        lines.append([name, *found, float(np.mean(found))])
    return lines


def steps(tables: list[dict[str, Any]]) -> list[list[object]]:
    """One line per step."""
    return [
        [name, *(f"{gain['value']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})" for gain in gains)]
        for name in tables[0]["steps"]
        for gains in [[table["steps"][name] for table in tables]]
    ]


if __name__ == "__main__":
    main()
