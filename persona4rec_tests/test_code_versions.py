"""A change of model, prompt, sampling or setting is a change of exactly the assets that depend on it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from persona4rec_pipeline.definitions import ROOMS
from persona4rec_pipeline.generation import PromptTemplate
from persona4rec_pipeline.settings import load_settings

ASKING = {"review_aspects", "item_summaries", "personas", "alignment_pairs"}


def versions(**groups) -> dict[str, str]:
    settings = load_settings({}, **groups)
    return {name: version for room in ROOMS for name, version in room.code_versions(settings).items()}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({"generation": {"model": "someone/another-model"}}, ASKING),
        ({"generation": {"prompt_profile": "full"}}, ASKING),
        ({"generation": {"retry_temperature": 0.9}}, ASKING),
        ({"generation": {"engine": "extractive"}}, ASKING),
        # Tried once more is what failed, row by row; what succeeded is not made again.
        ({"generation": {"max_retries": 3}}, set()),
        ({"generation": {"max_concurrent_sequences": 8, "checkpoint_every": 16, "prompt_price": 1.0}}, set()),
        ({"splits": {"panel_fraction": 0.5}}, {"splits"}),
        ({"reviews": {"positive_rating": 3.0}}, {"reviews", "personas", "quality_report"}),
        ({"personas": {"max_personas": 5}}, {"personas"}),
        ({"personas": {"domain": "movie"}}, {"review_aspects", "item_summaries", "personas"}),
        ({"alignment": {"max_history": 3}}, {"alignment_pairs"}),
        ({"alignment": {"option_orders": 1}}, {"alignment_pairs"}),
        ({"alignment": {"max_entropy": 0.8}}, {"alignment_pairs"}),
        ({"alignment": {"flat_pairs": "drop", "flat_entropy": 0.5}}, {"persona_encoder"}),
        ({"encoder": {"learning_rate": 1e-4}}, {"persona_encoder"}),
        ({"evaluation": {"depth": 50}}, {"candidates", "evaluation_report"}),
        ({"evaluation": {"candidates": 50}}, {"candidates", "champion_encoder", "evaluation_report"}),
        ({"index": {"keep_generations": 9}, "serving": {"port": 9}, "warehouse": {"threads": 1}}, set()),
        ({"schedules": {"nightly": "5 5 * * *"}, "incoming": {"settle_s": 5}}, set()),
    ],
)
def test_a_setting_outdates_exactly_the_assets_that_read_it(groups, expected):
    assert changed(versions(), versions(**groups)) == expected


@pytest.mark.parametrize("asset", sorted(ASKING))
def test_a_prompt_outdates_its_own_asset_alone(asset, monkeypatch):
    before, load = versions(), PromptTemplate.load

    def reworded(package, name):
        template = load(package, name)
        return replace(template, text=f"{template.text} ") if name.startswith(f"{asset}.") else template

    monkeypatch.setattr(PromptTemplate, "load", reworded)
    assert changed(before, versions()) == {asset}
