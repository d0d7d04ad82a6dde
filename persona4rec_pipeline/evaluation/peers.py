"""Language-model rerankers on users of the panel, and what each of them costs.

Belongs here: which users, asking the rerankers, ranks and costs out of their answers. Does not belong here: prompts and
scores (`rerankers/`), the other rows (`report.py`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from persona4rec_pipeline.evaluation.panel import Slate, target_ranks
from persona4rec_pipeline.evaluation.rerankers import RERANKERS, Case, Reranked, Reranker, seconds_per_request
from persona4rec_pipeline.evaluation.rerankers.reading import read_cases, read_examples
from persona4rec_pipeline.generation import GenerationError, LanguageModel
from persona4rec_pipeline.index.scoring import NO_SCORE
from persona4rec_pipeline.personas.domains import Domain
from persona4rec_pipeline.warehouse.database import Database

# Requests of which the time is taken, one after another. Seconds each: enough to see the order of magnitude.
TIMED_CASES = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cost:
    """What one request takes: ordering one user's candidates.

    milliseconds: how long one user waits, alone on the machine, median. prompt_tokens, completion_tokens: mean, online.
    batch_milliseconds: mean engine time of a request among many; None where nothing was paid for in this run. failed: share
    of the model's answers that were of no use.
    """

    milliseconds: float | None
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    batch_milliseconds: float | None = None
    failed: float = 0.0


@dataclass(frozen=True)
class Peer:
    """A reranker on a slate: rank of each target, int64 (users,), and its costs."""

    name: str
    ranks: np.ndarray
    cost: Cost


def sample_users(slate: Slate, most: int) -> np.ndarray:
    """Rows of at most so many users, int64, those with the smallest hashes of their ids: mostly the same ones as the panel
    changes."""
    digests = [hashlib.sha256(user.encode()).digest() for user in slate.users]
    return np.sort(np.array(sorted(range(len(digests)), key=digests.__getitem__)[:most], np.int64))


def ask_rerankers(
    database: Database,
    slate: Slate,
    names: Sequence[str],
    model: LanguageModel,
    domains: dict[str, Domain],
    on_progress: Callable[[str], None] | None = None,
) -> list[Peer]:
    """The rerankers of these names on all users of `slate`; answers that the ledger has are not paid for again.

    The few-shot one is left out, with a warning, where train users of a domain have not decided enough. Raises
    GenerationError where there is no model.
    """
    if model.is_extractive:
        raise GenerationError(
            "evaluation.rerankers asks for rerankers, but generation.engine is `extractive`: no model."
        )
    cases = read_cases(database, slate, domains)
    of_domain = {
        domain.name: read_examples(database, [name for name, own in domains.items() if own.name == domain.name])
        for domain in {case.domain.name: case.domain for case in cases}.values()
    }
    peers = []
    for name in names:
        try:
            rerankers = {domain: RERANKERS[name](examples) for domain, examples in of_domain.items()}
        except ValueError as problem:
            logger.warning("%s is left out: %s", name, problem)
            continue
        if on_progress:
            on_progress(f"{name} on {len(cases)} users")
        # Alone first: in a batch the engine would get to know the starts of their prompts.
        timed = [case for case in cases if case.is_askable][:TIMED_CASES]
        alone = [
            seconds
            for case in timed
            for seconds in seconds_per_request(rerankers[case.domain.name], [case], model.without_ledger())
        ]
        peers.append(_peer(name, slate, _rerank(rerankers, cases, model, on_progress), alone))
    return peers


def _rerank(
    rerankers: dict[str, Reranker],
    cases: Sequence[Case],
    model: LanguageModel,
    on_progress: Callable[[str], None] | None,
) -> Reranked:
    """All cases, those of a domain together, as one result in their order."""
    scores: list[np.ndarray] = [np.empty(0)] * len(cases)
    found = []
    for domain, reranker in rerankers.items():
        rows = [row for row, case in enumerate(cases) if case.domain.name == domain]
        found.append(reranker.rerank([cases[row] for row in rows], model, on_progress))
        for row, of_case in zip(rows, found[-1].scores, strict=True):
            scores[row] = of_case
    counted = ("requests", "from_ledger", "prompt_tokens", "completion_tokens", "seconds", "failed")
    return replace(found[0], scores=scores, **{name: sum(getattr(part, name) for part in found) for name in counted})


def _peer(name: str, slate: Slate, found: Reranked, alone: Sequence[float]) -> Peer:
    scores = np.full(slate.scores.shape, NO_SCORE)
    for row, of_case in enumerate(found.scores):
        scores[row, : len(of_case)] = of_case
    asked = max(sum(not np.isnan(of_case).all() for of_case in found.scores if len(of_case)), 1)
    paid = found.requests - found.from_ledger
    cost = Cost(
        milliseconds=float(np.median(alone) * 1000) if alone else None,
        prompt_tokens=found.prompt_tokens / asked,
        completion_tokens=found.completion_tokens / asked,
        batch_milliseconds=1000 * found.seconds * found.requests / paid / asked if paid else None,
        failed=found.failed / max(found.requests, 1),
    )
    return Peer(name, target_ranks(slate, scores), cost)
