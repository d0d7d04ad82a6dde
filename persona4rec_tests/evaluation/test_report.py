"""Four rankings of the same candidates."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from persona4rec_pipeline.evaluation.panel import keys_of, read_candidates, read_targets
from persona4rec_pipeline.evaluation.report import RankingResult, Report, evaluate
from persona4rec_pipeline.index.build import IndexNotBuildable
from persona4rec_pipeline.settings import EvaluationSettings
from persona4rec_tests.evaluation.builders import HashEncoder, propose_with, shop_with_panel
from persona4rec_tests.index.builders import ENCODER, Shop

NAMES = ["candidate_order", "item_summary", "personas_untrained", "personas_trained"]


def evaluated(shop: Shop, encoder: HashEncoder | None = None) -> Report:
    settings = propose_with(shop, "ease")
    return evaluate(shop.database, lambda: encoder or HashEncoder(), 0.9, 10, settings)


def test_the_report_has_four_rankings_of_all_users_of_the_panel(tmp_path):
    report = evaluated(shop_with_panel(tmp_path))
    assert [ranking.name for ranking in report.rankings] == NAMES
    assert report.users == {"valid": 6, "test": 6}
    table = report.table()
    assert len(table) == 4 * 9
    assert set(table["users"]) == {6}
    assert table.groupby("ranking")["encoder"].first().to_dict() == {
        "candidate_order": None, "item_summary": "base", "personas_untrained": "base", "personas_trained": ENCODER,
    }  # fmt: skip


def test_the_candidate_order_is_scored_as_it_stands(tmp_path):
    shop = shop_with_panel(tmp_path)
    report = evaluated(shop)
    lists = keys_of(read_candidates(shop.database, "test", "ease", 20))
    targets = read_targets(shop.database, "test")
    expected = [lists[user].index(item) + 1 if item in lists[user] else 0 for user, item in targets.items()]
    assert report.rankings[0].ranks["test"].tolist() == expected


def test_only_the_main_generator_counts_and_of_it_what_is_reranked(tmp_path):
    shop = shop_with_panel(tmp_path)
    settings = propose_with(shop, "item_knn", "popularity", candidates=3)
    report = evaluate(shop.database, HashEncoder, 0.9, 10, settings)
    lists = keys_of(read_candidates(shop.database, "test", "item_knn", 20))
    expected = [
        lists[user].index(item) + 1 if item in lists[user][:3] else 0
        for user, item in read_targets(shop.database, "test").items()
    ]
    assert all(len(ranking) > 3 for ranking in lists.values())
    assert report.rankings[0].ranks["test"].tolist() == expected


def test_vectors_that_know_the_taste_bring_the_target_to_the_top(tmp_path):
    report = evaluated(shop_with_panel(tmp_path))
    trained = report.rankings[3].ranks["test"]
    # Three items of the reader's taste are unseen, and only those are near the profile.
    assert ((trained >= 1) & (trained <= 3)).all()
    assert report.rankings[3].estimates("test")["hr_at_5"].value == 1


def test_every_ranking_finds_the_same_targets_at_the_depth_of_the_candidates(tmp_path):
    report = evaluated(shop_with_panel(tmp_path))
    hits = {tuple(ranking.ranks["test"] > 0) for ranking in report.rankings}
    assert len(hits) == 1


def test_the_base_encoder_reads_only_the_panel_and_its_candidates(tmp_path):
    encoder = HashEncoder()
    shop = shop_with_panel(tmp_path, panel=1)
    evaluated(shop, encoder)
    interactions = 3
    proposed = read_candidates(shop.database, "test", "ease", 20)["u23"].keys
    assert len(encoder.read) == interactions + 2 * len(proposed)
    assert not any("Reader 2" in text for text in encoder.read), "a critical persona never makes a score"


def test_an_untrained_champion_is_not_encoded_a_second_time(tmp_path):
    encoder = HashEncoder(ENCODER)
    shop = shop_with_panel(tmp_path)
    report = evaluated(shop, encoder)
    assert all("A summary of" in text for text in encoder.read)
    assert not any("Reader" in text for text in encoder.read)
    assert report.rankings[2].ranks["test"].tolist() == report.rankings[3].ranks["test"].tolist()


def test_changing_a_held_out_review_changes_no_other_users_rank(tmp_path):
    shop = shop_with_panel(tmp_path)
    before = evaluated(shop)
    held_out = {row["review_id"] for row in shop.rows["splits"] if row["split"] == "test"}
    changed = next(row for row in shop.rows["reviews"] if row["review_id"] in held_out)
    changed |= {"text": "Something else altogether.", "rating": 1.0, "is_positive": False}
    after = evaluated(shop)
    for one, other in zip(before.rankings, after.rankings, strict=True):
        assert one.ranks["test"].tolist() == other.ranks["test"].tolist()


def test_a_user_without_positive_history_keeps_the_candidate_order_in_every_row(tmp_path):
    shop = shop_with_panel(tmp_path)
    shop.interaction("zoe", "i01", split="test").interaction("zoe", "i02", split="valid", catalog="books")
    report = evaluated(shop)
    last = {ranking.name: int(ranking.ranks["test"][-1]) for ranking in report.rankings}
    assert len(set(last.values())) == 1


def test_a_candidate_without_personas_keeps_its_place(tmp_path):
    shop = shop_with_panel(tmp_path).store()
    lost = set(read_targets(shop.database, "test").values())
    for table in ("personas", "persona_vectors"):
        shop.rows[table] = [row for row in shop.rows[table] if f"{row['catalog']}/{row['item_id']}" not in lost]
    before, _, after, _ = evaluated(shop).rankings
    assert after.ranks["test"].tolist() == before.ranks["test"].tolist()
    assert after.ranks["valid"].tolist() != before.ranks["valid"].tolist()


def test_without_a_panel_there_is_a_warning_an_empty_report_and_no_encoder(tmp_path, caplog):
    shop = shop_with_panel(tmp_path, panel=0)

    def no_encoder() -> HashEncoder:
        raise AssertionError("nothing to encode")

    shop.store()
    with caplog.at_level(logging.WARNING):
        report = evaluate(shop.database, no_encoder, 0.9, 10, EvaluationSettings())
    assert "Nobody is in the evaluation panel" in caplog.text
    assert report.table().empty
    assert "No user of the panel" in report.markdown()
    assert report.to_dict()["test"] == {"users": 0, "rankings": {}}


def test_vectors_of_two_encoders_are_refused(tmp_path):
    shop = shop_with_panel(tmp_path)
    shop.rows["interaction_vectors"][0]["encoder"] = "another"
    with pytest.raises(IndexNotBuildable, match="2 encoders"):
        evaluated(shop)


def test_the_gain_is_measured_user_by_user():
    one = RankingResult("one", None, {"test": np.array([1, 0, 2])})
    other = RankingResult("other", None, {"test": np.array([1, 0, 2])})
    gain = one.gain_over(other, "test")
    assert (gain.value, gain.low, gain.high) == (0, 0, 0)


def test_the_report_is_saved_as_json_and_equal_reports_are_equal_bytes(tmp_path):
    shop = shop_with_panel(tmp_path / "home")
    evaluated(shop).save(tmp_path / "a" / "report.json")
    evaluated(shop).save(tmp_path / "b" / "report.json")
    first, second = ((tmp_path / name / "report.json").read_bytes() for name in "ab")
    assert first == second
    metrics = json.loads(first)["test"]["rankings"]["personas_trained"]["metrics"]["ndcg_at_10"]
    assert metrics["low"] <= metrics["value"] <= metrics["high"]


def test_the_markdown_names_every_ranking_its_interval_and_its_gain(tmp_path):
    text = evaluated(shop_with_panel(tmp_path)).markdown()
    assert all(name.replace("_", "\\_") in text for name in NAMES)
    assert "6 users, split test" in text
