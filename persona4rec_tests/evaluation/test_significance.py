"""Intervals, the permutation test and Holm's correction, against scipy and against hands."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from persona4rec_pipeline.evaluation.significance import bootstrap_interval, holm, permutation_test


def test_the_bootstrap_interval_holds_the_mean_and_shrinks_with_more_users():
    generator = np.random.default_rng(1)
    few, many = (generator.integers(0, 2, n).astype(float) for n in (50, 5000))
    for values in (few, many):
        low, high = bootstrap_interval(values)
        assert low <= values.mean() <= high
    widths = [np.subtract(*reversed(bootstrap_interval(values))) for values in (few, many)]
    assert widths[1] < widths[0] / 5


def test_the_bootstrap_interval_is_that_of_the_normal_approximation_for_many_users():
    values = np.repeat([0.0, 1.0], [700, 300])
    half = 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    assert bootstrap_interval(values, resamples=20_000) == pytest.approx((0.3 - half, 0.3 + half), abs=0.003)


def test_the_same_values_always_give_the_same_interval():
    values = np.array([0.0, 0.5, 1.0, 1.0])
    assert bootstrap_interval(values) == bootstrap_interval(values[::-1].copy())


def test_without_users_the_interval_is_empty_and_nothing_is_significant():
    assert bootstrap_interval(np.empty(0)) == (0.0, 0.0)
    assert permutation_test(np.empty(0)) == 1.0
    assert permutation_test(np.zeros(5)) == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_the_permutation_test_gives_the_exact_p_value_of_scipy(seed):
    # Differences of 1 / log2(rank + 1): few magnitudes, zeros among them, sums that tie up to rounding.
    random = np.random.default_rng(seed)
    gains = 1 / np.log2(random.integers(1, 4, size=(2, 14)) + 1)
    differences = gains[0] - gains[1] + (seed > 1) * 0.1
    exact = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    error = math.sqrt(exact.pvalue * (1 - exact.pvalue) / 20_000)
    assert permutation_test(differences, draws=20_000) == pytest.approx(exact.pvalue, abs=4 * error + 1e-4)


def test_the_permutation_test_gives_the_p_value_of_scipy_for_many_users_of_different_magnitudes():
    differences = np.random.default_rng(5).normal(0.15, 1, 400)
    drawn = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=1)
    assert 0.01 < drawn.pvalue < 0.3
    assert permutation_test(differences, draws=20_000) == pytest.approx(drawn.pvalue, abs=0.015)


def test_a_p_value_has_two_sides_is_never_zero_and_is_the_same_every_time():
    differences = np.full(100, 0.25)
    assert permutation_test(differences, draws=1234) == permutation_test(-differences, draws=1234) == 1 / 1235
    mixed = np.array([0.5, 0.5, -0.25, 1.0, 0.0])
    assert permutation_test(mixed) == permutation_test(mixed[::-1])


def test_a_difference_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="not a finite number"):
        permutation_test(np.array([0.5, np.nan]))


def test_holms_correction_by_hand():
    # Sorted .01 .02 .03 .04: 4 x .01, 3 x .02, 2 x .03, and 1 x .04 may not fall below the one before.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.001, 0.7]) == pytest.approx([1.0, 0.003, 1.0])
    assert holm([0.2]) == pytest.approx([0.2])
    assert holm([]).tolist() == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.5, np.nan])


def test_a_distribution_that_was_asked_for_before_is_not_drawn_again(monkeypatch):
    values = np.random.default_rng(11).choice([0.0, 0.5, 1.0], 37)
    interval, p = bootstrap_interval(values), permutation_test(values - 0.5)
    monkeypatch.setattr(np.random, "default_rng", None)
    assert bootstrap_interval(values[::-1]) == interval and permutation_test(values[::-1] - 0.5) == p
