"""What a RecTools pipeline asks of its reranker, asked as `CandidateRankingModel` asks it; RecTools itself is not needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from persona4rec_pipeline.adapters.rectools import PersonaReranker
from persona4rec_pipeline.index import PersonaIndex
from persona4rec_tests.index.builders import two_catalogues

CANDIDATES = ["new", "odd", "grim", "emma", "dune"]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> PersonaIndex:
    shop = two_catalogues(tmp_path_factory.mktemp("home"))
    shop.publish()
    return PersonaIndex.open(shop.index_path)


def first_stage(users: list[str], items: list[str] = CANDIDATES, *, keep: str = "score rank") -> pd.DataFrame:
    """What the first stage hands over: every item for every user, best first, with the columns that are kept."""
    rows = [
        {"user_id": user, "item_id": item, "EASEModel_1_score": 1 / place, "EASEModel_1_rank": place}
        for user in users
        for place, item in enumerate(items, start=1)
    ]
    kept = [f"EASEModel_1_{name}" for name in keep.split()]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "EASEModel_1_score", "EASEModel_1_rank"])[
        ["user_id", "item_id", *kept]
    ]


def pipeline(reranker: PersonaReranker, candidates: pd.DataFrame, k: int, add_rank_col: bool = True) -> pd.DataFrame:
    """The last lines of RecTools' `CandidateRankingModel.recommend`, which call nothing else of a reranker."""
    pairs = candidates.reindex(columns=["user_id", "item_id"])
    pairs["score"] = reranker.predict_scores(candidates)
    return reranker.recommend(pairs, k=k, add_rank_col=add_rank_col)


def test_a_pipeline_gets_the_columns_of_rectools(index: PersonaIndex) -> None:
    found = pipeline(PersonaReranker(index), first_stage(["ann", "cleo"]), k=3)
    assert list(found.columns) == ["user_id", "item_id", "score", "rank"]
    assert found["rank"].tolist() == [1, 2, 3, 1, 2, 3]
    assert found["user_id"].tolist() == ["ann"] * 3 + ["cleo"] * 3
    assert list(pipeline(PersonaReranker(index), first_stage(["ann"]), k=3, add_rank_col=False).columns) == [
        "user_id",
        "item_id",
        "score",
    ]


@pytest.mark.parametrize("weight", [None, 0.0, 0.4, 1.0])
@pytest.mark.parametrize("keep", ["score rank", "rank", "score", ""])
def test_the_order_is_that_of_the_index(index: PersonaIndex, weight: float | None, keep: str) -> None:
    candidates = first_stage(["ann"], keep=keep)
    scores = candidates["EASEModel_1_score"].tolist() if "score" in keep else None
    told = index.rerank(
        index.profile_of("ann"),
        CANDIDATES,
        scores=scores,
        weight=weight,
        interactions=index.interactions_of("ann"),
    )
    found = pipeline(PersonaReranker(index, weight=weight), candidates, k=10)
    assert found["item_id"].tolist() == [item.item_id for item in told]
    assert found["score"].is_monotonic_decreasing


def test_the_personas_change_the_order_of_the_first_stage(index: PersonaIndex) -> None:
    found = PersonaReranker(index, weight=1.0).rerank(first_stage(["ann"]))
    assert found["item_id"].tolist() == ["new", "dune", "emma", "grim", "odd"]


def test_an_unknown_item_keeps_its_place(index: PersonaIndex) -> None:
    for place in range(len(CANDIDATES)):
        items = [item for item in CANDIDATES if item != "new"]
        items.insert(place, "new")
        found = PersonaReranker(index, weight=1.0).rerank(first_stage(["ann"], items))
        assert found["item_id"].tolist()[place] == "new"


@pytest.mark.parametrize("user", ["nobody", "bob"])
def test_a_user_without_profile_keeps_the_order_of_the_first_stage(index: PersonaIndex, user: str) -> None:
    assert PersonaReranker(index, weight=1.0).rerank(first_stage([user]))["item_id"].tolist() == CANDIDATES


def test_no_candidate_is_dropped(index: PersonaIndex) -> None:
    candidates = pd.concat([first_stage(["ann", "nobody", "cleo", "bob"]), first_stage(["ann"], ["dune", "alien"])])
    candidates.loc[len(candidates)] = [None, "emma", 0.5, 1]
    found = PersonaReranker(index).rerank(candidates)
    counted = candidates.groupby(["user_id", "item_id"], dropna=False).size()
    pd.testing.assert_series_equal(found.groupby(["user_id", "item_id"], dropna=False).size(), counted)


def test_scores_stand_in_the_order_of_the_rows_however_users_are_mixed(index: PersonaIndex) -> None:
    candidates = first_stage(["ann", "cleo", "nobody"])
    mixed = candidates.sample(frac=1, random_state=3)
    reranker = PersonaReranker(index)
    straight = pd.Series(reranker.predict_scores(candidates), candidates.index)
    pd.testing.assert_series_equal(pd.Series(reranker.predict_scores(mixed), mixed.index).sort_index(), straight)


def test_the_candidate_order_comes_from_the_column_that_is_named(index: PersonaIndex) -> None:
    candidates = first_stage(["nobody"]).assign(PopularModel_1_score=[1.0, 5.0, 3.0, 2.0, 4.0])
    with pytest.raises(ValueError, match="EASEModel_1_score, PopularModel_1_score"):
        PersonaReranker(index).predict_scores(candidates)
    with pytest.raises(ValueError, match="order_by"):
        PersonaReranker(index).fit(candidates.assign(target=0))
    with pytest.raises(KeyError, match="margin"):
        PersonaReranker(index, order_by="margin").predict_scores(candidates)
    found = PersonaReranker(index, order_by="PopularModel_1_score").rerank(candidates)
    assert found["item_id"].tolist() == ["odd", "dune", "grim", "emma", "new"]
    by_rank = PersonaReranker(index, order_by="EASEModel_1_rank").rerank(candidates.iloc[::-1])
    assert by_rank["item_id"].tolist() == CANDIDATES


def test_candidates_of_another_generator_come_after_those_that_have_a_score(index: PersonaIndex) -> None:
    candidates = first_stage(["nobody"])
    candidates.loc[[0, 3], "EASEModel_1_score"] = np.nan
    found = PersonaReranker(index).rerank(candidates)
    assert found["item_id"].tolist() == ["odd", "grim", "dune", "new", "emma"]


def test_ids_are_translated_as_told(index: PersonaIndex) -> None:
    candidates = pd.DataFrame({"user_id": [7, 7], "item_id": [1, 2]})
    named = {1: ("books", "dune"), 2: ("films", "dune")}
    reranker = PersonaReranker(
        index, weight=1.0, user_of=lambda user: {7: "cleo"}[user], item_of=lambda item: named[item]
    )
    found = reranker.rerank(candidates)
    assert found["item_id"].tolist() == [2, 1]
    assert found["user_id"].tolist() == [7, 7]


def test_two_names_of_one_item_both_come_back(index: PersonaIndex) -> None:
    reranker = PersonaReranker(index, weight=1.0, item_of=lambda item: ("books", "dune") if item == "twin" else item)
    found = reranker.rerank(first_stage(["ann"], ["emma", "dune", "twin"]))
    assert found["item_id"].tolist() == ["dune", "emma", "twin"]


def test_persona_scores_are_a_feature_of_each_row(index: PersonaIndex) -> None:
    profile = index.profile_of("ann")
    assert profile is not None
    told = {item.item_id: item.score for item in index.rerank(profile, CANDIDATES, weight=1.0)}
    found = PersonaReranker(index).persona_scores(first_stage(["ann", "nobody"], ["dune", "new", "hated", "dune"]))
    assert found[:4] == pytest.approx([told["dune"], np.nan, np.nan, told["dune"]], nan_ok=True)
    assert np.isnan(found[4:]).all()


def test_a_frame_without_rows_is_answered_without_rows(index: PersonaIndex) -> None:
    reranker, nothing = PersonaReranker(index), first_stage([])
    assert pipeline(reranker, nothing, k=5).empty
    assert reranker.rerank(nothing).columns.tolist() == ["user_id", "item_id", "score", "rank"]
    assert len(reranker.persona_scores(nothing)) == 0


def test_a_weight_beyond_one_is_refused(index: PersonaIndex) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        PersonaReranker(index, weight=1.5)


def test_the_adapter_loads_neither_rectools_nor_the_machinery() -> None:
    heavy = "rectools", "torch", "dagster", "duckdb", "vllm", "mlflow"
    program = f"import sys, persona4rec_pipeline.adapters.rectools; print([n for n in {heavy!r} if n in sys.modules])"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
