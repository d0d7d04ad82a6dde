"""How first tokens become probabilities of choices."""

from __future__ import annotations

import math

import pytest

from persona4rec_pipeline.generation.engine import choice_begun_by, choice_probabilities, prefixes


def test_probabilities_of_choices_sum_to_one_and_ignore_what_begins_none():
    found = choice_probabilities(("A", "B", "C"), [("A", math.log(0.2)), ("B", math.log(0.6)), ("no", 0.0), ("", 0.0)])
    assert found == pytest.approx({"A": 0.25, "B": 0.75, "C": 0.0})


def test_every_beginning_of_a_choice_counts_for_it():
    tokens = [("po", math.log(0.1)), ("positive", math.log(0.2)), ("n", math.log(0.3)), ("pot", math.log(0.4))]
    assert choice_probabilities(("positive", "negative"), tokens) == pytest.approx({"positive": 0.5, "negative": 0.5})


def test_a_masked_candidate_has_no_probability():
    assert choice_probabilities(("A", "B"), [("A", -math.inf), ("B", -3.0)]) == {"A": 0.0, "B": 1.0}


def test_choices_that_share_a_first_character_have_no_probabilities():
    assert choice_probabilities(("1", "10"), [("1", 0.0)]) is None
    assert choice_probabilities(("A", "B"), []) is None


def test_a_first_token_names_its_choice_only_when_it_decides():
    assert choice_begun_by(("positive", "negative"), "po") == "positive"
    assert choice_begun_by(("1", "10"), "1") == "1"
    assert choice_begun_by(("ab", "ac"), "a") == "a"
    assert choice_begun_by(("A", "B"), "") == ""


def test_prefixes_are_all_beginnings():
    assert prefixes(("ab", "ac")) == {"a", "ab", "ac"}
