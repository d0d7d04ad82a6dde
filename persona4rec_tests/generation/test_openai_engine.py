"""An OpenAI-compatible endpoint as a small real HTTP server: its errors, its pauses, and what is sent to it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tenacity import RetryCallState, Retrying

from persona4rec_pipeline.generation import GenerationError, LanguageModel
from persona4rec_pipeline.generation import openai_engine as module
from persona4rec_pipeline.settings import load_settings
from persona4rec_tests.generation.scripted import ask, ledger_in


class Endpoint:
    """Replies to each POST by `reply(body, number)`, a (status, JSON, headers) or None to break the connection."""

    def __init__(self, reply: Callable, owner: str | None = "someone"):
        self.reply = reply
        self.owner = owner
        self.bodies: list[dict] = []
        self.authorizations: list[str | None] = []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()

    @contextmanager
    def running(self):
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                listed = [{"id": "m", "owned_by": endpoint.owner}]
                self.send(*((200, {"data": listed}) if endpoint.owner else (404, {"detail": "no such page"})))

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with endpoint.lock:
                    endpoint.bodies.append(body)
                    endpoint.authorizations.append(self.headers.get("Authorization"))
                    number = len(endpoint.bodies)
                    endpoint.in_flight += 1
                    endpoint.most_in_flight = max(endpoint.most_in_flight, endpoint.in_flight)
                try:
                    said = endpoint.reply(body, number)
                finally:
                    with endpoint.lock:
                        endpoint.in_flight -= 1
                if said is None:
                    self.close_connection = True
                    return
                self.send(*said)

            def send(self, status, content, headers=()):
                data = json.dumps(content).encode()
                self.send_response(status)
                for name, value in dict(headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_): ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            server.server_close()


def says(text, logprobs=None, finish="stop"):
    choice = {"message": {"content": text}, "finish_reason": finish}
    if logprobs is not None:
        choice["logprobs"] = {
            "content": [
                {"token": token, "logprob": 0.0, "top_logprobs": [{"token": t, "logprob": p} for t, p in top.items()]}
                for token, top in logprobs
            ]
        }
    return 200, {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}


def echoes(body, number=0):
    return says(body["messages"][-1]["content"])


def refuses(status, message, **error):
    return status, {"error": {"message": message, **error}}


@contextmanager
def asking(tmp_path, reply, owner="someone", generation=None, **openai):
    endpoint = Endpoint(reply, owner)
    with endpoint.running() as url:
        settings = load_settings(
            {},
            home=tmp_path,
            generation={"engine": "openai", "model": "m", "max_retries": 0, **(generation or {})},
            openai={"base_url": url, "max_wait_s": 0.01, **openai},
        )
        with LanguageModel(settings, ledger_in(tmp_path)) as llm:
            yield endpoint, llm


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again(tmp_path, status):
    def twice_busy(body, number):
        return refuses(status, "busy") if number < 3 else echoes(body)

    with asking(tmp_path, twice_busy) as (endpoint, llm):
        (result,) = llm.generate([ask("a")])
    assert result.ok and result.value == "a" and len(endpoint.bodies) == 3
    assert (result.prompt_tokens, result.completion_tokens, result.attempts) == (7, 3, 1)


def test_a_broken_connection_is_tried_again(tmp_path):
    with asking(tmp_path, lambda body, number: echoes(body) if number > 1 else None) as (endpoint, llm):
        (result,) = llm.generate([ask("a")])
    assert result.ok and len(endpoint.bodies) == 2


def test_an_endpoint_that_stays_down_ends_the_run_and_finished_chunks_are_kept(tmp_path):
    def down_from_c_on(body, number):
        return echoes(body) if body["messages"][-1]["content"] in "ab" else refuses(503, "down")

    requests = [ask(letter) for letter in "abcd"]
    with asking(tmp_path, down_from_c_on, generation={"checkpoint_every": 2}, max_attempts=3) as (endpoint, llm):
        stream = llm.generate(requests)
        assert [next(stream).value, next(stream).value] == ["a", "b"]
        with pytest.raises(GenerationError, match=r"in 3 tries.*503: down"):
            next(stream)
    assert ledger_in(tmp_path).summary().generations == 2
    with asking(tmp_path, echoes, generation={"checkpoint_every": 2}) as (endpoint, llm):
        assert [result.value for result in llm.generate(requests)] == list("abcd")
        assert len(endpoint.bodies) == 2


def test_a_refusal_ends_the_run_at_the_first_request_with_the_endpoints_words(tmp_path):
    with asking(tmp_path, lambda *_: refuses(400, "schema too deep"), concurrency=1) as (endpoint, llm):
        with pytest.raises(GenerationError, match="400: schema too deep"):
            list(llm.generate([ask("a"), ask("b")]))
        assert len(endpoint.bodies) == 1


@pytest.mark.parametrize(("key", "words"), [(None, "is not set"), ("wrong", "is set but not accepted")])
def test_a_missing_or_wrong_key_names_its_variable(tmp_path, monkeypatch, key, words):
    monkeypatch.delenv("MY_KEY", raising=False)
    if key:
        monkeypatch.setenv("MY_KEY", key)
    with asking(tmp_path, lambda *_: refuses(401, "who?"), api_key_variable="MY_KEY") as (endpoint, llm):
        with pytest.raises(GenerationError, match=f"MY_KEY, which {words}"):
            list(llm.generate([ask("a")]))
        assert len(endpoint.bodies) == 1
        assert endpoint.authorizations == [f"Bearer {key}" if key else None]


def test_an_endpoint_that_nobody_listens_at_is_an_error_and_not_an_empty_result(tmp_path):
    settings = load_settings(
        {},
        home=tmp_path,
        generation={"engine": "openai"},
        openai={"base_url": "http://127.0.0.1:9/v1", "max_attempts": 2, "max_wait_s": 0.01},
    )
    with pytest.raises(GenerationError, match="in 2 tries"):
        list(LanguageModel(settings).generate([ask("a")]))


def test_something_else_than_a_chat_endpoint_is_an_error(tmp_path):
    with (
        asking(tmp_path, lambda *_: (200, {"hello": "world"})) as (_, llm),
        pytest.raises(GenerationError, match="does not answer as a chat completion endpoint"),
    ):
        list(llm.generate([ask("a")]))


def test_a_prompt_too_long_for_the_endpoint_fails_alone(tmp_path):
    def picky(body, number):
        if body["messages"][-1]["content"] == "long":
            return refuses(400, "This model's maximum context length is 8", code="context_length_exceeded")
        return echoes(body)

    with asking(tmp_path, picky) as (_, llm):
        long, short = llm.generate([ask("long"), ask("short")])
    assert long.status == "failed" and "maximum context length" in long.reason and short.ok


def test_an_answer_that_was_cut_off_is_truncated(tmp_path):
    with asking(tmp_path, lambda *_: says("half an", finish="length")) as (_, llm):
        (result,) = llm.generate([ask("a")])
    assert result.status == "failed" and "truncated" in result.reason


def test_never_more_than_the_allowed_number_of_requests_are_in_flight(tmp_path):
    def slow(body, number):
        time.sleep(0.03)
        return echoes(body)

    with asking(tmp_path, slow, concurrency=3) as (endpoint, llm):
        results = list(llm.generate([ask(str(n)) for n in range(15)]))
    assert [result.value for result in results] == [str(n) for n in range(15)]
    assert endpoint.most_in_flight == 3


def test_a_schema_goes_as_a_strict_response_format(tmp_path):
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    with asking(tmp_path, lambda *_: says('{"x": 1}')) as (endpoint, llm):
        (result,) = llm.generate([ask("a", schema=schema, max_tokens=9)])
    assert result.value == {"x": 1}
    (body,) = endpoint.bodies
    assert body["response_format"]["json_schema"] == {"name": "answer", "schema": schema, "strict": True}
    assert (body["model"], body["max_tokens"], body["temperature"], "seed" in body) == ("m", 9, 0.0, False)


def test_a_retry_of_an_unusable_answer_is_warmer_and_seeded(tmp_path):
    with asking(tmp_path, lambda *_: says("no json"), generation={"max_retries": 2}) as (endpoint, llm):
        (result,) = llm.generate([ask("a", schema={"type": "object"})])
    assert result.attempts == 3 and [body["temperature"] for body in endpoint.bodies] == [0.0, 0.6, 0.6]
    assert len({body.get("seed") for body in endpoint.bodies}) == 3


def test_a_choice_goes_as_an_enum_and_its_probabilities_come_from_the_token_within_the_quotes(tmp_path):
    tokens = [('{"', {}), ("choice", {}), ('":"', {}), ("B", {"B": -0.5, "A": -1.5, "Z": -0.1}), ('"}', {})]
    with asking(tmp_path, lambda *_: says('{"choice":"B"}', tokens)) as (endpoint, llm):
        (result,) = llm.generate([ask("a", choices=("A", "B"))])
    assert result.value == "B"
    assert result.probabilities == pytest.approx({"A": 0.2689, "B": 0.7311}, abs=1e-4)
    assert endpoint.bodies[0]["response_format"]["json_schema"]["schema"]["properties"]["choice"]["enum"] == ["A", "B"]


@pytest.mark.parametrize(
    ("reply", "choices"),
    [
        (says('{"choice": "B"}'), ("A", "B")),
        (says('{"choice":"B"}', [('{"choice":"B', {"x": -1.0}), ('"}', {})]), ("A", "B")),
        (says("B"), ("A", "B")),
        (says('{"choice":"B1"}', [('{"choice":"', {}), ("B", {"B": -1.0}), ('1"}', {})]), ("B1", "B2")),
    ],
)
def test_without_a_deciding_token_a_choice_has_no_probabilities(tmp_path, reply, choices):
    with asking(tmp_path, lambda *_: reply) as (_, llm):
        (result,) = llm.generate([ask("a", choices=choices)])
    assert result.ok and result.value[0] == "B" and result.probabilities is None


def test_the_json_around_a_choice_has_room_although_the_choice_itself_is_one_token(tmp_path):
    with asking(tmp_path, lambda *_: says('{"choice":"B"}')) as (endpoint, llm):
        assert next(llm.generate([ask("a", choices=("A", "B"), max_tokens=1)])).value == "B"
    assert endpoint.bodies[0]["max_tokens"] >= 20


def test_an_endpoint_that_ignores_the_constraint_is_understood_where_it_names_one_choice(tmp_path):
    with asking(tmp_path, lambda *_: says("The answer is B.")) as (_, llm):
        (result,) = llm.generate([ask("a", choices=("A", "B"))])
    assert result.ok and result.value == "B" and result.probabilities is None


@pytest.mark.parametrize(
    "reply", [says("A or B, hard to tell."), says("I like both."), says("The answer is B", finish="length")]
)
def test_an_endpoint_that_does_not_settle_on_a_choice_has_failed(tmp_path, reply):
    with asking(tmp_path, lambda *_: reply) as (_, llm):
        (result,) = llm.generate([ask("a", choices=("A", "B"))])
    assert not result.ok and "none of the choices" in result.reason


def test_a_vllm_server_that_ignores_the_constraint_is_not_believed(tmp_path):
    with asking(tmp_path, lambda *_: says("The answer is B."), owner="vllm") as (_, llm):
        (result,) = llm.generate([ask("a", choices=("A", "B"))])
    assert not result.ok


def test_a_vllm_server_is_asked_for_the_bare_choice_in_one_token(tmp_path):
    with asking(tmp_path, lambda *_: says("B", [("B", {"A": -2.0, "B": -0.1})], "length"), "vllm") as (endpoint, llm):
        (result,) = llm.generate([ask("a", choices=("A", "B"))])
    assert result.value == "B" and sum(result.probabilities.values()) == pytest.approx(1)
    assert endpoint.bodies[0]["structured_outputs"] == {"choice": ["A", "B"]} and endpoint.bodies[0]["max_tokens"] == 1


def test_an_endpoint_without_a_model_list_is_used_all_the_same(tmp_path):
    with asking(tmp_path, echoes, owner=None) as (_, llm):
        assert next(llm.generate([ask("a")])).ok


def test_what_an_endpoint_does_not_take_is_left_out_once_it_says_so(tmp_path):
    def modern(body, number):
        for name in ("max_tokens", "temperature", "logprobs"):
            if name in body:
                return refuses(400, f"unsupported: {name}", param=name)
        return says('{"choice":"A"}')

    with asking(tmp_path, modern, concurrency=1) as (endpoint, llm):
        results = list(llm.generate([ask(str(n), choices=("A", "B"), max_tokens=99) for n in range(3)]))
    assert all(result.ok for result in results)
    assert len(endpoint.bodies) == 3 + 3 and endpoint.bodies[-1]["max_completion_tokens"] == 99


def test_a_pause_grows_unless_the_endpoint_states_one_and_never_passes_the_limit():
    def pause(after, attempt):
        state = RetryCallState(Retrying(), None, (), {})
        state.attempt_number = attempt
        state.set_exception((module._Passing, module._Passing("busy", after), None))
        return module._Wait(30.0)(state)

    assert pause(7.0, 1) == 7.0
    assert pause(700.0, 1) == 30.0
    assert 0.5 <= pause(None, 1) <= 1.5 and 4.0 <= pause(None, 4) <= 5.0
    assert pause(None, 20) == 30.0


def test_retry_after_is_read_in_both_its_forms():
    assert module._retry_after("12") == 12.0
    assert module._retry_after(format_datetime(datetime.now(UTC) + timedelta(hours=1))) == pytest.approx(3600, abs=60)
    assert module._retry_after(format_datetime(datetime.now(UTC) - timedelta(hours=1))) == 0.0
    assert module._retry_after("soon") is None and module._retry_after(None) is None
