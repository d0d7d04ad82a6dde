"""Who is in which segment, and where the head of a catalogue ends."""

from __future__ import annotations

import numpy as np
import pytest

from persona4rec_pipeline.evaluation.segments import head_popularity, segments


def test_the_segments_of_users_by_hand():
    found = segments(np.array([0, 1, 2, 4, 5, 90]), np.zeros(6, int), np.array([3, 1]))
    assert {name: np.flatnonzero(mask).tolist() for name, mask in found.items()} == {
        "users with 0 interactions": [0],
        "users with 1 interaction": [1],
        "users with 2 to 4 interactions": [2, 3],
        "users with 5 or more interactions": [4, 5],
        "head items": [],
        "tail items": [0, 1, 2, 3, 4, 5],
    }


@pytest.mark.parametrize(
    ("popularity", "fewest_in_head"),
    [
        ([1, 10, 3, 3, 3], 10),  # 10 of 20 are half
        ([9, 3, 4, 2, 2], 4),  # 9 of 20 are not, 13 are
        ([9, 3, 3, 3, 2], 4),  # the second of the head would be one of three equal ones: the head is the 9 alone
        ([4, 4, 1], 4),  # two equal ones, both needed
        ([2, 2, 2, 2], 3),  # no item is more popular than another: there is no head
        ([0, 0, 1], 1),
        ([0, 0], 1),
        ([], 1),
    ],
)
def test_the_head_are_the_fewest_items_that_hold_half_and_no_tie_is_parted(popularity, fewest_in_head):
    assert head_popularity(np.array(popularity, np.int64)) == fewest_in_head


def test_targets_fall_into_head_and_tail_and_those_without_interactions_into_the_tail():
    popularity = np.array([9, 3, 3, 3, 2, 0])
    found = segments(np.ones(4, int), popularity[[0, 1, 3, 5]], popularity)
    assert found["head items"].tolist() == [True, False, False, False]


def test_every_user_is_in_one_segment_of_users_and_in_one_of_items():
    random = np.random.default_rng(2)
    popularity = random.zipf(1.6, 300) - 1
    found = list(segments(random.poisson(2, 500), random.choice(popularity, 500), popularity).values())
    assert (np.sum(found[:4], axis=0) == 1).all()
    assert (np.sum(found[4:], axis=0) == 1).all()
    assert found[4].any()


def test_counts_of_different_users_are_refused():
    with pytest.raises(ValueError, match="one target"):
        segments(np.zeros(2, int), np.zeros(3, int), np.array([1]))
