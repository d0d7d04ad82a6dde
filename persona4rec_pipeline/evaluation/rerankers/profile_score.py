"""Two steps: a short profile of the user's taste in words, then a rating from 1 to 5 of each candidate for it.

As EXP3RT (Kim et al., SIGIR 2025, arXiv 2408.06276) and RLRF4Rec do, without their training. The score is the expected
rating under the model's probabilities, as EXP3RT has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from persona4rec_pipeline.evaluation.rerankers.asking import (
    MAX_HISTORY,
    PROMPTS,
    Meter,
    candidate_line,
    fit_lines,
    history_lines,
)
from persona4rec_pipeline.evaluation.rerankers.cases import Case, Reranked
from persona4rec_pipeline.generation import InvalidAnswer, LanguageModel, PromptTemplate, Request, delimit
from persona4rec_pipeline.personas.hostile import is_hostile
from persona4rec_pipeline.personas.text import sentences

WORTH = {str(rating): float(rating) for rating in range(1, 6)}
# Longest profile: about 70 tokens of English; and the most tokens that its writing may take.
PROFILE_CHARACTERS = 320
PROFILE_TOKENS = 160
# One character more than is shown: a profile that the grammar stopped in a word is cut back to its last sentence.
PROFILE_SCHEMA = {"type": "string", "minLength": 20, "maxLength": PROFILE_CHARACTERS + 1}


@dataclass(frozen=True)
class ProfileScore:
    """One request per user, then one per candidate; where the profile failed there are no scores."""

    max_history: int = MAX_HISTORY

    def rerank(
        self, cases: Sequence[Case], model: LanguageModel, on_progress: Callable[[str], None] | None = None
    ) -> Reranked:
        """Profiles of all users first, filed as the task `llm_profile`, then their ratings, `llm_profile_score`."""
        of_profile = PromptTemplate.load(PROMPTS, "profile.jinja")
        of_score = PromptTemplate.load(PROMPTS, "profile_score.jinja")
        meter = Meter(model)
        known = [case for case in cases if case.is_askable]
        requests = [self._profile_request(case, model, of_profile) for case in known]
        written = meter.ask(requests, check_profile, on_progress)
        profiles = (next(written).value if case.is_askable else None for case in cases)
        ratings = [
            _score_requests(case, profile, model, of_score) for case, profile in zip(cases, profiles, strict=True)
        ]
        return meter.reranked(meter.score_candidates(cases, ratings, WORTH, on_progress))

    def _profile_request(self, case: Case, model: LanguageModel, template: PromptTemplate) -> Request:
        return Request(
            task="llm_profile",
            subject=case.subject,
            messages=template.render(domain=case.domain, history=history_lines(case, model, self.max_history, 1.0)),
            template=template.fingerprint,
            schema=PROFILE_SCHEMA,
            max_tokens=PROFILE_TOKENS,
        )


def check_profile(request: Request, answer: Any) -> str:
    """A profile as one harmless line: it was made of strangers' texts, and goes into the next prompts. What a small model
    says twice is left out.

    Raises InvalidAnswer when nothing is left of it, or when it gives orders.
    """
    profile = delimit(str(answer), PROFILE_CHARACTERS)
    profile = " ".join(dict.fromkeys(sentence.text for sentence in sentences(profile)))
    if not profile or is_hostile(str(answer)):
        raise InvalidAnswer("the profile is empty, or gives orders to a model")
    return profile


def _score_requests(case: Case, profile: str | None, model: LanguageModel, template: PromptTemplate) -> list[Request]:
    if profile is None:
        return []
    shown = fit_lines([profile], model, 0.5)[0]
    return [
        Request(
            task="llm_profile_score",
            subject=case.subject,
            messages=template.render(
                domain=case.domain,
                profile=shown,
                candidate=fit_lines([candidate_line(candidate)], model, 0.5)[0],
            ),
            template=template.fingerprint,
            choices=tuple(WORTH),
            max_tokens=1,
        )
        for candidate in case.candidates
    ]
