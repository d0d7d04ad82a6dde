"""What a persona or a sentence says by its wording alone. All texts are invented."""

import subprocess
import sys

import pytest

from persona4rec_pipeline.personas.polarity import sentence_stance, stated_polarity


@pytest.mark.parametrize(
    ("name", "description", "rationale"),
    [
        (
            "Frustrated Lunch Guest",
            "This diner looks for a quick lunch but is often disappointed by slow service.",
            "Their visit is defined by a cold soup and a long wait.",
        ),
        (
            "Weekend Brunch Friend",
            "This persona enjoys brunch with friends and values fresh food.",
            "This persona's experience at this restaurant is defined by their disappointment with the soggy waffles.",
        ),
        (
            "Pacing Critic",
            "This reader values novels that move along.",
            "This persona appreciates this item because they criticize it for being slow and repetitive.",
        ),
        (
            "Castle story reader",
            "This reader is put off by wooden dialogue.",
            "They do not take to The Grey Keep because of its flat characters.",
        ),
        (
            "Let-down Vegan",
            "This diner hopes for good vegan dishes and is let down by bland ones.",
            "They were let down by the tofu and would not return.",
        ),
    ],
)
def test_a_persona_put_off_by_this_item_is_critical_whatever_it_claims(name, description, rationale):
    assert stated_polarity(name, description, rationale) == "critical"


@pytest.mark.parametrize(
    ("name", "description", "rationale"),
    [
        (
            "Quiet corner reader",
            "This guest dislikes crowded places and loves the quiet here.",
            "They take to the cafe for its calm back room.",
        ),
        (
            "Slow burn lover",
            "This reader enjoys a slow burn full of dread, murder and grief.",
            "They appreciate this book for its dark mood.",
        ),
        (
            "Family Diner",
            "This diner looks for a place where children are welcome.",
            "They enjoyed the generous plates and the friendly staff.",
        ),
        (
            "Loyal Soup Lover",
            "This guest comes every week and is never disappointed.",
            "They praise the soup, which did not disappoint.",
        ),
        ("Sea story reader", "This reader looks for ships.", "They take to it for the storms."),
    ],
)
def test_general_dislikes_dark_themes_and_denied_complaints_do_not_make_a_persona_critical(
    name, description, rationale
):
    assert stated_polarity(name, description, rationale) == "appreciative"


@pytest.mark.parametrize(
    "rationale",
    [
        "They loved the garden but were disappointed by the slow kitchen.",
        "They value the story but are critical of the stilted dialogue.",
    ],
)
def test_praise_that_a_complaint_follows_is_mixed(rationale):
    assert stated_polarity("Garden visitor", "This guest looks for an evening outside.", rationale) == "mixed"


def test_being_of_two_minds_is_mixed():
    rationale = "They are of two minds about The Lake when it comes to mood."
    assert stated_polarity("Undecided mood viewer", "This viewer looks for mood.", rationale) == "mixed"


def test_a_habit_of_judging_is_not_yet_a_judgement_of_this_item():
    description = "This diner can be critical if the portions are small."
    assert stated_polarity("Food Critic", description, "They came for lunch with a colleague.") != "critical"


@pytest.mark.parametrize(
    "sentence",
    [
        "I could not put it down.",
        "Couldn’t stop laughing from start to finish.",
        "It did not disappoint.",
        "Not bad at all!",
        "Works exactly as described.",
        "A murder mystery that kept me guessing.",
        "Although the start is slow, the ending is wonderful.",
        "The pedal sounds great and is worth every penny.",
    ],
)
def test_praise_is_heard_whatever_its_words(sentence):
    assert sentence_stance(sentence) > 0.2


@pytest.mark.parametrize(
    "sentence",
    [
        "It put me to sleep.",
        "I wanted to like it.",
        "Hardly a masterpiece.",
        "It is not funny and never exciting.",
        "Two hours of speeches. How thrilling.",
        "Yet another brave widow with a bakery.",
        "If you enjoy watching paint dry, be my guest.",
        "If you like boring lectures, this is for you.",
        'The "comedy" lasts two hours.',
        "The cable stopped working.",
        "About as much fun as a root canal.",
        "I have seen better acting at a school play.",
        "Although the cast is wonderful, it never comes to life and drags.",
    ],
)
def test_complaints_denied_praise_and_plain_irony_are_heard(sentence):
    assert sentence_stance(sentence) < -0.2


@pytest.mark.parametrize("sentence", ["", "The story takes place in Norway.", "I bought it in May."])
def test_what_does_not_judge_has_no_stance(sentence):
    assert abs(sentence_stance(sentence)) < 0.1


def test_the_stance_stays_within_one():
    assert sentence_stance("Boring, tedious, bland, a waste of time, and it put me to sleep. " * 5) == -1
    assert sentence_stance("Could not put it down, a page-turner, a must-read, worth every cent, blew me away!") == 1


def test_importing_loads_no_lexicon():
    code = (
        "import persona4rec_pipeline.personas.polarity as p; assert p._vader.cache_info().currsize == 0; "
        "p.sentence_stance('good'); assert p._vader.cache_info().currsize == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
