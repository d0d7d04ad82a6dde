"""The asset `persona_index`, run by Dagster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest

from persona4rec_pipeline.index import PersonaIndex, assets
from persona4rec_pipeline.index.build import IndexNotBuildable
from persona4rec_pipeline.index.scoring import Blend, Blends
from persona4rec_pipeline.settings import Settings
from persona4rec_tests.index.builders import ENCODER, Shop, two_catalogues


@dataclass
class Champion:
    """Stands in for what the registry says of the champion."""

    path: Path = Path("/models/champion")
    version: str = "3"
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Registry:
    """Stands in for MLflow."""

    found: Champion | None

    def champion(self) -> Champion | None:
        return self.found


@pytest.fixture(autouse=True)
def encoders(monkeypatch) -> dict[Path, str]:
    """Fingerprints by folder, in place of models: the champion made the vectors unless a test says otherwise."""
    known = {Path("/models/champion"): ENCODER, Path(Settings().encoder.base_model): "untrained"}
    monkeypatch.setattr(assets, "model_folder", Path)
    monkeypatch.setattr(assets, "fingerprint", lambda folder, cut: known[folder])
    return known


def materialise(shop: Shop, champion: Champion | None) -> dg.AssetMaterialization:
    resources = {"warehouse": shop.database, "settings": Settings(home=shop.home), "tracking": Registry(champion)}
    result = dg.materialize(assets.ASSETS, resources=resources)
    return result.asset_materializations_for_node("persona_index")[0]


def test_the_asset_publishes_and_reports_what_it_published(tmp_path):
    shop = two_catalogues(tmp_path).store()
    metadata = materialise(shop, Champion()).metadata
    assert (metadata["generation"].value, metadata["published"].value) == (1, True)
    assert (metadata["items"].value, metadata["personas"].value, metadata["users"].value) == (7, 10, 2)
    assert metadata["personas_per_item"].value.startswith("![Personas per item](data:image/png;base64,")
    assert "Likes" in metadata["sample"].value
    encoder = PersonaIndex.open(shop.index_path).manifest.encoder
    assert (encoder.path, encoder.version) == ("/models/champion", "3")


def test_unchanged_tables_give_the_same_data_version_and_no_new_generation(tmp_path):
    shop = two_catalogues(tmp_path).store()
    first, again = materialise(shop, Champion()), materialise(shop, Champion())
    assert again.metadata["published"].value is False
    assert again.metadata["generation"].value == 1
    versions = [found.tags["dagster/data_version"] for found in (first, again)]
    assert versions[0] == versions[1]


def test_the_blend_that_was_learned_with_the_champion_is_published_and_another_one_publishes_anew(tmp_path, encoders):
    shop = two_catalogues(tmp_path).store()
    for generation, weight in ((1, 0.4), (2, 0.6)):
        learned = Blends(Blend("score", weight, {"5+": 0.7}), Blend("rank", 0.1))
        metadata = materialise(shop, Champion(tags={"blends": learned.to_json()})).metadata
        assert (metadata["generation"].value, metadata["blend_weight"].value) == (generation, weight)
        assert PersonaIndex.open(shop.index_path).manifest.blends == learned
    # Of another encoder's vectors the champion's weights say nothing.
    encoders[Path("/models/champion")] = "newer"
    assert (
        materialise(shop, Champion(tags={"blends": learned.to_json()})).metadata["blend_weight"].value == "none learned"
    )


def test_a_champion_that_did_not_make_the_vectors_is_not_named_as_their_encoder(tmp_path, encoders):
    encoders[Path("/models/champion")] = "newer"
    shop = two_catalogues(tmp_path).store()
    materialise(shop, Champion())
    encoder = PersonaIndex.open(shop.index_path).manifest.encoder
    assert (encoder.fingerprint, encoder.path, encoder.version) == (ENCODER, None, None)


def test_vectors_of_the_untrained_encoder_are_named_as_such(tmp_path, encoders):
    encoders[Path(Settings().encoder.base_model)] = ENCODER
    shop = two_catalogues(tmp_path).store()
    materialise(shop, None)
    encoder = PersonaIndex.open(shop.index_path).manifest.encoder
    assert encoder.path == Settings().encoder.base_model


def test_the_asset_fails_on_vectors_of_two_encoders(tmp_path):
    shop = two_catalogues(tmp_path)
    shop.rows["persona_vectors"][0]["encoder"] = "another"
    with pytest.raises(IndexNotBuildable, match="2 encoders"):
        materialise(shop.store(), None)


def test_the_code_version_follows_the_settings_that_change_the_index_and_no_others():
    plain = assets.code_versions(Settings())
    assert plain == assets.code_versions(Settings(index={"keep_generations": 9}))
    assert plain != assets.code_versions(Settings(encoder={"recency_decay": 0.5}))
    assert set(plain) == {"persona_index"}
