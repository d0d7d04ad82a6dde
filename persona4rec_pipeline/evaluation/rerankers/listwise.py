"""Many candidates at once: the model puts the items of a window into order, and the window slides up the list.

The permutations and the sliding window of RankGPT (Sun et al., EMNLP 2023, arXiv 2304.09542), asked about a
user's taste instead of a query. LLM4Rerank (Gao et al., WWW 2025, arXiv 2406.12433) has a model order a user's list as
well; its chain of further aspects, diversity and fairness, is left out.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from persona4rec_pipeline.evaluation.rerankers.asking import (
    MAX_HISTORY,
    PROMPTS,
    Meter,
    candidate_line,
    fit_lines,
    history_lines,
)
from persona4rec_pipeline.evaluation.rerankers.cases import Candidate, Case, Reranked
from persona4rec_pipeline.generation import InvalidAnswer, LanguageModel, PromptTemplate, Request

LETTERS = string.ascii_uppercase
# What a letter of the answer takes, with its quotes and comma, in any vocabulary.
TOKENS_PER_LETTER = 5


@dataclass(frozen=True)
class Listwise:
    """Windows of `window` candidates, each `step` places further up than the one before.

    Raises ValueError unless 2 <= window <= 26 and 1 <= step <= window.
    """

    window: int = 10
    step: int = 5
    max_history: int = MAX_HISTORY

    def __post_init__(self) -> None:
        if not 2 <= self.window <= len(LETTERS):
            raise ValueError(f"window must be between 2 and {len(LETTERS)}, not {self.window}.")
        if not 1 <= self.step <= self.window:
            raise ValueError(f"step must be between 1 and window ({self.window}), not {self.step}.")

    def rerank(
        self, cases: Sequence[Case], model: LanguageModel, on_progress: Callable[[str], None] | None = None
    ) -> Reranked:
        """One request per window; the score is minus the final position, counted from 0.

        A window that failed leaves its candidates where they stand. A score is NaN where all windows of a candidate
        failed: then it was never moved.
        """
        template = PromptTemplate.load(PROMPTS, "listwise.jinja")
        meter = Meter(model)
        histories = [history_lines(case, model, self.max_history, 0.35) for case in cases]
        orders = [list(range(len(case.candidates))) for case in cases]
        answered: list[set[int]] = [set() for _ in cases]
        windows = [
            windows_of(len(case.candidates), self.window, self.step) if case.is_askable else [] for case in cases
        ]
        # A window shows what the one before has made of the list, so all cases go up their lists side by side.
        for turn in range(max(map(len, windows), default=0)):
            asked = [row for row in range(len(cases)) if turn < len(windows[row])]
            requests = []
            for row in asked:
                shown = [cases[row].candidates[place] for place in orders[row][windows[row][turn]]]
                requests.append(_request(cases[row], shown, histories[row], model, template))
            for row, result in zip(asked, meter.ask(requests, check_letters, on_progress), strict=True):
                if result.ok:
                    span = windows[row][turn]
                    places = orders[row][span]
                    orders[row][span] = [places[number] for number in permutation(result.value, len(places))]
                    answered[row].update(places)
        return meter.reranked([_scores(order, moved) for order, moved in zip(orders, answered, strict=True)])


def windows_of(length: int, window: int, step: int) -> list[slice]:
    """The windows over a list, from its end; the last one begins at 0. None for fewer than two candidates."""
    if length < 2:
        return []
    starts = [*range(length - window, 0, -step), 0]
    return [slice(start, min(start + window, length)) for start in starts]


def permutation(letters: Sequence[str], count: int) -> list[int]:
    """Positions in a window of `count` in the order of the answer; repeats are dropped, what is missing is appended in
    the given order, as RankGPT does."""
    named = dict.fromkeys(LETTERS.index(letter) for letter in letters)
    return [*named, *(number for number in range(count) if number not in named)]


def check_letters(request: Request, answer: Any) -> list[str]:
    """The letters of the window that an answer names, each once; raises InvalidAnswer when there is none."""
    shown = request.schema["items"]["enum"] if request.schema else ()
    letters = [letter for letter in dict.fromkeys(answer) if letter in shown]
    if not letters:
        raise InvalidAnswer("the answer names none of the letters")
    return letters


def _request(
    case: Case, shown: Sequence[Candidate], history: list[str], model: LanguageModel, template: PromptTemplate
) -> Request:
    letters = LETTERS[: len(shown)]
    lines = fit_lines([candidate_line(candidate) for candidate in shown], model, 0.65)
    return Request(
        task="llm_listwise",
        subject=case.subject,
        messages=template.render(
            domain=case.domain, history=history, candidates=list(zip(letters, lines, strict=True))
        ),
        template=template.fingerprint,
        # As many as are shown: allowed to stop, a small model names one. It may still name one twice, which is mended.
        schema={
            "type": "array",
            "items": {"enum": list(letters)},
            "minItems": len(letters),
            "maxItems": len(letters),
        },
        max_tokens=TOKENS_PER_LETTER * (len(letters) + 1),
    )


def _scores(order: Sequence[int], moved: set[int]) -> np.ndarray:
    scores = np.full(len(order), np.nan)
    for position, place in enumerate(order):
        if place in moved:
            scores[place] = -position
    return scores
