"""An ingest replaces a partition completely, or not at all, and says what became of every row."""

import hashlib

import pytest

from persona4rec_pipeline.reviews.catalogs import has_new_data, register_catalog
from persona4rec_pipeline.reviews.files import SourceError
from persona4rec_pipeline.reviews.ingest import TooManyRejects, ingest_items, ingest_reviews
from persona4rec_tests.reviews.builders import Workshop, json_lines, review, write


def contents(workshop):
    tables = ("reviews", "items", "rejected_rows")
    return {table: sorted(map(repr, workshop.database.rows(f"FROM {table}"))) for table in tables}


def test_reading_the_same_files_again_gives_identical_rows(workshop):
    rows = [review("a"), review("b", "emma", rating=None), review("a"), review("c", text="")]
    catalog = workshop.catalog(rows * 20, [{"item_id": "dune", "title": "Dune", "price": 3}])
    workshop.settings = workshop.settings.model_copy(
        update={"reviews": workshop.settings.reviews.model_copy(update={"max_reject_fraction": 0.5})}
    )
    workshop.ingest_both(catalog)
    before = contents(workshop)
    workshop.ingest_both(catalog)
    assert contents(workshop) == before and all(before.values())


def test_review_ids_depend_on_catalogue_user_item_and_time_alone(tmp_path):
    ids = []
    for number, rows in enumerate(([review(rating=1, text="old"), review("b")], [review("b"), review(text="new")])):
        workshop = Workshop(tmp_path / str(number))
        workshop.ingest(rows)
        ids.append(workshop.reviews("user_id", "review_id"))
    assert ids[0] == ids[1] and len(set(ids[0])) == 2
    # Fixed for ever: everything downstream is keyed by it.
    parts = ("books", "ann", "dune", str(1_577_880_000_000_000))
    text = "".join(f"{len(part)}:{part}" for part in parts)
    assert dict(ids[0])["ann"] == hashlib.md5(text.encode()).hexdigest()[:20] == "3113e60a4d4c7364b4e5"


def test_ids_that_join_to_the_same_text_stay_apart(workshop):
    workshop.ingest([review("a", "bc"), review("ab", "c")])
    assert len(set(workshop.reviews("review_id"))) == 2


def test_the_first_of_repeated_interactions_is_kept_and_the_others_are_counted_but_not_rejected(workshop):
    write(workshop.sources / "in" / "1.jsonl", json_lines([review(text="first"), review(text="second"), review(day=1)]))
    write(workshop.sources / "in" / "2.jsonl", json_lines([review(text="third"), review("bob")]))
    counts = workshop.ingest(workshop.sources / "in")
    assert (counts.read, counts.rejected, counts.duplicates, counts.kept) == (5, 0, 2, 3)
    assert workshop.reviews("text") == ["first", "bob on dune", "ann on dune"]


def test_too_many_bad_rows_change_nothing_and_say_which_and_what_to_do(workshop):
    catalog = workshop.catalog([review(f"u{number}") for number in range(20)], [{"item_id": "dune", "title": "Dune"}])
    workshop.ingest_both(catalog)
    before = contents(workshop)
    bad = [*[review(text="")] * 4, *["{"] * 3, *[review(user="")] * 2, review(item=""), review("new")]
    path = write(workshop.sources / "books-reviews.jsonl", json_lines(bad))
    with pytest.raises(TooManyRejects) as error:
        workshop.ingest(catalog)
    assert contents(workshop) == before
    message = str(error.value)
    assert "10 of 11 reviews rows of catalogue books (90.9%)" in message and "allows 5.0%" in message
    assert f"4 x empty text, first at {path}:1\n" in message
    assert f"3 x not valid JSON, first at {path}:5\n" in message
    assert f"2 x no user, first at {path}:8\n" in message
    assert "no item" not in message and "raise reviews.max_reject_fraction" in message
    write(workshop.sources / "books-items.jsonl", json_lines([{"title": "?"}, {"item_id": "dune"}]))
    with pytest.raises(TooManyRejects, match="items rows"):
        ingest_items(workshop.database, workshop.settings, catalog)
    assert contents(workshop) == before


def test_a_source_without_any_usable_row_is_an_error_whatever_the_limit(tmp_path):
    workshop = Workshop(tmp_path, reviews={"max_reject_fraction": 1.0})
    with pytest.raises(TooManyRejects):
        workshop.ingest([review(text="")])


def test_a_failed_insert_leaves_the_previous_partition(workshop):
    catalog = workshop.catalog([review()])
    workshop.ingest_both(catalog)
    before = contents(workshop)
    with workshop.database.write() as connection:
        connection.execute("ALTER TABLE rejected_rows DROP COLUMN reason")
    workshop_rows = before["reviews"]
    write(workshop.sources / "books-reviews.jsonl", json_lines([review("new")]))
    with pytest.raises(Exception, match="reason"):
        workshop.ingest(catalog)
    assert sorted(map(repr, workshop.database.rows("FROM reviews"))) == workshop_rows


def test_other_catalogues_are_left_alone(workshop):
    workshop.ingest_both([review("a")], name="one")
    workshop.ingest_both([review("b")], name="two")
    workshop.ingest_both([review("c")], name="two")
    assert workshop.reviews("catalog", "user_id") == [("one", "a"), ("two", "c")]
    assert workshop.items("catalog", "item_id") == [("one", "dune"), ("two", "dune")]


def test_rejects_of_an_earlier_ingest_do_not_stay(tmp_path):
    workshop = Workshop(tmp_path, reviews={"max_reject_fraction": 0.5})
    workshop.ingest([review(), review(text="")])
    assert len(workshop.rejected("line")) == 1
    workshop.ingest([review()])
    assert workshop.rejected("line") == []


def test_a_limit_keeps_the_most_reviewed_items_with_ties_by_id(workshop):
    rows = [review("a", "z"), review("b", "z"), review("a", "m"), review("a", "k"), review("a", "x")]
    items = [{"item_id": item, "title": item.upper()} for item in "zmkxq"]
    catalog = register_catalog(workshop.database, workshop.catalog(rows, items, limit_items=2))
    counts = ingest_reviews(workshop.database, workshop.settings, catalog)
    assert (counts.read, counts.beyond_limit, counts.kept) == (5, 2, 3)
    counts = ingest_items(workshop.database, workshop.settings, catalog)
    assert (counts.read, counts.beyond_limit, counts.from_reviews, counts.kept) == (5, 3, 0, 2)
    assert workshop.items("title") == ["K", "Z"]
    assert sorted(set(workshop.reviews("item_id"))) == ["k", "z"]


def test_items_are_metadata_and_whatever_else_was_reviewed(workshop):
    counts = workshop.ingest_both(
        [review(item="dune"), review(item="emma")],
        [{"item_id": "dune", "title": "Dune"}, {"item_id": "unread", "title": "Unread"}],
    )
    assert (counts.read, counts.from_reviews, counts.kept) == (2, 1, 3)
    assert workshop.items("item_id", "title") == [("dune", "Dune"), ("emma", None), ("unread", "Unread")]


def test_items_without_metadata_are_known_from_their_reviews(workshop):
    counts = workshop.ingest_both([review(item="dune"), review(item="emma"), review("b", "emma")])
    assert (counts.read, counts.from_reviews, counts.kept) == (0, 2, 2)
    assert workshop.items("item_id", "title", "categories") == [("dune", None, None), ("emma", None, None)]


def test_items_before_reviews_are_an_error_where_there_is_nothing_to_keep(workshop):
    catalog = workshop.catalog([review()])
    with pytest.raises(SourceError, match="Ingest its reviews first"):
        ingest_items(workshop.database, workshop.settings, catalog)


def test_a_catalogue_has_new_data_until_both_reviews_and_items_were_read(workshop):
    catalog = register_catalog(workshop.database, workshop.catalog([review()], [{"item_id": "dune"}]))
    steps = [has_new_data(workshop.database, "books")]
    ingest_reviews(workshop.database, workshop.settings, catalog)
    steps.append(has_new_data(workshop.database, "books"))
    ingest_items(workshop.database, workshop.settings, catalog)
    steps.append(has_new_data(workshop.database, "books"))
    assert steps == [True, True, False]
    write(workshop.sources / "books-reviews.jsonl", json_lines([review(), review("new")]))
    assert has_new_data(workshop.database, "books")
    ingest_items(workshop.database, workshop.settings, catalog)  # items alone do not make the reviews read
    assert has_new_data(workshop.database, "books")


def test_nothing_is_left_in_the_staging_folder(workshop):
    workshop.ingest_both([review()])
    with pytest.raises(SourceError):
        workshop.ingest(["{"], source_format="generic")
    assert list((workshop.settings.home / "staging").iterdir()) == []


def test_a_source_larger_than_one_batch_is_read_completely(workshop, monkeypatch):
    monkeypatch.setattr("persona4rec_pipeline.reviews.files.BATCH_ROWS", 7)
    counts = workshop.ingest([review(f"u{number}", day=number) for number in range(50)])
    assert counts.kept == 50
    assert workshop.reviews("user_id") == [f"u{number}" for number in range(50)]


def test_a_line_that_never_ends_is_rejected_and_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("persona4rec_pipeline.reviews.files.MAX_LINE_BYTES", 1_000)
    workshop = Workshop(tmp_path, reviews={"max_reject_fraction": 0.5})
    workshop.ingest([review("a"), review("b", text="x" * 5_000), review("c")])
    assert workshop.reviews("user_id") == ["a", "c"]
    assert [(line, "longer" in reason) for line, reason in workshop.rejected("line", "reason")] == [(2, True)]
