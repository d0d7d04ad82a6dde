"""The whole pipeline on a slice of the bundled sample, through a real Dagster instance, DuckDB, MLflow and an encoder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from typer.testing import CliRunner

from persona4rec_pipeline.catalogs import add_catalog, remove_catalog
from persona4rec_pipeline.cli import app
from persona4rec_pipeline.definitions import build_definitions
from persona4rec_pipeline.evaluation.metrics import ndcg
from persona4rec_pipeline.evaluation.panel import read_slate
from persona4rec_pipeline.index import IndexMissing, PersonaIndex
from persona4rec_pipeline.index.files import current_generation, read_manifest
from persona4rec_pipeline.index.scoring import Blends
from persona4rec_pipeline.overview import read_plan
from persona4rec_pipeline.rollback import rollback_encoder
from persona4rec_pipeline.runner import NIGHTLY, STEPS, RunFailed, dagster_instance, run_stale, stale_reasons
from persona4rec_pipeline.sample import sample_path
from persona4rec_pipeline.settings import Settings, load_settings
from persona4rec_pipeline.tracking import BLENDS_TAG, Tracking, TrackingError
from persona4rec_pipeline.warehouse import open_ledger_database, open_warehouse
from persona4rec_tests.traces import files_that_hold

ASSETS = [asset for step in STEPS for asset in step]


def settings_at(home: Path, **changes) -> Settings:
    groups = {"generation": {"engine": "extractive"}, "splits": {"panel_fraction": 0.5}} | changes
    return load_settings({}, home=home, **groups)


def add_sample(settings: Settings, name: str, limit_items: int) -> None:
    folder = sample_path(name)
    add_catalog(settings, name, str(folder / "reviews.jsonl"), str(folder / "items.jsonl"), limit_items=limit_items)


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    """A state directory in which everything was made once, without a language model."""
    settings = settings_at(tmp_path_factory.mktemp("home"))
    add_sample(settings, "books", limit_items=8)
    finished = run_stale(settings)
    made = [outcome.asset for outcome in finished if outcome.was_stale]
    assert made == [asset for asset in ASSETS if asset not in ("reviews", "items")]
    return settings


@pytest.fixture
def command(settings, monkeypatch):
    monkeypatch.setenv("PERSONA4REC_HOME", str(settings.home))
    monkeypatch.setenv("PERSONA4REC_GENERATION__ENGINE", "extractive")
    monkeypatch.setenv("PERSONA4REC_SPLITS__PANEL_FRACTION", "0.5")
    monkeypatch.chdir(settings.home)

    def run(*arguments: str, exit_code: int = 0):
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == exit_code, result.output
        return result

    return run


def test_the_code_location_loads_and_every_asset_has_owner_group_description_and_code_version():
    definitions = build_definitions(load_settings({}))
    dg.Definitions.validate_loadable(definitions)
    graph = definitions.resolve_asset_graph()
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == set(ASSETS)
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.group_name != "default" and node.description and node.owners and node.code_version, key


def test_every_asset_with_a_table_shows_its_columns_in_the_words_of_the_schema():
    graph = build_definitions(settings_at(Path("var"))).resolve_asset_graph()
    shown = {
        asset: {
            column.name: column for column in graph.get(dg.AssetKey(asset)).metadata["dagster/column_schema"].columns
        }
        for asset in ASSETS
        if "dagster/column_schema" in graph.get(dg.AssetKey(asset)).metadata
    }
    assert set(ASSETS) - set(shown) == {"persona_encoder", "champion_encoder", "persona_index", "quality_report"}
    rating = shown["reviews"]["rating"]
    assert (rating.type, rating.description) == ("DOUBLE", "NULL where the source gives none")
    assert rating.constraints.nullable and not shown["reviews"]["text"].constraints.nullable


def test_a_second_run_finds_everything_up_to_date(settings):
    assert [outcome.asset for outcome in run_stale(settings) if outcome.was_stale] == []


def test_every_item_has_one_to_seven_personas_and_evidence_from_train_reviews_alone(settings):
    warehouse = open_warehouse(settings)
    counts = warehouse.rows(
        "SELECT items.item_id, count(persona_id) FROM items LEFT JOIN personas USING (catalog, item_id) GROUP BY 1"
    )
    assert len(counts) == 8 and all(1 <= count <= 7 for _, count in counts)
    held_out = warehouse.rows(
        "SELECT count(*) FROM (SELECT unnest(evidence_review_ids) AS review_id FROM personas) JOIN splits USING (review_id) "
        "WHERE split <> 'train'"
    )
    assert held_out == [(0,)]


def test_no_held_out_review_reaches_a_table_that_describes_an_item_or_a_user(settings):
    warehouse = open_warehouse(settings)
    ids = {row[0] for row in warehouse.rows("SELECT review_id FROM splits WHERE split <> 'train'")}
    assert len(ids) > 20
    for table in ("review_aspects", "alignment_pairs", "interaction_vectors"):
        assert not ids & {row[0] for row in warehouse.rows(f"SELECT review_id FROM {table}")}, table
    histories = warehouse.rows("SELECT unnest(history_review_ids) FROM alignment_pairs")
    assert histories and not ids & {row[0] for row in histories}


def test_a_pairs_history_is_earlier_than_the_choice_it_explains(settings):
    later = open_warehouse(settings).rows(
        "SELECT count(*) FROM (SELECT reviewed_at, unnest(history_review_ids) AS review_id FROM alignment_pairs) AS pairs "
        "JOIN reviews USING (review_id) WHERE reviews.reviewed_at >= pairs.reviewed_at"
    )
    assert later == [(0,)]


def test_recommendations_come_with_a_reason_and_leave_out_what_was_read(settings):
    index = PersonaIndex.open(settings.index_path)
    user = index.users[0]
    found = index.recommend(user, 3)
    assert found and all(entry.persona_name and entry.why and entry.quotes for entry in found)
    seen = open_warehouse(settings).rows(
        "SELECT item_id FROM reviews JOIN splits USING (catalog, review_id) WHERE user_id = ? AND split = 'train'",
        [user],
    )
    assert not {entry.item_id for entry in found} & {item_id for (item_id,) in seen}


def test_the_report_has_every_row_for_all_users(settings):
    rows = open_warehouse(settings).rows("SELECT DISTINCT ranking, users FROM evaluation_report")
    assert {ranking for ranking, _ in rows} == {
        "candidate_order",
        "random",
        "single_persona",
        "blend",
        "item_summary",
        "personas_untrained",
        "personas_trained",
    }
    assert all(users > 5 for _, users in rows)


def test_a_changed_setting_makes_exactly_the_assets_that_read_it_out_of_date(settings):
    changed = settings_at(settings.home, personas={"max_personas": 6})
    with dagster_instance(settings) as instance:
        definitions = build_definitions(changed)
        stale = {
            asset for asset in ASSETS if stale_reasons(instance, definitions, asset, _partition(definitions, asset))
        }
    assert "personas" in stale and "reviews" not in stale and "splits" not in stale and "item_summaries" not in stale


def test_materializing_through_dagsters_own_job_gives_the_same_personas(settings):
    warehouse = open_warehouse(settings)
    before = warehouse.content_version("personas", "books")
    job = build_definitions(settings).resolve_job_def("refresh_catalog")
    with dagster_instance(settings) as instance:
        assert job.execute_in_process(partition_key="books", instance=instance).success
    assert warehouse.content_version("personas", "books") == before
    assert [outcome.asset for outcome in run_stale(settings) if outcome.was_stale] == []


def test_the_commands_answer_in_json(settings, command):
    index = PersonaIndex.open(settings.index_path)
    user, item = index.users[0], index.item(index.recommend(index.users[0], 1)[0].item_id)["item_id"]
    answer = json.loads(command("recommend", "--user", user, "--k", "2", "--json").stdout)
    assert len(answer["items"]) == 2 and answer["fallback"] is None
    explanation = json.loads(command("explain", "--user", user, "--item", item, "--json").stdout)
    assert explanation["winner"]["name"] and explanation["winner"]["polarity"] != "critical"


def test_what_is_served_is_the_blend_that_the_report_measured(settings):
    index = PersonaIndex.open(settings.index_path)
    warehouse = open_warehouse(settings)
    champion = Tracking(settings.mlflow_path).champion()
    assert index.manifest.blends == Blends.from_json(champion.tags[BLENDS_TAG])
    report = json.loads((settings.home / "evaluation" / "report.json").read_text())
    table = report["tables"][0]
    assert asdict(index.manifest.blends.of_scores) == table["blend"]
    slate = read_slate(warehouse, "test", table["generator"], table["depth"])
    found = []
    for user, target, keys, scores in zip(slate.users, slate.targets, slate.keys, slate.scores, strict=True):
        ranking = index.rerank(
            index.profile_of(user),
            [tuple(key.split("/", 1)) for key in keys],
            scores=scores[: len(keys)],
            interactions=index.interactions_of(user),
        )
        places = [f"{entry.catalog}/{entry.item_id}" for entry in ranking]
        found.append(places.index(target) + 1 if target in places else 0)
    measured = table["rankings"]["blend"]["metrics"]["test"]["ndcg_at_10"]["value"]
    # The index keeps vectors in half precision, which may turn two candidates that are all but equal.
    assert np.mean(ndcg(np.array(found), 10)) == pytest.approx(measured, abs=0.005)


def test_candidates_of_a_file_are_reranked_with_their_scores_and_a_weight(settings, command, tmp_path):
    index = PersonaIndex.open(settings.index_path)
    user = index.users[0]
    best = [entry.item_id for entry in index.recommend(user, 4)]
    path = tmp_path / "scored.txt"
    path.write_text("\n".join(f"{item}\t{place}" for place, item in enumerate(best)))
    answer = json.loads(command("rerank", "--user", user, "--candidates", str(path), "--weight", "0", "--json").stdout)
    assert answer["weight"] == 0 and [entry["item_id"] for entry in answer["items"]] == best[::-1]
    answer = json.loads(command("rerank", "--user", user, "--candidates", str(path), "--weight", "1", "--json").stdout)
    assert [entry["item_id"] for entry in answer["items"]] == best
    assert "(learned)" in command("rerank", "--user", user, "--candidates", str(path)).stdout
    told = command("rerank", "--user", user, "--candidates", str(path), "--weight", "1").stdout
    assert f"{best[0]}  was 4" in told and "personas count 1.0" in told
    path.write_text(f"{best[0]}\t1\n{best[1]}\tfirst\n")
    error = command("rerank", "--user", user, "--candidates", str(path), exit_code=1).exception
    assert "scored.txt, line 2: 'first' is no score" in str(error)
    path.write_text(f"{best[0]}\t1\n{best[1]}\n")
    error = command("rerank", "--user", user, "--candidates", str(path), exit_code=1).exception
    assert "scores for 1 of 2 candidates" in str(error)


def test_a_history_given_by_hand_is_ranked_and_unknown_candidates_keep_their_place(settings, command, tmp_path):
    index = PersonaIndex.open(settings.index_path)
    items = [entry.item_id for entry in index.recommend(index.users[0], 3)]
    history = [
        {"item_id": items[0], "review": "The gothic dread kept me awake."},
        {"title": "A sea story", "summary": "Ships."},
    ]
    (tmp_path / "history.json").write_text(json.dumps(history))
    (tmp_path / "ids.txt").write_text("\n".join([items[1], "NO-SUCH-ITEM", items[2]]))
    answer = command(
        "rerank", "--history", str(tmp_path / "history.json"), "--candidates", str(tmp_path / "ids.txt"), "--json"
    )  # fmt: skip
    entries = json.loads(answer.stdout)["items"]
    assert {entry["item_id"] for entry in entries} == {items[1], items[2], "NO-SUCH-ITEM"}
    assert entries[1]["item_id"] == "NO-SUCH-ITEM" and entries[1]["flags"] == ["unknown_item"]


def test_the_quality_report_of_a_run_lies_where_the_asset_says_and_the_command_writes_it_again(settings, command):
    with dagster_instance(settings) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("quality_report"))
    metadata = event.asset_materialization.metadata
    page, document = Path(metadata["report"].value), Path(metadata["json"].value)
    assert page == settings.home / "reports" / "quality.html" and "<h1>Quality of the personas</h1>" in page.read_text()
    before = document.read_bytes()
    assert json.loads(before)["main_figures"]["personas"] == metadata["personas"].value > 0
    output = command("quality").stdout
    assert "personas per item" in output and str(page) in output
    assert document.read_bytes() == before, "equal tables and an equal seed give equal bytes"
    answer = json.loads(command("quality", "--catalog", "books", "--seed", "8", "--json").stdout)
    assert answer["catalog"] == "books" and answer["sample"] != json.loads(before)["sample"]
    assert (settings.home / "reports" / "quality-books.html").exists()
    assert "'no-such' is not registered" in str(command("quality", "--catalog", "no-such", exit_code=1).exception)


def test_an_unknown_user_is_told_so_and_gets_a_stated_fallback(command):
    output = command("recommend", "--user", "NOBODY", "--k", "1").stdout
    assert "not known" in output and "most popular" in output


def test_the_other_commands_answer(command):
    assert "books" in command("catalogs").stdout
    assert "generation.engine" in command("settings").stdout
    assert "0 generations" in command("ledger").stdout
    assert "up to date" in command("run").stdout


def test_a_failing_source_names_asset_file_and_line_and_leaves_nothing_registered(settings, tmp_path):
    bad = tmp_path / "reviews.jsonl"
    bad.write_text('{"user_id": "u", "item_id": "i", "rating": 99, "text": "x", "timestamp": 1}\n')
    with pytest.raises(RunFailed, match=r"reviews\[broken\] failed(.|\n)*reviews.jsonl:1"):
        add_catalog(settings, "broken", str(bad), source_format="generic")
    assert open_warehouse(settings).rows("SELECT count(*) FROM catalogs WHERE catalog = 'broken'") == [(0,)]


def test_an_encoder_is_rolled_back_with_its_vectors_and_index_and_not_promoted_again_by_itself(settings, command):
    tracking = Tracking(settings.mlflow_path)
    champion = tracking.champion()
    (other,) = {found.version for found in tracking.versions()} - {champion.version}
    with pytest.raises(TrackingError, match="no version 9 of the encoder; there are: 2, 1"):
        rollback_encoder(settings, "9")
    encoder, _ = rollback_encoder(settings, other)
    assert tracking.champion().version == encoder.version == other
    assert read_manifest(current_generation(settings.index_path)).encoder.fingerprint == encoder.fingerprint
    assert [outcome.asset for outcome in run_stale(settings, steps=NIGHTLY) if outcome.was_stale] == []
    assert tracking.champion().version == other
    assert f"In use is version {champion.version} " in command("rollback-encoder").stdout, (
        "the one that was in use before"
    )
    assert read_manifest(current_generation(settings.index_path)).encoder.fingerprint == champion.fingerprint
    run_stale(settings)


def test_a_new_catalogue_is_folded_in_and_removed_without_a_trace(settings):
    add_sample(settings, "new-arrivals", limit_items=3)
    run_stale(settings)
    index = PersonaIndex.open(settings.index_path)
    assert index.catalogs == ("books", "new-arrivals")
    generation = index.generation
    warehouse = open_warehouse(settings)
    titles = [title for (title,) in warehouse.rows("SELECT title FROM items WHERE catalog = 'new-arrivals'")]
    kept = " ".join(text for (text,) in warehouse.rows("SELECT text FROM reviews WHERE catalog = 'books'"))
    texts = [text[:40] for (text,) in warehouse.rows("SELECT text FROM reviews WHERE catalog = 'new-arrivals'")]
    texts = [text for text in texts if len(text) == 40 and text not in kept]
    readers = [
        user
        for (user,) in warehouse.rows(
            "SELECT user_id FROM reviews GROUP BY user_id HAVING list(DISTINCT catalog) = ['new-arrivals']"
        )
    ]
    traces = [*titles, *texts, *readers]
    assert titles and texts and readers and files_that_hold(settings.home, *traces), "the search finds what is there"
    removal = remove_catalog(settings, "new-arrivals")
    assert removal.rows > 0
    assert files_that_hold(settings.home, *traces) == set()
    index = PersonaIndex.open(settings.index_path)
    assert index.catalogs == ("books",) and index.generation > generation
    with dagster_instance(settings) as instance:
        assert instance.get_dynamic_partitions("catalog") == ["books"]
    for path in (settings.home / "index").rglob("*"):
        assert "new-arrivals" not in path.name
    run_stale(settings)
    assert PersonaIndex.open(settings.index_path).catalogs == ("books",)
    assert (settings.home / "reports" / "quality.html").exists(), "deleted with the catalogue, made again by the run"


def test_removing_the_last_catalogue_leaves_no_index(tmp_path):
    settings = settings_at(tmp_path)
    add_sample(settings, "new-arrivals", limit_items=2)
    remove_catalog(settings, "new-arrivals")
    with pytest.raises(IndexMissing):
        PersonaIndex.open(settings.index_path)


@pytest.mark.vllm
def test_with_real_vllm_every_task_is_generated_once_and_a_second_run_generates_nothing(tmp_path, home_with_model):
    (tmp_path / "models").symlink_to(home_with_model / "models")
    settings = settings_at(tmp_path, generation={"engine": "vllm"})
    add_sample(settings, "new-arrivals", limit_items=3)
    run_stale(settings)
    paid = dict(open_ledger_database(settings).rows("SELECT task, count(*) FROM generations GROUP BY task"))
    assert set(paid) == {"review_aspects", "item_summaries", "personas", "alignment_pairs"}
    sources = dict(open_warehouse(settings).rows("SELECT source, count(*) FROM review_aspects GROUP BY source"))
    assert sources["llm"] > 0
    assert [outcome.asset for outcome in run_stale(settings) if outcome.was_stale] == []
    assert read_plan(settings).planned == []
    # Another sampling makes every prompt a new one; what is planned is what was paid for.
    warmer = settings_at(tmp_path, generation={"engine": "vllm", "retry_temperature": 0.9})
    planned = {entry.task: entry for entry in read_plan(warmer).planned}
    assert {task: planned[task].requests for task in ("item_summaries", "alignment_pairs")} == {
        task: paid[task] for task in ("item_summaries", "alignment_pairs")
    }
    assert planned["review_aspects"].requests >= paid["review_aspects"] and planned["review_aspects"].is_measured
    # Made again by force, as from the UI: everything is in the ledger.
    job = build_definitions(settings).resolve_job_def("refresh_catalog")
    with dagster_instance(settings) as instance:
        assert job.execute_in_process(partition_key="new-arrivals", instance=instance).success
    assert dict(open_ledger_database(settings).rows("SELECT task, count(*) FROM generations GROUP BY task")) == paid


def _partition(definitions: dg.Definitions, asset: str) -> str | None:
    return "books" if definitions.resolve_asset_graph().get(dg.AssetKey(asset)).is_partitioned else None
