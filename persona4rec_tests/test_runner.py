"""One process refreshes all catalogues: what arrives is taken in, what fails is left out, what a crash left is ended."""

from __future__ import annotations

import dagster as dg
import pytest

from persona4rec_pipeline.automation import refresh_catalogs
from persona4rec_pipeline.definitions import build_definitions
from persona4rec_pipeline.index import PersonaIndex
from persona4rec_pipeline.runner import (
    NIGHTLY,
    Listener,
    RunFailed,
    dagster_instance,
    run_stale,
)
from persona4rec_pipeline.settings import load_settings
from persona4rec_pipeline.warehouse import open_warehouse
from persona4rec_tests.reviews.builders import json_lines, review, write

PRAISE = [
    "The moor is so bleak and lonely that I shivered with dread.",
    "A clever puzzle, and the detective explains every clue at the end.",
    "I laughed out loud at the witty talk between the two sisters.",
]


def drop(settings, name, users, file="reviews.jsonl"):
    rows = [
        review(user, f"{name}-{place % 3}", day, text=PRAISE[(place + day) % 3])
        for place, user in enumerate(users)
        for day in range(2)
    ]
    return write(settings.home / "incoming" / name / file, json_lines(rows))


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A home in which two catalogues arrived and one night has passed."""
    settings = load_settings(
        {}, home=tmp_path_factory.mktemp("home"), generation={"engine": "extractive"}, incoming={"settle_s": 0}
    )
    drop(settings, "books", ["ann", "bob", "cy"])
    drop(settings, "films", ["ann", "dee"])
    run_stale(settings, steps=NIGHTLY)
    return settings


def test_what_arrived_is_in_the_index_after_one_night_with_the_base_encoder(settings):
    index = PersonaIndex.open(settings.index_path)
    assert (index.generation, index.catalogs) == (1, ("books", "films"))
    assert index.profile_of("ann") is not None


def test_a_night_without_change_makes_nothing(settings):
    before = open_warehouse(settings).path.stat().st_mtime_ns
    assert [outcome.where for outcome in run_stale(settings, steps=NIGHTLY) if outcome.was_stale] == []
    assert open_warehouse(settings).path.stat().st_mtime_ns == before


def test_a_new_review_remakes_its_item_alone_and_one_generation_is_published(settings):
    untouched = "SELECT * FROM personas WHERE item_id <> 'films-2' ORDER BY ALL"
    before = open_warehouse(settings).rows(untouched)
    write(
        settings.home / "incoming" / "films" / "reviews-late.jsonl",
        json_lines([review("eve", "films-2", 9, text="Gorgeous sea storms, and the captain's madness is terrifying.")]),
    )
    made = {outcome.where: outcome.metadata for outcome in run_stale(settings, steps=NIGHTLY) if outcome.was_stale}
    assert made["review_aspects[films]"]["read_now"] == 1
    assert made["personas[films]"]["items_made_now"] == 1
    # The splits of every catalogue are looked at again; that they came out equal stops everything after them.
    assert {where for where in made if "books" in where} <= {"splits[books]"}
    assert open_warehouse(settings).rows(untouched) == before
    index = PersonaIndex.open(settings.index_path)
    assert index.generation == 2 and index.personas_of("films-2")


def test_a_catalogue_that_fails_is_named_and_the_others_are_published(settings):
    drop(settings, "songs", ["fay", "gus"])
    bad = write(settings.home / "incoming" / "broken" / "reviews.jsonl", '{"user_id": "u"}\n')
    notes: list[str] = []
    with pytest.raises(RunFailed, match=r"reviews\[broken\] failed"):
        run_stale(settings, steps=NIGHTLY, listener=Listener(noted=notes.append))
    bad.unlink()
    bad.parent.rmdir()
    assert any("broken" in note for note in notes)
    assert PersonaIndex.open(settings.index_path).catalogs == ("books", "films", "songs")


def test_a_source_that_was_deleted_deletes_nothing_and_is_noted(settings):
    (settings.home / "incoming" / "songs" / "reviews.jsonl").unlink()
    (settings.home / "incoming" / "songs").rmdir()
    notes: list[str] = []
    run_stale(settings, steps=NIGHTLY, listener=Listener(noted=notes.append))
    assert any("songs is kept as it was read last" in note for note in notes)
    assert "songs" in PersonaIndex.open(settings.index_path).catalogs


def test_the_nightly_job_runs_under_dagster_and_tells_what_it_made(settings):
    drop(settings, "books", ["hal"], file="reviews-hal.jsonl")
    job = build_definitions(settings).resolve_job_def(refresh_catalogs.name)
    with dagster_instance(settings) as instance:
        result = job.execute_in_process(instance=instance)
        made = instance.get_runs(dg.RunsFilter(tags={"persona4rec/command": refresh_catalogs.name}))
    assert result.success
    output = next(event for event in result.all_events if event.event_type_value == "STEP_OUTPUT")
    assert output.step_output_data.metadata["catalogs"].value == ["books"]
    assert {run.tags.get("dagster/partition") for run in made} >= {"books"}


def test_a_night_before_the_first_catalogue_says_so_and_does_not_fail(tmp_path):
    settings = load_settings({}, home=tmp_path, generation={"engine": "extractive"})
    job = build_definitions(settings).resolve_job_def(refresh_catalogs.name)
    with dagster_instance(settings) as instance:
        assert job.execute_in_process(instance=instance).success
    notes: list[str] = []
    assert run_stale(settings, listener=Listener(noted=notes.append)) == [] and "No catalogue" in notes[0]
