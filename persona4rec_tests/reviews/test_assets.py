"""The assets of step 1 in a real Dagster run."""

import dagster as dg
import pytest

from persona4rec_pipeline.automation import CATALOGS
from persona4rec_pipeline.reviews.assets import ASSETS, code_versions, items, reviews, splits
from persona4rec_pipeline.reviews.catalogs import register_catalog
from persona4rec_pipeline.settings import load_settings
from persona4rec_tests.reviews.builders import review


def materialize(workshop, instance, assets, partition=None):
    resources = {"warehouse": workshop.database, "settings": workshop.settings}
    return dg.materialize(assets, instance=instance, partition_key=partition, resources=resources)


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(CATALOGS.name, ["books"])
        yield instance


def metadata_of(result, asset):
    [materialization] = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in materialization.metadata.items()}


def test_a_catalogue_is_ingested_item_by_item_and_split(workshop, instance):
    rows = [review(f"u{n}", text="a | b\n<script>") for n in range(30)]
    register_catalog(workshop.database, workshop.catalog([*rows, review(text="")]))
    result = materialize(workshop, instance, [reviews, items], "books")
    assert result.success
    metadata = metadata_of(result, "reviews")
    assert (metadata["kept"], metadata["rejected"], metadata["users"], metadata["positive"]) == (30, 1, 30, 30)
    assert "| empty text | 1 |" in metadata["rejected_because"]
    assert "| 5.0 | 30 | 30 |" in metadata["ratings"]
    assert len(metadata["preview"].splitlines()) == 7 and "<script>" not in metadata["preview"]
    assert metadata_of(result, "items")["from_reviews"] == 1
    result = materialize(workshop, instance, [splits], "books")
    assert metadata_of(result, "splits")["train"] == 30


def test_an_unchanged_source_gives_an_unchanged_data_version(workshop, instance):
    register_catalog(workshop.database, workshop.catalog([review()]))
    versions = []
    for _ in range(2):
        result = materialize(workshop, instance, [reviews, items], "books")
        versions.append(
            [
                result.asset_materializations_for_node(asset)[0].tags["dagster/data_version"]
                for asset in ("reviews", "items")
            ]
        )
    assert versions[0] == versions[1]


def test_an_unregistered_partition_fails_and_says_so(workshop, instance):
    with pytest.raises(Exception, match="not registered"):
        materialize(workshop, instance, [reviews], "books")


def test_the_assets_load_as_definitions(workshop):
    resources = {"warehouse": workshop.database, "settings": workshop.settings}
    dg.Definitions.validate_loadable(dg.Definitions(assets=ASSETS, resources=resources))


def test_code_versions_follow_the_settings_that_change_a_result_and_no_others():
    plain = code_versions(load_settings({}))
    assert set(plain) == {asset.key.to_user_string() for asset in ASSETS}
    assert code_versions(load_settings({}, reviews={"max_reject_fraction": 0.5}, warehouse={"threads": 1})) == plain
    stricter = code_versions(load_settings({}, reviews={"positive_rating": 5.0}))
    assert [name for name in plain if stricter[name] != plain[name]] == ["reviews"]
    larger = code_versions(load_settings({}, splits={"panel_fraction": 0.5}))
    assert [name for name in plain if larger[name] != plain[name]] == ["splits"]
