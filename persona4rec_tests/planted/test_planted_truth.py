"""Personas and pairs of the whole sample against what was planted in it, without a language model."""

import pytest

from persona4rec_pipeline.catalogs import add_catalog
from persona4rec_pipeline.runner import STEPS, run_stale
from persona4rec_pipeline.sample import sample_path
from persona4rec_pipeline.settings import load_settings
from persona4rec_pipeline.warehouse import open_warehouse
from persona4rec_tests.planted.alignment_accuracy import alignment_accuracy
from persona4rec_tests.planted.persona_accuracy import persona_accuracy


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory):
    """The sample of books from its reviews to its pairs."""
    settings = load_settings({}, home=tmp_path_factory.mktemp("home"), generation={"engine": "extractive"})
    folder = sample_path("books")
    add_catalog(settings, "books", str(folder / "reviews.jsonl"), str(folder / "items.jsonl"))
    run_stale(settings, steps=STEPS[:4])
    return open_warehouse(settings)


def test_personas_tell_the_planted_motives_far_better_than_chance(warehouse):
    found = persona_accuracy(warehouse)
    assert found.made.recall >= 0.80
    assert found.made.precision >= 0.80
    assert found.by_lot.recall < 0.25 and found.by_lot.precision < 0.25
    assert found.single.recall < 0.25


def test_the_judge_finds_the_planted_motive_at_least_twice_as_often_as_chance(warehouse):
    found = alignment_accuracy(warehouse)
    # Not even a judge who knows the motives of the history can do better than `oracle`: people change their minds.
    assert found.accuracy >= 0.75
    assert found.accuracy >= 2 * found.random
    assert found.accuracy >= 0.9 * found.oracle


def test_the_evidence_of_a_persona_stands_where_it_says(warehouse):
    rows = warehouse.rows(
        """SELECT personas.item_id, reviews.item_id, text, span."start", span."end"
           FROM (SELECT *, unnest(evidence_spans) AS span FROM personas) AS personas
           JOIN reviews ON reviews.review_id = span.review_id"""
    )
    assert len(rows) > 300
    for item_id, of_review, text, start, end in rows:
        assert item_id == of_review and 0 <= start < end <= len(text)
        assert text[start:end] == text[start:end].strip()


def test_names_are_not_those_of_half_the_catalogue(warehouse):
    rows = warehouse.rows("SELECT count(DISTINCT item_id) FROM personas GROUP BY name")
    items = warehouse.rows("SELECT count(DISTINCT item_id) FROM personas")[0][0]
    assert max(count for (count,) in rows) < items / 2


def test_the_language_of_every_review_is_known_where_it_is_long_enough(warehouse):
    counts = dict(warehouse.rows("SELECT language, count(*) FROM review_aspects GROUP BY language"))
    assert counts["en"] > 450 and {"es", "de", "it"} & set(counts)
