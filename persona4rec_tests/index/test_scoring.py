"""The arithmetic of profile and score."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona4rec_pipeline.index import scoring


def random_units(seed: int, rows: int, dimension: int = 8, dtype: str = "float16") -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)


def brute_force(profile: np.ndarray, vectors: np.ndarray, offsets: np.ndarray, polarity: np.ndarray) -> list[tuple]:
    """Score and winner of every item, one persona at a time."""
    answers = []
    for item in range(len(offsets) - 1):
        best: tuple[float, int] = (float("-inf"), -1)
        for row in range(offsets[item], offsets[item + 1]):
            cosine = float(vectors[row].astype(np.float32) @ profile)
            if polarity[row] >= 0 and cosine > best[0]:
                best = (cosine, row)
        answers.append(best)
    return answers


catalogues = st.tuples(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 4), min_size=0, max_size=30),
    st.sampled_from(["float16", "float32"]),
)


@given(catalogues)
def test_the_score_of_an_item_equals_brute_force_over_its_favourable_personas(catalogue):
    seed, sizes, dtype = catalogue
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    vectors = random_units(seed, int(offsets[-1]), dtype=dtype)
    polarity = np.random.default_rng(seed).integers(-1, 2, offsets[-1]).astype(np.int8)
    profile = random_units(seed + 1, 1, dtype="float32")[0]
    scores, winners = scoring.score_items(profile, vectors, offsets, polarity)
    expected = brute_force(profile, vectors, offsets, polarity)
    assert scores.tolist() == pytest.approx([score for score, _ in expected], abs=1e-6)
    assert winners.tolist() == [winner for _, winner in expected]


@given(catalogues, st.lists(st.integers(-1, 29), max_size=40))
def test_scoring_candidates_equals_scoring_the_whole_catalogue(catalogue, wanted):
    seed, sizes, dtype = catalogue
    rows = np.array([row for row in wanted if row < len(sizes)], np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    vectors = random_units(seed, int(offsets[-1]), dtype=dtype)
    polarity = np.random.default_rng(seed).integers(-1, 2, offsets[-1]).astype(np.int8)
    profile = random_units(seed + 1, 1, dtype="float32")[0]
    all_scores, all_winners = scoring.score_items(profile, vectors, offsets, polarity)
    scores, winners = scoring.score_candidates(profile, rows, vectors, offsets, polarity)
    for row, score, winner in zip(rows, scores, winners, strict=True):
        if row < 0:
            assert np.isnan(score) and winner == -1
        else:
            assert score == pytest.approx(all_scores[row], abs=1e-6)
            assert winner == all_winners[row]


@given(st.lists(st.one_of(st.none(), st.floats(-1, 1, width=32), st.just(float("-inf"))), max_size=30))
def test_an_unknown_candidate_keeps_its_place_and_the_known_ones_fall_by_score(stated):
    scores = np.array([np.nan if score is None else score for score in stated], np.float32)
    order = scoring.order_candidates(scores)
    assert sorted(order.tolist()) == list(range(len(scores)))
    assert all(order[place] == place for place in np.flatnonzero(np.isnan(scores)))
    known = [position for position in order.tolist() if not np.isnan(scores[position])]
    assert known == sorted(known, key=lambda position: (-scores[position], position))


def test_widening_half_precision_is_exact_for_every_finite_number():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)]
    assert np.array_equal(scoring._widen(finite), finite.astype(np.float32))


def test_more_rows_than_a_block_give_the_same_cosines():
    vectors, profile = random_units(1, 3 * scoring.BLOCK_ROWS + 5), random_units(2, 1, dtype="float32")[0]
    assert np.allclose(scoring.similarities(profile, vectors), vectors.astype(np.float32) @ profile, atol=1e-6)


def test_the_profile_weighs_each_interaction_by_the_decay_of_its_age():
    vectors = np.eye(3, dtype=np.float32)
    mean = np.array([1, 0.5, 0.25]) / 1.75
    assert np.allclose(scoring.user_profile(vectors, 0.5), mean / np.linalg.norm(mean))


def test_without_decay_the_order_of_the_interactions_does_not_matter():
    vectors = random_units(3, 6, dtype="float32")
    assert np.allclose(scoring.user_profile(vectors, 1.0), scoring.user_profile(vectors[::-1], 1.0), atol=1e-6)


def test_profiles_of_many_users_equal_the_profiles_one_by_one():
    vectors, offsets = random_units(4, 9, dtype="float32"), np.array([0, 2, 3, 9])
    together = scoring.user_profiles(vectors, offsets, 0.8)
    for user, (start, stop) in enumerate(pairwise(offsets)):
        assert np.allclose(together[user], scoring.user_profile(vectors[start:stop], 0.8))


def test_a_profile_without_interactions_is_refused():
    with pytest.raises(ValueError, match="at least one interaction"):
        scoring.user_profile(np.empty((0, 4), np.float32), 0.9)


def test_opposite_interactions_give_a_zero_profile_and_not_a_nan():
    assert scoring.user_profile(np.array([[1.0, 0], [-1.0, 0]], np.float32), 1.0).tolist() == [0, 0]


def test_a_critical_persona_never_wins_however_near_it_is():
    vectors = np.eye(2, dtype=np.float16)
    scores, winners = scoring.score_items(
        np.array([1, 0], np.float32), vectors, np.array([0, 2]), np.array([-1, 1], np.int8)
    )
    assert scores.tolist() == [0] and winners.tolist() == [1]


def test_an_item_with_only_critical_personas_has_no_score():
    scores, winners = scoring.score_items(
        np.array([1, 0], np.float32), np.eye(2, dtype=np.float16), np.array([0, 2]), np.array([-1, -1], np.int8)
    )
    assert scores.tolist() == [float("-inf")] and winners.tolist() == [-1]


def test_the_blend_is_the_weighted_sum_of_both_standardised():
    candidate, persona = np.array([3.0, 2.0, 1.0]), np.array([0.1, 0.3, 0.2])
    deviation = np.sqrt(2 / 3)
    expected = 0.75 * np.array([1, 0, -1]) / deviation + 0.25 * np.array([-1, 1, 0]) / deviation
    np.testing.assert_allclose(scoring.blend(candidate, persona, 0.25), expected)
    logs = -np.log2([1, 2, 3])
    by_rank = 0.75 * (logs - logs.mean()) / logs.std() + 0.25 * np.array([-1, 1, 0]) / deviation
    np.testing.assert_allclose(scoring.blend(candidate, persona, 0.25, "rank"), by_rank)


def test_in_the_blend_an_item_without_favourable_persona_counts_as_the_least_similar_and_an_unknown_one_stays_unknown():
    persona = np.array([0.5, -np.inf, 0.1, np.nan])
    blended = scoring.blend(np.array([4.0, 3.0, 2.0, 1.0]), persona, 1.0)
    assert blended[1] == blended[2] < blended[0] and np.isnan(blended[3])
    none = scoring.blend(np.array([2.0, 1.0]), np.array([-np.inf, -np.inf]), 0.5)
    assert none[0] > none[1], "where no candidate has a persona the candidate order decides"
    flat = scoring.blend(np.array([1.0, 1.0]), np.array([0.2, 0.4]), 0.5)
    assert flat[1] > flat[0]


def test_a_half_life_halves_what_is_that_much_older_than_the_newest():
    offsets, days = np.array([0, 2, 3]), np.array([100.0, 70.0, 5.0])
    np.testing.assert_allclose(scoring.history_weights(offsets, 0.9, days, 30.0), [1, 0.45, 1])
    np.testing.assert_allclose(scoring.history_weights(offsets, 0.9), [1, 0.9, 1])
    with pytest.raises(ValueError, match="times"):
        scoring.history_weights(offsets, 0.9, None, 30.0)
