"""The shapes of others, the first one through the client library of those who made it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import cohere
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st

from persona4rec_pipeline.serving.dropin import falling
from persona4rec_pipeline.serving.security import ApiKeys
from persona4rec_pipeline.serving.service import create_app
from persona4rec_tests.index.builders import axis, two_catalogues
from persona4rec_tests.serving.builders import is_problem, serving, settings_of

DOCUMENTS = ["emma", "novel", "dune", "odd"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    shop = two_catalogues(tmp_path_factory.mktemp("home"))
    shop.item("seldom", (axis(6), "appreciative")).publish()
    return shop.home


@pytest.fixture(scope="module")
def client(home):
    with serving(home) as found:
        yield found


@pytest.fixture(scope="module")
def address(home) -> Iterator[tuple[str, str]]:
    """(url, key) of a real server that asks for keys."""
    key = ApiKeys(settings_of(home).serving_path).add("sdk")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        app = create_app(settings_of(home, require_key=True))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", key
        server.should_exit = True
        thread.join()


def test_cohere_s_own_client_gets_the_order_of_the_user(address):
    url, key = address
    found = cohere.ClientV2(api_key=key, base_url=url).rerank(
        model="persona4rec", query="ann", documents=DOCUMENTS, top_n=3
    )
    assert [result.index for result in found.results] == [2, 1, 0]
    scores = [result.relevance_score for result in found.results]
    assert scores == sorted(set(scores), reverse=True) and scores[-1] >= 0 and scores[0] <= 1
    assert found.id and found.meta.api_version.version == "2"


def test_cohere_s_own_client_is_told_what_is_wrong(address):
    url, key = address
    with pytest.raises(cohere.errors.UnauthorizedError):
        cohere.ClientV2(api_key="p4r_wrong", base_url=url).rerank(model="m", query="ann", documents=["dune"])
    with pytest.raises(cohere.errors.UnprocessableEntityError) as error:
        cohere.ClientV2(api_key=key, base_url=url).rerank(model="m", query="[", documents=["dune"])
    assert "begins like JSON" in error.value.body["detail"]


def shaped(client, query, documents=DOCUMENTS, path="/rerank", **more):
    response = client.post(path, json={"query": query, "documents": documents} | more)
    assert response.status_code == 200, response.text
    return response.json()


def order(answer) -> list[int]:
    return [result["index"] for result in answer["results"]]


@pytest.mark.parametrize("path", ["/rerank", "/v2/rerank"])
def test_all_documents_come_back_and_an_unknown_one_in_its_place(client, path):
    answer = shaped(client, "ann", path=path, model="jina-reranker-v2")
    assert order(answer) == [2, 1, 0, 3]
    assert (answer["model"], answer["usage"]) == ("jina-reranker-v2", {"total_tokens": 0})
    assert answer["persona4rec"] == {"user_id": "ann", "generation": 1, "variant": None, "fallback": None}
    assert "document" not in answer["results"][0]


@pytest.mark.parametrize(
    ("query", "first", "fallback"),
    [
        ("ann", 2, None),
        (" user:ann\n", 2, None),
        ('["odd"]', 3, None),
        ('["gone", "odd"]', 3, None),
        ('[{"item_id": "odd"}]', 3, None),
        ('{"user_id": "cleo", "session": ["odd"]}', 3, None),
        ('{"session": ["odd"]}', 3, "session"),
        ("text:odd", 2, None),
        ("an odd sort of humour", 2, None),
        ("[]", 0, "no_profile"),
        ('["gone"]', 0, "no_profile"),
        ("somebody-else", 0, "unknown_user"),
        ("user:an odd sort of humour", 0, "unknown_user"),
    ],
)
def test_the_query_says_who_is_asking(client, query, first, fallback):
    # The stand-in for the encoder puts texts of `odd` on axis 2, along which no book lies but the film of `dune`.
    documents = (
        ["emma", "novel", {"catalog": "films", "id": "dune"}, "odd"]
        if "odd sort" in query or "text" in query
        else DOCUMENTS
    )
    answer = shaped(client, query, documents)
    assert (order(answer)[0], answer["persona4rec"]["fallback"]) == (first, fallback)


def test_a_user_whose_id_has_spaces_is_a_user_and_no_text(tmp_path):
    shop = two_catalogues(tmp_path)
    shop.interaction("a known user", "odd", axis(0)).publish()
    with serving(tmp_path) as client:
        assert shaped(client, "a known user")["persona4rec"]["user_id"] == "a known user"


def test_documents_may_be_objects_that_name_their_item(client):
    documents = [{"id": "emma", "title": "more"}, {"item_id": "dune", "text": "About a desert."}, {"text": "odd"}]
    answer = shaped(client, "ann", documents, return_documents=True, top_n=2)
    assert order(answer) == [1, 0]
    assert [result["document"] for result in answer["results"]] == [
        {"item_id": "dune", "text": "About a desert."},
        {"id": "emma"},
    ]
    assert shaped(client, "ann", return_documents=True)["results"][0]["document"] == {"text": "dune"}


def test_a_document_named_twice_comes_back_twice(client):
    documents = ["emma", "dune", "odd", {"catalog": "books", "id": "dune"}, "emma"]
    assert order(shaped(client, "ann", documents)) == [1, 3, 0, 4, 2]


def test_no_documents_give_no_results(client):
    assert shaped(client, "ann", [])["results"] == []


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"query": " ", "documents": ["dune"]}, "who is asking"),
        ({"query": '["', "documents": ["dune"]}, "begins like JSON"),
        ({"query": "[1]", "documents": ["dune"]}, "query: History entry 0"),
        ({"query": '{"user": "ann"}', "documents": ["dune"]}, "unknown field `user`"),
        ({"query": "ann", "documents": [""]}, "documents[0]"),
        ({"query": "ann", "documents": [{"title": "Dune"}]}, "documents[0]"),
        ({"query": "ann"}, "documents"),
        ({"documents": []}, "query"),
        ({"query": "ann", "documents": ["dune"], "top_n": -1}, "top_n"),
    ],
)
def test_what_cannot_be_read_is_named(client, body, told):
    response = client.post("/rerank", json=body)
    assert is_problem(response, 422) and told in response.json()["detail"]


@given(st.lists(st.none() | st.floats(-1, 1), max_size=60))
def test_scores_fall_strictly_and_lie_between_0_and_1(similarities):
    found = falling(similarities)
    assert all(0 <= score <= 1 for score in found)
    assert all(above > below for above, below in pairwise(found))


def test_scores_fall_strictly_for_as_many_candidates_as_may_be_sent():
    found = falling([-1.0] * 100_000)
    assert found[-1] >= 0 and all(above > below for above, below in pairwise(found))


def test_scores_that_fall_by_themselves_tell_how_near_the_personas_are():
    best, middle, worst = falling([1.0, 0.0, -1.0])
    assert best == 1 and middle == pytest.approx(0.51) and worst == pytest.approx(0.02)


def ranked(client, model="personas", query="", **body):
    items = [{"id": item} for item in DOCUMENTS]
    response = client.post(f"/rank/{model}{query}", json={"user": "ann", "items": items} | body)
    assert response.status_code == 200, response.text
    return response.json()


def test_metarank_s_shape_orders_for_the_user(client):
    answer = ranked(
        client, id="81f4", timestamp="1599391467000", session="s1", fields=[{"name": "query", "value": "x"}]
    )
    assert [item["item"] for item in answer["items"]] == ["dune", "novel", "emma", "odd"]
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(set(scores), reverse=True) and isinstance(answer["took"], int)
    assert "features" not in answer["items"][0]


def test_metarank_s_features_explain_an_item(client):
    items = ranked(client, query="?explain=true")["items"]
    features = {feature["name"]: feature["value"] for feature in items[0]["features"]}
    assert features["candidate_place"] == 3 and features["persona_similarity"] == pytest.approx(1, abs=1e-3)
    assert (features["persona"], features["why"]) == ("Reader 1 of dune", "Likes dune for reason 1.")
    assert {feature["name"] for feature in items[1]["features"]} == {"candidate_place", "why"}
    assert "features" not in ranked(client, query="?explain=false")["items"][0]


def test_metarank_s_noop_leaves_the_order_as_it_is(client):
    answer = ranked(client, "noop", "?explain=true")
    assert [(item["item"], item["score"]) for item in answer["items"]] == [(item, 0.0) for item in DOCUMENTS]


def test_metarank_s_relevancy_is_the_candidates_own_score(tmp_path):
    from persona4rec_pipeline.index.scoring import Blend, Blends

    two_catalogues(tmp_path).publish(blends=Blends(Blend("score", 0.0), Blend("rank", 0.0)))
    items = [
        {"id": item, "fields": [{"name": "relevancy", "value": value}]}
        for item, value in zip(DOCUMENTS, (1, 2.5, 3, 4), strict=True)
    ]
    with serving(tmp_path) as client:
        answer = ranked(client, items=items)
        assert [item["item"] for item in answer["items"]] == ["odd", "dune", "novel", "emma"]


def test_without_a_user_metarank_s_items_stay_as_they_are(client):
    assert [item["item"] for item in ranked(client, user=None)["items"]] == DOCUMENTS


def test_a_model_that_is_not_there_is_a_404_that_names_those_there_are(client):
    response = client.post("/rank/xgboost", json={"items": []})
    assert is_problem(response, 404) and "personas and noop" in response.json()["detail"]
