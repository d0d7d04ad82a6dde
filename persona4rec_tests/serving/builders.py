"""A running service over a small index, for tests of what stands on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fastapi.testclient import TestClient

from persona4rec_pipeline.serving.service import create_app
from persona4rec_pipeline.serving.state import Service
from persona4rec_pipeline.settings import Settings, load_settings
from persona4rec_tests.index.builders import ENCODER, Shop, axis

ADDRESS = "http://127.0.0.1:8080"
# Titles that the stand-in for the encoder tells apart, one axis each.
ITEMS = ["dune", "emma", "odd"]


class ByTitle:
    """One axis per item of ITEMS, told by its title, one more for all others; stands in for the encoder of the index."""

    fingerprint = ENCODER

    def encode(self, texts):
        return np.array(
            [axis(next((n for n, item in enumerate(ITEMS) if item in text), 7)) for text in texts], np.float32
        )


def settings_of(home: Path, **serving: Any) -> Settings:
    """Settings of a service that says nothing on the error stream, and does not look around by itself."""
    options = {"access_log": False, "look_every_s": 3600.0, "retry_refused_s": 3600.0} | serving
    return load_settings({}, home=home, serving=options)


@contextmanager
def serving(home: Path, **options: Any) -> Iterator[TestClient]:
    """A service that runs; its texts are encoded by `ByTitle`."""
    app = create_app(settings_of(home, **options))
    app.state.service.encoder.load = lambda index, settings: ByTitle()
    with TestClient(app, base_url=ADDRESS) as client:
        yield client


def service_of(client: TestClient) -> Service:
    """What runs behind a client."""
    return client.app.state.service  # type: ignore[attr-defined]


def publish_with_queue(shop: Shop, through: int, catalog: str = "books") -> None:
    """Publish another generation, which says that it contains a catalogue's queued interactions up to this id."""
    progress = {"catalog": catalog, "read_through": through, "counted_through": through, "queue": "one"}
    shop.rows["posted_progress"] = [progress]
    shop.item(f"made for {through}", (axis(5), "appreciative")).publish()


def is_problem(response: Any, status: int) -> bool:
    """Whether an answer is a problem document of this status that says something."""
    return (
        response.status_code == status
        and response.headers["content-type"] == "application/problem+json"
        and response.json()["status"] == status
        and bool(response.json()["detail"])
    )
