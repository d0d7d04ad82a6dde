"""What new reviews do to the personas that are there: 5 % more reviews for 100 items, and who keeps their id.

    python -m benchmarks.stability --reviews r.jsonl.gz --items i.jsonl.gz --home /tmp/stability \
        --map liked=fresh,items.title=name --domain movie

Reviews and items are JSON lines with an item_id. Of 100 items with 20 reviews or more, chosen by hash, every twentieth
review is held back and arrives later. The engine is extractive: the figures are those of the rules.

What counts is the share of all former personas of the items with new reviews that keep their id. Beside it: how many of
them are still meant, that is, a new persona of their item and side says much the same of people (cosine of the claims at
least `personas.same_similarity`), and how many of these keep their id. An item without a new review has to stay as it is
to the letter, unless a train review came to it all the same: a reader's newer review frees the one held out before.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.refresh import digest, read, write
from persona4rec_pipeline.catalogs import add_catalog
from persona4rec_pipeline.embedding import TextEncoder
from persona4rec_pipeline.personas.wording import claim
from persona4rec_pipeline.runner import STEPS, run_stale
from persona4rec_pipeline.settings import Settings, load_settings
from persona4rec_pipeline.warehouse import open_warehouse

NAME = "stability"
# item id -> persona id -> all columns that are published
Personas = dict[str, dict[str, dict[str, Any]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", required=True, type=Path, help="A folder that is new or empty.")
    parser.add_argument("--reviews", required=True, type=Path)
    parser.add_argument("--items", required=True, type=Path)
    parser.add_argument("--map", default="", help="Columns of the source, as for `persona4rec add-catalog`.")
    parser.add_argument("--domain", default="product")
    parser.add_argument("--most-items", type=int, default=400, help="Items of the catalogue, the most reviewed ones.")
    given = parser.parse_args()
    settings = load_settings(home=given.home, generation={"engine": "extractive"})
    rows_of: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read(given.reviews):
        rows_of[str(row["item_id"])].append(row)
    items = sorted(rows_of, key=lambda item: (-len(rows_of[item]), item))[: given.most_items]
    touched = sorted((item for item in items if len(rows_of[item]) >= 20), key=digest)[:100]
    late = [row for item in touched for row in rows_of[item][::20]]
    held_back = {id(row) for row in late}
    early = [row for item in items for row in rows_of[item] if id(row) not in held_back]

    source = settings.home / "source"
    source.mkdir(parents=True)
    write(source / "early.jsonl.gz", early)
    mapping = dict(part.split("=", 1) for part in given.map.split(",") if part)
    add_catalog(settings, NAME, str(source), str(given.items), "generic", mapping, None, given.domain)
    run_stale(settings, steps=STEPS[:3])
    before, trained_before = personas(settings), train_reviews(settings)
    write(source / "late.jsonl.gz", late)
    finished = run_stale(settings, steps=STEPS[:3])
    after, trained_after = personas(settings), train_reviews(settings)

    made = next(outcome.metadata for outcome in finished if outcome.asset == "personas")
    freed = {item for item in trained_before if trained_before[item] != trained_after[item]} - set(touched)
    untouched = [item for item in before if item not in touched and item not in freed]
    equal = sum(before[item] == after.get(item) for item in untouched)
    print(
        f"{len(late)} new reviews for {len(touched)} of {len(before)} items; {made['items_made_now']} items made again"
    )
    print(f"items without a new train review: {equal} of {len(untouched)} are the same to the letter")
    print(f"items to which a review came that is no longer held out: {len(freed)}")
    same, kept, former = compare(settings, touched, before, after)
    print(f"ids kept: {kept} of the {former} former personas of the {len(touched)} items ({kept / former:.1%})")
    print(f"of these {former}, {same} are still meant; of those still meant {kept / same:.1%} keep their id")


def personas(settings: Settings) -> Personas:
    columns = ["item_id", "persona_id", "name", "description", "preference_rationale", "polarity", "evidence_review_ids",
               "quotes", "support", "source"]  # fmt: skip
    found: Personas = defaultdict(dict)
    for row in open_warehouse(settings).rows(f"SELECT {', '.join(columns)} FROM personas WHERE source <> 'summary'"):
        found[row[0]][row[1]] = dict(zip(columns, row, strict=True))
    return found


def train_reviews(settings: Settings) -> dict[str, frozenset[str]]:
    """Item id -> ids of its train reviews."""
    rows = open_warehouse(settings).rows(
        "SELECT item_id, review_id FROM splits JOIN reviews USING (catalog, review_id) WHERE split = 'train'"
    )
    found: dict[str, set[str]] = defaultdict(set)
    for item_id, review_id in rows:
        found[item_id].add(review_id)
    return defaultdict(frozenset, {item_id: frozenset(reviews) for item_id, reviews in found.items()})


def compare(settings: Settings, items: list[str], before: Personas, after: Personas) -> tuple[int, int, int]:
    """(former personas that still have their meaning, of these those with their id, all former personas)."""
    encoder = TextEncoder(settings)
    same = kept = former = 0
    for item in items:
        old, new = list(before[item].values()), list(after[item].values())
        vectors = encoder.encode([claim(entry["name"], entry["description"]) for entry in [*old, *new]])
        for row, entry in enumerate(old):
            former += 1
            alike = [
                place
                for place, other in enumerate(new)
                if (other["polarity"] == "critical") == (entry["polarity"] == "critical")
                and float(vectors[row] @ vectors[len(old) + place]) >= settings.personas.same_similarity
            ]
            same += bool(alike)
            kept += any(new[place]["persona_id"] == entry["persona_id"] for place in alike)
    return same, kept, former


if __name__ == "__main__":
    main()
