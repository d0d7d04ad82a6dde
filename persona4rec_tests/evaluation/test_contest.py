"""A new encoder replaces the one in use only if it orders the panel's candidates better; the reason is kept."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from persona4rec_pipeline.evaluation import assets
from persona4rec_pipeline.evaluation.contest import Arena, Contest, hold_contest
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.tracking import ROLLED_BACK, RegisteredEncoder
from persona4rec_tests.evaluation.builders import TASTES, HashEncoder, propose_with, shop_with_panel
from persona4rec_tests.index.builders import DIMENSION


class TasteEncoder(HashEncoder):
    """Knows the taste of every item of the shop: its number modulo the number of tastes."""

    def encode(self, texts):
        tastes = [int(re.findall(r"\bi(\d\d)\b", text)[0]) % TASTES for text in texts]
        return np.eye(DIMENSION, dtype=np.float32)[tastes]


class LateEncoder(HashEncoder):
    """Puts every target last."""

    def encode(self, texts):
        return -TasteEncoder().encode(texts) if texts[0].startswith("Reader") else TasteEncoder().encode(texts)


def registered(version, **tags):
    return RegisteredEncoder(version, Path(f"/encoders/{version}"), "run", f"fingerprint-{version}", tags)


def arena_of(shop):
    return Arena.read(shop.database, Settings(home=shop.home))


@pytest.fixture
def shop(tmp_path):
    shop = shop_with_panel(tmp_path)
    propose_with(shop, "ease")
    return shop


def decide(shop, monkeypatch, challenger, encoders=None):
    made = encoders or {"2": TasteEncoder("new"), "1": LateEncoder("old")}
    monkeypatch.setattr(assets, "_encoder", lambda warehouse, settings, encoder: made[encoder.version])
    return assets._decide(arena_of(shop), shop.database, Settings(home=shop.home), challenger, registered("1"))


def test_an_encoder_that_knows_the_taste_wins_with_the_figures_of_both(shop):
    contest = hold_contest(arena_of(shop), TasteEncoder(), LateEncoder())
    assert contest is not None and contest.is_won and contest.users == 6
    assert contest.gain == pytest.approx(contest.challenger - contest.champion)
    # Three items of the reader's taste are unseen at the time of the validation target, so it is among the first three.
    assert contest.challenger >= 0.5 and 0 < contest.low <= contest.gain <= contest.high


def test_a_gain_within_noise_is_no_victory():
    assert Contest(100, 0.20, 0.22, 0.02, 0.001, 0.04).is_won
    assert not Contest(100, 0.20, 0.22, 0.02, -0.001, 0.04).is_won


def test_stored_vectors_do_not_enter_the_contest(shop):
    before = hold_contest(arena_of(shop), TasteEncoder(), HashEncoder())
    with shop.database.write() as connection:
        connection.execute("DELETE FROM persona_vectors; DELETE FROM interaction_vectors")
    assert hold_contest(arena_of(shop), TasteEncoder(), HashEncoder()) == before


def test_the_better_one_is_promoted_and_the_worse_one_is_not(shop, monkeypatch):
    better, _ = decide(shop, monkeypatch, registered("2"))
    assert better.promoted and "version 2 against version 1: promoted; NDCG@10" in better.reason
    worse, contest = decide(shop, monkeypatch, registered("2"), {"1": TasteEncoder("old"), "2": LateEncoder("new")})
    assert not worse.promoted and "not better beyond noise, so the champion stays" in worse.reason and contest.gain < 0


def test_a_tie_keeps_the_champion(shop, monkeypatch):
    decision, contest = decide(shop, monkeypatch, registered("2"), {"1": TasteEncoder("a"), "2": TasteEncoder("b")})
    assert contest.gain == 0 and not decision.promoted


def test_no_contest_without_a_challenger_for_the_same_encoder_and_for_one_that_was_rolled_back(shop, monkeypatch):
    for challenger in (None, registered("1"), registered("2", **{ROLLED_BACK: "2026-11-01"})):
        decision, contest = decide(shop, monkeypatch, challenger, encoders={"none": None})
        assert contest is None and not decision.promoted
    assert "rolled back on 2026-11-01" in decision.reason


def test_where_nobody_is_in_the_panel_the_newer_one_is_taken(tmp_path, monkeypatch):
    shop = shop_with_panel(tmp_path, panel=0).store()
    decision, contest = decide(shop, monkeypatch, registered("2"))
    assert contest is None and decision.promoted and "nobody is in the panel" in decision.reason


def test_a_blend_is_learned_with_the_encoder_in_use_and_none_where_nobody_can_tell(shop, tmp_path):
    arena = arena_of(shop)
    # The generator knows the tastes of these readers; with its lists turned round there is something to gain.
    turned = replace(arena, slate=replace(arena.slate, keys=[found[::-1] for found in arena.slate.keys]))
    assert turned.blends(TasteEncoder()).of_scores.weight > 0 < turned.blends(TasteEncoder()).of_places.weight
    assert turned.blends(TasteEncoder()).of_places.normalisation == "rank"
    assert arena.blends(LateEncoder()).of_scores.weight == 0, "what puts targets last counts nothing"
    assert arena_of(shop_with_panel(tmp_path / "nobody", panel=0)).blends(TasteEncoder()) is None
