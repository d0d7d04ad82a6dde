"""The record of what was paid for."""

from __future__ import annotations

from dataclasses import replace

import duckdb
import pytest

from persona4rec_pipeline.generation.ledger import LedgerRow
from persona4rec_tests.generation.scripted import ledger_in


def row(key, **changes):
    fields = {
        "key": key,
        "task": "aspects",
        "subject": f"books/review/{key}",
        "model": "m",
        "template": "t",
        "status": "ok",
        "answer": {"x": ["é", None, 1.5]},
        "probabilities": None,
        "reason": None,
        "attempts": 1,
        "prompt_tokens": 100,
        "completion_tokens": 10,
    }
    return LedgerRow(**{**fields, **changes})


def test_rows_come_back_as_they_were_written(tmp_path):
    ledger = ledger_in(tmp_path)
    rows = [
        row("a"),
        row("b", answer="A", probabilities={"A": 0.9, "B": 0.1}),
        row("c", status="failed", answer=None, reason="truncated", attempts=2),
        row("d", answer="'; DROP TABLE generations; --"),
    ]
    ledger.record(rows)
    assert ledger.lookup(["a", "b", "c", "d", "unknown"]) == {each.key: each for each in rows}
    assert ledger.lookup([]) == {}


def test_whoever_paid_first_for_an_ok_row_wins_and_a_failed_one_is_replaced(tmp_path):
    ledger = ledger_in(tmp_path)
    ledger.record([row("a"), row("b", status="failed", answer=None, reason="no")])
    ledger.record([row("a", answer="later"), row("b", answer="later", attempts=3)])
    found = ledger.lookup(["a", "b"])
    assert found["a"] == row("a")
    assert found["b"] == row("b", answer="later", attempts=3)


def test_the_summary_says_what_was_paid_and_what_was_saved(tmp_path):
    ledger = ledger_in(tmp_path)
    assert ledger.summary().hit_rate == 0 and ledger.summary().generations == 0
    ledger.record([row("a"), row("b", status="failed"), row("c", task="judge", model="n")], hits={"a": 2})
    ledger.record([], hits={"a": 2, "c": 2})
    summary = ledger.summary()
    assert (summary.generations, summary.failed, summary.hits, summary.hit_rate) == (3, 1, 6, 6 / 9)
    assert summary.by_task.to_dict("records") == [
        {"task": "aspects", "model": "m", "generations": 2, "failed": 1, "hits": 4}
        | {"prompt_tokens": 200, "completion_tokens": 20},
        {"task": "judge", "model": "n", "generations": 1, "failed": 0, "hits": 2}
        | {"prompt_tokens": 100, "completion_tokens": 10},
    ]


def test_forgetting_takes_whole_path_segments(tmp_path):
    ledger = ledger_in(tmp_path)
    subjects = ["books/review/ab1", "books/review/ab1/title", "books/review/ab12", "book", "books2/review/ab1"]
    ledger.record([row(str(n), subject=subject) for n, subject in enumerate(subjects)])
    assert ledger.forget("books/review/ab1") == 2
    assert ledger.forget("books/review/ab1") == 0
    assert set(ledger.lookup("01234")) == {"2", "3", "4"}
    assert ledger.forget("books/") == 1
    with pytest.raises(ValueError):
        ledger.forget("/")


def test_a_failed_transaction_leaves_nothing_behind(tmp_path):
    ledger = ledger_in(tmp_path)
    with pytest.raises(duckdb.ConstraintException):
        ledger.record([row("a"), replace(row("b"), status="neither")])
    assert ledger.lookup(["a", "b"]) == {}
