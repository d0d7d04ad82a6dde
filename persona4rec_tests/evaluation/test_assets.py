"""The assets `candidates` and `evaluation_report`, run by Dagster, with a real MLflow store."""

from __future__ import annotations

import json

import dagster as dg

from persona4rec_pipeline.evaluation import assets
from persona4rec_pipeline.evaluation.panel import read_candidates, read_targets
from persona4rec_pipeline.evaluation.report import Encoders
from persona4rec_pipeline.generation import LanguageModel
from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.tracking import Tracking
from persona4rec_tests.evaluation.builders import HashEncoder, shop_with_panel
from persona4rec_tests.evaluation.test_contest import TasteEncoder
from persona4rec_tests.index.builders import Shop


def materialise(shop: Shop, monkeypatch, **groups) -> dg.ExecuteInProcessResult:
    base, trained = HashEncoder("base"), TasteEncoder("trained")
    monkeypatch.setattr(
        assets, "encoders_in_use", lambda warehouse, settings, tracking: Encoders(base, trained, trained)
    )
    settings = Settings(home=shop.home, **groups)
    return dg.materialize(
        [assets.candidates, assets.evaluation_report],
        resources={
            "warehouse": shop.store().database,
            "settings": settings,
            "tracking": Tracking(settings.mlflow_path),
            "language_model": LanguageModel(settings),
            "text_encoder": base,
        },
    )


def test_the_report_reaches_the_warehouse_the_metadata_the_json_and_mlflow(tmp_path, monkeypatch):
    shop = shop_with_panel(tmp_path)
    result = materialise(shop, monkeypatch)
    metadata = result.asset_materializations_for_node("evaluation_report")[0].metadata
    stored = dict(
        shop.database.rows(
            "SELECT ranking, value FROM evaluation_report "
            "WHERE metric = 'ndcg_at_10' AND generator = 'ease' AND depth = 20 ORDER BY ALL"
        )
    )
    assert len(stored) == 7
    assert metadata["ndcg_at_10_personas_trained"].value == stored["personas_trained"]
    assert metadata["chart"].value.startswith("![ndcg_at_10 by ranking](data:image/png;base64,")
    assert "6 users, split valid" in metadata["report_valid"].value
    saved = json.loads((tmp_path / "evaluation" / "report.json").read_text())
    first = saved["tables"][0]["rankings"]["personas_trained"]["metrics"]["test"]
    assert first["ndcg_at_10"]["value"] == stored["personas_trained"]
    assert "personas trained" in (tmp_path / "evaluation" / "report.html").read_text()
    assert [point["share"] for point in saved["learning_curve"]] == [0, 1]
    assert saved["learning_curve"][1]["ndcg_at_10"] == first["ndcg_at_10"]

    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{Settings(home=tmp_path).mlflow_path.absolute()}/mlflow.db")
    experiment = client.get_experiment_by_name(assets.EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["personas_trained_ndcg_at_10"] == stored["personas_trained"]
    assert "valid_candidate_order_hr_at_5" in run.data.metrics
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "report.json",
        "report.md",
        "report.html",
    }


def test_without_a_panel_the_report_is_empty_and_nothing_fails(tmp_path, monkeypatch):
    shop = shop_with_panel(tmp_path, panel=0)
    result = materialise(shop, monkeypatch)
    metadata = result.asset_materializations_for_node("evaluation_report")[0].metadata
    assert metadata["users"].value == 0
    assert "No user of the panel" in metadata["report"].value
    assert result.asset_materializations_for_node("candidates")[0].metadata["candidates"].value == 0
    assert shop.database.rows("SELECT count(*) FROM evaluation_report") == [(0,)]
    assert not (tmp_path / "mlflow").exists()


def test_equal_data_gives_equal_data_versions(tmp_path, monkeypatch):
    shop = shop_with_panel(tmp_path, panel=0)
    versions = []
    for _ in range(2):
        result = materialise(shop, monkeypatch)
        found = [result.asset_materializations_for_node(name)[0] for name in ("candidates", "evaluation_report")]
        versions.append([materialisation.tags["dagster/data_version"] for materialisation in found])
    assert versions[0] == versions[1]


def test_every_generator_is_stored_and_its_recall_told(tmp_path, monkeypatch):
    shop = shop_with_panel(tmp_path)
    metadata = materialise(shop, monkeypatch).asset_materializations_for_node("candidates")[0].metadata
    stored = dict(shop.database.rows("SELECT generator, count(*) FROM candidates GROUP BY 1"))
    assert set(stored) == {"popularity", "item_knn", "als", "bpr", "ease"}
    assert metadata["candidates"].value == sum(stored.values())
    assert metadata["main_generator"].value == "ease"
    targets = read_targets(shop.database, "valid")
    found = read_candidates(shop.database, "valid", "als", 20)
    assert metadata["recall_at_20_als"].value == sum(targets[user] in found[user].keys for user in targets) / 6
    assert metadata["seconds_bpr"].value > 0


def test_candidates_from_a_file_become_the_main_ones(tmp_path, monkeypatch):
    path = tmp_path / "sasrec.csv"
    shop = shop_with_panel(tmp_path).store()
    targets = read_targets(shop.database, "valid")
    path.write_text("user_id,item_id\n" + "".join(f"{user},{key.split('/')[1]}\n" for user, key in targets.items()))
    result = materialise(shop, monkeypatch, evaluation={"candidates_file": path, "generators": []})
    metadata = result.asset_materializations_for_node("candidates")[0].metadata
    assert shop.database.rows("SELECT DISTINCT generator FROM candidates") == [("file",)]
    assert metadata["main_generator"].value == "file" and metadata["recall_at_20_file"].value == 1
    report = json.loads((tmp_path / "evaluation" / "report.json").read_text())
    order = report["tables"][0]["rankings"]["candidate_order"]
    assert order["metrics"]["valid"]["mrr_at_10"]["value"] == 1


def test_the_code_versions_follow_the_settings_that_each_asset_reads(tmp_path):
    def changed(**evaluation):
        plain, other = (assets.code_versions(found) for found in (Settings(), Settings(evaluation=evaluation)))
        assert set(plain) == {asset.key.to_user_string() for asset in assets.ASSETS}
        return {name for name in plain if plain[name] != other[name]}

    assert changed(seed=8) == changed(candidates_file=tmp_path / "a.csv") == {"candidates"}
    assert changed(depth=50) == {"candidates", "evaluation_report"}
    readers = {"candidates", "champion_encoder", "evaluation_report"}
    assert changed(candidates=7) == changed(main_generator="als") == readers


def test_a_changed_file_of_candidates_outdates_them(tmp_path):
    settings = Settings(evaluation={"candidates_file": tmp_path / "a.csv"})
    versions = set()
    for content in (None, "user_id,item_id\n", "user_id,item_id\nann,dune\n"):
        if content is not None:
            settings.evaluation.candidates_file.write_text(content)
        versions.add(assets.code_versions(settings)["candidates"])
    assert len(versions) == 3
