"""The source formats: what the columns of Amazon, Yelp, Goodreads and other reviews mean, and which rows are usable.

Belongs here: the columns of each format, how a format is recognised, and the parsing of rows into our columns, with the
reason for every row that cannot be used. Does not belong here: files and line numbers (`files.py`), times (`times.py`),
how the metadata of one item is read (`metadata.py`), and what is stored where (`ingest.py`).

Reviews are parsed in SQL, batch by batch, because there are many. Items are parsed in Python, because their metadata is
irregular (nested lists, Python literals, free-form details) and there are few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from persona4rec_pipeline.reviews.files import SourceError, columns_of, find_files, read_batches
from persona4rec_pipeline.reviews.metadata import (
    BLANKS,
    ITEM_FORMATS,
    ITEM_SCHEMA,
    NO_ITEM,
    NOT_AN_OBJECT,
    NOT_JSON,
    ROW_TEXT_CHARACTERS,
    ItemFormat,
    parse_item,
)
from persona4rec_pipeline.reviews.times import create_time_macros
from persona4rec_pipeline.settings import ReviewSettings

AUTO = "auto"
GENERIC = "generic"
FORMATS = ("amazon_2023", "amazon_2014", "yelp", "goodreads", GENERIC)

REVIEW_COLUMNS = ("user_id", "item_id", "rating", "liked", "title", "text", "timestamp")
REQUIRED_REVIEW_COLUMNS = ("user_id", "item_id", "text", "timestamp")
ITEM_COLUMNS = ("item_id", "title", "description", "categories")
REQUIRED_ITEM_COLUMNS = ("item_id",)


@dataclass(frozen=True)
class ReviewFormat:
    """Names of the columns of a review source (None: the source has no such column) and its peculiarities."""

    user_id: str
    item_id: str
    rating: str | None
    title: str | None
    text: str
    timestamp: str
    liked: str | None = None
    # Unit of a time that is a number: s, ms, or auto (by magnitude).
    time_unit: str = "auto"
    zero_is_no_rating: bool = False
    # The title stands in for an empty text.
    title_replaces_text: bool = False

    @property
    def columns(self) -> list[str]:
        """The columns of the source, in the order of REVIEW_COLUMNS, without those that it does not have."""
        names = (getattr(self, column) for column in REVIEW_COLUMNS)
        return [name for name in names if name is not None]


REVIEW_FORMATS: dict[str, ReviewFormat] = {
    "amazon_2023": ReviewFormat(
        user_id="user_id",
        item_id="parent_asin",
        rating="rating",
        title="title",
        text="text",
        timestamp="timestamp",
        time_unit="ms",
        title_replaces_text=True,
    ),
    "amazon_2014": ReviewFormat(
        user_id="reviewerID",
        item_id="asin",
        rating="overall",
        title="summary",
        text="reviewText",
        timestamp="unixReviewTime",
        time_unit="s",
        title_replaces_text=True,
    ),
    "yelp": ReviewFormat(
        user_id="user_id", item_id="business_id", rating="stars", title=None, text="text", timestamp="date"
    ),
    "goodreads": ReviewFormat(
        user_id="user_id",
        item_id="book_id",
        rating="rating",
        title=None,
        text="review_text",
        timestamp="date_added",
        zero_is_no_rating=True,
    ),
}


def detect_format(reviews_source: str, mapping: Mapping[str, str] | None = None) -> str:
    """The format of a review source, from the columns of its first file; a column mapping makes it generic.

    Raises SourceError, naming the file and what was found, if no format fits.
    """
    if mapping:
        return GENERIC
    path = find_files(reviews_source)[0]
    found = columns_of(path)
    for name, columns in REVIEW_FORMATS.items():
        if {columns.user_id, columns.item_id, columns.text, columns.timestamp} <= set(found):
            return name
    if set(REQUIRED_REVIEW_COLUMNS) <= set(found):
        return GENERIC
    raise SourceError(
        f"{path}: the format was not recognised. {_found(found)} State the format (one of {', '.join(FORMATS)}), or "
        f"map the columns {', '.join(REVIEW_COLUMNS)} to those of the source, for example rating=stars."
    )


def check_mapping(mapping: Mapping[str, str], source_format: str) -> None:
    """Raise SourceError if a mapping names a column that is not ours, or stands beside a format that has its own.

    Keys are our columns; `reviews.title` or `items.title` maps one source only, `title` both.
    """
    known = [*dict.fromkeys((*REVIEW_COLUMNS, *ITEM_COLUMNS))]
    for key, value in mapping.items():
        source, _, column = key.rpartition(".")
        ours = {"": known, "reviews": REVIEW_COLUMNS, "items": ITEM_COLUMNS}.get(source, ())
        if column not in ours or not value.strip():
            raise SourceError(
                f"Column mapping {key}={value} is not understood; write OUR_COLUMN=COLUMN_OF_THE_SOURCE, where ours "
                f"are {', '.join(known)} (for example rating=stars; reviews.title=headline maps one source only)."
            )
    if mapping and source_format not in (GENERIC, AUTO):
        raise SourceError(
            f"A column mapping is for generic sources; {source_format} has its own columns. Leave one out."
        )


def check_sources(
    reviews_source: str, items_source: str | None, source_format: str, mapping: Mapping[str, str]
) -> None:
    """Raise SourceError if the first file of either source is missing or lacks a required or a mapped column."""
    check_mapping(mapping, source_format)
    _review_format(source_format, mapping, find_files(reviews_source)[0])
    if items_source is not None:
        _item_format(source_format, mapping, find_files(items_source)[0])


def stage_reviews(
    connection: duckdb.DuckDBPyConnection,
    source: str,
    source_format: str,
    mapping: Mapping[str, str],
    settings: ReviewSettings,
) -> None:
    """Read a review source into the table `staged_reviews` of the connection, one row per row of the source.

    Columns: file_number, file, line, problem (NULL: usable), row_text (of unusable rows, cut), user_id, item_id,
    rating, liked, title, text, reviewed_at (TIMESTAMP, UTC). Raises SourceError as `find_files` and `columns_of` do,
    and if a file lacks a required or a mapped column.
    """
    create_time_macros(connection)
    connection.execute(
        "CREATE TABLE staged_reviews (file_number INTEGER, file VARCHAR, line BIGINT, problem VARCHAR, "
        "row_text VARCHAR, user_id VARCHAR, item_id VARCHAR, rating DOUBLE, liked BOOLEAN, title VARCHAR, "
        "text VARCHAR, reviewed_at TIMESTAMP)"
    )
    for number, path in enumerate(find_files(source)):
        columns = _review_format(source_format, mapping, path)
        statement = _insert_reviews(columns, settings)
        for batch in read_batches(path, columns.columns):
            connection.register("batch", pa.Table.from_batches(_chunks(batch), schema=batch.schema))
            connection.execute(statement, {"number": number, "file": str(path)})
            connection.unregister("batch")


def stage_items(
    connection: duckdb.DuckDBPyConnection, source: str, source_format: str, mapping: Mapping[str, str]
) -> None:
    """Read an item source into the table `staged_items` of the connection, one row per row of the source.

    Columns: file_number, file, line, problem (NULL: usable), row_text (of unusable rows, cut), item_id, title,
    description, categories (VARCHAR[]), attributes (JSON object of texts). Raises SourceError as `stage_reviews` does.
    """
    connection.execute(
        "CREATE TABLE staged_items (file_number INTEGER, file VARCHAR, line BIGINT, problem VARCHAR, row_text VARCHAR, "
        "item_id VARCHAR, title VARCHAR, description VARCHAR, categories VARCHAR[], attributes VARCHAR)"
    )
    for number, path in enumerate(find_files(source)):
        columns = _item_format(source_format, mapping, path)
        for batch in read_batches(path):
            rows = [
                parse_item(columns, text, problem)
                for text, problem in zip(batch["text"].to_pylist(), batch["problem"].to_pylist(), strict=True)
            ]
            parsed = pa.Table.from_pylist(rows, schema=ITEM_SCHEMA).append_column("line", batch["line"])
            connection.register("batch", parsed)
            connection.execute(
                "INSERT INTO staged_items BY NAME SELECT $number AS file_number, $file AS file, * FROM batch",
                {"number": number, "file": str(path)},
            )
            connection.unregister("batch")


def _review_format(source_format: str, mapping: Mapping[str, str], path: Path) -> ReviewFormat:
    """The columns of one file; rating, like and title may be absent, and are read wherever a row has them."""
    found = columns_of(path)
    if source_format == GENERIC:
        names = _generic_columns("reviews", REVIEW_COLUMNS, mapping, found, path)
        columns = ReviewFormat(
            user_id=names["user_id"],
            item_id=names["item_id"],
            rating=names["rating"],
            liked=names["liked"],
            title=names["title"],
            text=names["text"],
            timestamp=names["timestamp"],
        )
    elif source_format in REVIEW_FORMATS:
        columns = REVIEW_FORMATS[source_format]
    else:
        raise SourceError(f"Unknown source format {source_format!r}; known: {', '.join(FORMATS)}.")
    _require(columns, REQUIRED_REVIEW_COLUMNS, found, path, source_format)
    return columns


def _item_format(source_format: str, mapping: Mapping[str, str], path: Path) -> ItemFormat:
    found = columns_of(path)
    if source_format == GENERIC:
        names = _generic_columns("items", ITEM_COLUMNS, mapping, found, path)
        columns = ItemFormat(
            item_id=names["item_id"],
            title=names["title"],
            description=(names["description"],),
            categories=(names["categories"],),
        )
    elif source_format in ITEM_FORMATS:
        columns = ITEM_FORMATS[source_format]
    else:
        raise SourceError(f"Unknown source format {source_format!r}; known: {', '.join(FORMATS)}.")
    _require(columns, REQUIRED_ITEM_COLUMNS, found, path, source_format)
    return columns


def _generic_columns(
    kind: str, ours: Sequence[str], mapping: Mapping[str, str], found: list[str], path: Path
) -> dict[str, str]:
    """Our column -> column of the source; unmapped ones keep their name.

    A plain mapping of a column that reviews and items share holds where the source has the mapped column, so that one
    mapping serves two sources that differ. Anything else that is mapped and not there is an error: a misspelt mapping
    of an optional column would silently read nothing.
    """
    shared = set(REVIEW_COLUMNS) & set(ITEM_COLUMNS)
    names: dict[str, str] = {}
    for column in ours:
        stated = mapping.get(f"{kind}.{column}")
        name = stated or mapping.get(column)
        if name is None:
            names[column] = column
        elif not found or name in found:
            names[column] = name
        elif stated is None and column in shared:
            names[column] = column
        else:
            raise SourceError(f"{path}: column {name!r}, mapped to {column}, is not there. {_found(found)}")
    return names


def _require(columns: Any, required: Sequence[str], found: list[str], path: Path, source_format: str) -> None:
    # Without a readable row there is nothing to compare; the rows themselves will be rejected, with their lines.
    missing = [getattr(columns, column) for column in required if getattr(columns, column) not in found]
    if found and missing:
        raise SourceError(
            f"{path}: read as {source_format}, it lacks the column(s) {', '.join(missing)}. {_found(found)} "
            f"State another format ({', '.join(FORMATS)}) or map the columns, for example item_id=asin."
        )


def _found(found: list[str]) -> str:
    if not found:
        return "None of its first rows could be read."
    return f"Its columns are {', '.join(found[:40])}{', ...' if len(found) > 40 else ''}."


def _chunks(batch: pa.RecordBatch, rows: int = 4_096) -> list[pa.RecordBatch]:
    return [batch.slice(start, rows) for start in range(0, batch.num_rows, rows)]


def _insert_reviews(columns: ReviewFormat, settings: ReviewSettings) -> str:
    """The statement that parses the view `batch` into `staged_reviews`; parameters: number, file."""
    blanks = " || ".join(f"chr({ord(character)})" for character in BLANKS)
    names = columns.columns
    cells = {
        column: f"cells[{names.index(name) + 1}]" if (name := getattr(columns, column)) else "NULL::VARCHAR"
        for column in REVIEW_COLUMNS
    }
    pointers = ", ".join(_quote("/" + name.replace("~", "~0").replace("/", "~1")) for name in names)
    no_rating = "COALESCE(lower(rating_text), 'null') IN ('null', 'none', 'nan')"
    if columns.zero_is_no_rating:
        no_rating += " OR COALESCE(TRY_CAST(rating_text AS DOUBLE) = 0, FALSE)"
    low, high = settings.rating_min, settings.rating_max
    instead = ", title" if columns.title_replaces_text else ""
    return f"""
        INSERT INTO staged_reviews BY NAME
        WITH decoded AS (
            SELECT line, text AS row_text, problem AS file_problem,
                problem IS NULL AND json_valid(text) AS is_json,
                CASE WHEN is_json THEN json_type(text) END AS kind,
                CASE WHEN is_json THEN json_extract_string(text, [{pointers}]) END AS cells
            FROM batch
        ), trimmed AS (
            SELECT line, row_text, file_problem, kind,
                NULLIF(trim({cells["user_id"]}, {blanks}), '') AS user_id,
                NULLIF(trim({cells["item_id"]}, {blanks}), '') AS item_id,
                NULLIF(trim({cells["rating"]}, {blanks}), '') AS rating_text,
                NULLIF(lower(trim({cells["liked"]}, {blanks})), '') AS liked_text,
                trim(replace({cells["title"]}, chr(0), ''), {blanks}) AS given_title,
                trim(replace({cells["text"]}, chr(0), ''), {blanks}) AS given_text,
                NULLIF(trim({cells["timestamp"]}, {blanks}), '') AS time_text
            FROM decoded
        ), parsed AS (
            SELECT *,
                CASE WHEN {no_rating} THEN NULL ELSE TRY_CAST(rating_text AS DOUBLE) END AS rating,
                {no_rating} AS has_no_rating,
                CASE WHEN liked_text IN ('true', 't', 'yes', 'y', '1', '1.0') THEN TRUE
                     WHEN liked_text IN ('false', 'f', 'no', 'n', '0', '0.0') THEN FALSE END AS liked,
                COALESCE(liked_text, 'null') IN ('null', 'none', 'nan') AS has_no_like,
                -- Blank in any script, or nothing but marks that cannot be seen, is empty.
                CASE WHEN regexp_matches(given_title, '[^\\s\\pZ\\pC]') THEN given_title END AS title,
                COALESCE(CASE WHEN regexp_matches(given_text, '[^\\s\\pZ\\pC]') THEN given_text END{instead}) AS text,
                utc_time(time_text, '{columns.time_unit}') AS reviewed_at
            FROM trimmed
        ), judged AS (
            SELECT *, CASE
                WHEN file_problem IS NOT NULL THEN file_problem
                WHEN kind IS NULL THEN '{NOT_JSON}'
                WHEN kind <> 'OBJECT' THEN '{NOT_AN_OBJECT}'
                WHEN user_id IS NULL THEN 'no user'
                WHEN item_id IS NULL THEN '{NO_ITEM}'
                WHEN rating IS NULL AND NOT has_no_rating THEN 'rating is not a number'
                WHEN rating NOT BETWEEN {low!r} AND {high!r} THEN 'rating outside {low:g} to {high:g}'
                WHEN liked IS NULL AND NOT has_no_like THEN 'liked is neither yes nor no'
                WHEN time_text IS NULL THEN 'no time'
                WHEN reviewed_at IS NULL THEN 'time not understood'
                WHEN text IS NULL THEN 'empty text' END AS problem
            FROM parsed
        )
        SELECT $number AS file_number, $file AS file, line, problem,
            CASE WHEN problem IS NOT NULL THEN replace(left(row_text, {ROW_TEXT_CHARACTERS}), chr(0), '') END
                AS row_text,
            user_id, item_id, rating, liked, title, text, reviewed_at
        FROM judged
    """


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
