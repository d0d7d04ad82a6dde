"""What lies in the watched location, when it counts as complete, and how it becomes a catalogue."""

import os
import time

import fsspec
import pytest

from persona4rec_pipeline.reviews.catalogs import CatalogError, get_catalog, register_catalog
from persona4rec_pipeline.reviews.incoming import IncomingUnreadable, needs_ingest, scan, take_in
from persona4rec_pipeline.reviews.ingest import ingest_items, ingest_reviews
from persona4rec_pipeline.settings import load_settings
from persona4rec_tests.reviews.builders import Workshop, json_lines, review, write


@pytest.fixture
def shop(tmp_path):
    return Workshop(tmp_path, incoming={"settle_s": 0})


def drop(shop, name, *rows, file="reviews.jsonl"):
    """Put a file of reviews into a folder of the watched location."""
    return write(shop.settings.home / "incoming" / name / file, json_lines(rows or [review()]))


def ingest(shop, name):
    catalog = take_in(shop.settings, shop.database, name)
    ingest_reviews(shop.database, shop.settings, catalog)
    ingest_items(shop.database, shop.settings, catalog)


def test_an_empty_location_is_empty_and_a_folder_is_an_arrival(shop):
    assert scan(shop.settings) == []
    drop(shop, "books")
    (arrival,) = scan(shop.settings)
    assert (arrival.name, arrival.files, arrival.problem) == ("books", ("reviews.jsonl",), None)
    assert needs_ingest(shop.database, arrival)


def test_what_was_taken_in_is_not_new_until_a_file_is_added_or_the_statement_changes(shop):
    drop(shop, "books")
    ingest(shop, "books")
    assert not needs_ingest(shop.database, scan(shop.settings)[0])
    drop(shop, "books", review("bob"), file="reviews-2.jsonl")
    assert needs_ingest(shop.database, scan(shop.settings)[0])
    ingest(shop, "books")
    assert shop.reviews("user_id") == ["ann", "bob"]
    write(shop.settings.home / "incoming" / "books" / "catalog.toml", 'domain = "movie"\n')
    assert needs_ingest(shop.database, scan(shop.settings)[0])
    ingest(shop, "books")
    assert get_catalog(shop.database, "books").domain == "movie"


def test_a_statement_names_columns_and_limits(shop):
    row = {**review(), "stars": 5}
    del row["rating"]
    drop(shop, "books", row)
    statement = 'format = "generic"\nlimit_items = 1\n[columns]\nrating = "stars"\n'
    write(shop.settings.home / "incoming" / "books" / "catalog.toml", statement)
    ingest(shop, "books")
    assert shop.reviews("rating") == [5.0]


@pytest.mark.parametrize(
    ("name", "file", "text", "problem"),
    [
        ("Books", "reviews.jsonl", "{}", "cannot be the name"),
        ("books", "notes.txt", "hello", "holds no reviews"),
        ("books", "catalog.toml", "format = ", "not valid TOML"),
        ("books", "catalog.toml", "colour = 1", "colour"),
    ],
)
def test_a_folder_that_cannot_become_a_catalogue_says_why(shop, name, file, text, problem):
    if file != "notes.txt":
        drop(shop, name)
    write(shop.settings.home / "incoming" / name / file, text)
    (arrival,) = scan(shop.settings)
    assert problem in arrival.problem
    with pytest.raises(CatalogError, match=problem):
        take_in(shop.settings, shop.database, name)


def test_an_unreadable_location_is_an_error_and_not_an_empty_one(tmp_path):
    settings = load_settings({}, home=tmp_path, incoming={"location": str(tmp_path / "nowhere")})
    with pytest.raises(IncomingUnreadable, match="nowhere cannot be read"):
        scan(settings)
    unknown = load_settings({}, home=tmp_path, incoming={"location": "nosuchscheme://bucket"})
    with pytest.raises(IncomingUnreadable, match="nosuchscheme"):
        scan(unknown)


def test_a_deleted_folder_is_no_arrival_and_deletes_nothing(shop):
    path = drop(shop, "books")
    ingest(shop, "books")
    path.unlink()
    path.parent.rmdir()
    assert scan(shop.settings) == [] and take_in(shop.settings, shop.database, "books") is None
    assert shop.reviews("user_id") == ["ann"]


def test_a_folder_counts_as_complete_once_it_is_old_enough_or_marked(tmp_path):
    shop = Workshop(tmp_path, incoming={"settle_s": 60})
    path = drop(shop, "books")
    assert not scan(shop.settings)[0].is_complete(shop.settings)
    os.utime(path, (time.time() - 61,) * 2)
    assert scan(shop.settings)[0].is_complete(shop.settings)
    marked = load_settings({}, home=shop.settings.home, incoming={"success_marker": "_SUCCESS"})
    assert not scan(marked)[0].is_complete(marked)
    write(path.parent / "_SUCCESS", "")
    assert scan(marked)[0].is_complete(marked)


def test_a_name_that_was_registered_from_elsewhere_is_refused(shop):
    register_catalog(shop.database, shop.catalog([review()]))
    drop(shop, "books")
    with pytest.raises(CatalogError, match="is registered with reviews from"):
        take_in(shop.settings, shop.database, "books")


def test_a_remote_location_is_copied_whole_before_it_is_read(tmp_path):
    remote = fsspec.filesystem("memory")
    remote.pipe_file("/drop/books/reviews.jsonl", json_lines([review()]).encode())
    shop = Workshop(tmp_path, incoming={"location": "memory://drop", "settle_s": 0})
    try:
        ingest(shop, "books")
        assert shop.reviews("user_id") == ["ann"] and not needs_ingest(shop.database, scan(shop.settings)[0])
        remote.pipe_file("/drop/books/reviews.jsonl", json_lines([review("bob"), review("cy")]).encode())
        assert needs_ingest(shop.database, scan(shop.settings)[0])
        ingest(shop, "books")
        assert shop.reviews("user_id") == ["bob", "cy"]
    finally:
        remote.rm("/drop", recursive=True)
