"""No request makes an internal error, and the OpenAPI document says what happens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import jsonschema
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persona4rec_tests.index.builders import axis, two_catalogues
from persona4rec_tests.serving.builders import service_of, serving

PATHS = [
    "/v1/rerank", "/v1/recommendations", "/v1/explain", "/v1/interactions", "/rerank", "/v2/rerank", "/rank/personas",
    "/rank/noop",
]  # fmt: skip
NOT_OURS = {200, 202, 404, 422}
KNOWN = ["ann", "bob", "cleo", "dune", "emma", "odd", "grim", "books", "films", "nothing"]


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> Iterator[TestClient]:
    shop = two_catalogues(tmp_path_factory.mktemp("home"))
    shop.item("a/b", (axis(4), "appreciative")).publish()
    with serving(shop.home) as found:
        yield found


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.sampled_from(KNOWN),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(KNOWN) | st.text(max_size=4)
items = names | st.fixed_dictionaries({"catalog": names, "item_id": names})
pasts = names | st.fixed_dictionaries(
    {}, optional={"item_id": names, "title": names, "days_ago": st.floats(-1, 1e7), "catalog": names, "summary": names}
)
filters = st.fixed_dictionaries(
    {},
    optional={
        "catalogs": st.lists(names, max_size=2),
        "categories": st.lists(names, max_size=2),
        "attributes": st.dictionaries(names, st.lists(names, max_size=2), max_size=2),
        "allow": st.lists(items, max_size=3),
        "deny": st.lists(items, max_size=3),
    },
)
# Every field of every body, near to what is meant.
fields: dict[str, st.SearchStrategy[Any]] = {
    "user_id": names,
    "history": st.lists(pasts, max_size=4),
    "session": st.lists(items, max_size=4),
    "tastes": st.integers(0, 9) | st.sampled_from(["recent", "distant"]),
    "candidates": st.lists(items, max_size=6),
    "scores": st.lists(st.floats(-1e101, 1e101), max_size=6),
    "weight": st.floats(-0.1, 1.1),
    "k": st.integers(-1, 20),
    "exclude": st.lists(items, max_size=3),
    "filters": filters,
    "explain": st.booleans(),
    "item": items,
    "item_id": names,
    "kind": st.sampled_from(["click", "like", "dislike", "review", "love"]),
    "rating": st.floats(-1, 6),
    "review": names,
    "at": st.datetimes().map(lambda at: at.isoformat()) | names,
    "id": names,
    "query": names | st.lists(pasts, max_size=3).map(json.dumps),
    "documents": st.lists(names | st.fixed_dictionaries({}, optional={"id": names, "catalog": names}), max_size=6),
    "top_n": st.integers(-1, 9),
    "return_documents": st.booleans(),
    "model": names,
    "user": names,
    "items": st.lists(
        st.fixed_dictionaries(
            {"id": names},
            optional={
                "fields": st.lists(st.fixed_dictionaries({"name": st.just("relevancy"), "value": anything}), max_size=2)
            },
        ),
        max_size=6,
    ),
}
OF_PATH = {
    "/v1/rerank": "user_id history session tastes candidates scores weight k exclude filters explain",
    "/v1/recommendations": "user_id history session tastes k exclude filters explain",
    "/v1/explain": "user_id history session tastes item",
    "/v1/interactions": "user_id item_id item kind rating review at id",
    "/rerank": "query documents top_n return_documents model",
    "/v2/rerank": "query documents top_n return_documents model",
    "/rank/personas": "user items id",
    "/rank/noop": "user items id",
}


def answers(client: TestClient, path: str, body: Any) -> None:
    response = client.post(path, content=json.dumps(body).encode(), headers={"content-type": "application/json"})
    assert response.status_code in NOT_OURS, (path, body, response.text)
    if response.status_code >= 400:
        assert response.json()["detail"]


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_body_makes_an_internal_error(client, path, data):
    strategies = {name: fields[name] for name in OF_PATH[path].split()}
    near = st.fixed_dictionaries({}, optional={name: strategy | anything for name, strategy in strategies.items()})
    answers(client, path, data.draw(near | anything))


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_body_of_the_right_shape_makes_an_internal_error(client, path, data):
    answers(client, path, data.draw(st.fixed_dictionaries({name: fields[name] for name in OF_PATH[path].split()})))


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=60))
def test_no_bytes_make_an_internal_error(client, path, body):
    response = client.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code in NOT_OURS


@pytest.mark.parametrize("path", PATHS)
def test_no_depth_makes_an_internal_error(client, path):
    deep = b'{"unknown":' + b"[" * 200_000
    response = client.post(path, content=deep, headers={"content-type": "application/json"})
    assert response.status_code == 422


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(user=st.text(min_size=1, max_size=8), item=st.text(min_size=1, max_size=8), more=st.text(max_size=8))
def test_no_path_and_no_parameter_makes_an_internal_error(client, user, item, more):
    user, item, more = (quote(part, safe="", errors="surrogatepass") for part in (user, item, more))
    for path in (
        f"/v1/users/{user}/recommendations?k={more}&catalog={more}&category={more}&exclude={item}",
        f"/v1/users/{user}/recommendations?category={more}&exclude={item}",
        f"/v1/users/{user}/history",
        f"/v1/users?prefix={user}&limit=3",
        f"/v1/items?query={more}&limit=3",
        f"/v1/items/{item}/personas?catalog={more}",
        f"/v1/items/{item}/similar?k=3",
        f"/v1/map?user_id={user}&limit=10",
        f"/rank/{item}",
        f"/static/{item}",
        f"/{item}",
    ):
        assert client.get(path).status_code < 500
    for path in (f"/rank/personas?explain={more}", f"/rank/noop?{more}", f"/rank/{item}?explain=true"):
        assert client.post(path, json={"user": "ann", "items": [{"id": "dune"}]}).status_code < 500


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(items, max_size=12), weight=st.floats(0, 1), user=st.sampled_from(["ann", "cleo", "bob", "x"]))
def test_no_candidate_is_lost_or_doubled_and_unknown_ones_keep_their_place(client, names, weight, user):
    body = {"user_id": user, "candidates": names, "weight": weight}
    response = client.post("/v1/rerank", json=body)
    if response.status_code == 422:
        return
    found = response.json()["candidates"]
    assert [one["candidate_place"] for one in sorted(found, key=lambda one: one["candidate_place"])] == list(
        range(1, len(found) + 1)
    )
    for place, one in enumerate(found, start=1):
        if "unknown_item" in one["flags"] or user in ("bob", "x"):
            assert one["candidate_place"] == place


@pytest.fixture(scope="module")
def document(client) -> dict[str, Any]:
    return client.get("/openapi.json").json()


def test_the_openapi_document_names_every_route(document):
    assert {(path, method.upper()) for path, methods in document["paths"].items() for method in methods} == {
        ("/v1/rerank", "POST"),
        ("/v1/recommendations", "POST"),
        ("/v1/explain", "POST"),
        ("/v1/interactions", "POST"),
        ("/rerank", "POST"),
        ("/v2/rerank", "POST"),
        ("/rank/{model}", "POST"),
        ("/v1/users/{user_id}/recommendations", "GET"),
        ("/v1/users/{user_id}/history", "GET"),
        ("/v1/users", "GET"),
        ("/v1/items", "GET"),
        ("/v1/items/{item_id}/personas", "GET"),
        ("/v1/items/{item_id}/similar", "GET"),
        ("/v1/map", "GET"),
        ("/healthz", "GET"),
        ("/readyz", "GET"),
        ("/metrics", "GET"),
    }


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from ([node["$ref"]] if isinstance(node.get("$ref"), str) else [])
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from references(part)


def test_every_reference_of_the_openapi_document_leads_somewhere(document):
    schemas = document["components"]["schemas"]
    assert {reference.removeprefix("#/components/schemas/") for reference in references(document)} <= schemas.keys()
    assert "HTTPValidationError" not in schemas


def fits(document: dict[str, Any], path: str, method: str, response: Any) -> None:
    """Whether an answer is as the document says."""
    stated = document["paths"][path][method]["responses"][str(response.status_code)]["content"]
    media_type = response.headers["content-type"].partition(";")[0]
    schema = stated[media_type]["schema"] | {"components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(response.json())


def posts(document: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    for path, methods in document["paths"].items():
        if "post" in methods:
            content = methods["post"]["requestBody"]["content"]["application/json"]
            assert content["examples"], path
            for name, example in content["examples"].items():
                yield path, name, example["value"]


def test_every_example_of_the_openapi_document_is_a_body_that_is_taken(client, document):
    for path, _, example in posts(document):
        schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        validator = jsonschema.Draft202012Validator(schema | {"components": document["components"]})
        validator.validate(example)
        response = client.post(path.replace("{model}", "personas"), json=example)
        # The small index has no such items, and its stand-in for an encoder reads no such titles; the shape is right.
        assert response.status_code in (200, 202, 404, 422)
        assert "Expected" not in response.text and "Object" not in response.text
        fits(document, path, "post", response)


def test_answers_are_as_the_openapi_document_says(client, document):
    body = {"user_id": "ann", "candidates": ["emma", "novel", "hated"]}
    for path, answer in {
        "/v1/rerank": client.post("/v1/rerank", json=body),
        "/v1/recommendations": client.post("/v1/recommendations", json={"session": ["odd", "gone"], "explain": False}),
        "/v1/explain": client.post("/v1/explain", json={"user_id": "ann", "item": "grim"}),
        "/v1/interactions": client.post("/v1/interactions", json={"user_id": "z", "item_id": "dune", "kind": "like"}),
        "/rerank": client.post("/rerank", json={"query": "ann", "documents": ["dune"], "return_documents": True}),
        "/rank/{model}": client.post("/rank/personas?explain=true", json={"user": "ann", "items": [{"id": "dune"}]}),
    }.items():
        assert answer.status_code in (200, 202), answer.text
        fits(document, path, "post", answer)
    unscored = client.post("/v1/explain", json={"user_id": "bob", "item": "grim"})
    assert len(unscored.json()["personas"]) == 2
    fits(document, "/v1/explain", "post", unscored)
    for path, url in {
        "/v1/users/{user_id}/recommendations": "/v1/users/nobody/recommendations?k=3",
        "/v1/users/{user_id}/history": "/v1/users/ann/history",
        "/v1/users": "/v1/users?prefix=a",
        "/v1/items": "/v1/items?query=dune",
        "/v1/items/{item_id}/personas": "/v1/items/dune/personas?catalog=films",
        "/v1/items/{item_id}/similar": "/v1/items/dune/similar",
        "/v1/map": "/v1/map?user_id=ann",
        "/healthz": "/healthz",
        "/readyz": "/readyz",
    }.items():
        answer = client.get(url)
        assert answer.status_code == 200, answer.text
        fits(document, path, "get", answer)
    fits(document, "/v1/items/{item_id}/personas", "get", client.get("/v1/items/gone/personas"))
    fits(document, "/v1/users", "get", client.get("/v1/users?limit=0"))


def test_a_fault_of_ours_is_a_problem_document_that_shows_nothing_of_the_inside(client, monkeypatch, caplog):
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("the secret inside")

    monkeypatch.setattr(service_of(client).current.get().index, "rank", fails)
    response = client.post("/v1/rerank", json={"user_id": "ann", "candidates": ["dune"]})
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert "secret" not in response.text and "RuntimeError" not in response.text
    assert service_of(client).in_progress == 0
