"""What a night costs: the first, one without change, and one after new reviews of 1 % of the items; in several catalogues.

    python -m benchmarks.refresh --reviews r.jsonl.gz --items i.jsonl.gz --catalogs 4 --home /tmp/nights \
        --map liked=fresh,items.title=name --domain movie --engine extractive

Reviews and items are JSON lines with an item_id. Items are spread over the catalogues by a hash of their id, each a folder
of the watched location. Of 1 % of the items the last review is held back, and arrives for the third night.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.real_reviews import peak_gib
from persona4rec_pipeline.index import PersonaIndex
from persona4rec_pipeline.runner import NIGHTLY, Finished, run_stale
from persona4rec_pipeline.settings import Settings, load_settings

COUNTED = {
    "review_aspects": ("reviews read", "read_now"),
    "personas": ("items made", "items_made_now"),
    "persona_vectors": ("personas encoded", "encoded"),
    "interaction_vectors": ("interactions encoded", "encoded"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", required=True, type=Path, help="A folder that is new or empty.")
    parser.add_argument("--reviews", required=True, type=Path)
    parser.add_argument("--items", required=True, type=Path)
    parser.add_argument("--catalogs", type=int, default=4)
    parser.add_argument("--map", default="", help="Columns of the source, as for `persona4rec add-catalog`.")
    parser.add_argument("--domain", default="product")
    parser.add_argument("--engine", default="extractive")
    parser.add_argument("--share", type=float, default=0.01, help="Share of the items that get a new review.")
    given = parser.parse_args()
    settings = load_settings(home=given.home, generation={"engine": given.engine}, incoming={"settle_s": 0})
    late = arrive(settings, given)
    nights = [night(settings, "first, everything"), night(settings, "without change")]
    for name, rows in late.items():
        write(settings.home / "incoming" / name / "reviews-late.jsonl.gz", rows)
    held_back = sum(map(len, late.values()))
    nights.append(night(settings, f"{held_back} new reviews ({given.share:.0%} of the items)"))
    header = ["night", "seconds", *(label for label, _ in COUNTED.values()), "generations", "published"]
    print(f"\n{given.catalogs} catalogues, engine {given.engine}, peak memory {peak_gib():.2f} GiB\n")
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for row in nights:
        print("| " + " | ".join(row) + " |")


def arrive(settings: Settings, given: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Write the folders of the catalogues; what is held back of each, for later."""
    items, reviews = read(given.items), read(given.reviews)
    by_hash = sorted({str(row["item_id"]) for row in reviews}, key=lambda item: digest(f"late {item}"))
    chosen = set(by_hash[: max(1, round(len(by_hash) * given.share))])
    last = {str(row["item_id"]): place for place, row in enumerate(reviews) if str(row["item_id"]) in chosen}
    late: dict[str, list[dict[str, Any]]] = defaultdict(list)
    early: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for place, row in enumerate(reviews):
        item = str(row["item_id"])
        (late if last.get(item) == place else early)[catalog_of(item, given.catalogs)].append(row)
    columns = dict(part.split("=", 1) for part in given.map.split(",") if part)
    for name, rows in early.items():
        folder = settings.home / "incoming" / name
        folder.mkdir(parents=True)
        write(folder / "reviews.jsonl.gz", rows)
        write(
            folder / "items.jsonl.gz",
            [row for row in items if catalog_of(str(row["item_id"]), given.catalogs) == name],
        )
        told = "".join(f"{json.dumps(ours)} = {json.dumps(theirs)}\n" for ours, theirs in columns.items())
        (folder / "catalog.toml").write_text(f'format = "generic"\ndomain = "{given.domain}"\n[columns]\n{told}')
    return late


def night(settings: Settings, what: str) -> list[str]:
    """One nightly refresh; a row of the table."""
    began = time.monotonic()
    made: list[Finished] = [outcome for outcome in run_stale(settings, steps=NIGHTLY) if outcome.was_stale]
    seconds = time.monotonic() - began
    by_asset: dict[str, float] = defaultdict(float)
    for outcome in made:
        by_asset[outcome.asset] += outcome.seconds
    print(
        f"{what}: {seconds:.1f} s; " + ", ".join(f"{name} {spent:.1f}" for name, spent in by_asset.items()), flush=True
    )
    counts = [
        str(sum(int(outcome.metadata.get(key, 0)) for outcome in made if outcome.asset == asset))
        for asset, (_, key) in COUNTED.items()
    ]
    generated = sum(int(outcome.metadata.get("generated", 0)) for outcome in made)
    generation = PersonaIndex.open(settings.index_path).generation
    return [what, f"{seconds:.1f}", *counts, str(generated), f"generation {generation}"]


def catalog_of(item: str, catalogs: int) -> str:
    return f"part-{int(digest(item), 16) % catalogs + 1}"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read(path: Path) -> list[dict[str, Any]]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
