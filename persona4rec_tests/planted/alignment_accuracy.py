"""How often the judge's choice is the planted motive of the interaction, on the sample catalogue of books.

    python -m persona4rec_tests.planted.alignment_accuracy     (reads the warehouse of PERSONA4REC_HOME)

A persona stands for the motive that is planted in more of its evidence reviews than any other, the explained review
itself not counted: what it was made from must not prove it right. Names play no part, so that the figure holds for any
wording of personas.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from persona4rec_pipeline.index.scoring import history_weights
from persona4rec_pipeline.settings import load_settings
from persona4rec_pipeline.warehouse import Database, open_warehouse

RECENCY_DECAY = 0.9
# What is planted in the sample catalogue of books, as `scripts.write_sample` writes it beside the catalogue.
BOOKS = Path(__file__).parent / "books.json"


@dataclass(frozen=True)
class AlignmentAccuracy:
    """Over `pairs` pairs whose interaction has a planted motive that at least one option stands for.

    accuracy: share whose chosen persona stands for that motive. random: the same of an option drawn by lot, the mean
    share of options that stand for it (`one_in_options` is the mean of 1 / options, smaller, as several may). oracle: of
    a judge that knows the planted motives of the history, weighs them by recency and draws lots between equals.
    """

    accuracy: float
    random: float
    oracle: float
    pairs: int
    one_in_options: float


def alignment_accuracy(warehouse: Database, truth: Path = BOOKS) -> AlignmentAccuracy:
    """The figures of what `alignment_pairs` holds; `truth` is the file that says what is planted in the catalogue.

    Raises ValueError when no pair can be judged.
    """
    motive_of = read_motives(warehouse, truth)
    evidence: dict[tuple[str, str], list[str]] = {
        (item_id, persona_id): reviews
        for item_id, persona_id, reviews in warehouse.rows(
            "SELECT item_id, persona_id, evidence_review_ids FROM personas"
        )
    }
    hits: list[bool] = []
    by_lot, one_in, by_oracle = [], [], []
    for review_id, item_id, chosen, option_ids, history in warehouse.rows(
        "SELECT review_id, item_id, persona_id, option_ids, history_review_ids FROM alignment_pairs ORDER BY review_id"
    ):
        wanted = motive_of.get(review_id)
        stands_for = {
            option: plurality(motive_of.get(found) for found in evidence[item_id, option] if found != review_id)
            for option in option_ids
        }
        if wanted is None or wanted not in stands_for.values():
            continue
        right = [motive == wanted for motive in stands_for.values()]
        hits.append(stands_for[chosen] == wanted)
        by_lot.append(sum(right) / len(right))
        one_in.append(1 / len(right))
        by_oracle.append(_oracle(right, list(stands_for.values()), [motive_of.get(found) for found in history]))
    if not hits:
        raise ValueError("No stored pair has a planted motive that one of its options stands for.")
    means = [sum(values) / len(values) for values in (hits, by_lot, by_oracle, one_in)]
    return AlignmentAccuracy(means[0], means[1], means[2], len(hits), means[3])


def read_motives(warehouse: Database, truth: Path = BOOKS) -> dict[str, str]:
    """Review id -> planted motive, of the reviews that have one."""
    motives: Mapping[tuple[str, str, int], str | None] = {
        (review["user_id"], review["parent_asin"], review["timestamp"]): review["motive"]
        for review in json.loads(truth.read_text())["reviews"]
    }
    rows = warehouse.rows("SELECT review_id, user_id, item_id, epoch_ms(reviewed_at) FROM reviews")
    found = {review_id: motives.get((user_id, item_id, time)) for review_id, user_id, item_id, time in rows}
    return {review_id: motive for review_id, motive in found.items() if motive is not None}


def plurality(motives: Iterable[str | None]) -> str | None:
    """The motive named more often than any other; None where two are equal, or nothing is named."""
    counts = Counter(motive for motive in motives if motive is not None).most_common(2)
    if not counts or (len(counts) > 1 and counts[0][1] == counts[1][1]):
        return None
    return counts[0][0]


def _oracle(right: Sequence[bool], stands_for: Sequence[str | None], history: Sequence[str | None]) -> float:
    weight_of: dict[str | None, float] = defaultdict(float)
    for weight, motive in zip(history_weights(np.array([0, len(history)]), RECENCY_DECAY), history, strict=True):
        if motive is not None:
            weight_of[motive] += weight
    weights = [weight_of.get(motive, 0.0) for motive in stands_for]
    best = [is_right for is_right, weight in zip(right, weights, strict=True) if weight == max(weights)]
    return sum(best) / len(best)


def main() -> None:
    found = alignment_accuracy(open_warehouse(load_settings()))
    print(
        f"{found.pairs} pairs: accuracy {found.accuracy:.3f}, random {found.random:.3f} (1/options {found.one_in_options:.3f}), "
        f"oracle {found.oracle:.3f}"
    )


if __name__ == "__main__":
    main()
