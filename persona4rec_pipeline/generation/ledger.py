"""Every generation ever paid for, keyed by content, so that nothing is paid for twice and a killed run resumes.

Belongs here: reading and writing the `generations` table, and what it says about cost. Does not belong here: what a key
is made of and when a recorded answer is still good enough (`language_model.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import pandas as pd

from persona4rec_pipeline.warehouse import Database

# Columns of `generations` that a row carries, in order, with their types.
_KINDS = {
    "key": "VARCHAR",
    "task": "VARCHAR",
    "subject": "VARCHAR",
    "model": "VARCHAR",
    "template": "VARCHAR",
    "status": "VARCHAR",
    "answer": "VARCHAR",
    "probabilities": "JSON",
    "reason": "VARCHAR",
    "attempts": "INTEGER",
    "prompt_tokens": "BIGINT",
    "completion_tokens": "BIGINT",
}


@dataclass(frozen=True)
class LedgerRow:
    """One paid generation.

    answer: the last answer as the model gave it (parsed JSON, chosen string or text), before any check changed it; None
    when none could be parsed. A failed row keeps an answer that parsed, so that a later, laxer check can still use it.
    attempts, prompt_tokens, completion_tokens: summed over all tries.
    """

    key: str
    task: str
    subject: str
    model: str
    template: str
    status: Literal["ok", "failed"]
    answer: Any
    probabilities: dict[str, float] | None
    reason: str | None
    attempts: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class LedgerSummary:
    """What the ledger holds and what it has saved.

    generations: rows paid for; failed: those without a usable answer; hits: requests that were not paid for again.
    hit_rate: hits / (hits + generations), 0 for an empty ledger.
    by_task: one row per task and model: task, model, generations, failed, hits, prompt_tokens, completion_tokens.
    """

    generations: int
    failed: int
    hits: int
    hit_rate: float
    by_task: pd.DataFrame


class Ledger:
    """The ledger in one DuckDB file; safe to share between processes, as every call is one short transaction."""

    def __init__(self, database: Database):
        self.database = database

    def lookup(self, keys: Iterable[str]) -> dict[str, LedgerRow]:
        """The rows of those keys that are known, in one query."""
        found = self.database.rows(
            f"SELECT {', '.join(_KINDS)} FROM generations WHERE key IN (SELECT unnest(?::VARCHAR[]))", [list(keys)]
        )
        rows: dict[str, LedgerRow] = {}
        for key, task, subject, model, template, status, answer, probabilities, *rest in found:
            rows[key] = LedgerRow(
                key,
                task,
                subject,
                model,
                template,
                status,
                None if answer is None else json.loads(answer),
                None if probabilities is None else json.loads(probabilities),
                *rest,
            )
        return rows

    def record(self, rows: Iterable[LedgerRow], hits: Mapping[str, int] | None = None) -> None:
        """Write new rows and count hits (key -> how many) in one transaction.

        A row that is there already is replaced if it failed and kept if it is ok: whoever paid first wins.
        """
        columns = _columns(rows)
        if not columns["key"] and not hits:
            return
        with self.database.write() as connection:
            if columns["key"]:
                connection.execute(
                    "INSERT INTO generations BY NAME SELECT "
                    + ", ".join(f"unnest(${name}::{kind}[]) AS {name}" for name, kind in _KINDS.items())
                    + ", $created_at::TIMESTAMP AS created_at ON CONFLICT (key) DO UPDATE SET "
                    + ", ".join(f"{name} = excluded.{name}" for name in _KINDS if name != "key")
                    + ", created_at = excluded.created_at WHERE generations.status = 'failed'",
                    {**columns, "created_at": datetime.now(UTC).replace(tzinfo=None)},
                )
            if hits:
                connection.execute(
                    "UPDATE generations SET hits = hits + counted.n FROM "
                    "(SELECT unnest(?::VARCHAR[]) AS key, unnest(?::BIGINT[]) AS n) AS counted "
                    "WHERE generations.key = counted.key",
                    [list(hits), list(hits.values())],
                )

    def summary(self) -> LedgerSummary:
        """Size, savings and tokens; see LedgerSummary."""
        by_task = self.database.frame(
            "SELECT task, model, count(*) AS generations, count_if(status = 'failed') AS failed, "
            "sum(hits)::BIGINT AS hits, sum(prompt_tokens)::BIGINT AS prompt_tokens, "
            "sum(completion_tokens)::BIGINT AS completion_tokens FROM generations GROUP BY ALL ORDER BY task, model"
        )
        generations, failed, hits = (int(by_task[name].sum()) for name in ("generations", "failed", "hits"))
        return LedgerSummary(generations, failed, hits, hits / max(hits + generations, 1), by_task)

    def forget(self, *subject_prefixes: str) -> int:
        """Delete what was made for these subjects and for everything below them; returns the number of rows.

        A prefix is whole path segments: `books/review/ab1` covers `books/review/ab1` and `books/review/ab1/title`, not
        `books/review/ab12`. A row is filed under the first subject that asked: an answer that two subjects share
        because their prompts are the same, letter by letter, goes with that one. Raises ValueError for an empty prefix.
        """
        prefixes = [prefix.rstrip("/") for prefix in subject_prefixes]
        if not all(prefixes):
            raise ValueError("An empty prefix would forget the whole ledger; delete its file if that is meant.")
        with self.database.write() as connection:
            deleted = connection.execute(
                "DELETE FROM generations WHERE key IN (SELECT key FROM generations JOIN "
                "(SELECT unnest(?::VARCHAR[]) AS prefix) ON subject = prefix OR starts_with(subject, prefix || '/')) "
                "RETURNING key",
                [prefixes],
            )
            return len(deleted.fetchall())


def _columns(rows: Iterable[LedgerRow]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in _KINDS}
    for row in rows:
        for name in _KINDS:
            value = getattr(row, name)
            if name in {"answer", "probabilities"} and value is not None:
                value = json.dumps(value, ensure_ascii=False)
            columns[name].append(value)
    return columns
