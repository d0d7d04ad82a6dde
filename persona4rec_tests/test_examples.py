"""The scripts of examples/ run as a reader runs them, over a small index."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

from persona4rec_pipeline.index import PersonaIndex
from persona4rec_tests.index.builders import two_catalogues

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shop = two_catalogues(tmp_path_factory.mktemp("home"))
    shop.publish()
    return shop.home


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[str]:
    """Where `persona4rec serve` answers, over the small index."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with (home / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "persona4rec_pipeline.cli", "serve", "--port", str(port)],
            cwd=ROOT,
            env=os.environ | {"PERSONA4REC_HOME": str(home)},
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        while not answers(url):
            assert process.poll() is None, (home / "serve.log").read_text()
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def run(script: str, home: Path, *arguments: str, **environment: str) -> str:
    """What an example prints; fails with its errors when it does not end well."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PERSONA4REC_HOME": str(home), "PYTHONPATH": str(ROOT)} | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_is_a_test_for_every_example() -> None:
    tested = Path(__file__).read_text()
    scripts = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
    assert len(scripts) == 3
    assert [name for name in scripts if f'run("{name}"' not in tested] == []


def test_reranking_in_process_shows_each_candidate_with_its_reason(home: Path) -> None:
    told = run("rerank_in_process.py", home, "ann")
    best = told.index("1. Title of dune"), told.index("2. Title of emma"), told.index("3. Title of alien")
    assert best == tuple(sorted(best))
    assert "Reader 1 of dune: Likes dune for reason 1." in told
    assert "“Quote 1 of dune.”" in told


def test_reranking_in_process_takes_a_user_without_profile(home: Path) -> None:
    assert "nobody liked nothing yet" in run("rerank_in_process.py", home, "nobody")


def test_a_session_over_http_goes_from_popular_items_to_what_was_seen_and_liked(home: Path, server: str) -> None:
    told = run("session_over_http.py", home, "emma", "odd", PERSONA4REC_URL=server)
    stranger, looking, liking = told.split("\n\n")[:3]
    assert "(fallback: unknown_user)" in stranger
    assert "Popular: " in stranger
    assert "(fallback: session)" in looking
    assert "Reader" in looking
    assert "Title of emma:" not in looking, "what was seen is not recommended"
    liked = liking.partition("They like ")[2].partition(" (")[0]
    assert f"1. {liked}:" in looking
    assert liking.count(f". {liked}:") == looking.count(f". {liked}:") - 1, (
        "nor what was liked; two items share the title"
    )
    assert "The next answer has changed." in told


def test_an_example_over_http_says_how_to_start_a_server(home: Path) -> None:
    with pytest.raises(AssertionError, match=r"No server answers at .*; start one with `make serve`"):
        run("session_over_http.py", home, PERSONA4REC_URL="http://127.0.0.1:1")


def test_an_example_over_http_says_which_title_it_does_not_find(home: Path, server: str) -> None:
    with pytest.raises(AssertionError, match="There is no item with 'zzz' in its title"):
        run("session_over_http.py", home, "zzz", PERSONA4REC_URL=server)


def test_the_exported_vectors_are_searched_to_the_same_end(home: Path, tmp_path: Path) -> None:
    told = run("nearest_neighbours_export.py", home, str(tmp_path))
    assert "PersonaIndex.search says the same." in told
    assert "1.000  books/dune" in told
    index = PersonaIndex.open(home / "index")
    assert pq.read_metadata(tmp_path / "users.parquet").num_rows == len(index.users)
