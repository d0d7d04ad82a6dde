"""What to do with pairs whose judge was unsure: train with each choice of `alignment.flat_pairs`, and rank the panel.

    PERSONA4REC_HOME=/tmp/demo python -m benchmarks.flat_pairs --seeds 5 --entropies 0.9 0.8

The home must hold a finished run. Printed is NDCG@10 on the panel's validation targets, the mean over seeds of the
training, and the difference to `keep` with its 95 % bootstrap interval, paired by user: a difference whose interval holds
0 is none. Nothing of the home is changed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from persona4rec_pipeline.embedding import Encoder, model_folder
from persona4rec_pipeline.encoder.pairs import read_training_pairs
from persona4rec_pipeline.encoder.training import TrainingPair, train_encoder
from persona4rec_pipeline.evaluation.contest import Arena
from persona4rec_pipeline.evaluation.significance import bootstrap_interval
from persona4rec_pipeline.settings import Settings, load_settings
from persona4rec_pipeline.warehouse import open_warehouse

KEEP = "keep"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--entropies", type=float, nargs="+", default=[0.9, 0.8, 0.7], help="Thresholds of `drop`.")
    given = parser.parse_args()
    settings = load_settings()
    warehouse = open_warehouse(settings)
    arena = Arena.read(warehouse, settings)
    choices: dict[str, list[TrainingPair]] = {}
    for name, changes in {
        KEEP: {"flat_pairs": "keep"},
        "weigh": {"flat_pairs": "weigh"},
        **{f"drop {limit}": {"flat_pairs": "drop", "flat_entropy": limit} for limit in given.entropies},
    }.items():
        alignment = settings.alignment.model_copy(update=changes)
        choices[name] = read_training_pairs(warehouse, settings.encoder, alignment)
    base = model_folder(settings.encoder.base_model)
    print(f"{len(arena.slate.users)} users, base encoder {arena.ndcg(_load(base, settings)).mean():.4f}", flush=True)
    kept: np.ndarray | None = None
    for name, pairs in choices.items():
        found = np.mean([_trained(arena, pairs, settings, base, seed) for seed in range(given.seeds)], axis=0)
        kept = found if kept is None else kept
        low, high = bootstrap_interval(found - kept)
        print(
            f"{name:>10}: {len(pairs):,} pairs, NDCG@10 {found.mean():.4f}, {(found - kept).mean():+.4f} ({low:+.4f} to {high:+.4f})",
            flush=True,
        )


def _trained(arena: Arena, pairs: list[TrainingPair], settings: Settings, base: Path, seed: int) -> np.ndarray:
    with tempfile.TemporaryDirectory() as scratch:
        seeded = settings.encoder.model_copy(update={"seed": seed})
        result = train_encoder(base, pairs, seeded, Path(scratch), on_log=lambda line: None)
        return arena.ndcg(_load(result.path, settings))


def _load(path: Path, settings: Settings) -> Encoder:
    return Encoder.load(path, settings.encoder.max_seq_length, settings.encoder.encode_batch_size)


if __name__ == "__main__":
    main()
