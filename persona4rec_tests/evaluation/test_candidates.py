"""What the candidate generators propose, and what they may not know."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from persona4rec_pipeline.evaluation import candidates as module
from persona4rec_pipeline.evaluation import generators
from persona4rec_pipeline.evaluation.candidates import Panel, propose, read_interactions, read_panel
from persona4rec_pipeline.evaluation.generators import GENERATORS
from persona4rec_pipeline.evaluation.panel import read_candidates
from persona4rec_pipeline.settings import EvaluationSettings
from persona4rec_tests.evaluation.builders import shop_with_panel
from persona4rec_tests.index.builders import Shop

FILTERS = ["item_knn", "als", "bpr", "ease"]


def proposals(shop: Shop, generator: str = "ease", count: int = 20) -> pd.DataFrame:
    shop.store()
    chosen = EvaluationSettings(depth=count, candidates=1, ease_l2=5.0)
    return propose(read_interactions(shop.database), read_panel(shop.database), chosen, generator)


def seen_in_train(shop: Shop) -> set[tuple[str, str]]:
    held_out = {row["review_id"] for row in shop.rows["splits"] if row["split"] != "train"}
    return {
        (row["user_id"], f"{row['catalog']}/{row['item_id']}")
        for row in shop.rows["reviews"]
        if row["review_id"] not in held_out
    }


@pytest.mark.parametrize("generator", GENERATORS)
def test_no_candidate_was_seen_in_train_liked_or_not(tmp_path, generator):
    shop = shop_with_panel(tmp_path)
    found = proposals(shop, generator)
    assert not set(zip(found["user_id"], found["item_id"], strict=True)) & seen_in_train(shop)


@pytest.mark.parametrize("generator", GENERATORS)
def test_every_panel_user_gets_a_list_for_valid_and_for_test_ranked_from_one_without_repeats(tmp_path, generator):
    found = proposals(shop_with_panel(tmp_path), generator, count=7)
    assert found.groupby("split")["user_id"].nunique().to_dict() == {"valid": 6, "test": 6}
    for _, ranking in found.groupby(["split", "user_id"]):
        assert ranking["rank"].tolist() == list(range(1, 8))
        assert ranking["item_id"].is_unique
        assert ranking["score"].is_monotonic_decreasing


@pytest.mark.parametrize("generator", GENERATORS)
def test_changing_held_out_interactions_changes_no_candidate(tmp_path, generator):
    shop = shop_with_panel(tmp_path)
    before = proposals(shop, generator)
    held_out = {row["review_id"] for row in shop.rows["splits"] if row["split"] != "train"}
    for row in shop.rows["reviews"]:
        if row["review_id"] in held_out:
            row |= {"item_id": "i00", "catalog": row["catalog"], "is_positive": not row["is_positive"], "rating": 2.0}
    after = proposals(shop, generator)
    pd.testing.assert_frame_equal(before, after)


@pytest.mark.parametrize("generator", FILTERS)
def test_a_filter_finds_the_taste_of_a_reader(tmp_path, generator):
    found = proposals(shop_with_panel(tmp_path), generator)
    best = found[(found["split"] == "test") & (found["rank"] == 1)]
    assert not best["is_filled"].any()
    for row in best.itertuples():
        assert int(row.item_id[-2:]) % 4 == int(row.user_id[1:]) % 4


@pytest.mark.parametrize("generator", GENERATORS)
def test_the_order_of_the_rows_changes_no_candidate(tmp_path, generator):
    shop = shop_with_panel(tmp_path)
    before = proposals(shop, generator)
    for rows in shop.rows.values():
        rows.reverse()
    pd.testing.assert_frame_equal(before, proposals(shop, generator))


def test_items_without_a_score_fill_up_by_popularity_and_say_so(tmp_path):
    shop = Shop(tmp_path)
    for user, item in [("a", "x"), ("b", "y"), ("c", "y"), ("d", "w"), ("ann", "x")]:
        shop.interaction(user, item)
    shop.interaction("ann", "new", split="test")
    found = proposals(shop)
    assert found["item_id"].tolist() == ["books/y", "books/w"]
    assert found["is_filled"].tolist() == [True, True]
    assert found["score"].tolist() == [0, 0]


@pytest.mark.parametrize("generator", GENERATORS)
def test_a_panel_user_without_positive_train_interactions_gets_what_is_popular(tmp_path, generator):
    shop = Shop(tmp_path)
    for user, item in [("a", "x"), ("b", "y"), ("c", "y"), ("d", "w")]:
        shop.interaction(user, item)
    shop.interaction("ann", "x", split="test").interaction("bob", "w", positive=False)
    shop.interaction("bob", "x", split="test")
    found = proposals(shop, generator)
    assert found["item_id"].tolist() == ["books/y", "books/w", "books/x", "books/y", "books/x"]
    assert found["is_filled"].all() or generator == "popularity"


def test_popularity_counts_the_positive_train_interactions(tmp_path):
    shop = Shop(tmp_path)
    for user, item in [("a", "x"), ("b", "y"), ("c", "y"), ("d", "w")]:
        shop.interaction(user, item)
    shop.interaction("e", "x", positive=False).interaction("ann", "w").interaction("ann", "x", split="test")
    found = proposals(shop, "popularity")
    assert found["item_id"].tolist() == ["books/y", "books/x"]
    assert found["score"].tolist() == [2, 1] and not found["is_filled"].any()


def test_equal_scores_fall_by_item_key_even_at_the_cut():
    scores, seen = np.array([0.5, 0.7, 0.5, 0.5]), np.empty(0, int)
    assert module._best(scores, seen, 3).tolist() == [1, 0, 2]


def test_items_of_two_catalogues_with_one_id_are_two_items(tmp_path):
    shop = Shop(tmp_path)
    shop.interaction("a", "dune").interaction("a", "dune", catalog="films").interaction("ann", "dune")
    shop.interaction("ann", "other", split="test")
    assert proposals(shop)["item_id"].tolist() == ["films/dune"]


def test_without_a_panel_or_without_train_interactions_there_are_no_candidates(tmp_path):
    assert proposals(Shop(tmp_path / "empty")).empty
    assert proposals(shop_with_panel(tmp_path / "all in train", panel=0)).empty
    lonely = Shop(tmp_path / "nothing to learn from").interaction("ann", "x", split="test")
    assert list(proposals(lonely).columns) == module.COLUMNS


def test_auto_takes_the_file_then_ease_until_the_matrix_grows_too_large_then_item_knn(caplog):
    def chosen(items: int, **settings) -> list[str]:
        return module.choose_generators(EvaluationSettings(ease_max_items=10, **settings), items)

    assert chosen(10) == ["popularity", "item_knn", "als", "bpr", "ease"] and not caplog.records
    assert chosen(11) == ["popularity", "item_knn", "als", "bpr"]
    assert "EASE is left out: 11 items" in caplog.text
    assert chosen(10, generators=["als"]) == ["als", "ease"] and chosen(11, generators=["als"]) == ["item_knn", "als"]
    assert chosen(11, generators=[], main_generator="ease") == ["ease"]
    assert chosen(10, generators=[], candidates_file="a.csv") == ["file"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, "ease"), ({"ease_max_items": 1}, "item_knn"), ({"main_generator": "bpr"}, "bpr")],
)
def test_the_main_generator_is_one_of_those_that_were_made(tmp_path, settings, expected):
    shop = shop_with_panel(tmp_path).store()
    chosen = EvaluationSettings(generators=["popularity"], **settings)
    interactions, panel = read_interactions(shop.database), read_panel(shop.database)
    made = module.choose_generators(chosen, len(interactions.items))
    rows = pd.concat([propose(interactions, panel, chosen, generator) for generator in made])
    shop.database.replace("candidates", rows)
    assert module.read_main_generator(shop.database, chosen) == expected in made


@pytest.mark.parametrize("generator", ["als", "bpr"])
def test_the_scores_of_a_factor_model_are_the_products_of_its_factors(tmp_path, generator):
    shop = shop_with_panel(tmp_path).store()
    interactions, settings = read_interactions(shop.database), EvaluationSettings()
    users, items = getattr(generators, generator)(interactions.positive, settings)
    rows = np.array([3, 20])
    expected = [[float(np.dot(users[row].astype(float), item)) for item in items.astype(float)] for row in rows]
    assert generators.fit(generator, interactions.positive, settings)(rows) == pytest.approx(
        np.array(expected), abs=1e-8
    )


@pytest.mark.parametrize("generator", GENERATORS)
def test_two_trainings_give_equal_bytes_and_no_warning(tmp_path, generator):
    shop = shop_with_panel(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (proposals(shop, generator) for _ in range(2))
    assert first.to_csv() == second.to_csv()
    assert first["score"].to_numpy().tobytes() == second["score"].to_numpy().tobytes()


def test_stored_candidates_come_back_best_first_with_their_scores(tmp_path):
    shop = shop_with_panel(tmp_path)
    found = proposals(shop, "als")
    shop.database.replace("candidates", pd.concat([found, proposals(shop, "ease")]))
    lists = read_candidates(shop.database, "valid", "als", 5)
    own = found[(found["split"] == "valid") & (found["user_id"] == "u20") & (found["rank"] <= 5)]
    assert lists["u20"].keys == own["item_id"].tolist()
    assert lists["u20"].scores.tolist() == own["score"].tolist()
    assert sorted(lists) == read_panel(shop.database).users["valid"]
    assert read_candidates(shop.database, "valid", "bpr", 5) == {}


def test_ease_solves_the_problem_that_it_states():
    """B minimises |X - XB|^2 + l2 |B|^2 among matrices with a zero diagonal: no small step away from it is better."""
    generator = np.random.default_rng(0)
    matrix = sparse.csr_matrix((generator.random((30, 8)) < 0.3).astype(float))
    weights = generators.ease(matrix, 3.0)

    dense = matrix.toarray()

    def objective(b: np.ndarray) -> float:
        return float(((dense - dense @ b) ** 2).sum() + 3.0 * (b**2).sum())

    assert np.diag(weights).tolist() == [0] * 8
    for _ in range(50):
        step = generator.normal(size=(8, 8)) * 0.01
        np.fill_diagonal(step, 0)
        assert objective(weights + step) > objective(weights)


def test_item_knn_scores_as_implicit_does(tmp_path):
    from implicit.nearest_neighbours import CosineRecommender

    shop = shop_with_panel(tmp_path).store()
    interactions = read_interactions(shop.database)
    model = CosineRecommender(K=4, num_threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(interactions.positive, show_progress=False)
    similarity = generators.item_knn(interactions.positive, 3)
    for user in range(5):
        row = interactions.positive[user]
        ids, scores = model.recommend(user, row, N=5, filter_already_liked_items=True)
        ours = np.asarray((row @ similarity).todense()).ravel()
        positive = scores > 0
        assert ours[ids[positive]] == pytest.approx(scores[positive], rel=1e-5)


def test_blocks_of_users_change_nothing(tmp_path, monkeypatch):
    shop = shop_with_panel(tmp_path)
    before = proposals(shop)
    monkeypatch.setattr(module, "BLOCK_USERS", 2)
    pd.testing.assert_frame_equal(before, proposals(shop))


def test_the_panel_names_everyone_once():
    assert Panel({"valid": ["b", "a"], "test": ["b", "c"]}).everyone == ["a", "b", "c"]
