"""Our HR and NDCG of the candidates that the original authors released, beside ir-measures and the authors' own figures.

    python -m benchmarks.released_candidates FOLDER

FOLDER holds `amazon/` and `yelp/` with the authors' own files (example_candidates and example_ground_truth, each
.jsonl.gz). Printed is each metric over all users with a target, of whom one without results is a miss, and over users
with results alone, as is often done. In the released files every user has results, so both give the authors' figures
and do not tell which of the two the authors took.

A place of a list that holds `[PAD]` is no item: it is never a hit, and it is not given to the next item. Closing the
gaps moves later items up, which would make Yelp's NDCG .0844 instead of the authors' .0838.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ir_measures
from ir_measures import Success, nDCG

from persona4rec_pipeline.evaluation import metrics

PAD = "[PAD]"
CUTOFF = 10
MEASURES = {f"hr_at_{CUTOFF}": Success @ CUTOFF, f"ndcg_at_{CUTOFF}": nDCG @ CUTOFF}
# As the authors print them, in the order of MEASURES.
AUTHORS = {"amazon": (0.4565, 0.2548), "yelp": (0.1818, 0.0838)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    print(f"{'':30}{'users':>6}{'metric':>12}{'ours':>9}{'ir-measures':>13}{'authors':>9}")
    for dataset, authors in AUTHORS.items():
        rankings = read_rankings(folder, dataset)
        targets = {row["user_id"]: row["item_id"] for row in rows(folder, dataset, "example_ground_truth")}
        with_results = {user: target for user, target in targets.items() if rankings.get(user)}
        compare(f"{dataset}, all users", rankings, targets, authors)
        compare(f"{dataset}, users with results", rankings, with_results, authors)


def compare(
    name: str, rankings: Mapping[str, Sequence[str]], targets: Mapping[str, str], authors: Sequence[float]
) -> None:
    ours = metrics.means(metrics.target_ranks(rankings, targets), [CUTOFF])
    qrels = [ir_measures.Qrel(user, target, 1) for user, target in targets.items()]
    run = [
        ir_measures.ScoredDoc(user, item, float(-place))
        for user in targets
        for place, item in enumerate(rankings.get(user, ()))
    ]
    theirs = ir_measures.calc_aggregate(list(MEASURES.values()), qrels, run)
    for (metric, measure), figure in zip(MEASURES.items(), authors, strict=True):
        reproduced = "" if round(ours[metric], 4) == figure else "  not reproduced"
        print(
            f"{name:30}{len(targets):6}{metric:>12}{ours[metric]:9.4f}{theirs[measure]:13.4f}{figure:9.4f}{reproduced}"
        )


def read_rankings(folder: Path, dataset: str) -> dict[str, list[str]]:
    """The lists of the users, best first; a padded place holds a name of its own that no target has."""
    return {
        row["user_id"]: [
            f"{PAD} {place}" if result["item_id"] == PAD else result["item_id"]
            for place, result in enumerate(row["results"])
        ]
        for row in rows(folder, dataset, "example_candidates")
    }


def rows(folder: Path, dataset: str, file: str) -> list[dict[str, Any]]:
    with gzip.open(folder / dataset / f"{file}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main()
