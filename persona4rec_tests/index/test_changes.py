"""Segments: what a change writes, what it leaves, and that an index of many answers as one of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from persona4rec_pipeline.index import (
    IndexMissing,
    NewItem,
    NewPersona,
    PersonaIndex,
    change_index,
    changes,
    compact_index,
    files,
)
from persona4rec_tests.index.builders import DIMENSION, Shop, axis, unit

TEN = [unit(1, number / 10) for number in range(10)]


def shop_of_ten(home: Path) -> Shop:
    shop = Shop(home)
    for number, vector in enumerate(TEN):
        shop.item(f"item {number}", (vector, "appreciative"), (axis(3), "critical"))
    return shop.interaction("ann", "item 9", axis(0)).interaction("bob", "item 2", axis(1))


def segments_of(index_path: Path, catalog: str = "books") -> dict[str, tuple[int, int]]:
    """Segment: (items, dead items)."""
    manifest = files.read_manifest(files.current_generation(index_path))
    return {name: (counts.items, counts.dead) for name, counts in manifest.catalogs[catalog].segments.items()}


def answers(index_path: Path) -> list[list[tuple]]:
    index = PersonaIndex.open(index_path)
    profiles = [unit(1, 0), unit(1, 1), unit(0, 1, 1)]
    found = [index.search(np.array(profile, np.float32), 20) for profile in profiles]
    found += [index.popular(20), index.recommend("ann", 20), index.similar("item 5", 20)]
    return [[(item.item_id, item.score, item.why, item.quotes) for item in items] for items in found]


def change(shop: Shop, item_id: str, word: str) -> None:
    for row in shop.rows["personas"]:
        if row["item_id"] == item_id:
            row["preference_rationale"] = word


def test_a_changed_item_is_written_alone_and_the_others_are_the_very_same_files(tmp_path):
    shop = shop_of_ten(tmp_path)
    before = shop.publish().path
    change(shop, "item 4", "Another reason.")
    after = shop.publish().path
    assert segments_of(shop.index_path) == {"segment=000001": (10, 1), "segment=000002": (1, 0)}
    kept = "shards/catalog=books/segment=000001/vectors.npy"
    assert (before / kept).samefile(after / kept)
    assert (
        PersonaIndex.open(shop.index_path).rerank(np.array(TEN[4], np.float32), ["item 4"])[0].why == "Another reason."
    )


def test_what_has_not_changed_publishes_nothing_whatever_the_segments(tmp_path):
    shop = shop_of_ten(tmp_path)
    shop.publish()
    change(shop, "item 4", "Another reason.")
    assert shop.publish().published
    assert not shop.publish().published


@pytest.mark.parametrize("step", ["add", "update", "remove"])
def test_an_index_of_segments_answers_as_one_that_was_written_anew(tmp_path, step):
    shops = [shop_of_ten(tmp_path / name) for name in ("grown", "new")]
    shops[0].publish()
    for shop in shops:
        if step == "add":
            shop.item("item 35", (TEN[3], "appreciative")).interaction("cleo", "item 35", axis(2))
        elif step == "update":
            change(shop, "item 3", "Another reason.")
        else:
            for table in ("items", "item_summaries", "item_vectors", "personas", "persona_vectors", "reviews"):
                shop.rows[table] = [row for row in shop.rows[table] if row["item_id"] != "item 3"]
        shop.publish()
    grown, new = (shop.index_path for shop in shops)
    assert len(segments_of(grown)) == (1 if step == "remove" else 2) and len(segments_of(new)) == 1
    assert answers(grown) == answers(new)


def test_ties_fall_by_item_id_also_between_segments(tmp_path):
    shop = Shop(tmp_path)
    for number in range(0, 20, 2):
        shop.item(f"{number:02d}", (axis(0), "appreciative"))
    shop.publish()
    shop.item("05", (axis(0), "appreciative")).item("21", (axis(0), "appreciative")).publish()
    assert len(segments_of(shop.index_path)) == 2
    index = PersonaIndex.open(shop.index_path)
    assert [item.item_id for item in index.search(np.array(axis(0), np.float32), 4)] == ["00", "02", "04", "05"]
    assert [item.item_id for item in index.popular(4)] == ["00", "02", "04", "05"]


def test_when_much_is_dead_everything_is_written_anew(tmp_path):
    shop = shop_of_ten(tmp_path)
    shop.publish()
    for number in range(5):
        change(shop, f"item {number}", "Another reason.")
    shop.publish()
    assert segments_of(shop.index_path) == {"segment=000001": (10, 0)}


def test_there_are_never_more_than_so_many_segments(tmp_path):
    shop = Shop(tmp_path)
    for number in range(100):
        shop.item(f"item {number}", (axis(number % 3), "appreciative"))
    shop.publish()
    for number in range(changes.MAX_SEGMENTS + 3):
        change(shop, f"item {number}", f"Reason of day {number}.")
        shop.publish()
        assert len(segments_of(shop.index_path)) <= changes.MAX_SEGMENTS
    index = PersonaIndex.open(shop.index_path)
    for number in range(changes.MAX_SEGMENTS + 3):
        assert index.personas_of(f"item {number}")[0].why == f"Reason of day {number}."


def test_popularity_is_each_generations_own_and_rewrites_no_item(tmp_path):
    shop = shop_of_ten(tmp_path)
    old = shop.publish()
    shop.interaction("cleo", "item 0", axis(0)).interaction("dora", "item 0", axis(0)).publish()
    assert segments_of(shop.index_path) == {"segment=000001": (10, 0)}
    assert PersonaIndex.open(shop.index_path).item("item 0")["train_popularity"] == 2
    assert PersonaIndex.open(shop.index_path, generation=old.generation).item("item 0")["train_popularity"] == 0


def test_compaction_leaves_one_segment_and_every_answer_as_it_was(tmp_path):
    shop = shop_of_ten(tmp_path)
    shop.publish()
    change(shop, "item 4", "Another reason.")
    shop.item("item 45", (unit(1, 0.45), "mixed"), categories=["Sea"]).publish()
    before = answers(shop.index_path)
    assert len(segments_of(shop.index_path)) == 2
    published = compact_index(shop.index_path)
    assert published.published and segments_of(shop.index_path) == {"segment=000001": (11, 0)}
    assert answers(shop.index_path) == before
    assert PersonaIndex.open(shop.index_path).item("item 45")["categories"] == ["Sea"]
    assert not compact_index(shop.index_path).published
    # The next run compares with what was compacted, and finds it the same.
    assert not shop.publish().published


def new_item(item_id: str, vector: list[float], **more) -> NewItem:
    persona = NewPersona(
        "p1", f"Fan of {item_id}", "They like it.", f"Likes {item_id}.", "appreciative", vector, ["Good."]
    )
    return NewItem("books", item_id, f"Title of {item_id}", [persona], vector=vector, **more)


def test_items_are_added_updated_and_removed_without_a_warehouse(tmp_path):
    shop = shop_of_ten(tmp_path)
    shop.publish()
    published = change_index(
        shop.index_path,
        [
            new_item("new", axis(5), popularity=9, categories=["Sea"], attributes={"author": "Ann"}),
            new_item("item 1", axis(6)),
        ],
        [("books", "item 2"), ("books", "not there")],
    )
    assert published.generation == 2 and segments_of(shop.index_path) == {
        "segment=000001": (10, 2),
        "segment=000002": (2, 0),
    }
    index = PersonaIndex.open(shop.index_path)
    assert [item.item_id for item in index.search(np.array(axis(5), np.float32), 1)] == ["new"]
    assert index.search(np.array(axis(6), np.float32), 1)[0].why == "Likes item 1."
    assert index.item("new")["attributes"] == {"author": "Ann"} and index.popular(1)[0].item_id == "new"
    assert index.find_items("item 2") == [] and index.rerank(None, ["item 2"])[0].flags == ("unknown_item",)
    # A user whose history names it keeps it there, without a title.
    assert [(past.item_id, past.title) for past in index.history_of("bob")] == [("item 2", None)]
    assert index.profile_of("ann") is not None


def test_a_change_of_most_items_and_a_new_catalogue_come_out_whole(tmp_path):
    shop = shop_of_ten(tmp_path)
    shop.publish()
    changed = [new_item(f"item {number}", axis(5)) for number in range(6)]
    film = NewItem("films", "alien", "Alien", [])
    change_index(shop.index_path, [*changed, film])
    assert segments_of(shop.index_path) == {"segment=000001": (10, 0)}
    index = PersonaIndex.open(shop.index_path)
    assert index.catalogs == ("books", "films") and index.personas_of("item 7")[0].why == "Likes item 7 for reason 1."
    assert index.personas_of("alien") == []
    assert {item.item_id for item in index.search(np.array(axis(5), np.float32), 6)} == {f"item {n}" for n in range(6)}


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (new_item("x", [1.0]), f"{DIMENSION} numbers of unit length"),
        (new_item("x", [2.0] * DIMENSION), "of unit length"),
        (NewItem("books", "x", "X", [NewPersona("p1", "n", "d", "w", "fond", axis(0))]), "polarity 'fond'"),
        (NewItem("books", "x", "X", [NewPersona("p1", "n", "d", "w", "mixed", axis(0))] * 2), "same persona_id"),
    ],
)
def test_an_item_that_cannot_be_served_is_refused_and_nothing_is_published(tmp_path, item, message):
    shop = shop_of_ten(tmp_path)
    shop.publish()
    with pytest.raises(ValueError, match=message):
        change_index(shop.index_path, [item])
    assert files.generation_numbers(shop.index_path) == [1]


def test_a_catalogue_cannot_be_emptied_and_an_index_that_is_not_there_not_changed(tmp_path):
    shop = shop_of_ten(tmp_path)
    with pytest.raises(IndexMissing, match="materialise"):
        change_index(shop.index_path, [new_item("x", axis(0))])
    shop.publish()
    with pytest.raises(ValueError, match="remove-catalog"):
        change_index(shop.index_path, removals=[("books", f"item {number}") for number in range(10)])
