"""Hit rate, MRR and NDCG against hands and against ir-measures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona4rec_pipeline.evaluation import metrics


def test_ranks_count_from_one_and_a_missing_target_is_a_miss():
    rankings = {"ann": ["x", "y", "z"], "bob": ["x"], "dan": []}
    targets = {"ann": "y", "bob": "nowhere", "cleo": "x", "dan": "x"}
    assert metrics.target_ranks(rankings, targets).tolist() == [2, 0, 0, 0]


def test_a_ranking_that_names_an_item_twice_is_refused():
    with pytest.raises(ValueError, match="user ann names an item twice"):
        metrics.target_ranks({"ann": ["x", "x"]}, {"ann": "x"})


def test_the_metrics_of_hand_computed_ranks():
    ranks = np.array([1, 5, 6, 0, 21])
    assert metrics.hit_rate(ranks, 5).tolist() == [1, 1, 0, 0, 0]
    assert metrics.reciprocal_rank(ranks, 5).tolist() == [1, 1 / 5, 0, 0, 0]
    assert metrics.reciprocal_rank(ranks, 10) == pytest.approx([1, 1 / 5, 1 / 6, 0, 0])
    assert metrics.ndcg(ranks, 10) == pytest.approx([1, 1 / math.log2(6), 1 / math.log2(7), 0, 0])


def test_users_that_are_missed_stay_in_the_mean():
    assert metrics.means(np.array([1, 0, 0, 0]))["hr_at_10"] == 0.25


def test_all_nine_metrics_are_there_under_names_that_mlflow_accepts():
    names = metrics.means(np.array([1]))
    assert set(names) == {f"{m}_at_{k}" for m in ("hr", "mrr", "ndcg") for k in (5, 10, 20)}
    assert not any("@" in name for name in names)


def test_without_users_every_mean_is_zero_and_not_a_nan():
    assert set(metrics.means(np.empty(0, np.int64)).values()) == {0.0}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=12))
def test_the_metrics_equal_those_of_ir_measures(ranks):
    # A target that is in no list is still judged, so ir-measures counts its user as a miss.
    rankings = {
        f"u{number}": ["target" if place == rank else f"other {place}" for place in range(1, 21)]
        for number, rank in enumerate(ranks)
    }
    assert_equal_to_ir_measures(rankings, dict.fromkeys(rankings, "target"))


@pytest.mark.parametrize("seed", range(5))
def test_the_metrics_of_random_runs_equal_those_of_ir_measures(seed):
    random = np.random.default_rng(seed)
    items = [f"item {number}" for number in range(40)]
    targets = {f"u{number}": str(random.choice(items)) for number in range(200)}
    # Lists of 0 to 30 items; a tenth of the users has none at all.
    rankings = {
        user: random.permutation(items)[: random.integers(0, 31)].tolist() for user in targets if random.random() < 0.9
    }
    assert_equal_to_ir_measures(rankings, targets)


def assert_equal_to_ir_measures(rankings: dict[str, list[str]], targets: dict[str, str]) -> None:
    import ir_measures
    from ir_measures import RR, Success, nDCG

    qrels = [ir_measures.Qrel(user, target, 1) for user, target in targets.items()]
    run = [
        ir_measures.ScoredDoc(user, item, float(-place))
        for user, ranking in rankings.items()
        for place, item in enumerate(ranking)
    ]
    names = {Success: "hr", RR: "mrr", nDCG: "ndcg"}
    measures = {measure @ k: f"{name}_at_{k}" for measure, name in names.items() for k in metrics.CUTOFFS}
    expected = ir_measures.calc_aggregate(list(measures), qrels, run)
    found = metrics.means(metrics.target_ranks(rankings, targets))
    for measure, name in measures.items():
        assert found[name] == pytest.approx(expected[measure], abs=1e-9), name
