"""What the queue has accepted is kept: over kill -9, from several processes, once per key, until a user is forgotten."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from persona4rec_pipeline.interactions import (
    MAX_REVIEW_CHARACTERS,
    BadInteraction,
    Interaction,
    InteractionQueue,
    QueueUnusable,
)
from persona4rec_pipeline.settings import load_settings
from persona4rec_tests.traces import files_that_hold

NOON = datetime(2026, 11, 3, 12, 0, 0, 123456, tzinfo=UTC)

# A process that appends, one key after the other, and says each id once it has it.
WRITER = """
import sys
from datetime import UTC, datetime
from persona4rec_pipeline.interactions import Interaction, InteractionQueue
path, name, many = sys.argv[1], sys.argv[2], int(sys.argv[3])
queue = InteractionQueue(path)
for number in range(many):
    said = Interaction(None, f"{name}-{number}", name, "books", "i1", "click", None, None, datetime.now(UTC))
    print(queue.append(said), flush=True)
"""


def said(key="k1", user="ann", item="i1", kind="click", rating=None, review=None, at=NOON, catalog="books"):
    return Interaction(None, key, user, catalog, item, kind, rating, review, at)


def start_writer(path, name, many):
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), name, str(many)], stdout=subprocess.PIPE)


@pytest.fixture
def queue(tmp_path):
    queue = InteractionQueue(tmp_path / "interactions" / "queue.sqlite")
    yield queue
    queue.close()


def test_what_goes_in_comes_out_as_it_was(queue):
    late = NOON.astimezone(timezone(timedelta(hours=5)))
    first = queue.append(said("k1", kind="review", rating=4.5, review="Größe, 本, 🎸\n“quoted”", at=late))
    second = queue.append(said("k2", user="bob", catalog="films"))
    assert 0 < first < second == queue.last_id()
    assert queue.after(0) == [
        replace(said("k1", kind="review", rating=4.5, review="Größe, 本, 🎸\n“quoted”"), id=first),
        replace(said("k2", user="bob", catalog="films"), id=second),
    ]
    assert queue.after(0)[0].at.tzinfo == UTC


def test_a_queue_that_was_never_written_to_is_empty_and_makes_no_file(queue):
    assert (queue.after(0), queue.last_id(), queue.last_id("books"), queue.identity()) == ([], 0, 0, "")
    assert (queue.users(), queue.deletions()) == ([], 0)
    assert queue.forget("ann") == 0
    assert not queue.path.exists()


def test_after_tells_only_what_is_later_of_that_user_and_that_catalogue(queue):
    ids = [
        queue.append(said("k1", user="ann", catalog="books")),
        queue.append(said("k2", user="ann", catalog="films")),
        queue.append(said("k3", user="bob", catalog="books")),
    ]

    def keys(*arguments, **named):
        return [found.key for found in queue.after(*arguments, **named)]

    assert keys(ids[0]) == ["k2", "k3"]
    assert keys(0, "ann") == ["k1", "k2"]
    assert keys(0, catalog="books") == ["k1", "k3"]
    assert keys(0, limit=2) == ["k1", "k2"]
    # As an index generation states it: a catalogue that it does not name was never counted.
    assert keys({"books": ids[0]}) == ["k2", "k3"]
    assert keys({"books": ids[2], "films": ids[1]}) == keys({"books": 99, "films": 99}, "ann") == []
    assert keys({}) == ["k1", "k2", "k3"]
    assert (queue.last_id("books"), queue.last_id("films"), queue.last_id("songs")) == (ids[2], ids[1], 0)


def test_the_same_key_again_is_the_same_interaction(queue):
    first = queue.append(said("k1"))
    assert queue.append(said("k1", kind="dislike", at=NOON + timedelta(days=1))) == first
    assert [found.kind for found in queue.after(0)] == ["click"]
    # What one client calls 1 is not what another does.
    assert queue.append(said("k1", user="bob")) > first


def test_ids_are_not_given_again_after_rows_were_deleted(queue):
    queue.append(said("k1"))
    last = queue.append(said("k2", user="bob"))
    assert queue.forget("bob") == 1
    assert queue.last_id() == last and queue.last_id("books") < last
    assert queue.append(said("k2", user="bob")) > last


def test_text_that_databases_choke_on_is_kept_without_what_they_choke_on(queue):
    queue.append(said("k\0one", user="an\ud800n ", kind="review", review="half \udc80, null \0, pair \ud83c\udfb8"))
    (found,) = queue.after(0, "an\ud800n")
    assert (found.key, found.user_id, found.review) == ("kone", "an\ufffdn", "half \ufffd, null , pair 🎸")
    assert queue.forget(" an\ud800n") == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (said(kind="review", review="x" * (MAX_REVIEW_CHARACTERS + 1)), "review has 20,001 characters"),
        (said(kind="stare"), "kind must be one of click, like, dislike, review"),
        (said(review="a click that speaks"), "has no text"),
        (said(rating=float("nan")), "rating must be a finite number"),
        (said(user=" \0"), "user_id must have"),
        (said(at=NOON.replace(tzinfo=None)), "no time zone"),
    ],
)
def test_what_cannot_be_queued_is_refused_with_what_to_mend(queue, bad, message):
    with pytest.raises(BadInteraction, match=message):
        queue.append(bad)
    assert queue.last_id() == 0


def test_what_was_accepted_survives_kill_9_of_the_process_that_accepted_it(queue):
    writer = start_writer(queue.path, "ann", 100_000)
    accepted = [int(writer.stdout.readline()) for _ in range(50)]
    os.kill(writer.pid, signal.SIGKILL)
    accepted += [int(line) for line in writer.communicate()[0].split()]
    found = [entry.id for entry in queue.after(0)]
    assert set(accepted) <= set(found) and found == sorted(found)
    queue.append(said("after the kill"))
    # Against a power cut, which no test can make: the log is written through (2: FULL) before a commit returns.
    connection = queue._open("write")
    asked = [connection.execute(f"PRAGMA {name}").fetchone() for name in ("journal_mode", "synchronous", "quick_check")]
    assert asked == [("wal",), (2,), ("ok",)]


def test_processes_that_start_and_append_at_once_lose_nothing(queue):
    writers = [start_writer(queue.path, name, 60) for name in ("ann", "bob")]
    ids = [{int(line) for line in writer.communicate(timeout=60)[0].split()} for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [len(given) for given in ids] == [60, 60] and not ids[0] & ids[1]
    assert {entry.id for entry in queue.after(0)} == ids[0] | ids[1]
    assert [len(queue.after(0, name)) for name in ("ann", "bob")] == [60, 60]


def test_threads_share_a_queue(queue):
    threads = [
        threading.Thread(
            target=lambda n=n: [queue.append(said(f"{n}-{i}")) and queue.after(0, "ann") for i in range(20)]
        )
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(queue.after(0)) == 80


def test_reading_does_not_wait_for_a_writer_and_a_writer_that_waits_too_long_is_told(queue):
    queue.append(said())
    impatient = InteractionQueue(queue.path, busy_timeout_s=0.05)
    with sqlite3.connect(queue.path) as other:
        other.execute("BEGIN IMMEDIATE")
        assert len(impatient.after(0)) == 1
        with pytest.raises(QueueUnusable, match="database is locked"):
            impatient.append(said("k2"))
        other.rollback()
    assert impatient.append(said("k2")) > 0
    impatient.close()


def test_a_damaged_file_is_told_and_not_taken_for_an_empty_queue(tmp_path):
    path = tmp_path / "queue.sqlite"
    path.write_bytes(b"this is no database, whatever its name says" * 40)
    for ask in (InteractionQueue(path).last_id, lambda: InteractionQueue(path).append(said())):
        with pytest.raises(QueueUnusable, match="not a database"):
            ask()


def test_nothing_of_a_forgotten_user_is_left_in_any_file_of_the_queue(queue):
    queue.append(said("k1", user="secret-user-77", kind="review", review="Quicksilver zeppelins over Reykjavik"))
    queue.append(said("k2", user="bob", kind="review", review="A clever puzzle"))
    home = queue.path.parent
    assert files_that_hold(home, "secret-user-77", "Quicksilver")
    assert (queue.users(), queue.deletions()) == (["bob", "secret-user-77"], 0)
    assert queue.forget("secret-user-77") == 1
    assert (queue.users(), queue.deletions()) == (["bob"], 1)
    assert files_that_hold(home, "secret-user-77", "Quicksilver") == set()
    assert [found.user_id for found in queue.after(0)] == ["bob"]
    assert (queue.forget("secret-user-77"), queue.deletions()) == (0, 1)


def test_a_catalogue_can_be_taken_out(queue):
    queue.append(said("k1", catalog="books"))
    queue.append(said("k2", catalog="films"))
    assert queue.forget_catalog("books") == 1
    assert [found.catalog for found in queue.after(0)] == ["films"]


def test_a_queue_that_was_begun_anew_is_told_from_the_one_before(queue):
    queue.append(said())
    before = queue.identity()
    queue.close()
    assert before and InteractionQueue(queue.path).identity() == before
    for path in queue.path.parent.iterdir():
        path.unlink()
    queue.append(said())
    assert queue.identity() != before


def test_the_queue_lies_in_the_state_directory(tmp_path):
    assert load_settings({}, home=tmp_path).interactions_path == tmp_path / "interactions" / "queue.sqlite"
