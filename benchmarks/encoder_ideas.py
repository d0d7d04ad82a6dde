"""What each idea of training is worth: the default settings of the encoder with one of them changed, on validation targets.

    python -m benchmarks.encoder_ideas HOME [HOME ...] --seeds 7 8 9 --generator ease

A home is that of a finished backtest. Each idea is trained with every seed and orders the candidates of one generator for the
validation targets; printed are NDCG@10 and its gain over the default with the 95 % interval, paired by user, the seeds
averaged within a user. Nothing of a home is changed but vectors that are kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from persona4rec_pipeline.encoder.stored import base_encoder
from persona4rec_pipeline.evaluation.contest import Arena
from persona4rec_pipeline.evaluation.significance import Estimate
from persona4rec_pipeline.presentation import markdown_table
from persona4rec_pipeline.settings import Settings, load_settings
from persona4rec_pipeline.tuning import validation_ndcg
from persona4rec_pipeline.warehouse import open_warehouse

IDEAS: dict[str, dict[str, Any]] = {
    "default": {},
    "right: the judge's choice alone": {"targets": "chosen"},
    "right: against siblings": {"targets": "against_siblings"},
    "right: any persona of the item": {"targets": "any"},
    "critical personas are wrong": {"critical_negatives": True},
    "no mined items are wrong": {"mined_negatives": 0},
    "5 mined items are wrong": {"mined_negatives": 5},
    "50 mined items are wrong": {"mined_negatives": 50},
    "half-life of 180 days": {"half_life_days": 180.0},
    "temperature 0.02": {"temperature": 0.02},
    "temperature 0.1": {"temperature": 0.1},
    "temperature 0.2": {"temperature": 0.2},
    "any persona, temperature 0.1": {"targets": "any", "temperature": 0.1},
    "g = 0.7": {"recency_decay": 0.7},
    "g = 1": {"recency_decay": 1.0},
    "L = 5": {"max_history": 5, "training_history": 5},
    "L = 20": {"max_history": 20, "training_history": 20},
    "batches of 512": {"batch_size": 512},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("homes", nargs="+", type=Path, help="State directories with pairs, personas and candidates.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--generator", default="auto", help="Whose candidates are ordered.")
    given = parser.parse_args()
    for home in given.homes:
        settings = load_settings(home=home, evaluation={"main_generator": given.generator})
        print(f"\n{home}\n", flush=True)
        print(markdown_table(["idea", "NDCG@10", "gain over the default"], measure(settings, given.seeds)), flush=True)


def measure(settings: Settings, seeds: list[int]) -> list[list[object]]:
    """One line per idea; the first is the untrained encoder."""
    warehouse = open_warehouse(settings)
    untrained = Arena.read(warehouse, settings).ndcg(base_encoder(warehouse, settings.encoder))
    of_idea: dict[str, np.ndarray] = {"untrained": untrained}
    for name, changes in IDEAS.items():
        runs = [
            validation_ndcg(warehouse, settings, settings.encoder.model_copy(update={**changes, "seed": seed}), _silent)
            for seed in seeds
        ]
        of_idea[name] = np.mean(runs, axis=0)
        print(f"  {name}: {of_idea[name].mean():.4f}", flush=True)
    default = of_idea["default"]
    return [[name, float(found.mean()), str(Estimate.of(found - default))] for name, found in of_idea.items()]


def _silent(line: str) -> None:
    pass


if __name__ == "__main__":
    main()
