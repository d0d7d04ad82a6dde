"""One process at a time on a catalogue; a lock that a dead process cannot keep."""

import subprocess
import sys
import time

from persona4rec_pipeline.processes import one_at_a_time

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
