"""The personas in two dimensions, for people to look at.

Belongs here: the projection and which personas are drawn. Does not belong here: pages; any score (a distance on the map is a
hint, the cosine in all dimensions is what counts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from persona4rec_pipeline.index.segments import Segment

POLARITY_NAMES = {1: "appreciative", 0: "mixed", -1: "critical"}


@dataclass(frozen=True)
class PersonaMap:
    """points: float32 (n, 2); personas: what each is, as JSON types. total: personas that there are, drawn or not."""

    points: np.ndarray
    personas: list[dict[str, str]]
    total: int
    _centre: np.ndarray
    _axes: np.ndarray

    def point(self, vector: np.ndarray) -> tuple[float, float]:
        """Where a vector, (d,), such as a profile, lies on it."""
        x, y = (np.asarray(vector, np.float32) - self._centre) @ self._axes
        return float(x), float(y)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        points = [
            {"x": round(float(x), 4), "y": round(float(y), 4), **persona}
            for (x, y), persona in zip(self.points, self.personas, strict=True)
        ]
        return {"total": self.total, "points": points}


def draw_map(segments: Sequence[Segment], limit: int) -> PersonaMap:
    """The first two principal components of the personas that are alive, or of `limit` of them, evenly taken."""
    alive = [
        (segment, local, row)
        for segment in segments
        for local in np.flatnonzero(~segment.dead).tolist()
        for row in range(segment.offsets[local], segment.offsets[local + 1])
    ]
    count = min(max(limit, 0), len(alive))
    drawn = [alive[place] for place in np.linspace(0, len(alive) - 1, count).round().astype(int)] if count else []
    dimension = segments[0].vectors.shape[1] if segments else 2
    vectors = np.array([segment.vectors[row] for segment, _, row in drawn], np.float32).reshape(-1, dimension)
    centre = vectors.mean(axis=0) if len(vectors) else np.zeros(dimension, np.float32)
    axes = np.zeros((dimension, 2), np.float32)
    if len(vectors) > 1:
        _, _, components = np.linalg.svd(vectors - centre, full_matrices=False)
        found = components[:2].T
        # The sign of a component is arbitrary; this one is the same for the same personas.
        found = found * np.where(found[np.abs(found).argmax(axis=0), np.arange(found.shape[1])] < 0, -1, 1)
        axes[:, : found.shape[1]] = found
    personas = [
        {
            "catalog": segment.catalog,
            "item_id": segment.item_columns["item_id"][local],
            "title": segment.item_columns["title"][local],
            "persona_id": segment.persona_columns["persona_id"][row],
            "name": segment.persona_columns["name"][row],
            "polarity": POLARITY_NAMES[int(segment.polarity[row])],
        }
        for segment, local, row in drawn
    ]
    return PersonaMap((vectors - centre) @ axes, personas, len(alive), centre, axes)
