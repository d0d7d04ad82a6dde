"""Files of a source, read row by row: which files there are, how each is packed, and where every row stands.

Belongs here: finding the files of a source; JSON lines, CSV, Parquet and Python-literal lines, plain or gzipped; the
line number of every row. Does not belong here: what a column means; that is `sources.py`.

Every container becomes the same stream: Arrow batches of (line, text, problem), `text` being one JSON object per row.
Lines are cut here, in binary, and not by DuckDB's CSV or JSON readers: those skip blank and undecodable lines, drop
what follows a lone carriage return and cut a line at the delimiter, so that a bad row would be reported with the wrong
line or not at all. Reading is a small part of an ingest; the parsing of the rows is DuckDB's.
"""

from __future__ import annotations

import ast
import csv
import glob
import gzip
import io
import json
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa

Container = Literal["json_lines", "python_lines", "csv", "parquet"]

# Files of a folder that are read; anything else in it (a README, a checksum) is left alone.
EXTENSIONS: dict[str, Container] = {
    ".json": "json_lines",
    ".jsonl": "json_lines",
    ".ndjson": "json_lines",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
CSV_DELIMITERS = ",\t;|"
# A line longer than this is not a review; without a bound, a file without line ends would be read into memory whole.
MAX_LINE_BYTES = 16 * 2**20
# A batch ends at whichever comes first, so memory stays bounded for long rows and for many.
BATCH_ROWS = 65_536
BATCH_CHARACTERS = 32 * 2**20
# DuckDB spreads the chunks of a batch over its threads.
CHUNK_ROWS = 4_096
# Rows that are looked at to learn the columns of a file without a header.
PROBE_ROWS = 1_000

ROW_SCHEMA = pa.schema([("line", pa.int64()), ("text", pa.large_string()), ("problem", pa.string())])

NOT_UTF8 = "not valid UTF-8"
TOO_LONG = f"line longer than {MAX_LINE_BYTES // 2**20} MiB"
NOT_CSV = "not a valid CSV row"

# What reading a damaged or vanished file raises.
_READ_ERRORS = (OSError, EOFError, zlib.error)
# What parsing a line that is not JSON raises; RecursionError: nested too deeply.
JSON_ERRORS = (ValueError, RecursionError)
# What ast.literal_eval raises on a line that is no Python literal, and json.dumps on a literal that JSON cannot hold.
_LITERAL_ERRORS = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)

# Line number (from 1), the row as JSON text, and why it cannot be used (None: it may be).
Row = tuple[int, str, str | None]


class SourceError(ValueError):
    """A source is missing, empty, damaged or not understood; the message names the file and says how to mend it."""


def find_files(source: str) -> list[Path]:
    """The files of a source, sorted by path: a file, a glob (`data/part-*.json.gz`) or a folder with all below it.

    Of a folder, files named .json, .jsonl, .ndjson, .csv, .tsv or .parquet are read, each also with .gz; hidden ones
    are not. Of a glob, files of other names are read only if it matches none of these. Raises SourceError if there is
    none, or if all are empty: a failed read must never look like an empty source.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        found = [
            file
            for file in path.rglob("*")
            if file.is_file() and extension_of(file) in EXTENSIONS and not _is_hidden(file.relative_to(path))
        ]
        nothing = f"Source {source} is a folder without any data file ({', '.join(EXTENSIONS)}, each also with .gz)."
    elif path.is_file():
        found, nothing = [path], ""
    elif any(character in source for character in "*?["):
        names = glob.glob(str(path), recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
        found = [Path(name) for name in names if Path(name).is_file()]
        found = [file for file in found if extension_of(file) in EXTENSIONS] or found
        nothing = f"No file matches source {source}."
    else:
        raise SourceError(f"Source {source} does not exist. Give a file, a folder or a glob.")
    if not found:
        raise SourceError(nothing)
    try:
        empty = not any(file.stat().st_size for file in found)
    except OSError as error:
        raise SourceError(f"Source {source} cannot be read: {error}.") from error
    if empty:
        raise SourceError(f"Source {source} is empty ({len(found)} file(s) of 0 bytes); was it copied completely?")
    return sorted(found)


def container_of(path: Path) -> Container:
    """How the rows of a file are packed: by its name, or by its first bytes where the name does not tell.

    Raises SourceError for a JSON array, which cannot be read row by row.
    """
    named = EXTENSIONS.get(extension_of(path))
    if named in ("csv", "parquet"):
        return named
    with _open(path) as stream:
        try:
            head = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        except _READ_ERRORS as error:
            raise _damaged(path, error) from error
    if named is None and head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"["):
        raise SourceError(f"{path} is one JSON array; one JSON object per line is needed (jq -c '.[]' makes that).")
    if named is None and head and not head.startswith(b"{"):
        return "csv"
    for _, text, problem in islice(_json_lines(path), PROBE_ROWS):
        if problem is None and parse_object(text) is not None:
            return "json_lines"
        if problem is None and literal_as_json(text) is not None:
            return "python_lines"
    return "json_lines"


def columns_of(path: Path) -> list[str]:
    """Names of the columns of a file: its header, or the keys of its first rows, in order of appearance.

    Empty if none of the first rows could be read.
    """
    container = container_of(path)
    if container == "parquet":
        return _parquet_columns(path)
    if container == "csv":
        return _csv_header(path)
    names: dict[str, None] = {}
    for _, text, problem in islice(_rows(path, container), PROBE_ROWS):
        row = parse_object(text) if problem is None else None
        names.update(dict.fromkeys(row or {}))
    return list(names)


def read_batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """All rows of a file but blank lines, as batches of ROW_SCHEMA, in file order; memory stays bounded.

    `line` counts from 1: the line on which the row starts (blank lines and the header count), or the row of a Parquet
    file. `columns` limits what is read of a Parquet file. `text` of a row with a problem is the raw row, as far as it
    can be shown. Raises SourceError if the file is damaged or vanishes.
    """
    container = container_of(path)
    if container == "parquet":
        yield from _parquet_batches(path, columns)
        return
    rows: list[Row] = []
    characters = 0
    for row in _rows(path, container):
        rows.append(row)
        characters += len(row[1])
        if len(rows) >= BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield _batch(rows)
            rows, characters = [], 0
    if rows:
        yield _batch(rows)


def parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object in a text, or None if it is anything else."""
    try:
        value = json.loads(text)
    except JSON_ERRORS:
        return None
    return value if isinstance(value, dict) else None


def literal_as_json(text: str) -> str | None:
    """A Python dictionary literal as JSON text, or None if it is anything else. Runs no code (`ast.literal_eval`)."""
    value = parse_literal(text)
    if not isinstance(value, dict):
        return None
    try:
        return json.dumps(value, default=str, skipkeys=True)
    except _LITERAL_ERRORS:
        return None


def parse_literal(text: str) -> Any:
    """The value of a Python literal (`"u'free'"` -> `'free'`), or None if it is none. Runs no code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's text
        try:
            return ast.literal_eval(text.strip())
        except _LITERAL_ERRORS:
            return None


def without_surrogates(text: str) -> str:
    """The text with what UTF-8 cannot hold replaced, so that Arrow and DuckDB take it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape" if _only_escapes(text) else "replace").decode("utf-8", "replace")
    return text


def _only_escapes(text: str) -> bool:
    return not any("\ud800" <= character < "\udc80" or "\udcff" < character <= "\udfff" for character in text)


def extension_of(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _damaged(path: Path, error: BaseException) -> SourceError:
    return SourceError(f"{path} cannot be read ({type(error).__name__}: {error}); was it copied completely?")


def _open(path: Path) -> io.BufferedReader[Any]:
    """The bytes of a file, unpacked if it is gzipped, whatever its name."""
    try:
        with path.open("rb") as file:
            gzipped = file.read(2) == b"\x1f\x8b"
        if gzipped:
            return io.BufferedReader(gzip.open(path, "rb"), buffer_size=2**20)
        return io.BufferedReader(path.open("rb", buffering=0), buffer_size=2**20)
    except OSError as error:
        raise _damaged(path, error) from error


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """(line number, bytes without line end, whether the line was too long and is cut)."""
    with _open(path) as stream:
        number = 0
        try:
            while raw := stream.readline(MAX_LINE_BYTES):
                number += 1
                cut = len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n")
                rest = raw
                while cut and rest and not rest.endswith(b"\n"):
                    rest = stream.readline(MAX_LINE_BYTES)
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                yield number, raw[:4096] if cut else raw, cut
        except _READ_ERRORS as error:
            raise _damaged(path, error) from error


def _rows(path: Path, container: Container) -> Iterator[Row]:
    if container == "csv":
        return _csv_rows(path)
    if container == "python_lines":
        return _python_lines(path)
    return _json_lines(path)


def _json_lines(path: Path) -> Iterator[Row]:
    for number, raw, cut in _raw_lines(path):
        if cut:
            yield number, raw.decode("utf-8", "replace"), TOO_LONG
            continue
        raw = raw.strip()
        if not raw:
            continue
        try:
            yield number, raw.decode(), None
        except UnicodeDecodeError:
            yield number, raw.decode("utf-8", "replace"), NOT_UTF8


def _python_lines(path: Path) -> Iterator[Row]:
    for number, text, problem in _json_lines(path):
        yield number, (literal_as_json(text) or text) if problem is None else text, problem


def _csv_lines(path: Path) -> Iterator[str]:
    for number, raw, cut in _raw_lines(path):
        if cut:
            raise SourceError(f"{path}:{number}: {TOO_LONG}; a file without line ends is not CSV.")
        # Undecodable bytes travel as surrogates, to be found in the row that has them.
        yield raw.decode("utf-8", "surrogateescape")


def _csv_reader(path: Path, lines: Iterable[str], delimiter: str) -> Any:
    # A limit of the process, only ever raised: csv refuses fields above 128 KiB otherwise.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    return csv.reader(lines, delimiter=delimiter, strict=True)


def _csv_delimiter(path: Path) -> str:
    for line in _csv_lines(path):
        if line.strip():
            return max(CSV_DELIMITERS, key=line.count)
    raise SourceError(f"{path} has no header line; was it copied completely?")


def _csv_header(path: Path) -> list[str]:
    delimiter = _csv_delimiter(path)
    try:
        header = next(row for row in _csv_reader(path, _csv_lines(path), delimiter) if row)
    except csv.Error as error:
        raise SourceError(f"{path}: the header line is not CSV ({error}).") from error
    names = [without_surrogates(name.strip()) for name in header]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise SourceError(f"{path}: column names repeat in the header: {', '.join(map(repr, repeated))}.")
    return names


def _csv_rows(path: Path) -> Iterator[Row]:
    delimiter, names = _csv_delimiter(path), _csv_header(path)
    reader = _csv_reader(path, _csv_lines(path), delimiter)
    header_seen = False
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise SourceError(
                    f"{path}: a quoted field in the row that starts on line {start} is never closed. "
                    "Close it; what follows it cannot be told apart from it."
                ) from error
            yield start, f"({error})", NOT_CSV
            continue
        if not fields:
            continue
        if not header_seen:
            header_seen = True
        elif len(fields) != len(names):
            yield start, without_surrogates(delimiter.join(fields)), "not as many fields as the header"
        else:
            text = json.dumps(
                {name: field or None for name, field in zip(names, fields, strict=True)}, ensure_ascii=False
            )
            clean = without_surrogates(text)
            yield start, clean, None if clean is text else NOT_UTF8


def _parquet_connection() -> duckdb.DuckDBPyConnection:
    # Nothing may be fetched from the network, and one thread keeps the rows in file order.
    return duckdb.connect(config={"autoinstall_known_extensions": False, "threads": 1, "memory_limit": "1GiB"})


def _parquet_columns(path: Path) -> list[str]:
    with _parquet_connection() as connection:
        try:
            rows = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [[_literal_path(path)]]).fetchall()
        except duckdb.Error as error:
            raise _damaged(path, error) from error
    return [name for name, *_ in rows]


def _parquet_batches(path: Path, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    known = _parquet_columns(path)
    wanted = [name for name in known if columns is None or name in columns]
    quoted = ", ".join('"' + name.replace('"', '""') + '"' for name in wanted)
    row = f"to_json((SELECT chosen FROM (SELECT {quoted}) AS chosen))" if wanted else "'{}'"
    with _parquet_connection() as connection:
        try:
            reader = connection.execute(
                f"SELECT file_row_number + 1 AS line, CAST({row} AS VARCHAR) AS text, NULL::VARCHAR AS problem "
                "FROM read_parquet(?, file_row_number = true)",
                [[_literal_path(path)]],
            ).to_arrow_reader(BATCH_ROWS)
            for batch in reader:
                yield batch.cast(ROW_SCHEMA)
        except duckdb.Error as error:
            raise _damaged(path, error) from error


def _literal_path(path: Path) -> str:
    return glob.escape(str(path))


def _batch(rows: list[Row]) -> pa.RecordBatch:
    lines, texts, problems = zip(*rows, strict=True)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(lines, pa.int64()),
            pa.array([without_surrogates(text) for text in texts], pa.large_string()),
            pa.array(problems, pa.string()),
        ],
        schema=ROW_SCHEMA,
    )
