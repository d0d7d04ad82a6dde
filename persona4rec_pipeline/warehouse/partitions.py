"""Replacing a table, or part of it, by writing only the rows that differ.

Belongs here: the difference between a table and what it should hold, applied in the caller's transaction. Does not
belong here: where the new rows come from.

A table with a primary key is slow to rewrite: deleting and inserting half a million reviews takes DuckDB most of a
minute, under the lock, although the next night's source differs from the last one by a few hundred rows. And a refresh
that changes nothing should write nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import duckdb


def replace_changed_rows(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    incoming: str,
    scope: str = "TRUE",
    parameters: Mapping[str, Any] | None = None,
) -> int:
    """Make a table, or the rows of it that fit `scope`, hold exactly the rows of the query `incoming`.

    scope: a condition over the columns of the table, such as `catalog = $catalog`, with its `parameters`; all rows of
    `incoming` fit it. `incoming` has the columns of the table, by name; it is read several times. Rows are told apart
    by the table's primary key; a row whose content is the same is not touched. Call it within a transaction.

    Returns the rows written and removed.
    """
    key = _find_difference(connection, table, incoming, scope, parameters or {})
    removed = _count(connection, "stale_rows")
    connection.execute(f"DELETE FROM {table} WHERE ({key}) IN (SELECT ({key}) FROM stale_rows)")
    written = _count(connection, "fresh_rows")
    connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM fresh_rows")
    connection.execute("DROP TABLE stale_rows; DROP TABLE fresh_rows; DROP VIEW incoming_rows")
    return removed + written


def would_change(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    incoming: str,
    scope: str = "TRUE",
    parameters: Mapping[str, Any] | None = None,
) -> bool:
    """Whether `replace_changed_rows` with the same arguments would write; a connection for reading is enough."""
    _find_difference(connection, table, incoming, scope, parameters or {})
    return bool(_count(connection, "stale_rows") or _count(connection, "fresh_rows"))


def _find_difference(
    connection: duckdb.DuckDBPyConnection, table: str, incoming: str, scope: str, parameters: Mapping[str, Any]
) -> str:
    """Fill the temporary tables `stale_rows` (keys to delete) and `fresh_rows` (rows to insert); the key's columns.

    A changed row is in both.
    """
    columns = connection.execute(
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = ? "
        "AND table_catalog = current_database() AND table_schema = current_schema() ORDER BY ordinal_position",
        [table],
    ).fetchall()
    found = connection.execute(
        "SELECT constraint_column_names FROM duckdb_constraints() "
        "WHERE table_name = ? AND constraint_type = 'PRIMARY KEY' AND database_name = current_database()",
        [table],
    ).fetchone()
    if found is None:
        raise ValueError(f"Table {table} has no primary key, which tells its rows apart; declare one in schema.sql.")
    key = ", ".join(f'"{name}"' for name in found[0])
    # The same types on both sides, or equal rows would have different hashes.
    typed = ", ".join(f'CAST("{name}" AS {kind}) AS "{name}"' for name, kind in columns)
    content = "hash(ROW({}))".format(", ".join(f'"{name}"' for name, _ in columns))
    # By name with an empty copy of the table: columns that the query leaves out are NULL.
    connection.execute(
        f"CREATE OR REPLACE TEMP VIEW incoming_rows AS SELECT {typed} FROM "
        f"((FROM {table} LIMIT 0) UNION ALL BY NAME ({incoming}))"
    )
    stored = f"(SELECT {key}, {content} AS content FROM {table} WHERE {scope})"
    arriving = f"(SELECT {key}, {content} AS content FROM incoming_rows)"
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE stale_rows AS SELECT {key} FROM {stored} ANTI JOIN {arriving} "
        f"USING ({key}, content)",
        dict(parameters),
    )
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE fresh_rows AS SELECT * FROM incoming_rows SEMI JOIN "
        f"(SELECT {key} FROM {arriving} ANTI JOIN {stored} USING ({key}, content)) USING ({key})",
        dict(parameters),
    )
    return key


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(row[0]) if row else 0
