"""Each candidate by itself: will this user like it, yes or no? The score is the probability of yes.

The question of TALLRec (Bao et al., RecSys 2023, arXiv 2305.00447), asked of a model that was not trained for it:
without examples, or after a few decisions of other users.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from persona4rec_pipeline.evaluation.rerankers.asking import (
    MAX_HISTORY,
    PROMPTS,
    Meter,
    candidate_line,
    fit_lines,
    history_lines,
    past_line,
)
from persona4rec_pipeline.evaluation.rerankers.cases import Case, Example, Reranked
from persona4rec_pipeline.generation import LanguageModel, PromptTemplate, Request

WORTH = {"yes": 1.0, "no": 0.0}
# Past items that an example shows.
EXAMPLE_HISTORY = 2


@dataclass(frozen=True)
class Pointwise:
    """Without examples."""

    max_history: int = MAX_HISTORY

    def rerank(
        self, cases: Sequence[Case], model: LanguageModel, on_progress: Callable[[str], None] | None = None
    ) -> Reranked:
        """One request per candidate."""
        template = PromptTemplate.load(PROMPTS, "pointwise.jinja")
        meter = Meter(model)
        requests = [
            _requests("llm_pointwise", case, model, template, history_lines(case, model, self.max_history, 0.75))
            for case in cases
        ]
        return meter.reranked(meter.score_candidates(cases, requests, WORTH, on_progress))


@dataclass(frozen=True)
class FewShot:
    """After `shots` examples, of which half were liked, in turn: the first of `examples` that are not the user's own.

    Raises ValueError where the examples hold fewer than half of `shots` of a verdict. Where too few are left without the
    user's own, fewer are shown.
    """

    examples: tuple[Example, ...]
    shots: int = 4
    max_history: int = MAX_HISTORY

    def __post_init__(self) -> None:
        if self.shots < 2 or self.shots % 2:
            raise ValueError(f"shots must be even and at least 2, not {self.shots}.")
        liked = sum(example.liked for example in self.examples)
        if min(liked, len(self.examples) - liked) < self.shots // 2:
            raise ValueError(
                f"{self.shots} examples, half of them liked, cannot be taken from {liked} that were liked and "
                f"{len(self.examples) - liked} that were not."
            )

    def rerank(
        self, cases: Sequence[Case], model: LanguageModel, on_progress: Callable[[str], None] | None = None
    ) -> Reranked:
        """One request per candidate."""
        template = PromptTemplate.load(PROMPTS, "pointwise_few_shot.jinja")
        meter = Meter(model)
        requests = [
            _requests(
                "llm_pointwise_few_shot",
                case,
                model,
                template,
                history_lines(case, model, self.max_history, 0.35),
                examples=self._shown(case, model),
            )
            for case in cases
        ]
        return meter.reranked(meter.score_candidates(cases, requests, WORTH, on_progress))

    def _shown(self, case: Case, model: LanguageModel) -> list[tuple[list[str], str, bool]]:
        """(lines of the history, line of the item, whether it was liked) of each example, liked ones first and in turn."""
        others = [example for example in self.examples if example.user_id != case.user_id]
        liked, disliked = (
            [example for example in others if example.liked == verdict][: self.shots // 2] for verdict in (True, False)
        )
        return [
            (
                fit_lines([past_line(entry) for entry in example.history[:EXAMPLE_HISTORY]], model, 0.28 / self.shots),
                fit_lines([candidate_line(example.candidate)], model, 0.17 / self.shots)[0],
                example.liked,
            )
            for example in chain.from_iterable(zip(liked, disliked, strict=False))
        ]


def _requests(
    task: str, case: Case, model: LanguageModel, template: PromptTemplate, history: list[str], **variables: object
) -> list[Request]:
    """One request per candidate; none for a user without a history."""
    if not case.is_askable:
        return []
    return [
        Request(
            task=task,
            subject=case.subject,
            messages=template.render(
                domain=case.domain,
                history=history,
                candidate=fit_lines([candidate_line(candidate)], model, 0.2)[0],
                **variables,
            ),
            template=template.fingerprint,
            choices=tuple(WORTH),
            max_tokens=1,
        )
        for candidate in case.candidates
    ]
