"""`persona4rec serve` and `api-key`, as an operator runs them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from persona4rec_pipeline.cli import app
from persona4rec_pipeline.interactions import Interaction, InteractionQueue
from persona4rec_pipeline.serving.protocol import OneWrite
from persona4rec_pipeline.serving.run import run_server
from persona4rec_pipeline.settings import load_settings
from persona4rec_tests.index.builders import two_catalogues
from persona4rec_tests.serving.builders import settings_of

BODY = json.dumps({"user_id": "ann", "candidates": ["emma", "dune"]}).encode()


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    shop = two_catalogues(tmp_path_factory.mktemp("home"))
    shop.publish()
    return shop.home


@contextmanager
def server(home: Path, *arguments: str) -> Iterator[tuple[int, subprocess.Popen]]:
    """(port, process) of a service that answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    log = home / "serve.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "persona4rec_pipeline.cli", "serve", "--port", str(port), *arguments],
            env=os.environ | {"PERSONA4REC_HOME": str(home)},
            stdout=stream,
            stderr=stream,
        )
    try:
        while not ready(port):
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield port, process
    finally:
        process.terminate()
        process.wait(timeout=60)


def ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_it_ends_when_it_is_told_to_and_answers_what_is_in_flight_first(home):
    with server(home) as (port, process), socket.create_connection(("127.0.0.1", port)) as client:
        head = f"POST /v1/rerank HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(BODY)}\r\n\r\n"
        client.sendall(head.encode() + BODY[:10])
        # The request has begun when a later one has been answered.
        assert ready(port)
        process.send_signal(signal.SIGTERM)
        while ready(port):
            time.sleep(0.05)
        client.sendall(BODY[10:])
        answer = b""
        while part := client.recv(65_536):
            answer += part
        assert answer.startswith(b"HTTP/1.1 200 ") and b'"item_id":"dune"' in answer
        # Ended by the signal, as a supervisor expects it, after everything else.
        assert process.wait(timeout=60) in (0, -signal.SIGTERM)


def test_several_workers_share_what_is_counted_and_what_is_queued(home):
    with server(home, "--workers", "2", "--no-access-log") as (port, _):
        url = f"http://127.0.0.1:{port}"
        like = {"user_id": "newcomer", "item_id": "dune", "kind": "like"}
        assert httpx.post(f"{url}/v1/interactions", json=like).status_code == 202
        # Each connection is its own, so that both workers are asked.
        found = [httpx.get(f"{url}/v1/users/newcomer/recommendations").json()["fallback"] for _ in range(40)]
        assert found == [None] * 40
        told = httpx.get(f"{url}/metrics").text
        assert 'route="/v1/users/{user_id}/recommendations",status="200"} 40.0' in told


def test_the_log_is_lines_of_json(home):
    with server(home) as (port, _):
        httpx.get(f"http://127.0.0.1:{port}/v1/users")
    lines = [line for line in (home / "serve.log").read_text().splitlines() if not line.startswith("Serving on")]
    told = [json.loads(line) for line in lines]
    assert any(line.get("message", "").startswith("Serving generation 1") for line in told)
    assert any(line.get("route") == "/v1/users" for line in told)


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.setenv("PERSONA4REC_HOME", str(tmp_path))
    # Set by `serve`, for the workers; a test must not leave it to the next one.
    for name in ("HOST", "PORT", "WORKERS", "REQUIRE_KEY", "ACCESS_LOG"):
        monkeypatch.setenv(f"PERSONA4REC_SERVING__{name}", "")
        monkeypatch.delenv(f"PERSONA4REC_SERVING__{name}")

    def run(*arguments: str):
        return CliRunner().invoke(app, list(arguments))

    return run


@pytest.mark.parametrize("arguments", [["--host", "0.0.0.0"], ["--require-key"]])
def test_it_refuses_to_start_without_a_key_where_one_is_required(command, arguments):
    found = command("serve", *arguments)
    assert found.exit_code == 1 and "api-key add NAME" in str(found.exception)


@pytest.mark.parametrize("behind_proxy", [False, True])
def test_the_client_named_by_a_proxy_is_believed_only_where_there_is_one(home, monkeypatch, behind_proxy):
    told: dict[str, object] = {}
    monkeypatch.setattr("uvicorn.run", lambda *_, **options: told.update(options))
    run_server(settings_of(home, behind_proxy=behind_proxy))
    assert told["proxy_headers"] is behind_proxy


def test_a_key_is_printed_once_listed_without_it_and_revoked(command):
    made = command("api-key", "add", "shop", "--expires", "2999-01-01")
    key = made.stdout.strip()
    assert key.startswith("p4r_") and "\n" not in key
    listed = command("api-key", "list").stdout
    assert "shop" in listed and "valid" in listed and "2999-01-01" in listed and key not in listed
    assert command("api-key", "revoke", "shop").exit_code == 0
    assert "revoked" in command("api-key", "list").stdout
    assert "There is no key 'nobody'" in str(command("api-key", "revoke", "nobody").exception)
    assert "over already" in str(command("api-key", "add", "late", "--expires", "2020-01-01").exception)


class Wire:
    """A transport that remembers what was written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def written(*steps: bytes | str | None) -> tuple[list[bytes], bool]:
    """What reaches the wire of these writes; None: the event loop takes a turn, "close": the connection is closed."""
    wire = Wire()

    async def write() -> None:
        transport = OneWrite(wire, asyncio.get_running_loop())
        for step in steps:
            if step is None:
                await asyncio.sleep(0)
            elif step == "close":
                transport.close()
            else:
                transport.write(step)
        assert transport.is_closing() == wire.closed
        await asyncio.sleep(0)

    asyncio.run(write())
    return wire.written, wire.closed


HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


def test_head_and_body_of_an_answer_are_written_at_once():
    assert written(HEAD, b"body", HEAD, b"") == ([HEAD + b"body", HEAD], False)


def test_a_head_without_a_body_goes_out_by_itself():
    assert written(HEAD, None, b"later") == ([HEAD, b"later"], False)
    assert written(HEAD, "close") == ([HEAD], True)


def test_parts_of_a_long_body_and_a_go_on_are_not_held_back():
    go_on = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert written(go_on, HEAD, b"one", b"two") == ([go_on, HEAD + b"one", b"two"], False)


def test_the_command_line_asks_as_the_service_does(home, command, monkeypatch, tmp_path):
    monkeypatch.setenv("PERSONA4REC_HOME", str(home))

    def told(*arguments: str) -> dict:
        return json.loads(command(*arguments, "--json").stdout)

    session = told("recommend", "--session", "odd", "--k", "9")
    assert session["fallback"] == "session" and "odd" not in [item["item_id"] for item in session["items"]]
    films = told("recommend", "--user", "ann", "--catalog", "films")
    assert {item["catalog"] for item in films["items"]} == {"films"}
    explained = told("explain", "--session", "dune", "--item", "emma")
    assert explained["fallback"] == "session" and explained["winner"]["name"] == "Reader 1 of emma"
    queue, at = InteractionQueue(load_settings().interactions_path), datetime.now(UTC)
    queue.append(Interaction(None, "k", "who has just come", "books", "odd", "like", None, None, at))
    queue.close()
    assert told("recommend", "--user", "who has just come")["fallback"] is None
    (tmp_path / "ids.txt").write_text("emma\ndune\n")
    ranked = told("rerank", "--session", "dune", "--candidates", str(tmp_path / "ids.txt"))
    assert [item["item_id"] for item in ranked["items"]] == ["dune", "emma"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give --user, --history or --session"),
        (["--user", "ann", "--history", "HISTORY"], "either --user or --history"),
        (["--history", "HISTORY"], "empty history"),
    ],
)
def test_the_command_line_says_who_must_be_named(home, command, monkeypatch, tmp_path, arguments, message):
    monkeypatch.setenv("PERSONA4REC_HOME", str(home))
    (tmp_path / "history.json").write_text("[]")
    named = [str(tmp_path / "history.json") if part == "HISTORY" else part for part in arguments]
    assert message in str(command("recommend", *named).exception)
