"""The judge that reads: orders, prompts, and what becomes of its answers."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from persona4rec_pipeline.alignment.judge import (
    Option,
    Verdict,
    average_orders,
    judge_by_model,
    judge_requests,
    normalised_entropy,
    shown_orders,
    trusted_verdict,
)
from persona4rec_pipeline.generation import LanguageModel, PromptTemplate
from persona4rec_pipeline.generation.engine import Answer
from persona4rec_pipeline.settings import load_settings
from persona4rec_tests.alignment.builders import DREAD, choice, past
from persona4rec_tests.generation.scripted import ScriptedEngine
from persona4rec_tests.personas.builders import BOOK

PROMPTS = "persona4rec_pipeline.alignment.prompts"
TEMPLATE = PromptTemplate.load(PROMPTS, "alignment_pairs.compact.jinja")


def model(script, tmp_path) -> LanguageModel:
    return LanguageModel(load_settings({}, home=tmp_path), engine=ScriptedEngine(script))


def verdicts(choices, script, tmp_path, orders=2):
    with model(script, tmp_path) as judge:
        return list(judge_by_model(choices, {"books": BOOK}, judge, TEMPLATE, orders))


def options(count: int) -> tuple[Option, ...]:
    return tuple(Option(f"p{n}", f"Reader {n}", f"This reader looks for number {n}.", "") for n in range(count))


def answer_by_name(chances):
    """A script whose answer gives each persona, known by its name in the prompt, its chance, wherever it stands."""

    def answer(prompt):
        return letters({shown_letter(prompt, name): chance for name, chance in chances.items()})

    return answer


def letters(chances) -> Answer:
    return Answer(max(chances, key=chances.get), True, 10, 1, probabilities=chances)


def shown_letter(prompt, persona_name: str) -> str:
    lines = prompt.messages[-1].content.splitlines()
    return next(line[0] for line in lines if persona_name in line)


def test_the_chosen_letter_is_mapped_back_to_the_persona_whatever_the_order_shown(tmp_path):
    def answer(prompt):
        letter = shown_letter(prompt, "Sea story")
        return Answer(letter, True, 10, 1, probabilities={x: 0.8 if x == letter else 0.1 for x in "ABC"})

    choices = [choice(f"r{n}") for n in range(10)]
    for verdict in verdicts(choices, answer, tmp_path):
        assert verdict.choice.options[verdict.best].persona_id == "sea"
        assert verdict.probabilities == pytest.approx((0.1, 0.1, 0.8))


def test_no_persona_always_stands_first(tmp_path):
    seen = []

    def answer(prompt):
        seen.append({name: shown_letter(prompt, name) for name in ("Gothic", "Comedy", "Sea")})
        return Answer("A", True, 10, 1, probabilities={"A": 1.0})

    verdicts([choice(f"r{n}") for n in range(40)], answer, tmp_path)
    assert {order["Gothic"] for order in seen} == {"A", "B", "C"}


def test_the_judge_reads_titles_and_what_the_user_said_and_never_an_id(tmp_path):
    prompts = []

    def answer(prompt):
        prompts.append("\n".join(message.content for message in prompt.messages))
        return Answer("A", True, 10, 1, probabilities={"A": 1.0})

    verdicts([choice()], answer, tmp_path)
    assert "Dracula" in prompts[0] and "creeping fear in a castle" in prompts[0]
    for hidden in ("ITEM-77", "u1", "r9"):
        assert hidden not in prompts[0]


def test_a_choice_with_one_option_is_not_paid_for(tmp_path):
    (verdict,) = verdicts([choice(options=(DREAD,))], lambda prompt: pytest.fail("asked"), tmp_path)
    assert verdict.probabilities == (1.0,)


def test_a_choice_that_the_model_cannot_answer_is_left_out_and_the_others_stay_in_place(tmp_path):
    def answer(prompt):
        if "UNANSWERABLE" in prompt.messages[-1].content:
            return Answer("nonsense", True, 10, 1)
        return Answer("A", True, 10, 1, probabilities={"A": 0.9, "B": 0.1})

    found = verdicts([choice("r1"), choice("r2", said="UNANSWERABLE"), choice("r3")], answer, tmp_path)
    assert [verdict is None for verdict in found] == [False, True, False]
    assert found[2].choice.review_id == "r3"


def test_the_second_order_is_the_first_reversed_so_that_every_option_has_the_same_mean_place():
    first, second = shown_orders(choice(options=options(7)), 2)
    assert second == first[::-1] and sorted(first) == list(range(7))
    assert {(first.index(row) + second.index(row)) / 2 for row in range(7)} == {3}
    assert shown_orders(choice(options=options(7)), 1) == [first]


def test_over_many_choices_every_option_stands_at_every_place_and_an_item_has_few_orders():
    orders = [shown_orders(choice(f"r{n}", options(5)), 1)[0] for n in range(500)]
    assert len(set(orders)) == 5
    for place in range(5):
        counts = Counter(order[place] for order in orders)
        assert set(counts) == set(range(5)) and min(counts.values()) > 60


def test_an_even_liking_for_early_places_cancels_in_two_orders_and_not_in_one(tmp_path):
    taste = {"Gothic": 1.0, "Comedy": 0.2, "Sea": 0.4}

    def answer(prompt):
        # In logits: what the judge thinks, and twice as much for the first place as for the second.
        at = {shown_letter(prompt, name): np.log(chance) for name, chance in taste.items()}
        logits = {letter: value - 1.5 * "ABC".index(letter) for letter, value in at.items()}
        total = sum(np.exp(value) for value in logits.values())
        return letters({letter: float(np.exp(value) / total) for letter, value in logits.items()})

    unbiased = [chance / 1.6 for chance in taste.values()]
    for verdict in verdicts([choice(f"r{n}") for n in range(6)], answer, tmp_path):
        assert verdict.probabilities == pytest.approx(unbiased, abs=1e-6)
        assert len(verdict.orders) == len(verdict.by_order) == 2
    once = verdicts([choice(f"r{n}") for n in range(6)], answer, tmp_path, orders=1)
    assert max(abs(verdict.probabilities[0] - unbiased[0]) for verdict in once) > 0.1


def test_an_order_in_which_the_place_decided_does_not_win_over_one_in_which_the_judge_weighed():
    averaged = average_orders(np.array([[0.90, 0.05, 0.05], [0.05, 0.05, 0.90]]))
    assert averaged == pytest.approx([0.447, 0.105, 0.447], abs=1e-3)


def test_if_one_order_fails_the_other_counts_alone_and_is_counted(tmp_path):
    asked = []

    def answer(prompt):
        asked.append(prompt)
        if len(asked) == 1 or prompt.seed is not None:  # the first try, and every retry
            return Answer("nonsense", True, 10, 1)
        return answer_by_name({"Gothic": 0.1, "Comedy": 0.7, "Sea": 0.2})(prompt)

    (verdict,) = verdicts([choice()], answer, tmp_path)
    assert verdict.failed == 1 and len(verdict.orders) == 1
    assert verdict.orders[0] == shown_orders(choice(), 2)[1]
    assert verdict.probabilities == pytest.approx((0.1, 0.7, 0.2))


def test_without_probabilities_the_answer_is_certain_and_two_that_contradict_are_a_tie(tmp_path):
    (sure,) = verdicts([choice()], lambda prompt: Answer(shown_letter(prompt, "Sea"), True, 10, 1), tmp_path)
    assert sure.best == 2 and sure.probabilities[2] == pytest.approx(1, abs=1e-4) and sure.entropy < 1e-3
    (torn,) = verdicts([choice()], lambda prompt: Answer("A", True, 10, 1), tmp_path)
    ends = (shown_orders(choice(), 1)[0][0], shown_orders(choice(), 1)[0][-1])
    assert [torn.probabilities[row] for row in ends] == pytest.approx([0.5, 0.5], abs=1e-2)


def test_what_each_order_said_is_kept_in_the_order_of_the_options(tmp_path):
    (verdict,) = verdicts([choice()], answer_by_name({"Gothic": 0.6, "Comedy": 0.1, "Sea": 0.3}), tmp_path)
    for probabilities in verdict.by_order:
        assert probabilities == pytest.approx((0.6, 0.1, 0.3))


@pytest.mark.parametrize("profile", ["compact", "full"])
def test_the_prompt_shows_of_each_earlier_interaction_title_summary_and_what_was_said(profile, tmp_path):
    template = PromptTemplate.load(PROMPTS, f"alignment_pairs.{profile}.jinja")
    earlier = (past("r1", "creeping fear", "A ghost in an attic."), past("r2", "good jokes", "Three men in a boat."))
    settings = load_settings({}, home=tmp_path, generation={"prompt_profile": profile})
    judge = LanguageModel(settings, engine=ScriptedEngine(lambda prompt: "A"))
    requests = judge_requests([replace(choice(), history=earlier)], {"books": BOOK}, judge, template)
    assert len(requests) == 2
    lines = requests[0].messages[-1].content.splitlines()
    for entry, said in zip(earlier, ("creeping fear", "good jokes"), strict=True):
        (line,) = [line for line in lines if entry.title in line]
        assert said in line and entry.summary in line
    # Everything but the history stands before it, so that prompts of one item share their start.
    assert lines.index(line) > max(number for number, text in enumerate(lines) if "Reader" in text or "reader" in text)


@pytest.mark.parametrize("profile", ["compact", "full"])
@pytest.mark.parametrize(
    "text", ["creeping fear ", "恐ろしい城の物語。", "🦇🏰", "ẞ́x"], ids=["english", "japanese", "emoji", "odd"]
)
@pytest.mark.parametrize("history", [1, 5, 20])
def test_the_longest_texts_fit_the_context_of_the_packaged_model(profile, text, history, home_with_model):
    settings = load_settings({}, home=home_with_model, generation={"prompt_profile": profile, "context_length": 2048})
    judge = LanguageModel(settings)
    long = text * 400
    longest = tuple(Option(f"p{n}", f"{n} {long}", long, long) for n in range(7))
    asked = replace(
        choice(options=longest),
        title=long,
        summary=long,
        history=tuple(replace(past(f"r{n}", long, long), title=long) for n in range(history)),
    )
    template = PromptTemplate.load(PROMPTS, f"alignment_pairs.{profile}.jinja")
    for request in judge_requests([asked], {"books": BOOK}, judge, template):
        length = judge._running().tokenizer.count_prompt(request.messages)
        assert 300 < length < 2048
    assert judge._running().tokenizer.count_prompt(request.messages) + request.max_tokens <= 2048


def test_entropy_is_over_its_highest_value():
    assert normalised_entropy([0.25] * 4) == pytest.approx(1)
    assert normalised_entropy([1.0, 0.0, 0.0]) == 0 == normalised_entropy([1.0])
    assert normalised_entropy([0.5, 0.5, 0, 0]) == pytest.approx(0.5)


# Similarity chooses the first of three options.
SIMILAR = Verdict(choice(), (0.6, 0.3, 0.1), "similarity")


@pytest.mark.parametrize(
    ("by_order", "trusted"),
    [
        pytest.param([(0.1, 0.8, 0.1), (0.2, 0.7, 0.1)], True, id="sure in both orders"),
        pytest.param([(0.1, 0.8, 0.1), (0.1, 0.1, 0.8)], False, id="turns with the order"),
        pytest.param([(0.3, 0.37, 0.33), (0.32, 0.35, 0.33)], False, id="hardly prefers any"),
    ],
)
def test_a_model_that_chose_by_order_or_hardly_at_all_leaves_the_verdict_to_similarity(by_order, trusted):
    averaged = average_orders(np.array(by_order))
    answer = Verdict(choice(), tuple(averaged), "llm", ((0, 1, 2), (2, 1, 0)), tuple(by_order))
    verdict = trusted_verdict(answer, SIMILAR, max_entropy=0.9)
    assert (verdict.source, verdict.best) == (("llm", 1) if trusted else ("similarity", 0))
    assert verdict.by_order == tuple(by_order)  # what the model said stays, to be measured


def test_without_an_answer_similarity_decides():
    assert trusted_verdict(None, SIMILAR, max_entropy=0.9) is SIMILAR
