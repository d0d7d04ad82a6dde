"""What the daily inventory says of catalogues that fare well, whose run failed, and that nobody has looked at."""

from __future__ import annotations

import dagster as dg
import pytest

from persona4rec_pipeline.checks import every_catalog_is_current
from persona4rec_pipeline.definitions import build_definitions
from persona4rec_pipeline.inventory import note_looked_at, take_inventory
from persona4rec_pipeline.overview import read_status
from persona4rec_pipeline.runner import NIGHTLY, RunFailed, dagster_instance, run_stale
from persona4rec_pipeline.settings import load_settings
from persona4rec_tests.reviews.builders import json_lines, review, write

TEXT = "A clever puzzle, and the detective explains every clue at the end."


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A home in which `books` fares well, and the last refresh of `films` has failed."""
    settings = load_settings(
        {}, home=tmp_path_factory.mktemp("home"), generation={"engine": "extractive"}, incoming={"settle_s": 0}
    )
    for name in ("books", "films"):
        rows = [review(user, item, day, text=TEXT) for day, item in enumerate(["i1", "i2"]) for user in ("ann", "bob")]
        write(settings.home / "incoming" / name / "reviews.jsonl", json_lines(rows))
    run_stale(settings, steps=NIGHTLY)
    write(settings.home / "incoming" / "films" / "reviews-bad.jsonl", '{"user_id": "u"}\n' * 5)
    with pytest.raises(RunFailed):
        run_stale(settings, steps=NIGHTLY)
    return settings


def test_a_catalogue_whose_last_run_failed_is_named_with_reason_and_remedy(settings):
    with dagster_instance(settings) as instance:
        books, films = take_inventory(instance, ["books", "films"], 26)
    assert (books.status, books.is_late, books.problem, books.remedy) == ("SUCCESS", False, None, None)
    assert films.status == "FAILURE" and "reviews-bad.jsonl" in films.problem and "backfill films" in films.remedy
    assert films.problem.startswith(f"reviews: {settings.home}"), "its own words, not those of what lies behind it"


def test_a_catalogue_that_was_found_up_to_date_is_not_late_and_one_never_looked_at_is(settings):
    with dagster_instance(settings) as instance:
        (before,) = take_inventory(instance, ["books"], 26)
        note_looked_at(instance, "books")
        (after,) = take_inventory(instance, ["books"], 26)
        late, unknown = take_inventory(instance, ["books", "songs"], 1e-9)
    assert after.looked_at > before.looked_at and not after.is_late
    assert late.is_late and "nightly_persona_refresh" in late.remedy
    assert unknown.is_late and unknown.looked_at is None and unknown.status is None


def test_the_job_of_the_daily_inventory_runs_the_check_alone_and_it_fails_with_the_names(settings):
    job = build_definitions(settings).resolve_job_def("daily_inventory")
    with dagster_instance(settings) as instance:
        result = job.execute_in_process(instance=instance)
    assert result.success and result.get_asset_materialization_events() == []
    (evaluation,) = result.get_asset_check_evaluations()
    assert evaluation.check_name == every_catalog_is_current.check_key.name
    assert not evaluation.passed and evaluation.severity == dg.AssetCheckSeverity.ERROR
    assert evaluation.metadata["last_run_failed"].value == "films"
    assert "persona4rec backfill films" in evaluation.metadata["inventory"].value


def test_status_tells_it_too(settings):
    healths = {entry.counts.catalog.name: entry.health for entry in read_status(settings).catalogs}
    assert healths["films"].problem is not None and healths["books"].problem is None
