"""A profile of a history that is given by hand: the same arithmetic as that of the index, and clear words where it cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from persona4rec_pipeline.index import PersonaIndex
from persona4rec_pipeline.index.scoring import user_profiles
from persona4rec_pipeline.serving.history import HistoryError, parse_history, profile_from_history
from persona4rec_pipeline.settings import Settings
from persona4rec_tests.index.builders import ENCODER, axis, two_catalogues

ITEMS = ["dune", "emma", "odd"]


class ByTitle:
    """One axis per item of ITEMS, told by its title; stands in for the encoder that made the index."""

    def __init__(self, fingerprint: str = ENCODER):
        self.fingerprint = fingerprint

    def encode(self, texts):
        return np.array([axis(next(n for n, item in enumerate(ITEMS) if item in text)) for text in texts], np.float32)


def opened(home, half_life_days=None) -> PersonaIndex:
    shop = two_catalogues(home)
    shop.publish(half_life_days=half_life_days)
    return PersonaIndex.open(shop.index_path)


def profile(index, *entries, encoder=None):
    return profile_from_history(parse_history(list(entries)), index, encoder or ByTitle(), Settings())


def test_the_most_recent_item_counts_most(tmp_path):
    found = profile(opened(tmp_path), "emma", {"title": "odd tales"}, {"item_id": "dune", "review": "Loved the worms."})
    assert found[1] > found[2] > found[0] > 0 and np.linalg.norm(found) == pytest.approx(1)


def test_ages_count_as_they_do_in_the_index_where_that_was_built_with_a_half_life(tmp_path):
    entries = [{"item_id": item, "days_ago": age} for item, age in zip(ITEMS, (0, 30, 300), strict=True)]
    index = opened(tmp_path / "aged", half_life_days=30)
    vectors = ByTitle().encode(ITEMS)
    [expected] = user_profiles(vectors, np.array([0, 3]), 0.9, np.array([1000.0, 970.0, 700.0]), 30)
    np.testing.assert_allclose(profile(index, *entries), expected, atol=1e-6)
    plain = profile(opened(tmp_path / "plain"), *entries)
    np.testing.assert_allclose(plain, profile(index, *ITEMS), atol=1e-6)
    assert plain[2] > expected[2]


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([], "empty"),
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
        profile(opened(tmp_path), *entries)


def test_a_history_that_is_no_list_is_refused(tmp_path):
    with pytest.raises(HistoryError, match="the whole"):
        parse_history("dune")


def test_an_encoder_that_did_not_make_the_index_is_refused(tmp_path):
    with pytest.raises(HistoryError, match=r"not the one that made the index.*publish the index"):
        profile(opened(tmp_path), "dune", encoder=ByTitle("another"))
