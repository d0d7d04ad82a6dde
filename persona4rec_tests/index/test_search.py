"""Asking an open index: filters that refill, sessions, several tastes, many users, similar items, finding, the map."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest

from persona4rec_pipeline.index import Filters, PersonaIndex, UnknownItem, scoring
from persona4rec_tests.index.builders import DIMENSION, Shop, axis, two_catalogues, unit


def vector(*numbers: float) -> np.ndarray:
    return np.array(unit(*numbers), np.float32)


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> PersonaIndex:
    shop = Shop(tmp_path_factory.mktemp("home"))
    for number in range(12):
        shop.item(
            f"b{number:02d}",
            (unit(1, number / 10), "appreciative"),
            categories=["Novel"] if number % 2 else ["novel", "Sea"],
            attributes={"author": f"Author {number % 3}", "pages": "300"},
            item_vector=axis(number % 5),
        )
    shop.item("f1", (axis(0), "appreciative"), catalog="films", categories=["Western"])
    shop.item("b01", (axis(2), "appreciative"), catalog="films")
    shop.interaction("ann", "b00", axis(0)).interaction("ann", "b03", axis(1)).interaction("bob", "b05", axis(2))
    shop.publish()
    return PersonaIndex.open(shop.index_path)


def ids(found) -> list[str]:
    return [item.item_id for item in found]


def test_filters_are_applied_before_the_best_are_taken_so_that_there_are_k(index):
    assert ids(index.search(vector(1), 3)) == ["b00", "f1", "b01"]
    assert ids(index.search(vector(1), 3, filters=Filters(categories=["SEA"]))) == ["b00", "b02", "b04"]
    assert ids(index.search(vector(1), 3, filters=Filters(catalogs=["films"]))) == ["f1", "b01"]
    assert ids(index.search(vector(1), 3, filters=Filters(attributes={"Author": ["author 1", "author 2"]}))) == [
        "b01",
        "b02",
        "b04",
    ]
    assert ids(index.search(vector(1), 9, filters=Filters(allow=["b07", "b11", "nowhere"]))) == ["b07", "b11"]
    assert ids(index.search(vector(1), 2, exclude=["b00"], filters=Filters(deny=["f1", ("books", "b01")]))) == [
        "b02",
        "b03",
    ]
    assert index.search(vector(1), 3, filters=Filters(categories=["Poem"])) == []
    both = Filters(categories=["sea"], attributes={"author": ["Author 0"], "pages": ["300"]})
    assert ids(index.search(vector(1), 9, filters=both)) == ["b00", "b06"]


def test_what_the_user_has_seen_is_left_out_and_popular_items_are_filtered_too(index):
    assert ids(index.search(vector(1), 3, seen_by="ann")) == ["f1", "b01", "b02"]
    assert ids(index.recommend("ann", 2, filters=Filters(categories=["sea"]))) == ["b10", "b08"]
    assert ids(index.popular(2, filters=Filters(categories=["sea"]))) == ["b00", "b02"]
    assert ids(index.recommend("nobody", 2, ["b00"])) == ["b03", "b05"]


def test_filters_take_candidates_out_and_unknown_ones_with_them_when_they_ask_for_what_is_known(index):
    names = ["b03", "novel", "b02", ("films", "f1")]
    assert ids(index.rerank(vector(1), names, filters=Filters(deny=["b03"]))) == ["novel", ("f1"), "b02"]
    assert ids(index.rerank(vector(1), names, filters=Filters(categories=["sea"]))) == ["b02"]
    assert ids(index.rerank(vector(1), names, filters=Filters(allow=["novel", "b02"]))) == ["novel", "b02"]
    assert ids(index.rerank(None, names, exclude=["novel", "b02"])) == ["b03", "f1"]


def test_a_session_is_a_profile_of_the_items_seen_now(index):
    profile = index.profile_from_items(["b00", "b01"])
    expected = scoring.user_profile(np.array([axis(0), axis(1)]), index.manifest.recency_decay)
    np.testing.assert_allclose(profile, expected, atol=1e-3)
    assert index.search(["b00", "b01"], 3) == index.search(profile, 3)
    assert index.rerank(["b00", "b01"], ["b05", "b00"]) == index.rerank(profile, ["b05", "b00"])
    with pytest.raises(UnknownItem, match="nowhere"):
        index.search(["nowhere"], 3)
    with pytest.raises(ValueError, match="at least one"):
        index.search([], 3)


def test_an_item_without_text_makes_no_profile(tmp_path):
    shop = Shop(tmp_path).item("mute", (axis(0), "mixed"), item_vector=[0.0] * DIMENSION)
    shop.publish()
    with pytest.raises(UnknownItem, match="neither title nor summary"):
        PersonaIndex.open(shop.index_path).item_vector("mute")


def test_a_profile_made_of_the_kept_history_is_the_stored_one(index):
    vectors, days = index.history_vectors("ann")
    assert vectors.shape == (2, DIMENSION) and days[0] > days[1]
    np.testing.assert_allclose(index.profile_from_vectors(vectors, days), index.profile_of("ann"), atol=1e-3)
    assert [(past.item_id, past.title, past.at) for past in index.history_of("ann")] == [
        ("b03", "Title of b03", datetime(2024, 1, 1, 2)),
        ("b00", "Title of b00", datetime(2024, 1, 1, 1)),
    ]
    assert index.history_of("nobody") == [] and len(index.history_vectors("nobody")[0]) == 0


def test_with_a_half_life_the_kept_times_count(tmp_path):
    shop = two_catalogues(tmp_path)
    shop.publish(half_life_days=1 / 24)
    index = PersonaIndex.open(shop.index_path)
    np.testing.assert_allclose(
        index.profile_from_vectors(*index.history_vectors("ann")), index.profile_of("ann"), atol=1e-3
    )


def test_of_several_tastes_the_best_counts_for_each_item(index):
    tastes = np.stack([vector(1), vector(0, 0, 1)])
    found = {(item.catalog, item.item_id): item.score for item in index.search(tastes, 20)}
    for single in tastes:
        for item in index.search(single, 20):
            assert found[item.catalog, item.item_id] >= item.score - 1e-6
    assert ids(index.search(tastes, 3)) == ["b00", "f1", "b01"] or found["films", "b01"] == pytest.approx(1, abs=1e-3)
    assert index.explain(tastes, ("films", "b01")).winner.score == pytest.approx(1, abs=1e-3)


def test_distinct_tastes_are_told_apart_and_one_taste_is_the_profile(index):
    vectors = np.array([axis(0), unit(1, 0.1), axis(4), unit(0, 0, 0, 0.1, 1)], np.float32)
    tastes = index.tastes_from_vectors(vectors, tastes=2)
    assert tastes.shape == (2, DIMENSION)
    assert np.argmax(np.abs(tastes), axis=1).tolist() == [0, 4]
    np.testing.assert_allclose(
        index.tastes_from_vectors(vectors, tastes=1)[0], index.profile_from_vectors(vectors), atol=1e-6
    )
    assert len(index.tastes_from_vectors(vectors[:1], tastes=3)) == 1


def test_recent_taste_stands_beside_the_whole(index):
    vectors = np.array([axis(number) for number in range(5)], np.float32)
    recent, whole = index.tastes_from_vectors(vectors, tastes="recent")
    np.testing.assert_allclose(recent, index.profile_from_vectors(vectors[:3]), atol=1e-6)
    np.testing.assert_allclose(whole, index.profile_from_vectors(vectors), atol=1e-6)
    assert len(index.tastes_from_vectors(vectors[:3], tastes="recent")) == 1


def test_many_users_at_once_get_what_each_gets_alone(index):
    profiles = np.stack([vector(1), vector(0, 1), vector(1, 1, 1)])
    together = index.search_many(profiles, 4, filters=Filters(catalogs=["books"]))
    for found, profile in zip(together, profiles, strict=True):
        assert ids(found) == ids(index.search(profile, 4, filters=Filters(catalogs=["books"])))
    assert index.search_many(profiles, 0) == [[], [], []] and index.search_many(profiles[:0], 3) == []


def test_similar_items_share_a_persona_and_the_item_itself_is_not_among_them(index):
    found = index.similar("b05", 3)
    assert ids(found) == ["b06", "b04", "b07"] and found[0].why == "Likes b06 for reason 1."
    with pytest.raises(UnknownItem):
        index.similar("nowhere", 3)


def test_an_item_that_only_disappoints_is_similar_to_none(tmp_path):
    shop = two_catalogues(tmp_path)
    shop.publish()
    assert PersonaIndex.open(shop.index_path).similar("hated", 5) == []


def test_items_and_users_are_found_by_what_one_types(index):
    assert [item["item_id"] for item in index.find_items("title of B0", 3)] == ["b00", "b03", "b05"]
    assert index.find_items("f1") == [{"item_id": "f1", "catalog": "films", "title": "Title of f1"}]
    assert index.find_items("") == [] == index.find_items("nothing like it")
    assert index.find_users() == ["ann", "bob"] and index.find_users("b") == ["bob"] and index.find_users("c") == []


def test_the_map_shows_near_personas_near_and_a_profile_among_them(index):
    found = index.persona_map()
    points = found.to_dict()["points"]
    assert found.to_dict()["total"] == len(points) == 14
    place = {(point["catalog"], point["item_id"]): np.array([point["x"], point["y"]]) for point in points}
    near = np.linalg.norm(place["books", "b00"] - place["books", "b01"])
    far = np.linalg.norm(place["books", "b00"] - place["films", "b01"])
    assert near < far
    np.testing.assert_allclose(found.point(np.array(axis(0), np.float32)), place["books", "b00"], atol=1e-3)
    assert len(index.persona_map(5).to_dict()["points"]) == 5


def test_an_open_generation_can_be_named(tmp_path):
    shop = two_catalogues(tmp_path)
    shop.publish()
    shop.item("new", (axis(4), "appreciative")).publish()
    assert PersonaIndex.open(shop.index_path).generation == 2
    assert PersonaIndex.open(shop.index_path, generation=1).generation == 1
