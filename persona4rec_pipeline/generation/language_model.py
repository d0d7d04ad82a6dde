"""One door to the language model: requests in, checked results out, in order, each paid for at most once.

Belongs here: keys, the ledger round trip per chunk, parsing and checking of answers, retries of unusable ones, and
statistics. Does not belong here: how an engine produces text (`vllm_engine.py`, `openai_engine.py`), what a stage asks
(its `prompts/`) and what makes its answers valid (its `check`).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field, replace
from itertools import islice
from types import TracebackType
from typing import Any, Literal, Self

from jsonschema import Draft202012Validator

from persona4rec_pipeline.generation.engine import Answer, Engine, Prompt
from persona4rec_pipeline.generation.ledger import Ledger, LedgerRow
from persona4rec_pipeline.generation.packaged_models import PACKAGED_LANGUAGE_MODEL
from persona4rec_pipeline.generation.progress import Progress
from persona4rec_pipeline.generation.prompts import cut_at_sentence
from persona4rec_pipeline.generation.records import BudgetReached, GenerationError, InvalidAnswer, Request, Result
from persona4rec_pipeline.settings import Settings

Check = Callable[[Request, Any], Any]


@dataclass
class Tally:
    """What was asked and what it cost.

    requests = hits + generated + refused; failed counts results without a usable answer, hits among them; retried
    counts tries after the first; seconds is the engine's working time, without its start.
    """

    requests: int = 0
    hits: int = 0
    generated: int = 0
    refused: int = 0
    failed: int = 0
    retried: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


@dataclass
class Statistics(Tally):
    """The sums over all tasks since the LanguageModel was made, and the same per task."""

    by_task: dict[str, Tally] = field(default_factory=dict)
    start_seconds: float = 0.0

    def add(self, task: str, **amounts: float) -> None:
        for tally in (self, self.by_task.setdefault(task, Tally())):
            for name, amount in amounts.items():
                setattr(tally, name, getattr(tally, name) + amount)


class LanguageModel:
    """Answers requests from the ledger, and from the engine of the settings for those that it does not know.

    The engine is made at once but started (seconds to minutes) only when the first request misses. Use it as a context
    manager, or call `close`. Not for use from several threads at a time; several processes may share the ledger.

    settings: `generation` and `openai` are read, and `models_path` for the packaged model.
    ledger: None pays for everything, every time.
    engine: instead of the engine that the settings name.
    """

    def __init__(self, settings: Settings, ledger: Ledger | None = None, engine: Engine | None = None):
        self.settings = settings
        self.ledger = ledger
        self.stats = Statistics()
        self._engine = engine

    @property
    def is_extractive(self) -> bool:
        """Whether the settings ask for no model at all; then only `name`, `prompt_profile` and `sampling` work."""
        return self.settings.generation.engine == "extractive"

    @property
    def name(self) -> str:
        """The model's name in the ledger: the setting, so `smollm2-135m-instruct` for the packaged one."""
        return self.settings.generation.model

    @property
    def prompt_profile(self) -> Literal["compact", "full"]:
        """Which set of prompts suits the model; `auto` is compact for the packaged model and full for any other."""
        stated = self.settings.generation.prompt_profile
        if stated != "auto":
            return stated
        return "compact" if self.name == PACKAGED_LANGUAGE_MODEL else "full"

    @property
    def sampling(self) -> dict[str, float]:
        """The sampling settings that enter a key.

        The number of retries is not among them: raising it must not pay again for what succeeded. It is compared with
        the attempts of a failed ledger row instead, and only what failed with fewer tries is tried further.
        """
        return {"temperature": 0.0, "retry_temperature": self.settings.generation.retry_temperature}

    def without_ledger(self) -> LanguageModel:
        """The same engine, paying for everything and remembering nothing: to take times. Closing one closes both."""
        return LanguageModel(self.settings, engine=self._running())

    def key(self, request: Request) -> str:
        """SHA-256 (hexadecimal) of everything that decides the answer; the subject is not part of it."""
        content = {
            "task": request.task,
            "template": request.template,
            "messages": [[message.role, message.content] for message in request.messages],
            "schema": request.schema,
            "choices": request.choices,
            "max_tokens": request.max_tokens,
            "model": self.name,
            "sampling": self.sampling,
        }
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def count_tokens(self, text: str) -> int:
        """Tokens of a text for this model; no engine is started. For `openai` an estimate of 4 characters each."""
        return self._running().tokenizer.count(text)

    def fit(self, text: str, max_tokens: int) -> str:
        """The beginning of `text` that takes at most `max_tokens` tokens, ending with a sentence or a word if it can.

        No engine is started. For `openai` an estimate, as in `count_tokens`. Raises ValueError for max_tokens < 1.
        """
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {max_tokens}.")
        head = self._running().tokenizer.head(text, max_tokens)
        return text if head == text else cut_at_sentence(text, len(head))

    def generate(
        self,
        requests: Iterable[Request],
        check: Check | None = None,
        on_progress: Callable[[str], None] | None = None,
    ) -> Iterator[Result]:
        """One result per request, in order, as an iterator that works chunk by chunk.

        A chunk is `generation.checkpoint_every` requests: looked up in one query, generated where missing, and
        committed to the ledger in one transaction before its first result is yielded. So a run that is killed repeats
        at most one chunk, and requests may come from a generator that reads the warehouse as it goes.

        check: gets each request and its parsed value; returns the value, normalised if it likes, or raises
            InvalidAnswer. It sees values from the ledger too, always as the model gave them, and must not depend on
            anything but its arguments.
        on_progress: gets a line every few seconds. On a terminal a progress bar is drawn as well; without either,
            lines go to the log.

        Invalid and truncated answers are tried again `generation.max_retries` times, at `generation.retry_temperature`
        with another seed each time, then returned (and recorded) as failed. A prompt that does not fit
        `generation.context_length` is a failed result that costs nothing and is not recorded.

        Raises GenerationError when the engine cannot start, the endpoint refuses, or the engine is `extractive`;
        BudgetReached before the first chunk that would be paid for after `generation.max_tokens_per_run` is used up.
        """
        if self.is_extractive:
            raise GenerationError(
                "generation.engine is `extractive`: there is no language model to ask. "
                "Set it to `vllm` or `openai`, or take the extractive path of the stage."
            )
        return self._generate(requests, check, on_progress)

    def count_unpaid(self, requests: Iterable[Request]) -> int:
        """How many of these requests, equal ones counted once, the ledger cannot answer; asks nothing."""
        keys = list(dict.fromkeys(self.key(request) for request in requests))
        known = self.ledger.lookup(keys) if self.ledger else {}
        return sum(self._must_pay(known.get(key)) for key in keys)

    def costs_of(self, task: str) -> dict[str, int | float]:
        """What a task has cost since this object was made: requests, ledger hits, generated, failed, retried, tokens."""
        tally = self.stats.by_task.get(task, Tally())
        costs: dict[str, int | float] = {
            "requests": tally.requests,
            "ledger_hits": tally.hits,
            "generated": tally.generated,
            "failed": tally.failed + tally.refused,
            "retried": tally.retried,
            "prompt_tokens": tally.prompt_tokens,
            "completion_tokens": tally.completion_tokens,
        }
        if tally.seconds:
            costs["tokens_per_second"] = (tally.prompt_tokens + tally.completion_tokens) / tally.seconds
        return costs

    def close(self) -> None:
        """Stop the engine and free its memory; safe to call twice. A later `generate` starts it again."""
        if self._engine is not None:
            self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _running(self) -> Engine:
        """The engine object, not necessarily started. Heavy modules are imported only here."""
        if self._engine is None:
            if self.settings.generation.engine == "vllm":
                from persona4rec_pipeline.generation.vllm_engine import VllmEngine

                self._engine = VllmEngine(self.settings)
            elif self.settings.generation.engine == "openai":
                from persona4rec_pipeline.generation.openai_engine import OpenAIEngine

                self._engine = OpenAIEngine(self.settings)
            else:
                raise GenerationError("generation.engine is `extractive`: there is no model, and so no tokenizer.")
        return self._engine

    def _generate(
        self, requests: Iterable[Request], check: Check | None, on_progress: Callable[[str], None] | None
    ) -> Iterator[Result]:
        total = len(requests) if isinstance(requests, Sized) else None
        stream = iter(requests)
        with Progress(total, on_progress) as progress:
            while chunk := list(islice(stream, self.settings.generation.checkpoint_every)):
                results = self._answer_chunk(chunk, check, progress)
                progress.finished(results)
                yield from results

    def _answer_chunk(self, chunk: Sequence[Request], check: Check | None, progress: Progress) -> list[Result]:
        keys = [self.key(request) for request in chunk]
        known = self.ledger.lookup(dict.fromkeys(keys)) if self.ledger else {}
        jobs: dict[str, _Job] = {}
        for key, request in zip(keys, chunk, strict=True):
            if key not in jobs and self._must_pay(known.get(key)):
                jobs[key] = _Job(request, key, known.get(key))
        if jobs:
            self._keep_to_budget()
        self._work(list(jobs.values()), check, progress)

        rows = {key: job.row(self.name) for key, job in jobs.items() if job.attempts}
        hits: dict[str, int] = {}
        results = []
        for key, request in zip(keys, chunk, strict=True):
            job = jobs.get(key)
            if job is not None and (job.request is request or not job.attempts):
                result = job.result(request)
            else:
                hits[key] = hits.get(key, 0) + 1
                result = _from_row(request, rows.get(key) or known[key], check)
            results.append(result)
        if self.ledger:
            self.ledger.record(rows.values(), hits)
        for result in results:
            self._count(result)
        return results

    def _keep_to_budget(self) -> None:
        budget = self.settings.generation.max_tokens_per_run
        used = self.stats.prompt_tokens + self.stats.completion_tokens
        if budget is not None and used >= budget:
            raise BudgetReached(
                f"This run has used {used:,} tokens; generation.max_tokens_per_run allows {budget:,}. What was paid for is "
                "kept: run again to go on from here, or raise the budget."
            )

    def _must_pay(self, row: LedgerRow | None) -> bool:
        if row is None:
            return True
        return row.status == "failed" and row.attempts <= self.settings.generation.max_retries

    def _work(self, jobs: Sequence[_Job], check: Check | None, progress: Progress) -> None:
        """Answer the jobs, all together, as often as it takes; each ends with a value or a reason."""
        generation = self.settings.generation
        pending = []
        for job in jobs:
            room = generation.context_length - job.request.max_tokens
            length = self._running().tokenizer.count_prompt(job.request.messages)
            if length > room:
                job.refused = True
                job.reason = (
                    f"The prompt has {length} tokens; with {job.request.max_tokens} for the answer, "
                    f"generation.context_length {generation.context_length} leaves {room}."
                )
            else:
                pending.append(job)
        if pending:
            began = time.perf_counter()
            self._running().start()
            self.stats.start_seconds += (started := time.perf_counter() - began)
            progress.started(started)
        on_answer = progress.answered
        while pending:
            began = time.perf_counter()
            answers = self._running().answer([self._prompt(job) for job in pending], on_answer)
            on_answer = progress.retried
            share = (time.perf_counter() - began) / len(pending)
            for job, answer in zip(pending, answers, strict=True):
                job.take(answer, check)
                progress.tokens(answer.completion_tokens)
                self.stats.add(
                    job.request.task,
                    prompt_tokens=answer.prompt_tokens,
                    completion_tokens=answer.completion_tokens,
                    seconds=share,
                )
            pending = [job for job in pending if job.reason and not job.refused]
            pending = [job for job in pending if job.attempts <= generation.max_retries]
            for job in pending:
                self.stats.add(job.request.task, retried=1)

    def _prompt(self, job: _Job) -> Prompt:
        request = job.request
        return Prompt(
            messages=request.messages,
            schema=request.schema,
            choices=request.choices,
            max_tokens=request.max_tokens,
            temperature=self.settings.generation.retry_temperature if job.attempts else 0.0,
            # From the key, so that two runs of one corpus agree, and 31 bits, which every engine takes.
            seed=(int(job.key[:8], 16) + job.attempts) % 2**31 if job.attempts else None,
        )

    def _count(self, result: Result) -> None:
        self.stats.add(
            result.request.task,
            requests=1,
            hits=int(result.from_ledger),
            generated=int(not result.from_ledger and result.attempts > 0),
            refused=int(not result.from_ledger and result.attempts == 0),
            failed=int(not result.ok),
        )


@dataclass
class _Job:
    """One key on its way through the engine; starts where a failed ledger row left off."""

    request: Request
    key: str
    earlier: LedgerRow | None
    attempts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    raw: Any = None
    value: Any = None
    probabilities: dict[str, float] | None = None
    reason: str | None = None
    refused: bool = False

    def __post_init__(self) -> None:
        if self.earlier is not None:
            self.attempts = self.earlier.attempts
            self.prompt_tokens = self.earlier.prompt_tokens
            self.completion_tokens = self.earlier.completion_tokens

    def take(self, answer: Answer, check: Check | None) -> None:
        if answer.refusal is not None:
            self.refused, self.reason = True, answer.refusal
            return
        self.attempts += 1
        self.prompt_tokens += answer.prompt_tokens
        self.completion_tokens += answer.completion_tokens
        self.raw, self.value, self.probabilities, self.reason = None, None, answer.probabilities, None
        try:
            self.raw = parse(self.request, answer)
            self.value = _checked(self.request, self.raw, check)
        except InvalidAnswer as problem:
            self.reason = str(problem)

    def result(self, request: Request) -> Result:
        return Result(
            request=request,
            key=self.key,
            value=self.value,
            probabilities=self.probabilities,
            status="failed" if self.reason else "ok",
            reason=self.reason,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            attempts=self.attempts,
            from_ledger=False,
        )

    def row(self, model: str) -> LedgerRow:
        return LedgerRow(
            key=self.key,
            task=self.request.task,
            subject=self.request.subject,
            model=model,
            template=self.request.template,
            status="failed" if self.reason else "ok",
            answer=self.raw,
            probabilities=self.probabilities,
            reason=self.reason,
            attempts=self.attempts,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
        )


def parse(request: Request, answer: Answer) -> Any:
    """The value of an answer: JSON that fits the schema, one of the choices, or the text without outer white space.

    Raises InvalidAnswer when it was truncated, does not parse, does not fit or is empty.
    """
    if request.choices is not None:
        if answer.text not in request.choices:
            raise InvalidAnswer(f"The answer {answer.text[:80]!r} is none of the choices.")
        return answer.text
    if not answer.finished:
        raise InvalidAnswer(f"The answer was truncated at max_tokens={request.max_tokens}.")
    if request.schema is None:
        if not answer.text.strip():
            raise InvalidAnswer("The answer is empty.")
        return answer.text.strip()
    try:
        value = json.loads(answer.text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InvalidAnswer(f"The answer is not JSON: {error}.") from error
    problem = next(iter(Draft202012Validator(request.schema).iter_errors(value)), None)
    if problem is not None:
        where = "/".join(str(part) for part in problem.absolute_path) or "the whole"
        raise InvalidAnswer(f"The answer does not fit the schema at {where}: {problem.message[:200]}.")
    return value


def _refuse_constant(constant: str) -> Any:
    raise InvalidAnswer(f"The answer holds {constant}, which is not JSON.")


def _checked(request: Request, value: Any, check: Check | None) -> Any:
    return value if check is None else check(request, value)


def _from_row(request: Request, row: LedgerRow, check: Check | None) -> Result:
    """A result from a recorded answer, judged by today's check and not by the one of the day it was recorded."""
    result = Result(
        request=request,
        key=row.key,
        value=None,
        probabilities=row.probabilities,
        status="failed",
        reason=row.reason,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        attempts=row.attempts,
        from_ledger=True,
    )
    if row.answer is None:
        return result
    try:
        return replace(result, value=_checked(request, row.answer, check), status="ok", reason=None)
    except InvalidAnswer as problem:
        return replace(result, reason=str(problem))
