"""The curves of the report: bins of history, fewer personas per item, fewer training pairs, and their pictures."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from persona4rec_pipeline.encoder.pairs import read_training_pairs
from persona4rec_pipeline.encoder.stored import base_encoder
from persona4rec_pipeline.evaluation.ablations import gains_by_history, history_bins
from persona4rec_pipeline.evaluation.candidates import propose, read_interactions, read_panel
from persona4rec_pipeline.evaluation.curves import Plot
from persona4rec_pipeline.evaluation.learning import (
    LearningPoint,
    SeedPoint,
    learning_curve,
    repeated_seeds,
    sample_pairs,
)
from persona4rec_pipeline.evaluation.report import Encoders
from persona4rec_pipeline.evaluation.report_page import render_report
from persona4rec_pipeline.evaluation.significance import Estimate
from persona4rec_pipeline.settings import Settings, load_settings
from persona4rec_tests.encoder.builders import filled_warehouse, training_pairs
from persona4rec_tests.evaluation.builders import HashEncoder, shop_with_panel
from persona4rec_tests.evaluation.test_report import evaluated
from persona4rec_tests.index.builders import Shop, axis


def shop_with_many_personas(home) -> Shop:
    """Every item has four personas; one more review speaks for each than for the one before."""
    shop = shop_with_panel(home)
    for item_id, catalog in {(row["item_id"], row["catalog"]) for row in shop.rows["items"]}:
        for number in (3, 4):
            persona = {"catalog": catalog, "item_id": item_id, "persona_id": f"p{number}"}
            text = f"Reader {number} of {item_id}"
            shop._add(
                "personas", **persona, name=text, description=text, preference_rationale=text, polarity="mixed",
                evidence_review_ids=[f"r{place}" for place in range(number)], quotes=[], source="extractive",
            )  # fmt: skip
            shop._add("persona_vectors", **persona, text_hash="h", encoder="encoder-one", vector=axis(number))
    return shop


def test_every_user_is_in_exactly_one_bin_of_history():
    interactions = np.arange(40)
    bins = history_bins(interactions)
    assert list(bins) == ["0", "1", "2", "3-4", "5-7", "8-14", "15+"]
    assert (np.sum(list(bins.values()), axis=0) == 1).all()
    assert interactions[bins["3-4"]].tolist() == [3, 4] and interactions[bins["15+"]].min() == 15


def test_bins_without_users_are_left_out_and_the_others_have_the_gain_of_their_own_users():
    found = gains_by_history(np.array([1, 6, 6]), {"blend": np.array([0.5, -0.1, -0.3])})
    assert [(of.interactions, of.users) for of in found] == [("1", 1), ("5-7", 2)]
    assert [of.gains["blend"].value for of in found] == pytest.approx([0.5, -0.2])


def test_at_most_one_persona_per_item_is_the_row_of_single_personas_and_more_lose_fewer(tmp_path):
    # HashEncoder gives every persona a direction of its own, so that each one left out can move the target.
    encoder = HashEncoder("newest")
    report = evaluated(shop_with_many_personas(tmp_path), Encoders(HashEncoder("base"), encoder, encoder))
    found, of = report.personas_per_item, report.tables[0].of
    assert [limit.most for limit in found.limits] == [1, 3, 5, 7] and found.personas == 3
    one, *_, most = found.limits
    assert one.ndcg_at_10 == of["single_persona"].estimates("test")["ndcg_at_10"]
    assert most.ndcg_at_10 == of["personas_trained"].estimates("test")["ndcg_at_10"] != one.ndcg_at_10
    assert most.gain_over_one.value == pytest.approx(most.ndcg_at_10.value - one.ndcg_at_10.value)
    assert [limit.items_with_more for limit in found.limits] == [found.items, 0, 0, 0]


def test_a_larger_sample_of_pairs_holds_every_smaller_one_and_all_pairs_of_its_users():
    pairs = training_pairs(200) + training_pairs(200)
    samples = [sample_pairs(pairs, share) for share in (0.0, 0.1, 0.3, 1.0)]
    assert not samples[0] and samples[-1] == pairs
    assert 20 < len(samples[1]) < 70 < len(samples[2]) < 170
    for smaller, larger in itertools.pairwise(samples):
        assert {pair.item for pair in smaller} <= {pair.item for pair in larger}
    assert all(len(found) % 2 == 0 for found in samples), "every user has two pairs here"


@pytest.fixture
def learning_home(tmp_path):
    """Settings and a warehouse with pairs of 38 users, and two users with a test target."""
    warehouse = filled_warehouse(tmp_path, users=40, held_out=("u0", "u1"))
    encoder = {"max_seq_length": 32, "epochs": 1, "batch_size": 8, "validation_fraction": 0}
    settings = load_settings({}, home=tmp_path, encoder=encoder)
    chosen = settings.evaluation.model_copy(update={"generators": ["ease"]})
    warehouse.replace("candidates", propose(read_interactions(warehouse), read_panel(warehouse), chosen, "ease"))
    return settings, warehouse


class Renamed:
    """The base encoder under the name of one that was trained: the curve must take it as it is."""

    fingerprint = "newest"

    def __init__(self, base):
        self.encode = base.encode


def test_the_learning_curve_trains_on_samples_and_leaves_nothing_behind(learning_home):
    settings, warehouse = learning_home
    base = base_encoder(warehouse, settings.encoder)
    stale = settings.home / "staging" / "learning-curve" / "of-pairs-that-were"
    stale.mkdir(parents=True)
    points = learning_curve(warehouse, settings, base, Renamed(base), "test")
    pairs = read_training_pairs(warehouse, settings.encoder, settings.alignment)
    counts = {share: len(sample_pairs(pairs, share)) for share in (0.1, 0.3)}
    assert counts[0.1] < 8 <= counts[0.3], "else this test has nothing to leave out, or nothing to train"
    assert [(point.share, point.pairs) for point in points] == [(0, 0), (0.3, counts[0.3]), (1, len(pairs))]
    assert points[-1].ndcg_at_10 == points[0].ndcg_at_10, "the newest encoder is not trained again"
    assert not stale.parent.exists() and not (settings.home / "mlflow").exists()


def test_the_training_is_repeated_with_other_seeds_and_leaves_nothing_behind(learning_home):
    settings, warehouse = learning_home
    base = base_encoder(warehouse, settings.encoder)
    points = repeated_seeds(warehouse, settings, base, Renamed(base), "test")
    assert [point.seed for point in points] == [7, 8, 9]
    assert points[0].gain_over_untrained.value == 0, "the newest encoder is not trained again"
    assert not (settings.home / "staging" / "seeds").exists() and not (settings.home / "mlflow").exists()


@pytest.mark.parametrize("changes", [{"encoder": {"method": "lora"}}, {"evaluation": {"training_seeds": 1}}])
def test_other_methods_and_a_single_seed_repeat_nothing(learning_home, changes, monkeypatch):
    settings, warehouse = learning_home
    monkeypatch.setattr("persona4rec_pipeline.encoder.trials.train_encoder", None)
    base = base_encoder(warehouse, settings.encoder)
    assert repeated_seeds(warehouse, settings, base, base, "test") == []
    for group, values in changes.items():
        settings = settings.model_copy(update={group: getattr(settings, group).model_copy(update=values)})
    assert repeated_seeds(warehouse, settings, base, Renamed(base), "test") == []


@pytest.mark.parametrize("changes", [{"encoder": {"method": "lora"}}, {"evaluation": {"learning_curve": False}}])
def test_other_methods_and_a_report_without_the_curve_train_nothing(learning_home, changes, monkeypatch):
    settings, warehouse = learning_home
    monkeypatch.setattr("persona4rec_pipeline.encoder.trials.train_encoder", None)
    for group, values in changes.items():
        settings = settings.model_copy(update={group: getattr(settings, group).model_copy(update=values)})
    base = base_encoder(warehouse, settings.encoder)
    assert [point.share for point in learning_curve(warehouse, settings, base, Renamed(base), "test")] == [0, 1]
    assert learning_curve(warehouse, settings, base, None, "test") == []
    assert learning_curve(warehouse, settings, base, base, "test") == []


def test_without_a_panel_nothing_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr("persona4rec_pipeline.encoder.trials.train_encoder", None)
    warehouse = filled_warehouse(tmp_path, held_out=())
    settings = load_settings({}, home=tmp_path, encoder={"max_seq_length": 32})
    base = base_encoder(warehouse, settings.encoder)
    assert learning_curve(warehouse, settings, base, Renamed(base), "test") == []
    assert repeated_seeds(warehouse, settings, base, Renamed(base), "test") == []


POINTS = [
    LearningPoint(share, pairs, Estimate(0.2, 0.1, 0.3), Estimate(0.0, -0.1, 0.1))
    for share, pairs in ((0.0, 0), (0.1, 1200), (1.0, 12000))
]
SEEDS = [
    SeedPoint(seed, Estimate(value, 0.1, 0.4), Estimate(0.0, -0.1, 0.1))
    for seed, value in ((7, 0.21), (8, 0.23), (9, 0.25))
]


def test_the_page_shows_the_curves_with_labels_and_no_style_of_their_own(tmp_path):
    report = replace(evaluated(shop_with_panel(tmp_path)), learning=POINTS, seeds=SEEDS)
    assert report.seed_spread() == pytest.approx((0.23, 0.02))
    page = render_report(report, Settings(home=tmp_path))
    for section in ("history", "personas-per-item", "learning"):
        assert f'<section id="{section}">' in page and f'href="#{section}"' in page
    labels = re.findall(r'<svg class="curve"[^>]* aria-label="([^"]+)"', page)
    assert len(labels) == 3 and all("95" not in label and " to " in label for label in labels)
    assert "NDCG@10 is 0.2300 on average, with a standard deviation of 0.0200" in page
    assert "12,000" in page and "style=" not in page and "<script" not in page
    assert "&lt;" not in page, "a section was escaped as a whole"


def test_a_name_on_a_picture_is_escaped(tmp_path):
    report = evaluated(shop_with_panel(tmp_path))
    [found] = report.history
    hostile = replace(found, interactions='"><script>', gains={"<b>blend": found.gains["blend"]})
    page = render_report(replace(report, history=[hostile]), Settings(home=tmp_path))
    assert "<script" not in page and "<b>" not in page and "&lt;b&gt;blend" in page


def test_the_curves_are_in_the_json_and_empty_where_nobody_was_trained_or_is_in_the_panel(tmp_path):
    shop, base = shop_with_panel(tmp_path / "one"), HashEncoder()
    untrained = evaluated(shop, Encoders(base, None, base))
    saved = json.loads(json.dumps(untrained.to_dict()))
    [of_bin] = saved["gain_by_history"]
    assert of_bin["interactions"] == "3-4" and of_bin["users"] == 6 and set(of_bin["gains"]) == {"blend"}
    assert [limit["most"] for limit in saved["personas_per_item"]["limits"]] == [1, 3, 5, 7]
    assert saved["learning_curve"] == []
    assert "No encoder was trained yet" in render_report(untrained, Settings(home=tmp_path))
    learned = replace(untrained, learning=POINTS, seeds=SEEDS).to_dict()
    assert [(point["seed"], point["ndcg_at_10"]["value"]) for point in learned["training_seeds"]] == [
        (7, 0.21),
        (8, 0.23),
        (9, 0.25),
    ]
    learned = learned["learning_curve"][1]
    assert learned["pairs"] == 1200 and learned["ndcg_at_10"] == {"value": 0.2, "low": 0.1, "high": 0.3}
    nobody = evaluated(shop_with_panel(tmp_path / "two", panel=0)).to_dict()
    assert (nobody["gain_by_history"], nobody["personas_per_item"], nobody["learning_curve"]) == ([], None, [])


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (0.2, 0.2), (-0.0004, 0.0003), (0.31, 0.97), (-40.0, 5.0)])
def test_the_ticks_are_round_and_hold_every_interval(low, high):
    plot = Plot("axis", ["a"], {"b": [Estimate((low + high) / 2, low, high)]}, "users", [3], is_gain=True)
    assert plot.ticks[0] <= min(low, 0) + 1e-9 and plot.ticks[-1] >= max(high, 0) - 1e-9 and 2 <= len(plot.ticks) <= 8
    assert len({plot.tick(value) for value in plot.ticks}) == len(plot.ticks)
    assert plot.y(high) <= plot.y(low)
