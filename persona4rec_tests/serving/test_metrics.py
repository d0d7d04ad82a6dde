"""What Prometheus is told."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from persona4rec_tests.index.builders import axis, two_catalogues
from persona4rec_tests.serving.builders import publish_with_queue, service_of, serving


@pytest.fixture
def shop(tmp_path):
    found = two_catalogues(tmp_path)
    found.publish()
    return found


def figures(client) -> dict[tuple[str, ...], float]:
    """(name, values of labels...) -> value."""
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    return {
        (
            sample.name.removeprefix("persona4rec_"),
            *(sample.labels[name] for name in sorted(sample.labels)),
        ): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_requests_are_counted_and_timed_by_route_and_status(shop):
    with serving(shop.home) as client:
        body = {"user_id": "ann", "candidates": ["dune"]}
        for _ in range(3):
            client.post("/v1/rerank", json=body)
        client.post("/v1/rerank", json=body | {"k": 0})
        client.get("/v1/users/ann/recommendations")
        client.get("/nowhere/of/any/kind")
        found = figures(client)
    assert found["requests_total", "POST", "/v1/rerank", "200"] == 3
    assert found["requests_total", "POST", "/v1/rerank", "422"] == 1
    assert found["requests_total", "GET", "/v1/users/{user_id}/recommendations", "200"] == 1
    assert found["requests_total", "GET", "other", "404"] == 1
    assert found["request_seconds_count", "/v1/rerank"] == 4
    assert found["request_seconds_bucket", "+Inf", "/v1/rerank"] == 4


def test_fallbacks_and_unknown_candidates_are_counted(shop):
    with serving(shop.home) as client:
        client.post("/v1/rerank", json={"user_id": "nobody", "candidates": ["dune", "x", "y"]})
        client.post("/v1/rerank", json={"session": ["dune"], "candidates": ["dune"]})
        client.get("/v1/users/bob/recommendations")
        client.post("/rerank", json={"query": "nobody", "documents": ["z"]})
        found = figures(client)
    kinds = {labels[1]: value for labels, value in found.items() if labels[0] == "fallbacks_total"}
    assert kinds == {"unknown_user": 2, "session": 1, "no_positive_history": 1}
    assert found["unknown_candidates_total",] == 3


def test_the_generation_its_age_and_swaps_are_told(shop):
    with serving(shop.home) as client:
        shop.item("new", (axis(4), "appreciative")).publish()
        service_of(client).look()
        found = figures(client)
    assert (found["index_generation",], found["hot_swaps_total",], found["refused_generations_total",]) == (2, 1, 0)
    assert 0 <= found["index_age_seconds",] < 3600
    assert [found["encoder_state", state] for state in ("idle", "loading", "ready", "failed")] == [1, 0, 0, 0]


def test_queued_interactions_are_counted_until_a_generation_contains_them(shop):
    with serving(shop.home) as client:
        taken = client.post("/v1/interactions", json={"user_id": "ann", "item_id": "dune", "kind": "like"}).json()["id"]
        found = figures(client)
        assert (found["queue_depth",], found["interactions_total", "like"]) == (1, 1)
        publish_with_queue(shop, taken)
        service_of(client).look()
        assert figures(client)["queue_depth",] == 0


def test_answers_are_counted_by_variant(shop):
    with serving(shop.home, experiment={"name": "all", "share": 1, "weight": 0.5}) as client:
        client.post("/v1/rerank", json={"user_id": "ann", "candidates": ["dune"]})
        client.post("/v1/rerank", json={"session": ["dune"], "candidates": ["dune"]})
        assert {k: v for k, v in figures(client).items() if k[0] == "experiment_answers_total"} == {
            ("experiment_answers_total", "treatment"): 1
        }


def test_what_several_workers_count_is_added_up(tmp_path):
    two_catalogues(tmp_path).publish()
    folder = tmp_path / "metrics"
    folder.mkdir()
    program = (
        "import sys\n"
        "from persona4rec_tests.serving.builders import serving\n"
        "from pathlib import Path\n"
        "with serving(Path(sys.argv[1])) as client:\n"
        "    client.post('/v1/rerank', json={'user_id': 'ann', 'candidates': ['dune']})\n"
        "    print(client.get('/metrics').text)\n"
    )
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    command = [sys.executable, "-c", program, str(tmp_path)]
    for worker in (1, 2):
        told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
        counted = 'persona4rec_requests_total{method="POST",route="/v1/rerank",status="200"} '
        assert f"{counted}{worker}.0" in told
        # The state of a worker that has ended counts no more.
        assert "persona4rec_index_generation 1.0" in told
    assert len(list(folder.glob("gauge_livesum_*.db"))) <= 2
