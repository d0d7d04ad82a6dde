"""Texts are encoded off the event loop, by an encoder that is loaded when it is first needed."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from persona4rec_pipeline.index import PersonaIndex
from persona4rec_pipeline.serving.encoding import BackgroundEncoder, EncoderUnavailable, load_encoder
from persona4rec_tests.index.builders import ENCODER, EncoderReference, axis, two_catalogues
from persona4rec_tests.serving.builders import ByTitle, is_problem, service_of, serving, settings_of

HISTORY = {"history": [{"title": "emma", "review": "I loved the wit."}], "candidates": ["odd", "emma"]}


@pytest.fixture
def home(tmp_path):
    two_catalogues(tmp_path).publish()
    return tmp_path


class Held(ByTitle):
    """Encodes when it is let go."""

    def __init__(self) -> None:
        self.entered, self.go = threading.Event(), threading.Event()

    def encode(self, texts):
        self.entered.set()
        assert self.go.wait(timeout=60)
        return super().encode(texts)


def test_a_history_with_texts_is_answered(home):
    with serving(home) as client:
        answer = client.post("/v1/rerank", json=HISTORY).json()
        assert [one["item_id"] for one in answer["candidates"]] == ["emma", "odd"]
        assert service_of(client).encoder.state == "ready"


def test_a_history_of_items_alone_never_loads_an_encoder(home):
    with serving(home) as client:
        assert client.post("/v1/rerank", json={"history": ["odd"], "candidates": ["odd"]}).status_code == 200
        assert service_of(client).encoder.state == "idle"


def test_others_are_answered_while_a_text_is_encoded(home):
    held = Held()
    with serving(home) as client, ThreadPoolExecutor(1) as pool:
        service_of(client).encoder.load = lambda index, settings: held
        slow = pool.submit(client.post, "/v1/rerank", json=HISTORY)
        assert held.entered.wait(timeout=60)
        assert client.post("/v1/rerank", json={"user_id": "ann", "candidates": ["dune"]}).status_code == 200
        assert not slow.done()
        held.go.set()
        assert slow.result(timeout=60).status_code == 200


def test_when_too_many_wait_for_the_encoder_the_next_one_is_told_to_come_again(home):
    held = Held()
    with serving(home, encoder_queue=1) as client, ThreadPoolExecutor(2) as pool:
        service = service_of(client)
        service.encoder.load = lambda index, settings: held
        first = pool.submit(client.post, "/v1/rerank", json=HISTORY)
        assert held.entered.wait(timeout=60)
        index = service.current.get().index
        waits = service.encoder.submit(index, lambda: ["emma"])
        response = client.post("/v1/rerank", json=HISTORY)
        assert is_problem(response, 503) and int(response.headers["retry-after"]) >= 1
        held.go.set()
        assert first.result(timeout=60).status_code == 200
        np.testing.assert_array_equal(waits.result(timeout=60), [axis(1)])


def test_an_encoder_that_is_not_there_is_a_503_that_says_how_to_get_one_and_it_is_tried_again(home):
    with serving(home) as client:
        encoder = service_of(client).encoder
        works = encoder.load
        encoder.load = load_encoder
        response = client.post("/v1/rerank", json=HISTORY)
        assert is_problem(response, 503) and "persona4rec run" in response.json()["detail"]
        assert encoder.state == "failed"
        encoder.load = works
        assert client.post("/v1/rerank", json=HISTORY).status_code == 200


def test_a_fault_of_the_encoder_is_the_asker_s_alone(home):
    class Broken(ByTitle):
        def encode(self, texts):
            raise StopIteration

    with serving(home) as client:
        encoder = service_of(client).encoder
        encoder.load = lambda index, settings: Broken()
        assert is_problem(client.post("/v1/rerank", json=HISTORY), 500)
        assert client.post("/v1/rerank", json={"user_id": "ann", "candidates": ["dune"]}).status_code == 200


def test_what_waits_when_the_service_ends_is_cancelled(home):
    held = Held()
    encoder = BackgroundEncoder(settings_of(home), lambda index, settings: held)
    index = PersonaIndex.open(settings_of(home).index_path)
    encoder.submit(index, lambda: ["emma"])
    assert held.entered.wait(timeout=60)
    waits = encoder.submit(index, lambda: ["emma"])
    held.go.set()
    encoder.stop()
    assert waits.cancelled() or waits.done()


def test_another_encoder_is_loaded_for_a_generation_that_another_one_made(home):
    made: list[str] = []

    class Named(ByTitle):
        def __init__(self, fingerprint):
            self.fingerprint = fingerprint
            made.append(fingerprint)

    class Index:
        def __init__(self, fingerprint):
            self.encoder_fingerprint, self.generation = fingerprint, 1

    encoder = BackgroundEncoder(settings_of(home), lambda index, settings: Named(index.encoder_fingerprint))
    for fingerprint in ("one", "one", "two"):
        encoder.submit(Index(fingerprint), lambda: ["emma"]).result(timeout=60)
    encoder.stop()
    assert made == ["one", "two"]


def test_an_index_that_does_not_say_where_its_encoder_is_cannot_read_texts(tmp_path):
    shop = two_catalogues(tmp_path)
    shop.publish(encoder=EncoderReference(fingerprint="encoder-one"))
    with pytest.raises(EncoderUnavailable, match="does not say where"):
        load_encoder(PersonaIndex.open(shop.index_path), settings_of(tmp_path))


@pytest.mark.parametrize("module", ["persona4rec_pipeline.embedding", "sentence_transformers"])
def test_an_installation_without_torch_says_that_it_cannot_encode(tmp_path, monkeypatch, module):
    shop = two_catalogues(tmp_path)
    (tmp_path / "modules.json").write_text("[]")
    shop.publish(encoder=EncoderReference(fingerprint=ENCODER, path=str(tmp_path)))
    # What import makes of a module that is not there.
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EncoderUnavailable, match="install all requirements"):
        load_encoder(PersonaIndex.open(shop.index_path), settings_of(tmp_path))
