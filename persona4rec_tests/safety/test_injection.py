"""Hostile reviews and metadata through the real assets: nothing of them is published, and no item is lost."""

from __future__ import annotations

import json

import pytest

from persona4rec_pipeline.runner import NIGHTLY, run_stale
from persona4rec_pipeline.settings import Settings, load_settings
from persona4rec_pipeline.warehouse import open_warehouse
from persona4rec_tests.safety.catalogue import (
    ONLY_HOSTILE,
    add_hostile_catalogue,
    hostile,
    items_without_persona,
    problems,
    problems_of_the_index,
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    """A state directory in which the hostile catalogue was made by rules and published."""
    home = tmp_path_factory.mktemp("home")
    settings = load_settings({}, home=home, generation={"engine": "extractive"}, splits={"panel_fraction": 0.0})
    add_hostile_catalogue(settings, home)
    run_stale(settings, steps=NIGHTLY)
    return settings


def test_the_corpus_is_large_and_varied():
    reviews, items = hostile("reviews"), hostile("items")
    assert len(reviews) >= 40 and len({entry["technique"] for entry in reviews}) >= 25 and len(items) >= 5
    assert all(entry["must_not_appear"] for entry in [*reviews, *items])


def test_nothing_of_a_hostile_review_or_item_is_published_by_rules(settings):
    assert problems(settings) == []
    assert problems_of_the_index(settings) == []


def test_every_item_keeps_a_persona_even_one_with_hostile_reviews_alone(settings):
    assert items_without_persona(settings) == []
    personas = open_warehouse(settings).rows(
        "SELECT source, evidence_review_ids FROM personas WHERE item_id = ?", [ONLY_HOSTILE]
    )
    assert personas == [("summary", [])]


def test_honest_reviews_are_still_heard(settings):
    rows = open_warehouse(settings).rows(
        "SELECT count(*), count(*) FILTER (WHERE len(quotes) > 0) FROM personas WHERE source = 'extractive'"
    )
    assert rows[0][0] >= 10 and rows[0][0] == rows[0][1]


@pytest.mark.vllm
@pytest.mark.timeout(400)
def test_nothing_of_a_hostile_review_or_item_is_published_by_a_real_model(home_with_model, tmp_path):
    (tmp_path / "models").symlink_to(home_with_model / "models")
    settings = load_settings(
        {},
        home=tmp_path,
        generation={"engine": "vllm", "cpu_threads": 1, "kv_cache_gib": 1},
        splits={"panel_fraction": 0.0},
    )
    add_hostile_catalogue(settings, tmp_path)
    run_stale(settings, steps=NIGHTLY)
    used = open_warehouse(settings).rows("SELECT count(*) FROM review_aspects WHERE source = 'llm'")[0][0]
    assert used >= 10, "the model's answers were not used, so this test would prove nothing"
    assert problems(settings) == []
    assert problems_of_the_index(settings) == []
    assert items_without_persona(settings) == []


def test_the_files_of_the_corpus_are_one_json_object_per_line():
    for kind in ("reviews", "items"):
        for entry in hostile(kind):
            assert json.loads(json.dumps(entry)) == entry and entry["id"]
