"""Rankings of the same candidates, their tables, and the page."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from persona4rec_pipeline.evaluation import metrics
from persona4rec_pipeline.evaluation.blending import Blend
from persona4rec_pipeline.evaluation.panel import read_candidates, read_targets
from persona4rec_pipeline.evaluation.report import Encoders, RankingResult, Report, Table, evaluate
from persona4rec_pipeline.evaluation.report_page import render_report
from persona4rec_pipeline.settings import Settings
from persona4rec_tests.evaluation.builders import HashEncoder, propose_with, shop_with_panel
from persona4rec_tests.evaluation.test_contest import TasteEncoder
from persona4rec_tests.index.builders import Shop

NAMES = [
    "candidate_order", "random", "item_summary", "single_persona", "personas_untrained", "personas_trained", "blend",
]  # fmt: skip


def evaluated(shop: Shop, encoders: Encoders | None = None, generators=("ease",), **evaluation) -> Report:
    chosen = propose_with(shop, *generators, **evaluation)
    trained = TasteEncoder("trained")
    encoders = encoders or Encoders(HashEncoder("base"), trained, trained)
    return evaluate(shop.database, encoders, Settings(home=shop.home, evaluation=chosen))


def test_the_report_has_every_ranking_of_all_users_of_the_panel(tmp_path):
    report = evaluated(shop_with_panel(tmp_path))
    assert [(table.generator, table.depth) for table in report.tables] == [("ease", 20), ("ease", 100)]
    assert [ranking.name for ranking in report.tables[0].rankings] == NAMES
    assert report.users == {"valid": 6, "test": 6} and report.costs["blend"].milliseconds > 0
    rows = report.rows()
    assert len(rows) == 2 * 7 * 9 and set(rows["users"]) == {6}
    assert rows.groupby("ranking")["encoder"].first().to_dict() == {
        "candidate_order": None, "random": None, "item_summary": "base", "single_persona": "trained",
        "personas_untrained": "base", "personas_trained": "trained", "blend": "trained",
    }  # fmt: skip


def test_the_main_generator_comes_first_and_the_others_are_there(tmp_path):
    report = evaluated(shop_with_panel(tmp_path), generators=("item_knn", "popularity", "als"), candidates=3)
    assert [table.generator for table in report.tables][::2] == ["item_knn", "als", "popularity"]
    assert [table.depth for table in report.tables] == [3, 100] * 3


def test_the_candidate_order_is_scored_as_it_stands_to_its_depth(tmp_path):
    shop = shop_with_panel(tmp_path)
    table = evaluated(shop, candidates=3).tables[0]
    lists = read_candidates(shop.database, "test", "ease", 3)
    targets = read_targets(shop.database, "test")
    expected = [lists[user].keys.index(item) + 1 if item in lists[user].keys else 0 for user, item in targets.items()]
    assert table.of["candidate_order"].ranks["test"].tolist() == expected
    assert table.recall["test"] == np.mean(np.array(expected) > 0)


def test_vectors_that_know_the_taste_bring_the_target_to_the_top(tmp_path):
    table = evaluated(shop_with_panel(tmp_path)).tables[0]
    # Three items of the reader's taste are unseen, and only those are near the profile.
    assert set(table.of["personas_trained"].ranks["test"]) <= {1, 2, 3}


def test_every_ranking_finds_the_same_targets_at_the_depth_of_the_candidates(tmp_path):
    table = evaluated(shop_with_panel(tmp_path)).tables[0]
    assert len({tuple(ranking.ranks["test"] > 0) for ranking in table.rankings}) == 1


def test_encoders_read_only_the_panel_and_its_candidates_and_no_critical_persona(tmp_path):
    encoder = HashEncoder()
    shop = shop_with_panel(tmp_path, panel=1)
    evaluated(shop, Encoders(encoder, None, encoder))
    proposed = read_candidates(shop.database, "test", "ease", 100)["u23"].keys
    # Three interactions; of each item its summary, its persona for three rows.
    assert len(set(encoder.read)) == 3 + 2 * len(proposed)
    assert not any("Reader 2" in text for text in encoder.read), "a critical persona never makes a score"


def test_without_a_trained_encoder_there_is_no_row_for_it(tmp_path):
    base = HashEncoder()
    table = evaluated(shop_with_panel(tmp_path), Encoders(base, None, base)).tables[0]
    assert [ranking.name for ranking in table.rankings] == [name for name in NAMES if name != "personas_trained"]
    assert list(table.steps()) == [
        "item_summary over candidate_order", "personas_untrained over item_summary", "blend over personas_untrained",
    ]  # fmt: skip


def test_a_user_without_profile_keeps_the_candidate_order(tmp_path):
    shop = shop_with_panel(tmp_path)
    for row in shop.rows["reviews"]:
        if row["user_id"] == "u23":
            row["is_positive"] = row["is_positive"] and row["review_id"] in {
                split["review_id"] for split in shop.rows["splits"] if split["split"] != "train"
            }
    table = evaluated(shop).tables[0]
    place = sorted(read_targets(shop.database, "test")).index("u23")
    ranks = {ranking.name: ranking.ranks["test"][place] for ranking in table.rankings if ranking.name != "random"}
    assert set(ranks.values()) == {ranks["candidate_order"]}
    assert table.segments["users with 0 interactions"].tolist() == [name == place for name in range(6)]


def test_without_a_panel_the_report_is_empty_and_says_so(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        report = evaluated(shop_with_panel(tmp_path, panel=0))
    assert not report.tables and report.rows().empty and "splits.panel_fraction" in caplog.text
    assert "No user of the panel" in report.markdown()
    assert "Nobody is in the evaluation panel" in render_report(report, Settings(home=tmp_path))


def result(name, *ranks):
    return RankingResult(name, None, {split: np.array(ranks) for split in ("valid", "test")})


def test_gains_are_paired_by_user_and_corrected_for_the_number_of_rows():
    ranks = [1] * 40 + [0] * 60
    better, lucky = [1] * 70 + [0] * 30, [1] * 41 + [0] * 59
    table = Table(
        "ease", 20, {"valid": 100, "test": 100}, {"valid": 1.0, "test": 1.0},
        [result("candidate_order", *ranks), result("personas_trained", *better), result("blend", *lucky)],
        Blend("score", 0.5), {},
    )  # fmt: skip
    gain = table.of["personas_trained"].gain_over(table.rankings[0], "test")
    assert gain.value == pytest.approx(0.3) and 0.2 < gain.low < gain.high < 0.4
    p = table.p_values()
    assert p["personas_trained"] < 0.001 and p["blend"] == 1
    same = result("same", *ranks).gain_over(table.rankings[0], "test")
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert table.steps()["blend over personas_trained"].value == pytest.approx(-0.29)


def test_the_report_is_saved_as_json_with_segments_and_exposure(tmp_path):
    shop = shop_with_panel(tmp_path / "home")
    evaluated(shop).save(tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text())
    trained = saved["tables"][0]["rankings"]["personas_trained"]
    found = trained["metrics"]["test"]["ndcg_at_10"]
    assert found["low"] <= found["value"] <= found["high"]
    assert trained["segments"]["users with 2 to 4 interactions"]["users"] == 6
    assert 0 < trained["exposure"]["coverage"] <= 1


def test_the_page_and_the_markdown_show_every_ranking_and_load_nothing(tmp_path):
    report = evaluated(shop_with_panel(tmp_path), generators=("ease", "popularity"))
    page, text = render_report(report, Settings(home=tmp_path)), report.markdown()
    for name in NAMES:
        assert name.replace("_", " ") in page and name.replace("_", "\\_") in text
    assert "6 users, split test" in text
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    value = metrics.means(report.tables[0].of["blend"].ranks["test"])["ndcg_at_10"]
    assert f"{value:.4f}" in page
