"""MLflow in a folder: runs, the registry of encoders, the champion."""

import shutil

import pytest

from persona4rec_pipeline.embedding import fingerprint, model_folder
from persona4rec_pipeline.tracking import Tracking, TrackingError
from persona4rec_tests.encoder.builders import BASE


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """A store in which version 1 of the encoder is the champion."""
    tracking = Tracking(tmp_path_factory.mktemp("home") / "mlflow")
    folder = model_folder(BASE)
    with tracking.run("encoder", "first") as run:
        version = tracking.register_encoder(folder, run.run_id, fingerprint(folder, 32), {"trained": "false"})
    tracking.set_alias("champion", version)
    return tracking, run.run_id, version


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store in which no encoder has been registered; making one takes seconds."""
    return Tracking(tmp_path_factory.mktemp("home") / "mlflow")


def test_a_store_that_does_not_exist_has_no_champion_and_is_not_made_by_asking(tmp_path):
    assert Tracking(tmp_path / "mlflow").champion() is None
    assert not (tmp_path / "mlflow").exists()


def test_a_store_without_a_registered_encoder_has_no_champion(store):
    with store.run("encoder", "nothing registered"):
        pass
    assert store.champion() is None


def test_an_alias_that_was_never_set_names_no_encoder(registered):
    tracking, _, _ = registered
    assert tracking.encoder("challenger") is None


def test_the_champion_is_the_registered_folder_loaded_in_place(registered):
    tracking, run_id, version = registered
    champion = tracking.champion()
    assert (champion.version, champion.run_id, champion.tags["trained"]) == (version, run_id, "false")
    assert tracking.path in champion.path.parents
    assert fingerprint(champion.path, 32) == champion.fingerprint == fingerprint(model_folder(BASE), 32)


def test_a_second_look_at_the_same_store_finds_the_same_champion(registered):
    tracking, _, _ = registered
    assert Tracking(tracking.path).champion() == tracking.champion()


def test_mlflow_itself_loads_the_champion_by_its_registry_name(registered):
    import mlflow

    tracking, _, _ = registered
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    store = f"sqlite:///{tracking.path / 'mlflow.db'}"
    mlflow.set_tracking_uri(store)
    mlflow.set_registry_uri(store)
    try:
        model = mlflow.sentence_transformers.load_model("models:/persona_encoder@champion")
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])
    assert model.get_embedding_dimension() == 384


def test_a_new_version_becomes_champion_only_when_it_is_named_so(registered):
    tracking, _, version = registered
    folder = model_folder(BASE)
    with tracking.run("encoder", "second") as run:
        newer = tracking.register_encoder(folder, run.run_id, "another")
    assert newer != version and tracking.champion().version == version
    tracking.set_alias("champion", newer)
    assert (tracking.champion().version, tracking.champion().fingerprint) == (newer, "another")
    tracking.set_alias("champion", version)


def test_a_run_keeps_what_it_logged_and_ends_finished(store):
    with store.run("evaluation", "report", {"catalog": "books"}) as run:
        run.log_params({"seed": 7})
        run.log_metrics({"ndcg_at_10": 0.25})
        run.log_curve("loss", [(1, 2.0), (2, 1.5)])
        run.log_text("# Report", "report.md")
    stored = store._client.get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {"seed": "7"} and stored.data.tags["catalog"] == "books"
    assert stored.data.metrics["ndcg_at_10"] == 0.25
    assert [(m.step, m.value) for m in store._client.get_metric_history(run.run_id, "loss")] == [(1, 2.0), (2, 1.5)]
    assert [path.read_text() for path in store.path.rglob("report.md")] == ["# Report"]


def test_a_run_whose_body_raises_ends_failed_and_the_error_goes_on(store):
    with pytest.raises(KeyboardInterrupt), store.run("encoder", "interrupted") as run:
        raise KeyboardInterrupt
    assert store._client.get_run(run.run_id).info.status == "FAILED"


def test_everything_is_written_under_the_given_folder(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    tracking = Tracking(tmp_path / "mlflow")
    with tracking.run("encoder", "tidy") as run:
        tracking.register_encoder(model_folder(BASE), run.run_id, "f")
    assert list(elsewhere.iterdir()) == []
    assert sorted(entry.name for entry in (tmp_path / "mlflow").iterdir()) == ["artifacts", "mlflow.db"]


def test_a_folder_without_a_model_is_not_registered(store, tmp_path):
    with pytest.raises(TrackingError, match=r"modules\.json"), store.run("encoder", "empty") as run:
        store.register_encoder(tmp_path, run.run_id, "f")
    assert store._client.get_run(run.run_id).info.status == "FAILED"


def test_an_encoder_whose_files_are_gone_is_an_error_not_a_missing_one(registered):
    tracking, _, _ = registered
    with tracking.run("encoder", "lost") as run:
        tracking.set_alias("lost", tracking.register_encoder(model_folder(BASE), run.run_id, "f"))
    shutil.rmtree(tracking.encoder("lost").path)
    with pytest.raises(TrackingError, match="are gone"):
        tracking.encoder("lost")
