"""The HTTP API over a small index."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from persona4rec_pipeline.index.scoring import Blend, Blends
from persona4rec_tests.index.builders import ENCODER, axis, two_catalogues
from persona4rec_tests.serving.builders import is_problem, service_of, serving


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> Iterator[TestClient]:
    shop = two_catalogues(tmp_path_factory.mktemp("home"))
    shop.item("a/b", (axis(4), "appreciative")).publish()
    with serving(shop.home) as found:
        yield found


def test_readiness_names_the_generation_and_the_encoder(client):
    ready = client.get("/readyz").json()
    assert (ready["status"], ready["generation"], ready["encoder_fingerprint"]) == ("ready", 1, ENCODER)
    assert ready["catalogs"]["films"] == {"items": 2, "personas": 2}
    assert client.get("/healthz").json() == {"status": "ok"}


def test_a_user_gets_recommendations_with_their_reason(client):
    answer = client.get("/v1/users/ann/recommendations", params={"k": 2}).json()
    assert answer["fallback"] is None
    assert [item["item_id"] for item in answer["recommendations"]] == ["dune", "emma"]
    assert answer["recommendations"][0]["why"] == "Likes dune for reason 1."
    assert answer["recommendations"][0]["quotes"] == ["Quote 1 of dune."]


def test_nothing_in_an_answer_can_open_a_tag_and_the_text_arrives_as_it_was(client):
    user = "</script><script>alert('&')</script>\u2028"
    for response in (
        client.get(f"/v1/users/{quote(user, safe='')}/recommendations"),
        client.post("/v1/rerank", json={"user_id": user, "candidates": [user]}),
    ):
        assert response.headers["content-type"] == "application/json"
        assert not set("<>&\u2028") & set(response.text) and response.json()["user_id"] == user
    unknown = client.get(f"/v1/items/{quote(user, safe='')}/personas")
    assert is_problem(unknown, 404) and "<" not in unknown.text


def test_an_unknown_user_gets_an_answer_that_states_the_fallback(client):
    response = client.get("/v1/users/nobody at all/recommendations")
    assert response.status_code == 200
    assert response.json()["fallback"] == "unknown_user"
    assert response.json()["recommendations"]


def test_candidates_come_back_in_the_users_order_and_an_unknown_one_in_its_place(client):
    candidates = ["emma", "novel", {"catalog": "books", "item_id": "dune"}]
    answer = client.post("/v1/rerank", json={"user_id": "ann", "candidates": candidates}).json()
    assert [item["item_id"] for item in answer["candidates"]] == ["dune", "novel", "emma"]
    assert answer["candidates"][1]["flags"] == ["unknown_item"]


def test_reranking_for_an_unknown_user_keeps_the_order_and_states_the_fallback(client):
    answer = client.post("/v1/rerank", json={"user_id": "nobody", "candidates": ["emma", "dune"], "k": 1}).json()
    assert answer["fallback"] == "unknown_user"
    assert [item["item_id"] for item in answer["candidates"]] == ["emma"]


def test_candidates_are_blended_with_their_own_order_as_learned_or_as_told(tmp_path):
    shop = two_catalogues(tmp_path)
    shop.publish(blends=Blends(Blend("score", 0.0, {"2-4": 0.9}), Blend("rank", 0.2)))
    body = {"user_id": "ann", "candidates": ["odd", "emma", "dune"]}
    with serving(tmp_path) as client:

        def asked(**more):
            answer = client.post("/v1/rerank", json=body | more).json()
            return answer["weight"], [(item["item_id"], item["candidate_place"]) for item in answer["candidates"]]

        assert asked() == (0.2, [("odd", 1), ("emma", 2), ("dune", 3)])
        assert asked(scores=[1.2, 1.1, 1.0]) == (0.9, [("dune", 3), ("emma", 2), ("odd", 1)])
        assert asked(scores=[1.0, 1.1, 1.2], weight=0) == (0.0, [("dune", 1), ("emma", 2), ("odd", 3)])
        assert asked(user_id="nobody")[0] is None
        assert client.get("/readyz").json()["blends"]["of_places"]["weight"] == 0.2


def test_no_candidates_give_no_candidates(client):
    assert client.post("/v1/rerank", json={"user_id": "ann", "candidates": []}).json()["candidates"] == []


def test_the_personas_of_an_item_can_be_read_with_and_without_its_catalogue(client):
    assert client.get("/v1/items/dune/personas").json()["item"]["catalog"] == "books"
    films = client.get("/v1/items/dune/personas", params={"catalog": "films"}).json()
    assert films["item"]["catalog"] == "films"
    assert [persona["persona_id"] for persona in films["personas"]] == ["p1"]


def test_a_user_id_may_hold_anything(client):
    for user in ("a/b", "line\nend", "\r\x00\u2028", "recommendations", "x/recommendations"):
        answer = client.get(f"/v1/users/{quote(user, safe='')}/recommendations")
        assert answer.status_code == 200 and answer.json()["user_id"] == user


def test_an_item_id_may_hold_a_slash(client):
    assert client.get("/v1/items/a%2Fb/personas").json()["item"]["item_id"] == "a/b"


@pytest.mark.parametrize("path", ["/v1/items/novel/personas", "/v1/items/dune/personas?catalog=x", "/nowhere"])
def test_what_is_not_there_is_a_404_with_details(client, path):
    assert is_problem(client.get(path), 404)


@pytest.mark.parametrize("k", ["0", "-1", "many", "1001", "", "nan"])
def test_a_bad_k_is_a_422_that_names_it(client, k):
    response = client.get("/v1/users/ann/recommendations", params={"k": k})
    assert is_problem(response, 422)
    assert "query.k" in response.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"user_id": "ann"}',
        b'{"user_id": "", "candidates": []}',
        b'{"user_id": "ann", "candidates": ["a\xff"]}',
        b'{"user_id": "ann", "candidates": ["dune"], "session": "dune"}',
        b'{"user_id": "ann", "candidates": ["dune"], "history": [{"review": "Nice."}]}',
        b'{"user_id": "ann", "candidates": ["dune"], "tastes": 0}',
        b'{"user_id": "ann", "candidates": ["dune"], "filters": {"genre": []}}',
        b'{"user_id": "ann", "candidates": "dune"}',
        b'{"user_id": "ann", "candidates": [1]}',
        b'{"user_id": "ann", "candidates": [""]}',
        b'{"user_id": "\\ud800", "candidates": []}',
        b'{"user_id": "ann", "candidates": [], "k": 0}',
        b'{"user_id": "ann", "candidates": [], "k": NaN}',
        b'{"user_id": "ann", "candidates": [], "kk": 1}',
        b'{"user_id": "ann", "candidates": [{"item_id": "dune"}]}',
        b'{"user_id": "ann", "candidates": ["dune"], "scores": [1, 2]}',
        b'{"user_id": "ann", "candidates": ["dune"], "scores": [NaN]}',
        b'{"user_id": "ann", "candidates": ["dune"], "scores": [1e300]}',
        b'{"user_id": "ann", "candidates": ["dune"], "weight": 1.5}',
        b"\xff\xfe",
    ],
)
def test_a_bad_body_is_a_422_with_details(client, body):
    response = client.post("/v1/rerank", content=body, headers={"content-type": "application/json"})
    assert is_problem(response, 422), response.text


@pytest.mark.parametrize(("method", "path", "allowed"), [("DELETE", "/healthz", "GET"), ("GET", "/v1/rerank", "POST")])
def test_a_wrong_method_is_a_405_with_details(client, method, path, allowed):
    response = client.request(method, path)
    assert is_problem(response, 405)
    assert response.headers["allow"] == allowed


def test_before_an_index_is_published_the_service_says_how_to_make_one_and_then_finds_it(tmp_path):
    shop = two_catalogues(tmp_path)
    with serving(tmp_path) as client:
        assert client.get("/healthz").status_code == 200
        for response in (
            client.get("/readyz"),
            client.get("/v1/users/ann/recommendations"),
            client.post("/v1/rerank", json={"user_id": "ann", "candidates": []}),
        ):
            assert is_problem(response, 503)
            assert "Publish one" in response.json()["detail"]
        shop.publish()
        service_of(client).look()
        assert client.get("/readyz").json()["generation"] == 1


def test_a_server_that_reranks_has_not_loaded_the_machinery_that_built_the_index(tmp_path):
    two_catalogues(tmp_path).publish()
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from fastapi.testclient import TestClient\n"
        "from persona4rec_pipeline.serving.service import create_app\n"
        "from persona4rec_pipeline.settings import load_settings\n"
        "settings = load_settings({}, home=Path(sys.argv[1]))\n"
        "with TestClient(create_app(settings), base_url='http://127.0.0.1') as client:\n"
        "    body = {'user_id': 'ann', 'session': ['dune'], 'candidates': ['dune', 'emma']}\n"
        "    assert client.post('/v1/rerank', json=body).status_code == 200\n"
        "    assert client.get('/metrics').status_code == 200\n"
        "heavy = {'dagster', 'pandas', 'torch', 'vllm', 'mlflow', 'duckdb', 'transformers', 'matplotlib', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
