"""The assets of this step in real Dagster runs, with a real training of the packaged model."""

import dagster as dg
import numpy as np
import pytest

from persona4rec_pipeline.automation import CATALOGS
from persona4rec_pipeline.embedding import Encoder, fingerprint, model_folder
from persona4rec_pipeline.encoder.assets import (
    ASSETS,
    MADE_FROM,
    code_versions,
    interaction_vectors,
    persona_encoder,
    persona_vectors,
)
from persona4rec_pipeline.encoder.pairs import read_training_pairs
from persona4rec_pipeline.evaluation.assets import champion_encoder
from persona4rec_pipeline.settings import AlignmentSettings
from persona4rec_pipeline.tracking import CHALLENGER, FORMER_CHAMPION, Tracking
from persona4rec_tests.encoder.builders import BASE, filled_warehouse, settings


class House:
    """A filled warehouse, a tracking store and a Dagster instance in one folder."""

    def __init__(self, home, instance, users=12):
        self.settings = settings(home)
        self.warehouse = filled_warehouse(home, users)
        self.tracking = Tracking(self.settings.mlflow_path)
        self.instance = instance

    def materialize(self, asset, partition=None, raise_on_error=True):
        """The result of one run, and the metadata of the asset as plain values."""
        result = dg.materialize(
            [asset],
            instance=self.instance,
            partition_key=partition,
            raise_on_error=raise_on_error,
            resources={"warehouse": self.warehouse, "settings": self.settings, "tracking": self.tracking},
        )
        found = result.asset_materializations_for_node(asset.key.to_user_string()) if result.success else []
        return result, {name: value.value for entry in found for name, value in entry.metadata.items()}

    def query(self, sql):
        return self.warehouse.rows(sql)


@pytest.fixture(scope="module")
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(CATALOGS.name, ["books"])
        yield instance


@pytest.fixture(scope="module")
def trained(tmp_path_factory, instance):
    """A house whose encoder is trained and whose vectors are made; with the metadata of those runs."""
    house = House(tmp_path_factory.mktemp("home"), instance)
    metadata = {
        "encoder": house.materialize(persona_encoder)[1],
        "champion": house.materialize(champion_encoder)[1],
        "personas": house.materialize(persona_vectors, "books")[1],
        "interactions": house.materialize(interaction_vectors, "books")[1],
    }
    return house, metadata


def test_the_encoder_is_trained_registered_and_where_there_is_no_panel_made_champion(trained):
    house, metadata = trained
    champion = house.tracking.champion()
    told = metadata["encoder"]
    assert (told["pairs"], told["trained"], told["reused"]) == (11, True, False)
    assert (told["version"], told["fingerprint"]) == (champion.version, champion.fingerprint)
    assert champion.fingerprint != fingerprint(model_folder(BASE), house.settings.encoder.max_seq_length)
    assert Encoder.load(champion.path, 32).fingerprint == champion.fingerprint
    assert "data:image/png;base64" in told["loss"]
    decision = metadata["champion"]
    assert decision["promoted"] and "nobody is in the panel" in decision["reason"]
    assert champion.tags["decision"] == decision["reason"]
    former = house.tracking.encoder(FORMER_CHAMPION)
    assert former.tags["trained"] == "false", "before anything was trained the base encoder was in use"


def test_the_run_keeps_parameters_curve_and_plot(trained):
    house, metadata = trained
    client = house.tracking._client
    run = client.get_run(metadata["encoder"]["mlflow_run"])
    assert run.info.status == "FINISHED"
    assert run.data.params["pairs"] == "11" and len(run.data.params["pairs_fingerprint"]) == 16
    versions = {name: value for name, value in run.data.params.items() if name.startswith("version_of_")}
    assert set(versions) == {f"version_of_{table}" for table in MADE_FROM} and len(set(versions.values())) > 3
    assert len(client.get_metric_history(run.info.run_id, "loss")) == metadata["encoder"]["steps"]
    assert "loss.png" in [file.path for file in client.list_artifacts(run.info.run_id)]


def test_the_data_version_of_the_encoder_is_its_fingerprint(trained):
    house, _ = trained
    event = house.instance.get_latest_materialization_event(persona_encoder.key)
    assert event.asset_materialization.tags["dagster/data_version"] == house.tracking.champion().fingerprint


def test_the_same_pairs_train_nothing_anew(trained, monkeypatch):
    house, metadata = trained
    monkeypatch.setattr("persona4rec_pipeline.encoder.assets.train_encoder", None)
    _, told = house.materialize(persona_encoder)
    assert told["reused"] and told["version"] == metadata["encoder"]["version"]


def test_every_persona_gets_the_champions_vector_of_its_text(trained):
    house, metadata = trained
    assert metadata["personas"]["rows"] == metadata["personas"]["encoded"] == 16
    [(name, description, rationale, encoder, vector)] = house.query(
        "SELECT name, description, preference_rationale, encoder, vector FROM persona_vectors "
        "JOIN personas USING (catalog, item_id, persona_id) WHERE item_id = 'i2' AND persona_id = 'p1'"
    )
    champion = house.tracking.champion()
    assert encoder == champion.fingerprint
    expected = Encoder.load(champion.path, 32).encode([f"{name}. {description} {rationale}"])[0]
    np.testing.assert_allclose(vector, expected, atol=2e-3)  # a head is applied in float32 here, in bfloat16 there


def test_only_the_most_recent_positive_train_interactions_get_vectors(trained):
    house, _ = trained
    stored = {review for (review,) in house.query("SELECT review_id FROM interaction_vectors")}
    # max_history is 2; the third interaction of u0 is held out, so its first two are the most recent train ones.
    assert {review for review in stored if review.startswith("u0-")} == {"u0-0", "u0-1"}
    assert {review for review in stored if review.startswith("u1-")} == {"u1-1", "u1-2"}
    assert len(stored) == 24


@pytest.mark.parametrize("asset", [persona_vectors, interaction_vectors], ids=["personas", "interactions"])
def test_a_second_materialization_encodes_nothing_and_writes_nothing(trained, monkeypatch, asset):
    house, _ = trained
    monkeypatch.setattr(Encoder, "load", None)
    monkeypatch.setattr(type(house.warehouse), "replace", None)
    _, told = house.materialize(asset, "books")
    assert told["encoded"] == told["removed"] == 0 and told["kept"] == told["rows"] > 0


def test_only_what_changed_is_encoded_again(tmp_path, instance):
    house = House(tmp_path, instance, users=4)
    house.materialize(persona_encoder)
    house.materialize(persona_vectors, "books")
    house.materialize(interaction_vectors, "books")
    untouched = dict(house.query("SELECT item_id || persona_id, vector FROM persona_vectors"))
    with house.warehouse.write() as connection:
        connection.execute("UPDATE personas SET name = 'The Reborn' WHERE item_id = 'i0' AND persona_id = 'p0'")
        connection.execute("DELETE FROM personas WHERE item_id = 'i3'")
        connection.execute("UPDATE review_aspects SET usage_context = 'in bed' WHERE review_id = 'u1-2'")
    _, personas = house.materialize(persona_vectors, "books")
    _, interactions = house.materialize(interaction_vectors, "books")
    assert (personas["rows"], personas["encoded"], personas["kept"], personas["removed"]) == (12, 1, 11, 4)
    assert (interactions["encoded"], interactions["removed"]) == (1, 0)
    for key, vector in house.query("SELECT item_id || persona_id, vector FROM persona_vectors"):
        assert (vector == untouched[key]) == (key != "i0p0")


def test_too_few_pairs_register_the_base_encoder_untrained_and_say_so(tmp_path, instance):
    house = House(tmp_path, instance, users=4)
    _, told = house.materialize(persona_encoder)
    base = fingerprint(model_folder(BASE), house.settings.encoder.max_seq_length)
    assert (told["pairs"], told["trained"], told["fingerprint"]) == (3, False, base)
    assert house.tracking.encoder(CHALLENGER).tags["trained"] == "false"
    house.materialize(champion_encoder)
    assert [found.version for found in house.tracking.versions()] == ["1"], "the base is registered once"


def test_where_nothing_was_trained_yet_the_base_encoder_becomes_the_champion(tmp_path, instance):
    house = House(tmp_path, instance, users=1)
    _, told = house.materialize(persona_vectors, "books")
    base = fingerprint(model_folder(BASE), house.settings.encoder.max_seq_length)
    champion = house.tracking.champion()
    assert told["encoder"] == champion.fingerprint == base and champion.tags["trained"] == "false"
    house.materialize(interaction_vectors, "books")
    assert house.tracking.champion().version == champion.version


def test_a_held_out_review_never_reaches_a_training_pair(tmp_path):
    warehouse = filled_warehouse(tmp_path)
    chosen = settings(tmp_path)
    before = read_training_pairs(warehouse, chosen.encoder, chosen.alignment)
    assert len(before[0].history_texts) == 2
    with warehouse.write() as connection:
        connection.execute("UPDATE splits SET split = 'test' WHERE review_id = 'u1-1'")
    after = {pair.user_id: pair for pair in read_training_pairs(warehouse, chosen.encoder, chosen.alignment)}
    assert len(after["u1"].history_texts) == 1


def test_training_takes_the_most_recent_pairs_and_histories(tmp_path):
    warehouse = filled_warehouse(tmp_path)
    chosen = settings(tmp_path, max_training_pairs=3, training_history=1)
    pairs = read_training_pairs(warehouse, chosen.encoder, chosen.alignment)
    assert [pair.user_id for pair in pairs] == ["u11", "u10", "u9"]
    assert all(len(pair.history_texts) == 1 for pair in pairs)
    assert pairs[0].history_texts[0].endswith("Title river. A book about garden.")


def test_flat_pairs_are_kept_weighed_or_dropped_as_the_setting_says(tmp_path):
    warehouse = filled_warehouse(tmp_path)
    with warehouse.write() as connection:
        connection.execute("UPDATE alignment_pairs SET entropy = 0.25")
        connection.execute("UPDATE alignment_pairs SET entropy = 0.95 WHERE user_id = 'u1'")
        connection.execute("UPDATE alignment_pairs SET entropy = 1 WHERE user_id = 'u2'")
        connection.execute("UPDATE alignment_pairs SET entropy = NULL WHERE user_id = 'u3'")

    def weights(**alignment):
        chosen = AlignmentSettings(**alignment)
        return {
            pair.user_id: pair.weight for pair in read_training_pairs(warehouse, settings(tmp_path).encoder, chosen)
        }

    kept, weighed, dropped = (weights(flat_pairs=choice) for choice in ("keep", "weigh", "drop"))
    assert len(kept) == 11 and set(kept.values()) == {1.0}
    assert weighed["u1"] == pytest.approx(0.05) and weighed["u3"] == 1 and weighed["u4"] == 0.75
    assert set(kept) - set(weighed) == {"u2"}, "what would have no weight is left out"
    assert set(kept) - set(dropped) == {"u1", "u2"} and set(dropped.values()) == {1.0}
    assert set(weights(flat_pairs="drop", flat_entropy=0.2)) == {"u3"}


def test_dropped_pairs_make_room_for_older_ones(tmp_path):
    warehouse = filled_warehouse(tmp_path)
    with warehouse.write() as connection:
        connection.execute("UPDATE alignment_pairs SET entropy = 1 WHERE user_id = 'u11'")
    chosen = settings(tmp_path, max_training_pairs=2).encoder
    pairs = read_training_pairs(warehouse, chosen, AlignmentSettings(flat_pairs="drop"))
    assert [pair.user_id for pair in pairs] == ["u10", "u9"]


def test_code_versions_change_with_the_settings_that_matter_and_no_others(tmp_path):
    versions = code_versions(settings(tmp_path))
    assert set(versions) == {asset.key.to_user_string() for asset in ASSETS}

    def changed(**encoder):
        now = code_versions(settings(tmp_path, **encoder))
        return {name for name in versions if versions[name] != now[name]}

    assert changed(temperature=0.1) == {"persona_encoder"}
    assert changed(max_history=7) == {"interaction_vectors"}
    assert changed(max_seq_length=48) == set(versions)
    assert changed(encode_batch_size=16) == set()
