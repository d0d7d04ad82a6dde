"""How much one caller may ask, and all together.

Belongs here: token buckets and the reading of a body up to its limit. Does not belong here: who a caller is (`security`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from persona4rec_pipeline.serving.problems import Problem

# Callers whose buckets are remembered; beyond, those that are full again are forgotten.
MAX_CALLERS = 10_000


class CallerGone(Exception):
    """The client closed the connection before its request was complete; nobody waits for an answer."""


class TokenBuckets:
    """`per_s` requests per second and caller on average, up to `burst` at once."""

    def __init__(self, per_s: float, burst: float | None = None) -> None:
        self._per_s = per_s
        self._burst = max(1.0, burst if burst is not None else 2 * per_s)
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, caller: str, now: float | None = None) -> float:
        """0 where the caller may go on, else the seconds after which it may."""
        now = time.monotonic() if now is None else now
        tokens, at = self._buckets.get(caller, (self._burst, now))
        tokens = min(self._burst, tokens + (now - at) * self._per_s)
        if tokens >= 1:
            self._remember(caller, tokens - 1, now)
            return 0.0
        self._remember(caller, tokens, now)
        return (1 - tokens) / self._per_s

    def _remember(self, caller: str, tokens: float, now: float) -> None:
        if caller not in self._buckets and len(self._buckets) >= MAX_CALLERS:
            full_s = self._burst / self._per_s
            self._buckets = {name: state for name, state in self._buckets.items() if now - state[1] < full_s}
            if len(self._buckets) >= MAX_CALLERS:
                # That many callers at a time are an attack with many addresses: the oldest one makes room.
                del self._buckets[next(iter(self._buckets))]
        self._buckets[caller] = (tokens, now)


def too_many_requests(wait_s: float) -> Problem:
    """429, with the time to wait."""
    seconds = max(1, math.ceil(wait_s))
    return Problem(
        HTTPStatus.TOO_MANY_REQUESTS,
        f"Too many requests; try again in {seconds} s, or ask for a higher serving.requests_per_s.",
        headers={"retry-after": str(seconds)},
    )


def too_busy(what: str, wait_s: int = 1) -> Problem:
    """503, with the time to wait."""
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE, f"{what} Try again in {wait_s} s.", headers={"retry-after": str(wait_s)}
    )


def too_large(limit: int) -> Problem:
    """413; the connection ends with it, as the rest of the body is not read."""
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"The body has more than {limit:,} bytes; send fewer candidates at a time, or raise serving.max_body_bytes.",
        headers={"connection": "close"},
    )


async def read_all(receive: Callable[[], Awaitable[Any]], limit: int, timeout_s: float) -> bytes:
    """The body of a request, of at most `limit` bytes, whether it states its length or not.

    Raises Problem (413, or 408 when it does not come to its end within `timeout_s`), CallerGone when the client left.
    """
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise too_large(limit)
        return body
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                if message["type"] != "http.request":
                    raise CallerGone
                part = message.get("body", b"")
                size += len(part)
                if size > limit:
                    raise too_large(limit)
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
                message = await receive()
    except TimeoutError:
        raise Problem(
            HTTPStatus.REQUEST_TIMEOUT,
            f"The body did not arrive within {timeout_s:g} s.",
            headers={"connection": "close"},
        ) from None
