"""The HTTP API over a small index."""

from __future__ import annotations

import subprocess
import sys
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persona4rec_pipeline.index.scoring import Blend, Blends
from persona4rec_pipeline.serving.service import create_app
from persona4rec_tests.index.builders import ENCODER, axis, two_catalogues


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> TestClient:
    shop = two_catalogues(tmp_path_factory.mktemp("home"))
    shop.item("a/b", (axis(4), "appreciative")).publish()
    return TestClient(create_app(shop.index_path), raise_server_exceptions=False)


def is_problem(response, status: int) -> bool:
    return (
        response.status_code == status
        and response.headers["content-type"] == "application/problem+json"
        and response.json()["status"] == status
        and bool(response.json()["detail"])
    )


def test_health_names_the_generation_and_the_encoder(client):
    health = client.get("/healthz").json()
    assert (health["status"], health["generation"], health["encoder_fingerprint"]) == ("ok", 1, ENCODER)
    assert health["catalogs"]["films"] == {"items": 2, "personas": 2}


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
    client = TestClient(create_app(shop.index_path))
    body = {"user_id": "ann", "candidates": ["odd", "emma", "dune"]}

    def asked(**more):
        answer = client.post("/v1/rerank", json=body | more).json()
        return answer["weight"], [(item["item_id"], item["candidate_place"]) for item in answer["candidates"]]

    assert asked() == (0.2, [("odd", 1), ("emma", 2), ("dune", 3)])
    assert asked(scores=[1.2, 1.1, 1.0]) == (0.9, [("dune", 3), ("emma", 2), ("odd", 1)])
    assert asked(scores=[1.0, 1.1, 1.2], weight=0) == (0.0, [("dune", 1), ("emma", 2), ("odd", 3)])
    assert asked(user_id="nobody")[0] is None
    assert client.get("/healthz").json()["blends"]["of_places"]["weight"] == 0.2


def test_no_candidates_give_no_candidates(client):
    assert client.post("/v1/rerank", json={"user_id": "ann", "candidates": []}).json()["candidates"] == []


def test_the_personas_of_an_item_can_be_read_with_and_without_its_catalogue(client):
    assert client.get("/v1/items/dune/personas").json()["item"]["catalog"] == "books"
    films = client.get("/v1/items/dune/personas", params={"catalog": "films"}).json()
    assert films["item"]["catalog"] == "films"
    assert [persona["persona_id"] for persona in films["personas"]] == ["p1"]


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


def test_a_wrong_method_is_a_405_with_details(client):
    response = client.delete("/healthz")
    assert is_problem(response, 405)
    assert response.headers["allow"] == "GET"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(user=json_values, candidates=json_values, k=json_values, scores=json_values, weight=json_values)
def test_no_body_makes_an_internal_error(client, user, candidates, k, scores, weight):
    body = {"user_id": user, "candidates": candidates, "k": k, "scores": scores, "weight": weight}
    response = client.post("/v1/rerank", json=body)
    assert response.status_code in (200, 422)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(user=st.text(min_size=1, max_size=8), item=st.text(min_size=1, max_size=8))
def test_no_path_makes_an_internal_error(client, user, item):
    from urllib.parse import quote

    encoded = [quote(part, safe="", errors="surrogatepass") for part in (user, item)]
    assert client.get(f"/v1/users/{encoded[0]}/recommendations").status_code < 500
    assert client.get(f"/v1/items/{encoded[1]}/personas").status_code < 500


def test_before_an_index_is_published_the_service_says_how_to_make_one_and_then_finds_it(tmp_path):
    shop = two_catalogues(tmp_path)
    client = TestClient(create_app(shop.index_path, look_every_s=0))
    response = client.get("/v1/users/ann/recommendations")
    assert is_problem(response, 503)
    assert "materialise the asset persona_index" in response.json()["detail"]
    shop.publish()
    assert client.get("/healthz").json()["generation"] == 1


def test_a_newly_published_generation_is_picked_up_while_running(tmp_path):
    shop = two_catalogues(tmp_path)
    shop.publish()
    client = TestClient(create_app(shop.index_path, look_every_s=0))
    assert client.get("/v1/items/brand new/personas").status_code == 404
    shop.item("brand new", (axis(4), "appreciative")).publish()
    assert client.get("/v1/items/brand new/personas").status_code == 200
    assert client.get("/healthz").json()["generation"] == 2


def test_the_link_is_not_looked_at_on_every_request(tmp_path):
    shop = two_catalogues(tmp_path)
    shop.publish()
    client = TestClient(create_app(shop.index_path, look_every_s=3600))
    assert client.get("/healthz").json()["generation"] == 1
    shop.item("brand new", (axis(4), "appreciative")).publish()
    assert client.get("/healthz").json()["generation"] == 1


def test_a_damaged_new_generation_leaves_the_old_one_in_service_and_is_reported(tmp_path):
    shop = two_catalogues(tmp_path)
    shop.publish()
    client = TestClient(create_app(shop.index_path, look_every_s=0))
    client.get("/healthz")
    damaged = shop.item("brand new", (axis(4), "appreciative")).publish().path / "profiles.npy"
    damaged.write_bytes(b"nothing")
    health = client.get("/healthz").json()
    assert (health["status"], health["generation"]) == ("degraded", 1)
    assert "profiles.npy" in health["problem"]
    assert client.get("/v1/users/ann/recommendations").status_code == 200


def test_a_server_does_not_load_the_machinery_that_built_the_index():
    program = (
        "import sys; from persona4rec_pipeline.serving.service import create_app\n"
        "create_app('nowhere')\n"
        "heavy = {'dagster', 'torch', 'vllm', 'mlflow', 'duckdb', 'transformers', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
