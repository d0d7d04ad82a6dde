"""The compiled kernels, against the arithmetic of `scoring` that they are to equal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persona4rec_pipeline.index import kernels, scoring

DIMENSION = 12
EXACT = 1e-6


@pytest.fixture(scope="module", autouse=True)
def scans_of_any_size():
    """Small catalogues would be compared exactly; here they go the way of the large ones."""
    kernels.warm_up()
    with patch.multiple(kernels, SCANNED_PERSONAS=0, ITEMS_PER_WANTED=0, PIECE=8, NOTED_AT_LEAST=4096):
        yield


def units(random: np.random.Generator, rows: int, dimension: int = DIMENSION) -> np.ndarray:
    vectors = random.normal(size=(rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


class Catalogue:
    """Items with `sizes` personas; `steps` makes vectors of few distinct values, whose sums are exact and often equal."""

    def __init__(self, seed: int, sizes: list[int], steps: bool = False, dimension: int = DIMENSION) -> None:
        self.random = np.random.default_rng(seed)
        self.offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.steps, self.dimension = steps, dimension
        self.vectors = self.directions(int(self.offsets[-1])).astype(np.float16)
        self.polarity = self.random.integers(-1, 2, self.offsets[-1]).astype(np.int8)

    def directions(self, rows: int) -> np.ndarray:
        if self.steps:
            return self.random.integers(-1, 2, (rows, self.dimension)).astype(np.float32) / 2
        return units(self.random, rows, self.dimension)

    def scan(self, threads: int = 2) -> kernels.Scan:
        return kernels.Scan(self.vectors, self.offsets, self.polarity, *kernels.quantise(self.vectors), threads)

    def expected(self, tastes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Score and winner of every item for the best of some tastes, by `scoring`."""
        cosines = np.max([scoring.similarities(taste, self.vectors) for taste in np.atleast_2d(tastes)], axis=0)
        return scoring._best_of_groups(cosines, self.offsets, self.polarity)

    def expected_top(self, tastes: np.ndarray, k: int, barred: np.ndarray | None = None) -> np.ndarray:
        scores, _ = self.expected(tastes)
        if barred is not None:
            scores = np.where(barred, -np.inf, scores)
        order = np.argsort(-scores, kind="stable")
        return order[: min(k, int((scores > -np.inf).sum()))]

    def assert_top(self, found: kernels.Top, tastes: np.ndarray, k: int, barred: np.ndarray | None = None) -> None:
        wanted = self.expected_top(tastes, k, barred)
        scores, winners = self.expected(tastes)
        assert len(found.items) == len(found.scores) == len(found.winners) == len(wanted)
        np.testing.assert_allclose(found.scores, scores[wanted], atol=EXACT)
        np.testing.assert_allclose(found.scores, scores[found.items], atol=EXACT)
        if self.steps:
            # Every sum is exact, so that ties are ties, and are cut by row.
            assert found.items.tolist() == wanted.tolist()
            assert found.winners.tolist() == winners[wanted].tolist()
        else:
            assert len(set(found.items.tolist())) == len(found.items)


catalogues = st.builds(
    Catalogue, st.integers(0, 2**32 - 1), st.lists(st.integers(0, 5), min_size=0, max_size=60), st.booleans()
)
tastes_of_a_user = st.integers(1, 3)
# Threads are woken in each example, which takes its time on a busy machine.
unhurried = settings(deadline=None)


@given(catalogues, st.lists(st.integers(-1, 59), max_size=40), tastes_of_a_user)
@unhurried
def test_candidates_are_scored_as_the_reference_scores_them(catalogue, wanted, count):
    rows = np.array([row for row in wanted if row < len(catalogue.offsets) - 1], np.int64)
    tastes = catalogue.directions(count)
    found, winners = kernels.score_candidates(tastes, rows, catalogue.vectors, catalogue.offsets, catalogue.polarity)
    expected, expected_winners = catalogue.expected(tastes)
    known = rows >= 0
    np.testing.assert_allclose(found[known], expected[rows[known]], atol=EXACT)
    assert np.isnan(found[~known]).all() and (winners[~known] == -1).all()
    if catalogue.steps:
        assert winners[known].tolist() == expected_winners[rows[known]].tolist()
    if count == 1:
        same, same_winners = scoring.score_candidates(
            tastes[0], rows, catalogue.vectors, catalogue.offsets, catalogue.polarity
        )
        np.testing.assert_allclose(found, same, atol=EXACT)
        if catalogue.steps:
            assert winners.tolist() == same_winners.tolist()


@given(catalogues, st.integers(0, 70), tastes_of_a_user, st.one_of(st.none(), st.floats(0, 1)))
@settings(max_examples=200, deadline=None)
def test_the_best_items_are_those_of_brute_force_whatever_the_catalogue_the_tastes_and_the_barred(
    catalogue, k, count, barred_share
):
    tastes = catalogue.directions(count)
    barred = None
    if barred_share is not None:
        barred = catalogue.random.random(len(catalogue.offsets) - 1) < barred_share
    catalogue.assert_top(catalogue.scan().top(tastes, k, barred), tastes, k, barred)


@given(catalogues, st.integers(1, 20), st.integers(0, 7), tastes_of_a_user, st.booleans())
@unhurried
def test_many_users_in_one_pass_get_what_each_would_get_alone(catalogue, k, users, count, barred_each):
    tastes = catalogue.directions(users * count).reshape(users, count, DIMENSION)
    items = len(catalogue.offsets) - 1
    barred = catalogue.random.random((users, items) if barred_each else items) < 0.3
    scan = catalogue.scan()
    answers = scan.top_many(tastes, k, barred)
    assert len(answers) == users
    for user, answer in enumerate(answers):
        alone = scan.top(tastes[user], k, barred[user] if barred_each else barred)
        assert answer.items.tolist() == alone.items.tolist()
        assert answer.scores.tolist() == alone.scores.tolist()
        assert answer.winners.tolist() == alone.winners.tolist()


@given(st.lists(catalogues.filter(lambda catalogue: catalogue.steps), max_size=4), st.integers(1, 30), st.booleans())
@unhurried
def test_several_catalogues_are_searched_as_if_they_were_one(parts, k, quantised):
    whole = Catalogue(0, [size for part in parts for size in np.diff(part.offsets).tolist()], steps=True)
    whole.vectors = np.concatenate([part.vectors for part in parts] or [whole.vectors])
    whole.polarity = np.concatenate([part.polarity for part in parts] or [whole.polarity])
    profile = whole.directions(1)[0]
    barred = whole.random.random(len(whole.offsets) - 1) < 0.2
    scans = [part.scan() if quantised else kernels.Scan(part.vectors, part.offsets, part.polarity) for part in parts]
    found = kernels.top_of(scans, profile, k, barred)
    wanted = whole.expected_top(profile, k, barred)
    assert found.items.tolist() == wanted.tolist()
    firsts = np.cumsum([0] + [len(part.vectors) for part in parts])
    owners = np.searchsorted(np.cumsum([len(part.offsets) - 1 for part in parts]), found.items, side="right")
    assert (found.winners + firsts[owners]).tolist() == whole.expected(profile)[1][wanted].tolist()


@pytest.mark.parametrize("threads", [1, 3])
def test_a_catalogue_that_is_large_enough_to_be_cut_into_pieces_gives_the_same_best_items(threads):
    catalogue = Catalogue(3, [5] * 3000, dimension=96)
    for profile in units(catalogue.random, 5, 96):
        catalogue.assert_top(catalogue.scan(threads).top(profile, 50), profile, 50)


def test_the_scan_of_codes_and_the_exact_comparison_agree_to_the_last_bit():
    catalogue = Catalogue(4, [4] * 2000, dimension=100)
    exact = kernels.Scan(catalogue.vectors, catalogue.offsets, catalogue.polarity)
    for tastes in units(catalogue.random, 30, 100).reshape(10, 3, 100):
        fast, slow = catalogue.scan().top(tastes, 40), exact.top(tastes, 40)
        assert fast.items.tolist() == slow.items.tolist()
        assert fast.scores.tolist() == slow.scores.tolist()
        assert fast.winners.tolist() == slow.winners.tolist()


@pytest.mark.parametrize(
    ("case", "gives_up"),
    [
        ("copies", True),
        ("near copies", True),
        ("zero profile", True),
        ("one value", True),
        ("a cluster of the best", True),
        ("zero vectors", False),
        ("ascending", False),
        ("one large number", True),
    ],
)
def test_catalogues_made_to_defeat_the_bound_only_cost_time(case, gives_up):
    catalogue = Catalogue(5, [3] * 1500, dimension=64)
    random = catalogue.random
    profile = units(random, 1, 64)[0]
    wide = catalogue.vectors.astype(np.float32)
    if case == "copies":
        wide[:] = wide[0]
    if case == "near copies":
        wide = wide[0] + 2e-3 * random.normal(size=wide.shape)
    if case == "zero profile":
        profile[:] = 0
    if case == "one value":
        wide[:] = 2.0**-24
    if case == "a cluster of the best":
        wide[1000:3000] = profile + 1e-3 * random.normal(size=(2000, 64))
    if case == "zero vectors":
        wide[::2] = 0
    if case == "ascending":
        wide = wide[np.argsort(wide @ profile)]
    if case == "one large number":
        wide[:, 0] = 30
    catalogue.vectors = wide.astype(np.float16)
    exact = kernels.Scan(catalogue.vectors, catalogue.offsets, catalogue.polarity).top(profile, 10)
    with (
        patch.object(kernels, "NOTED_AT_LEAST", 64),
        patch.object(kernels._Search, "_exact", autospec=True, side_effect=kernels._Search._exact) as compared_exactly,
    ):
        found = catalogue.scan().top(profile, 10)
    assert compared_exactly.called == gives_up
    assert found.items.tolist() == exact.items.tolist()
    assert found.scores.tolist() == exact.scores.tolist()
    assert found.winners.tolist() == exact.winners.tolist()
    scores, _ = catalogue.expected(profile)
    np.testing.assert_allclose(found.scores, np.sort(scores)[::-1][:10], rtol=1e-5, atol=EXACT)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("best", [[5, 77, 1203, 2900, 3999], list(range(3000, 3100))], ids=["scattered", "together"])
def test_items_whose_codes_are_as_wrong_as_codes_can_be_are_found(best, threads):
    """All lose what rounding can lose, the best against the profile and the others in its favour: the bound is met exactly."""
    random = np.random.default_rng(11)
    signs = np.where(random.random(65) < 0.5, -1, 1)
    signs[0] = 0
    profile = (signs / 8).astype(np.float32)
    steps = np.where(np.arange(65) < 58, 1, 0) * signs - 0.49 * signs
    rows = np.repeat([steps / 127], 4000, axis=0)
    rows[best] = 0.49 * signs / 127
    rows[:, 0] = 1
    vectors = rows.astype(np.float16)
    codes, scales, errors = kernels.quantise(vectors)
    by_codes = (codes * scales[:, None]) @ profile
    assert by_codes[best].max() < np.delete(by_codes, best).min(), "by codes alone the best are the worst"
    with patch.object(kernels, "NOTED_AT_LEAST", 10_000):
        scan = kernels.Scan(vectors, np.arange(4001), np.ones(4000, np.int8), codes, scales, errors, threads)
        found = scan.top(profile, len(best))
    assert found.items.tolist() == best


def test_only_the_users_whose_scan_gave_up_are_compared_again():
    catalogue = Catalogue(9, [3] * 1500, dimension=64)
    profiles = units(catalogue.random, 4, 64)
    profiles[2] = 0
    barred = catalogue.random.random(1500) < 0.1
    barred[0] = True
    scan = catalogue.scan()
    with patch.object(kernels, "NOTED_AT_LEAST", 64):
        found = scan.top_many(profiles, 10, barred)
    for profile, top in zip(profiles, found, strict=True):
        catalogue.assert_top(top, profile, 10, barred)
    assert found[2].items.tolist() == catalogue.expected_top(profiles[2], 10, barred).tolist()


def test_products_do_not_overflow_where_all_numbers_are_as_large_as_they_can_be():
    random = np.random.default_rng(10)
    signs = np.where(random.random((600, 2048)) < 0.5, -1, 1)
    profile = signs[17] / np.sqrt(2048)
    vectors = (signs / np.sqrt(2048)).astype(np.float16)
    scan = kernels.Scan(vectors, np.arange(601), np.ones(600, np.int8), *kernels.quantise(vectors))
    found = scan.top(profile, 3)
    assert found.items[0] == 17
    assert found.scores[0] == pytest.approx(1, abs=1e-3)
    assert (found.scores[1:] < 0.2).all()


@given(st.integers(0, 2**32 - 1), st.integers(0, 9), st.sampled_from([1e-7, 1e-3, 1.0, 1000.0]))
@unhurried
def test_codes_are_as_near_to_their_vectors_as_their_errors_say(seed, rows, size):
    vectors = (np.random.default_rng(seed).normal(size=(rows, DIMENSION)) * size).astype(np.float16)
    codes, scales, errors = kernels.quantise(vectors)
    assert codes.dtype == np.int8 and scales.dtype == errors.dtype == np.float32
    exact = vectors.astype(np.float64)
    lost = np.linalg.norm(exact - codes * scales.astype(np.float64)[:, None], axis=1)
    assert (lost <= errors).all()
    assert (errors <= lost * (1 + 1e-6) + 1e-30).all()
    assert (errors <= scales * np.sqrt(DIMENSION) * 0.5001).all()


def test_no_pair_of_vectors_lies_outside_the_bounds_that_the_scan_counts_on():
    random = np.random.default_rng(6)
    vectors = np.concatenate([units(random, 400, 64), 20 * random.normal(size=(100, 64)) ** 5]).astype(np.float16)
    # Some that codes hold without loss, so that the loss of the profile is all there is.
    whole = random.integers(-127, 128, (100, 64))
    whole[:, 0] = 127
    vectors = np.concatenate([vectors, (whole / 128).astype(np.float16)])
    profiles = np.concatenate([units(random, 20, 64), 3 * random.normal(size=(10, 64)) ** 3]).astype(np.float32)
    profiles = np.concatenate([profiles, vectors[::50].astype(np.float32), np.full((1, 64), 1e9, np.float32)])
    codes, scales, errors = kernels.quantise(vectors)
    rounded, weights = kernels.rounded_queries(profiles)
    dots = rounded.astype(np.float64) @ codes.T.astype(np.float64)
    middle = dots * weights[:, :1] * scales
    margin = weights[:, 1:2] * errors + weights[:, 2:] * scales
    exact = profiles.astype(np.float64) @ vectors.T.astype(np.float64)
    assert (np.abs(exact - middle) <= margin).all()


def test_quantising_refuses_what_is_not_finite():
    with pytest.raises(ValueError, match="infinite or undefined"):
        kernels.quantise(np.array([[1, np.inf]], np.float16))


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([None, 7.0]), st.sampled_from(["float16", "float32"])
)
@unhurried
def test_the_profile_is_that_of_the_reference(seed, count, half_life, dtype):
    random = np.random.default_rng(seed)
    vectors, days = units(random, count).astype(dtype), -np.sort(random.random(count) * 100)
    expected = scoring.user_profile(vectors, 0.9, days, half_life)
    np.testing.assert_allclose(kernels.user_profile(vectors, 0.9, days, half_life), expected, atol=EXACT)


def test_opposite_interactions_give_a_zero_profile_and_none_gives_an_error():
    assert kernels.user_profile(np.array([[1, 0], [-1, 0]], np.float32), 1.0).tolist() == [0, 0]
    with pytest.raises(ValueError, match="at least one"):
        kernels.user_profile(np.empty((0, 4), np.float32), 0.9)


def test_several_python_threads_may_search_at_once():
    catalogue = Catalogue(7, [5] * 2000, dimension=96)
    scan, profiles = catalogue.scan(), units(catalogue.random, 40, 96)
    expected = [scan.top(profile, 20).items.tolist() for profile in profiles]
    with ThreadPoolExecutor(4) as callers:
        for _ in range(3):
            assert [
                top.items.tolist() for top in callers.map(lambda profile: scan.top(profile, 20), profiles)
            ] == expected


def test_a_forked_process_searches_with_threads_of_its_own():
    catalogue = Catalogue(7, [5] * 2000, dimension=96)
    scan, profile = catalogue.scan(), units(catalogue.random, 1, 96)[0]
    expected = scan.top(profile, 20).items.tolist()
    both = Barrier(2)
    for waiting in [kernels._pool(2).submit(both.wait) for _ in range(2)]:
        waiting.result()
    child = os.fork()
    if child == 0:
        # A child that waits for threads it does not have is ended, and has failed.
        signal.alarm(30)
        os._exit(0 if scan.top(profile, 20).items.tolist() == expected else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_where_no_cache_can_be_written_the_loops_are_compiled_all_the_same():
    from numba import types
    from numba.core import caching

    from persona4rec_pipeline.index import compiled

    def double(numbers):
        numbers[0] *= 2

    with patch.object(caching.CacheImpl, "_locator_classes", []):
        doubled = compiled._kernel(types.Array(types.float32, 1, "C"))(double)
    numbers = np.array([3], np.float32)
    doubled(numbers)
    assert numbers.tolist() == [6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"profile": np.zeros(3, np.float32)}, "dimension"),
        ({"profile": np.full(DIMENSION, np.nan, np.float32)}, "finite"),
        ({"profile": np.zeros((0, DIMENSION), np.float32)}, "dimension"),
        ({"profile": np.full(DIMENSION, 1e30, np.float32)}, "at most"),
        ({"barred": np.zeros(3, bool)}, "barred"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    scan = Catalogue(8, [2, 2]).scan()
    with pytest.raises(ValueError, match=message):
        scan.top(**{"profile": np.ones(DIMENSION, np.float32), "k": 1} | arguments)


def test_arrays_that_do_not_fit_each_other_are_refused():
    catalogue = Catalogue(8, [2, 2])
    codes, scales, errors = kernels.quantise(catalogue.vectors)
    for offsets in ([0, 2, 3], [0, 5, 4], [1, 2, 4]):
        with pytest.raises(ValueError, match="do not fit"):
            kernels.Scan(catalogue.vectors, np.array(offsets), catalogue.polarity)
    with pytest.raises(ValueError, match="codes"):
        kernels.Scan(catalogue.vectors, catalogue.offsets, catalogue.polarity, codes[1:], scales[1:], errors[1:])
    with pytest.raises(ValueError, match="thread"):
        kernels.Scan(catalogue.vectors, catalogue.offsets, catalogue.polarity, threads=0)
    with pytest.raises(TypeError, match="float16"):
        kernels.Scan(catalogue.vectors.astype(np.float32), catalogue.offsets, catalogue.polarity)


def test_candidate_rows_beyond_the_catalogue_are_refused():
    catalogue = Catalogue(8, [2, 2])
    for row in (2, -2):
        with pytest.raises(ValueError, match="Item rows"):
            kernels.score_candidates(
                np.ones(DIMENSION), np.array([row]), catalogue.vectors, catalogue.offsets, catalogue.polarity
            )


def test_importing_the_index_does_not_pay_for_the_compiler():
    code = "import sys; import persona4rec_pipeline.index.kernels; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


similarity = st.one_of(
    st.floats(-1, 1, width=32), st.sampled_from([0.5, -0.25]), st.just(float("nan")), st.just(float("-inf"))
)


@given(
    st.lists(similarity, max_size=200),
    st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1)),
    st.sampled_from(["score", "rank"]),
    st.one_of(st.none(), st.integers(0, 2**32)),
)
@settings(max_examples=300, deadline=None)
def test_a_list_is_ordered_as_the_reference_orders_it(similarities, weight, normalisation, seed):
    persona = np.array(similarities, np.float32)
    own = None if seed is None else np.sort(np.random.default_rng(seed).integers(0, 9, len(persona)) / 4)[::-1]
    stated = -np.arange(len(persona), dtype=np.float64) if own is None else own
    values = scoring.combine(stated, persona, weight, normalisation)
    found = kernels.order_candidates(own, persona, weight, normalisation)
    assert sorted(found.tolist()) == list(range(len(persona)))
    unknown = np.isnan(values)
    assert (found[unknown] == np.flatnonzero(unknown)).all()
    ordered = values[found][~unknown]
    # Equal up to the rounding of sums in another order; with whole numbers and at the ends of the weight, exactly.
    assert (ordered[1:] <= ordered[:-1] + 1e-9).all()
    if weight in (0, 1):
        assert found.tolist() == scoring.order_candidates(values).tolist()


def test_candidates_that_are_equal_in_all_stay_in_their_order():
    for weight in (0.0, 0.3, 1.0):
        own = np.full(20, 2.5)
        assert kernels.order_candidates(own, np.full(20, 0.25, np.float32), weight).tolist() == list(range(20))
