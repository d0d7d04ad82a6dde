"""A home with a made index of a stated size, for benchmarks that need a large catalogue and no particular one.

Belongs here: rows of a warehouse drawn by lot, and the index that the pipeline's own `build_index` makes of them. Does not
belong here: any measurement. Vectors point in random directions and texts are words in random order, as long as real ones
are, so that an answer has the size of a real answer; what such an index recommends means nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from persona4rec_pipeline.index.build import build_index
from persona4rec_pipeline.index.changes import NewItem, NewPersona
from persona4rec_pipeline.settings import load_settings
from persona4rec_pipeline.warehouse import Database, open_warehouse

CATALOG = "made"
ENCODER = "random-directions"
HISTORY = 10
# Rows that are drawn and stored at a time.
BLOCK = 4_096
WORDS = (
    "quiet slow gothic seaside winter clever tender honest family mystery prose chapter ending voyage island garden letters "
    "atmosphere dialogue humour detail history friendship revenge mountain childhood journey narrator pages weekend gorgeous "
    "patient careful strange familiar hopeful bitter"
).split()
# Of five personas four speak for the item, as a small majority of real ones do; none is critical alone.
POLARITIES = ("appreciative", "appreciative", "mixed", "critical", "appreciative")


def make_home(home: Path, items: int, personas: int, users: int, dimension: int, seed: int = 7) -> None:
    """Fill an empty folder: a warehouse of so many items, personas of each, users with a history of HISTORY, and its index."""
    random = np.random.default_rng(seed)
    warehouse = open_warehouse(load_settings({}, home=home))
    for start in range(0, items, BLOCK):
        _store_items(warehouse, random, range(start, min(start + BLOCK, items)), personas, dimension)
    for start in range(0, users, BLOCK):
        _store_users(warehouse, random, range(start, min(start + BLOCK, users)), items, dimension)
    build_index(
        warehouse, home / "index", recency_decay=0.9, half_life_days=None, max_history=HISTORY, keep_generations=5
    )


def changed_items(
    random: np.random.Generator, catalog: str, item_ids: Sequence[str], personas: int, dimension: int
) -> list[NewItem]:
    """Other versions of these items, to be published as a change."""
    return [
        NewItem(
            catalog=catalog,
            item_id=name,
            title=_text(random, 4),
            summary=_text(random, 20),
            personas=[
                NewPersona(
                    persona_id=f"p{place}",
                    name=_text(random, 3),
                    description=_text(random, 16),
                    preference_rationale=_text(random, 14),
                    polarity=POLARITIES[place % len(POLARITIES)],
                    vector=_directions(random, 1, dimension)[0],
                    quotes=[_text(random, 14), _text(random, 14)],
                )
                for place in range(personas)
            ],
            vector=_directions(random, 1, dimension)[0],
        )
        for name in item_ids
    ]


def item_id(number: int) -> str:
    return f"item-{number:06d}"


def _store_items(
    warehouse: Database, random: np.random.Generator, numbers: range, personas: int, dimension: int
) -> None:
    names = [item_id(number) for number in numbers]
    of_persona = [name for name in names for _ in range(personas)]
    persona_ids = [f"p{place}" for _ in names for place in range(personas)]
    count = len(of_persona)
    with warehouse.write() as connection:
        tables: dict[str, dict[str, Any]] = {
            "items": {"item_id": names, "title": [f"{_text(random, 4)} {number}" for number in numbers]},
            "item_summaries": {
                "item_id": names,
                "title": [f"{_text(random, 4)} {number}" for number in numbers],
                "summary": [_text(random, 20) for _ in names],
                "source": ["llm"] * len(names),
            },
            "item_vectors": _vectors(random, names, dimension) | {"item_id": names},
            "personas": {
                "item_id": of_persona,
                "persona_id": persona_ids,
                "name": [_text(random, 3) for _ in range(count)],
                "description": [_text(random, 16) for _ in range(count)],
                "preference_rationale": [_text(random, 14) for _ in range(count)],
                "polarity": [POLARITIES[place % personas % len(POLARITIES)] for place in range(count)],
                "evidence_review_ids": [[f"r-{place}"] for place in range(count)],
                "quotes": [[_text(random, 14), _text(random, 14)] for _ in range(count)],
                "source": ["llm"] * count,
            },
            "persona_vectors": _vectors(random, of_persona, dimension)
            | {"item_id": of_persona, "persona_id": persona_ids},
        }
        for table, columns in tables.items():
            rows = pa.table({"catalog": [CATALOG] * len(columns["item_id"])} | columns)
            connection.register("made_rows", rows)
            connection.execute(f"INSERT INTO {table} BY NAME FROM made_rows")
            connection.unregister("made_rows")


def _store_users(warehouse: Database, random: np.random.Generator, numbers: range, items: int, dimension: int) -> None:
    user_ids = [f"user-{number:06d}" for number in numbers for _ in range(HISTORY)]
    review_ids = [f"{user}-{place % HISTORY}" for place, user in enumerate(user_ids)]
    liked = np.concatenate([random.choice(items, HISTORY, replace=False) for _ in numbers])
    shared = {
        "catalog": [CATALOG] * len(user_ids),
        "review_id": review_ids,
    }
    at = [datetime(2026, 1, 1) + timedelta(hours=place) for place in range(len(user_ids))]
    past = shared | {"user_id": user_ids, "item_id": [item_id(number) for number in liked], "reviewed_at": at}
    with warehouse.write() as connection:
        for table, columns in {
            "reviews": past | {"is_positive": [True] * len(user_ids), "text": [""] * len(user_ids)},
            "splits": shared | {"split": ["train"] * len(user_ids), "is_target": [False] * len(user_ids)},
            "interaction_vectors": past | _vectors(random, review_ids, dimension),
        }.items():
            connection.register("made_rows", pa.table(columns))
            connection.execute(f"INSERT INTO {table} BY NAME FROM made_rows")
            connection.unregister("made_rows")


def _vectors(random: np.random.Generator, texts: list[str], dimension: int) -> dict[str, Any]:
    values = pa.array(_directions(random, len(texts), dimension).reshape(-1))
    offsets = np.arange(0, len(values) + 1, dimension, dtype=np.int32)
    return {
        "text_hash": [f"hash-of-{number}-{text}" for number, text in enumerate(texts)],
        "encoder": [ENCODER] * len(texts),
        "vector": pa.ListArray.from_arrays(offsets, values),
    }


def _directions(random: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    drawn = random.standard_normal((count, dimension), dtype=np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def _text(random: np.random.Generator, words: int) -> str:
    return " ".join(WORDS[place] for place in random.integers(len(WORDS), size=words)).capitalize()
