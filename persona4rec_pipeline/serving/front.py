"""What every request passes first: the door, the limits, the clock, and the short way to the routes that are asked most.

Belongs here: pure ASGI, the one middleware of the service. Does not belong here: what a route answers.

FastAPI spends on an empty route about what a whole answer may cost here. So the POST routes, whose bodies msgspec reads and
whose answers are made as bytes, are called from here; everything else goes on to FastAPI, in which all of them are described.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec

from persona4rec_pipeline.index import IndexProblem, UnknownItem
from persona4rec_pipeline.serving.bodies import read_body
from persona4rec_pipeline.serving.history import HistoryError
from persona4rec_pipeline.serving.limits import CallerGone, read_all, too_busy, too_large, too_many_requests
from persona4rec_pipeline.serving.metrics import OTHER_ROUTE
from persona4rec_pipeline.serving.problems import PROBLEM_TYPE, Problem
from persona4rec_pipeline.serving.security import API_POLICY, LOCAL_NAMES, SECURITY_HEADERS, host_name
from persona4rec_pipeline.serving.state import Call, Service

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Handler = Callable[[Service, Any, Call], Awaitable[bytes]]

# Open to everybody: whether it lives, whether it is ready (without details), and the page with what it loads.
OPEN_PATHS = frozenset({"/", "/healthz", "/readyz"})
OPEN_PREFIX = "/static/"
# The page and its files count as one route.
PAGE_ROUTE = "/static"
JSON_TYPE = b"application/json"
_JSON_HEADERS = [(b"content-type", JSON_TYPE), (b"cache-control", b"no-store"), *SECURITY_HEADERS,
                 (b"content-security-policy", API_POLICY)]  # fmt: skip
_PROBLEM_HEADERS = [(b"content-type", PROBLEM_TYPE), (b"cache-control", b"no-store"), *SECURITY_HEADERS,
                    (b"content-security-policy", API_POLICY)]  # fmt: skip

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Post:
    """One POST route: what its body is, who answers it, and what is said of it in the OpenAPI document.

    described_as: the template under which several paths are described as one, with its `parameters`.
    """

    path: str
    record: type[msgspec.Struct]
    handler: Handler
    answer: str
    summary: str
    examples: dict[str, Any]
    status: int = 200
    tag: str = "ranking"
    problems: tuple[int, ...] = (422, 503)
    described_as: str | None = None
    parameters: tuple[dict[str, Any], ...] = ()


class Front:
    """The middleware; `posts` are answered here, everything else goes on to `app`."""

    def __init__(self, app: Callable[..., Awaitable[None]], service: Service, posts: list[Post]) -> None:
        self._app = app
        self._service = service
        self._posts = {post.path: (post, msgspec.json.Decoder(post.record)) for post in posts}
        serving = service.settings.serving
        self._max_body = serving.max_body_bytes
        self._max_concurrent = serving.max_concurrent_requests
        self._body_timeout_s = serving.body_timeout_s
        self._hosts = {*LOCAL_NAMES, *(name.lower() for name in serving.allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand on what is none."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        service = self._service
        started = time.perf_counter()
        call = Call()
        service.in_progress += 1
        try:
            found = self._posts.get(scope["path"])
            self._admit(scope, call)
            if found is None:
                await self._go_on(scope, receive, send, call)
            elif scope["method"] != "POST":
                call.route = found[0].path
                raise Problem(405, f"{call.route} answers POST alone.", headers={"allow": "POST"})
            else:
                post, decoder = found
                call.route = post.path
                call.query = scope["query_string"]
                body = read_body(decoder, await read_all(receive, self._max_body, self._body_timeout_s))
                await _send(send, call, post.status, _JSON_HEADERS, await post.handler(service, body, call))
        except CallerGone:
            call.status = 499
        except Exception as error:
            problem = as_problem(error)
            if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
                logger.exception("A request to %s failed.", call.route or OTHER_ROUTE)
            # An answer that has begun cannot become another one; the server closes the connection.
            if call.status:
                raise
            await _send_problem(send, call, problem)
        finally:
            service.in_progress -= 1
            seconds = time.perf_counter() - started
            route, method = call.route or OTHER_ROUTE, scope["method"]
            service.metrics.answered(route, method, call.status, seconds)
            if service.log is not None:
                service.log.add(method, route, call.status, seconds, call.key_name, call.variant, call.user)

    def _admit(self, scope: Scope, call: Call) -> None:
        """Raise the Problem that keeps a request out."""
        service = self._service
        if service.in_progress > self._max_concurrent:
            service.metrics.overloaded.inc()
            raise too_busy("Too many requests are in progress.")
        host = authorization = api_key = content_type = length = b""
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"content-type":
                content_type = value
            elif name == b"content-length":
                length = value
            elif name == b"authorization":
                authorization = value
            elif name == b"x-api-key":
                api_key = value
        if length and length.isdigit() and int(length) > self._max_body:
            raise too_large(self._max_body)
        path = scope["path"]
        if service.keys_required:
            if api_key or authorization[:7].lower() == b"bearer ":
                call.key_name = service.keys.name_of(api_key or authorization[7:].strip())
            if call.key_name is None and path not in OPEN_PATHS and not path.startswith(OPEN_PREFIX):
                service.metrics.unauthorised.inc()
                raise Problem(
                    HTTPStatus.UNAUTHORIZED,
                    "Send a valid API key as `Authorization: Bearer KEY` or `X-API-Key: KEY`; make one with "
                    "`persona4rec api-key add NAME`.",
                    headers={"www-authenticate": 'Bearer realm="persona4rec"'},
                )
        else:
            if host_name(host) not in self._hosts:
                # A page of a stranger may have its own name lead here, and read the answers as its own.
                raise Problem(
                    HTTPStatus.MISDIRECTED_REQUEST,
                    "This server answers to localhost alone; name others in serving.allowed_hosts, or require API keys.",
                )
            if scope["method"] == "POST" and content_type.partition(b";")[0].strip().lower() != JSON_TYPE:
                # A form of a stranger's page may send other types here without asking.
                raise Problem(
                    HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send the body as JSON, with content-type: application/json."
                )
        if service.buckets is not None and path not in OPEN_PATHS:
            client = scope.get("client")
            wait_s = service.buckets.take(call.key_name or (client[0] if client else ""))
            if wait_s:
                service.metrics.rate_limited.inc()
                raise too_many_requests(wait_s)

    async def _go_on(self, scope: Scope, receive: Receive, send: Send, call: Call) -> None:
        async def send_on(message: Any) -> None:
            if message["type"] == "http.response.start":
                call.status = message["status"]
                headers = message["headers"]
                names = {name for name, _ in headers}
                headers.extend(pair for pair in SECURITY_HEADERS if pair[0] not in names)
                if b"content-security-policy" not in names:
                    headers.append((b"content-security-policy", API_POLICY))
            await send(message)

        scope.setdefault("state", {})["call"] = call
        try:
            await self._app(scope, receive, send_on)
        finally:
            if scope["path"] == "/" or scope["path"].startswith(OPEN_PREFIX):
                call.route = PAGE_ROUTE
            else:
                # Set by FastAPI for routes of its own; anything else is nowhere.
                call.route = getattr(scope.get("route"), "path_format", "")


def as_problem(error: Exception) -> Problem:
    """Errors as problems; one that is not ours is a 500 that says nothing of it."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, IndexProblem):
        return Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
    if isinstance(error, UnknownItem):
        return Problem(HTTPStatus.NOT_FOUND, str(error))
    if isinstance(error, HistoryError):
        return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "The service failed; its log says why.")


async def _send_problem(send: Send, call: Call, problem: Problem) -> None:
    headers = _PROBLEM_HEADERS
    if problem.headers:
        headers = [*headers, *((name.encode(), value.encode()) for name, value in problem.headers.items())]
    await _send(send, call, problem.status, headers, problem.to_json())


async def _send(send: Send, call: Call, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    call.status = status
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
