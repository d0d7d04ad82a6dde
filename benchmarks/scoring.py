"""Reranking 20 candidates of 5 personas each: profile, scores and order, by the kernels, by their numpy reference, in torch
and in plain Python.

    python -m benchmarks.scoring

All four are measured in turn in the same run, so that a noisy machine is noisy for each; what counts is the ratio. The paper
reports 0.52 ms per request on CPU for scoring alone.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from persona4rec_pipeline.index import kernels, scoring

CANDIDATES, PERSONAS, HISTORY, DIMENSION = 20, 5, 10, 384
ROUNDS, REPEATS = 40, 25
DECAY = 0.9
TARGET_MS = 0.05


def main() -> None:
    random = np.random.default_rng(7)
    vectors = _unit(random.normal(size=(1000 * PERSONAS, DIMENSION))).astype(np.float16)
    offsets = np.arange(0, 1000 * PERSONAS + 1, PERSONAS)
    polarity = np.ones(len(vectors), np.int8)
    rows = random.choice(1000, CANDIDATES, replace=False)
    history = _unit(random.normal(size=(HISTORY, DIMENSION))).astype(np.float32)

    def by_kernels() -> list[int]:
        profile = kernels.user_profile(history, DECAY)
        scores, _ = kernels.score_candidates(profile, rows, vectors, offsets, polarity)
        return scoring.order_candidates(scores).tolist()

    def by_reference() -> list[int]:
        profile = scoring.user_profile(history, DECAY)
        return scoring.rerank(profile, rows, vectors, offsets, polarity).order.tolist()

    wide, weights = torch.from_numpy(vectors.astype(np.float32)), torch.tensor([DECAY**age for age in range(HISTORY)])
    past, picks = torch.from_numpy(history), torch.from_numpy(rows)

    def in_torch() -> list[int]:
        with torch.inference_mode():
            profile = torch.nn.functional.normalize((weights[:, None] * past).sum(0), dim=0)
            personas = wide.view(-1, PERSONAS, DIMENSION)[picks]
            return torch.argsort(-(personas @ profile).amax(1), stable=True).tolist()

    lists, listed = wide.tolist(), history.tolist()

    def in_python() -> list[int]:
        summed = [sum(DECAY**age * past[d] for age, past in enumerate(listed)) for d in range(DIMENSION)]
        norm = math.sqrt(sum(x * x for x in summed))
        scores = [
            max(
                sum(a * b for a, b in zip(lists[row * PERSONAS + p], summed, strict=True)) / norm
                for p in range(PERSONAS)
            )
            for row in rows
        ]
        return sorted(range(CANDIDATES), key=lambda place: -scores[place])

    torch.set_num_threads(1)
    functions: dict[str, Callable[[], list[int]]] = {
        "kernels": by_kernels,
        "numpy reference": by_reference,
        "torch": in_torch,
        "plain Python": in_python,
    }
    orders = {name: function() for name, function in functions.items()}
    assert all(order == orders["kernels"] for order in orders.values()), orders
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(ROUNDS):
        for name, function in functions.items():
            repeats = REPEATS if name != "plain Python" else 1
            began = time.perf_counter()
            for _ in range(repeats):
                function()
            times[name].append((time.perf_counter() - began) / repeats)
    base = statistics.median(times["kernels"])
    print(f"profile of {HISTORY}, {CANDIDATES} candidates x {PERSONAS} personas x {DIMENSION}, one thread")
    for name, measured in times.items():
        median = statistics.median(measured)
        print(f"{name:>15}: {median * 1e3:8.3f} ms median, {median / base:7.2f} x kernels")
    print(f"target: {TARGET_MS} ms at most, {'met' if base * 1e3 <= TARGET_MS else 'MISSED'}")


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
