"""A forgotten user is in no table, ledger row, log or index file, and does not come back with the next ingest."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime

import pytest

from persona4rec_pipeline.forgetting import forget_user
from persona4rec_pipeline.index import PersonaIndex
from persona4rec_pipeline.interactions import Interaction, InteractionQueue
from persona4rec_pipeline.runner import NIGHTLY, Listener, run_stale
from persona4rec_pipeline.settings import load_settings
from persona4rec_pipeline.warehouse import open_warehouse
from persona4rec_tests.reviews.builders import json_lines, review, write
from persona4rec_tests.traces import files_that_hold

TELLING = "Quicksilver zeppelins over Reykjavik made this an unforgettable voyage."
PLAIN = "A clever puzzle, and the detective explains every clue at the end."
LONELY = "The lighthouse keeper is so lonely that I wept, and I loved him for it."


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    settings = load_settings(
        {},
        home=tmp_path_factory.mktemp("home"),
        generation={"engine": "extractive"},
        incoming={"settle_s": 0},
        reviews={"max_reject_fraction": 0.5},
    )
    rows = [review(user, item, day, text=PLAIN) for day, item in enumerate(["i1", "i2"]) for user in ("ann", "bob")]
    rows += [review("secret-user-77", "i1", 5, text=TELLING), review("secret-user-77", "i2", 6, text=TELLING)]
    rows += [review("secret-user-77", "i3", 7, rating=99, text="out of range")]
    write(settings.home / "incoming" / "books" / "reviews.jsonl", json_lines(rows))
    run_stale(settings)
    return settings


def post(settings, user, said):
    at = datetime(2020, 1, 20, tzinfo=UTC)
    entry = Interaction(None, said, user, "books", "i1", "review", 5, said, at)
    return InteractionQueue(settings.interactions_path).append(entry)


def test_an_unknown_user_cannot_be_forgotten(settings):
    with pytest.raises(ValueError, match="No review of user 'nobody'"):
        forget_user(settings, "nobody")


def test_a_user_known_from_the_queue_alone_is_forgotten_at_once(settings):
    post(settings, "queued-user-55", "Marmalade submarines beneath Ljubljana")
    post(settings, "ann", "A clever puzzle once more")
    generation = PersonaIndex.open(settings.index_path).generation
    gone = forget_user(settings, "queued-user-55")
    assert (gone.queued, gone.reviews) == (1, 0)
    assert files_that_hold(settings.home, "queued-user-55", "Marmalade") == set()
    assert PersonaIndex.open(settings.index_path).generation == generation
    assert [entry.user_id for entry in InteractionQueue(settings.interactions_path).after(0)] == ["ann"]


def test_nothing_of_a_forgotten_user_is_left_and_the_others_stay(settings):
    traces = ("secret-user-77", "Quicksilver zeppelins", "quicksilver")
    # As a training in several processes leaves it when it is killed.
    killed = settings.home / "staging" / "training-1"
    killed.mkdir(parents=True)
    (killed / "together.json").write_text(f'{{"pairs": ["{TELLING}"]}}')
    # One that is folded in, and one that is not yet.
    post(settings, "secret-user-77", TELLING)
    run_stale(settings, steps=NIGHTLY)
    post(settings, "secret-user-77", f"Once more: {TELLING}")
    assert files_that_hold(settings.home, *traces), "the search must find what is there"
    assert "secret-user-77" in PersonaIndex.open(settings.index_path).users
    gone = forget_user(settings, "secret-user-77")
    assert (gone.reviews, gone.items, gone.queued) == (3, 2, 2) and gone.rows >= 6 and gone.runs >= 1
    assert files_that_hold(settings.home, *traces) == set()
    index = PersonaIndex.open(settings.index_path)
    assert "secret-user-77" not in index.users and "ann" in index.users
    assert index.personas_of("i1"), "its personas were made again without the user"


def test_the_next_ingest_leaves_the_user_out(settings):
    incoming = settings.home / "incoming" / "books" / "reviews-2.jsonl"
    rows = [review("cyrus-31", "i2", 9, text=LONELY), review("dora-44", "i2", 9, text=PLAIN)]
    write(incoming, json_lines(rows))
    post(settings, "secret-user-77", f"The site sent it again: {TELLING}")
    made = {outcome.where: outcome.metadata for outcome in run_stale(settings, steps=NIGHTLY) if outcome.was_stale}
    assert made["reviews[books]"]["forgotten"] == 2
    assert files_that_hold(settings.home, "secret-user-77", "Quicksilver") == set()
    users = {user for (user,) in open_warehouse(settings).rows("SELECT DISTINCT user_id FROM reviews")}
    assert users == {"ann", "bob", "cyrus-31", "dora-44"}


def test_forgetting_can_be_repeated(settings):
    assert forget_user(settings, "secret-user-77").reviews == 0


def test_a_source_that_is_gone_is_not_read_for_it_and_not_by_the_next_run(settings):
    shutil.rmtree(settings.home / "incoming" / "books")
    assert forget_user(settings, "cyrus-31").reviews == 1
    told = []
    run_stale(settings, steps=NIGHTLY, listener=Listener(started=lambda *what: told.append(what)))
    assert told == []
