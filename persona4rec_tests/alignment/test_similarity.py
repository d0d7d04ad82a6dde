"""The judge without a language model."""

from dataclasses import replace

import pytest

from persona4rec_pipeline.alignment.judge import Option
from persona4rec_pipeline.alignment.similarity import judge_by_similarity, reviews_to_read
from persona4rec_tests.alignment.builders import DREAD, JOKES, SEA, choice, past
from persona4rec_tests.personas.builders import embed_words

STRANGER = Option("stranger", "Some reader", "This reader looks for something.", "")


def chosen(asked, reviews=None, decay=0.9):
    (verdict,) = judge_by_similarity([asked], reviews or {}, embed_words, decay)
    assert sum(verdict.probabilities) == pytest.approx(1)
    return verdict.choice.options[verdict.best].persona_id


def test_similarity_picks_the_persona_that_shares_the_words_of_the_history():
    assert chosen(choice(said="ships and storms at sea, story")) == "sea"


def test_what_other_reviewers_say_tells_of_a_persona_whose_name_says_nothing():
    spoken_for = replace(STRANGER, voices=("v1", "v2"))
    reviews = {"r1": "Whales and harpoons.", "v1": "All those whales!", "v2": "The harpoons kept me awake."}
    assert chosen(choice(options=(DREAD, JOKES, spoken_for)), reviews) == "stranger"


def test_the_review_counts_and_not_the_one_aspect_that_was_taken_from_it():
    asked = choice(said="silly jokes")
    assert chosen(asked) == "jokes"
    assert chosen(asked, {"r1": "Ships and storms and ships again. Storms at sea. One silly joke."}) == "sea"


def test_an_earlier_review_is_made_clearer_by_those_that_speak_for_the_same_persona():
    unclear = replace(choice(), history=(replace(past("r1", ""), kin=("k1", "r1")),))
    reviews = {"r1": "Nice.", "k1": "Ships and storms. A sea story."}
    assert chosen(unclear, reviews) == "sea"


def test_the_quotes_of_a_persona_are_not_read_as_one_may_be_the_users_own():
    quoting = replace(
        JOKES, description=f"{JOKES.description} What they say: “creeping fear in a castle”", persona_id="q"
    )
    assert chosen(choice(options=(quoting, DREAD))) == "dread"


def test_the_more_recent_of_two_tastes_weighs_more():
    two = (past("r1", "ships and storms", ""), past("r2", "castles and creeping fear", ""))
    assert chosen(replace(choice(), history=two), decay=0.3) == "sea"
    assert chosen(replace(choice(), history=two[::-1]), decay=0.3) == "dread"


def test_of_two_equal_personas_the_one_with_more_voices_is_likelier():
    many, few = (
        replace(SEA, persona_id=name, voices=voices) for name, voices in (("many", ("v1", "v2")), ("few", ("v3",)))
    )
    said = "Ships and storms."
    assert chosen(choice(options=(few, many)), {"r1": said, "v1": said, "v2": said, "v3": said}) == "many"


def test_only_reviews_that_are_compared_are_asked_for():
    asked = replace(choice(options=(replace(SEA, voices=("v1",)),)), history=(replace(past("r1", ""), kin=("k1",)),))
    assert reviews_to_read([asked]) == {"r1", "k1", "v1"}


def test_nothing_to_judge_is_no_verdict():
    assert judge_by_similarity([], {}, embed_words, 0.9) == []
