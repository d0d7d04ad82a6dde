"""A night and a day of operation, with Dagster's real daemon and webserver on a home of its own.

    python -m scripts.drill --home /tmp/drill --engine vllm --items 4

One catalogue is there and published. Then a second one is dropped into `incoming/`: the sensor registers and runs it, a
new index generation recommends its items. Then, once a run has followed it up, the nightly schedule ticks without a
change: nothing is generated or published. Then one review more, and it ticks again: only that review and its item's
personas are asked for. Each step prints what was seen; the exit code is 1 if it is not what was expected.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import httpx

from persona4rec_pipeline.index import PersonaIndex
from persona4rec_pipeline.runner import dagster_instance
from persona4rec_pipeline.sample import sample_path
from persona4rec_pipeline.settings import Settings, load_settings
from persona4rec_pipeline.warehouse import open_ledger_database, open_warehouse

PROJECT = Path(__file__).resolve().parent.parent
SELECTOR = {"repositoryName": "__repository__", "repositoryLocationName": "persona4rec"}
# The schedule ticks every minute while it is switched on; the sensor looks every few seconds.
SETTINGS = """
[schedules]
running = false
nightly = "* * * * *"

[incoming]
settle_s = 2
check_every_s = 5

[generation]
engine = "{engine}"
"""


class Drill:
    """A home, the servers on it, and what has been seen so far."""

    def __init__(self, home: Path, engine: str, items: int) -> None:
        self.home, self.items = home, items
        home.mkdir(parents=True, exist_ok=True)
        (home / "persona4rec.toml").write_text(SETTINGS.format(engine=engine))
        self.environment = {
            **os.environ, "PERSONA4REC_HOME": str(home), "PERSONA4REC_CONFIG": str(home / "persona4rec.toml"),
            "DAGSTER_HOME": str(home / "dagster"), "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        self.settings: Settings = load_settings(
            {key: self.environment[key] for key in ("PERSONA4REC_HOME", "PERSONA4REC_CONFIG")}
        )
        self.warehouse, self.ledger = open_warehouse(self.settings), open_ledger_database(self.settings)
        self.port = _free_port()
        self.failures = 0

    def say(self, what: str, seen: Any, holds: bool) -> None:
        """One line of the drill's table."""
        self.failures += not holds
        print(f"{'ok    ' if holds else 'FAILED'} {what}: {seen}", flush=True)

    def command(self, *arguments: str) -> None:
        """Run `persona4rec` on this home, to its end."""
        call = [sys.executable, "-m", "persona4rec_pipeline.cli", *arguments]
        subprocess.run(call, env=self.environment, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)

    def graphql(self, query: str, **variables: Any) -> Any:
        """What the webserver answers; raises RuntimeError when it refuses."""
        body = {"query": query, "variables": variables}
        answer = httpx.post(f"http://127.0.0.1:{self.port}/graphql", json=body, timeout=60).json()
        if "errors" in answer:
            raise RuntimeError(f"GraphQL: {answer['errors']}")
        return answer["data"]

    def runs(self, job: str) -> list[dict[str, Any]]:
        """Runs of a job, newest first."""
        data = self.graphql(
            "query($job: String) { runsOrError(filter: {pipelineName: $job}) { ... on Runs { results "
            "{ runId status tags { key value } } } } }",
            job=job,
        )
        return list(data["runsOrError"]["results"])

    def await_run(self, job: str, known: set[str], limit_s: float) -> str:
        """The status in which the next run of a job ends."""
        ended: list[str] = []

        def is_over() -> bool:
            ended[:] = [
                run["status"] for run in self.runs(job)
                if run["runId"] not in known and run["status"] in ("SUCCESS", "FAILURE", "CANCELED")
            ]  # fmt: skip
            return bool(ended)

        self.wait(is_over, limit_s, f"a run of {job} to end")
        return ended[-1]

    @staticmethod
    def wait(until: Callable[[], bool], limit_s: float, what: str) -> None:
        """Look every second until it holds; TimeoutError names what did not."""
        deadline = time.monotonic() + limit_s
        while not until():
            if time.monotonic() > deadline:
                raise TimeoutError(f"Waited {limit_s:.0f} s for {what}.")
            time.sleep(1)

    def stop_sensor(self) -> None:
        """Switch the sensor off, as in the UI."""
        selector = {**SELECTOR, "sensorName": "new_catalogs"}
        found = self.graphql(
            "query($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) "
            "{ ... on Sensor { sensorState { id } } } }",
            selector=selector,
        )
        stopped = self.graphql(
            "mutation($id: String) { stopSensor(id: $id) { ... on StopSensorMutationResult "
            "{ instigationState { status } } ... on PythonError { message } } }",
            id=found["sensorOrError"]["sensorState"]["id"],
        )
        if stopped["stopSensor"]["instigationState"]["status"] != "STOPPED":
            raise RuntimeError(f"The sensor did not stop: {stopped}")

    def worked_on(self, asset: str, count: str, since: datetime) -> int:
        """The sum of a count over the materializations of an asset since then (UTC)."""
        after = since.replace(tzinfo=UTC).timestamp()
        with dagster_instance(self.settings) as instance:
            records = instance.fetch_materializations(
                dg.AssetRecordsFilter(dg.AssetKey(asset), after_timestamp=after), limit=100
            ).records
        found = [record.asset_materialization for record in records]
        return sum(int(event.metadata[count].value) for event in found if event and count in event.metadata)

    def night(self, limit_s: float) -> tuple[str, list[str]]:
        """Let the nightly schedule tick once; how its run ended, and the subjects of what was generated."""
        known = {run["runId"] for run in self.runs("refresh_catalogs")}
        began = datetime.now(UTC).replace(tzinfo=None)
        selector = {**SELECTOR, "scheduleName": "nightly_persona_refresh"}
        started = self.graphql(
            "mutation($selector: ScheduleSelector!) { startSchedule(scheduleSelector: $selector) "
            "{ ... on ScheduleStateResult { scheduleState { id status } } ... on PythonError { message } } }",
            selector=selector,
        )
        state = started["startSchedule"]["scheduleState"]
        self.wait(
            lambda: bool({run["runId"] for run in self.runs("refresh_catalogs")} - known), 150, "a tick of the schedule"
        )
        self.graphql(
            "mutation($id: String) { stopRunningSchedule(id: $id) { ... on ScheduleStateResult { scheduleState { status } } "
            "... on PythonError { message } } }",
            id=state["id"],
        )
        status = self.await_run("refresh_catalogs", known, limit_s)
        rows = self.ledger.rows("SELECT subject FROM generations WHERE created_at >= ? ORDER BY subject", [began])
        return status, [subject for (subject,) in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", required=True, type=Path)
    parser.add_argument("--engine", default="vllm", choices=["vllm", "extractive"])
    parser.add_argument("--items", type=int, default=4, help="Items of each of the two catalogues.")
    parser.add_argument("--limit", type=float, default=600, help="Longest run, in seconds.")
    given = parser.parse_args()
    drill = Drill(given.home.absolute(), given.engine, given.items)
    books = sample_path("books")
    drill.command(
        "add-catalog", "books", "--reviews", str(books / "reviews.jsonl"), "--items", str(books / "items.jsonl"),
        "--limit-items", str(given.items),
    )  # fmt: skip
    drill.command("run")
    before = PersonaIndex.open(drill.settings.index_path).generation
    call = [
        sys.executable,
        "-m",
        "persona4rec_pipeline.cli",
        "ui",
        "--dagster-port",
        str(drill.port),
        "--mlflow-port",
        str(_free_port()),
    ]
    with (drill.home / "ui.log").open("w") as log:
        # In a session of its own, so that a Ctrl-C here reaches it through us alone.
        servers = subprocess.Popen(
            call, env=drill.environment, cwd=PROJECT, stdout=log, stderr=log, start_new_session=True
        )
    try:
        drill.wait(lambda: _answers(drill), 180, "the webserver")
        _arrival(drill, before, given.limit)
        _nights(drill, given.limit)
    finally:
        servers.send_signal(signal.SIGINT)
        servers.wait(60)
    print("the drill failed" if drill.failures else "the drill passed")
    return 1 if drill.failures else 0


def _arrival(drill: Drill, before: int, limit_s: float) -> None:
    source, target = sample_path("new-arrivals"), drill.home / "incoming" / "new-arrivals"
    target.mkdir(parents=True)
    (target / "catalog.toml").write_text(f"limit_items = {drill.items}\n")
    for name in ("items.jsonl", "reviews.jsonl"):
        shutil.copy(source / name, target / name)
    status = drill.await_run("refresh_catalog", set(), limit_s)
    drill.say("the sensor's run of the new folder ended", status, status == "SUCCESS")
    (run,) = drill.runs("refresh_catalog")
    partition = next((tag["value"] for tag in run["tags"] if tag["key"] == "dagster/partition"), None)
    drill.say("its partition is registered", partition, partition == "new-arrivals")
    index = PersonaIndex.open(drill.settings.index_path)
    drill.say("the index went one generation on", f"{before} -> {index.generation}", index.generation == before + 1)
    new = {item for (item,) in drill.warehouse.rows("SELECT item_id FROM items WHERE catalog = 'new-arrivals'")}
    found = [entry.item_id for user in index.users[:50] for entry in index.recommend(user, 3) if entry.item_id in new]
    drill.say("new items are recommended", f"{len(found)} times to 50 users", bool(found))


def _nights(drill: Drill, limit_s: float) -> None:
    # Readers of the new catalogue have read books as well: what they did last lies in another catalogue now, and with it
    # what is held out of the first. One run follows that; only then is there nothing left to do.
    drill.command("run")
    generation = PersonaIndex.open(drill.settings.index_path).generation
    status, subjects = drill.night(limit_s)
    drill.say("a night without change ended", status, status == "SUCCESS")
    drill.say("it generated nothing", len(subjects), not subjects)
    after = PersonaIndex.open(drill.settings.index_path).generation
    drill.say("it published nothing", f"generation {after}", after == generation)
    folder = drill.home / "incoming" / "new-arrivals"
    rows = (folder / "reviews.jsonl").read_text().splitlines()
    item = drill.warehouse.rows("SELECT min(item_id) FROM items WHERE catalog = 'new-arrivals'")[0][0]
    late = {
        **json.loads(rows[0]), "user_id": "LATE-READER", "parent_asin": item, "asin": item,
        "text": "The storm at sea is gripping, and I read it aloud by the fire with my son.",
    }  # fmt: skip
    # The sensor would take it in as well, at the same moment or not; what is to be seen here is the night.
    drill.stop_sensor()
    (folder / "reviews-late.jsonl").write_text(json.dumps(late) + "\n")
    began = datetime.now(UTC).replace(tzinfo=None)
    status, _ = drill.night(limit_s)
    drill.say("a night with one review more ended", status, status == "SUCCESS")
    rows = drill.ledger.rows("SELECT subject FROM generations WHERE created_at >= ? ORDER BY subject", [began])
    subjects = [subject for (subject,) in rows]
    review = drill.warehouse.rows("SELECT review_id FROM reviews WHERE user_id = 'LATE-READER'")
    expected = {f"new-arrivals/review/{row[0]}" for row in review} | {f"new-arrivals/item/{item}"}
    drill.say("only that review and its item were asked for", subjects, bool(review) and set(subjects) <= expected)
    read, made = (
        drill.worked_on("review_aspects", "read_now", began),
        drill.worked_on("personas", "items_made_now", began),
    )
    drill.say("reviews read, items made again", f"{read}, {made}", (read, made) == (1, 1))
    index = PersonaIndex.open(drill.settings.index_path)
    drill.say("one generation was published", index.generation, index.generation == generation + 1)


def _answers(drill: Drill) -> bool:
    try:
        data = drill.graphql("{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus } } } }")
    except (httpx.HTTPError, ValueError):
        return False
    entries = data["workspaceOrError"]["locationEntries"]
    return any(entry["name"] == "persona4rec" and entry["loadStatus"] == "LOADED" for entry in entries)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
