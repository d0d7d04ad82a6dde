"""What crashes, full disks, bad files and runs side by side do to an installation: nothing that shows in its data.

    python -m scripts.faults kills      --home /tmp/faults --kills 20 --engine openai
    python -m scripts.faults together   --home /tmp/faults --rounds 10
    python -m scripts.faults disk       --home /tmp/faults      # as root: it mounts a small file system in memory
    python -m scripts.faults source     --home /tmp/faults

kills: refreshes under Dagster's daemon are killed with SIGKILL in every part of their work, at random moments: the run
itself, and every third time the servers with it, as in a power cut. Dagster starts them again. Meanwhile a reader opens
the index over and over. At the end every table and every file of the index must equal those of a second home that went
through the same changes undisturbed. With `--engine openai` a vLLM server beside them counts what was really asked, so
that what the kills cost is measured and not inferred. The second home is given the ledger of the first: a model's answer
may hang on what else is in its batch, and that is not the difference that is looked for. It must need no other answer.

together: two catalogues are refreshed at the same time by two runs of the daemon, while the UI and a reader look on.

disk: the file system is full in the middle of a refresh. source: a file is cut off, garbled, or full of bad rows.

Each prints a table of what was seen; the exit code is 1 if something was not as it should be.
"""

from __future__ import annotations

import argparse
import fcntl
import gzip
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import httpx

from persona4rec_pipeline.generation.packaged_models import resolve_language_model
from persona4rec_pipeline.index import PersonaIndex
from persona4rec_pipeline.index.files import current_generation, read_manifest
from persona4rec_pipeline.processes import PROCESS_TAG
from persona4rec_pipeline.runner import dagster_instance
from persona4rec_pipeline.sample import sample_path
from scripts.installation import OVER, PROJECT, Installation, Table, free_port, kill_tree, wait

# Requests per chunk of the ledger: what one kill may cost twice.
CHUNK = 8
# A catalogue arrives with this share of its reviews; each change brings CHANGE_ROWS more.
FIRST_SHARE, CHANGE_ROWS = 0.5, 16
SETTINGS = """
[schedules]
running = false

[incoming]
watched = false
settle_s = 0

[generation]
engine = "{engine}"
checkpoint_every = {chunk}

[openai]
base_url = "{url}/v1"
"""
# What differs between two homes whatever happened in them: times, places, and when something was read.
OF_ONE_HOME = {"catalogs": ["registered_at", "reviews_source", "items_source", "source_fingerprint", "arrival"]}


class Source:
    """Part of the sample as a folder that grows: some reviews first, then change after change."""

    def __init__(self, sample: str, items: int) -> None:
        folder = sample_path(sample)
        self.items = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()][:items]
        known = {item["parent_asin"] for item in self.items}
        rows = [json.loads(line) for line in (folder / "reviews.jsonl").read_text().splitlines()]
        self.rows = sorted((row for row in rows if row["parent_asin"] in known), key=lambda row: row["timestamp"])
        self.first = int(len(self.rows) * FIRST_SHARE)

    def arrive(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _write_rows(folder / "items.jsonl", self.items)
        _write_rows(folder / "reviews.jsonl", self.rows[: self.first])

    def change(self, folder: Path, number: int) -> None:
        """Bring change `number`, counted from 0; once the sample is used up, its reviews come again from new readers."""
        later = self.rows[self.first :]
        begin = number * CHANGE_ROWS
        rows = []
        for place in range(begin, begin + CHANGE_ROWS):
            lap, row = divmod(place, len(later))
            again = {"user_id": f"{later[row]['user_id']}-{lap}"} if lap else {}
            rows.append({**later[row], **again})
        _write_rows(folder / f"reviews-{number:03d}.jsonl", rows)


class Reader(threading.Thread):
    """Opens the index and asks it, over and over, until it is stopped."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path, self.over = path, threading.Event()
        self.reads = self.answers = 0
        self.generations: set[int] = set()
        self.problems: list[str] = []

    def run(self) -> None:
        while not self.over.wait(0.1):
            try:
                index = PersonaIndex.open(self.path)
                self.answers += len(index.recommend(index.users[self.reads % len(index.users)], 3))
                self.generations.add(index.generation)
                self.reads += 1
            except (RuntimeError, OSError, ValueError, LookupError) as error:
                self.problems.append(f"{type(error).__name__}: {error}")

    def stop(self) -> None:
        self.over.set()
        self.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["kills", "together", "disk", "source"])
    parser.add_argument("--home", required=True, type=Path, help="An empty or new folder for the homes.")
    parser.add_argument("--engine", default="openai", choices=["openai", "extractive"])
    parser.add_argument("--items", type=int, default=6, help="Items of a catalogue.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    table = Table()
    given.home.mkdir(parents=True, exist_ok=True)
    with _model_server(given) as url:
        drill = {"kills": drill_kills, "together": drill_together, "disk": drill_disk, "source": drill_source}
        drill[given.what](given, url, table)
    print("failed" if table.failures else "passed")
    return 1 if table.failures else 0


# ---------------------------------------------------------------------------------------------------------------- kills

# Parts of a refresh, in the order of its work, with the assets that are then being made.
PARTS = {
    "ingest": ("reviews", "items", "splits"),
    "generation": ("review_aspects", "personas"),
    "transaction": ("review_aspects", "personas", "persona_vectors", "interaction_vectors"),
    "embedding": ("persona_vectors", "interaction_vectors"),
    "publish": ("persona_index",),
}
# Longest pause, in seconds, between the begin of a part and the kill.
PAUSES = {"ingest": 0.6, "generation": 3.0, "transaction": 0.02, "embedding": 3.0, "publish": 0.3}


def drill_kills(given: argparse.Namespace, url: str, table: Table) -> None:
    chance = random.Random(given.seed)
    source = Source("books", given.items)
    paid_before = _paid(url)
    killed = _arrived(given, url, "killed", {"books": source})
    reader = Reader(killed.settings.index_path)
    reader.start()
    killed.start()
    kills: list[str] = []
    changes = 0
    try:
        while len(kills) < given.kills:
            source.change(killed.home / "incoming" / "books", changes)
            changes += 1
            run = killed.launch("refresh_catalogs")
            parts = iter(PARTS)
            while (part := next(parts, None)) is not None and len(kills) < given.kills:
                hit = _await_part(killed, run, part, chance)
                if hit is None:
                    continue  # this part was over, or there was nothing to do in it
                asset, pid = hit
                power_cut = len(kills) % 3 == 2
                killed.kill() if power_cut else kill_tree(pid)
                kills.append(part)
                what = "power cut" if power_cut else "run killed"
                print(f"  kill {len(kills):2}: change {changes}, {part}, while {asset} was made; {what}", flush=True)
                if power_cut:
                    killed.start()
                run = _restarted(killed, run)
            _finish(killed, run)
    finally:
        killed.stop()
        reader.stop()
    paid = _paid(url) - paid_before
    for part in PARTS:
        table.say(f"killed in {part}", kills.count(part), kills.count(part) > 0)
    table.say(
        "the index was readable all the time",
        f"{reader.reads} reads of generations {min(reader.generations)} to {max(reader.generations)}, "
        f"{len(reader.problems)} problems {reader.problems[:2]}",
        bool(reader.answers) and not reader.problems,
    )
    _say_cost(killed, paid, len(kills), table)
    quiet = _arrived(given, url, "quiet", {"books": source}, ledger_of=killed)
    for number in range(changes):
        source.change(quiet.home / "incoming" / "books", number)
        quiet.must("backfill", "books")
    _compare(quiet, killed, table)


def _say_cost(home: Installation, paid: int, kills: int, table: Table) -> None:
    """What was asked, against what is recorded: each answer once, with the tries that it took."""
    if home.settings.generation.engine == "extractive":
        return
    needed = home.ledger.rows("SELECT sum(attempts) FROM generations")[0][0]
    what = (
        f"requests that the model's server took, with {kills} kills"
        if kills
        else "requests that the model's server took"
    )
    told = f"{paid}; recorded {needed}, so {paid - needed} were paid for twice, at most {kills * CHUNK} allowed"
    table.say(what, told, needed <= paid <= needed + kills * CHUNK)


def _await_part(home: Installation, run: str, part: str, chance: random.Random) -> tuple[str, int] | None:
    """Wait until a refresh is in this part, and a random moment more; the asset and the process. None if it never is."""
    assets = PARTS[part]
    aimed = chance.choice(assets)
    if part == "transaction" or part == "publish":
        aimed = ""  # whichever comes first
    limit = time.monotonic() + 900
    with dagster_instance(home.settings) as instance:
        while time.monotonic() < limit:
            if _status(instance, run) in OVER:
                return None
            made = _being_made(instance)
            if made is not None and made[0] in assets and (not aimed or made[0] == aimed):
                if part == "transaction" and not _is_writing(home):
                    continue
                time.sleep(chance.uniform(0, PAUSES[part]))
                return made
            time.sleep(0.02)
    raise TimeoutError(f"Run {run} was neither in {part} nor over within 15 minutes.")


def _being_made(instance: dg.DagsterInstance) -> tuple[str, int] | None:
    """The asset that is being made, and the process that makes it."""
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]), limit=3):
        if run.asset_selection and PROCESS_TAG in run.tags:
            names = [key.to_user_string() for key in run.asset_selection]
            return names[0], int(run.tags[PROCESS_TAG].split("/")[2])
    return None


def _is_writing(home: Installation) -> bool:
    """Whether a transaction is going on now: its lock is taken."""
    with (home.settings.warehouse_path.with_suffix(".lock")).open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _restarted(home: Installation, run: str) -> str:
    """The run that goes on where a killed one was: Dagster's own new try, or ours once its tries are used up."""
    with dagster_instance(home.settings) as instance:
        wait(lambda: _status(instance, run) in OVER, 240, "Dagster to notice that the run died", 0.5)
        killed = instance.get_run_by_id(run)
        assert killed is not None
        tries = int(killed.tags.get("dagster/retry_number", 0))
        if tries >= int(killed.tags["dagster/max_retries"]):
            return home.launch("refresh_catalogs")
        new: list[str] = []

        def is_tried_again() -> bool:
            new[:] = [found.run_id for found in instance.get_runs(limit=5) if found.parent_run_id == run]
            return bool(new)

        wait(is_tried_again, 120, "Dagster to start the run again", 0.5)
        return new[0]


def _finish(home: Installation, run: str) -> None:
    with dagster_instance(home.settings) as instance:
        wait(lambda: _status(instance, run) in OVER, 900, "the last try to end")
        if (status := _status(instance, run)) != "SUCCESS":
            raise RuntimeError(f"Run {run} ended with {status}; see {home.home}/ui.log.")


def _status(instance: dg.DagsterInstance, run: str) -> str:
    found = instance.get_run_by_id(run)
    return found.status.value if found else "GONE"


# ------------------------------------------------------------------------------------------------------------- together


def drill_together(given: argparse.Namespace, url: str, table: Table) -> None:
    sources = {"books": Source("books", given.items), "films": Source("new-arrivals", given.items)}
    paid_before = _paid(url)
    both = _arrived(given, url, "together", sources)
    reader = Reader(both.settings.index_path)
    both.start()
    reader.start()
    longest, looks = 0.0, 0
    overlapping = 0
    try:
        for number in range(given.rounds):
            for name, source in sources.items():
                source.change(both.home / "incoming" / name, number)
            began = time.monotonic()
            runs = [both.launch("refresh_catalog", {"dagster/partition": name}) for name in sources]
            with dagster_instance(both.settings) as instance:
                statuses: list[str] = []
                at_once = False
                while not all(status in OVER for status in statuses) or not statuses:
                    asked = time.monotonic()
                    both.warehouse.rows("SELECT count(*) FROM personas")
                    both.graphql("{ assetNodes { id assetMaterializations(limit: 1) { timestamp } } }")
                    longest, looks = max(longest, time.monotonic() - asked), looks + 1
                    statuses = [_status(instance, run) for run in runs]
                    at_once |= statuses.count("STARTED") == len(runs)
                    time.sleep(0.2)
            overlapping += at_once
            seconds = time.monotonic() - began
            table.say(f"round {number + 1}", f"{', '.join(statuses)} in {seconds:.0f} s", set(statuses) == {"SUCCESS"})
    finally:
        both.stop()
        reader.stop()
    paid = _paid(url) - paid_before
    table.say("rounds in which both were at work at the same time", overlapping, overlapping > 0)
    bound = both.settings.warehouse.lock_timeout_s
    table.say(f"longest of {looks} looks by UI and reader", f"{longest:.1f} s", longest < bound)
    table.say(
        "the index was readable all the time", f"{reader.reads} reads", bool(reader.answers) and not reader.problems
    )
    _say_cost(both, paid, 0, table)
    quiet = _arrived(given, url, "one-by-one", sources, ledger_of=both)
    for number in range(given.rounds):
        for name, source in sources.items():
            source.change(quiet.home / "incoming" / name, number)
        quiet.must("backfill", *sources)
    _compare(quiet, both, table)


# ------------------------------------------------------------------------------------------------------- disk and source


def drill_disk(given: argparse.Namespace, url: str, table: Table) -> None:
    source = Source("books", given.items)
    small = given.home.absolute() / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "persona4rec", str(small)], check=True)
    try:
        home = _arrived(given, url, "small/home", {"books": source})
        quiet = _arrived(given, url, "roomy", {"books": source})
        failed = 0
        for number, part in enumerate(["before it starts", *PARTS]):
            for each in (home, quiet):
                source.change(each.home / "incoming" / "books", number)
            quiet.must("backfill", "books")
            before = PersonaIndex.open(home.settings.index_path).generation
            code, said = _refresh_until_full(home, small / "ballast", PARTS.get(part, ()))
            told = said[said.find("error: ") :][:300]
            clear = "Traceback" not in said and any(word in told for word in ("space", "room", "full"))
            failed += code == 1
            table.say(f"full in {part}: exit code and message", f"{code}, {told!r}", clear if code else True)
            index = PersonaIndex.open(home.settings.index_path)
            answers = sum(len(index.recommend(user, 3)) for user in index.users)
            table.say(
                "  the index answers", f"generation {index.generation}", answers > 0 and index.generation >= before
            )
            home.must("backfill", "books")
        table.say("refreshes that the full disk has ended (others were done before it was full)", failed, failed > 3)
        _compare(quiet, home, table)
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def _refresh_until_full(home: Installation, ballast: Path, assets: tuple[str, ...]) -> tuple[int, str]:
    """Refresh, and leave no room on the disk as soon as one of these assets is made; the exit code and what was said."""
    call = [sys.executable, "-m", "persona4rec_pipeline.cli", "backfill", "books"]
    with dagster_instance(home.settings) as instance:
        if not assets:
            _fill(ballast)
        run = subprocess.Popen(
            call, env=home.environment, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        while assets and run.poll() is None:
            made = _being_made(instance)
            if made is not None and made[0] in assets:
                _fill(ballast)
                break
            time.sleep(0.02)
        _, said = run.communicate()
    ballast.unlink(missing_ok=True)
    return run.returncode, " ".join(said.split())


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        for size in (2**20, 2**12, 1):
            with suppress(OSError):
                while True:
                    file.write(b"\0" * size)


def drill_source(given: argparse.Namespace, url: str, table: Table) -> None:
    source = Source("books", given.items)
    home = _arrived(given, url, "source", {"books": source})
    quiet = _arrived(given, url, "whole", {"books": source})
    folder = home.home / "incoming" / "books"
    rows = [json.dumps(row) for row in source.rows[source.first :]]
    whole = gzip.compress("\n".join(rows).encode())
    broken: dict[str, tuple[str, bytes]] = {
        "a gzip file cut off in the middle": ("reviews-bad.jsonl.gz", whole[: len(whole) // 2]),
        "a gzip file with a garbled byte": ("reviews-bad.jsonl.gz", whole[:200] + b"\xff\xff\xff" + whole[203:]),
        "no gzip file at all": ("reviews-bad.jsonl.gz", b"this is not gzip"),
        "a file of bad rows": ("reviews-bad.jsonl", b'{"rating": "none"}\n' * 500),
        "a Parquet file cut off": ("reviews-bad.parquet", b"PAR1" + b"\0" * 64),
    }
    before = _contents(home)
    generation = PersonaIndex.open(home.settings.index_path).generation
    for what, (name, content) in broken.items():
        path = folder / name
        path.write_bytes(content)
        done = home.command("backfill", "books")
        said = " ".join(done.stderr.split())
        told = said[said.find("error: ") :]
        table.say(what, f"exit {done.returncode}, {told[:300]!r}", done.returncode == 1 and name in told)
        same = _contents(home) == before
        table.say("  nothing was changed", "equal" if same else "different", same)
        path.unlink()
    index = PersonaIndex.open(home.settings.index_path)
    table.say("no generation was published", index.generation, index.generation == generation)
    for mended in (home, quiet):
        source.change(mended.home / "incoming" / "books", 0)
        mended.must("backfill", "books")
    _compare(quiet, home, table)


# --------------------------------------------------------------------------------------------------------------- common


def _arrived(
    given: argparse.Namespace,
    url: str,
    name: str,
    sources: dict[str, Source],
    ledger_of: Installation | None = None,
) -> Installation:
    """A new home in which these catalogues have arrived and are published, with a copy of another home's ledger."""
    settings = SETTINGS.format(engine=given.engine, chunk=CHUNK, url=url)
    home = Installation(given.home / name, settings)
    if ledger_of is not None and ledger_of.ledger.path.exists():
        home.ledger.path.parent.mkdir(parents=True)
        shutil.copy(ledger_of.ledger.path, home.ledger.path)
    for catalog, source in sources.items():
        source.arrive(home.home / "incoming" / catalog)
    home.must("backfill", *sources)
    return home


def _compare(expected: Installation, found: Installation, table: Table) -> None:
    """Every table, row for row, and every file of the index, byte for byte."""
    tables, theirs = _contents(expected), _contents(found)
    differing = sorted(name for name in tables if tables[name] != theirs[name])
    rows = sum(expected.warehouse.rows(f"SELECT count(*) FROM {name}")[0][0] for name in tables)
    table.say(f"{len(tables)} tables, {rows} rows: differing", differing or "none", not differing)
    mine, other = (read_manifest(current_generation(home.settings.index_path)) for home in (expected, found))
    differing = sorted(name for name in {*mine.files, *other.files} if mine.files.get(name) != other.files.get(name))
    table.say(f"{len(mine.files)} files of the index: differing", differing or "none", not differing)
    answers, theirs_too = (set(home.ledger.rows("SELECT key, answer FROM generations")) for home in (expected, found))
    missing = answers - theirs_too
    table.say(f"{len(answers)} answers: others than those of the disturbed home", len(missing), not missing)


def _contents(home: Installation) -> dict[str, str]:
    """Table -> a hash of its rows, without what differs between two homes anyway."""
    names = [name for (name,) in home.warehouse.rows("SELECT table_name FROM duckdb_tables() ORDER BY table_name")]
    return {name: home.warehouse.content_version(name, ignore=OF_ONE_HOME.get(name, ())) for name in names}


@contextmanager
def _model_server(given: argparse.Namespace) -> Iterator[str]:
    """A server of vLLM's own with the packaged model; its address."""
    if given.engine == "extractive":
        yield "http://127.0.0.1:9"
        return
    settings = Installation(given.home / "model", "").settings
    port = free_port()
    environment = {
        **os.environ, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }  # fmt: skip
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", resolve_language_model(settings),
        "--host", "127.0.0.1", "--port", str(port), "--served-model-name", settings.generation.model,
        "--dtype", "bfloat16", "--max-model-len", "2048", "--max-num-batched-tokens", "4096",
        "--no-enable-chunked-prefill", "--enforce-eager", "--max-num-seqs", "16",
        "--structured-outputs-config", json.dumps({"backend": "xgrammar", "disable_any_whitespace": True}),
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with (given.home / "model.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait(lambda: _answers(url), 300, "the model's server")
        yield url
    finally:
        kill_tree(server.pid)
        server.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.HTTPError:
        return False


def _paid(url: str) -> int:
    """Requests that the model's server has taken so far, finished or broken off."""
    if not _answers(url):
        return 0
    text = httpx.get(f"{url}/metrics").text
    return int(sum(float(count) for count in re.findall(r"^vllm:request_success_total\{.*\} (\S+)$", text, re.M)))


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
