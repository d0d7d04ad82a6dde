"""Personas and pairs of sample catalogues against what is planted in them: the committed one, and others of its writer.

    python -m benchmarks.planted --home /tmp/planted --seeds 11 12 13 14

The rules were tuned on the committed sample, so the others say how far that carries. The engine is extractive.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from persona4rec_pipeline.catalogs import add_catalog
from persona4rec_pipeline.runner import STEPS, run_stale
from persona4rec_pipeline.sample import sample_path
from persona4rec_pipeline.settings import load_settings
from persona4rec_pipeline.warehouse import open_warehouse
from persona4rec_tests.planted.alignment_accuracy import BOOKS, alignment_accuracy
from persona4rec_tests.planted.persona_accuracy import persona_accuracy
from scripts.write_sample.__main__ import DEFAULT_READERS, write_sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", required=True, type=Path, help="A folder that is new or empty.")
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="Seeds of other samples of the same size.")
    given = parser.parse_args()
    measure("committed", sample_path("books"), BOOKS, given.home / "committed")
    for seed in given.seeds:
        place = given.home / str(seed)
        write_sample(seed, DEFAULT_READERS, place / "sample", place / "truth")
        measure(f"seed {seed}", place / "sample" / "books", place / "truth" / "books.json", place / "home")


def measure(name: str, sample: Path, truth: Path, home: Path) -> None:
    settings = load_settings({}, home=home, generation={"engine": "extractive"})
    add_catalog(settings, "books", str(sample / "reviews.jsonl"), str(sample / "items.jsonl"))
    run_stale(settings, steps=STEPS[:4])
    warehouse = open_warehouse(settings)
    personas, pairs = persona_accuracy(warehouse, truth), alignment_accuracy(warehouse, truth)
    made, by_lot = personas.made, personas.by_lot
    print(
        f"{name:10} personas: recall {made.recall:.3f} ({by_lot.recall:.3f} by lot), precision {made.precision:.3f} "
        f"({by_lot.precision:.3f}); judge: {pairs.accuracy:.3f} ({pairs.random:.3f} by lot, {pairs.oracle:.3f} knowing "
        f"the motives of the history) of {pairs.pairs} pairs",
        flush=True,
    )


if __name__ == "__main__":
    main()
