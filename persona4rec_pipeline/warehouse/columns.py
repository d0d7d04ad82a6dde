"""What `schema.sql` says of the columns of a table, for those who show it.

Belongs here: reading the declarations. Does not belong here: the declarations themselves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import duckdb

_TABLE = re.compile(r"^CREATE TABLE IF NOT EXISTS (\w+) \((.*?)^\);", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"^ +(\w+) .*?-- (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Column:
    """One column; `description` is the comment beside it, None without one."""

    name: str
    type: str
    is_nullable: bool
    description: str | None


@cache
def declared_tables() -> dict[str, list[Column]]:
    """Every table of the warehouse and its columns, in the order of declaration."""
    schema = files(__package__).joinpath("schema.sql").read_text()
    comments = {table: dict(_COMMENT.findall(body)) for table, body in _TABLE.findall(schema)}
    with duckdb.connect(":memory:") as connection:
        connection.execute(schema)
        rows = connection.execute(
            "SELECT table_name, column_name, data_type, is_nullable = 'YES' FROM information_schema.columns "
            "ORDER BY table_name, ordinal_position"
        ).fetchall()
    tables: dict[str, list[Column]] = {table: [] for table in comments}
    for table, name, kind, is_nullable in rows:
        tables[table].append(Column(name, kind, is_nullable, comments[table].get(name)))
    return tables
