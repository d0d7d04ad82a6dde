"""Requests in, checked results out: order, keys, retries, chunks, and what is never paid for twice."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest

from persona4rec_pipeline.generation import (
    BudgetReached,
    GenerationError,
    InvalidAnswer,
    LanguageModel,
    Message,
    Request,
)
from persona4rec_pipeline.generation import progress as progress_module
from persona4rec_pipeline.generation.engine import Answer
from persona4rec_tests.generation.scripted import ScriptedEngine, ask, cut_off, echo, ledger_in, settings_in


def model(tmp_path, script=echo, ledger=True, **generation):
    engine = ScriptedEngine(script)
    settings = settings_in(tmp_path, **generation)
    return LanguageModel(settings, ledger_in(tmp_path) if ledger else None, engine=engine), engine


def test_results_come_in_the_order_of_the_requests_whatever_is_known_already(tmp_path):
    llm, _ = model(tmp_path, checkpoint_every=3)
    list(llm.generate([ask("5"), ask("1")]))
    results = list(llm.generate(ask(str(n)) for n in range(8)))
    assert [result.value for result in results] == [str(n) for n in range(8)]
    assert [result.from_ledger for result in results] == [n in {1, 5} for n in range(8)]


def test_a_second_run_pays_nothing_and_does_not_start_the_engine(tmp_path):
    requests = [ask("a"), ask("b", schema={"type": "object"}), ask("C", choices=("C", "D"))]
    script = {"a": "a", "b": '{"x": 1}', "C": Answer("C", True, 10, 1, {"C": 0.75, "D": 0.25})}
    llm, _ = model(tmp_path, lambda prompt: script[echo(prompt)])
    first = list(llm.generate(requests))
    again, engine = model(tmp_path)
    second = list(again.generate(requests))
    assert engine.starts == 0 and engine.batches == []
    assert [replace(result, from_ledger=False) for result in second] == first
    assert all(result.from_ledger for result in second)
    assert again.stats.hits == 3 and again.stats.generated == 0 and again.stats.completion_tokens == 0


def test_what_would_be_paid_for_is_counted_without_asking(tmp_path):
    llm, engine = model(tmp_path)
    list(llm.generate([ask("1")]))
    assert llm.count_unpaid([ask("1"), ask("2"), ask("2"), ask("3")]) == 2
    assert len(engine.batches) == 1


def test_no_result_is_yielded_before_its_chunk_is_in_the_ledger(tmp_path):
    llm, engine = model(tmp_path, checkpoint_every=4)
    stream = llm.generate([ask(str(n)) for n in range(10)])
    assert engine.batches == []
    next(stream)
    assert ledger_in(tmp_path).summary().generations == 4
    assert [len(batch) for batch in engine.batches] == [4]


def test_a_chunk_takes_one_read_and_one_write_however_much_it_holds(tmp_path):
    llm, _ = model(tmp_path, checkpoint_every=5)
    list(llm.generate([ask("0"), ask("1")]))
    counted = CountingDatabase(llm.ledger.database)
    llm.ledger.database = counted
    list(llm.generate([ask(str(n % 9)) for n in range(10)]))
    assert (counted.reads, counted.writes) == (2, 2)


def test_a_crash_repeats_the_running_chunk_and_nothing_else(tmp_path):
    def breaks_at_six(prompt):
        if echo(prompt) == "6":
            raise GenerationError("the machine went away")
        return echo(prompt)

    requests = [ask(str(n)) for n in range(9)]
    llm, _ = model(tmp_path, breaks_at_six, checkpoint_every=4)
    with pytest.raises(GenerationError):
        list(llm.generate(requests))
    llm, engine = model(tmp_path, checkpoint_every=4)
    assert all(result.ok for result in llm.generate(requests))
    assert [echo(prompt) for prompt in engine.prompts] == ["4", "5", "6", "7", "8"]


def test_the_same_question_twice_in_a_chunk_is_asked_once(tmp_path):
    llm, engine = model(tmp_path)
    requests = [ask("a"), ask("b"), ask("a", subject="books/review/other")]
    results = list(llm.generate(requests))
    assert [result.request for result in results] == requests
    assert [result.value for result in results] == ["a", "b", "a"]
    assert len(engine.prompts) == 2
    assert [result.from_ledger for result in results] == [False, False, True]
    assert llm.ledger.summary().hits == 1


def test_an_unusable_answer_is_tried_again_warmer_and_with_another_seed(tmp_path):
    def good_at_the_third(prompt):
        return "bad" if len(engine.prompts) < 3 else "good"

    llm, engine = model(tmp_path, good_at_the_third, max_retries=2, retry_temperature=0.7)
    (result,) = llm.generate([ask("a")], check=must_be_good)
    assert result.ok and result.attempts == 3 and result.prompt_tokens == 30 and result.completion_tokens == 15
    assert [prompt.temperature for prompt in engine.prompts] == [0.0, 0.7, 0.7]
    assert engine.prompts[0].seed is None
    assert engine.prompts[1].seed != engine.prompts[2].seed
    assert llm.stats.retried == 2 and llm.stats.by_task["test"].generated == 1


def test_only_the_unusable_answers_of_a_chunk_are_tried_again(tmp_path):
    llm, engine = model(tmp_path, max_retries=1)
    list(llm.generate([ask("good"), ask("bad"), ask("good", max_tokens=9)], check=must_be_good))
    assert [[echo(prompt) for prompt in batch] for batch in engine.batches] == [["good", "bad", "good"], ["bad"]]


def test_what_stays_unusable_is_recorded_as_failed_with_its_reason_and_not_paid_for_again(tmp_path):
    llm, _ = model(tmp_path, max_retries=1)
    (result,) = llm.generate([ask("bad")], check=must_be_good)
    assert (result.status, result.value, result.reason, result.attempts) == ("failed", None, "not good", 2)
    again, engine = model(tmp_path, max_retries=1)
    (result,) = again.generate([ask("bad")], check=must_be_good)
    assert (result.status, result.reason, result.from_ledger) == ("failed", "not good", True)
    assert engine.batches == []
    assert again.stats.failed == again.stats.hits == 1


def test_more_retries_go_on_where_a_failed_row_left_off(tmp_path):
    llm, engine = model(tmp_path, max_retries=1)
    list(llm.generate([ask("bad"), ask("good")], check=must_be_good))
    seeds = {prompt.seed for prompt in engine.prompts}
    more, engine = model(tmp_path, max_retries=3)
    bad, good = more.generate([ask("bad"), ask("good")], check=must_be_good)
    assert [prompt.temperature > 0 and prompt.seed not in seeds for prompt in engine.prompts] == [True, True]
    assert bad.attempts == 4 and bad.prompt_tokens == 40 and good.from_ledger


def test_a_truncated_answer_is_not_an_answer(tmp_path):
    llm, _ = model(tmp_path, lambda prompt: cut_off('{"x": 1}'), max_retries=0)
    for request in (ask("a"), ask("b", schema={"type": "object"})):
        (result,) = llm.generate([request])
        assert result.status == "failed" and "truncated at max_tokens=256" in result.reason


def test_a_choice_that_fills_its_tokens_is_complete(tmp_path):
    llm, _ = model(tmp_path, lambda prompt: cut_off("A"), max_retries=0)
    (result,) = llm.generate([ask("a", choices=("A", "B"))])
    assert result.ok and result.value == "A"


@pytest.mark.parametrize(
    ("said", "changes", "reason"),
    [
        ("not json", {"schema": {"type": "object"}}, "not JSON"),
        ('{"x": NaN}', {"schema": {"type": "object"}}, "NaN"),
        ('{"x": 1}', {"schema": {"type": "object", "properties": {"x": {"type": "string"}}}}, "schema at x"),
        ("E", {"choices": ("A", "B")}, "none of the choices"),
        ("  ", {}, "empty"),
    ],
)
def test_an_answer_of_the_wrong_shape_fails_with_a_reason(tmp_path, said, changes, reason):
    llm, _ = model(tmp_path, lambda prompt: said, max_retries=0)
    (result,) = llm.generate([ask("a", **changes)])
    assert result.status == "failed" and reason in result.reason


def test_a_check_normalises_and_the_ledger_keeps_what_the_model_said(tmp_path):
    def shout_once(request, value):
        if value.endswith("!"):
            raise InvalidAnswer("shouted already")
        return value.upper() + "!"

    llm, _ = model(tmp_path)
    (first,) = llm.generate([ask("a")], check=shout_once)
    (second,) = llm.generate([ask("a")], check=shout_once)
    assert first.value == second.value == "A!" and second.from_ledger


def test_a_stricter_check_is_not_bypassed_by_the_ledger_and_costs_nothing(tmp_path):
    llm, engine = model(tmp_path)
    list(llm.generate([ask("bad")]))
    (result,) = llm.generate([ask("bad")], check=must_be_good)
    assert (result.status, result.reason, result.value, result.from_ledger) == ("failed", "not good", None, True)
    assert len(engine.prompts) == 1


def test_a_laxer_check_finds_what_was_paid_for_before(tmp_path):
    llm, engine = model(tmp_path, max_retries=0)
    list(llm.generate([ask("bad")], check=must_be_good))
    (result,) = llm.generate([ask("bad")])
    assert result.ok and result.value == "bad" and len(engine.prompts) == 1


def test_an_error_in_a_check_is_an_error_and_not_a_failed_answer(tmp_path):
    llm, _ = model(tmp_path)
    with pytest.raises(ZeroDivisionError):
        list(llm.generate([ask("a")], check=lambda request, value: 1 / 0))


def test_the_key_changes_with_each_ingredient_and_with_nothing_else(tmp_path):
    base = ask("a", schema={"type": "object", "title": "x"})
    llm, _ = model(tmp_path)
    different = [
        replace(base, task="other"),
        replace(base, template="t2"),
        replace(base, messages=(Message("user", "a."),)),
        replace(base, messages=(Message("system", "a"),)),
        replace(base, messages=(*base.messages, Message("user", "a"))),
        replace(base, schema={"type": "array"}),
        replace(base, schema=None),
        replace(base, schema=None, choices=("A", "B")),
        replace(base, schema=None, choices=("B", "A")),
        replace(base, max_tokens=255),
    ]
    keys = [llm.key(base), *(llm.key(request) for request in different)]
    keys += [
        model(tmp_path, **change)[0].key(base) for change in ({"model": "another/model"}, {"retry_temperature": 0.3})
    ]
    assert len(set(keys)) == len(keys) == 13
    same = [replace(base, subject="books/item/1"), replace(base, schema={"title": "x", "type": "object"})]
    assert {llm.key(request) for request in same} == {llm.key(base)}
    unrelated = {"max_retries": 5, "checkpoint_every": 3, "context_length": 4096, "cpu_threads": 1}
    assert model(tmp_path, **unrelated)[0].key(base) == llm.key(base)


def test_a_prompt_that_does_not_fit_fails_without_reaching_the_engine_or_the_ledger(tmp_path):
    llm, engine = model(tmp_path, context_length=512)
    long = ask("long", messages=(Message("user", "word " * 257),), max_tokens=256)
    results = list(llm.generate([long, long]))
    assert [result.status for result in results] == ["failed", "failed"]
    assert "257 tokens" in results[0].reason and "context_length 512" in results[0].reason
    assert engine.starts == 0 and llm.ledger.summary().generations == 0 and llm.stats.refused == 2
    (result,) = llm.generate([replace(long, max_tokens=255)])
    assert result.ok


def test_a_prompt_that_the_engine_refuses_fails_alone_and_is_not_recorded(tmp_path):
    def picky(prompt):
        return Answer("", False, 0, 0, refusal="too long for the server") if echo(prompt) == "b" else echo(prompt)

    llm, engine = model(tmp_path, picky)
    a, b = llm.generate([ask("a"), ask("b")])
    assert a.ok and b.status == "failed" and b.reason == "too long for the server" and b.attempts == 0
    assert len(engine.prompts) == 2 and llm.ledger.summary().generations == 1


def test_without_a_ledger_everything_is_generated_each_time(tmp_path):
    llm, engine = model(tmp_path, ledger=False)
    assert [r.from_ledger for _ in range(2) for r in llm.generate([ask("a")])] == [False, False]
    assert len(engine.prompts) == 2


def test_extractive_refuses_at_once_and_says_what_to_do(tmp_path):
    llm = LanguageModel(settings_in(tmp_path, engine="extractive"))
    assert llm.is_extractive
    with pytest.raises(GenerationError, match="Set it to `vllm`"):
        llm.generate([ask("a")])
    llm.close()


def test_the_prompt_profile_follows_the_model_unless_it_is_stated(tmp_path):
    assert model(tmp_path)[0].prompt_profile == "compact"
    assert model(tmp_path, model="Qwen/Qwen3-8B")[0].prompt_profile == "full"
    assert model(tmp_path, prompt_profile="full")[0].prompt_profile == "full"


def test_the_engine_starts_at_the_first_miss_and_stops_with_the_context(tmp_path):
    llm, engine = model(tmp_path)
    with llm:
        llm.count_tokens("one two")
        assert engine.starts == 0
        list(llm.generate([ask("a")]))
        assert engine.starts == 1
    assert engine.closes == 1
    llm.close()


def test_fit_ends_at_a_sentence_where_one_ends_near_the_limit(tmp_path):
    llm, _ = model(tmp_path)
    text = "I liked the long story here. The ending was weak and slow."
    assert llm.fit(text, 50) == text
    assert llm.fit(text, 8) == "I liked the long story here."
    assert llm.fit("one two three four", 3) == "one two three"
    with pytest.raises(ValueError):
        llm.fit(text, 0)


def test_progress_lines_are_few_and_end_with_the_whole(tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 2))
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(clock))
    llm, _ = model(tmp_path, checkpoint_every=2)
    list(llm.generate([ask("1")]))
    lines = []
    list(llm.generate([ask(str(n)) for n in range(10)], on_progress=lines.append))
    assert 2 <= len(lines) <= 12
    assert lines[-1].startswith("10/10 done, 1 from the ledger, 0 failed")
    assert any("left" in line and "tokens/s" in line for line in lines)


def test_progress_goes_to_the_log_when_nobody_asks_and_stderr_is_no_terminal(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    llm, _ = model(tmp_path)
    with caplog.at_level(logging.INFO, logger="persona4rec_pipeline.generation"):
        list(llm.generate([ask("a")]))
    assert "1/1 done" in caplog.text


def test_a_terminal_gets_a_bar(tmp_path, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    llm, _ = model(tmp_path)
    list(llm.generate([ask("a"), ask("b")]))
    assert "2/2 done" in terminal.getvalue()


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": ()},
        {"schema": {}, "choices": ("A",)},
        {"choices": ()},
        {"choices": ("A", "A")},
        {"choices": ("A", "")},
        {"max_tokens": 0},
    ],
)
def test_a_request_that_makes_no_sense_cannot_be_made(changes):
    with pytest.raises(ValueError):
        Request(**{"task": "t", "subject": "s", "messages": (Message("user", "x"),), "template": "t", **changes})


def test_importing_the_room_loads_no_heavy_library():
    heavy = "{'torch', 'vllm', 'transformers', 'dagster'}"
    code = f"import sys, persona4rec_pipeline.generation; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def must_be_good(request, value):
    if value != "good":
        raise InvalidAnswer("not good")
    return value


class CountingDatabase:
    def __init__(self, database):
        self._database = database
        self.reads = self.writes = 0

    def rows(self, *arguments):
        self.reads += 1
        return self._database.rows(*arguments)

    @contextmanager
    def write(self):
        self.writes += 1
        with self._database.write() as connection:
            yield connection


def test_a_budget_stops_before_the_first_chunk_beyond_it_and_the_next_run_goes_on(tmp_path):
    requests = [ask(str(n)) for n in range(6)]
    llm, engine = model(tmp_path, checkpoint_every=2, max_tokens_per_run=30)
    # 15 tokens each: one chunk of two is what the budget allows.
    with pytest.raises(BudgetReached, match="30 tokens"):
        list(llm.generate(requests))
    assert len(engine.prompts) == 2
    llm, engine = model(tmp_path, checkpoint_every=2, max_tokens_per_run=60)
    assert [result.from_ledger for result in llm.generate(requests)] == [True] * 2 + [False] * 4
    llm, engine = model(tmp_path, checkpoint_every=2, max_tokens_per_run=1)
    assert len(list(llm.generate(requests))) == 6 and not engine.prompts, "what the ledger knows costs nothing"
