"""Catalogues are named, registered, counted and deleted without leaving anything behind."""

import pytest

from persona4rec_pipeline.reviews.catalogs import (
    Catalog,
    CatalogError,
    delete_catalog_rows,
    get_catalog,
    list_catalogs,
    register_catalog,
    source_fingerprint,
    validate_catalog_name,
)
from persona4rec_pipeline.reviews.files import SourceError
from persona4rec_pipeline.reviews.splits import assign_splits
from persona4rec_tests.reviews.builders import json_lines, review, write


@pytest.mark.parametrize("name", ["a", "books", "books-2026_11", "b" * 64])
def test_good_names_are_returned(name):
    assert validate_catalog_name(name) == name


@pytest.mark.parametrize("name", ["", "Books", "1books", "-a", "b" * 65, "a b", "a\n", "a/b", "...", "bücher", "a'b"])
def test_bad_names_are_refused_with_an_example_of_a_good_one(name):
    with pytest.raises(CatalogError, match="for example books-2026-11"):
        validate_catalog_name(name)


def test_a_registered_catalogue_comes_back_as_stated_with_its_format_and_absolute_paths(workshop, monkeypatch):
    write(workshop.sources / "r.jsonl", json_lines([review()]))
    monkeypatch.chdir(workshop.sources)
    stored = register_catalog(workshop.database, Catalog("books", "r.jsonl", limit_items=5, domain="novel"))
    assert stored.source_format == "generic" and stored.reviews_source == str(workshop.sources / "r.jsonl")
    assert get_catalog(workshop.database, "books") == stored


def test_registering_again_changes_nothing_but_another_statement_needs_to_say_so(workshop):
    catalog = workshop.catalog([review()])
    stored = register_catalog(workshop.database, catalog)
    assert register_catalog(workshop.database, catalog) == stored
    other = workshop.catalog([review()], domain="film")
    with pytest.raises(CatalogError, match="registered already"):
        register_catalog(workshop.database, other)
    register_catalog(workshop.database, other, replace_existing=True)
    assert get_catalog(workshop.database, "books").domain == "film"


def test_what_cannot_be_ingested_is_not_registered(workshop):
    rows = workshop.catalog([review()])
    for bad in (
        Catalog("books", "nowhere.jsonl"),
        Catalog("books", rows.reviews_source, "nowhere.jsonl"),
        Catalog("books", rows.reviews_source, str(write(workshop.sources / "i.jsonl", '{"id": 1}\n'))),
        Catalog("Books", rows.reviews_source),
        Catalog("books", rows.reviews_source, limit_items=0),
        Catalog("books", rows.reviews_source, source_format="amazon"),
    ):
        with pytest.raises((SourceError, CatalogError)):
            register_catalog(workshop.database, bad)
    assert list_catalogs(workshop.database) == []


def test_an_unknown_catalogue_is_an_error_that_names_the_known_ones(workshop):
    register_catalog(workshop.database, workshop.catalog([review()]))
    with pytest.raises(CatalogError, match="registered: books"):
        get_catalog(workshop.database, "film")


def test_catalogues_are_listed_with_their_counts(workshop):
    workshop.ingest_both([*[review(f"u{n}", day=n) for n in range(30)], review("u1", "emma"), review(text="")])
    register_catalog(workshop.database, workshop.catalog([review()], name="art"))
    art, books = list_catalogs(workshop.database)
    assert (art.catalog.name, art.items, art.reviews, art.users, art.rejected) == ("art", 0, 0, 0, 0)
    assert (books.catalog.name, books.items, books.reviews, books.users, books.rejected) == ("books", 2, 31, 30, 1)
    assert art.source_fingerprint is None and books.source_fingerprint


def tables_with_catalog(database):
    rows = database.rows("SELECT table_name FROM information_schema.columns WHERE column_name = 'catalog'")
    return sorted(row[0] for row in rows)


def test_deleting_a_catalogue_leaves_nothing_of_it_in_any_table_and_all_of_the_others(workshop):
    for name in ("art", "books"):
        workshop.ingest_both([*[review(f"u{n}") for n in range(30)], review(text="")], name=name)
    assign_splits(workshop.database, workshop.settings)
    with workshop.database.write() as connection:
        connection.execute("CREATE TABLE invented_later (catalog VARCHAR)")
        connection.execute("INSERT INTO invented_later VALUES ('art'), ('books')")
    tables = tables_with_catalog(workshop.database)
    assert {"catalogs", "items", "reviews", "splits", "rejected_rows", "personas", "invented_later"} <= set(tables)
    count = "SELECT count(*) FILTER (WHERE catalog = 'art'), count(*) FILTER (WHERE catalog = 'books') FROM {}"
    before = {table: workshop.database.rows(count.format(table))[0] for table in tables}
    deleted = delete_catalog_rows(workshop.database, "books")
    assert deleted == {"candidates": 0} | {table: books for table, (_, books) in before.items()}
    after = {table: workshop.database.rows(count.format(table))[0] for table in tables}
    assert after == {table: (art, 0) for table, (art, _) in before.items()}
    assert not any(delete_catalog_rows(workshop.database, "books").values())


def test_a_fingerprint_follows_every_file_of_both_sources(workshop):
    folder = workshop.sources / "in"
    write(folder / "1.jsonl", json_lines([review()]))
    items = write(workshop.sources / "items.jsonl", json_lines([{"item_id": "dune"}]))
    catalog = Catalog("books", str(folder), str(items))
    seen = {source_fingerprint(catalog)}
    assert source_fingerprint(catalog) in seen
    write(folder / "2.jsonl", json_lines([review("b")]))
    seen.add(source_fingerprint(catalog))
    write(items, json_lines([{"item_id": "emma"}]))  # the same size, another time
    seen.add(source_fingerprint(catalog))
    (folder / "1.jsonl").unlink()
    seen.add(source_fingerprint(catalog))
    assert len(seen) == 4


def test_a_vanished_or_empty_source_has_no_fingerprint(workshop):
    path = write(workshop.sources / "r.jsonl", json_lines([review()]))
    catalog = Catalog("books", str(path))
    path.write_bytes(b"")
    with pytest.raises(SourceError):
        source_fingerprint(catalog)
    path.unlink()
    with pytest.raises(SourceError):
        source_fingerprint(catalog)
