"""A partition ends up with exactly the incoming rows, and only what differs is written."""

from persona4rec_pipeline.reviews.partitions import replace_changed_rows


def replace(database, catalog, *rows):
    """Make the items of a catalogue these (item, title, categories); rows written."""
    values = ", ".join(f"('{catalog}', '{item}', {title}, {categories})" for item, title, categories in rows)
    incoming = (
        "SELECT *, NULL AS description, '{}' AS attributes "
        f"FROM (VALUES {values}) AS incoming (catalog, item_id, title, categories)"
    )
    with database.write() as connection:
        return replace_changed_rows(connection, "items", "item_id", incoming, catalog)


def titles(database):
    return database.rows("SELECT catalog, item_id, title FROM items ORDER BY ALL")


def test_only_rows_that_differ_are_written(workshop):
    database = workshop.database
    one, two, three = ("1", "'a'", "['x']"), ("2", "NULL", "NULL"), ("3", "'c'", "[]")
    assert replace(database, "books", one, two, three) == 3
    assert replace(database, "books", three, two, one) == 0
    assert replace(database, "books", one, ("2", "'b'", "NULL"), ("4", "'d'", "NULL")) == 4
    assert titles(database) == [("books", "1", "a"), ("books", "2", "b"), ("books", "4", "d")]
    assert replace(database, "books", ("1", "'a'", "['x', 'y']")) == 4


def test_other_catalogues_with_the_same_keys_are_left_alone(workshop):
    replace(workshop.database, "art", ("1", "'art'", "NULL"))
    replace(workshop.database, "books", ("1", "'book'", "NULL"))
    assert titles(workshop.database) == [("art", "1", "art"), ("books", "1", "book")]
