"""A small shop with a held-out panel, for tests of candidates and of the report."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from persona4rec_pipeline.evaluation.candidates import propose, read_interactions, read_panel
from persona4rec_pipeline.settings import EvaluationSettings
from persona4rec_tests.index.builders import DIMENSION, Shop, axis

TASTES = 4
ITEMS_PER_TASTE = 6


class HashEncoder:
    """An encoder without a model: a random unit vector per text, the same in every process. Remembers what it read."""

    def __init__(self, fingerprint: str = "base") -> None:
        self.fingerprint = fingerprint
        self.read: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.read += texts
        seeds = [int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) for text in texts]
        vectors = np.array([np.random.default_rng(seed).normal(size=DIMENSION) for seed in seeds])
        vectors = vectors.reshape(-1, DIMENSION)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def shop_with_panel(home: Path, panel: int = 6) -> Shop:
    """24 items of four tastes in two catalogues, 24 readers of one taste each; the last `panel` readers are held out.

    Personas and interactions of taste t point along axis t, and a held-out target is always of the reader's own taste.
    """
    shop = Shop(home)
    for number in range(TASTES * ITEMS_PER_TASTE):
        taste = number % TASTES
        shop.item(f"i{number:02d}", (axis(taste), "appreciative"), (axis(7), "critical"), catalog=catalog_of(number))
    for reader in range(24):
        held_out = reader >= 24 - panel
        liked = [(reader % TASTES) + TASTES * ((reader + step) % ITEMS_PER_TASTE) for step in range(5)]
        for place, number in enumerate(liked):
            split = {3: "valid", 4: "test"}.get(place, "train") if held_out else "train"
            vector = axis(reader % TASTES) if split == "train" else None
            shop.interaction(f"u{reader:02d}", f"i{number:02d}", vector, split=split, catalog=catalog_of(number))
        disliked = (reader + 1) % TASTES
        shop.interaction(f"u{reader:02d}", f"i{disliked:02d}", positive=False, catalog=catalog_of(disliked))
    return shop


def propose_with(shop: Shop, *generators: str, **settings: Any) -> EvaluationSettings:
    """Store what these generators propose in the table `candidates`; the first is the main one."""
    shop.store()
    chosen = EvaluationSettings(main_generator=generators[0], ease_l2=5.0, **settings)
    interactions, panel = read_interactions(shop.database), read_panel(shop.database)
    rows = pd.concat([propose(interactions, panel, chosen, generator) for generator in generators])
    shop.database.replace("candidates", rows)
    return chosen


def catalog_of(number: int) -> str:
    """Items are spread over two catalogues."""
    return "books" if number % 3 else "films"
