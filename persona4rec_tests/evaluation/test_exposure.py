"""Coverage, Gini index, popularity and similarity of lists: against hands and against the definitions, pair by pair."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from persona4rec_pipeline.evaluation.exposure import exposure, gini_index, intra_list_similarity


def random_lists(users: int, k: int, items: int) -> np.ndarray:
    """Lists without repetition, of 0 to k items, padded at the end."""
    random = np.random.default_rng(3)
    lists = np.array([random.choice(items, k, replace=False) for _ in range(users)])
    lists[np.arange(k) >= random.integers(0, k + 1, users)[:, None]] = -1
    return lists


def unit_vectors(items: int) -> np.ndarray:
    vectors = np.random.default_rng(4).normal(size=(items, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_the_figures_of_hand_computed_lists():
    lists = np.array([[0, 1], [0, -1], [0, 2]])
    # Ranks by popularity: item 3 is first, 0 second, 1 and 2 share third and fourth.
    found = exposure(lists, np.array([5, 1, 1, 9]))
    assert (found.coverage, found.distinct_items) == (0.75, 3)
    assert found.mean_popularity_rank == pytest.approx((2 + 3.5 + 2 + 2 + 3.5) / 5)
    # Shares 0, 1/5, 1/5, 3/5 with weights -3, -1, 1, 3.
    assert found.gini == pytest.approx((-1 / 5 + 1 / 5 + 9 / 5) / 3)
    assert found.intra_list_similarity is None


def test_the_gini_index_is_the_mean_difference_between_items_of_the_whole_catalogue():
    counts = np.random.default_rng(1).poisson(1.0, 60)
    assert (counts == 0).any()
    n = len(counts)
    differences = np.abs(counts[:, None] - counts).sum()
    assert gini_index(counts) == pytest.approx(differences / (2 * n * (n - 1) * counts.mean()))
    assert gini_index(np.array([4, 4, 4])) == 0
    assert gini_index(np.array([0, 7, 0])) == 1


def test_the_similarity_is_that_of_all_pairs_of_lists_with_two_items():
    lists, vectors = random_lists(50, 5, 30), unit_vectors(30)
    expected = []
    for row in lists:
        items = [item for item in row if item >= 0]
        if len(items) > 1:
            expected.append(np.mean([vectors[a] @ vectors[b] for a, b in combinations(items, 2)]))
    assert 0 < len(expected) < len(lists)
    assert intra_list_similarity(lists, vectors) == pytest.approx(np.mean(expected), abs=1e-6)


def test_lists_of_single_items_have_no_similarity_and_empty_lists_no_figures():
    vectors = unit_vectors(3)
    assert exposure(np.array([[1, -1], [-1, 2]]), np.array([1, 2, 3]), vectors).intra_list_similarity is None
    nothing = exposure(np.full((2, 3), -1), np.array([1, 2, 3]), vectors)
    assert (nothing.coverage, nothing.distinct_items) == (0, 0)
    assert nothing.gini is nothing.mean_popularity_rank is nothing.intra_list_similarity is None


@pytest.mark.parametrize(
    ("row", "message"), [([1, 1], "an item twice"), ([0, 3], "outside the catalogue of 3"), ([0, -2], "outside")]
)
def test_lists_that_are_none_are_refused(row, message):
    with pytest.raises(ValueError, match=message):
        exposure(np.array([row]), np.array([1, 2, 3]))
