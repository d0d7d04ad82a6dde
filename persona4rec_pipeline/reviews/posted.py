"""Interactions that came in while serving, folded into the tables: which of the queued ones count, and how far they got.

Belongs here: reading a catalogue's part of the queue, the rules by which it joins the rows of the source, and the numbers
that tell the service what it need not count on top any more. Does not belong here: the queue (`interactions.py`), and the
replacement of a partition (`ingest.py`).

The rules. A review is positive by its rating, as a row of the source is; a click and a like are, a dislike is not. What is
queued on an item that the catalogue does not know waits. The source has the last word: its row of the same user and item
less than a day away is the same interaction, told again, as a site exports its own reviews later and not always with the
time to the second. Of a user's queued reviews of an item one a day (UTC) counts, the last. Clicks, likes and dislikes are
hints as long as the user says no more: of a user's hints at an item one counts, the last like or dislike or else the last
click, and none if a review of the item, queued or of the source, is later or less than a day older.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from persona4rec_pipeline.interactions import InteractionQueue, QueueUnusable
from persona4rec_pipeline.reviews.files import SourceError
from persona4rec_pipeline.reviews.ids import IS_FORGOTTEN, REVIEW_ID
from persona4rec_pipeline.reviews.metadata import BLANKS
from persona4rec_pipeline.settings import ReviewSettings, Settings
from persona4rec_pipeline.warehouse import Database, open_warehouse, replace_changed_rows

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# Why a catalogue is out of date of which interactions are queued that no ingest has read.
QUEUED = "interactions were queued"
# Seconds between a queued interaction and the row of the source that is the same one.
SAME_WITHIN_S = 24 * 3600
# Of the items that queued interactions wait for, those that most of them are about are named.
ITEMS_NAMED = 10
_ROWS_PER_BATCH = 10_000
_STAGED = pa.schema(
    [
        ("id", pa.int64()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("kind", pa.string()),
        ("rating", pa.float64()),
        ("text", pa.string()),
        ("reviewed_at", pa.timestamp("us")),
    ]
)


@dataclass(frozen=True)
class Progress:
    """How far a catalogue's queued interactions are in the tables.

    read_through: the highest id that an ingest has read. counted_through: the id up to which `interaction_vectors` was made
    of what was read. queue: identity of the queue that both are of. 0 and empty for a catalogue that never had any.
    """

    read_through: int = 0
    counted_through: int = 0
    queue: str = ""


@dataclass(frozen=True)
class PostedCounts:
    """What became of a catalogue's queued interactions.

    kept: those that are rows of `reviews`. waiting: on items that the catalogue does not know, and of these items the most
    frequent, with how many wait for each. left_out: told again by the source or by another queued one, or with a rating
    that the settings do not accept.
    """

    kept: int = 0
    waiting: int = 0
    waiting_for: Mapping[str, int] = field(default_factory=dict)
    left_out: int = 0


def has_new_interactions(database: Database, settings: Settings, catalog: str) -> bool:
    """Whether something of a catalogue is queued that no ingest has read.

    Also if the queue cannot be read, or is not the one that was read before: the ingest then fails and says so, for this
    catalogue, as for a source that is damaged.
    """
    queue = InteractionQueue(settings.interactions_path)
    with database.read() as connection:
        progress = read_progress(connection, catalog)
    try:
        return queue.last_id(catalog) > progress.read_through or _is_another(queue, progress)
    except QueueUnusable:
        return True


def interactions_through(connection: DuckDBPyConnection) -> dict[str, int]:
    """Catalogue -> the id up to which its queued interactions are in what its `interaction_vectors` were made from.

    An index made within the same connection has counted these; the service counts later ones on top. Catalogues without
    any are not named, and count from 0. Counted is what the rules make of an interaction: also a dislike, a click that a
    review has replaced, and one that is held out of a panel user's profile; none of them may come back on top.
    """
    found = connection.execute(
        "SELECT catalog, counted_through FROM posted_progress WHERE counted_through > 0 ORDER BY catalog"
    ).fetchall()
    return {name: int(through) for name, through in found}


def read_progress(connection: DuckDBPyConnection, catalog: str) -> Progress:
    """How far a catalogue's queued interactions are."""
    found = connection.execute(
        "SELECT read_through, counted_through, queue FROM posted_progress WHERE catalog = ?", [catalog]
    ).fetchone()
    return Progress(*found) if found else Progress()


def accept_queue(settings: Settings) -> None:
    """Go on with the queue as it is, after a loss: what it lacks leaves the reviews with each catalogue's next ingest.

    Ids that the former queue had given are not given again, so that no index takes what comes in now for what it contains.
    """
    warehouse = open_warehouse(settings)
    with warehouse.write() as connection:
        last = connection.execute("SELECT coalesce(max(read_through), 0) FROM posted_progress").fetchall()[0][0]
        InteractionQueue(settings.interactions_path).skip_to(last)
        connection.execute("DELETE FROM posted_progress")


def stage_posted(connection: DuckDBPyConnection, settings: Settings, catalog: str, before: Progress) -> Progress:
    """Read a catalogue's part of the queue into the temporary table `staged_posted`; how far it has been read now.

    Columns: id, user_id, item_id, kind, rating, text ('' where nothing is said), reviewed_at (TIMESTAMP, UTC). before: of
    the last ingest. Raises SourceError if the queue is not the one that was read then: a lost file must not look like an
    empty one.
    """
    queue = InteractionQueue(settings.interactions_path)
    if _is_another(queue, before):
        raise SourceError(
            f"{queue.path} is not the interaction queue that catalogue {catalog} was made from, or an older state of it: "
            "reviews that came in while serving would be lost. Put the latest backup of the file in its place; to go on "
            "without what it lacks, run `persona4rec accept-queue` once."
        )
    connection.register("nothing", _STAGED.empty_table())
    connection.execute("CREATE OR REPLACE TEMP TABLE staged_posted AS FROM nothing")
    connection.unregister("nothing")
    # What comes in while this reads is for the next time, or it would never end.
    end = queue.last_id(catalog)
    last = 0
    while last < end and (batch := queue.after(last, catalog=catalog, limit=_ROWS_PER_BATCH)):
        rows = [
            {
                "id": entry.id,
                "user_id": entry.user_id,
                "item_id": entry.item_id,
                "kind": entry.kind,
                "rating": entry.rating,
                "text": entry.review or "",
                "reviewed_at": entry.at.replace(tzinfo=None),
            }
            for entry in batch
        ]
        connection.register("batch", pa.Table.from_pylist(rows, schema=_STAGED))
        connection.execute("INSERT INTO staged_posted SELECT * FROM batch WHERE id <= ?", [end])
        connection.unregister("batch")
        last = int(batch[-1].id or end)
    return Progress(max(before.read_through, end), before.counted_through, queue.identity() if end else before.queue)


def forget_staged(connection: DuckDBPyConnection, settings: Settings, hashes: list[str]) -> None:
    """Delete what was queued of users who were forgotten before, here and in the queue."""
    parameters = {"hashes": hashes}
    found = connection.execute(
        f"SELECT DISTINCT user_id FROM staged_posted WHERE {IS_FORGOTTEN}", parameters
    ).fetchall()
    connection.execute(f"DELETE FROM staged_posted WHERE {IS_FORGOTTEN}", parameters)
    queue = InteractionQueue(settings.interactions_path)
    for (user_id,) in found:
        queue.forget(user_id)


def choose_posted(
    connection: DuckDBPyConnection,
    settings: ReviewSettings,
    catalog: str,
    source: str,
    items: str,
    parameters: Mapping[str, object] | None = None,
) -> PostedCounts:
    """Fill the temporary table `posted_now` with those of `staged_posted` that count, as rows of `reviews`.

    source: a query of the rows that the source has, user_id, item_id and reviewed_at; items: of the item_id that the
    catalogue knows; both with `parameters`.
    """
    blanks = " || ".join(f"chr({ord(character)})" for character in BLANKS)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE known_items AS SELECT DISTINCT item_id FROM ({items})", parameters
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE told_by_source AS SELECT user_id, item_id, reviewed_at "
        f"FROM ({source}) SEMI JOIN staged_posted USING (user_id, item_id)",
        parameters,
    )
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE posted_now AS
        WITH usable AS (
            SELECT * FROM staged_posted SEMI JOIN known_items USING (item_id)
            WHERE rating IS NULL OR rating BETWEEN $lowest AND $highest
        ), said AS (
            SELECT * FROM usable
            WHERE kind = 'review' AND NOT EXISTS (
                FROM told_by_source AS told WHERE told.user_id = usable.user_id AND told.item_id = usable.item_id
                    AND abs(epoch(told.reviewed_at) - epoch(usable.reviewed_at)) < {SAME_WITHIN_S}
            )
            QUALIFY row_number() OVER (
                PARTITION BY user_id, item_id, reviewed_at::DATE ORDER BY reviewed_at DESC, id DESC
            ) = 1
        ), all_said AS (
            SELECT user_id, item_id, reviewed_at FROM said UNION ALL FROM told_by_source
        ), hints AS (
            SELECT * FROM usable
            WHERE kind <> 'review' AND NOT EXISTS (
                FROM all_said WHERE all_said.user_id = usable.user_id AND all_said.item_id = usable.item_id
                    AND epoch(all_said.reviewed_at) > epoch(usable.reviewed_at) - {SAME_WITHIN_S}
            )
            QUALIFY row_number() OVER (
                PARTITION BY user_id, item_id ORDER BY kind = 'click', reviewed_at DESC, id DESC
            ) = 1
        ), counting AS (
            FROM said UNION ALL FROM hints
        )
        SELECT CAST($catalog AS VARCHAR) AS catalog, {REVIEW_ID} AS review_id, user_id, item_id, rating,
            CASE WHEN kind IN ('click', 'like') THEN TRUE WHEN kind = 'dislike' THEN FALSE
                 ELSE COALESCE(rating >= $positive, $missing) END AS is_positive,
            NULL::VARCHAR AS title,
            -- Blank in any script is nothing said, as in a source.
            CASE WHEN regexp_matches(text, '[^\\s\\pZ\\pC]') THEN trim(text, {blanks}) ELSE '' END AS text, reviewed_at
        FROM counting
        """,
        {
            "catalog": catalog,
            "positive": settings.positive_rating,
            "missing": settings.missing_rating_is_positive,
            "lowest": settings.rating_min,
            "highest": settings.rating_max,
        },
    )
    waiting = connection.execute(
        "SELECT item_id, count(*) AS rows FROM staged_posted ANTI JOIN known_items USING (item_id) "
        "GROUP BY item_id ORDER BY rows DESC, item_id"
    ).fetchall()
    staged, kept = (
        connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]
        for table in ("staged_posted", "posted_now")
    )
    waits = sum(rows for _, rows in waiting)
    return PostedCounts(kept, waits, dict(waiting[:ITEMS_NAMED]), staged - kept - waits)


def store_posted(connection: DuckDBPyConnection, catalog: str, posted: str, progress: Progress) -> None:
    """Record which rows of `reviews` came from the queue (those of the query `posted`) and how far it was read; in the
    transaction that writes these rows."""
    keys = f"SELECT catalog, review_id FROM ({posted})"
    replace_changed_rows(connection, "posted_reviews", keys, "catalog = $catalog", {"catalog": catalog})
    if progress != read_progress(connection, catalog):
        connection.execute(
            "INSERT OR REPLACE INTO posted_progress (catalog, read_through, counted_through, queue) VALUES (?, ?, ?, ?)",
            [catalog, progress.read_through, progress.counted_through, progress.queue],
        )


def vectors_may_count(connection: DuckDBPyConnection, catalog: str) -> int:
    """The id up to which vectors made of the tables as they are now count a catalogue's queued interactions.

    As long as one of its reviews has no split yet, or its item no summary, that is what was counted before.
    """
    progress = read_progress(connection, catalog)
    if progress.read_through == progress.counted_through:
        return progress.counted_through
    lacking = connection.execute(
        """
        SELECT 1 FROM (FROM reviews WHERE catalog = $catalog)
        LEFT JOIN (SELECT review_id, split FROM splits WHERE catalog = $catalog) USING (review_id)
        LEFT JOIN (SELECT item_id, summary FROM item_summaries WHERE catalog = $catalog) USING (item_id)
        WHERE split IS NULL OR summary IS NULL LIMIT 1
        """,
        {"catalog": catalog},
    ).fetchone()
    return progress.counted_through if lacking else progress.read_through


def note_counted(database: Database, catalog: str, through: int) -> None:
    """Record that the stored vectors of a catalogue count its queued interactions up to this id."""
    with database.read() as connection:
        progress = read_progress(connection, catalog)
    if through != progress.counted_through:
        with database.write() as connection:
            connection.execute("UPDATE posted_progress SET counted_through = ? WHERE catalog = ?", [through, catalog])


def with_progress(version: str, through: int) -> str:
    """A data version that tells how far the queue was taken in as well: that is news even where it left no row."""
    return f"{version}-{through}" if through else version


def _is_another(queue: InteractionQueue, progress: Progress) -> bool:
    """Whether a queue lacks what was read of it, as one that was lost and begun anew does, or one from an older backup."""
    if not progress.read_through:
        return False
    return queue.identity() != progress.queue or queue.last_id() < progress.read_through
