"""What came in while serving becomes reviews beside those of the source, once each, and the service can tell which did."""

from __future__ import annotations

import shutil
from datetime import UTC, timedelta
from itertools import count

import numpy as np
import pytest
from typer.testing import CliRunner

from persona4rec_pipeline.alignment.assets import count_choices
from persona4rec_pipeline.catalogs import remove_catalog
from persona4rec_pipeline.cli import app
from persona4rec_pipeline.encoder.texts import interaction_text, text_hash
from persona4rec_pipeline.encoder.vectors import refresh_interaction_vectors
from persona4rec_pipeline.evaluation.quality import measure_quality
from persona4rec_pipeline.index import PersonaIndex
from persona4rec_pipeline.interactions import Interaction, InteractionQueue
from persona4rec_pipeline.overview import read_plan, read_status
from persona4rec_pipeline.reviews.catalogs import delete_catalog_rows
from persona4rec_pipeline.reviews.files import SourceError
from persona4rec_pipeline.reviews.ids import user_hash
from persona4rec_pipeline.reviews.incoming import needs_ingest, scan
from persona4rec_pipeline.reviews.ingest import fold_in, ingest_reviews
from persona4rec_pipeline.reviews.posted import QUEUED, has_new_interactions, interactions_through
from persona4rec_pipeline.reviews.splits import assign_splits
from persona4rec_pipeline.runner import NIGHTLY, STEPS, Listener, RunFailed, run_stale
from persona4rec_pipeline.settings import load_settings
from persona4rec_pipeline.warehouse import open_warehouse
from persona4rec_tests.reviews.builders import NOON, json_lines, review, write

KEYS = count()
PLAIN = "A clever puzzle, and the detective explains every clue at the end."
TELLING = "The moor is so bleak and lonely that I shivered with dread, and I loved the gothic atmosphere."


def post(settings, user="zoe", item="dune", day=0.0, kind="click", rating=None, said=None, catalog="books"):
    """Queue an interaction; `day` counts from 2020-01-01 at noon, as that of `review` does."""
    at = NOON.replace(tzinfo=UTC) + timedelta(days=day)
    entry = Interaction(None, f"key-{next(KEYS)}", user, catalog, item, kind, rating, said, at)
    return InteractionQueue(settings.interactions_path).append(entry)


def through(database):
    with database.read() as connection:
        return interactions_through(connection)


def test_queued_interactions_become_reviews_beside_those_of_the_source(workshop):
    for rating in (5, 3, None):
        post(workshop.settings, f"rated-{rating}", kind="review", rating=rating, said=" What a world.\n")
    for kind in ("click", "like", "dislike"):
        post(workshop.settings, kind, kind=kind)
    counts = workshop.ingest([review("ann"), review("bob", rating=1)])
    assert (counts.read, counts.kept, counts.posted.kept) == (2, 8, 6)
    assert workshop.reviews("user_id", "is_positive", "text") == [
        ("ann", True, "ann on dune"),
        ("bob", False, "bob on dune"),
        ("click", True, ""),
        ("dislike", False, ""),
        ("like", True, ""),
        ("rated-3", False, "What a world."),
        ("rated-5", True, "What a world."),
        ("rated-None", True, "What a world."),
    ]


def test_a_review_without_rating_is_judged_as_the_settings_say(tmp_path, workshop):
    workshop.settings = load_settings({}, home=workshop.settings.home, reviews={"missing_rating_is_positive": False})
    post(workshop.settings, kind="review", said="Hm.")
    post(workshop.settings, "liker", kind="like")
    workshop.ingest([review("ann")])
    assert dict(workshop.reviews("user_id", "is_positive")) == {"ann": True, "zoe": False, "liker": True}


def test_other_catalogues_and_a_second_reading_change_nothing(workshop):
    post(workshop.settings, day=0.3)
    post(workshop.settings, item="dune", catalog="films")
    catalog = workshop.catalog([review("ann")])
    workshop.ingest_both(catalog)
    before = workshop.database.content_version("reviews")
    workshop.ingest_both(catalog)
    fold_in(workshop.database, workshop.settings, catalog)
    assert workshop.database.content_version("reviews") == before
    assert workshop.reviews("user_id") == ["ann", "zoe"]


@pytest.mark.parametrize(("days", "users"), [(0, 1), (0.9, 1), (-0.9, 1), (1.1, 2), (-1.1, 2)])
def test_what_the_source_tells_less_than_a_day_away_is_the_same_interaction(workshop, days, users):
    post(workshop.settings, "ann", day=days, kind="review", rating=1, said="Not so good after all.")
    counts = workshop.ingest([review("ann", text="from the source")])
    assert (counts.posted.kept, counts.posted.left_out) == (users - 1, 2 - users)
    assert len(workshop.reviews("text")) == users and "from the source" in workshop.reviews("text")


def test_a_review_that_was_folded_in_gives_way_when_the_source_brings_it(workshop):
    post(workshop.settings, "zoe", day=3.2, kind="review", rating=5, said="Loved it.")
    workshop.ingest([review("ann")])
    assert workshop.reviews("user_id") == ["ann", "zoe"]
    workshop.ingest([review("ann"), review("zoe", day=3, text="Loved it.")])
    assert workshop.reviews("user_id", "reviewed_at") == [("ann", NOON), ("zoe", NOON + timedelta(days=3))]


def test_of_the_reviews_of_one_user_and_item_the_last_of_a_day_counts(workshop):
    for day, said in ((0, "morning"), (0.2, "evening"), (3, "days later")):
        post(workshop.settings, day=day, kind="review", said=said)
    assert workshop.ingest([review("ann")]).posted.left_out == 1
    assert workshop.reviews("text") == ["ann on dune", "evening", "days later"]


def test_of_clicks_and_verdicts_on_an_item_one_counts_and_a_verdict_before_a_click(workshop):
    for user, hints in {
        "clicks": [(0, "click"), (1, "click"), (30, "click")],
        "likes, then clicks": [(0, "like"), (9, "click")],
        "likes, then not": [(0, "like"), (9, "dislike")],
        "the other way round": [(0, "dislike"), (9, "like")],
    }.items():
        for day, kind in hints:
            post(workshop.settings, user, day=day, kind=kind)
    counts = workshop.ingest([review("ann", "other")], [{"item_id": "dune"}])
    assert (counts.posted.kept, counts.posted.left_out) == (4, 5)
    days = "CAST(epoch(reviewed_at - TIMESTAMP '2020-01-01 12:00') / 86400 AS INTEGER)"
    assert workshop.reviews("user_id", days, "is_positive")[1:] == [
        ("likes, then clicks", 0, True),
        ("likes, then not", 9, False),
        ("the other way round", 9, True),
        ("clicks", 30, True),
    ]


@pytest.mark.parametrize(("days", "counts"), [(-40, False), (-0.5, False), (0.5, False), (1.5, True)])
@pytest.mark.parametrize("source", [True, False])
def test_a_click_gives_way_to_what_the_user_says_of_the_item_later_or_the_same_day(workshop, days, counts, source):
    post(workshop.settings, "ann", day=-50, kind="like")
    post(workshop.settings, "ann", day=days)
    if not source:
        post(workshop.settings, "ann", kind="review", rating=2, said="ann on dune")
    workshop.ingest([review("ann" if source else "bob")])
    assert workshop.reviews("text").count("") == counts
    assert "ann on dune" in workshop.reviews("text")


def test_interactions_on_unknown_items_wait_and_are_told_until_the_catalogue_knows_them(workshop):
    for user in ("zoe", "yan"):
        post(workshop.settings, user, "new")
    post(workshop.settings, "zoe", "other")
    counts = workshop.ingest([review("ann")])
    assert (counts.posted.kept, counts.posted.waiting) == (0, 3)
    assert counts.posted.waiting_for == {"new": 2, "other": 1}
    assert not has_new_interactions(workshop.database, workshop.settings, "books"), "they were looked at"
    # Known from a review of the source, or from its metadata alone, in the same ingest.
    counts = workshop.ingest([review("ann"), review("bob", "other")], [{"item_id": "new", "title": "New"}])
    assert (counts.posted.kept, counts.posted.waiting) == (3, 0)


def test_an_item_that_the_source_takes_back_is_not_kept_alive_by_clicks_on_it(workshop):
    post(workshop.settings, "zoe", "gone")
    workshop.ingest_both([review("ann"), review("ann", "gone")])
    assert workshop.items("item_id") == ["dune", "gone"]
    workshop.ingest_both([review("ann")])
    assert workshop.items("item_id") == ["dune"] and workshop.reviews("user_id") == ["ann"]
    assert len(InteractionQueue(workshop.settings.interactions_path).after(0)) == 1


def test_items_beyond_the_limit_are_chosen_by_the_source_and_their_interactions_wait(workshop):
    for user in ("x", "y", "z"):
        post(workshop.settings, user, "rare")
    rows = [review("ann"), review("bob"), review("ann", "rare")]
    counts = workshop.ingest(rows, [{"item_id": "rare"}], limit_items=1)
    assert (counts.kept, counts.beyond_limit, counts.posted.waiting) == (2, 1, 3)


def test_ratings_that_the_settings_refuse_are_left_out(workshop):
    post(workshop.settings, kind="review", rating=99, said="!")
    assert workshop.ingest([review("ann")]).posted.left_out == 1
    assert workshop.reviews("user_id") == ["ann"]


def test_a_forgotten_user_is_left_out_and_deleted_from_the_queue(workshop):
    post(workshop.settings, "zoe", kind="review", said="mine")
    post(workshop.settings, "yan")
    with workshop.database.write() as connection:
        connection.execute("INSERT INTO forgotten_users VALUES (?, now()::TIMESTAMP)", [user_hash("zoe")])
    assert workshop.ingest([review("ann")]).posted.kept == 1
    assert workshop.reviews("user_id") == ["ann", "yan"]
    queue = InteractionQueue(workshop.settings.interactions_path)
    assert [entry.user_id for entry in queue.after(0)] == ["yan"]
    assert not has_new_interactions(workshop.database, workshop.settings, "books")


def test_folding_in_alone_gives_what_an_ingest_of_the_same_files_gives_and_reads_none(workshop):
    items = [{"item_id": "dune", "title": "Dune"}, {"item_id": "cold", "title": "Cold"}]
    catalog = workshop.catalog([review("ann"), review("bob", "emma")], items)
    workshop.ingest_both(catalog)
    post(workshop.settings, "zoe", "cold")
    post(workshop.settings, "zoe", "emma", kind="review", rating=2, said="Long.")
    post(workshop.settings, "ann", "dune", day=0.1)
    post(workshop.settings, "zoe", "unknown")
    ingest_reviews(workshop.database, workshop.settings, catalog)
    expected = workshop.database.rows("FROM reviews ORDER BY ALL")
    for table in ("posted_reviews", "posted_progress"):
        workshop.database.replace(table, workshop.database.frame(f"FROM {table} LIMIT 0"))
    with workshop.database.write() as connection:
        connection.execute("DELETE FROM reviews WHERE user_id = 'zoe'")
    for path in workshop.sources.iterdir():
        path.unlink()
    assert has_new_interactions(workshop.database, workshop.settings, "books")
    counts = fold_in(workshop.database, workshop.settings, catalog)
    assert (counts.kept, counts.posted.kept, counts.posted.waiting, counts.posted.left_out) == (4, 2, 1, 1)
    assert workshop.database.rows("FROM reviews ORDER BY ALL") == expected
    assert not has_new_interactions(workshop.database, workshop.settings, "books")
    # Again, and with one more: those of the source are still told apart from those of the queue.
    post(workshop.settings, "yan", "cold", day=2)
    assert fold_in(workshop.database, workshop.settings, catalog).kept == 5


def test_texts_that_databases_choke_on_arrive(workshop):
    post(workshop.settings, "z'oe\0", kind="review", said="'; DROP TABLE reviews; -- \0 \udc80 🎸")
    post(workshop.settings, "blank", kind="review", said="\u200b \u00a0")
    workshop.ingest([review("ann")])
    assert workshop.reviews("user_id", "text")[1:] == [
        ("blank", ""),
        ("z'oe", "'; DROP TABLE reviews; --  \ufffd 🎸"),
    ]


def test_a_queue_that_was_lost_fails_the_ingest_and_changes_nothing(workshop, monkeypatch):
    catalog = workshop.catalog([review("ann")])
    post(workshop.settings)
    post(workshop.settings, "yan")
    workshop.ingest_both(catalog)
    folder = workshop.settings.interactions_path.parent
    for path in folder.iterdir():
        path.unlink()
    post(workshop.settings, "another")
    assert has_new_interactions(workshop.database, workshop.settings, "books")
    for read in (ingest_reviews, fold_in):
        with pytest.raises(SourceError, match="is not the interaction queue that catalogue books was made from"):
            read(workshop.database, workshop.settings, catalog)
    assert workshop.reviews("user_id") == ["ann", "yan", "zoe"]
    # Who has no backup says so; an index that knows the ids of before must not take new interactions for them.
    monkeypatch.setenv("PERSONA4REC_HOME", str(workshop.settings.home))
    assert CliRunner().invoke(app, ["accept-queue"], input="n\n").exit_code != 0
    with pytest.raises(SourceError, match="persona4rec accept-queue"):
        fold_in(workshop.database, workshop.settings, catalog)
    assert CliRunner().invoke(app, ["accept-queue", "--yes"]).exit_code == 0
    assert has_new_interactions(workshop.database, workshop.settings, "books")
    fold_in(workshop.database, workshop.settings, catalog)
    assert workshop.reviews("user_id") == ["ann", "another"]
    assert post(workshop.settings) > 2


def test_a_damaged_queue_counts_as_something_new_so_that_the_ingest_says_so(workshop):
    workshop.ingest([review("ann")])
    write(workshop.settings.interactions_path, "this is no database, whatever its name says" * 40)
    assert has_new_interactions(workshop.database, workshop.settings, "books")


def test_a_catalogue_that_is_deleted_takes_its_progress_along(workshop):
    post(workshop.settings)
    workshop.ingest([review("ann")])
    deleted = delete_catalog_rows(workshop.database, "books")
    assert (deleted["posted_reviews"], deleted["posted_progress"]) == (1, 1)


def encode(texts):
    return np.eye(len(texts), 8, dtype=np.float32)


def make_vectors(workshop, summarised=("dune", "emma")):
    rows = [
        {"catalog": "books", "item_id": item, "title": item, "summary": "A book.", "source": "llm"}
        for item in summarised
    ]
    workshop.database.replace("item_summaries", __import__("pandas").DataFrame(rows), "books")
    return refresh_interaction_vectors(workshop.database, "books", 50, "encoder-1", encode)


def test_the_service_is_told_of_an_interaction_once_its_vector_is_there_and_not_before(workshop):
    catalog = workshop.catalog([review("ann"), review("ann", "emma")])
    workshop.ingest_both(catalog)
    assign_splits(workshop.database, workshop.settings)
    make_vectors(workshop)
    assert through(workshop.database) == {}
    first = post(workshop.settings, "zoe", "dune")
    fold_in(workshop.database, workshop.settings, catalog)
    assert through(workshop.database) == {}, "read, but without a vector"
    make_vectors(workshop)
    assert through(workshop.database) == {}, "without a split it has no vector, either"
    assign_splits(workshop.database, workshop.settings)
    make_vectors(workshop, summarised=("emma",))
    assert through(workshop.database) == {}, "without a summary it has none"
    make_vectors(workshop)
    assert through(workshop.database) == {"books": first}
    # A click says nothing but what the item is.
    digest = text_hash(interaction_text("dune", "A book.", {}))
    rows = workshop.database.rows("SELECT text_hash FROM interaction_vectors WHERE user_id = 'zoe'")
    assert rows == [(digest,)]
    # Another catalogue's have come no further for it, and later ones of this one are not counted yet.
    post(workshop.settings, "zoe", "dune", catalog="films")
    post(workshop.settings, "zoe", "emma")
    assert through(workshop.database) == {"books": first}


def test_what_makes_no_vector_by_design_counts_as_taken_in(workshop):
    panel = {"panel_fraction": 1.0, "min_interactions": 3}
    workshop.settings = load_settings({}, home=workshop.settings.home, splits=panel)
    catalog = workshop.catalog([review("ann"), review("ann", "emma", 1), review("bob")])
    workshop.ingest_both(catalog)
    post(workshop.settings, "bob", "dune", day=20, kind="dislike")
    post(workshop.settings, "bob", "unknown", day=20)
    last = post(workshop.settings, "ann", "dune", day=20)
    fold_in(workshop.database, workshop.settings, catalog)
    assign_splits(workshop.database, workshop.settings)
    held_out = workshop.database.rows(
        "SELECT split FROM reviews JOIN splits USING (catalog, review_id) WHERE user_id = 'ann' AND text = ''"
    )
    assert held_out == [("test",)]
    make_vectors(workshop)
    assert through(workshop.database) == {"books": last}
    vectors = workshop.database.rows(
        "SELECT count(*) FROM interaction_vectors JOIN reviews USING (review_id) WHERE text = ''"
    )
    assert vectors == [(0,)]


def test_a_click_explains_later_choices_and_is_no_choice_or_review_that_says_something(workshop):
    post(workshop.settings, "ann", "dune", day=5)
    workshop.ingest_both([review("ann", "emma"), review("bob", "dune")])
    assign_splits(workshop.database, workshop.settings)
    assert count_choices(workshop.database, workshop.settings).explained == 0
    assert measure_quality(workshop.database, None, None, workshop.settings).reviews == 2
    workshop.ingest_both([review("bob"), review("ann", "emma", 9)])
    assign_splits(workshop.database, workshop.settings)
    assert count_choices(workshop.database, workshop.settings).explained == 1


def test_a_repeated_interaction_that_changes_no_row_is_counted_all_the_same(workshop):
    catalog = workshop.catalog([review("ann"), review("ann", "emma")])
    workshop.ingest_both(catalog)
    assign_splits(workshop.database, workshop.settings)
    last = post(workshop.settings, "ann", "dune", day=0.2)
    fold_in(workshop.database, workshop.settings, catalog)
    make_vectors(workshop)
    assert through(workshop.database) == {"books": last}


# A home with nights.


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A home with a catalogue, after its first night."""
    settings = load_settings(
        {}, home=tmp_path_factory.mktemp("home"), generation={"engine": "extractive"}, incoming={"settle_s": 0}
    )
    rows = [review(user, item, day, text=PLAIN) for day, item in enumerate(["i1", "i2"]) for user in ("ann", "bob")]
    write(settings.home / "incoming" / "books" / "reviews.jsonl", json_lines(rows))
    items = [{"item_id": item, "title": f"Title of {item}", "description": PLAIN} for item in ("i1", "i2", "i3")]
    write(settings.home / "incoming" / "books" / "items.jsonl", json_lines(items))
    run_stale(settings, steps=NIGHTLY)
    return settings


def night(settings, steps=NIGHTLY):
    told: dict[str, tuple[str, ...]] = {}
    listener = Listener(started=lambda asset, catalog, reasons: told.update({f"{asset}[{catalog}]": reasons}))
    made = {outcome.where: outcome.metadata for outcome in run_stale(settings, steps=steps, listener=listener)
            if outcome.was_stale}  # fmt: skip
    return made, told


def test_a_night_folds_in_what_was_queued_without_reading_the_source_and_the_next_has_nothing_to_do(settings):
    warehouse = open_warehouse(settings)
    ids = [
        post(settings, "zoe", "i3", 30),
        post(settings, "zoe", "i1", 31, "review", 5, TELLING),
        post(settings, "zoe", "nowhere", 32),
    ]
    assert [needs_ingest(warehouse, arrival) for arrival in scan(settings)] == [False], "the sensor waits for files"
    (entry,) = read_status(settings).catalogs
    assert entry.out_of_date["reviews"] == (QUEUED,)
    plan = read_plan(settings)
    assert plan.steps["reviews[books]"] == (QUEUED,) and plan.unread == []
    made, told = night(settings)
    assert told["reviews[books]"] == (QUEUED,)
    metadata = made["reviews[books]"]
    assert (metadata["kept"], metadata["posted"], metadata["posted_waiting"]) == (6, 2, 1)
    assert "read" not in metadata and "nowhere" in metadata["posted_waiting_for"]
    assert made["items[books]"]["dagster/partition_row_count"] == 3
    # The click is no review that anybody reads; the review is.
    assert made["review_aspects[books]"]["read_now"] == 1
    assert warehouse.rows("SELECT item_id, is_evidence FROM review_aspects WHERE user_id = 'zoe'") == [("i1", True)]
    evidence = warehouse.rows("SELECT item_id, unnest(evidence_review_ids) AS review_id FROM personas")
    (click,) = warehouse.rows("SELECT review_id FROM reviews WHERE user_id = 'zoe' AND item_id = 'i3'")
    assert click[0] not in {review_id for _, review_id in evidence}
    assert through(warehouse) == {"books": ids[-1]}
    assert warehouse.rows("SELECT count(*) FROM interaction_vectors WHERE user_id = 'zoe'") == [(2,)]
    index = PersonaIndex.open(settings.index_path)
    assert index.profile_of("zoe") is not None and index.interactions_of("zoe") == 2
    assert index.manifest.interactions_through == {"books": ids[-1]}
    assert night(settings) == ({}, {})
    assert read_status(settings).catalogs[0].out_of_date == {} and read_plan(settings).steps.keys().isdisjoint(
        f"{asset}[books]" for step in NIGHTLY for asset in step
    )


def test_an_interaction_that_leaves_no_row_is_taken_in_without_making_anything_anew(settings):
    warehouse = open_warehouse(settings)
    before = {table: warehouse.content_version(table) for table in ("reviews", "personas", "interaction_vectors")}
    last = post(settings, "ann", "i1", 0.1)
    made, _ = night(settings)
    assert made["reviews[books]"]["posted_left_out"] == 1
    assert {table: warehouse.content_version(table) for table in before} == before
    assert (made["review_aspects[books]"]["read_now"], made["personas[books]"]["items_made_now"]) == (0, 0)
    # The index is looked at again: it says up to which id the service need not count.
    assert through(warehouse) == {"books": last} == PersonaIndex.open(settings.index_path).manifest.interactions_through
    assert not has_new_interactions(warehouse, settings, "books")


def test_source_and_queue_that_change_together_are_both_told_and_both_read(settings):
    late = settings.home / "incoming" / "books" / "reviews-late.jsonl"
    write(late, json_lines([review("cy", "i2", 9, text=PLAIN)]))
    post(settings, "cy", "i1", 40, "like")
    made, told = night(settings, STEPS[:1])
    assert told["reviews[books]"] == ("its source files changed", QUEUED)
    assert (made["reviews[books]"]["read"], made["reviews[books]"]["posted"]) == (5, 3)


def test_a_catalogue_whose_source_was_deleted_still_takes_in_what_is_queued(settings):
    (settings.home / "incoming" / "books").rename(settings.home / "books-away")
    notes: list[str] = []
    post(settings, "eve", "i1", 42, "like")
    run_stale(settings, steps=STEPS[:1], listener=Listener(noted=notes.append))
    assert any("books is kept as it was read last" in note for note in notes)
    users = open_warehouse(settings).rows("SELECT user_id FROM reviews WHERE item_id = 'i1' ORDER BY 1")
    assert [user for (user,) in users] == ["ann", "bob", "cy", "eve", "zoe"]


def test_a_lost_queue_fails_the_night_of_the_catalogues_that_were_made_from_it(settings):
    path = settings.interactions_path
    aside = path.rename(path.with_suffix(".aside"))
    with pytest.raises(RunFailed, match=r"reviews\[books\] failed: .*is not the interaction queue"):
        run_stale(settings, steps=STEPS[:1])
    aside.rename(path)
    assert run_stale(settings, steps=STEPS[:1])[0].was_stale is False


def test_a_removed_catalogue_takes_its_queued_interactions_along(settings):
    queue = InteractionQueue(settings.interactions_path)
    other = post(settings, "zoe", "f1", catalog="films")
    post(settings, "zoe", "i1", 50)
    shutil.rmtree(settings.home / "incoming" / "books", ignore_errors=True)
    remove_catalog(settings, "books")
    assert [entry.id for entry in queue.after(0)] == [other]
    assert through(open_warehouse(settings)) == {}
