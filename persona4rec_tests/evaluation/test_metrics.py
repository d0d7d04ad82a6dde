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
    assert metrics.bootstrap_interval(np.empty(0)) == (0.0, 0.0)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=12))
def test_the_metrics_equal_those_of_ir_measures(ranks):
    import ir_measures
    from ir_measures import RR, Success, nDCG

    qrels, run = [], []
    for number, rank in enumerate(ranks):
        # A target that is in no list is still judged, so ir-measures counts its user as a miss.
        qrels.append(ir_measures.Qrel(f"q{number}", "target", 1))
        run += [
            ir_measures.ScoredDoc(f"q{number}", "target" if place == rank else f"other {place}", float(100 - place))
            for place in range(1, 21)
        ]
    names = {Success: "hr", RR: "mrr", nDCG: "ndcg"}
    measures = {measure @ k: f"{name}_at_{k}" for measure, name in names.items() for k in metrics.CUTOFFS}
    expected = ir_measures.calc_aggregate(list(measures), qrels, run)
    found = metrics.means(np.array(ranks))
    for measure, name in measures.items():
        assert found[name] == pytest.approx(expected[measure], abs=1e-9), name


def test_the_bootstrap_interval_holds_the_mean_and_shrinks_with_more_users():
    generator = np.random.default_rng(1)
    few, many = (generator.integers(0, 2, n).astype(float) for n in (50, 5000))
    for values in (few, many):
        low, high = metrics.bootstrap_interval(values)
        assert low <= values.mean() <= high
    widths = [np.subtract(*reversed(metrics.bootstrap_interval(values))) for values in (few, many)]
    assert widths[1] < widths[0] / 5


def test_the_bootstrap_interval_is_that_of_the_normal_approximation_for_many_users():
    values = np.repeat([0.0, 1.0], [700, 300])
    half = 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    assert metrics.bootstrap_interval(values, resamples=20_000) == pytest.approx((0.3 - half, 0.3 + half), abs=0.003)


def test_the_same_values_always_give_the_same_interval():
    values = np.array([0.0, 0.5, 1.0, 1.0])
    assert metrics.bootstrap_interval(values) == metrics.bootstrap_interval(values[::-1].copy())
