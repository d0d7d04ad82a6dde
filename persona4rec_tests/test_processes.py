"""One process at a time on a catalogue; a lock that a dead process cannot keep; runs that a dead process left."""

import subprocess
import sys
import time

import dagster as dg

from persona4rec_pipeline.processes import PROCESS_TAG, end_abandoned_runs, one_at_a_time, process_of

HOLDER = """
import sys, time
from pathlib import Path
from persona4rec_pipeline.processes import one_at_a_time
with one_at_a_time(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_waits_says_so_and_goes_on_when_the_first_is_killed(tmp_path):
    path = tmp_path / "locks" / "books.lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        told: list[str] = []

        def kill_the_holder(line):
            told.append(line)
            assert time.monotonic() < deadline
            holder.kill()

        deadline = time.monotonic() + 30
        with one_at_a_time(path, kill_the_holder):
            assert holder.wait() != 0
    assert told == ["another run is at work on books; this one waits for it"]


def test_other_catalogues_do_not_wait(tmp_path):
    told: list[str] = []
    with (
        one_at_a_time(tmp_path / "books.lock", told.append),
        one_at_a_time(tmp_path / "films.lock", told.append),
    ):
        pass
    assert told == []


def test_only_a_run_whose_own_process_on_this_machine_is_gone_is_ended():
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()

    @dg.job
    def nothing():
        pass

    with dg.DagsterInstance.ephemeral() as instance:

        def started(process_tag):
            run = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
            instance.add_run_tags(run.run_id, {PROCESS_TAG: process_tag(run.run_id)})
            return run.run_id

        def of_the_dead(run_id):
            run, host, _, start = process_of(run_id).split("/")
            return f"{run}/{host}/{dead.pid}/{start}"

        gone = started(of_the_dead)
        started(process_of)
        started(lambda run_id: process_of(run_id).replace("/", "/another-machine-", 1))
        started(lambda run_id: of_the_dead("the-run-that-this-one-tries-again"))
        assert end_abandoned_runs(instance) == 1
        assert instance.get_run_by_id(gone).status == dg.DagsterRunStatus.FAILURE
        assert end_abandoned_runs(instance) == 0
