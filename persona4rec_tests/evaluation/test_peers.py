"""Language-model rerankers on the users of a panel: what they may read, their ranks, and their costs."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest

from persona4rec_pipeline.evaluation.panel import read_slate
from persona4rec_pipeline.evaluation.peers import Peer, ask_rerankers, sample_users
from persona4rec_pipeline.evaluation.report import Encoders, evaluate
from persona4rec_pipeline.evaluation.report_page import render_report
from persona4rec_pipeline.generation import GenerationError, LanguageModel
from persona4rec_pipeline.settings import Settings, load_settings
from persona4rec_tests.evaluation.builders import HashEncoder, propose_with, shop_with_panel
from persona4rec_tests.evaluation.test_contest import TasteEncoder
from persona4rec_tests.evaluation.test_rerankers import any_answer, choice, text_of
from persona4rec_tests.generation.scripted import ScriptedEngine, ledger_in
from persona4rec_tests.index.builders import Shop
from persona4rec_tests.personas.builders import BOOK

DOMAINS = {"books": BOOK, "films": BOOK}
EVERY = ["llm_pointwise", "llm_pointwise_few_shot", "llm_listwise", "llm_profile_score"]


@pytest.fixture
def shop(tmp_path) -> Shop:
    made = shop_with_panel(tmp_path)
    propose_with(made, "ease", candidates=6)
    return made


def asked(shop: Shop, names, script=any_answer, ledger=None) -> tuple[list[Peer], ScriptedEngine]:
    engine = ScriptedEngine(script)
    slate = read_slate(shop.database, "test", "ease", 6)
    with LanguageModel(load_settings({}, home=shop.home), ledger, engine=engine) as model:
        return ask_rerankers(shop.database, slate, names, model, DOMAINS), engine


def test_an_oracle_puts_every_target_first(shop):
    slate = read_slate(shop.database, "test", "ease", 6)
    titles = {f"Title of {target.partition('/')[2]}" for target in slate.targets}

    def oracle(prompt):
        liked = re.search(r"decide on: <<< (Title of i\d+)", prompt.messages[-1].content)
        yes = 0.9 if liked and liked.group(1) in titles else 0.1
        return choice({"yes": yes, "no": 1 - yes})

    one = [row for row, keys in enumerate(slate.keys) if len(titles & {f"Title of {key[-3:]}" for key in keys}) == 1]
    [peer], _ = asked(shop, ["llm_pointwise"], oracle)
    hits = [row for row in one if slate.places[row] >= 0]
    assert hits and (peer.ranks[hits] == 1).all()
    assert (peer.ranks[slate.places < 0] == 0).all()


def test_all_four_have_costs_and_the_ledger_pays_the_second_time(shop):
    ledger = ledger_in(shop.home)
    first, engine = asked(shop, EVERY, ledger=ledger)
    assert [peer.name for peer in first] == EVERY
    for peer in first:
        assert peer.cost.milliseconds > 0 and peer.cost.batch_milliseconds > 0
        assert peer.cost.prompt_tokens > 0 and peer.cost.completion_tokens > 0 and peer.cost.failed == 0
    again, second = asked(shop, EVERY, ledger=ledger)
    assert len(second.prompts) < len(engine.prompts)
    for peer, before in zip(again, first, strict=True):
        assert peer.cost.batch_milliseconds is None and peer.cost.prompt_tokens == before.cost.prompt_tokens
        assert (peer.ranks == before.ranks).all()


def test_nothing_held_out_stands_in_a_prompt(shop):
    held_out = {
        text
        for (text,) in shop.database.rows(
            "SELECT text FROM reviews JOIN splits USING (catalog, review_id) WHERE splits.split <> 'train'"
        )
    }
    _, engine = asked(shop, EVERY)
    told = "\n".join(map(text_of, engine.prompts))
    assert "About i" in told and not [text for text in held_out if text in told]


def test_without_dislikes_the_few_shot_reranker_is_left_out_and_it_is_said(shop, caplog):
    shop.rows["reviews"] = [row | {"is_positive": True} for row in shop.rows["reviews"]]
    shop.store()
    with caplog.at_level(logging.WARNING):
        peers, _ = asked(shop, EVERY[:2])
    assert [peer.name for peer in peers] == ["llm_pointwise"]
    assert "llm_pointwise_few_shot is left out" in caplog.text


def test_without_a_model_it_says_so(shop):
    slate = read_slate(shop.database, "test", "ease", 6)
    model = LanguageModel(load_settings({}, home=shop.home, generation={"engine": "extractive"}))
    with pytest.raises(GenerationError, match=r"evaluation\.rerankers"):
        ask_rerankers(shop.database, slate, EVERY, model, DOMAINS)


def test_a_sample_of_users_stays_when_others_come(shop):
    slate = read_slate(shop.database, "test", "ease", 6)
    few, more = sample_users(slate, 2), sample_users(slate, 4)
    assert len(few) == 2 and set(few) < set(more)
    assert sample_users(slate, 100).tolist() == list(range(len(slate.users)))


def test_the_report_compares_them_with_all_rows_on_the_same_users(tmp_path):
    shop = shop_with_panel(tmp_path)
    chosen = propose_with(shop, "ease", candidates=6).model_copy(update={"reranked_users": 4})
    settings = Settings(home=shop.home, evaluation=chosen)
    trained = TasteEncoder("trained")
    with LanguageModel(load_settings({}, home=shop.home), engine=ScriptedEngine(any_answer)) as model:
        report = evaluate(
            shop.database,
            Encoders(HashEncoder("base"), trained, trained),
            settings,
            ask_peers=lambda slate: ask_rerankers(shop.database, slate, EVERY, model, DOMAINS),
        )
    assert report.peers is not None and report.peers.users == {"test": 4}
    assert [ranking.name for ranking in report.peers.rankings][-4:] == EVERY
    sampled = sample_users(read_slate(shop.database, "test", "ease", 6), 4)
    of_all = report.tables[0].of["personas_trained"].ranks["test"]
    assert np.array_equal(report.peers.of["personas_trained"].ranks["test"], of_all[sampled])
    page = render_report(report, settings)
    assert "llm listwise" in page and settings.generation.model in page and "data:image/svg+xml;base64," in page
    assert set(report.to_dict()["rerankers"]["rankings"]) == {r.name for r in report.peers.rankings}
