"""What every engine must offer, so that the language model above does not know which one it drives.

Belongs here: the protocols and the two records that pass between `LanguageModel` and an engine, and the reading of
choice probabilities, which both engines share. Does not belong here: keys, checks, retries of unusable answers (those
are the same for all engines and live in `language_model.py`), and anything about one engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from persona4rec_pipeline.generation.records import Message


@dataclass(frozen=True)
class Prompt:
    """One try of one request: what to say, what shape the answer must have, and how to sample it."""

    messages: tuple[Message, ...]
    schema: dict[str, Any] | None
    choices: tuple[str, ...] | None
    max_tokens: int
    temperature: float
    seed: int | None


@dataclass(frozen=True)
class Answer:
    """What an engine made of one prompt.

    text: the answer as generated; for choices the chosen string.
    finished: False when it was cut off at `max_tokens`.
    probabilities: of each choice, summing to 1, or None.
    refusal: why this one prompt cannot be answered however often it is asked; None normally.
    """

    text: str
    finished: bool
    prompt_tokens: int
    completion_tokens: int
    probabilities: dict[str, float] | None = None
    refusal: str | None = None


class Tokenizer(Protocol):
    """Counts and cuts in the model's tokens, without starting an engine."""

    def count(self, text: str) -> int:
        """Tokens of a bare text."""

    def count_prompt(self, messages: tuple[Message, ...]) -> int:
        """Tokens of a whole prompt, chat template included."""

    def head(self, text: str, max_tokens: int) -> str:
        """The longest beginning of `text` that takes at most `max_tokens` tokens; may end within a word."""


class Engine(Protocol):
    """Answers prompts in batches. Constructing one is cheap; `start` is what costs."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Usable before `start`."""

    def start(self) -> None:
        """Load the model or reach the endpoint; does nothing when already started. Raises GenerationError."""

    def answer(self, prompts: Sequence[Prompt], on_answer: Callable[[int], None]) -> list[Answer]:
        """One answer per prompt, in order. Calls `on_answer(n)` when n more are finished. Raises GenerationError."""

    def close(self) -> None:
        """Free everything; safe to call twice. A later `start` begins anew."""


def prefixes(choices: Iterable[str]) -> set[str]:
    """Every non-empty beginning of every choice: the texts that a first token can have under a choice grammar."""
    return {choice[:end] for choice in choices for end in range(1, len(choice) + 1)}


def told_apart_by_first_character(choices: Sequence[str]) -> bool:
    """Whether the first token of an answer decides which choice it is, whatever the tokenizer."""
    return len({choice[0] for choice in choices}) == len(choices)


def choice_probabilities(choices: Sequence[str], first_tokens: Iterable[tuple[str, float]]) -> dict[str, float] | None:
    """Probability of each choice from (text, natural-log probability) of the candidates for the first token.

    Candidates that begin no choice are left out and the rest is normalised. None when choices share a first character
    (then the first token does not decide) or no candidate begins any choice.
    """
    if not told_apart_by_first_character(choices):
        return None
    by_character = {choice[0]: choice for choice in choices}
    mass = dict.fromkeys(choices, 0.0)
    for text, log_probability in first_tokens:
        choice = by_character.get(text[:1])
        if choice is not None and choice.startswith(text) and math.isfinite(log_probability):
            mass[choice] += math.exp(log_probability)
    total = sum(mass.values())
    return {choice: value / total for choice, value in mass.items()} if total > 0 else None


def choice_begun_by(choices: Sequence[str], text: str) -> str:
    """The choice that a first token decides for; the text itself when it is a choice, or begins none or several."""
    begun = [choice for choice in choices if text and choice.startswith(text)]
    return begun[0] if len(begun) == 1 and text not in choices else text
