"""Answers in one piece.

Belongs here: how the bytes of an answer reach the socket. Does not belong here: HTTP, which is uvicorn's.

uvicorn writes the head of an answer and its body one after the other, which is two calls of the system and two packets for the
client. For an answer of some kilobytes that is made in a tenth of a millisecond, the second call is a fifth of all it costs.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_STATUS_LINE = b"HTTP/1.1 "
_GO_ON = b"HTTP/1.1 100 "


class OneWrite:
    """A transport that holds the head of an answer back until its body is there; everything else is the transport's own.

    Where no body follows within the turn of the event loop, as after HEAD or while one is still being made, the head goes alone.
    """

    __slots__ = ("_call_soon", "_held", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._call_soon = loop.call_soon
        self._held = b""

    def write(self, data: bytes) -> None:
        """Send, or hold until what follows is sent."""
        if self._held:
            data, self._held = self._held + data, b""
        elif data.startswith(_STATUS_LINE) and not data.startswith(_GO_ON):
            self._held = data
            self._call_soon(self.flush)
            return
        self._transport.write(data)

    def flush(self) -> None:
        """Send what is held."""
        if self._held:
            data, self._held = self._held, b""
            self._transport.write(data)

    def close(self) -> None:
        """Close when everything is sent."""
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class OneWriteProtocol(HttpToolsProtocol):
    """uvicorn's protocol over `OneWrite`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected."""
        super().connection_made(cast(asyncio.Transport, OneWrite(transport, self.loop)))
