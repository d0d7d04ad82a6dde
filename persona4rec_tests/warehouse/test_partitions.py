"""A partition ends up with exactly the incoming rows, and only what differs is written."""

import pandas as pd
import pytest

from persona4rec_pipeline.settings import load_settings
from persona4rec_pipeline.warehouse import open_warehouse, replace_changed_rows


@pytest.fixture
def database(tmp_path):
    return open_warehouse(load_settings({}, home=tmp_path))


def replace(database, catalog, *rows):
    """Make the items of a catalogue these (item, title, categories); rows written."""
    values = ", ".join(f"('{catalog}', '{item}', {title}, {categories})" for item, title, categories in rows)
    incoming = (
        "SELECT *, NULL AS description, '{}' AS attributes "
        f"FROM (VALUES {values}) AS incoming (catalog, item_id, title, categories)"
    )
    with database.write() as connection:
        return replace_changed_rows(connection, "items", incoming, "catalog = $catalog", {"catalog": catalog})


def titles(database):
    return database.rows("SELECT catalog, item_id, title FROM items ORDER BY ALL")


def test_only_rows_that_differ_are_written(database):
    one, two, three = ("1", "'a'", "['x']"), ("2", "NULL", "NULL"), ("3", "'c'", "[]")
    assert replace(database, "books", one, two, three) == 3
    assert replace(database, "books", three, two, one) == 0
    assert replace(database, "books", one, ("2", "'b'", "NULL"), ("4", "'d'", "NULL")) == 4
    assert titles(database) == [("books", "1", "a"), ("books", "2", "b"), ("books", "4", "d")]
    assert replace(database, "books", ("1", "'a'", "['x', 'y']")) == 4


def test_other_catalogues_with_the_same_keys_are_left_alone(database):
    replace(database, "art", ("1", "'art'", "NULL"))
    replace(database, "books", ("1", "'book'", "NULL"))
    assert titles(database) == [("art", "1", "art"), ("books", "1", "book")]


def test_only_the_named_rows_of_a_catalogue_are_replaced(database):
    replace(database, "books", ("1", "'a'", "NULL"), ("2", "'b'", "NULL"), ("3", "'c'", "NULL"))
    rows = pd.DataFrame({"catalog": ["books"], "item_id": ["1"], "title": ["new"]})
    assert database.replace("items", rows, "books", within=("item_id", ["1", "2"])) == 3
    assert titles(database) == [("books", "1", "new"), ("books", "3", "c")]


def test_equal_rows_are_not_written_and_the_file_stays_as_it_was(database):
    rows = pd.DataFrame({"catalog": ["books"] * 2, "item_id": ["1", "2"], "title": ["a", None]})
    assert database.replace("items", rows, "books") == 2
    before = database.path.stat().st_mtime_ns
    assert database.replace("items", rows[::-1], "books") == 0
    assert database.path.stat().st_mtime_ns == before
