"""What the index answers."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from persona4rec_pipeline.evaluation.blending import blend_scores
from persona4rec_pipeline.evaluation.panel import Slate
from persona4rec_pipeline.index import PersonaIndex, UnknownItem
from persona4rec_pipeline.index.scoring import Blend, Blends, order_candidates
from persona4rec_tests.index.builders import ENCODER, Shop, axis, two_catalogues, unit


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> PersonaIndex:
    shop = two_catalogues(tmp_path_factory.mktemp("home"))
    shop.publish()
    return PersonaIndex.open(shop.index_path)


def names(recommendations) -> list[str]:
    return [f"{r.catalog}/{r.item_id}" if r.catalog else r.item_id for r in recommendations]


def profile(*numbers: float) -> np.ndarray:
    return np.array(unit(*numbers), np.float32)


def test_a_user_gets_the_nearest_items_of_all_catalogues_with_the_reason(index):
    best, *others = index.recommend("ann", 10)
    assert (best.catalog, best.item_id, best.persona_id) == ("books", "dune", "p1")
    assert best.score == pytest.approx(1, abs=1e-3)
    assert best.why == "Likes dune for reason 1."
    assert best.persona_name == "Reader 1 of dune"
    assert best.quotes == ("Quote 1 of dune.",)
    assert names(others) == ["books/emma", "books/grim", "films/dune"]


def test_items_seen_in_train_are_left_out_and_held_out_ones_are_not(index):
    found = names(index.recommend("ann", 100))
    assert "books/odd" not in found and "films/alien" not in found
    assert "books/emma" in found


def test_a_critical_persona_is_never_the_reason(index):
    (grim,) = [r for r in index.recommend("ann", 10) if r.item_id == "grim"]
    assert grim.persona_id == "p2"
    assert grim.score < 0.2


def test_an_item_with_only_critical_personas_is_never_recommended_to_a_user_with_a_profile(index):
    assert "books/hated" not in names(index.recommend("ann", 100))


def test_excluding_a_bare_item_id_excludes_it_in_every_catalogue(index):
    assert names(index.recommend("ann", 10, exclude=["dune", "no such item"])) == ["books/emma", "books/grim"]


def test_excluding_a_pair_excludes_only_that_item(index):
    assert "books/dune" in names(index.recommend("ann", 10, exclude=[("films", "dune")]))


def test_recommendations_are_cut_at_k_in_the_same_order(index):
    everything = index.recommend("ann", 100)
    assert [index.recommend("ann", k) for k in range(6)] == [everything[:k] for k in range(6)]
    assert index.recommend("ann", -3) == []


def test_equal_scores_fall_by_catalogue_and_item_even_at_the_cut(tmp_path):
    shop = Shop(tmp_path)
    for name in "hgfedcba":
        shop.item(name, (axis(0), "appreciative"))
    shop.item("zoo", (axis(1), "appreciative")).interaction("ann", "zoo", axis(0)).publish()
    assert [r.item_id for r in PersonaIndex.open(shop.index_path).recommend("ann", 3)] == ["a", "b", "c"]


def test_an_unknown_user_gets_what_is_popular_in_train_and_is_told_so(index):
    found = index.recommend("nobody", 2)
    assert names(found) == ["films/alien", "books/odd"]
    assert {r.fallback for r in found} == {"unknown_user"}
    assert found[0].score is None
    assert found[0].why == "Popular: 2 positive interactions in the training data."


def test_a_user_without_positive_history_is_told_so_and_still_spared_what_was_seen(index):
    found = index.recommend("bob", 100)
    assert {r.fallback for r in found} == {"no_positive_history"}
    assert "books/emma" not in names(found)


def test_a_held_out_interaction_counts_neither_for_popularity_nor_for_the_profile(index):
    assert index.item("emma")["train_popularity"] == 0
    assert index.profile_of("ann")[7] == 0


def test_the_profile_weighs_the_most_recent_interactions_over_all_catalogues(tmp_path):
    shop = Shop(tmp_path).item("a", (axis(0), "appreciative")).item("b", (axis(0), "mixed"), catalog="films")
    shop.interaction("ann", "a", axis(0)).interaction("ann", "b", axis(1), catalog="films").interaction(
        "ann", "a", axis(2)
    )
    shop.publish(max_history=2, recency_decay=0.5)
    expected = np.array([0, 0.5, 1, 0, 0, 0, 0, 0])
    found = PersonaIndex.open(shop.index_path).profile_of("ann")
    assert np.allclose(found, expected / np.linalg.norm(expected), atol=1e-3)


def test_an_unknown_user_has_no_profile(index):
    assert index.profile_of("nobody") is None
    assert list(index.users) == ["ann", "cleo"]


def test_an_unknown_candidate_keeps_its_place_and_is_flagged(index):
    answer = index.rerank(profile(1), ["odd", "novel", ("films", "novel"), "emma", "dune"])
    assert names(answer) == ["books/dune", "novel", "films/novel", "books/emma", "books/odd"]
    assert [r.flags for r in answer] == [(), ("unknown_item",), ("unknown_item",), (), ()]


def test_a_candidate_with_only_critical_personas_comes_after_the_scored_ones_and_is_flagged(index):
    answer = index.rerank(profile(1), ["hated", "odd", "dune"])
    assert names(answer) == ["books/dune", "books/odd", "books/hated"]
    assert answer[-1].flags == ("no_favourable_persona",)
    assert answer[-1].score is None


def test_a_candidate_named_twice_is_answered_once_at_its_first_place(index):
    assert names(index.rerank(None, ["odd", "dune", ("books", "odd"), "x", "x", ("books", "dune")])) == [
        "books/odd",
        "books/dune",
        "x",
    ]


def test_a_bare_item_id_means_the_first_catalogue_that_has_it(index):
    assert names(index.rerank(profile(0, 0, 1), ["dune"])) == ["books/dune"]
    assert names(index.rerank(profile(0, 0, 1), ["dune", ("films", "dune")])) == ["films/dune", "books/dune"]


def test_reranking_nothing_or_to_no_place_gives_nothing(index):
    assert index.rerank(profile(1), []) == []
    assert index.rerank(profile(1), ["dune"], k=0) == []
    assert index.rerank(None, ["dune"], k=-1) == []


def test_k_cuts_the_reranked_candidates_and_not_the_given_ones(index):
    assert names(index.rerank(profile(1), ["odd", "emma", "dune"], k=1)) == ["books/dune"]


def test_without_a_profile_candidates_keep_their_order_and_the_fallback_is_stated(index):
    answer = index.rerank(None, ["odd", "novel", "dune"])
    assert names(answer) == ["books/odd", "novel", "books/dune"]
    assert {r.fallback for r in answer} == {"no_profile"}


@pytest.fixture(scope="module")
def blended(tmp_path_factory) -> PersonaIndex:
    """An index with learned weights: half for candidates with scores, none for users of one item; a tenth by places."""
    shop = two_catalogues(tmp_path_factory.mktemp("home"))
    shop.publish(blends=Blends(Blend("score", 0.5, {"1": 0.0}), Blend("rank", 0.1)))
    return PersonaIndex.open(shop.index_path)


# Cosines with the profile: dune 1, emma .7, odd 0.
BY_PERSONA = profile(1)
CANDIDATES = ["odd", "emma", "dune"]


def test_the_learned_weight_goes_by_the_history_of_the_user_and_by_whether_there_are_scores(blended, index):
    assert blended.interactions_of("ann") == 2 and blended.interactions_of("nobody") == 0
    assert [blended.persona_weight(count) for count in (None, 0, 1, 2)] == [0.5, 0.0, 0.0, 0.5]
    assert blended.persona_weight(2, with_scores=False) == 0.1
    assert index.persona_weight(2) == index.persona_weight(with_scores=False) == 1.0


def test_candidates_are_ordered_by_the_blend_that_evaluation_reports(blended):
    scores = [3.0, 2.0, 0.5]
    answer = blended.rerank(BY_PERSONA, CANDIDATES, scores=scores, interactions=2)
    cosines = np.array([0, unit(1, 1)[0], 1])
    slate = Slate(["ann"], ["books/odd"], [CANDIDATES], np.array([scores]), np.array([2]))
    expected = order_candidates(blend_scores(blended.manifest.blends.of_scores, slate, cosines[None])[0])
    assert [entry.item_id for entry in answer] == [CANDIDATES[place] for place in expected]
    assert [entry.candidate_place for entry in answer] == [place + 1 for place in expected]
    # A user of one item, for whom the personas did not help, keeps the candidate order, with the reasons.
    kept = blended.rerank(BY_PERSONA, CANDIDATES, scores=scores, interactions=1)
    assert [entry.item_id for entry in kept] == CANDIDATES and kept[1].persona_name


def test_scores_decide_the_candidate_order_whatever_order_they_come_in(blended):
    forwards = blended.rerank(BY_PERSONA, CANDIDATES, scores=[3, 2, 0.5], interactions=2)
    backwards = blended.rerank(BY_PERSONA, CANDIDATES[::-1], scores=[0.5, 2, 3], interactions=2)
    assert forwards == backwards
    assert names(blended.rerank(None, ["odd", "novel", "dune"], scores=[1, 3, 2])) == [
        "novel",
        "books/dune",
        "books/odd",
    ]


def test_a_weight_that_is_told_is_taken_from_candidate_order_to_personas_alone(blended):
    assert names(blended.rerank(BY_PERSONA, CANDIDATES, weight=0)) == ["books/odd", "books/emma", "books/dune"]
    assert names(blended.rerank(BY_PERSONA, CANDIDATES, weight=1)) == ["books/dune", "books/emma", "books/odd"]
    assert names(blended.rerank(BY_PERSONA, CANDIDATES)) == ["books/odd", "books/emma", "books/dune"]


def test_in_a_blend_an_unknown_candidate_keeps_its_place_and_a_repeated_one_its_first_score(blended):
    repeated = ["odd", "novel", "dune", ("books", "odd"), "novel"]
    found = blended.rerank(BY_PERSONA, repeated, scores=[2, 1.5, 1, 9, 8], weight=0.9)
    assert names(found) == ["books/dune", "novel", "books/odd"]
    assert [entry.candidate_place for entry in found] == [3, 2, 1]


@pytest.mark.parametrize("scores", [[1.0], [1.0, np.nan, 2.0], [1.0, 2.0, 1e200], [[1.0], [2.0], [3.0]]])
def test_scores_that_are_not_one_finite_number_each_are_refused(blended, scores):
    with pytest.raises(ValueError, match="for each of the 3"):
        blended.rerank(BY_PERSONA, CANDIDATES, scores=scores)


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_beyond_its_range_is_refused(blended, weight):
    with pytest.raises(ValueError, match="from 0 to 1"):
        blended.rerank(BY_PERSONA, CANDIDATES, weight=weight)


@pytest.mark.parametrize("wrong", [np.ones(3), np.full(8, np.nan), np.ones((1, 1, 8)), np.ones((0, 8))])
def test_a_profile_of_another_shape_or_not_finite_is_refused(index, wrong):
    with pytest.raises(ValueError, match="8 finite numbers"):
        index.rerank(wrong, ["dune"])


def test_reranking_and_recommending_give_an_item_the_same_score(index):
    ann = index.profile_of("ann")
    wanted = {(r.catalog, r.item_id): r for r in index.recommend("ann", 100)}
    for answer in index.rerank(ann, list(wanted)):
        assert answer.score == pytest.approx(wanted[answer.catalog, answer.item_id].score, abs=1e-6)
        assert answer.persona_id == wanted[answer.catalog, answer.item_id].persona_id


def test_an_explanation_names_winner_runner_up_and_what_speaks_against(index):
    grim = index.explain(profile(1), "grim")
    assert (grim.winner.persona_id, grim.runner_up, grim.nearest_critical.persona_id) == ("p2", None, "p1")
    dune = index.explain(profile(1, 0.5), ("books", "dune"))
    assert (dune.winner.persona_id, dune.runner_up.persona_id, dune.nearest_critical) == ("p1", "p2", None)
    assert dune.winner.score > dune.runner_up.score
    assert dune.winner.quotes == ("Quote 1 of dune.",)


def test_explaining_an_unknown_item_is_refused_by_its_name(index):
    with pytest.raises(UnknownItem, match="no item novel"):
        index.explain(profile(1), "novel")


def test_all_personas_of_an_item_can_be_read_the_critical_ones_too(index):
    assert [(p.persona_id, p.polarity) for p in index.personas_of("grim")] == [
        ("p1", "critical"),
        ("p2", "appreciative"),
    ]


def test_every_answer_is_json(index):
    answers = [*index.recommend("ann", 9), *index.recommend("nobody", 9), *index.rerank(profile(1), ["x", "hated"])]
    parts = [a.to_dict() for a in answers] + [index.explain(profile(1), "grim").to_dict()]
    assert json.loads(json.dumps(parts, allow_nan=False)) == parts


def test_another_process_reads_the_index_without_the_machinery_that_built_it(tmp_path):
    shop = two_catalogues(tmp_path)
    shop.publish()
    program = (
        "import sys; from persona4rec_pipeline.index import PersonaIndex\n"
        "index = PersonaIndex.open(sys.argv[1])\n"
        "print(index.generation, index.encoder_fingerprint, index.recommend('ann', 1)[0].item_id)\n"
        "heavy = {'dagster', 'torch', 'vllm', 'mlflow', 'duckdb', 'transformers', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(shop.index_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"1 {ENCODER} dune", "[]"]


def test_an_open_index_goes_on_answering_after_its_generation_was_pruned(tmp_path):
    shop = two_catalogues(tmp_path)
    shop.publish()
    index = PersonaIndex.open(shop.index_path)
    before = index.recommend("ann", 5)
    for number in range(3):
        shop.item(f"new {number}", (axis(4), "appreciative"))
        shop.publish(keep_generations=2)
    assert not index.path.exists()
    assert index.recommend("ann", 5) == before
    assert PersonaIndex.open(shop.index_path).generation == 4


def test_opening_while_generations_are_published_and_pruned_always_finds_a_whole_one(tmp_path):
    shop = two_catalogues(tmp_path)
    shop.publish()
    program = (
        "import sys; from persona4rec_pipeline.index import PersonaIndex\n"
        "seen = []\n"
        "while not seen or seen[-1] < 8: seen.append(PersonaIndex.open(sys.argv[1]).generation)\n"
        "assert seen == sorted(seen), seen\n"
    )
    reader = subprocess.Popen([sys.executable, "-c", program, str(shop.index_path)])
    for number in range(7):
        shop.item(f"new {number}", (axis(4), "appreciative")).publish(keep_generations=1)
    assert reader.wait(timeout=120) == 0
