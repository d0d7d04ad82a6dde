"""The command: ``python -m scripts.write_sample``. With its defaults it writes the committed sample again."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from . import banks, output, people, reading
from .compose import ReviewWriter

DEFAULT_SEED = 7
DEFAULT_READERS = 250
ARRIVALS_PER_READER = 0.28
NEWCOMERS_PER_READER = 0.02


def write_sample(seed: int, reader_count: int, out: Path, truth: Path) -> None:
    """Write both catalogues and their truth; the same seed and number of readers give the same bytes."""
    motives = banks.load_motives()
    books = banks.load_books("books_first_half.txt", "books_second_half.txt")
    arrivals = banks.load_books("new_arrivals.txt")
    lives = banks.load_labelled("lives.txt")
    one_offs = banks.load_one_offs()

    chance = random.Random(f"{seed}/{reader_count}")
    readers = people.invent_readers(chance, reader_count, books, sorted(lives), one_offs)
    newcomer_count = max(1, round(reader_count * NEWCOMERS_PER_READER))
    newcomers = people.invent_readers(chance, newcomer_count, books, sorted(lives), [])
    plans = reading.plan_catalogue(chance, readers, books)
    later_plans = reading.plan_arrivals(
        chance, readers, newcomers, arrivals, plans, round(reader_count * ARRIVALS_PER_READER)
    )

    registers, noise = banks.load_labelled("registers.txt"), banks.load_labelled("noise.txt")["noise"]
    writer = ReviewWriter(chance, motives, lives, registers, noise, reader_count)
    # Written in order of time, so that what one bank says is spread over readers and years.
    written = [writer.write(plan) for plan in sorted(plans, key=lambda plan: (plan.timestamp, plan.reader.user_id))]
    later = [writer.write(plan) for plan in sorted(later_plans, key=lambda plan: (plan.timestamp, plan.reader.user_id))]

    output.write_catalogue(out / "books", books, written)
    output.write_catalogue(out / "new-arrivals", arrivals, later)
    output.write_truth(truth / "books.json", motives, books, written)
    output.write_truth(truth / "new-arrivals.json", motives, arrivals, later)


def main() -> None:
    """Read the command line and write the sample."""
    parser = argparse.ArgumentParser(prog="python -m scripts.write_sample", description=__doc__)
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--readers", type=int, default=DEFAULT_READERS)
    parser.add_argument("--out", type=Path, default=Path("persona4rec_pipeline/sample"))
    parser.add_argument("--truth", type=Path, default=Path("persona4rec_tests/planted"))
    arguments = parser.parse_args()
    write_sample(arguments.seed, arguments.readers, arguments.out, arguments.truth)


if __name__ == "__main__":
    main()
