"""What goes into the model room and what comes out: messages, requests, results, and the errors callers may see.

Belongs here: plain frozen records and the two exceptions, shared by every module of this folder and by the stages that
ask. Does not belong here: how a request is answered (`language_model.py`, the engines) or kept (`ledger.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]


class InvalidAnswer(ValueError):
    """An answer parsed but cannot be used; raised by a caller's `check` with the reason as its only argument."""


class GenerationError(RuntimeError):
    """Generation as a whole cannot go on: no model, no engine, or a refusing endpoint. Finished chunks are kept."""


class BudgetReached(GenerationError):
    """The run has used up its tokens; what was paid for is in the ledger, and the next run goes on from there."""


@dataclass(frozen=True)
class Message:
    """One turn of a chat prompt."""

    role: Role
    content: str


@dataclass(frozen=True)
class Request:
    """One question to the model.

    task: what kind of question, for statistics and the ledger (`review_aspects`).
    subject: what it is asked about, as a path (`books/review/ab12`), so that it can be forgotten later.
    messages: the rendered prompt, at least one turn.
    template: fingerprint of the template that it was rendered from.
    schema: JSON schema of the answer; or `choices`: the only strings allowed as answer; or neither: free text.
    max_tokens: longest answer, in tokens. An answer that reaches it counts as truncated (choices excepted).
    """

    task: str
    subject: str
    messages: tuple[Message, ...]
    template: str
    schema: dict[str, Any] | None = None
    choices: tuple[str, ...] | None = None
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if not self.messages:
            raise ValueError(f"{self.task} {self.subject}: a request needs at least one message.")
        if self.schema is not None and self.choices is not None:
            raise ValueError(f"{self.task} {self.subject}: give a schema or choices, not both.")
        if self.choices is not None and (
            not self.choices or "" in self.choices or len(set(self.choices)) != len(self.choices)
        ):
            raise ValueError(f"{self.task} {self.subject}: choices must be distinct, non-empty strings.")
        if self.max_tokens < 1:
            raise ValueError(f"{self.task} {self.subject}: max_tokens must be at least 1, not {self.max_tokens}.")


@dataclass(frozen=True)
class Result:
    """The answer to one request.

    value: the parsed JSON (schema), the chosen string (choices) or the text; None when failed.
    probabilities: probability of each choice, summing to 1; None without choices, or where the engine cannot tell.
    reason: why it failed; None when ok.
    prompt_tokens, completion_tokens: what the answer cost when it was paid for, summed over attempts.
    attempts: tries it took; 0 when the prompt was never sent.
    from_ledger: not paid for by this request: found in the ledger, or the same as an earlier request of its chunk.
    """

    request: Request
    key: str
    value: Any
    probabilities: dict[str, float] | None
    status: Literal["ok", "failed"]
    reason: str | None
    prompt_tokens: int
    completion_tokens: int
    attempts: int
    from_ledger: bool

    @property
    def ok(self) -> bool:
        return self.status == "ok"
