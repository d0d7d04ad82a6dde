"""Candidates from elsewhere, such as LightGCN or SASRec, read from the file of `evaluation.candidates_file`.

Belongs here: the columns of that file, what is wrong with a row, which item a row means. Does not belong here: how files
are read row by row (`reviews/files.py`), what else a user is proposed (`candidates.py`).

Columns: user_id, item_id; where wanted catalog, score and split. A row without catalog means the item of the first
catalogue, in alphabetical order, that has it; one without split counts for both splits. With scores a list is ordered by
them, highest first, without in the order of its rows, and then its scores are 1 / rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa

from persona4rec_pipeline.evaluation.candidates import SPLITS, CandidateList, Panel
from persona4rec_pipeline.reviews.files import EXTENSIONS, SourceError, columns_of, extension_of, read_batches
from persona4rec_pipeline.warehouse.database import Database

REQUIRED = ("user_id", "item_id")
READ = (*REQUIRED, "catalog", "score", "split")


@dataclass(frozen=True)
class Listed:
    """(split, user) -> candidates, for panel users only, none seen in train, no item twice.

    counts: `rows` of the file; `rows_outside_panel`, of users who have no target; `seen`: candidates left out, as the user
    has them in train; `unknown_items` that no catalogue has, which kept their place.
    """

    lists: dict[tuple[str, str], CandidateList]
    counts: dict[str, int]


def read_candidates_file(path: Path, database: Database, panel: Panel) -> Listed:
    """Read the file; in memory are only the rows of panel users.

    The key of an unknown item is as it was given; without a catalogue it begins with the slash. Raises SourceError, naming
    file, line (or row, for Parquet) and what to do: the file is missing or of no known suffix, lacks a column, has a row
    that cannot be used, or has no row for anybody of the panel.
    """
    if not path.is_file():
        raise SourceError(f"evaluation.candidates_file names {path}, which does not exist. Write it, or unset it.")
    if extension_of(path) not in EXTENSIONS:
        raise SourceError(f"{path}: the suffix is not known. Name it .jsonl, .csv (each also with .gz) or .parquet.")
    columns = columns_of(path)
    if missing := [name for name in REQUIRED if name not in columns]:
        raise SourceError(
            f"{path} has no column {' and no column '.join(missing)}; it has {', '.join(columns) or 'none'}. "
            f"Name its columns {', '.join(READ)}; the last three may be left out."
        )
    rows, count = _rows_of_panel(path, panel)
    if rows.empty:
        raise SourceError(
            f"{path} has {count:,} rows, but none for any of the {len(panel.everyone):,} users of the panel. "
            "Write candidates for the users that have a target in the table splits, with the same user_id."
        )
    without = rows["score"].isna()
    if without.any() and not without.all():
        raise SourceError(
            f"{path}, line {rows.loc[without, 'line'].min()}: no score, though other rows have one. "
            "Give every row a score, or none."
        )
    asked = pd.DataFrame(
        [(split, user) for split in SPLITS for user in panel.users[split]], columns=["split", "user_id"]
    )
    found = _resolved(database, rows, asked)
    kept = found[~found["is_seen"]]
    counts = {
        "rows": count,
        "rows_outside_panel": count - len(rows),
        "seen": len(found) - len(kept),
        "unknown_items": kept.loc[~kept["is_known"], "key"].nunique(),
    }
    return Listed(
        {
            (str(split), str(user)): CandidateList(own["key"].to_list(), _scores(own["score"].to_numpy(np.float64)))
            for (split, user), own in kept.groupby(["split", "user_id"])
        },
        counts,
    )


def _scores(given: np.ndarray) -> np.ndarray:
    return 1.0 / np.arange(1, len(given) + 1) if np.isnan(given).any() else given


def _rows_of_panel(path: Path, panel: Panel) -> tuple[pd.DataFrame, int]:
    """line, user_id, item_id, catalog, score (NaN: none) and split of the rows of panel users, and how many rows there are."""
    pieces, count = [], 0
    with duckdb.connect(":memory:") as connection:
        connection.register("panel", pa.table({"user_id": pa.array(panel.everyone, pa.string())}))
        for batch in read_batches(path, READ):
            count += batch.num_rows
            connection.register("batch", pa.Table.from_batches([batch]))
            connection.execute(f"CREATE OR REPLACE TEMP TABLE parsed AS {_PARSE}")
            bad = connection.execute(
                "SELECT line, problem FROM parsed WHERE problem IS NOT NULL ORDER BY line LIMIT 1"
            ).fetchone()
            if bad is not None:
                raise SourceError(f"{path}, line {bad[0]}: {bad[1]}. Mend or remove that row.")
            pieces.append(
                connection.execute(
                    "SELECT line, user_id, item_id, catalog, score, split FROM parsed SEMI JOIN panel USING (user_id) "
                    "ORDER BY line"
                ).df()
            )
    return pd.concat(pieces, ignore_index=True) if pieces else pd.DataFrame(columns=["line", *READ]), count


_PARSE = """
    SELECT
        line, user_id, item_id, catalog, split, TRY_CAST(score_text AS DOUBLE) AS score,
        CASE
            WHEN problem IS NOT NULL THEN problem
            WHEN object IS NULL THEN 'not a JSON object'
            WHEN user_id IS NULL THEN 'no user_id'
            WHEN item_id IS NULL THEN 'no item_id'
            WHEN split NOT IN ('valid', 'test') THEN 'the split is ' || split || ', which is neither valid nor test'
            WHEN score_text IS NOT NULL AND NOT COALESCE(isfinite(TRY_CAST(score_text AS DOUBLE)), FALSE)
                THEN 'the score ' || score_text || ' is not a finite number'
        END AS problem
    FROM (
        SELECT
            line, problem, object,
            NULLIF(object ->> '$.user_id', '') AS user_id, NULLIF(object ->> '$.item_id', '') AS item_id,
            NULLIF(object ->> '$.catalog', '') AS catalog, NULLIF(object ->> '$.split', '') AS split,
            NULLIF(object ->> '$.score', '') AS score_text
        FROM (
            SELECT
                line, problem,
                CASE WHEN problem IS NULL AND json_valid(text) AND json_type(text) = 'OBJECT' THEN text END AS object
            FROM batch
        )
    )
"""


def _resolved(database: Database, rows: pd.DataFrame, asked: pd.DataFrame) -> pd.DataFrame:
    """split, user_id, key, score, is_known and is_seen of the candidates, the lists in their order, no item twice."""
    with database.read() as connection:
        connection.register("listed", rows.astype({"catalog": "string", "split": "string"}))
        connection.register("asked", asked)
        return connection.execute(
            """
            WITH keyed AS (
                SELECT line, user_id, split, score, COALESCE(listed.catalog, first_catalog, '') || '/' || item_id AS key
                FROM listed LEFT JOIN (
                    SELECT item_id, min(catalog) AS first_catalog FROM items GROUP BY item_id
                ) USING (item_id)
            ), known AS (
                SELECT catalog || '/' || item_id AS key FROM items
            ), train AS (
                SELECT DISTINCT user_id, catalog || '/' || item_id AS key
                FROM reviews JOIN splits USING (catalog, review_id) WHERE split = 'train'
            )
            SELECT
                asked.split, asked.user_id, key, score, key IN (FROM known) AS is_known,
                (asked.user_id, key) IN (FROM train) AS is_seen
            FROM keyed JOIN asked ON asked.user_id = keyed.user_id AND (keyed.split IS NULL OR keyed.split = asked.split)
            QUALIFY row_number() OVER (PARTITION BY asked.split, asked.user_id, key ORDER BY score DESC, line) = 1
            ORDER BY asked.split, asked.user_id, score DESC, line
            """
        ).df()
