"""Who is asking: the same arithmetic as that of the index, and clear words where it cannot be."""

from __future__ import annotations

import time

import numpy as np
import pytest

from persona4rec_pipeline.index import PersonaIndex
from persona4rec_pipeline.index.scoring import user_profile, user_profiles
from persona4rec_pipeline.serving.ask import Queued, draft, texts_of, who
from persona4rec_pipeline.serving.bodies import CatalogItem, Question
from persona4rec_pipeline.serving.history import HistoryError, parse_history
from persona4rec_pipeline.settings import Settings
from persona4rec_tests.index.builders import axis, two_catalogues, unit
from persona4rec_tests.serving.builders import ITEMS, ByTitle

TODAY = time.time() / 86_400


def opened(home, half_life_days=None) -> PersonaIndex:
    shop = two_catalogues(home)
    shop.publish(half_life_days=half_life_days)
    return PersonaIndex.open(shop.index_path)


def asks(index, *, tastes=1, queued=None, **question):
    if "history" in question:
        question["history"] = parse_history(question["history"])
    drafted = draft(index, Question(**question), tastes, queued)
    encoded = ByTitle().encode(texts_of(drafted, Settings())) if drafted.unread else None
    return who(index, drafted, encoded)


def test_the_most_recent_item_counts_most(tmp_path):
    history = ["emma", {"title": "odd tales"}, {"item_id": "dune", "review": "Loved the worms."}]
    found = asks(opened(tmp_path), history=[{"title": "emma", "review": "Wit."}, *history[1:]])
    assert found.profile[1] > found.profile[2] > found.profile[0] > 0
    assert np.linalg.norm(found.profile) == pytest.approx(1)
    assert (found.fallback, found.interactions) == (None, 3)


def test_an_item_of_which_nothing_is_said_needs_no_encoder(tmp_path):
    index = opened(tmp_path)
    drafted = draft(index, Question(history=["emma", "odd"]))
    assert not drafted.unread
    expected = user_profile(np.array([unit(1, 1), axis(3)], np.float32), 0.9)
    np.testing.assert_allclose(who(index, drafted).profile, expected, atol=1e-3)


def test_a_history_replaces_what_is_stored(tmp_path):
    index = opened(tmp_path)
    np.testing.assert_allclose(asks(index, user_id="ann", history=["odd"]).profile, axis(3), atol=1e-3)


def test_ages_count_as_they_do_in_the_index_where_that_was_built_with_a_half_life(tmp_path):
    entries = [{"title": item, "days_ago": age} for item, age in zip(ITEMS, (0, 30, 300), strict=True)]
    vectors = ByTitle().encode(ITEMS)
    [expected] = user_profiles(vectors, np.array([0, 3]), 0.9, np.array([1000.0, 970.0, 700.0]), 30)
    aged = asks(opened(tmp_path / "aged", half_life_days=30), history=entries).profile
    np.testing.assert_allclose(aged, expected, atol=1e-6)
    plain_index = opened(tmp_path / "plain")
    plain = asks(plain_index, history=entries).profile
    titles = [{"title": item} for item in ITEMS]
    np.testing.assert_allclose(plain, asks(plain_index, history=titles).profile, atol=1e-6)
    assert plain[2] > expected[2]


def test_items_of_the_session_stand_in_front_of_the_stored_history(tmp_path):
    index = opened(tmp_path)
    found = asks(index, user_id="ann", session=["odd"])
    vectors, _ = index.history_vectors("ann")
    expected = user_profile(np.concatenate([[axis(3)], vectors]).astype(np.float32), 0.9)
    np.testing.assert_allclose(found.profile, expected, atol=1e-3)
    assert (found.fallback, found.interactions, found.seen_by, found.seen) == (None, 2, "ann", ("odd",))


@pytest.mark.parametrize("user", ["nobody", None])
def test_the_session_of_a_stranger_is_the_profile_and_is_said_to_be(tmp_path, user):
    found = asks(opened(tmp_path), user_id=user, session=["odd", "emma"])
    assert (found.fallback, found.interactions) == ("session", 2)
    assert found.profile[3] > found.profile[0] > 0


def test_what_the_index_does_not_know_of_a_session_is_named_and_left_out(tmp_path):
    gone = CatalogItem("films", "odd")
    found = asks(opened(tmp_path), session=["novel", "odd", gone])
    assert found.ignored == ("novel", ("films", "odd")) and found.seen == ("odd",)
    np.testing.assert_allclose(found.profile, axis(3), atol=1e-3)
    nothing_left = asks(opened(tmp_path), user_id="nobody", session=["novel"])
    assert (nothing_left.profile, nothing_left.fallback) == (None, "unknown_user")


def test_a_session_in_front_of_reviews_that_are_encoded_keeps_their_order(tmp_path):
    found = asks(opened(tmp_path), session=["odd"], history=[{"title": "emma"}, {"title": "dune"}])
    expected = user_profile(np.array([axis(3), axis(1), axis(0)], np.float32), 0.9)
    np.testing.assert_allclose(found.profile, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("question", "fallback"),
    [
        ({"user_id": "nobody"}, "unknown_user"),
        ({"user_id": "bob"}, "no_positive_history"),
        ({}, "no_profile"),
        ({"history": []}, "no_profile"),
        ({"user_id": "ann", "history": []}, "no_profile"),
        ({"session": []}, "no_profile"),
    ],
)
def test_where_there_is_nothing_to_go_by_it_is_said_why(tmp_path, question, fallback):
    found = asks(opened(tmp_path), **question)
    assert (found.profile, found.fallback) == (None, fallback)


def queued_of(*items, days=TODAY):
    vectors = np.array([axis(number) for _, number in items], np.float32).reshape(-1, 8)
    return Queued(vectors, np.full(len(items), days), tuple(name for name, _ in items))


def test_what_was_queued_counts_before_what_the_index_knows(tmp_path):
    index = opened(tmp_path)
    found = asks(index, user_id="ann", queued=queued_of(("odd", 3)))
    vectors, _ = index.history_vectors("ann")
    expected = user_profile(np.concatenate([[axis(3)], vectors]).astype(np.float32), 0.9)
    np.testing.assert_allclose(found.profile, expected, atol=1e-3)
    assert (found.interactions, found.seen) == (index.interactions_of("ann") + 1, ("odd",))


def test_what_was_queued_late_but_happened_long_ago_counts_where_it_belongs(tmp_path):
    index = opened(tmp_path)
    found = asks(index, user_id="ann", queued=queued_of(("odd", 3), days=0.0))
    vectors, _ = index.history_vectors("ann")
    expected = user_profile(np.concatenate([vectors, [axis(3)]]).astype(np.float32), 0.9)
    np.testing.assert_allclose(found.profile, expected, atol=1e-3)


def test_a_stranger_with_queued_likes_is_none_any_more(tmp_path):
    found = asks(opened(tmp_path), user_id="nobody", queued=queued_of(("odd", 3)))
    np.testing.assert_allclose(found.profile, axis(3), atol=1e-3)
    assert (found.fallback, found.interactions) == (None, 1)


def test_a_stranger_with_queued_dislikes_alone_has_no_positive_history(tmp_path):
    nothing = Queued(np.empty((0, 8), np.float32), np.empty(0), ("odd",))
    found = asks(opened(tmp_path), user_id="nobody", queued=nothing)
    assert (found.profile, found.fallback, found.seen) == (None, "no_positive_history", ("odd",))


def test_recent_taste_stands_beside_the_whole(tmp_path):
    found = asks(opened(tmp_path), tastes="recent", history=["odd", "dune", "odd", "dune"])
    assert found.profile.shape[0] == 2


def test_distinct_tastes_give_several_profiles(tmp_path):
    found = asks(opened(tmp_path), tastes=2, history=["odd", "dune", "odd", "dune"])
    assert found.profile.shape == (2, 8)


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        (["dune", "no-such"], "entry 2: .*no item no-such.*Give its title"),
        ([{"review": "Nice."}], "entry 1 has neither item_id nor title"),
        ([{"item_id": "dune", "days_ago": 1}, "emma"], "entry 2 has no days_ago"),
        ([{"item_id": "dune", "days_ago": 9}, {"item_id": "emma", "days_ago": 1}], "entry 2 is newer"),
        ([{"item_id": "dune", "days_ago": -1}], "entry 0"),
        ([7], "entry 0"),
        ([{"item": "dune"}], "entry 0"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_entry(tmp_path, entries, told):
    with pytest.raises(HistoryError, match=told):
        asks(opened(tmp_path), history=entries)


def test_a_history_that_is_no_list_is_refused():
    with pytest.raises(HistoryError, match="the whole"):
        parse_history("dune")
