"""What `status` and `plan` tell, from a home in which something has happened."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from persona4rec_pipeline.cli import app
from persona4rec_pipeline.overview import read_plan, read_status
from persona4rec_pipeline.runner import NIGHTLY, run_stale
from persona4rec_pipeline.settings import load_settings
from persona4rec_tests.reviews.builders import json_lines, review, write

TEXT = "A clever puzzle, and the detective explains every clue at the end."


def settings_at(home, **generation):
    return load_settings({}, home=home, generation={"engine": "extractive", **generation}, incoming={"settle_s": 0})


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A home after its first night; the tests go on from one another, in their order."""
    settings = settings_at(tmp_path_factory.mktemp("home"))
    rows = [review(user, item, day, text=TEXT) for day, item in enumerate(["i1", "i2"]) for user in ("ann", "bob")]
    write(settings.home / "incoming" / "books" / "reviews.jsonl", json_lines(rows))
    run_stale(settings, steps=NIGHTLY)
    return settings


def test_status_tells_what_is_there_and_what_is_arriving(settings):
    write(settings.home / "incoming" / "films" / "reviews.jsonl", json_lines([review()]))
    write(settings.home / "incoming" / "empty" / "notes.txt", "")
    state = read_status(settings)
    (books,) = state.catalogs
    assert (books.counts.reviews, books.counts.items) == (4, 2) and books.personas >= 2
    assert books.out_of_date == {} and books.health.status == "SUCCESS"
    assert not books.health.is_late and books.health.remedy is None
    assert state.arriving["films"] is None and "holds no reviews" in state.arriving["empty"]
    assert set(state.out_of_date) == {
        "alignment_pairs", "candidates", "persona_encoder", "champion_encoder", "evaluation_report",
        "quality_report",
    }  # fmt: skip
    assert state.index.generation == 1 and state.champion.version == "1"


def test_a_changed_source_is_out_of_date_with_the_reason(settings):
    write(settings.home / "incoming" / "books" / "reviews-2.jsonl", json_lines([review("cy", "i1", 8, text=TEXT)]))
    (books,) = read_status(settings).catalogs
    assert books.out_of_date["reviews"] == ("its source files changed",)
    assert read_plan(settings).unread == ["books", "empty", "films"]


def test_a_plan_counts_requests_tokens_and_cost_and_asks_nothing(settings):
    assert read_plan(settings).planned == []
    paid = settings_at(settings.home, engine="vllm", prompt_price=2.0, completion_price=8.0)
    plan = read_plan(paid)
    by_task = {entry.task: entry for entry in plan.planned}
    # Another engine: every train review is read again, every item made again.
    assert by_task["review_aspects"].requests == 4 and by_task["personas"].requests == 2
    aspects = by_task["review_aspects"]
    assert aspects.cost == pytest.approx((aspects.prompt_tokens * 2 + aspects.completion_tokens * 8) / 1e6)
    assert "personas[books]" in plan.steps
    # Two readers of two books each: one choice per reader has an earlier one.
    assert (plan.choices.explained, plan.choices.left_out) == (2, 0)
    with pytest.raises(ValueError, match="no catalogue 'films'"):
        read_plan(settings, ["films"])


def test_the_commands_print_them(settings, monkeypatch):
    monkeypatch.setenv("PERSONA4REC_HOME", str(settings.home))
    monkeypatch.setenv("PERSONA4REC_GENERATION__ENGINE", "extractive")
    monkeypatch.chdir(settings.home)

    def run(*arguments):
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "books" in run("status") and "generation 1" in run("status")
    assert json.loads(run("status", "--json"))["index"]["generation"] == 1
    assert "evaluation_report" in run("plan")
    assert "assets made" in run("backfill", "books")
    assert "generations/000001" in run("rollback-index", "1")
