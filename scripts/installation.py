"""A home with Dagster's real daemon and webserver on it: what the drills in this folder share."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from persona4rec_pipeline.settings import Settings, load_settings
from persona4rec_pipeline.warehouse import open_ledger_database, open_warehouse

PROJECT = Path(__file__).resolve().parent.parent
SELECTOR = {"repositoryName": "__repository__", "repositoryLocationName": "persona4rec"}
OVER = ("SUCCESS", "FAILURE", "CANCELED")


class Installation:
    """A home with settings of its own, and the servers on it."""

    def __init__(self, home: Path, settings: str) -> None:
        self.home = home.absolute()
        self.home.mkdir(parents=True, exist_ok=True)
        configuration = self.home / "persona4rec.toml"
        configuration.write_text(settings)
        stated = {"PERSONA4REC_HOME": str(self.home), "PERSONA4REC_CONFIG": str(configuration)}
        self.environment = {
            **os.environ, **stated, "DAGSTER_HOME": str(self.home / "dagster"), "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        self.settings: Settings = load_settings(stated)
        self.warehouse, self.ledger = open_warehouse(self.settings), open_ledger_database(self.settings)
        self.port = free_port()
        self._servers: subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `persona4rec` on this home to its end; its exit code and what it said."""
        call = [sys.executable, "-m", "persona4rec_pipeline.cli", *arguments]
        return subprocess.run(call, env=self.environment, cwd=PROJECT, capture_output=True, text=True)

    def must(self, *arguments: str) -> None:
        """The same for what has to work; RuntimeError with its words if it does not."""
        done = self.command(*arguments)
        if done.returncode:
            raise RuntimeError(f"persona4rec {' '.join(arguments)}: {done.stderr[-3000:]}")

    def start(self) -> None:
        """Start Dagster's webserver and daemon and MLflow's server, and wait until they answer."""
        call = [
            sys.executable, "-m", "persona4rec_pipeline.cli", "ui",
            "--dagster-port", str(self.port), "--mlflow-port", str(free_port()),
        ]  # fmt: skip
        with (self.home / "ui.log").open("a") as log:
            # In a session of its own, so that a Ctrl-C here reaches it through `stop` alone.
            self._servers = subprocess.Popen(
                call, env=self.environment, cwd=PROJECT, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )  # fmt: skip
        wait(self._answers, 240, "the webserver")

    def stop(self) -> None:
        """Stop the servers in good order."""
        if self._servers is not None and self._servers.poll() is None:
            self._servers.send_signal(signal.SIGINT)
            self._servers.wait(60)
        self._servers = None

    def kill(self) -> None:
        """kill -9 of the servers and of every process that they have started, runs included."""
        assert self._servers is not None
        kill_tree(self._servers.pid)
        self._servers.wait()
        self._servers = None

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

    def launch(self, job: str, tags: Mapping[str, str] | None = None) -> str:
        """Start a job as the UI's launchpad does; the id of its run."""
        parameters = {
            "selector": {**SELECTOR, "pipelineName": job},
            "runConfigData": {},
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in (tags or {}).items()]},
        }
        answer = self.graphql(
            "mutation($parameters: ExecutionParams!) { launchRun(executionParams: $parameters) { __typename "
            "... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }",
            parameters=parameters,
        )["launchRun"]
        if "run" not in answer:
            raise RuntimeError(f"{job} was not started: {answer}")
        return str(answer["run"]["runId"])

    def await_run(self, job: str, known: set[str], limit_s: float) -> str:
        """The status in which the next run of a job ends."""
        ended: list[str] = []

        def is_over() -> bool:
            ended[:] = [run["status"] for run in self.runs(job) if run["runId"] not in known and run["status"] in OVER]
            return bool(ended)

        wait(is_over, limit_s, f"a run of {job} to end")
        return ended[-1]

    def stop_sensor(self, name: str) -> None:
        """Switch a sensor off, as in the UI."""
        found = self.graphql(
            "query($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) "
            "{ ... on Sensor { sensorState { id } } } }",
            selector={**SELECTOR, "sensorName": name},
        )
        stopped = self.graphql(
            "mutation($id: String) { stopSensor(id: $id) { ... on StopSensorMutationResult "
            "{ instigationState { status } } ... on PythonError { message } } }",
            id=found["sensorOrError"]["sensorState"]["id"],
        )
        if stopped["stopSensor"]["instigationState"]["status"] != "STOPPED":
            raise RuntimeError(f"The sensor did not stop: {stopped}")

    def _answers(self) -> bool:
        try:
            data = self.graphql("{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus } } } }")
        except (httpx.HTTPError, ValueError):
            return False
        entries = data["workspaceOrError"]["locationEntries"]
        return any(entry["name"] == "persona4rec" and entry["loadStatus"] == "LOADED" for entry in entries)


class Table:
    """What was expected and what was seen, a line each, as it comes."""

    def __init__(self) -> None:
        self.failures = 0

    def say(self, what: str, seen: Any, holds: bool) -> None:
        self.failures += not holds
        print(f"{'ok    ' if holds else 'FAILED'} {what}: {seen}", flush=True)


def wait(until: Callable[[], bool], limit_s: float, what: str, every_s: float = 1.0) -> None:
    """Look again and again until it holds; TimeoutError names what did not."""
    deadline = time.monotonic() + limit_s
    while not until():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Waited {limit_s:.0f} s for {what}.")
        time.sleep(every_s)


def kill_tree(pid: int) -> None:
    """kill -9 of a process and of all its descendants; nothing happens to one that is gone."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _end_with_parent() -> None:
    """Ask the kernel to interrupt this process when its parent dies, however that happens."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGINT)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
