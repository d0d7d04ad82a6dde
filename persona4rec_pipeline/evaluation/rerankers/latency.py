"""How long one user waits: a list reranked alone, not in a batch with others."""

from __future__ import annotations

import time
from collections.abc import Sequence

from persona4rec_pipeline.evaluation.rerankers.cases import Case, Reranker
from persona4rec_pipeline.generation import LanguageModel, Message, Request


def seconds_per_request(reranker: Reranker, cases: Sequence[Case], model: LanguageModel) -> list[float]:
    """Wall-clock seconds of each case, one after another, from the texts to the scores.

    The model is started, and has answered once, before the clock runs. Retries count, as a user would wait for them.
    Give cases that the model has not seen since its start: an engine remembers the starts of prompts.

    Raises ValueError for a model with a ledger, which would answer from memory.
    """
    if model.ledger is not None:
        raise ValueError("Latency is measured with a LanguageModel that has no ledger.")
    warm_up = Request(
        task="warm_up", subject="latency", messages=(Message("user", "Say yes."),), template="", choices=("yes", "no")
    )
    list(model.generate([warm_up]))
    seconds = []
    for case in cases:
        began = time.perf_counter()
        reranker.rerank([case], model)
        seconds.append(time.perf_counter() - began)
    return seconds
