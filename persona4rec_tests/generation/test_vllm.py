"""The real thing: vLLM with the packaged model, a run that is killed, and a server of vLLM's own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from jsonschema import validate

from persona4rec_pipeline.generation import (
    GenerationError,
    InvalidAnswer,
    LanguageModel,
    Message,
    resolve_language_model,
)
from persona4rec_pipeline.generation.vllm_engine import VllmEngine
from persona4rec_pipeline.settings import load_settings
from persona4rec_tests.generation import interrupted_run
from persona4rec_tests.generation.scripted import ask, ledger_in, settings_in

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]

SCHEMA = {
    "type": "object",
    "properties": {
        "mood": {"type": "string", "minLength": 3, "maxLength": 40},
        "polarity": {"enum": ["appreciative", "critical"]},
    },
    "required": ["mood", "polarity"],
    "additionalProperties": False,
}
ONE_THREAD = {"cpu_threads": 1, "kv_cache_gib": 1}


def opinions(count: int, **changes):
    feelings = ("loved", "hated")
    return [
        ask(f"I {feelings[n % 2]} book {n}. Describe my mood as JSON.", schema=SCHEMA, max_tokens=64, **changes)
        for n in range(count)
    ]


def judgements(count: int):
    return [
        ask(f"{n}. The sky is blue. Is that right? A: yes. B: no. Say A or B.", choices=("A", "B"))
        for n in range(count)
    ]


def test_the_packaged_model_is_converted_once_and_whole(home_with_model):
    settings = settings_in(home_with_model)
    path = Path(resolve_language_model(settings))
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in path.iterdir()}
    made = path.stat().st_mtime_ns
    assert resolve_language_model(settings) == str(path) and path.stat().st_mtime_ns == made
    assert not list(path.parent.glob(f".{path.name}-*")), "a half-made folder was left behind"


@pytest.fixture(scope="module")
def engine(home_with_model):
    engine = VllmEngine(settings_in(home_with_model, **ONE_THREAD))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def llm(home_with_model, engine):
    return LanguageModel(settings_in(home_with_model, **ONE_THREAD), ledger_in(home_with_model), engine=engine)


def test_a_killed_run_leaves_no_process_and_its_resumption_repeats_at_most_one_chunk(engine, home_with_model, tmp_path):
    (tmp_path / "models").symlink_to(home_with_model / "models")
    ledger = ledger_in(tmp_path)
    log = tmp_path / "run.log"
    with log.open("wb") as output:
        run = subprocess.Popen(
            [sys.executable, "-m", "persona4rec_tests.generation.interrupted_run", str(tmp_path)],
            stdout=output,
            stderr=output,
            cwd=Path(__file__).parents[2],
        )
    assert wait_until(lambda: run.poll() is not None or ledger.summary().generations >= 1, 240)
    processes = engine_processes(run.pid)
    assert processes and run.poll() is None, log.read_text()
    run.kill()
    run.wait()
    assert wait_until(lambda: not any(map(is_alive, processes)), 15), "the engine outlives its parent"
    before = ledger.database.rows("SELECT key, created_at FROM generations")
    taken = log.read_text().count("taken")
    assert 0 < len(before) <= taken <= len(before) + interrupted_run.CHUNK < interrupted_run.REQUESTS

    model = LanguageModel(interrupted_run.settings_of(tmp_path), ledger, engine=engine)
    results = list(model.generate(interrupted_run.requests()))
    assert len(results) == interrupted_run.REQUESTS and all(result.attempts == 1 for result in results)
    assert (model.stats.hits, model.stats.generated) == (len(before), interrupted_run.REQUESTS - len(before))
    after = ledger.database.rows("SELECT key, created_at FROM generations")
    assert set(before) < set(after) and len(after) == interrupted_run.REQUESTS


def test_answers_fit_their_schema_and_a_second_run_asks_nothing(llm):
    first = list(llm.generate(opinions(8)))
    assert [result.status for result in first] == ["ok"] * 8
    for result in first:
        validate(result.value, SCHEMA)
        assert result.prompt_tokens > 20 and 5 < result.completion_tokens <= 64
    paid = llm.stats.generated
    second = list(llm.generate(opinions(8)))
    assert [result.value for result in second] == [result.value for result in first]
    assert all(result.from_ledger for result in second) and llm.stats.generated == paid


def test_probabilities_of_choices_sum_to_one_and_the_choice_is_the_likelier(llm):
    for result in llm.generate(judgements(6)):
        assert result.ok and result.completion_tokens == 1
        assert set(result.probabilities) == {"A", "B"} and sum(result.probabilities.values()) == pytest.approx(1)
        assert min(result.probabilities.values()) > 0
        assert result.value == max(result.probabilities, key=result.probabilities.get)


def test_choices_that_share_their_beginning_are_still_answered(llm):
    (result,) = llm.generate([ask("How many legs has a spider?", choices=("1 leg", "10 legs", "8 legs"))])
    assert result.ok and result.value in result.request.choices and result.probabilities is None


def test_retries_with_seeds_run_beside_long_prompts(llm):
    def not_at_once(request, value):
        seen.append(request.subject)
        if seen.count(request.subject) == 1:
            raise InvalidAnswer("once more")
        return value

    seen: list[str] = []
    filler = Message("user", "The plot moves slowly, but its people are drawn with care. " * 60)
    requests = [
        ask(f"again {n}", messages=(filler, Message("assistant", "Go on."), *request.messages), schema=SCHEMA)
        for n, request in enumerate(opinions(6))
    ]
    results = list(llm.generate(requests, check=not_at_once))
    assert llm.stats.retried == 6
    assert [(result.status, result.attempts) for result in results] == [("ok", 2)] * 6


def test_an_answer_that_does_not_fit_its_tokens_is_truncated(llm):
    (result,) = llm.generate([ask("Count to a thousand.", max_tokens=5)])
    assert result.status == "failed" and "truncated" in result.reason


def test_tokens_are_the_models_own_and_fit_respects_them(llm):
    text = "It was a dark and stormy night. The rain fell in torrents, except at occasional intervals. " * 20
    assert 12 < llm.count_tokens("It was a dark and stormy night. The rain fell in torrents.") < 20
    fitted = llm.fit(text, 50)
    assert text.startswith(fitted) and fitted.endswith(".") and 25 <= llm.count_tokens(fitted) <= 50
    assert llm.fit("Short.", 50) == "Short."


def test_a_model_that_cannot_be_loaded_is_an_error_that_names_it(tmp_path):
    model = LanguageModel(settings_in(tmp_path, model=str(tmp_path / "nothing")))
    with pytest.raises(GenerationError, match="nothing"):
        list(model.generate([ask("a")]))


def test_closing_ends_every_process_of_the_engine(llm):
    assert next(llm.generate([ask("Say yes.", choices=("yes", "no"))])).ok
    processes = engine_processes(os.getpid())
    assert processes
    llm.close()
    llm.close()
    assert not any(map(is_alive, processes))


@pytest.fixture(scope="module")
def server(home_with_model, tmp_path_factory):
    path = resolve_language_model(settings_in(home_with_model))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "serve.log"
    environment = {
        **os.environ,
        **{"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"},
        **{"VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"},
    }
    # What `vllm serve` runs; the command itself stumbles over the name of the package vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", path, "--port", str(port)]
    command += ["--host", "127.0.0.1", "--served-model-name", "smollm2-135m-instruct", "--dtype", "bfloat16"]
    command += ["--max-model-len", "2048", "--max-num-batched-tokens", "4096", "--no-enable-chunked-prefill"]
    command += ["--enforce-eager", "--max-num-seqs", "16"]
    command += ["--structured-outputs-config", json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        assert wait_until(lambda: process.poll() is not None or is_healthy(url), 240)
        assert process.poll() is None, log.read_text()[-3000:]
        yield url, log
    finally:
        process.terminate()
        wait_until(lambda: process.poll() is not None, 20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def served(url, tmp_path, **changes):
    settings = load_settings(
        {},
        home=tmp_path,
        generation={"engine": "openai", **changes},
        openai={"base_url": f"{url}/v1", "concurrency": 3, "timeout_s": 60.0},
    )
    return LanguageModel(settings, ledger_in(tmp_path))


def test_a_vllm_server_answers_schemas_and_choices_within_the_allowed_concurrency(llm, server, tmp_path):
    url, _ = server
    most, done = [0.0], threading.Event()

    def watch():
        while not done.wait(0.05):
            lines = httpx.get(f"{url}/metrics").text.splitlines()
            busy = ("vllm:num_requests_running{", "vllm:num_requests_waiting{")
            most[0] = max(most[0], sum(float(line.split()[-1]) for line in lines if line.startswith(busy)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with served(url, tmp_path) as model:
            results = list(model.generate([*opinions(8), *judgements(4)]))
    finally:
        done.set()
        watcher.join()
    assert [result.status for result in results] == ["ok"] * 12
    for result in results[:8]:
        validate(result.value, SCHEMA)
        assert result.prompt_tokens > 20
    for result in results[8:]:
        assert result.value in {"A", "B"} and result.completion_tokens == 1
        assert sum(result.probabilities.values()) == pytest.approx(1) and min(result.probabilities.values()) > 0
    assert 1 <= most[0] <= 3


def test_a_vllm_server_that_does_not_know_the_model_is_asked_once(server, tmp_path):
    url, log = server
    with served(url, tmp_path, model="unknown/model") as model, pytest.raises(GenerationError, match=r"404.*unknown"):
        list(model.generate([ask("a")]))
    assert wait_until(lambda: " 404 " in log.read_text(), 5)
    assert len([line for line in log.read_text().splitlines() if "POST" in line and " 404 " in line]) == 1


def test_a_prompt_too_long_for_a_vllm_server_fails_alone(server, tmp_path):
    url, _ = server
    long = ask("word " * 3000)
    with served(url, tmp_path, context_length=8192) as model:
        first, second = model.generate([long, judgements(1)[0]])
    assert first.status == "failed" and "context length" in first.reason and second.ok


def engine_processes(parent: int) -> list[int]:
    """The engine that `parent` started, with everything in its group."""
    listed = subprocess.run(["ps", "-wweo", "pid,ppid,pgid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 3) for line in listed.splitlines()[1:]]
    groups = {pgid for _, ppid, pgid, args in rows if int(ppid) == parent and "vllm_process" in args}
    return [int(pid) for pid, _, pgid, _ in rows if pgid in groups]


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").is_success
    except httpx.TransportError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.2)
    return condition()
