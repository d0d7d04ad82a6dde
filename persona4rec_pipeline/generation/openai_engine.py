"""Any OpenAI-compatible endpoint: OpenAI itself, `vllm serve`, or another server that speaks chat completions.

Belongs here: HTTP, its errors and retries, and how a schema or a choice is asked for on the wire. Does not belong here:
retries of answers that arrive but cannot be used (`language_model.py`).

A choice is asked of a vLLM server (known by `owned_by` in its model list) as the bare choice, in one token, through
vLLM's `structured_outputs`; of any other as a JSON object with an enum, and where that was ignored the choice is read from
what the model says instead ("The answer is B."). Probabilities come from `logprobs` where the
endpoint gives them and the choices differ in their first character; otherwise they are None.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_attempt,
    stop_any,
    stop_when_event_set,
    wait_exponential_jitter,
)

from persona4rec_pipeline.generation.engine import (
    Answer,
    Prompt,
    choice_begun_by,
    choice_probabilities,
    prefixes,
    told_apart_by_first_character,
)
from persona4rec_pipeline.generation.free_answers import Named, stated_option
from persona4rec_pipeline.generation.records import GenerationError
from persona4rec_pipeline.generation.tokenizers import EstimatedTokenizer
from persona4rec_pipeline.settings import Settings

# Most alternatives per token that endpoints give (OpenAI's limit, and the default of vLLM).
MAX_LOGPROBS = 20
# Pause after the first broken try, in seconds; doubles with each further one, plus up to a second of chance.
FIRST_WAIT_S = 0.5
# Room for the JSON around a choice, or for the sentence of an endpoint that ignores it, in tokens.
CHOICE_TOKENS = 32
# Characters of an error message that are passed on.
ERROR_CHARACTERS = 500
# What an endpoint may refuse without the answer losing its shape; left out once it has said so.
OPTIONAL_PARAMETERS = ("logprobs", "top_logprobs", "seed", "temperature")

logger = logging.getLogger(__name__)


class _Passing(Exception):
    """A failure that may be gone at the next try; `retry_after` in seconds if the endpoint said."""

    def __init__(self, message: str, retry_after: float | None = None):
        super().__init__(message)
        self.retry_after = retry_after


class OpenAIEngine:
    """The endpoint of `settings.openai`, asked for the model `settings.generation.model`.

    Up to `openai.concurrency` requests are in flight. 429, 5xx, timeouts and broken connections are tried up to
    `openai.max_attempts` times, with exponential pauses and jitter, or as long as `Retry-After` says, never longer than
    `openai.max_wait_s`. Anything else that is refused ends the batch at once with the endpoint's own words.
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self._client: httpx.Client | None = None
        self._is_vllm = False
        self._stop = threading.Event()
        self._failure: GenerationError | None = None
        self._left_out: set[str] = set()
        self._tokens_parameter = "max_tokens"
        self.tokenizer = EstimatedTokenizer()

    def start(self) -> None:
        if self._client is not None:
            return
        openai = self._settings.openai
        key = os.environ.get(openai.api_key_variable)
        self._client = httpx.Client(
            base_url=openai.base_url.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=openai.timeout_s,
            limits=httpx.Limits(max_connections=openai.concurrency, max_keepalive_connections=openai.concurrency),
        )
        try:
            models = self._send("GET", "models", None)
        except BaseException:
            self.close()
            raise
        # An endpoint need not list its models; then it is not vLLM.
        if models.is_success:
            listed = models.json().get("data", [])
            self._is_vllm = any(model.get("owned_by") == "vllm" for model in listed)

    def answer(self, prompts: Sequence[Prompt], on_answer: Callable[[int], None]) -> list[Answer]:
        self.start()
        self._stop.clear()
        self._failure = None
        with ThreadPoolExecutor(self._settings.openai.concurrency, thread_name_prefix="openai") as pool:
            try:
                futures = [pool.submit(self._ask_unless_stopped, prompt) for prompt in prompts]
                for future in as_completed(futures):
                    future.result()
                    on_answer(1)
                return [future.result() for future in futures]
            except BaseException as error:
                # What is in flight ends without another try, what has not begun is not sent.
                self._stop.set()
                if isinstance(error, GenerationError) and self._failure is not None:
                    raise self._failure from self._failure.__cause__
                raise

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
            self._stop.clear()

    def _ask_unless_stopped(self, prompt: Prompt) -> Answer:
        if self._stop.is_set():
            raise GenerationError("Not sent, as another request of the batch has failed.")
        try:
            return self._ask(prompt)
        except GenerationError as error:
            self._failure = self._failure or error
            self._stop.set()
            raise

    def _ask(self, prompt: Prompt) -> Answer:
        while True:
            response = self._send("POST", "chat/completions", self._body(prompt))
            if response.is_success:
                return self._read(prompt, response)
            code, parameter, message = _error(response)
            if code == "context_length_exceeded" or "maximum context length" in message:
                return Answer("", False, 0, 0, refusal=f"The endpoint says: {message}")
            if not self._does_without(parameter):
                raise GenerationError(self._explain(response.status_code, message))

    def _does_without(self, parameter: str | None) -> bool:
        """Leave out, from now on, a parameter that the endpoint does not take; False when it cannot be left out."""
        if parameter == "max_tokens" and self._tokens_parameter == "max_tokens":
            self._tokens_parameter = "max_completion_tokens"
        elif parameter in OPTIONAL_PARAMETERS and parameter not in self._left_out:
            self._left_out |= {"logprobs", "top_logprobs"} if "logprobs" in parameter else {parameter}
        else:
            return False
        logger.warning("%s does not take `%s`; going on without it.", self._settings.openai.base_url, parameter)
        return True

    def _body(self, prompt: Prompt) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._settings.generation.model,
            "messages": [{"role": message.role, "content": message.content} for message in prompt.messages],
            "temperature": prompt.temperature,
            self._tokens_parameter: prompt.max_tokens,
        }
        if prompt.seed is not None:
            body["seed"] = prompt.seed
        if self._is_vllm:
            # Models that can think aloud before they answer must not: the grammar starts at the first token.
            body["chat_template_kwargs"] = {"enable_thinking": False}
        if prompt.schema is not None:
            body["response_format"] = _json_schema("answer", prompt.schema)
        elif prompt.choices is not None:
            decided_at_once = told_apart_by_first_character(prompt.choices)
            if decided_at_once:
                body |= {"logprobs": True, "top_logprobs": min(len(prefixes(prompt.choices)), MAX_LOGPROBS)}
            if self._is_vllm:
                body["structured_outputs"] = {"choice": list(prompt.choices)}
                if decided_at_once:
                    body[self._tokens_parameter] = 1
            else:
                body["response_format"] = _json_schema("choice", _choice_schema(prompt.choices))
                # The request counts the tokens of the bare choice.
                longest = max(map(len, prompt.choices))
                body[self._tokens_parameter] = max(prompt.max_tokens, CHOICE_TOKENS + longest)
        return {name: value for name, value in body.items() if name not in self._left_out}

    def _read(self, prompt: Prompt, response: httpx.Response) -> Answer:
        try:
            reply = response.json()
            choice = reply["choices"][0]
            text = choice["message"].get("content") or ""
            tokens = (choice.get("logprobs") or {}).get("content") or []
            usage = reply.get("usage") or {}
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise GenerationError(
                f"{self._settings.openai.base_url} does not answer as a chat completion endpoint: "
                f"{response.text[:ERROR_CHARACTERS]}"
            ) from error
        probabilities = None
        if prompt.choices is not None:
            candidates = _first_tokens(tokens, "" if self._is_vllm else '{"choice":"')
            probabilities = choice_probabilities(prompt.choices, candidates)
            if self._is_vllm:
                text = choice_begun_by(prompt.choices, text)
            else:
                text = _within_object(text)
                if choice.get("finish_reason") == "stop":
                    text = _choice_told(prompt.choices, text)
        return Answer(
            text=text,
            finished=choice.get("finish_reason") == "stop",
            prompt_tokens=usage.get("prompt_tokens", 0),
            completion_tokens=usage.get("completion_tokens", 0),
            probabilities=probabilities,
        )

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        """The response, unless it is one that further tries may mend and did not: then GenerationError."""
        openai = self._settings.openai
        client = self._client
        if client is None:
            raise GenerationError("The endpoint was closed while requests were under way.")
        retrying = Retrying(
            retry=retry_if_exception_type(_Passing),
            stop=stop_any(stop_after_attempt(openai.max_attempts), stop_when_event_set(self._stop)),
            sleep=sleep_using_event(self._stop),
            wait=_Wait(openai.max_wait_s),
            reraise=True,
        )
        try:
            return retrying(self._send_once, client, method, path, body)
        except _Passing as error:
            raise GenerationError(
                f"{openai.base_url} did not answer in {openai.max_attempts} tries; the last one: {error}. "
                "Finished chunks are kept: run again when it is back."
            ) from error

    def _send_once(self, client: httpx.Client, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        try:
            response = client.request(method, path, json=body)
        except httpx.TransportError as error:
            raise _Passing(f"{type(error).__name__} {error}".strip()) from error
        if response.status_code == 429 or response.status_code >= 500:
            message = f"status {response.status_code}: {_error(response)[2]}"
            raise _Passing(message, _retry_after(response.headers.get("Retry-After")))
        if response.status_code in {401, 403}:
            raise GenerationError(self._explain(response.status_code, _error(response)[2]))
        return response

    def _explain(self, status: int, message: str) -> str:
        openai = self._settings.openai
        said = f"{openai.base_url} refuses with status {status}: {message}"
        if status in {401, 403}:
            have = "is set but not accepted" if os.environ.get(openai.api_key_variable) else "is not set"
            return f"{said} The key is read from the environment variable {openai.api_key_variable}, which {have}."
        if status == 404:
            return f"{said} Look at openai.base_url (with its /v1) and generation.model."
        return said


class _Wait:
    """As long as the endpoint said, otherwise longer each time; at most `max_wait_s` seconds."""

    def __init__(self, max_wait_s: float):
        self._max_wait_s = max_wait_s
        self._otherwise = wait_exponential_jitter(initial=FIRST_WAIT_S, max=max_wait_s)

    def __call__(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        stated = error.retry_after if isinstance(error, _Passing) else None
        return min(self._otherwise(state) if stated is None else stated, self._max_wait_s)


def _retry_after(value: str | None) -> float | None:
    """Seconds, from either form of the header (seconds or a date); None when it is missing or neither."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(seconds, 0.0)


def _error(response: httpx.Response) -> tuple[str | None, str | None, str]:
    """(code, parameter, message) of an error body, whatever its form."""
    try:
        body = response.json()
    except ValueError:
        body = None
    error = body.get("error", body) if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return None, None, (error if isinstance(error, str) else response.text)[:ERROR_CHARACTERS]
    message = error.get("message") or error.get("detail") or response.text
    return error.get("code"), error.get("param"), str(message)[:ERROR_CHARACTERS]


def _json_schema(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}


def _choice_schema(choices: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"choice": {"type": "string", "enum": list(choices)}},
        "required": ["choice"],
        "additionalProperties": False,
    }


def _first_tokens(tokens: Sequence[dict[str, Any]], opening: str) -> list[tuple[str, float]]:
    """(text, log probability) of the candidates for the token that follows `opening`, white space aside.

    None at all when a token reaches across that point: then the choice has no first token of its own.
    """
    before = ""
    for token in tokens:
        if "".join(before.split()) == opening:
            return [(each["token"].split('"')[0], each["logprob"]) for each in token.get("top_logprobs") or []]
        before += token["token"]
    return []


def _within_object(text: str) -> str:
    """The value of `{"choice": value}`; the text itself where the endpoint ignored the schema."""
    try:
        value = json.loads(text)
    except ValueError:
        return text.strip()
    return str(value.get("choice", text)) if isinstance(value, dict) else text.strip()


def _choice_told(choices: Sequence[str], text: str) -> str:
    """The choice that an answer in the model's own words names; the text itself where it is one, or names none for certain."""
    if text in choices:
        return text
    # Short choices are letters or numbers of a list, which may stand in any sentence by accident.
    place = stated_option(text, [Named(marks=(each,)) if len(each) <= 2 else Named(ids=(each,)) for each in choices])
    return text if place is None else choices[place]
