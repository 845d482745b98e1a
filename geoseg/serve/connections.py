"""Connections of clients that neither dawdle over a request nor leave an answer lying."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["patient_for"]

_FORGET = struct.pack("ii", 1, 0)


class _Connection(H11Protocol):
    """One connection; cut where the head of a request, or the reading of an answer, takes too long."""

    slowness = 20.0
    """Seconds."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._request_due: asyncio.TimerHandle | None = None
        self._reading_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_request()

    def _watch_request(self) -> None:
        """Every head has its time from its first byte, or from the connection's beginning."""
        if self.conn.their_state is not h11.IDLE:
            _cancel(self._request_due)
            self._request_due = None
        elif self._request_due is None:
            self._request_due = self.loop.call_later(self.slowness, self._cut)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading_due = self.loop.call_later(self.slowness, self._cut)

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._reading_due)

    def connection_lost(self, exc: Exception | None) -> None:
        _cancel(self._request_due)
        _cancel(self._reading_due)
        super().connection_lost(exc)

    def _cut(self) -> None:
        connection = self.transport.get_extra_info("socket")
        if connection is not None:  # the kernel, too, forgets what was to be sent
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _FORGET)
        self.transport.abort()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def patient_for(seconds: float) -> type[H11Protocol]:
    """The class of connections that bear so much slowness."""
    return type("Connection", (_Connection,), {"slowness": seconds})
