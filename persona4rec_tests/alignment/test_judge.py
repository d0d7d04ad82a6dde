import pytest

from persona4rec_pipeline.alignment.judge import (
    Choice,
    Option,
    PastInteraction,
    judge_by_model,
    judge_by_similarity,
)
from persona4rec_pipeline.generation import LanguageModel, PromptTemplate
from persona4rec_pipeline.generation.engine import Answer
from persona4rec_pipeline.settings import load_settings
from persona4rec_tests.generation.scripted import ScriptedEngine
from persona4rec_tests.personas.builders import BOOK, embed_words

PROMPTS = "persona4rec_pipeline.alignment.prompts"
TEMPLATE = PromptTemplate.load(PROMPTS, "alignment_pairs.compact.jinja")
DREAD = Option("dread", "Gothic dread reader", "This reader looks for castles and creeping fear.", "For the fear.")
JOKES = Option("jokes", "Comedy reader", "This reader looks for silly jokes.", "For the jokes.")
SEA = Option("sea", "Sea story reader", "This reader looks for ships and storms.", "For the storms.")


def past(review_id: str, said: str) -> PastInteraction:
    return PastInteraction(review_id, f"Book {review_id}", "A book.", {"quality_criteria": said})


def choice(review_id="r9", options=(DREAD, JOKES, SEA), said="creeping fear in a castle") -> Choice:
    return Choice("books", review_id, "u1", "ITEM-77", "Dracula", "A count.", (past("r1", said),), tuple(options))


def model(script, tmp_path) -> LanguageModel:
    return LanguageModel(load_settings({}, home=tmp_path), engine=ScriptedEngine(script))


def verdicts(choices, script, tmp_path):
    with model(script, tmp_path) as judge:
        return list(judge_by_model(choices, {"books": BOOK}, judge, TEMPLATE))


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


def test_similarity_picks_the_persona_that_shares_the_words_of_the_history():
    (verdict,) = judge_by_similarity([choice(said="ships and storms at sea, story")], embed_words, 0.9)
    assert verdict.choice.options[verdict.best].persona_id == "sea"
    assert sum(verdict.probabilities) == pytest.approx(1)
