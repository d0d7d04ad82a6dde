"""Each asset check passes on what the pipeline made, and fails on the one thing that it is there to find."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import dagster as dg
import pytest

from persona4rec_pipeline.checks import CHECKS
from persona4rec_pipeline.definitions import build_definitions
from persona4rec_pipeline.index import IndexMissing
from persona4rec_pipeline.runner import STEPS, dagster_instance, run_stale
from persona4rec_pipeline.settings import load_settings
from persona4rec_pipeline.warehouse import open_warehouse
from persona4rec_tests.test_pipeline import add_sample

NAMES = [check.check_key.name for check in CHECKS]
# Check -> what to break: statements, each undone by restoring the tables afterwards.
BREAKS = {
    "few_rows_rejected": "INSERT INTO rejected_rows SELECT 'books', 'reviews', 'f', range, 'bad', NULL FROM range(1000)",
    "nothing_later_than_the_held_out_is_train": "UPDATE splits SET split = 'train' WHERE split = 'test'",
    "aspects_come_from_train_reviews": "UPDATE splits SET split = 'test' WHERE split = 'train'",
    "few_answers_unusable": "UPDATE review_aspects SET fallback_reason = 'cut off'",
    "one_to_seven_personas_per_item": "DELETE FROM personas WHERE item_id = (SELECT min(item_id) FROM personas)",
    "evidence_is_train": "UPDATE personas SET evidence_review_ids = ['nowhere']",
    "few_fallbacks": "UPDATE personas SET fallback_reason = 'rejected'",
    "pairs_come_from_train_interactions": "UPDATE splits SET split = 'valid' WHERE split = 'train'",
    "persona_vectors_are_complete": "UPDATE persona_vectors SET encoder = 'another'",
    "interaction_vectors_are_train": "UPDATE interaction_vectors SET vector = list_transform(vector, lambda x: x * 2)",
    "item_vectors_are_complete": "DELETE FROM item_vectors WHERE item_id = (SELECT min(item_id) FROM item_vectors)",
    "candidates_are_unseen_and_known": "UPDATE candidates SET rank = 100, item_id = (SELECT catalog || '/' || item_id "
    "FROM reviews JOIN splits USING (catalog, review_id) WHERE split = 'train' AND reviews.user_id = candidates.user_id "
    "LIMIT 1) WHERE rank = 1",
    "index_equals_the_warehouse": "DELETE FROM personas WHERE item_id = (SELECT min(item_id) FROM personas)",
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    settings = load_settings(
        {},
        home=tmp_path_factory.mktemp("home"),
        generation={"engine": "extractive"},
        splits={"panel_fraction": 0.5},
    )
    add_sample(settings, "books", limit_items=6)
    run_stale(settings)
    return settings


def evaluate(settings, name: str) -> dg.AssetCheckResult:
    """Call the function of one check for the catalogue `books`; Dagster runs a partitioned one only with its asset."""
    check = next(check for check in CHECKS if check.check_key.name == name)
    function = check.op.compute_fn.decorated_fn
    resources = build_definitions(settings).resources
    wanted = list(inspect.signature(function).parameters)[1:]
    return function(SimpleNamespace(partition_key="books"), **{name: resources[name] for name in wanted})


def test_all_checks_ran_with_their_assets_and_passed(settings):
    passed = {}
    with dagster_instance(settings) as instance:
        for check in CHECKS:
            latest = instance.event_log_storage.get_latest_asset_check_execution_by_key([check.check_key])
            passed[check.check_key.name] = latest[check.check_key].status.value
    assert passed == dict.fromkeys(NAMES, "SUCCEEDED")


@pytest.mark.parametrize("name", sorted(BREAKS))
def test_a_check_fails_on_what_it_is_there_to_find(settings, name):
    warehouse = open_warehouse(settings)
    whole = warehouse.path.read_bytes()
    try:
        with warehouse.write() as connection:
            connection.execute(BREAKS[name])
        assert not evaluate(settings, name).passed
    finally:
        warehouse.path.write_bytes(whole)
    assert evaluate(settings, name).passed


def test_the_index_check_fails_when_there_is_nothing_to_answer_with(settings):
    aside = settings.index_path.with_name("aside")
    settings.index_path.rename(aside)
    try:
        with pytest.raises(IndexMissing):
            evaluate(settings, "index_answers")
    finally:
        aside.rename(settings.index_path)
    assert evaluate(settings, "index_answers").passed


def test_every_asset_of_the_story_has_a_check():
    checked = {check.check_key.asset_key.to_user_string() for check in CHECKS}
    unchecked = {asset for step in STEPS for asset in step} - checked
    assert unchecked == {
        "items", "item_summaries", "persona_encoder", "champion_encoder", "evaluation_report", "quality_report",
    }  # fmt: skip
