"""What a reranker is given and what it returns.

Belongs here: plain frozen records and the protocol. Does not belong here: prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from persona4rec_pipeline.generation import LanguageModel
from persona4rec_pipeline.personas.domains import Domain


@dataclass(frozen=True)
class PastItem:
    """An item that the user liked, and what their review says of it, in short; may be empty."""

    title: str
    summary: str
    said: str


@dataclass(frozen=True)
class Candidate:
    """An item to be ranked. `key` is `catalog/item_id` and is never shown to the model."""

    key: str
    title: str
    summary: str


@dataclass(frozen=True)
class Case:
    """One user's list: `history` most recent first, `candidates` in the order of the generator."""

    user_id: str
    history: tuple[PastItem, ...]
    candidates: tuple[Candidate, ...]
    domain: Domain

    @property
    def is_askable(self) -> bool:
        """Whether there is something to rank, and a history to judge by."""
        return bool(self.history and self.candidates)

    @property
    def subject(self) -> str:
        """Under which the ledger files the answers, so that they are deleted when the user is forgotten."""
        catalog = self.candidates[0].key.partition("/")[0]
        return f"{catalog}/user/{self.user_id}"


@dataclass(frozen=True)
class Example:
    """What a train user decided about an item after `history`, most recent first; of the same domain as the cases."""

    user_id: str
    history: tuple[PastItem, ...]
    candidate: Candidate
    liked: bool


@dataclass(frozen=True)
class Reranked:
    """Scores and what they took.

    scores: per case float64 (n,) in the order of its candidates, higher is better; NaN where the model gave nothing
        usable, and for a user without a history, about whom it is not asked. Such a candidate keeps its place
        (`scoring.order_candidates`).
    requests, prompt_tokens, completion_tokens: of all answers, retries among them, whether they were paid for now or
        lay in the ledger. from_ledger: requests that were not paid for now. failed: those without a usable answer.
    seconds: the engine's working time, without its start; what lay in the ledger took none.
    """

    scores: list[np.ndarray]
    requests: int
    from_ledger: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    failed: int


class Reranker(Protocol):
    """Asks a model about all cases at once."""

    def rerank(
        self, cases: Sequence[Case], model: LanguageModel, on_progress: Callable[[str], None] | None = None
    ) -> Reranked:
        """Scores of the candidates of each case, in order. Raises GenerationError where the model cannot be asked."""
