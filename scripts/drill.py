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
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from persona4rec_pipeline.index import PersonaIndex
from persona4rec_pipeline.runner import dagster_instance
from persona4rec_pipeline.sample import sample_path
from scripts.installation import SELECTOR, Installation, Table, wait

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


class Drill(Installation, Table):
    """An installation, how many items its catalogues have, and what has been seen so far."""

    def __init__(self, home: Path, engine: str, items: int) -> None:
        Installation.__init__(self, home, SETTINGS.format(engine=engine))
        Table.__init__(self)
        self.items = items

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
        wait(
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
    drill = Drill(given.home, given.engine, given.items)
    books = sample_path("books")
    drill.must(
        "add-catalog", "books", "--reviews", str(books / "reviews.jsonl"), "--items", str(books / "items.jsonl"),
        "--limit-items", str(given.items),
    )  # fmt: skip
    drill.must("backfill", "books")
    before = PersonaIndex.open(drill.settings.index_path).generation
    drill.start()
    try:
        _arrival(drill, before, given.limit)
        _nights(drill, given.limit)
    finally:
        drill.stop()
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
    drill.must("backfill", "books", "new-arrivals")
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
    drill.stop_sensor("new_catalogs")
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


if __name__ == "__main__":
    sys.exit(main())
