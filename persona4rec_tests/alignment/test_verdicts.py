"""What a judge said in its own words. All answers are invented."""

import pytest

from persona4rec_pipeline.alignment.verdicts import VerdictOption, read_verdict

OPTIONS = [
    VerdictOption("B00X_P1", "The Storm Reader"),
    VerdictOption("B00X_P2", "Casual Reader"),
    VerdictOption("B00X_P3", "The Sea Story Lover"),
]


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        ("The user likes ships.\n\n**Selection:** 3. B00X_P3", 2),
        ("Reasoning: of P1, P2 and P3 the first is close. Selection: 2. B00X_P2", 1),
        ("Answer: B.", 1),
        ("The answer is B.", 1),
        ("B", 1),
        ("(C)", 2),
        ("c)", 2),
        ("2", 1),
        ("P3", 2),
        ("b00x_p3", 2),
        ("Option A", 0),
        ("A) The Storm Reader", 0),
        ("I would choose C, because the user loves ships.", 2),
        ("My choice: Casual Reader", 1),
        ("The Sea Story Lover", 2),
        ("The sea story lover fits this user best.", 2),
        ("They would not like storms; it is the Casual Reader that explains it.", 1),
        ("Selection: not A but rather B00X_P2", 1),
        ("Selection: B00X_P2 rather than B00X_P1", 1),
        ("I considered several.\nThe final answer is **B**", 1),
        ("Let me think.\n\nB", 1),
        ("Option B is the best fit.", 1),
    ],
)
def test_the_option_that_an_answer_settles_on_is_read(answer, place):
    assert read_verdict(answer, OPTIONS) == place


def test_the_last_stated_selection_wins():
    assert read_verdict("Selection: 1. B00X_P1\nOn second thought...\nSelection: 3. B00X_P3", OPTIONS) == 2


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I cannot tell.",
        "Selection: 2. B00X_P3",
        "Answer: A or B",
        "Answer: 9",
        "Selection: 2. OTHER_P2",
        "Both The Storm Reader and The Sea Story Lover fit.",
        "A reader who likes storms would enjoy this.",
        "The answer is 2 reasons long.",
        "B00X_P12",
    ],
)
def test_what_is_not_certain_is_no_verdict(answer):
    assert read_verdict(answer, OPTIONS) is None


def test_a_number_may_be_that_of_the_id_where_only_some_personas_are_options():
    some = [OPTIONS[0], OPTIONS[2]]
    assert read_verdict("Selection: 3. B00X_P3", some) == 1
    assert read_verdict("Selection: 2. B00X_P3", some) == 1


def test_options_called_by_number_alone_are_found_behind_the_id_of_the_item():
    assert read_verdict("Selection: 2. -0x_Y_P2", [VerdictOption("P1"), VerdictOption("P2")]) == 1


def test_a_name_within_a_longer_name_is_not_that_name():
    options = [VerdictOption("P1", "Reader"), VerdictOption("P2", "Casual Reader")]
    assert read_verdict("It is the Casual Reader.", options) == 1


def test_a_name_that_two_personas_share_names_neither():
    assert read_verdict("Selection: Reader", [VerdictOption("P1", "Reader"), VerdictOption("P2", "Reader")]) is None
