from persona4rec_pipeline.personas.summaries import (
    ItemFacts,
    check_summary,
    extract_summary,
    item_title,
    known_facts,
    usable_sentences,
)
from persona4rec_tests.personas.builders import BOOK

MATERIAL = "A widow takes over a lighthouse on the coast of Brittany in 1890 and finds old letters. Sea stories."


def facts(**known) -> ItemFacts:
    blank = {"title": None, "description": None, "categories": (), "attributes": None, "review_sentences": ()}
    return ItemFacts(catalog="books", item_id="b1", **(blank | known))


def test_a_summary_is_made_from_the_first_sentences_of_the_description():
    made = extract_summary(facts(title="The Lamp", description=MATERIAL, categories=("Books", "Sea Stories")), BOOK)
    assert made.title == "The Lamp"
    assert made.summary.startswith("A widow takes over a lighthouse")
    assert "Sea Stories" in made.summary


def test_an_item_without_metadata_is_named_after_what_its_reviews_speak_of():
    said = ("The pop filter works.", "A sturdy pop filter for vocals.", "This pop filter stops the noise.")
    made = extract_summary(facts(review_sentences=said), BOOK)
    assert made.title == "Pop filter"
    assert "filter" in made.summary


def test_an_item_of_which_nothing_is_known_says_so():
    assert extract_summary(facts(), BOOK).summary == "A book of which nothing is told yet."
    assert item_title(facts(), BOOK) == "Untitled book"


def test_no_title_contains_an_id():
    assert "b1" not in item_title(facts(), BOOK)


def test_a_generated_summary_may_not_invent_names_or_numbers():
    good = "A widow takes over a lighthouse in Brittany and finds old letters."
    assert check_summary(MATERIAL, "The Lamp", good, BOOK) == (good, None)
    for invented in (
        "A widow named Marie takes over a lighthouse and finds old letters.",
        "A widow takes over a lighthouse in 1920 and finds old letters.",
        "Dragons fight wizards above burning castles while armies march endlessly.",
        "Click https://example.org to read about the widow and her lighthouse.",
        "lighthouse",
    ):
        text, problem = check_summary(MATERIAL, "The Lamp", invented, BOOK)
        assert text is None and problem, invented


def test_every_review_keeps_a_voice_in_the_sample_of_sentences():
    long = " ".join(f"The castle number {n} is dark and cold." for n in range(20))
    chosen = usable_sentences([long, "The jokes are silly and warm."], BOOK, 4)
    assert "The jokes are silly and warm." in chosen and len(chosen) == 4


def test_facts_name_the_author_and_the_last_categories():
    told = known_facts(
        facts(description="A tale.", categories=("Books", "Horror"), attributes='{"author": "Ann Ray"}'), 300
    )
    assert "Author: Ann Ray." in told and "Horror" in told
