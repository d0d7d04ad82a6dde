"""Which persona of an item explains a user's choice, asked of a language model.

Belongs here: one choice to explain, the judge's prompt, and probabilities over the options. Does not belong here: which
choices are asked about (`assets.py`), the judge without a model (`similarity.py`), what the answers say of the judge
(`figures.py`) and training (`encoder/`).

The judge sees titles and summaries, never ids, and only earlier interactions. A model favours a place: it is asked twice,
the second time with the options the other way round, so that every option's mean place is the same.
"""

from __future__ import annotations

import hashlib
import random
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from persona4rec_pipeline.generation import InvalidAnswer, LanguageModel, PromptTemplate, Request, Result, delimit
from persona4rec_pipeline.personas.domains import Domain

LETTERS = string.ascii_uppercase
# What an option is taken to have where the engine told no probability of it: less than any model tells, but no
# certainty, as one zero would otherwise decide the mean of the orders.
LOWEST_PROBABILITY = 1e-6
# Tokens of a prompt that are not a stranger's text: instructions and chat template; and a line's delimiters and letter.
RESERVED_TOKENS = {"compact": 150, "full": 250}
LINE_TOKENS = 12
# How the other tokens are shared: the target's title and summary, all options, the whole history.
SHARES = {"target": 0.15, "options": 0.45, "history": 0.4}
# Longest texts in characters: an option, and of an earlier interaction its title, its summary and what was said of it.
OPTION_CHARACTERS = {"compact": 200, "full": 400}
PAST_CHARACTERS = {"compact": (80, 120, 180), "full": (120, 240, 360)}


@dataclass(frozen=True)
class PastInteraction:
    """One earlier interaction as the judge reads it.

    kin: reviews of the same item that speak for the same personas, itself among them; claims: what these personas say of
    people. Both are read by similarity alone.
    """

    review_id: str
    title: str
    summary: str
    aspects: Mapping[str, str | None]
    kin: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()


@dataclass(frozen=True)
class Option:
    """One persona that may explain the choice; critical ones are never offered for a choice that the user liked.

    voices: reviews by other users that speak for it. What the user themselves said of the item would give the answer away.
    """

    persona_id: str
    name: str
    description: str
    preference_rationale: str
    voices: tuple[str, ...] = ()


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
    """The judge's answer: probabilities of `choice.options` in their order, summing to 1.

    orders: per time that a model answered, the positions in `choice.options` in the order shown; by_order: the
    probabilities of `choice.options` that it gave that time. failed: times that it was asked and could not answer.
    """

    choice: Choice
    probabilities: tuple[float, ...]
    source: Literal["llm", "similarity"]
    orders: tuple[tuple[int, ...], ...] = ()
    by_order: tuple[tuple[float, ...], ...] = ()
    failed: int = 0

    @property
    def best(self) -> int:
        """Position of the most probable option; the first of equals."""
        return int(np.argmax(self.probabilities))

    @property
    def entropy(self) -> float:
        """Of the probabilities, over its highest value: 0 certain, 1 flat; 0 for a choice with one option."""
        return normalised_entropy(self.probabilities)


def judge_by_model(
    choices: Sequence[Choice],
    domains: Mapping[str, Domain],
    model: LanguageModel,
    template: PromptTemplate,
    option_orders: int = 2,
    on_progress: Callable[[str], None] | None = None,
) -> Iterator[Verdict | None]:
    """The model's verdict on each choice, in order; None where it could not answer (the reason is in the ledger).

    A choice with one option needs no judge. Of two orders of which one failed, the other counts alone. Pass the choices
    sorted by item: prompts with the same item and order share their start, which is then computed once.
    """
    results = model.generate(
        judge_requests(choices, domains, model, template, option_orders), check=_check_letter, on_progress=on_progress
    )
    for choice in choices:
        if len(choice.options) == 1:
            yield Verdict(choice, (1.0,), "llm")
            continue
        shown = shown_orders(choice, option_orders)
        answers = [_by_option(next(results), order) for order in shown]
        answered = [(order, answer) for order, answer in zip(shown, answers, strict=True) if answer is not None]
        if not answered:
            yield None
            continue
        orders, by_order = zip(*answered, strict=True)
        averaged = average_orders(np.array(by_order))
        yield Verdict(choice, _floats(averaged), "llm", orders, by_order, failed=len(shown) - len(answered))


def judge_requests(
    choices: Sequence[Choice],
    domains: Mapping[str, Domain],
    model: LanguageModel,
    template: PromptTemplate,
    option_orders: int = 2,
) -> list[Request]:
    """What the judge is asked: `option_orders` requests per choice with more than one option, in order.

    A request fits `generation.context_length`, whatever the texts are; no engine is started.
    """
    return [
        _request(choice, order, domains[choice.catalog], model, template)
        for choice in choices
        if len(choice.options) > 1
        for order in shown_orders(choice, option_orders)
    ]


def shown_orders(choice: Choice, count: int) -> list[tuple[int, ...]]:
    """The orders in which the options are shown, 1 or 2 of them, the same in every run; the second reverses the first.

    The first is a shuffle seeded by the item, turned round by the choice: over many choices every option stands equally
    often at every place, and yet an item has few orders, so that its prompts share their starts.
    """
    order = list(range(len(choice.options)))
    random.Random(_number(f"{choice.catalog}/{choice.item_id}")).shuffle(order)
    turn = _number(choice.review_id) % len(order)
    first = (*order[turn:], *order[:turn])
    return [first, first[::-1]][:count]


def trusted_verdict(answer: Verdict | None, similar: Verdict, max_entropy: float) -> Verdict:
    """The model's verdict, or that of similarity where there is none, where the model chose by the order of the options, or
    where it hardly preferred any (`entropy` above `max_entropy`).

    A judge whose choice turns with the order has not judged, nor has one to whom all are nearly the same. What it said
    stays with the verdict, to be measured.
    """
    if answer is None:
        return similar
    chosen = {int(np.argmax(probabilities)) for probabilities in answer.by_order}
    if len(chosen) > 1 or answer.entropy > max_entropy:
        return replace(similar, orders=answer.orders, by_order=answer.by_order, failed=answer.failed)
    return answer


def average_orders(by_order: np.ndarray) -> np.ndarray:
    """Probabilities, float64 (options,), from those of each order, (orders, options): their geometric mean, normalised.

    In log space, because a model's liking for a place adds to the logit of whatever stands there: what it adds evenly
    from the first place to the last then cancels exactly against the reversed order. With the arithmetic mean an order
    in which the place decided would win over one in which the judge weighed.
    """
    logarithms = np.log(np.maximum(by_order, LOWEST_PROBABILITY)).mean(axis=0)
    probabilities = np.exp(logarithms - logarithms.max())
    return probabilities / probabilities.sum()


def normalised_entropy(probabilities: Sequence[float]) -> float:
    """Entropy over its highest value, log n: 0 certain, 1 flat; 0 for a single probability."""
    found = np.asarray(probabilities, np.float64)
    if len(found) < 2:
        return 0.0
    positive = found[found > 0]
    # Rounding may leave a flat distribution a little above 1.
    return float(min(max(-(positive * np.log(positive)).sum() / np.log(len(found)), 0.0), 1.0))


def _by_option(result: Result, order: Sequence[int]) -> tuple[float, ...] | None:
    """Probabilities of the options in their own order; None where the model did not answer.

    An engine that tells no probabilities has chosen, and its choice counts as certain.
    """
    if not result.ok:
        return None
    by_letter = result.probabilities or {result.value: 1.0}
    shown = np.array([by_letter.get(LETTERS[place], 0.0) for place in range(len(order))])
    total = float(shown.sum())
    if total <= 0:
        return None
    probabilities = np.zeros(len(order))
    probabilities[list(order)] = shown / total
    return _floats(probabilities)


def _request(
    choice: Choice, order: Sequence[int], domain: Domain, model: LanguageModel, template: PromptTemplate
) -> Request:
    profile = model.prompt_profile
    room = max(model.settings.generation.context_length - RESERVED_TOKENS[profile], 1)

    def share(part: str, texts: int) -> int:
        return max(int(room * SHARES[part] / texts) - LINE_TOKENS, 1)

    # The options' limit depends on the item alone: a shared start must not end because a history is longer.
    of_option = share("options", len(order))
    options = []
    for place, row in enumerate(order):
        option = choice.options[row]
        text = delimit(f"{option.name}. {option.description}", OPTION_CHARACTERS[profile])
        options.append((LETTERS[place], model.fit(text, of_option)))
    of_past = share("history", len(choice.history))
    return Request(
        task="alignment_pairs",
        subject=f"{choice.catalog}/user/{choice.user_id}/{choice.review_id}",
        messages=template.render(
            domain=domain,
            title=model.fit(delimit(choice.title, 160), share("target", 2)),
            summary=model.fit(delimit(choice.summary, 400), share("target", 2)),
            options=options,
            history=[model.fit(_past_line(entry, profile), of_past) for entry in choice.history],
        ),
        template=template.fingerprint,
        choices=tuple(letter for letter, _ in options),
        max_tokens=1,
    )


def _past_line(entry: PastInteraction, profile: str) -> str:
    """Title, what the user said, and what the item is about: the user's own words first, as the end may be cut off."""
    of_title, of_summary, of_said = PAST_CHARACTERS[profile]
    said = "; ".join(value for value in entry.aspects.values() if value)
    line = delimit(entry.title, of_title)
    if said:
        line += f". Said: {delimit(said, of_said)}"
    if entry.summary:
        line += f". About: {delimit(entry.summary, of_summary)}"
    return line


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _floats(probabilities: np.ndarray) -> tuple[float, ...]:
    return tuple(map(float, probabilities))


def _check_letter(request: Request, answer: Any) -> str:
    if answer not in (request.choices or ()):
        raise InvalidAnswer("the answer is none of the letters")
    return str(answer)
