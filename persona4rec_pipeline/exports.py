"""Personas as a file that people open: CSV for spreadsheets, Parquet for programs.

Belongs here: which columns such a file has, and what a cell may hold. Does not belong here: the index (`index/`), which
is what a server reads.

A spreadsheet runs a cell that begins with = + - @ as a formula, and names, titles and quotes are strangers' texts. In
CSV every text cell that could be read so gets a leading apostrophe, which spreadsheets take for "this is text".
Parquet has types, so its texts stay as they are.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from persona4rec_pipeline.warehouse import Database

COLUMNS = pa.schema(
    [
        ("catalog", pa.string()),
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("persona_id", pa.string()),
        ("name", pa.string()),
        ("polarity", pa.string()),
        ("description", pa.string()),
        ("preference_rationale", pa.string()),
        ("support", pa.float64()),
        ("source", pa.string()),
        ("quotes", pa.string()),  # joined by " | "
        ("evidence_reviews", pa.int64()),
    ]
)
ROWS_PER_BATCH = 4096
# Also where spaces, quotes or invisible characters come first, and in the full-width forms that some programs fold.
_FORMULA = re.compile("^[\\s\"'“”‘’\u00ad\u200b-\u200f\u2060\ufeff]*[=+\\-@|%\u2212＝＋－＠]|^[\t\r\n]")


def export_personas(warehouse: Database, path: Path, catalog: str | None = None) -> int:
    """Write the personas of a catalogue (None: of all) to `path`, ordered by catalogue, item and persona; returns how many.

    The suffix says the format: .csv (UTF-8 with a byte order mark, as Excel wants it) or .parquet. Memory does not grow
    with the catalogue. A reader sees the old file or the new one. Raises ValueError for another suffix and for a
    catalogue without personas.
    """
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise ValueError(f"{path} must end in .csv or .parquet.")
    count = warehouse.rows("SELECT count(*) FROM personas WHERE $1 IS NULL OR catalog = $1", [catalog])[0][0]
    if count == 0:
        where = "There are no personas" if catalog is None else f"Catalogue {catalog!r} has no personas"
        raise ValueError(f"{where}; make some with `persona4rec run`.")
    aside = path.with_name(f".{path.name}.aside")
    try:
        if path.suffix.lower() == ".csv":
            _write_csv(aside, _batches(warehouse, catalog))
        else:
            with pq.ParquetWriter(aside, COLUMNS) as writer:
                for batch in _batches(warehouse, catalog):
                    writer.write_table(pa.Table.from_pylist(batch, COLUMNS))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return count


def neutral_cell(value: Any) -> Any:
    """A text cell that no spreadsheet takes for a formula; all else as it is."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def _write_csv(path: Path, batches: Iterator[list[dict[str, Any]]]) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS.names, quoting=csv.QUOTE_MINIMAL)
        writer.writeheader()
        for batch in batches:
            writer.writerows({name: neutral_cell(value) for name, value in row.items()} for row in batch)


def _batches(warehouse: Database, catalog: str | None) -> Iterator[list[dict[str, Any]]]:
    last = ("", "", "")
    while True:
        rows = warehouse.rows(
            """SELECT catalog, item_id, item_summaries.title, persona_id, name, polarity, description,
                      preference_rationale, support, personas.source, array_to_string(quotes, ' | '),
                      len(evidence_review_ids)
               FROM personas LEFT JOIN item_summaries USING (catalog, item_id)
               WHERE ($catalog IS NULL OR catalog = $catalog) AND (catalog, item_id, persona_id) > ($c, $i, $p)
               ORDER BY catalog, item_id, persona_id LIMIT $most""",
            {"catalog": catalog, "c": last[0], "i": last[1], "p": last[2], "most": ROWS_PER_BATCH},
        )
        if rows:
            yield [dict(zip(COLUMNS.names, row, strict=True)) for row in rows]
        if len(rows) < ROWS_PER_BATCH:
            return
        last = (rows[-1][0], rows[-1][1], rows[-1][3])
