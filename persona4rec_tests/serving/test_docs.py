"""docs/serving.md names everything that an operator or a caller meets."""

from __future__ import annotations

import re
from pathlib import Path

from persona4rec_pipeline.serving.metrics import Metrics
from persona4rec_pipeline.settings import load_settings
from persona4rec_tests.index.builders import two_catalogues
from persona4rec_tests.serving.builders import serving

TEXT = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()


def test_every_metric_is_explained_and_no_other():
    metrics = {
        name.removesuffix("_total") for name in re.findall(r"\bpersona4rec_[a-z_]+", Metrics().render().decode())
    }
    known = {re.sub("_(created|bucket|sum|count)$", "", name) for name in metrics}
    # Of families with labels that were never counted only the name is rendered, which is what is compared.
    said = {
        re.sub("_(total|bucket)$", "", name)
        for name in re.findall(r"\bpersona4rec_[a-z_]+", TEXT)
        if not name.startswith("persona4rec_pipeline")
    }
    assert said == known


def test_every_route_is_named(tmp_path):
    two_catalogues(tmp_path).publish()
    with serving(tmp_path) as client:
        paths = client.get("/openapi.json").json()["paths"]
    assert [path for path in paths if path not in TEXT] == []


def test_every_limit_that_is_named_is_a_setting(tmp_path):
    settings = load_settings({}, home=tmp_path)
    named = set(re.findall(r"`serving\.([a-z_]+)`", TEXT))
    assert named
    assert [name for name in named if not hasattr(settings.serving, name)] == []
