"""Who may come in, how often, and with how much: decided before any route sees a request.

Pure ASGI, so that a refused request costs nothing. Bodies are read whole here, for they are small, and each has only so
long to arrive; slowness before a body and after an answer is the connection's business (`geoseg.serve.connections`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from geoseg.serve.problems import Problem
from geoseg.serve.settings import ServiceSettings
from geoseg.serve.tokens import ANYBODY, Client, who

__all__ = ["Limits", "client_of", "is_loopback"]

RANGES = 4
"""Byte ranges that one request may ask for."""
_REMEMBERED = 10_000  # clients whose rates are known; more than that come from a flood of addresses


def client_of(request: Request) -> Client:
    """Whose request it is."""
    found: Client = getattr(request.state, "client", ANYBODY)
    return found


def is_loopback(host: str) -> bool:
    """Whether an address, or the name of a host, is always this machine.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0"), is_loopback("host.example")
    (True, True, False, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Rates:
    """How many requests each client may make now: a bucket of `burst` that fills by `rate` each second."""

    def __init__(self, rate: float, burst: int) -> None:
        """All buckets are full."""
        self._rate, self._burst = rate, burst
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait(self, key: str, now: float) -> float:
        """Takes one out of a client's bucket; seconds to wait until that would be possible, 0 where it was.

        >>> rates = Rates(rate=2.0, burst=1)
        >>> rates.wait("a", 0.0), rates.wait("a", 0.0), rates.wait("b", 0.0), rates.wait("a", 0.5)
        (0.0, 0.5, 0.0, 0.0)
        """
        left, since = self._buckets.get(key, (float(self._burst), now))
        left = min(self._burst, left + (now - since) * self._rate)
        if len(self._buckets) > _REMEMBERED:
            self._buckets.clear()
        if left < 1:
            self._buckets[key] = (left, now)
            return (1 - left) / self._rate
        self._buckets[key] = (left - 1, now)
        return 0.0


class Limits:
    """The middleware."""

    def __init__(
        self, app: ASGIApp, settings: ServiceSettings, clients: tuple[Client, ...], open_paths: Sequence[str]
    ) -> None:
        """Takes the application and who may use it; `open_paths` need no token."""
        self._app = app
        self._settings = settings
        self._clients = clients
        self._open = frozenset(path for path in open_paths if path == "/" or not path.endswith("/"))
        self._open_below = tuple(path for path in open_paths if path != "/" and path.endswith("/"))
        self._rates = Rates(settings.rate, settings.burst)
        self._named = {urlsplit(settings.url).hostname if settings.url else None, settings.host}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers with what is wrong with it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            self._demand_place(scope, headers)
            self._admit(scope, headers)
            _demand_few_ranges(headers)
            body = await self._body(headers, receive)
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, _replayed(body, receive), send)

    def _demand_place(self, scope: Scope, headers: Headers) -> None:
        """Refuses a browser that was led here by another site's page, or by a name that became this machine's."""
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        if not self._clients and not is_loopback(host) and host not in self._named:
            raise Problem(421, "Wrong host", "without tokens the service answers to the names of this machine only")
        origin = headers.get("origin")
        if origin and origin != "null" and urlsplit(origin).netloc != headers.get("host"):
            raise Problem(403, "Wrong origin", "pages of other sites may not use this service")
        if origin == "null" and scope["method"] not in {"GET", "HEAD"}:
            raise Problem(403, "Wrong origin", "pages of other sites may not use this service")

    def _admit(self, scope: Scope, headers: Headers) -> None:
        """Knows the client and counts its request.

        Raises:
            Problem: It has no token, or asks too often.
        """
        address = scope["client"][0] if scope.get("client") else ""
        client: Client | None = ANYBODY
        if self._clients and not self._is_open(scope["path"]):
            client = who(self._clients, headers.get("authorization", ""))
        key = client.name if client is not None and client is not ANYBODY else f"at {address}"
        wait = self._rates.wait(key, time.monotonic())
        if wait:
            retry = {"Retry-After": str(int(wait) + 1)}
            raise Problem(429, "Too many requests", f"at most {self._settings.rate:g} a second", headers=retry)
        if client is None:
            raise Problem(401, "Token needed", "send the header Authorization: Bearer TOKEN")
        scope.setdefault("state", {})["client"] = client

    def _is_open(self, path: str) -> bool:
        return path in self._open or path.startswith(self._open_below or ("\0",))

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body.

        Raises:
            Problem: It is too large, or too slow.
        """
        limit, said = self._settings.body, headers.get("content-length", "")
        too_large = Problem(413, "Too large", f"a body has at most {limit} bytes", headers={"Connection": "close"})
        if said.isdecimal() and int(said) > limit:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.slowness):
                while (message := await receive())["type"] == "http.request":
                    body += message.get("body", b"")
                    if len(body) > limit:
                        raise too_large
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            raise Problem(408, "Too slow", "the body did not arrive in time", headers={"Connection": "close"}) from None
        raise Problem(400, "Bad Request", "the client has gone")


def _demand_few_ranges(headers: Headers) -> None:
    asked = headers.get("range", "")
    if asked.count(",") >= RANGES:
        raise Problem(416, "Too many ranges", f"a request asks for at most {RANGES} ranges")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the body first, then what comes after it: that the client has gone."""
    given = False

    async def again() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again
