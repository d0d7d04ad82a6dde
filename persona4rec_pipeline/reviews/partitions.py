"""Replacing a partition by writing only the rows that differ.

Belongs here: the difference between a table and what it should hold, applied in the caller's transaction. Does not
belong here: where the new rows come from.

A table with a primary key is slow to rewrite: deleting and inserting half a million reviews takes DuckDB most of a
minute, under the lock, although the next night's source differs from the last one by a few hundred rows.
"""

from __future__ import annotations

import duckdb


def replace_changed_rows(
    connection: duckdb.DuckDBPyConnection, table: str, key: str, incoming: str, catalog: str | None = None
) -> int:
    """Make a table, or one catalogue of it, hold exactly the rows of the query `incoming`; returns rows written.

    `key` is the column that tells the rows of the partition apart. `incoming` has the columns of the table, by name; it
    is read several times. A row whose content is the same is not touched. Call it within a transaction.
    """
    columns = connection.execute(
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = ? "
        "AND table_catalog = current_database() AND table_schema = current_schema() ORDER BY ordinal_position",
        [table],
    ).fetchall()
    # The same types on both sides, or equal rows would have different hashes.
    typed = ", ".join(f'CAST("{name}" AS {kind}) AS "{name}"' for name, kind in columns)
    content = "hash(ROW({}))".format(", ".join(f'"{name}"' for name, _ in columns))
    partition = "TRUE" if catalog is None else "catalog = $catalog"
    parameters = {} if catalog is None else {"catalog": catalog}
    connection.execute(f"CREATE OR REPLACE TEMP VIEW incoming_rows AS SELECT {typed} FROM ({incoming})")
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE stale_rows AS
            SELECT {key} FROM (SELECT {key}, {content} AS content FROM {table} WHERE {partition})
            ANTI JOIN (SELECT {key}, {content} AS content FROM incoming_rows) USING ({key}, content)""",
        parameters,
    )
    connection.execute(
        f"DELETE FROM {table} WHERE {partition} AND {key} IN (SELECT {key} FROM stale_rows)",
        parameters,
    )
    written = connection.execute(
        f"""INSERT INTO {table} BY NAME SELECT * FROM incoming_rows
            ANTI JOIN (SELECT {key} FROM {table} WHERE {partition}) USING ({key})""",
        parameters,
    ).fetchone()
    row = connection.execute("SELECT count(*) FROM stale_rows").fetchone()
    connection.execute("DROP VIEW incoming_rows; DROP TABLE stale_rows")
    return (int(written[0]) if written else 0) + (int(row[0]) if row else 0)
