"""Which persona of an item explains a user's choice: asked of a language model, or measured by similarity.

Belongs here: one choice to explain, the judge's prompt, and probabilities over the options. Does not belong here: which
choices are asked about (`assets.py`) and training (`encoder/`).

The judge sees titles and summaries, never ids; only earlier interactions; and the options in an order drawn from the
hash of the choice, so that no persona profits from always standing first.
"""

from __future__ import annotations

import hashlib
import random
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from persona4rec_pipeline.encoder.texts import interaction_text, persona_text
from persona4rec_pipeline.generation import InvalidAnswer, LanguageModel, PromptTemplate, Request, delimit
from persona4rec_pipeline.index.scoring import user_profile
from persona4rec_pipeline.personas.domains import Domain

# Similarities of a general encoder lie close together; divided by this they make a usable distribution.
SIMILARITY_TEMPERATURE = 0.05
LETTERS = string.ascii_uppercase


@dataclass(frozen=True)
class PastInteraction:
    """One earlier interaction as the judge reads it."""

    review_id: str
    title: str
    summary: str
    aspects: Mapping[str, str | None]


@dataclass(frozen=True)
class Option:
    """One persona that may explain the choice; critical ones are never offered for a choice that the user liked."""

    persona_id: str
    name: str
    description: str
    preference_rationale: str


@dataclass(frozen=True)
class Choice:
    """A past positive interaction to be explained. `history` is most recent first and earlier than the choice."""

    catalog: str
    review_id: str
    user_id: str
    item_id: str
    title: str
    summary: str
    history: tuple[PastInteraction, ...]
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Verdict:
    """The judge's answer: probabilities of `choice.options` in their order, summing to 1."""

    choice: Choice
    probabilities: tuple[float, ...]
    source: Literal["llm", "similarity"]

    @property
    def best(self) -> int:
        """Position of the most probable option; the first of equals."""
        return int(np.argmax(self.probabilities))


def judge_by_model(
    choices: Sequence[Choice],
    domains: Mapping[str, Domain],
    model: LanguageModel,
    template: PromptTemplate,
    on_progress: Callable[[str], None] | None = None,
) -> Iterator[Verdict | None]:
    """The model's verdict on each choice, in order; None where it could not answer (the reason is in the ledger).

    A choice with one option needs no judge. Pass the choices sorted by item: the shared start of their prompts is then
    computed once.
    """
    requests = judge_requests(choices, domains, template)
    results = model.generate(requests, check=_check_letter, on_progress=on_progress)
    for choice in choices:
        if len(choice.options) == 1:
            yield Verdict(choice, (1.0,), "llm")
            continue
        result = next(results)
        if result.status == "failed":
            yield None
            continue
        order = _option_order(choice)
        by_letter = result.probabilities or {result.value: 1.0}
        shown = np.array([by_letter.get(LETTERS[place], 0.0) for place in range(len(order))])
        total = float(shown.sum())
        if total <= 0:
            yield None
            continue
        probabilities = np.zeros(len(order))
        probabilities[order] = shown / total
        yield Verdict(choice, tuple(map(float, probabilities)), "llm")


def judge_requests(choices: Sequence[Choice], domains: Mapping[str, Domain], template: PromptTemplate) -> list[Request]:
    """What the judge is asked: one request per choice with more than one option, in order."""
    asked = [choice for choice in choices if len(choice.options) > 1]
    return [_request(choice, domains[choice.catalog], template) for choice in asked]


def judge_by_similarity(
    choices: Sequence[Choice], embed: Callable[[Sequence[str]], np.ndarray], recency_decay: float
) -> list[Verdict]:
    """Verdicts without a language model: softmax of the cosine of the history's profile and each persona.

    embed: texts -> float32 (n, d), unit length. The texts are those that the encoder reads.
    """
    past = sorted({_past_text(entry) for choice in choices for entry in choice.history})
    offered = sorted({_option_text(option) for choice in choices for option in choice.options})
    row_of_past = {text: row for row, text in enumerate(past)}
    row_of_option = {text: row for row, text in enumerate(offered)}
    vectors = embed([*past, *offered])
    past_vectors, option_vectors = vectors[: len(past)], vectors[len(past) :]
    verdicts = []
    for choice in choices:
        profile = user_profile(
            past_vectors[[row_of_past[_past_text(entry)] for entry in choice.history]], recency_decay
        )
        similarity = option_vectors[[row_of_option[_option_text(option)] for option in choice.options]] @ profile
        exponents = np.exp((similarity - similarity.max()) / SIMILARITY_TEMPERATURE)
        verdicts.append(Verdict(choice, tuple(map(float, exponents / exponents.sum())), "similarity"))
    return verdicts


def _past_text(entry: PastInteraction) -> str:
    return interaction_text(entry.title, entry.summary, entry.aspects)


def _option_text(option: Option) -> str:
    return persona_text(option.name, option.description, option.preference_rationale)


def _option_order(choice: Choice) -> list[int]:
    """The order in which the options are shown: a shuffle seeded by the choice, the same in every run."""
    seed = int.from_bytes(hashlib.sha256(choice.review_id.encode()).digest()[:8], "big")
    order = list(range(len(choice.options)))
    random.Random(seed).shuffle(order)
    return order


def _request(choice: Choice, domain: Domain, template: PromptTemplate) -> Request:
    order = _option_order(choice)
    options = [
        (LETTERS[place], delimit(f"{choice.options[row].name}. {choice.options[row].description}", 240))
        for place, row in enumerate(order)
    ]
    history = []
    for entry in choice.history:
        said = "; ".join(value for value in entry.aspects.values() if value)
        history.append(delimit(f"{entry.title}: {said}" if said else entry.title, 220))
    return Request(
        task="alignment_pairs",
        subject=f"{choice.catalog}/user/{choice.user_id}/{choice.review_id}",
        messages=template.render(
            domain=domain,
            title=delimit(choice.title, 160),
            summary=delimit(choice.summary, 400),
            options=options,
            history=history,
        ),
        template=template.fingerprint,
        choices=tuple(letter for letter, _ in options),
        max_tokens=1,
    )


def _check_letter(request: Request, answer: Any) -> str:
    if answer not in (request.choices or ()):
        raise InvalidAnswer("the answer is none of the letters")
    return str(answer)
