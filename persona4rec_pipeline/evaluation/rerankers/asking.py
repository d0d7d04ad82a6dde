"""What the rerankers share: texts of strangers made ready for a prompt, and asking while the costs are counted.

Belongs here: lines of a history and of a candidate, their limits, tallies, and a number from the probabilities of
choices. Does not belong here: what one reranker asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from persona4rec_pipeline.evaluation.rerankers.cases import Candidate, Case, PastItem, Reranked
from persona4rec_pipeline.generation import LanguageModel, Request, Result, delimit
from persona4rec_pipeline.generation.language_model import Check
from persona4rec_pipeline.personas.hostile import is_hostile

PROMPTS = "persona4rec_pipeline.evaluation.rerankers.prompts"
# Past items that a prompt shows.
MAX_HISTORY = 5
# Longest title, summary and word of a review, in characters.
TITLE_CHARACTERS = 120
SUMMARY_CHARACTERS = 240
SAID_CHARACTERS = 240
# Tokens of the context that are not a stranger's text: instructions, chat template and answer; and what stands round a line.
RESERVED_TOKENS = 330
LINE_TOKENS = 12


def past_line(entry: PastItem) -> str:
    """Title, what the user said, and what the item is about: the user's own words first, as the end may be cut off."""
    line = delimit(entry.title, TITLE_CHARACTERS)
    # A review that gives orders to a model is no evidence of a taste.
    if entry.said and not is_hostile(entry.said):
        line += f". Said: {delimit(entry.said, SAID_CHARACTERS)}"
    if entry.summary:
        line += f". About: {delimit(entry.summary, SUMMARY_CHARACTERS)}"
    return line


def candidate_line(candidate: Candidate) -> str:
    """Title, and what the item is about."""
    line = delimit(candidate.title, TITLE_CHARACTERS)
    return f"{line}. About: {delimit(candidate.summary, SUMMARY_CHARACTERS)}" if candidate.summary else line


def fit_lines(lines: Sequence[str], model: LanguageModel, share: float) -> list[str]:
    """The lines, each cut to an equal part of `share` (0-1) of the tokens that the model's context has for texts."""
    room = max(model.settings.generation.context_length - RESERVED_TOKENS, 1)
    each = max(int(room * share / max(len(lines), 1)) - LINE_TOKENS, 1)
    return [model.fit(line, each) for line in lines]


def history_lines(case: Case, model: LanguageModel, max_history: int, share: float) -> list[str]:
    """The most recent `max_history` entries of a case's history, ready for a prompt."""
    return fit_lines([past_line(entry) for entry in case.history[:max_history]], model, share)


def expected(result: Result, worth: Mapping[str, float]) -> float:
    """The mean of `worth` over the probabilities of the choices; NaN for a failed result.

    An engine that tells no probabilities has chosen, and its choice counts as certain.
    """
    if not result.ok:
        return float("nan")
    probabilities = result.probabilities or {result.value: 1.0}
    return sum(worth[choice] * probability for choice, probability in probabilities.items())


class Meter:
    """Asks a model and counts what that takes, for one call of `rerank`."""

    def __init__(self, model: LanguageModel):
        self._model = model
        self._seconds_before = model.stats.seconds
        self._requests = self._from_ledger = self._prompt_tokens = self._completion_tokens = self._failed = 0

    def ask(
        self,
        requests: Sequence[Request],
        check: Check | None = None,
        on_progress: Callable[[str], None] | None = None,
    ) -> Iterator[Result]:
        """One result per request, in order."""
        for result in self._model.generate(requests, check=check, on_progress=on_progress):
            self._requests += 1
            self._from_ledger += result.from_ledger
            self._prompt_tokens += result.prompt_tokens
            self._completion_tokens += result.completion_tokens
            self._failed += not result.ok
            yield result

    def score_candidates(
        self,
        cases: Sequence[Case],
        requests: Sequence[Sequence[Request]],
        worth: Mapping[str, float],
        on_progress: Callable[[str], None] | None = None,
    ) -> list[np.ndarray]:
        """Scores of each case, from one request per candidate, or none for a case that is not asked about."""
        results = self.ask([request for of_case in requests for request in of_case], on_progress=on_progress)
        return [
            np.array([expected(next(results), worth) for _ in of_case])
            if of_case
            else np.full(len(case.candidates), np.nan)
            for case, of_case in zip(cases, requests, strict=True)
        ]

    def reranked(self, scores: list[np.ndarray]) -> Reranked:
        """The scores, with what was counted."""
        return Reranked(
            scores=scores,
            requests=self._requests,
            from_ledger=self._from_ledger,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            seconds=self._model.stats.seconds - self._seconds_before,
            failed=self._failed,
        )
