"""The texts that the encoder reads."""

import math
import subprocess
import sys

import pytest

from persona4rec_pipeline.encoder.texts import ASPECT_SLOTS, interaction_text, persona_text, summary_text, text_hash
from persona4rec_pipeline.personas.aspects import SLOTS

ASPECTS = {
    "category_preference": "cosy village mysteries",
    "purchase_purpose": "for a long flight",
    "quality_criteria": "an ending that surprises",
    "usage_context": "late at night",
}


def test_the_users_own_words_come_first_then_the_item():
    text = interaction_text("The Quiet House", "A vicar finds a body.", ASPECTS)
    places = [text.index(value) for value in ASPECTS.values()]
    assert places == sorted(places)
    assert places[-1] < text.index("The Quiet House") < text.index("A vicar finds a body.")


@pytest.mark.parametrize(
    "nothing",
    [None, math.nan, "", "  ", "null", "None", "N/A", "n/a.", "not specified", "The user does not state a purpose."],
)
def test_an_empty_slot_leaves_no_trace(nothing):
    with_nothing = interaction_text(
        "Dune", "A desert planet.", {"purchase_purpose": nothing, "usage_context": "on a train"}
    )
    assert with_nothing == interaction_text("Dune", "A desert planet.", {"usage_context": "on a train"})
    assert "null" not in with_nothing.lower() and "none" not in with_nothing.lower()


def test_of_a_slot_that_is_silent_in_part_only_what_it_states_is_encoded():
    slots = {"quality_criteria": "the reader does not state why, but it was a gift"}
    assert interaction_text("Dune", "", slots) == "it was a gift. Dune."


def test_words_that_only_begin_like_nothing_are_kept():
    text = interaction_text(
        "Dune", "", {"quality_criteria": "none of the usual clichés", "usage_context": "Nancy's birthday"}
    )
    assert "none of the usual clichés" in text and "Nancy's birthday" in text


def test_an_interaction_without_aspects_reads_as_the_item_alone():
    assert interaction_text("Dune", "A desert planet.", {}) == summary_text("Dune", "A desert planet.")


def test_a_title_that_opens_the_summary_is_said_once():
    assert summary_text("Dune", "Dune is about a desert planet") == "Dune is about a desert planet."


def test_equal_slots_are_said_once_and_line_breaks_become_spaces():
    text = interaction_text("Dune", "Sand.\n\nSpice.", dict.fromkeys(ASPECT_SLOTS, "big worlds"))
    assert text == "big worlds. Dune. Sand. Spice."


def test_a_persona_reads_name_description_rationale():
    assert persona_text("The Planner", "Plans trips.", "Liked the maps") == "The Planner. Plans trips. Liked the maps."


def test_the_hash_follows_the_text():
    assert text_hash("a") == text_hash("a") != text_hash("b")
    assert len(text_hash("a")) == 16


def test_the_slots_are_those_that_aspects_have():
    assert ASPECT_SLOTS == SLOTS


def test_neither_texts_nor_the_encoder_module_import_torch_before_it_is_needed():
    code = (
        "import sys, persona4rec_pipeline.encoder.texts, persona4rec_pipeline.embedding; "
        "assert not {'torch', 'transformers', 'sentence_transformers', 'dagster', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
