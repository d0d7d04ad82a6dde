"""Small warehouses for tests of the index and of what stands on it; every row is made here, no file is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from persona4rec_pipeline.index.build import build_index
from persona4rec_pipeline.index.files import EncoderReference, Publication
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.warehouse import Database, open_warehouse

DIMENSION = 8
ENCODER = "encoder-one"
FIRST_DAY = datetime(2024, 1, 1)


def unit(*numbers: float) -> list[float]:
    """A unit vector of DIMENSION numbers that points where these first ones do."""
    vector = np.zeros(DIMENSION, np.float32)
    vector[: len(numbers)] = numbers
    return (vector / np.linalg.norm(vector)).tolist()


def axis(number: int) -> list[float]:
    """The unit vector of one axis."""
    return unit(*([0.0] * number + [1.0]))


def warehouse(home: Path) -> Database:
    """An empty warehouse in `home`."""
    return open_warehouse(Settings(home=home))


class Shop:
    """Collects rows of a warehouse and stores them; ids are short and times follow the order of the calls."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.database = warehouse(home)
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self._clock = FIRST_DAY

    def item(
        self,
        item_id: str,
        *personas: tuple[Sequence[float], str],
        catalog: str = "books",
        categories: Sequence[str] = (),
        attributes: dict[str, str] | None = None,
        item_vector: Sequence[float] | None = None,
    ) -> Shop:
        """An item with personas, each (vector, polarity); its own vector is that of the first unless it is given."""
        described = {"categories": list(categories), "attributes": json.dumps(attributes or {})}
        self._add("items", catalog=catalog, item_id=item_id, title=f"Title of {item_id}", **described)
        self._add(
            "item_summaries",
            catalog=catalog,
            item_id=item_id,
            title=f"Title of {item_id}",
            summary=f"A summary of {item_id}.",
            source="extractive",
        )
        hint = item_vector if item_vector is not None else next((vector for vector, _ in personas), axis(DIMENSION - 1))
        self._add(
            "item_vectors", catalog=catalog, item_id=item_id, text_hash=_hash(hint), encoder=ENCODER, vector=list(hint)
        )
        for number, (vector, polarity) in enumerate(personas, start=1):
            key = {"catalog": catalog, "item_id": item_id, "persona_id": f"p{number}"}
            self._add(
                "personas",
                **key,
                name=f"Reader {number} of {item_id}",
                description=f"Reads {item_id} in the way number {number}.",
                preference_rationale=f"Likes {item_id} for reason {number}.",
                polarity=polarity,
                evidence_review_ids=[f"r-{item_id}"],
                quotes=[f"Quote {number} of {item_id}."],
                source="extractive",
            )
            self._add("persona_vectors", **key, text_hash=_hash(vector), encoder=ENCODER, vector=list(vector))
        return self

    def interaction(
        self,
        user_id: str,
        item_id: str,
        vector: Sequence[float] | None = None,
        *,
        split: str = "train",
        positive: bool = True,
        catalog: str = "books",
    ) -> Shop:
        """One interaction, an hour after the one before; with a vector it becomes a part of the user's profile."""
        self._clock += timedelta(hours=1)
        review = {
            "catalog": catalog,
            "review_id": f"{catalog}-{user_id}-{item_id}-{len(self.rows.get('reviews', []))}",
            "user_id": user_id,
            "item_id": item_id,
            "reviewed_at": self._clock,
        }
        self._add(
            "reviews",
            **review,
            rating=5.0 if positive else 1.0,
            is_positive=positive,
            text=f"About {item_id}, {user_id}.",
        )
        key = {"catalog": catalog, "review_id": review["review_id"]}
        self._add("splits", **key, split=split, is_target=split != "train")
        if vector is not None:
            self._add("interaction_vectors", **review, text_hash=_hash(vector), encoder=ENCODER, vector=list(vector))
        return self

    def store(self) -> Shop:
        """Write all rows so far to the warehouse."""
        for table, rows in self.rows.items():
            self.database.replace(table, pd.DataFrame(rows))
        return self

    def publish(self, **changes: Any) -> Publication:
        """Store and publish an index."""
        self.store()
        options: dict[str, Any] = {
            "recency_decay": 0.9,
            "half_life_days": None,
            "max_history": 10,
            "keep_generations": 5,
            "encoder": EncoderReference(fingerprint=ENCODER, path="/models/one"),
        }
        return build_index(self.database, self.index_path, **(options | changes))

    @property
    def index_path(self) -> Path:
        return self.home / "index"

    def _add(self, table: str, **row: Any) -> None:
        self.rows.setdefault(table, []).append(row)


def _hash(vector: Sequence[float]) -> str:
    """Stands for the hash of the text: another vector, another text."""
    return hashlib.md5(str(list(vector)).encode()).hexdigest()[:16]


def two_catalogues(home: Path) -> Shop:
    """Books and films that share one item_id (`dune`), a reader with a profile, one who dislikes, one who only watches.

    Along axis 0 lie `dune` (book) and, less so, `emma`; `grim` lies nearest of all, but only by its critical persona.
    """
    shop = Shop(home)
    shop.item("dune", (axis(0), "appreciative"), (axis(1), "mixed"))
    shop.item("emma", (unit(1, 1), "mixed"), (axis(5), "appreciative"))
    shop.item("grim", (axis(0), "critical"), (unit(0.1, 0, 1), "appreciative"))
    shop.item("hated", (axis(0), "critical"))
    shop.item("odd", (axis(3), "appreciative"))
    shop.item("dune", (axis(2), "appreciative"), catalog="films")
    shop.item("alien", (unit(1, 0, 2), "appreciative"), catalog="films")
    shop.interaction("ann", "odd", axis(0)).interaction("bob", "emma", positive=False)
    shop.interaction("cleo", "alien", axis(2), catalog="films").interaction("ann", "alien", axis(0), catalog="films")
    shop.interaction("ann", "emma", axis(7), split="test")
    return shop
