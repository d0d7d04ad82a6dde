"""How much the personas count: learned where they help, nothing where they do not."""

from __future__ import annotations

import numpy as np
import pytest

from persona4rec_pipeline.evaluation.blending import blend_scores, learn_blend, learn_blends
from persona4rec_pipeline.evaluation.panel import Slate, target_ranks
from persona4rec_pipeline.index.scoring import CANDIDATE_ORDER, NO_SCORE, Blend, Blends, order_candidates, segment_of

DEPTH = 10


def slate_of(users: int, place_of_target, interactions=5) -> Slate:
    """Ten candidates for each user, the target at a given place."""
    rng = np.random.default_rng(0)
    keys = [f"i{number}" for number in range(DEPTH)]
    counts = np.broadcast_to(np.array(interactions), users).copy()
    targets = [keys[place_of_target(rng, user)] for user in range(users)]
    scores = np.tile(np.linspace(1, 0.1, DEPTH), (users, 1))
    return Slate([f"u{user}" for user in range(users)], targets, [keys] * users, scores, counts)


def knowing(slate: Slate, noise: float, who=None) -> np.ndarray:
    """Persona scores that are higher for the target, for those users in `who` (default: all)."""
    rng = np.random.default_rng(1)
    scores = rng.normal(size=slate.scores.shape)
    users = np.arange(len(slate.users)) if who is None else np.flatnonzero(who)
    scores[users, slate.places[users]] += noise
    return scores


def anywhere(rng, user):
    return int(rng.integers(DEPTH))


def test_personas_that_know_the_target_get_weight_and_the_blend_gains():
    slate = slate_of(300, anywhere)
    persona = knowing(slate, 3)
    blend = learn_blend(slate, persona)
    assert blend.weight >= 0.5
    before, after = (
        target_ranks(slate, scores).mean() for scores in (slate.scores, blend_scores(blend, slate, persona))
    )
    assert after < before - 1


def test_personas_that_know_nothing_get_no_weight():
    slate = slate_of(300, lambda rng, user: int(min(rng.geometric(0.5) - 1, DEPTH - 1)))
    blend = learn_blend(slate, knowing(slate, 0))
    assert blend.weight == 0
    np.testing.assert_array_equal(
        target_ranks(slate, blend_scores(blend, slate, knowing(slate, 0))), target_ranks(slate, slate.scores)
    )


def test_a_gain_that_may_be_chance_gets_no_weight():
    slate = slate_of(8, anywhere)
    persona = knowing(slate, 0)
    gained = target_ranks(slate, persona) < target_ranks(slate, slate.scores)
    assert gained.any(), "some users gain by luck"
    assert learn_blend(slate, persona).weight <= 0.1


def test_users_of_one_history_length_get_a_weight_of_their_own_where_that_helps():
    interactions = np.repeat([1, 5], 400)
    slate = slate_of(
        800, lambda rng, user: 0 if user < 400 and rng.random() < 0.9 else anywhere(rng, user), interactions
    )
    persona = knowing(slate, 3, interactions == 5)
    blend = learn_blend(slate, persona)
    assert blend.weight_for(1) < blend.weight_for(5) and set(blend.by_history) <= {"1", "5+"} != set()


def test_a_user_without_history_keeps_the_candidate_order_at_any_weight():
    slate = slate_of(4, anywhere, [0, 1, 0, 9])
    scores = blend_scores(Blend("score", 1.0), slate, knowing(slate, 5))
    np.testing.assert_array_equal(scores[[0, 2]], slate.scores[[0, 2]])
    assert (target_ranks(slate, scores)[[1, 3]] == 1).all()
    assert learn_blend(slate_of(3, anywhere, 0), np.zeros((3, DEPTH))) == CANDIDATE_ORDER


def test_candidates_in_an_order_alone_get_a_blend_that_goes_by_places():
    slate = slate_of(300, anywhere)
    blends = learn_blends(slate, knowing(slate, 3))
    assert blends.of_places.normalisation == "rank" and blends.of_places.weight > 0
    assert blends.of_scores == learn_blend(slate, knowing(slate, 3))


def test_a_blend_is_kept_as_text():
    blends = Blends(Blend("score", 0.3, {"5+": 0.7}), Blend("rank", 0.1))
    assert Blends.from_json(blends.to_json()) == blends
    assert [segment_of(count) for count in (1, 2, 4, 5, 99)] == ["1", "2-4", "2-4", "5+", "5+"]


def test_ranks_are_those_of_the_order_that_is_served_even_with_ties_unknown_items_and_short_lists():
    rng = np.random.default_rng(3)
    keys = [[f"i{number}" for number in range(rng.integers(1, DEPTH + 1))] for _ in range(200)]
    targets = [f"i{rng.integers(DEPTH)}" for _ in keys]
    scores = rng.integers(0, 4, (200, DEPTH)).astype(float)
    scores[rng.random(scores.shape) < 0.1] = np.nan
    for row, found in enumerate(keys):
        scores[row, len(found) :] = NO_SCORE
    slate = Slate([str(row) for row in range(200)], targets, keys, scores, np.ones(200, np.int64))
    for row, rank in enumerate(target_ranks(slate, scores)):
        ordered = [keys[row][place] for place in order_candidates(scores[row, : len(keys[row])])]
        assert rank == (ordered.index(targets[row]) + 1 if targets[row] in ordered else 0)


@pytest.mark.parametrize("normalisation", ["score", "rank"])
def test_the_length_of_a_list_does_not_matter_to_the_others(normalisation):
    slate = slate_of(2, anywhere)
    persona = knowing(slate, 2)
    blend = Blend(normalisation, 0.5)
    short = Slate(
        ["u0", "x"], [slate.targets[0], "i0"], [slate.keys[0], slate.keys[0][:3]],
        np.where(np.arange(DEPTH) < [[DEPTH], [3]], slate.scores, NO_SCORE), slate.interactions,
    )  # fmt: skip
    np.testing.assert_allclose(blend_scores(blend, short, persona)[0], blend_scores(blend, slate, persona)[0])
    assert np.isneginf(blend_scores(blend, short, persona)[1, 3:]).all()
