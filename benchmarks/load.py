"""Servers and the load that is put on them: a server process on a free port, and wrk with prepared request bodies.

Belongs here: starting and ending what one started oneself, running wrk, reading what it measured. Does not belong here: what
is compared (`serving`). wrk asks as fast as it is answered, over so many connections, each of which waits for its answer.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

STARTED_WITHIN_S = 120.0
# What the servers are given to end on their own.
ENDED_WITHIN_S = 15.0

# Between opening the connections and the first request. The event loop under uvicorn (libuv) takes up one new connection in each
# of its turns, so that of a hundred clients that come and ask at the same moment some wait for a second, whatever is served.
# Clients of a service keep their connections.
PAUSE_S = 1

# Bodies in turn; what was measured comes as one line of JSON, in microseconds as wrk keeps it, instead of the rounded text.
SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local prepared, turn = {}, 0
local clients, pause, waited = 0, 0, 0
sent = 0

function init(arguments)
  for body in io.lines(arguments[1]) do
    prepared[#prepared + 1] = wrk.format(nil, nil, nil, body)
  end
  clients, pause = tonumber(arguments[2]), tonumber(arguments[3])
end

function delay()
  if waited < clients then
    waited = waited + 1
    return pause
  end
  return 0
end

function request()
  turn = turn % #prepared + 1
  sent = sent + 1
  return prepared[turn]
end

local threads = {}

function setup(thread)
  threads[#threads + 1] = thread
end

function done(summary, latency, requests)
  local errors = summary.errors
  local counts, total = "", 0
  for _, thread in ipairs(threads) do
    total = total + thread:get("sent")
    for name, count in pairs(thread:get("seen") or {}) do
      counts = counts .. string.format('%s["%s",%d]', counts == "" and "" or ",", name, count)
    end
  end
  io.write(string.format(
    '\\n{"requests":%d,"us":%d,"p50":%d,"p99":%d,"max":%d,"socket":%d,"timeout":%d,"status":%d,"sent":%d,"seen":[%s]}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    errors.connect + errors.read + errors.write, errors.timeout, errors.status, total, counts))
end
"""
# Looks at every answer: its status and the generation that it says it comes from. Costs wrk so much that it is for counting.
WATCHING = """
seen = {}

function response(status, headers, body)
  local name = "status " .. status
  if status == 200 then
    name = "generation " .. (string.match(body, '"generation":%s*(%d+)') or "not said")
  end
  seen[name] = (seen[name] or 0) + 1
end
"""


@dataclass(frozen=True)
class Load:
    """What wrk saw: requests answered, times in milliseconds, failed requests, and with `watch` how often it saw what.

    The times are those of requests at a steady pace: for an answer that was late wrk counts those, too, that would have waited
    behind it (its correction for coordinated omission). errors: socket errors, answers that took longer than two seconds,
    statuses from 400 on, with `watch` any but 200, and requests that were never answered.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    errors: int
    seen: Mapping[str, int] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


@dataclass(frozen=True)
class Server:
    """A server process and where it answers."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def memory_mb(self) -> tuple[float, float]:
        """Resident memory of the process, and the part of it that it shares with nobody and no file, in MB."""
        found = psutil.Process(self.process.pid).memory_info()
        return found.rss / 1e6, (found.rss - found.shared) / 1e6


def find_wrk() -> str:
    """The path of wrk. Ends the program, saying how to install it, where it is not there."""
    found = shutil.which("wrk")
    if found is None:
        raise SystemExit("wrk is not installed; this benchmark makes its load with it. On Debian: apt-get install wrk")
    return found


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], log: Path, port: int, ready: str
) -> Iterator[Server]:
    """A server of ours while the block lasts: started, waited for until `ready` answers 200, ended.

    Raises RuntimeError with the end of its log when it does not come up.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=dict(environment), stdout=output, stderr=subprocess.STDOUT)
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        _wait(server, ready)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(ENDED_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def put_load(url: str, bodies: Path, clients: int, seconds: float, *, watch: bool = False) -> Load:
    """POST the lines of `bodies` in turn to `url` over so many connections; for so many seconds, after PAUSE_S.

    watch: also count statuses and generations of the answers. Raises RuntimeError with wrk's words when it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "load.lua"
        script.write_text(SCRIPT + (WATCHING if watch else ""))
        command = [find_wrk(), "--threads", "1", "--connections", str(clients), "--script", str(script)]
        command += ["--duration", f"{round(seconds) + PAUSE_S}s", "--latency", url]
        command += ["--", str(bodies), str(clients), str(1000 * PAUSE_S)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"wrk ended with {done.returncode}: {(done.stderr or done.stdout)[-2000:]}")
    found = json.loads(lines[-1])
    seen = dict(found["seen"])
    bad = sum(count for name, count in seen.items() if name.startswith("status ")) if watch else found["status"]
    # wrk makes one request that it does not send, and at the end each client waits for one answer. A connection that was
    # closed is a socket error to some versions of wrk, and nothing to others.
    unanswered = max(found["socket"], found["sent"] - found["requests"] - clients - 1)
    return Load(
        requests=found["requests"],
        seconds=found["us"] / 1e6 - PAUSE_S,
        p50_ms=found["p50"] / 1e3,
        p99_ms=found["p99"] / 1e3,
        max_ms=found["max"] / 1e3,
        errors=unanswered + found["timeout"] + bad,
        seen=seen,
    )


def python_module(*arguments: str) -> list[str]:
    """A command of this Python."""
    return [sys.executable, "-m", *arguments]


def _wait(server: Server, path: str) -> None:
    deadline = time.monotonic() + STARTED_WITHIN_S
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            if httpx.get(server.url + path, timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"The server did not come up: {server.log.read_text(errors='replace')[-2000:]}")
