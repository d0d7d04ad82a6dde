"""A small catalogue of the bundled sample with every hostile review and item of the corpus among its honest ones."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from persona4rec_pipeline.catalogs import add_catalog
from persona4rec_pipeline.generation.scrub import find_personal_data
from persona4rec_pipeline.index.files import current_generation
from persona4rec_pipeline.personas.hostile import is_hostile
from persona4rec_pipeline.sample import sample_path
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.warehouse import open_warehouse

HONEST_ITEMS = 6
HONEST_REVIEWS = 5
# Has hostile reviews and nothing else.
ONLY_HOSTILE = "B00HOSTILE0"
MARKUP = re.compile(r"[<>\[\]{}`]|&#|&lt;|javascript:|\*\*|https?:|www\.|\bsystem\s*:", re.IGNORECASE)


def hostile(kind: str) -> list[dict[str, Any]]:
    """The corpus: `reviews` or `items`."""
    return _read(Path(__file__).parent / f"hostile_{kind}.jsonl")


def write_catalogue(folder: Path) -> tuple[Path, Path]:
    """Files of reviews and items in the form of the sample; every honest item gets its share of hostile reviews."""
    sample = sample_path("books")
    reviews = _read(sample / "reviews.jsonl")
    by_item: dict[str, list[dict[str, Any]]] = {}
    for review in reviews:
        by_item.setdefault(review["parent_asin"], []).append(review)
    chosen = sorted(by_item, key=lambda item: (-len(by_item[item]), item))[:HONEST_ITEMS]
    items = [item for item in _read(sample / "items.jsonl") if item["parent_asin"] in chosen]
    written = [review for item in chosen for review in by_item[item][:HONEST_REVIEWS]]
    items.append({**items[0], "parent_asin": ONLY_HOSTILE, "title": "The Grey Harbour", "description": []})
    for number, changes in enumerate(hostile("items")):
        item_id = f"B00HOSTILE{number + 1}"
        items.append({**items[0], **changes, "parent_asin": item_id, "features": [], "store": None})
        # Two honest voices, and, for the item without a title, none at all.
        honest = by_item[chosen[number % len(chosen)]][HONEST_REVIEWS : HONEST_REVIEWS + (2 if changes["title"] else 0)]
        written += [{**review, "asin": item_id, "parent_asin": item_id} for review in honest]
    for number, (entry, item_id) in enumerate(zip(hostile("reviews"), cycle([*chosen, ONLY_HOSTILE]), strict=False)):
        written.append(_review(item_id, f"HOSTILE{number:03d}", entry["text"], number))
    # All of them once more on the item that has nothing else, as another user's.
    written += [
        _review(ONLY_HOSTILE, f"AGAIN{number:03d}", entry["text"], number)
        for number, entry in enumerate(islice(hostile("reviews"), 20))
    ]
    paths = folder / "reviews.jsonl", folder / "items.jsonl"
    for path, rows in zip(paths, (written, items), strict=True):
        path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    return paths


def add_hostile_catalogue(settings: Settings, folder: Path) -> None:
    """Register and ingest the catalogue of `write_catalogue` as `books`."""
    reviews, items = write_catalogue(folder)
    add_catalog(settings, "books", str(reviews), str(items), "amazon_2023", domain="book")


def published(settings: Settings) -> Iterator[tuple[str, str]]:
    """(where, text) of everything that people or prompts get to see: personas, summaries, slots, and the index."""
    warehouse = open_warehouse(settings)
    queries = {
        "personas": "SELECT item_id, persona_id, name, description, preference_rationale, array_to_string(quotes, ' | ') "
        "FROM personas",
        "item_summaries": "SELECT item_id, title, summary FROM item_summaries",
        "review_aspects": "SELECT review_id, category_preference, purchase_purpose, quality_criteria, usage_context "
        "FROM review_aspects",
    }
    for table, query in queries.items():
        for row in warehouse.rows(query):
            for value in row[1:]:
                if value is not None:
                    yield f"{table} of {row[0]}", value


def problems(settings: Settings) -> list[str]:
    """What stands in the published texts and must not: the corpus's words, markup, links, personal data, orders."""
    forbidden = {
        _normal(word): entry["id"]
        for kind in ("reviews", "items")
        for entry in hostile(kind)
        for word in entry["must_not_appear"]
    }
    found = []
    for where, text in published(settings):
        found += [
            f"{where}: {word!r} of {source}: {text}" for word, source in forbidden.items() if word in _normal(text)
        ]
        # A persona id is made of letters and hyphens; all else is judged as people would read it.
        if MARKUP.search(unicodedata.normalize("NFKC", text)):
            found.append(f"{where}: markup: {text}")
        if find_personal_data(text):
            found.append(f"{where}: personal data: {text}")
        if reason := is_hostile(text):
            found.append(f"{where}: {reason}: {text}")
    return found


def problems_of_the_index(settings: Settings) -> list[str]:
    """Forbidden words anywhere in the published generation: names of files, manifest, and every text of every column."""
    texts = []
    for path in sorted(current_generation(settings.index_path).rglob("*")):
        texts.append((path.name, path.name))
        if path.suffix == ".arrow":
            texts += [(path.name, text) for text in _strings(pa.ipc.open_file(path).read_all().to_pylist())]
        elif path.suffix == ".json":
            texts += [(path.name, text) for text in _strings(json.loads(path.read_text(encoding="utf-8")))]
    assert len(texts) > 100
    return [
        f"{name}: {word!r} of {entry['id']}: {text}"
        for kind in ("reviews", "items")
        for entry in hostile(kind)
        for word in entry["must_not_appear"]
        for name, text in texts
        if _normal(word) in _normal(text)
    ]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


def items_without_persona(settings: Settings) -> list[str]:
    rows = open_warehouse(settings).rows(
        "SELECT item_id FROM items ANTI JOIN personas USING (catalog, item_id) ORDER BY item_id"
    )
    return [item_id for (item_id,) in rows]


def _review(item_id: str, user_id: str, text: str, number: int) -> dict[str, Any]:
    return {
        "rating": 5.0 if number % 3 else 1.0, "title": "", "text": text, "images": [], "asin": item_id,
        "parent_asin": item_id, "user_id": user_id, "timestamp": 1_423_000_000_000 + number * 86_400_000,
        "helpful_vote": 0, "verified_purchase": True,
    }  # fmt: skip


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower()


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
