"""A backtest is an installation of its own: made from the reviews before the cut, sharing the ledger, resumed, and forgotten."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from persona4rec_pipeline.backtest import delete_backtests, run_backtest, settings_of
from persona4rec_pipeline.catalogs import add_catalog
from persona4rec_pipeline.runner import Listener
from persona4rec_pipeline.sample import sample_path
from persona4rec_pipeline.settings import load_settings
from persona4rec_pipeline.warehouse import open_warehouse


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    settings = load_settings(
        {},
        home=tmp_path_factory.mktemp("home"),
        generation={"engine": "extractive"},
        encoder={"epochs": 2},
        evaluation={"generators": ["ease", "popularity"]},
    )
    folder = sample_path("books")
    reviews, items = (str(folder / f"{name}.jsonl") for name in ("reviews", "items"))
    list(add_catalog(settings, "books", reviews, items, "amazon_2023", domain="book"))
    return settings


@pytest.fixture(scope="module")
def backtest(settings):
    return run_backtest(settings, as_of=datetime(2022, 7, 1))


def test_everything_is_made_from_reviews_before_the_date_apart_from_what_is_served(settings, backtest):
    own = open_warehouse(settings_of(settings, "temporal", datetime(2022, 7, 1)))
    [(latest,)] = own.rows(
        "SELECT max(reviewed_at) FROM reviews WHERE review_id IN "
        "(SELECT review_id FROM review_aspects UNION SELECT review_id FROM interaction_vectors "
        "UNION SELECT unnest(evidence_review_ids) FROM personas UNION SELECT review_id FROM alignment_pairs)"
    )
    assert latest < datetime(2022, 7, 1)
    [(targets, earliest)] = own.rows(
        "SELECT count(*), min(reviewed_at) FROM splits JOIN reviews USING (catalog, review_id) "
        "WHERE is_target AND split = 'test'"
    )
    assert targets > 20 and earliest >= datetime(2022, 7, 1)
    assert open_warehouse(settings).rows("SELECT count(*) FROM personas") == [(0,)]
    assert not settings.index_path.exists()
    report = json.loads(backtest.report.read_text())
    assert report["users"]["test"] == targets
    assert {(table["generator"], table["depth"]) for table in report["tables"]} == {
        (generator, depth) for generator in ("ease", "popularity") for depth in (20, 100)
    }
    assert "Everything from a moment on is held out" in backtest.page.read_text()


def test_it_shares_the_ledger_and_the_models(settings, backtest):
    own = settings_of(settings, "temporal", datetime(2022, 7, 1))
    assert backtest.folder == own.home != settings.home
    assert (own.ledger_path, own.models_path) == (settings.ledger_path, settings.models_path)


def test_run_again_it_makes_only_what_is_out_of_date(settings, backtest):
    made = []
    run_backtest(
        settings,
        as_of=datetime(2022, 7, 1),
        listener=Listener(finished=lambda outcome: made.append(outcome.asset) if outcome.was_stale else None),
    )
    assert made == []


def test_what_cannot_be_tested_is_refused_with_the_reason(settings):
    with pytest.raises(ValueError, match=r"no catalogue 'films' with reviews. There are: books"):
        run_backtest(settings, catalogs=["films"])
    with pytest.raises(ValueError, match="Leave-one-out has no date"):
        run_backtest(settings, "loo", datetime(2022, 7, 1))


def test_backtests_hold_copies_of_reviews_and_are_deleted_as_a_whole(settings, backtest):
    assert backtest.folder.exists()
    delete_backtests(settings)
    assert not backtest.folder.exists()
