"""What a user does now is on the disk before it is accepted, and counts in the next answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from persona4rec_pipeline.interactions import Interaction, InteractionQueue, QueueUnusable
from persona4rec_pipeline.serving.encoding import EncoderUnavailable
from persona4rec_tests.index.builders import axis, two_catalogues
from persona4rec_tests.serving.builders import is_problem, publish_with_queue, service_of, serving, settings_of


@pytest.fixture
def shop(tmp_path):
    """`dune` and `emma` have no vector of what liking them in silence means but along axes 0 and 1; `odd` along 3."""
    found = two_catalogues(tmp_path)
    found.publish()
    return found


@pytest.fixture
def client(shop):
    with serving(shop.home) as found:
        yield found


def tell(client, **body):
    return client.post("/v1/interactions", json={"user_id": "new", "kind": "like"} | body)


def listed(client, user="new", **more):
    answer = client.post("/v1/recommendations", json={"user_id": user} | more).json()
    return answer["fallback"], [item["item_id"] for item in answer["recommendations"]]


def queue_of(shop) -> InteractionQueue:
    return InteractionQueue(settings_of(shop.home).interactions_path)


def test_an_interaction_is_in_the_queue_when_it_is_accepted(shop, client):
    response = tell(client, item_id="odd", at="2026-01-02T03:04:05+01:00")
    assert response.status_code == 202
    assert response.json() == {"id": 1, "queued": True, "known_item": True}
    [found] = queue_of(shop).after(0)
    assert (found.user_id, found.catalog, found.item_id, found.kind) == ("new", "books", "odd", "like")
    assert found.at == datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize("kind", ["click", "like"])
def test_a_like_counts_in_the_next_answer_and_its_item_is_left_out(client, kind):
    assert listed(client)[0] == "unknown_user"
    tell(client, item={"catalog": "films", "item_id": "dune"}, kind=kind)
    fallback, items = listed(client)
    # Nearest to axis 2 are now the films' alien and, by its second persona, grim; the films' dune was seen.
    assert fallback is None and items[:2] == ["grim", "alien"]
    assert [item for item in items if item == "dune"] == ["dune"]


def test_every_route_takes_it_into_account(client):
    tell(client, item={"catalog": "films", "item_id": "dune"})
    order = {"user_id": "new", "candidates": ["emma", "alien"]}
    assert [one["item_id"] for one in client.post("/v1/rerank", json=order).json()["candidates"]] == ["alien", "emma"]
    explained = client.post("/v1/explain", json={"user_id": "new", "item": "alien"}).json()
    assert explained["fallback"] is None and explained["winner"]["score"] > 0.8
    shaped = client.post("/rerank", json={"query": "new", "documents": ["emma", "alien"]}).json()
    assert [one["index"] for one in shaped["results"]] == [1, 0]
    assert client.get("/v1/users/new/recommendations").json()["fallback"] is None


def test_a_dislike_never_enters_a_profile_and_keeps_its_item_away(client):
    tell(client, item_id="odd", kind="dislike")
    fallback, items = listed(client)
    assert fallback == "no_positive_history" and "odd" not in items


def test_a_dislike_takes_a_like_back(client):
    tell(client, item_id="odd")
    tell(client, item_id="odd", kind="dislike")
    assert listed(client)[0] == "no_positive_history"


def test_a_click_does_not_take_a_dislike_back(client):
    tell(client, item_id="odd", kind="dislike")
    tell(client, item_id="odd", kind="click")
    assert listed(client)[0] == "no_positive_history"


def test_many_clicks_on_one_item_are_one(client):
    service = service_of(client)
    for _ in range(5):
        tell(client, item_id="odd", kind="click")
    assert len(service.overlay.of("new", service.current.get().index).vectors) == 1


@pytest.mark.parametrize(("rating", "liked"), [(5, True), (4, True), (3, False), (None, True)])
def test_a_review_speaks_for_its_item_if_it_is_rated_well_enough(client, rating, liked):
    tell(client, item_id="odd", kind="review", rating=rating, review="Something.")
    assert listed(client)[0] == (None if liked else "no_positive_history")


def test_the_same_id_of_the_same_user_is_taken_once(shop, client):
    first = tell(client, item_id="odd", id="r1").json()
    assert tell(client, item_id="emma", id="r1").json()["id"] == first["id"]
    assert tell(client, item_id="odd", id="r1", user_id="other").json()["id"] != first["id"]
    assert [one.item_id for one in queue_of(shop).after(0)] == ["odd", "odd"]
    assert listed(client)[1].count("emma") == 1


def test_it_stands_in_the_history_of_the_user_until_the_index_contains_it(shop, client):
    taken = tell(client, user_id="ann", item_id="emma", at="2026-01-02T03:04:05Z").json()["id"]
    history = client.get("/v1/users/ann/history").json()["history"]
    assert history[0] == {
        "item_id": "emma",
        "catalog": "books",
        "title": "Title of emma",
        "at": "2026-01-02T03:04:05+00:00",
        "queued": True,
        "kind": "like",
    }
    publish_with_queue(shop, taken)
    service_of(client).look()
    assert "queued" not in client.get("/v1/users/ann/history").json()["history"][0]
    assert service_of(client).overlay.of("ann", service_of(client).current.get().index) is None


def test_the_history_of_a_user_who_is_known_from_the_queue_alone_says_what_a_ranking_says(shop, client):
    tell(client, user_id="new", item_id="odd", kind="like")
    history = client.get("/v1/users/new/history").json()
    assert (history["fallback"], history["interactions"]) == (None, 1)
    tell(client, user_id="sour", item_id="odd", kind="dislike")
    history = client.get("/v1/users/sour/history").json()
    assert (history["fallback"], history["interactions"]) == ("no_positive_history", 0)


def test_what_is_queued_counts_after_a_restart(shop):
    with serving(shop.home) as client:
        tell(client, item_id="odd")
    with serving(shop.home) as client:
        assert listed(client)[0] is None


def test_what_another_process_queued_is_noticed(shop, client):
    at = datetime.now(UTC)
    queue_of(shop).append(Interaction(None, "k", "new", "books", "odd", "like", None, None, at))
    assert listed(client)[0] == "unknown_user"
    service_of(client).look()
    assert listed(client)[0] is None


def test_among_several_workers_it_counts_in_the_very_next_answer(shop):
    with serving(shop.home, workers=2) as client:
        at = datetime.now(UTC)
        queue_of(shop).append(Interaction(None, "k", "new", "books", "odd", "like", None, None, at))
        assert listed(client)[0] is None


def test_a_forgotten_user_is_forgotten_here_as_well(shop, client):
    tell(client, item_id="odd")
    tell(client, item_id="odd", user_id="stays")
    queue_of(shop).forget("new")
    service_of(client).look()
    assert (listed(client)[0], listed(client, "stays")[0]) == ("unknown_user", None)


def test_what_a_review_says_is_read_in_the_background_and_replaces_its_item(client):
    service = service_of(client)
    index = service.current.get().index
    # The item lies along axis 3; what is said of it, the encoder puts on the axis of its title.
    assert np.argmax(index.item_vector("odd")) == 3
    tell(client, item_id="odd", kind="review", review="I loved its slow and odd humour, as a gift for my sister.")
    encoding = service.overlay._encoding
    if encoding is not None:
        encoding.result(timeout=60)
    [vector] = service.overlay.of("new", index).vectors
    np.testing.assert_allclose(vector, axis(2), atol=1e-6)


def test_where_there_is_no_encoder_the_item_counts_as_it_is(shop, client):
    service = service_of(client)

    def nowhere(index, settings):
        raise EncoderUnavailable("It is gone.")

    service.encoder.load = nowhere
    assert tell(client, item_id="odd", kind="review", review="I loved it.").status_code == 202
    [vector] = service.overlay.of("new", service.current.get().index).vectors
    np.testing.assert_allclose(vector, axis(3), atol=1e-3)


def test_an_item_that_is_not_in_the_index_yet_is_queued_and_counts_for_nothing_here(shop, client):
    response = tell(client, item={"catalog": "books", "item_id": "brand new"})
    assert response.status_code == 202 and response.json()["known_item"] is False
    assert listed(client)[0] == "no_positive_history"


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"item_id": "nothing"}, 404, "give it as item, with its catalogue"),
        ({"item": {"catalog": "games", "item_id": "x"}}, 422, "there are books, films"),
        ({}, 422, "either item_id, or item"),
        ({"item_id": "odd", "item": {"catalog": "books", "item_id": "odd"}}, 422, "either item_id, or item"),
        ({"item_id": "odd", "kind": "love"}, 422, "kind"),
        ({"item_id": "odd", "kind": "review"}, 422, "a rating, a text, or both"),
        ({"item_id": "odd", "kind": "review", "rating": 11}, 422, "from 0 to 5"),
        ({"item_id": "odd", "review": "Text with a like."}, 422, "no text"),
        ({"item_id": "odd", "at": "yesterday"}, 422, "at"),
        ({"item_id": "odd", "at": (datetime.now(UTC) + timedelta(days=3)).isoformat()}, 422, "still to come"),
        ({"item_id": "odd", "user_id": ""}, 422, "user_id"),
        ({"item_id": "odd", "kind": "review", "review": "x" * 20_001}, 422, "review"),
    ],
)
def test_what_cannot_be_queued_is_refused_with_the_reason(shop, client, body, status, told):
    response = tell(client, **body)
    assert is_problem(response, status) and told in response.json()["detail"]
    assert queue_of(shop).last_id() == 0


def test_a_queue_that_cannot_be_written_is_a_503_and_nothing_is_promised(client, monkeypatch):
    def full(interaction):
        raise QueueUnusable("The disk is full.")

    monkeypatch.setattr(service_of(client).overlay.queue, "append", full)
    response = tell(client, item_id="odd")
    assert is_problem(response, 503) and response.headers["retry-after"] == "5"
    assert listed(client)[0] == "unknown_user"


def test_a_history_given_in_the_request_is_not_mixed_with_what_is_queued(client):
    tell(client, item_id="odd")
    answer = client.post("/v1/rerank", json={"user_id": "new", "history": [], "candidates": ["dune"]}).json()
    assert answer["fallback"] == "no_profile"
