"""The sensor over the watched location and the schedules, called as the daemon calls them."""

import dagster as dg
import pytest

from persona4rec_pipeline.automation import build_schedules, build_sensors
from persona4rec_pipeline.definitions import build_definitions
from persona4rec_pipeline.reviews.incoming import IncomingUnreadable
from persona4rec_pipeline.runner import NIGHTLY, STEPS, WEEKLY
from persona4rec_pipeline.settings import load_settings
from persona4rec_pipeline.warehouse import open_warehouse
from persona4rec_tests.reviews.builders import json_lines, review, write


@pytest.fixture
def instance():
    with dg.instance_for_test() as instance:
        yield instance


def as_resources(settings):
    return {"warehouse": dg.ResourceDefinition.hardcoded_resource(open_warehouse(settings))}


def tick(settings, instance, cursor=None):
    """What the daemon would get of one look: run requests, partition requests, skip message, cursor."""
    sensor = next(sensor for sensor in build_sensors(settings) if sensor.name == "new_catalogs")
    # With a reference to the instance and not only the instance, as in the daemon: partitions are looked up through it.
    context = dg.SensorEvaluationContext(
        instance_ref=instance.get_ref(),
        last_tick_completion_time=None,
        last_run_key=None,
        cursor=cursor,
        log_key=None,
        repository_name=None,
        repository_def=build_definitions(settings).get_repository_def(),
        instance=instance,
        resources=as_resources(settings),
    )
    answer = sensor.evaluate_tick(context)
    return answer, answer.cursor


def settings_at(tmp_path, **incoming):
    return load_settings({}, home=tmp_path, incoming={"settle_s": 0, **incoming})


def drop(settings, name, user="ann"):
    return write(settings.home / "incoming" / name / "reviews.jsonl", json_lines([review(user)]))


def test_a_new_folder_becomes_a_partition_and_its_run_in_one_tick(tmp_path, instance):
    settings = settings_at(tmp_path)
    drop(settings, "books")
    answer, _ = tick(settings, instance)
    assert [request.partition_key for request in answer.run_requests] == ["books"]
    assert [request.partition_keys for request in answer.dynamic_partitions_requests] == [["books"]]


def test_the_same_state_asks_for_the_same_run_and_a_changed_file_for_another(tmp_path, instance):
    settings = settings_at(tmp_path)
    drop(settings, "books")
    first, cursor = tick(settings, instance)
    again, cursor = tick(settings, instance, cursor)
    drop(settings, "books", user="somebody else")
    changed, _ = tick(settings, instance, cursor)
    keys = [answer.run_requests[0].run_key for answer in (first, again, changed)]
    assert keys[0] == keys[1] != keys[2]


def test_a_registered_partition_is_not_registered_again(tmp_path, instance):
    settings = settings_at(tmp_path)
    instance.add_dynamic_partitions("catalog", ["books"])
    drop(settings, "books")
    answer, _ = tick(settings, instance)
    assert answer.run_requests and not answer.dynamic_partitions_requests


def test_a_folder_that_is_still_written_to_waits(tmp_path, instance):
    settings = settings_at(tmp_path, settle_s=3600)
    drop(settings, "books")
    answer, cursor = tick(settings, instance)
    assert not answer.run_requests and "stayed the same" in answer.skip_message
    assert "books" in cursor


def test_with_a_marker_configured_a_folder_waits_for_it_and_for_nothing_else(tmp_path, instance):
    settings = settings_at(tmp_path, settle_s=3600, success_marker="_SUCCESS")
    path = drop(settings, "books")
    answer, cursor = tick(settings, instance)
    assert not answer.run_requests and "_SUCCESS" in answer.skip_message
    write(path.parent / "_SUCCESS", "")
    answer, _ = tick(settings, instance, cursor)
    assert answer.run_requests


def test_a_badly_named_folder_is_told_and_the_others_go_on(tmp_path, instance):
    settings = settings_at(tmp_path)
    drop(settings, "Bad Name")
    drop(settings, "books")
    answer, _ = tick(settings, instance)
    assert [request.partition_key for request in answer.run_requests] == ["books"]


def test_an_unreadable_location_fails_the_tick(tmp_path, instance):
    settings = settings_at(tmp_path, location=str(tmp_path / "nowhere"))
    with pytest.raises(IncomingUnreadable):
        tick(settings, instance)


def test_the_schedules_follow_the_settings_and_can_be_off(tmp_path):
    settings = load_settings({}, home=tmp_path, schedules={"nightly": "5 1 * * *", "timezone": "Europe/Berlin"})
    nightly, weekly, inventory = build_schedules(settings)
    assert inventory.cron_schedule == "0 7 * * *"
    assert (nightly.name, nightly.cron_schedule, nightly.execution_timezone) == (
        "nightly_persona_refresh",
        "5 1 * * *",
        "Europe/Berlin",
    )
    assert weekly.default_status == dg.DefaultScheduleStatus.RUNNING
    off = build_schedules(load_settings({}, home=tmp_path, schedules={"running": False}))
    assert {schedule.default_status for schedule in off} == {dg.DefaultScheduleStatus.STOPPED}


def test_night_and_week_together_are_the_whole_story_in_its_order():
    told = [step for step in STEPS if step in NIGHTLY or step in WEEKLY]
    assert tuple(told) == STEPS
    assert "persona_index" in NIGHTLY[-1]
    assert WEEKLY[2:4] == (("persona_encoder",), ("champion_encoder",))


def test_every_job_says_when_to_use_it(tmp_path):
    definitions = build_definitions(load_settings({}, home=tmp_path))
    jobs = [
        definitions.resolve_job_def(name)
        for name in ("refresh_catalog", "refresh_catalogs", "train_encoder", "publish_index")
    ]
    assert all("Use it" in job.description or "start it by hand" in job.description for job in jobs)
