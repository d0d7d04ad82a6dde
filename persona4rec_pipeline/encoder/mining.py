"""Hard negatives: personas that look right to the base encoder and belong to items that the user does not know.

Belongs here: the search for them. Does not belong here: what the loss makes of them (`loss.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from persona4rec_pipeline.encoder.loss import Batching

# A persona nearly as similar as the right one may well be right, too: such are left alone (arXiv 2407.15831 mines so).
RELATIVE_MARGIN = 0.05
# Profiles compared at once: bounds the similarities to this many rows.
BLOCK = 1024


def mine_negatives(batching: Batching, vectors: np.ndarray, count: int) -> list[np.ndarray]:
    """For each pair the `count` most similar personas of unknown items, int64 (<= count,) text numbers.

    Only those less similar than the pair's most similar own persona, by RELATIVE_MARGIN of it. vectors: float32 (texts, d),
    unit length.
    """
    if not count:
        return [np.empty(0, np.int64)] * len(batching.pairs)
    personas = batching.personas
    found: list[np.ndarray] = []
    for begin in range(0, len(batching.pairs), BLOCK):
        pairs = batching.pairs[begin : begin + BLOCK]
        profiles = np.stack([pair.weights @ vectors[pair.history] for pair in pairs])
        profiles /= np.linalg.norm(profiles, axis=1, keepdims=True)
        for pair, cosines in zip(pairs, profiles @ vectors[personas].T, strict=True):
            limit = cosines[np.searchsorted(personas, pair.options)].max() * (1 - RELATIVE_MARGIN)
            usable = (cosines < limit) & ~np.isin(personas, batching.known[pair.user_id])
            candidates = np.flatnonzero(usable)
            found.append(personas[candidates[np.argsort(-cosines[candidates], kind="stable")[:count]]])
    return found
