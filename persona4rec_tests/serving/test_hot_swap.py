"""A new generation is taken over while the service runs, and a damaged one is not."""

from __future__ import annotations

import threading
import time
import weakref

import pytest

from persona4rec_pipeline.serving.current import CurrentIndex
from persona4rec_tests.index.builders import axis, two_catalogues
from persona4rec_tests.serving.builders import service_of, serving


def test_a_newly_published_generation_is_picked_up_by_the_watcher_and_not_by_a_request(tmp_path):
    shop = two_catalogues(tmp_path)
    shop.publish()
    with serving(tmp_path) as client:
        shop.item("brand new", (axis(4), "appreciative")).publish()
        assert client.get("/v1/items/brand new/personas").status_code == 404
        service_of(client).look()
        assert client.get("/v1/items/brand new/personas").status_code == 200
        ready = client.get("/readyz").json()
        assert (ready["generation"], ready["hot_swaps"]) == (2, 1)


def test_the_watcher_looks_by_itself(tmp_path):
    shop = two_catalogues(tmp_path)
    shop.publish()
    with serving(tmp_path, look_every_s=0.02) as client:
        shop.item("brand new", (axis(4), "appreciative")).publish()
        deadline = time.monotonic() + 60
        while client.get("/readyz").json()["generation"] != 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_damaged_new_generation_leaves_the_old_one_in_service_and_is_reported(tmp_path):
    shop = two_catalogues(tmp_path)
    shop.publish()
    with serving(tmp_path) as client:
        damaged = shop.item("brand new", (axis(4), "appreciative")).publish().path / "profiles.npy"
        damaged.write_bytes(b"nothing")
        service_of(client).look()
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert (ready.json()["status"], ready.json()["generation"]) == ("degraded", 1)
        assert "profiles.npy" in ready.json()["problem"]
        assert client.get("/v1/users/ann/recommendations").status_code == 200
        assert "persona4rec_refused_generations_total 1.0" in client.get("/metrics").text


@pytest.fixture
def refused(tmp_path):
    """(current, shop, damaged file): generation 1 is served, generation 2 was refused once."""
    shop = two_catalogues(tmp_path)
    shop.publish()
    current = CurrentIndex(shop.index_path, retry_refused_s=3600)
    current.look()
    damaged = shop.item("brand new", (axis(4), "appreciative")).publish().path / "profiles.npy"
    damaged.chmod(0o644)
    whole = damaged.read_bytes()
    damaged.write_bytes(b"nothing")
    current.look()
    return current, shop, damaged, whole


def test_a_refused_generation_is_not_read_again_as_long_as_it_stays_the_same(refused):
    current, *_ = refused
    for _ in range(3):
        current.look()
    assert current.refused == 1 and current.problem is not None


def test_a_refused_generation_that_was_mended_is_served(refused):
    current, _, damaged, whole = refused
    damaged.write_bytes(whole)
    assert current.look()
    assert (current.get().index.generation, current.problem) == (2, None)


def test_a_refused_generation_is_tried_again_after_a_while(refused):
    current, *_ = refused
    current._retry_refused_s = 0
    current.look()
    assert current.refused == 2


def test_rolling_back_to_what_is_served_clears_the_problem(refused):
    from persona4rec_pipeline.index.files import make_current

    current, shop, *_ = refused
    make_current(shop.index_path, 1)
    current.look()
    assert (current.get().index.generation, current.problem) == (1, None)


def test_a_request_in_flight_keeps_its_generation_and_its_memory_goes_with_it(tmp_path):
    shop = two_catalogues(tmp_path)
    shop.publish()
    current = CurrentIndex(shop.index_path)
    current.look()
    in_flight = current.get()
    shop.item("brand new", (axis(4), "appreciative")).publish()
    current.look()
    assert (in_flight.index.generation, current.get().index.generation) == (1, 2)
    assert [one.item_id for one in in_flight.index.recommend("ann", 1)] == ["dune"]
    old = weakref.ref(in_flight.index)
    current.look()
    assert old() is not None
    del in_flight
    current.look()
    assert old() is None


def test_requests_go_on_without_an_error_while_generations_are_swapped(tmp_path):
    shop = two_catalogues(tmp_path)
    shop.publish()
    with serving(tmp_path) as client:
        wrong: list[str] = []
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                response = client.post("/v1/rerank", json={"user_id": "ann", "candidates": ["emma", "dune"]})
                first = response.json().get("candidates", [{}])[0].get("item_id")
                if response.status_code != 200 or first != "dune":
                    wrong.append(response.text)

        asker = threading.Thread(target=ask)
        asker.start()
        for number in range(3):
            shop.item(f"new {number}", (axis(4), "appreciative")).publish()
            service_of(client).look()
        stop.set()
        asker.join()
        assert wrong == []
        assert client.get("/readyz").json()["generation"] == 4
