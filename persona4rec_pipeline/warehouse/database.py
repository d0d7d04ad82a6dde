"""A DuckDB file that several processes share: short transactions behind a file lock that the kernel frees on a crash.

DuckDB lets one read-write process exclude every other process, readers included, and fails at once instead of waiting.
So a connection lives only inside `read()` or `write()`, each under an `flock` on a file beside the database: shared for
readers, exclusive for the writer. Nothing may hold one while a model runs.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import duckdb
import pandas as pd

from persona4rec_pipeline.settings import Settings
from persona4rec_pipeline.warehouse.partitions import replace_changed_rows, would_change

# Between two looks at a taken lock, in seconds: short against a transaction, long against a system call.
LOCK_POLL_S = 0.02
# Derived tables that were declared otherwise before -> a column that only the present declaration has.
REDECLARED = {"candidates": "is_filled", "evaluation_report": "depth"}


class WarehouseBusy(TimeoutError):
    """Another process held the database longer than `warehouse.lock_timeout_s`."""


@dataclass(frozen=True)
class Database:
    """One DuckDB file and the SQL that declares its tables. Cheap to make and to copy; opens nothing by itself."""

    path: Path
    schema: str
    lock_timeout_s: float = 120.0
    memory_limit_gib: float = 2.0
    threads: int = 0

    @contextmanager
    def read(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection for reading; waits for a writer to finish, lets other readers in. Writing raises."""
        self._bring_up_to_date()
        with self._lock(fcntl.LOCK_SH), self._connect(read_only=True) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """One transaction: committed when the body ends, rolled back when it raises."""
        if not self.path.exists():
            self._create()
        with self._lock(fcntl.LOCK_EX), self._connect(read_only=False) as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def frame(self, query: str, parameters: Sequence[object] | Mapping[str, object] | None = None) -> pd.DataFrame:
        """The result of one query; for what a model or a page is about to read, not for moving rows."""
        with self.read() as connection:
            return connection.execute(query, parameters or []).df()

    def rows(self, query: str, parameters: Sequence[object] | Mapping[str, object] | None = None) -> list[tuple]:
        """The result of one query as tuples."""
        with self.read() as connection:
            return connection.execute(query, parameters or []).fetchall()

    def replace(
        self,
        table: str,
        rows: pd.DataFrame,
        catalog: str | None = None,
        within: tuple[str, Sequence[object]] | None = None,
    ) -> int:
        """Make a table, or one catalogue of it, hold exactly `rows`, in one transaction; returns rows written and removed.

        within: a column and values of it; only rows with one of these values are replaced. Columns are matched by name.
        Rows that are there already are not touched, and if nothing differs no transaction is made at all. An empty
        frame is a legitimate content and leaves an empty partition; callers that read a source make sure that a failed
        read raises instead.
        """
        conditions = ["TRUE"]
        parameters: dict[str, object] = {}
        if catalog is not None:
            conditions.append("catalog = $catalog")
            parameters["catalog"] = catalog
        if within is not None:
            conditions.append(f"{within[0]} IN (SELECT unnest($within))")
            parameters["within"] = list(within[1])
        scope = " AND ".join(conditions)
        incoming = "FROM incoming_frame" if len(rows) else f"FROM {table} LIMIT 0"
        rows = rows.reset_index(drop=True)  # DuckDB reads a frame with another index wrongly, or not at all
        with self.read() as connection:
            if len(rows):
                connection.register("incoming_frame", rows)
            if not would_change(connection, table, incoming, scope, parameters):
                return 0
        with self.write() as connection:
            if len(rows):
                connection.register("incoming_frame", rows)
            return replace_changed_rows(connection, table, incoming, scope, parameters)

    def content_version(self, table: str, catalog: str | None = None, ignore: Sequence[str] = ()) -> str:
        """A hash of the rows of a table (or of one catalogue in it), whatever their order; equal rows, equal version."""
        excluded = f" EXCLUDE ({', '.join(ignore)})" if ignore else ""
        where, parameters = ("", []) if catalog is None else (" WHERE catalog = ?", [catalog])
        with self.read() as connection:
            found = connection.execute(
                f"SELECT count(*), sum(hash(rows)::HUGEINT), bit_xor(hash(rows, 1)) "
                f"FROM (SELECT *{excluded} FROM {table}{where}) AS rows",
                parameters,
            ).fetchone()
        return hashlib.sha256(repr(found).encode()).hexdigest()[:16]

    def compact(self) -> None:
        """Write the file anew without the space of deleted rows, where their content can still be read; atomic."""
        aside = self.path.with_suffix(".compact")
        with self._lock(fcntl.LOCK_EX):
            aside.unlink(missing_ok=True)
            with duckdb.connect(":memory:", config={"memory_limit": f"{self.memory_limit_gib}GiB"}) as connection:
                for path, name in ((self.path, "stored"), (aside, "compacted")):
                    connection.execute(f"ATTACH '{str(path).replace(chr(39), chr(39) * 2)}' AS {name}")
                connection.execute("COPY FROM DATABASE stored TO compacted")
                connection.execute("DETACH compacted; DETACH stored")
            aside.replace(self.path)

    def _bring_up_to_date(self) -> None:
        """Make the file, or what an earlier version's file lacks: a reader cannot, and may be the first to come."""
        if not self.path.exists():
            self._create()
        known = (self.path, self.path.stat().st_ino, self.schema)
        if known in _UP_TO_DATE:
            return
        with self._lock(fcntl.LOCK_SH), self._connect(read_only=True) as connection:
            is_complete = _columns(connection) >= _declared(self.schema)
        if not is_complete:
            self._create()
        _UP_TO_DATE.add(known)

    def _create(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock(fcntl.LOCK_EX), self._connect(read_only=False):
            pass

    @contextmanager
    def _connect(self, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{self.memory_limit_gib}GiB",
            "temp_directory": str(self.path.with_suffix(".tmp")),
        }
        if self.threads:
            config["threads"] = self.threads
        connection = duckdb.connect(str(self.path), read_only=read_only, config=config)
        try:
            if not read_only:
                _drop_redeclared(connection)
                connection.execute(self.schema)
            yield connection
        finally:
            connection.close()

    @contextmanager
    def _lock(self, mode: int) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock_path = self.path.with_suffix(".lock")
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            deadline = time.monotonic() + self.lock_timeout_s
            while True:
                try:
                    fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        holder = lock_path.read_text().strip() or "unknown"
                        raise WarehouseBusy(
                            f"{self.path} was held by another process for {self.lock_timeout_s:.0f} s "
                            f"(last writer: process {holder}). Wait for it, stop it, or raise warehouse.lock_timeout_s."
                        ) from None
                    time.sleep(LOCK_POLL_S)
            if mode == fcntl.LOCK_EX:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(descriptor)


# Files whose tables were found to be as declared, in this process: path, inode, declaration.
_UP_TO_DATE: set[tuple[Path, int, str]] = set()


@cache
def _declared(schema: str) -> frozenset[tuple[str, str]]:
    """(table, column) of everything that a schema declares."""
    with duckdb.connect(":memory:") as connection:
        connection.execute(schema)
        return _columns(connection)


def _columns(connection: duckdb.DuckDBPyConnection) -> frozenset[tuple[str, str]]:
    found = connection.execute(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = current_database() AND NOT internal"
    ).fetchall()
    return frozenset((str(table), str(column)) for table, column in found)


def _drop_redeclared(connection: duckdb.DuckDBPyConnection) -> None:
    """Drop tables that have an earlier declaration; their assets are out of date by their code, and make them again."""
    for table, column in REDECLARED.items():
        columns = connection.execute(
            "SELECT column_name FROM duckdb_columns() WHERE table_name = ? AND database_name = current_database()",
            [table],
        ).fetchall()
        if columns and (column,) not in columns:
            connection.execute(f"DROP TABLE {table}")


def open_warehouse(settings: Settings) -> Database:
    """The warehouse of these settings."""
    return _database(settings, settings.warehouse_path, "schema.sql")


def open_ledger_database(settings: Settings) -> Database:
    """The file of the generation ledger of these settings."""
    return _database(settings, settings.ledger_path, "ledger.sql")


def _database(settings: Settings, path: Path, schema: str) -> Database:
    return Database(
        path=path,
        schema=files(__package__).joinpath(schema).read_text(),
        lock_timeout_s=settings.warehouse.lock_timeout_s,
        memory_limit_gib=settings.warehouse.memory_limit_gib,
        threads=settings.warehouse.threads,
    )
