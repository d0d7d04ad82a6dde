"""What an answer costs: in process, over HTTP under load, against a do-nothing endpoint and against a language model.

    python -m benchmarks.serving                          # everything but the language model, about 15 minutes
    python -m benchmarks.serving --soak 0 --rounds 2 --seconds 2        # a quick look
    python -m benchmarks.serving --reranker 5             # asks the packaged language model as well, seconds a request

Start: from the command to the first order of 20 candidates of a known user, once so that what is compiled on a machine's first
start is there, then STARTS times.

In process: the same requests, one after another, without HTTP. `order alone` looks the user's profile up, scores the
candidates and orders them; `with reasons` also puts each candidate's persona, reason and quotes into words.

Under load: wrk asks POST /v1/rerank for the order of 20 candidates of a known user, with 1, 10, 50 and 100 clients that each
ask again as soon as they are answered. The floor is a FastAPI service that does nothing: an application of one route, POST
/nothing, whose `async` function takes no argument, does nothing and returns an empty dictionary, which FastAPI sends as
`{}`. It is sent the same bodies, and neither reads nor checks them; it has no middleware, no log, no metrics. It runs in a process
of its own under uvicorn as our service does: one worker, uvloop, httptools, no access log of uvicorn's. Our service is what
`persona4rec serve` starts, with the settings that it ships with.

The parts of answers that are the same for everybody are kept once they were asked for (`serving.render_cache_mib`), and the
requests come again after REQUESTS of them, so that all are kept here but in the first second.
With PERSONA4REC_SERVING__RENDER_CACHE_MIB=0 nothing is kept, as if no item were asked for twice.

Floor and service take turns, a few seconds each, several rounds per number of clients, so that a noisy machine is noisy for
both; what counts is the median over the rounds of the ratio of their p99. Connections are opened a moment before the first request
(`load.PAUSE_S` says why). Load generator and servers share the machine, so that requests per second say less than the ratio.

The soak keeps the service under load while three new generations are published, and in between a damaged one is made
current: a copy of the current one with some bytes of its vectors turned round, as a failing disk leaves them. Every status but
200 is an error. The service must answer from each new generation, refuse the damaged one, say so in /readyz and /metrics, and
stay within its memory: what grows must not be its own. Its resident memory also holds the pages of the index that were read, which
all workers share and the system takes back.

The index is made (`made_home`), or a copy of that of `--home`; nothing is ever written to that home.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks.load import Load, Server, find_wrk, free_port, put_load, python_module, running
from benchmarks.made_home import changed_items, make_home
from persona4rec_pipeline.index import PersonaIndex, change_index, files
from persona4rec_pipeline.presentation import markdown_table

CANDIDATES = 20
REQUESTS = 1_000
IN_PROCESS_REQUESTS = 5_000
STARTS = 3
STARTED_WITHIN_S = 3.0
RERANK = "/v1/rerank"
# As the service runs (`serving/run.py`).
UVICORN = (
    "--workers 1 --loop uvloop --http httptools --ws none --lifespan on --backlog 4096 --timeout-keep-alive 75 "
    "--no-access-log --no-server-header --log-level warning"
)
TARGET_RATIO = 2.0
# A publication must reach the answers within so many seconds.
SWAPPED_WITHIN_S = 30.0
SOAK_CLIENTS = 10
# When what happens in the soak, as shares of its time.
PUBLISHED_AT, DAMAGED_AT, ROLLED_BACK_AT = (0.2, 0.6, 0.8), 0.4, 0.5
# Soon after the first publication: then the process has held two generations for the first time, and has the memory it needs.
WARM_AT = 0.25
# What a night of a large catalogue changes.
CHANGED_SHARE = 0.01
# Memory that grows more slowly than this is taken for flat; a hundred bytes per request would be tens of it. In a shorter soak
# the steps of the publications weigh too much to judge by it.
FLAT_MB_PER_MINUTE = 1.0
JUDGED_FROM_MINUTES = 5.0
REFUSED = "persona4rec_refused_generations_total"
ANSWERED = "persona4rec_requests_total"
RERANKERS = ("llm_pointwise", "llm_listwise")
HEADER = ["what", "clients", "p50, ms", "p99, ms", "requests/s", "errors", "p99 over the floor's"]
# arXiv 2602.21756: 20 candidates, on an A6000 machine; a user waits from about 100 ms with one user to about 1,000 ms with 100.
PAPER = [
    ["paper: scoring alone, CPU", "1", "0.52", "", "", "", ""],
    ["paper: a request", "1", "about 100", "", "", "", ""],
    ["paper: a request", "100", "about 1,000", "", "", "", ""],
    ["paper: zero-shot language model", "1", "5,537", "", "", "", ""],
]


@dataclass(frozen=True)
class Asked:
    """One prepared request."""

    user_id: str
    candidates: list[Any]

    def body(self) -> str:
        """As JSON, one line."""
        items = [
            item if isinstance(item, str) else {"catalog": item[0], "item_id": item[1]} for item in self.candidates
        ]
        return json.dumps({"user_id": self.user_id, "candidates": items})


@dataclass(frozen=True)
class Level:
    """Floor and service in turns, with so many clients."""

    clients: int
    floor: list[Load]
    ours: list[Load]

    @property
    def ratio(self) -> float:
        """Median over the rounds of our p99 over the floor's."""
        return statistics.median(ours.p99_ms / floor.p99_ms for floor, ours in zip(self.floor, self.ours, strict=True))


@dataclass
class Soak:
    """What happened under load, and what became of the memory: (seconds, resident MB, own MB) once a second."""

    load: Load | None = None
    published: list[int] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    memory: list[tuple[float, float, float]] = field(default_factory=list)

    def note(self, line: str, failed: bool = False) -> None:
        """Something happened."""
        # A generation that is never let go of would show as a step here, a leak per request as a slope between the lines.
        own = f"; own memory {self.memory[-1][2]:,.0f} MB" if self.memory else ""
        print(f"  {line}{own}", flush=True)
        (self.failures if failed else self.events).append(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, help="Take a copy of this installation's index instead of making one.")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--personas", type=int, default=5, help="Personas of each item.")
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--levels", type=int, nargs="*", default=[1, 10, 50, 100], metavar="CLIENTS")
    parser.add_argument("--rounds", type=int, default=5, help="How often floor and service are measured in turn.")
    parser.add_argument("--seconds", type=float, default=4, help="Of load, per round and server.")
    parser.add_argument("--soak", type=float, default=10, metavar="MINUTES", help="0: no soak.")
    parser.add_argument("--reranker", type=int, default=0, metavar="N", help="Ask a language model N times, too.")
    given = parser.parse_args()
    find_wrk()
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="persona4rec-serving-") as folder:
        home = Path(folder)
        if given.home is None:
            make_home(home, given.items, given.personas, given.users, given.dimension)
        else:
            copy_index(given.home / "index", home / "index")
        index = PersonaIndex.open(home / "index")
        describe(index)
        asked = prepare(index)
        bodies = home / "bodies.jsonl"
        bodies.write_text("".join(request.body() + "\n" for request in asked))
        seconds = [seconds_to_start(home, asked[0]) for _ in range(1 + STARTS)]
        told = ", ".join(f"{one:.2f}" for one in seconds[1:])
        print(f"start to the first answer: {told} s (the first of all {seconds[0]:.2f} s)", flush=True)
        if statistics.median(seconds[1:]) > STARTED_WITHIN_S:
            failures.append(f"start: {told} s")
        rows = in_process(index, asked)
        with ExitStack() as stack:
            floor = stack.enter_context(start_floor(home))
            ours = stack.enter_context(start_service(home))
            print_sizes(ours, asked)
            for url in (floor.url + "/nothing", ours.url + RERANK):
                put_load(url, bodies, 10, 1)
            for level in (compare(floor, ours, bodies, clients, given) for clients in given.levels):
                rows += rows_of(level)
                errors = sum(load.errors for load in level.ours)
                if level.ratio > TARGET_RATIO or errors:
                    failures.append(f"{level.clients} clients: ratio {level.ratio:.2f}, {errors} errors")
        if given.soak:
            # Another process, so that its memory is that of the soak alone.
            with start_service(home) as ours:
                found = soak(ours, home / "index", bodies, 60 * given.soak, given.personas)
            rows += soak_row(found, given.soak)
            failures += judge_soak(found)
        if given.reranker:
            rows += ask_language_model(index, asked[: given.reranker], home, rows)
    print("\n" + markdown_table(HEADER, [*rows, *PAPER]) + "\n")
    print(f"Targets missed: {'; '.join(failures)}" if failures else "All targets met.")
    raise SystemExit(1 if failures else 0)


def copy_index(source: Path, target: Path) -> None:
    """The current generation of a real index, copied, so that publishing here does not touch it."""
    generation = files.current_generation(source)
    shutil.copytree(generation, target / files.GENERATIONS / generation.name)
    files.make_current(target, int(generation.name))


def describe(index: PersonaIndex) -> None:
    counts = index.manifest.catalogs.values()
    items, personas = (sum(getattr(count, name) for count in counts) for name in ("items", "personas"))
    versions = {name: sys.modules[name].__version__ for name in ("numpy", "httpx")}
    print(
        f"{items:,} items, {personas:,} personas of {index.dimension} numbers, {index.manifest.users:,} users; "
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {versions}, load before it began "
        f"{psutil.getloadavg()[0]:.1f}",
        flush=True,
    )


def print_sizes(ours: Server, asked: Sequence[Asked]) -> None:
    """How large a request and its answer are; ends the program where the service does not answer."""
    body = asked[0].body()
    print(f"a request has {len(body):,} bytes, its answer {len(_order(ours, body)):,}", flush=True)


def _order(ours: Server, body: str) -> bytes:
    # The first request may have to wait for what is compiled or mapped on first use.
    answer = httpx.post(ours.url + RERANK, content=body, headers={"content-type": "application/json"}, timeout=60)
    return answer.raise_for_status().content


def prepare(index: PersonaIndex, seed: int = 11) -> list[Asked]:
    """REQUESTS requests of users with a profile, each with CANDIDATES items drawn by lot from the whole catalogue."""
    random = np.random.default_rng(seed)
    is_plain = len(index.catalogs) == 1
    items = [item.item_id if is_plain else (str(item.catalog), item.item_id) for item in index.popular(sys.maxsize)]
    return [
        Asked(
            index.users[int(random.integers(len(index.users)))],
            [items[place] for place in random.choice(len(items), min(CANDIDATES, len(items)), replace=False)],
        )
        for _ in range(REQUESTS)
    ]


def in_process(index: PersonaIndex, asked: Sequence[Asked]) -> list[list[str]]:
    def order(request: Asked) -> object:
        user = request.user_id
        return index.rank(
            index.profile_of(user), request.candidates, interactions=index.interactions_of(user)
        ).order.tolist()

    def with_reasons(request: Asked) -> object:
        user = request.user_id
        return index.rerank(index.profile_of(user), request.candidates, interactions=index.interactions_of(user))

    rows = []
    for name, function in {"order alone": order, "with reasons": with_reasons}.items():
        times = []
        for turn in range(IN_PROCESS_REQUESTS + 200):
            request = asked[turn % len(asked)]
            began = time.perf_counter()
            function(request)
            times.append((time.perf_counter() - began) * 1e3)
        p50, p99 = np.percentile(times[200:], [50, 99])
        rows.append(
            [f"in process: {name}", "1", f"{p50:.3f}", f"{p99:.3f}", f"{1e3 / np.mean(times[200:]):,.0f}", "0", ""]
        )
        print(f"in process, {name}: {p50:.3f} ms median, {p99:.3f} ms p99", flush=True)
    return rows


def nothing() -> Any:
    """The floor: see the top of this file. A factory for uvicorn."""
    from fastapi import FastAPI

    app = FastAPI()

    @app.post("/nothing")
    async def do_nothing() -> dict[str, str]:
        return {}

    return app


def start_floor(home: Path) -> Any:
    port = free_port()
    command = python_module("uvicorn", "benchmarks.serving:nothing", "--factory", "--port", str(port), *UVICORN.split())
    return running(command, os.environ, home / "floor.log", port, "/openapi.json")


def start_service(home: Path) -> Any:
    port = free_port()
    command = python_module("persona4rec_pipeline.cli", "serve", "--port", str(port))
    environment = {**os.environ, "PERSONA4REC_HOME": str(home)}
    return running(command, environment, home / "service.log", port, "/healthz")


def seconds_to_start(home: Path, request: Asked) -> float:
    """From starting the service to its first answer."""
    began = time.monotonic()
    with start_service(home) as ours:
        _order(ours, request.body())
        return time.monotonic() - began


def compare(floor: Server, ours: Server, bodies: Path, clients: int, given: argparse.Namespace) -> Level:
    level = Level(clients, [], [])
    for _ in range(given.rounds):
        level.floor.append(put_load(floor.url + "/nothing", bodies, clients, given.seconds))
        level.ours.append(put_load(ours.url + RERANK, bodies, clients, given.seconds))
        print(
            f"{clients:>4} clients: floor p99 {level.floor[-1].p99_ms:.2f} ms, {level.floor[-1].per_second:,.0f}/s; "
            f"ours {level.ours[-1].p99_ms:.2f} ms, {level.ours[-1].per_second:,.0f}/s, {level.ours[-1].errors} errors",
            flush=True,
        )
    return level


def rows_of(level: Level) -> list[list[str]]:
    rows = []
    for name, loads in {"floor: POST /nothing": level.floor, f"POST {RERANK}": level.ours}.items():
        p50, p99, per_second = (
            statistics.median(getattr(load, figure) for load in loads) for figure in ("p50_ms", "p99_ms", "per_second")
        )
        ratio = "1" if loads is level.floor else f"{level.ratio:.2f}"
        errors = str(sum(load.errors for load in loads))
        rows.append([name, str(level.clients), f"{p50:.2f}", f"{p99:.2f}", f"{per_second:,.0f}", errors, ratio])
    return rows


def soak(ours: Server, index_path: Path, bodies: Path, seconds: float, personas: int) -> Soak:
    """Load for so many seconds while generations come and go; see the top of this file."""
    found = Soak()
    began = time.monotonic()
    print(f"soak: {seconds / 60:g} minutes, {SOAK_CLIENTS} clients", flush=True)
    with ThreadPoolExecutor(2) as pool:
        load = pool.submit(put_load, ours.url + RERANK, bodies, SOAK_CLIENTS, seconds, watch=True)
        drama = pool.submit(_publish_and_damage, ours, index_path, bodies, seconds, personas, found)
        while not load.done():
            found.memory.append((time.monotonic() - began, *ours.memory_mb()))
            time.sleep(1)
        found.load = load.result()
        drama.result()
    # What the service itself says of the same requests; 499 are those that wrk broke off at its end.
    for line in httpx.get(ours.url + "/metrics").raise_for_status().text.splitlines():
        if line.startswith(f"{ANSWERED}{{") and f'route="{RERANK}"' in line and 'status="200"' not in line:
            found.note(f"the service counts {line}", failed='status="499"' not in line)
    return found


def _publish_and_damage(
    ours: Server, index_path: Path, bodies: Path, seconds: float, personas: int, found: Soak
) -> None:
    """The events of a soak, each at its moment, waited for until the service shows that it has noticed."""
    began = time.monotonic()
    random = np.random.default_rng(13)
    body = bodies.read_text().partition("\n")[0]
    with httpx.Client(base_url=ours.url, headers={"content-type": "application/json"}, timeout=10) as client:

        def at(share: float) -> None:
            time.sleep(max(0.0, began + share * seconds - time.monotonic()))

        def answering() -> Any:
            return client.post(RERANK, content=body).raise_for_status().json()["generation"]

        def publish() -> None:
            index = PersonaIndex.open(index_path)
            known = [item for item in index.popular(sys.maxsize) if item.catalog == index.catalogs[0]]
            chosen = random.choice(len(known), max(1, round(len(known) * CHANGED_SHARE)), replace=False)
            names = [known[place].item_id for place in chosen.tolist()]
            change = changed_items(random, index.catalogs[0], names, personas, index.dimension)
            number = change_index(index_path, change, keep_generations=10).generation
            found.published.append(number)
            told = f"generation {number} published with {len(names):,} changed items"
            _await(found, told, lambda: answering() == number, "answers come from it")

        found.published.append(answering())
        at(PUBLISHED_AT[0])
        publish()
        at(DAMAGED_AT)
        good = files.current_generation(index_path)
        refused = _refusals(client)
        bad = make_damaged(index_path)
        _await(
            found,
            f"damaged generation {bad} made current",
            lambda: bool(client.get("/readyz").json().get("problem")) and _refusals(client) > refused,
            "refused, and reported in /readyz and /metrics",
        )
        if answering() != int(good.name):
            found.note(f"the answers no longer come from generation {int(good.name)}", failed=True)
        # As an operator does; with a damaged generation in place there is nothing that a change could be based on.
        at(ROLLED_BACK_AT)
        files.make_current(index_path, int(good.name))
        _await(
            found,
            f"rolled back to generation {int(good.name)}",
            lambda: not client.get("/readyz").json().get("problem"),
            "no problem any more",
        )
        for share in PUBLISHED_AT[1:]:
            at(share)
            publish()


def make_damaged(index_path: Path) -> int:
    """Make current what a failing disk leaves of a generation: a copy with its own number and some bytes turned round."""
    current = files.current_generation(index_path)
    number = max(files.generation_numbers(index_path)) + 1
    damaged = current.with_name(f"{number:06d}")
    shutil.copytree(current, damaged)
    manifest = files.read_manifest(damaged).model_copy(update={"generation": number})
    (damaged / files.MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    files.verify(damaged, files.read_manifest(damaged))
    name = next(name for name in manifest.files if name.endswith("/vectors.npy"))
    with (damaged / name).open("r+b") as file:
        middle = (damaged / name).stat().st_size // 2
        file.seek(middle)
        turned = bytes(byte ^ 0xFF for byte in file.read(16))
        file.seek(middle)
        file.write(turned)
    aside = index_path / ".damaged"
    aside.symlink_to(Path(files.GENERATIONS) / damaged.name)
    aside.replace(index_path / files.CURRENT)
    return number


def _await(found: Soak, told: str, condition: Callable[[], bool], what: str) -> None:
    began = time.monotonic()
    while time.monotonic() - began < SWAPPED_WITHIN_S:
        if condition():
            found.note(f"{told}: {what} after {time.monotonic() - began:.1f} s")
            return
        time.sleep(0.1)
    found.note(f"{told}: not within {SWAPPED_WITHIN_S:g} s: {what}", failed=True)


def _refusals(client: httpx.Client) -> float:
    lines = client.get("/metrics").raise_for_status().text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(REFUSED))


def growth(memory: Sequence[tuple[float, float, float]], column: int) -> tuple[float, float]:
    """MB per minute by least squares after the warm-up (WARM_AT), and the highest MB."""
    samples = np.array(memory)
    after = samples[samples[:, 0] >= WARM_AT * samples[-1, 0]]
    slope = float(np.polyfit(after[:, 0] / 60, after[:, column], 1)[0]) if len(after) > 1 else 0.0
    return slope, float(samples[:, column].max())


def soak_row(found: Soak, minutes: float) -> list[list[str]]:
    assert found.load is not None
    load = found.load
    figures = [f"{load.p50_ms:.2f}", f"{load.p99_ms:.2f}", f"{load.per_second:,.0f}", str(load.errors), ""]
    return [[f"soak of {minutes:g} min, 3 generations, 1 damaged", str(SOAK_CLIENTS), *figures]]


def judge_soak(found: Soak) -> list[str]:
    """What is wrong, if anything; prints the rest."""
    assert found.load is not None
    failures = list(found.failures)
    print(f"  {found.load.requests:,} requests; answers by what they say: {dict(sorted(found.load.seen.items()))}")
    if found.load.errors:
        failures.append(f"soak: {found.load.errors} errors")
    generations = {name for name in found.load.seen if name.startswith("generation ")}
    if generations != {f"generation {number}" for number in found.published}:
        failures.append(f"soak: answers came from {sorted(generations)}, published were {found.published}")
    for name, column in {"resident": 1, "own": 2}.items():
        slope, most = growth(found.memory, column)
        print(f"  {name} memory: {slope:+.2f} MB per minute after the warm-up, at most {most:,.0f} MB")
        if column == 2 and slope > FLAT_MB_PER_MINUTE and found.memory[-1][0] >= 60 * JUDGED_FROM_MINUTES * 0.99:
            failures.append(f"soak: own memory grows by {slope:.2f} MB per minute")
    return failures


def ask_language_model(
    index: PersonaIndex, asked: Sequence[Asked], home: Path, rows: Sequence[Sequence[str]]
) -> list[list[str]]:
    """What a request costs with the language-model rerankers of `evaluation`, one user waiting at a time."""
    # Imported here: the other figures are taken without vLLM in the process.
    from persona4rec_pipeline.evaluation.rerankers import RERANKERS as MADE_BY_NAME
    from persona4rec_pipeline.evaluation.rerankers import Candidate, Case, PastItem, seconds_per_request
    from persona4rec_pipeline.generation import LanguageModel
    from persona4rec_pipeline.personas.domains import get_domain
    from persona4rec_pipeline.settings import load_settings

    settings = load_settings(home=home)
    domain = get_domain(settings.personas.domain)
    cases = []
    for request in asked:
        past = [index.item((one.catalog, one.item_id)) for one in index.history_of(request.user_id) if one.title]
        shown = [index.item(item) for item in request.candidates]
        cases.append(
            Case(
                request.user_id,
                tuple(PastItem(item["title"], item["summary"], "") for item in past),
                tuple(
                    Candidate(f"{item['catalog']}/{item['item_id']}", item["title"], item["summary"]) for item in shown
                ),
                domain,
            )
        )
    alone = next((float(row[2]) for row in rows if row[0] == f"POST {RERANK}" and row[1] == "1"), float("nan"))
    found = []
    with LanguageModel(settings) as model:
        for name in RERANKERS:
            seconds = seconds_per_request(MADE_BY_NAME[name](()), cases, model)
            p50 = statistics.median(seconds) * 1e3
            print(f"{name} with {model.name}: {p50:,.0f} ms median, {p50 / alone:,.0f} times POST {RERANK}", flush=True)
            what = f"{name} with {model.name}, {p50 / alone:,.0f} times POST {RERANK}"
            found.append([what, "1", f"{p50:,.0f}", f"{max(seconds) * 1e3:,.0f} (most)", f"{1e3 / p50:.2f}", "", ""])
    return found


if __name__ == "__main__":
    main()
