"""The only way out of a service: a proxy on this machine that lets nothing through but to the hosts on the list.

Names are looked up here, and the connection goes to the very address that was looked at: neither a redirect nor a name
whose address changes leads anywhere else, whichever library makes the request (GDAL, boto3, urllib).
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import Coroutine
from contextlib import suppress
from urllib.parse import urlsplit

from geoseg.errors import ConfigError, SourceError
from geoseg.serve.problems import Problem
from geoseg.source.location import Location, parse_location

__all__ = ["Egress", "allowed_location", "demand_public"]

_PORTS = {"http": 80, "https": 443}
_PATIENCE = 15.0
"""Seconds for a name to be looked up, or a connection to be made."""
_HEAD = 1 << 14
_PIECE = 1 << 16


def allowed_location(text: str, hosts: tuple[str, ...]) -> Location:
    """The location that a client names, on a host of the list.

    Raises:
        Problem: It is a path of this machine, no location at all, or on another host.
    """
    try:
        location = parse_location(text) if "://" in text else None
    except SourceError as error:
        raise Problem(400, "Not a location", str(error).partition(";")[0]) from error
    if location is None or location.kind == "path":
        raise Problem(400, "Not a location", "an href is an http(s) or s3 URL on a host that this service allows")
    if location.kind == "s3":
        allowed = f"s3://{location.bucket_key[0]}" in hosts
    else:
        parts = urlsplit(location.display)
        allowed = _is_listed(str(parts.hostname), _port(parts.scheme, parts.netloc), hosts)
    if not allowed:
        raise Problem(400, "Host not allowed", "this service does not read from that host; its operator lists hosts")
    return location


def _port(scheme: str, place: str) -> int:
    try:
        return urlsplit(f"//{place}").port or _PORTS[scheme]
    except ValueError:
        return 0


def _is_listed(host: str, port: int, hosts: tuple[str, ...]) -> bool:
    shown = f"[{host}]" if ":" in host else host
    return f"{shown}:{port}" in hosts or (shown in hosts and port in _PORTS.values())


async def demand_public(host: str, port: int) -> list[str]:
    """The addresses of a host of the list, none of which is of a private network unless the list names the address.

    Raises:
        Problem: It has no address, or one that is private, of this machine, or otherwise not of the Internet.
    """
    loop = asyncio.get_running_loop()
    with suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    try:
        found = await asyncio.wait_for(loop.getaddrinfo(host, port, type=socket.SOCK_STREAM), _PATIENCE)
    except (OSError, UnicodeError, TimeoutError) as error:
        raise Problem(400, "Host not found", "that host has no address") from error
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    if not addresses or not all(_is_public(address) for address in addresses):
        raise Problem(400, "Host not allowed", "that host's address is of a private network")
    return addresses


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text)
    mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    return address.is_global and not address.is_multicast and (mapped is None or mapped.is_global)


class Egress:
    """The proxy."""

    def __init__(self, hosts: tuple[str, ...]) -> None:
        """Takes the list: ``HOST``, ``HOST:PORT`` or ``s3://BUCKET``.

        Raises:
            ConfigError: An entry is none of these.
        """
        for entry in hosts:
            if entry != entry.strip().lower() or not entry or ("/" in entry and not entry.startswith("s3://")):
                raise ConfigError(f"--hosts {entry}: write a host, HOST:PORT or s3://BUCKET, in lower case")
        self._hosts = hosts
        self._buckets = any(entry.startswith("s3://") for entry in hosts)
        self._server: asyncio.Server | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begins to listen, on this machine only."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_HEAD)

    async def stop(self) -> None:
        """Ends."""
        if self._server is not None:
            self._server.close()
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def environment(self) -> dict[str, str]:
        """Variables with which requests of a process go this way."""
        assert self._server is not None  # noqa: S101 - it was started
        url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "GDAL_HTTP_PROXY", "GDAL_HTTPS_PROXY")
        return dict.fromkeys(names, url) | {"no_proxy": "", "NO_PROXY": ""}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._under_way.add(task)
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _PATIENCE)
            await self._connect(head, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, ValueError):
            pass
        except Problem as problem:
            writer.write(f"HTTP/1.1 403 {problem.args[1]}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        finally:
            await _closed(writer)
            if task is not None:
                self._under_way.discard(task)

    async def _connect(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Passes one request on, and bytes both ways until either side ends."""
        line, _, rest = head.partition(b"\r\n")
        method, target, version = line.decode("latin-1").split(" ")
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        port = parts.port or 80
        host = str(parts.hostname)
        if self._is_endpoint(host, port):
            addresses = [host]
        elif self._may_reach(host, port, tunnelled=method == "CONNECT"):
            addresses = await demand_public(host, port)
        else:
            raise Problem(403, "Host not allowed")
        there, back = await asyncio.wait_for(asyncio.open_connection(addresses[0], port), _PATIENCE)
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:  # one request each: the next one of the same connection might be for another host
                path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
                back.write(f"{method} {path} {version}\r\nConnection: close\r\n".encode("latin-1") + _forwarded(rest))
            await _both(_pass(reader, back), _pass(there, writer))
        finally:
            await _closed(back)

    def _is_endpoint(self, host: str, port: int) -> bool:
        """Whether it is where the operator's environment says that buckets are, and buckets are on the list."""
        url = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
        return self._buckets and host == url.hostname and port == _port(url.scheme, url.netloc)

    def _may_reach(self, host: str, port: int, *, tunnelled: bool) -> bool:
        buckets = [entry.removeprefix("s3://") for entry in self._hosts if entry.startswith("s3://")]
        at_amazon = host.endswith(".amazonaws.com") and tunnelled
        if at_amazon and any(host.startswith((f"{bucket}.s3.", f"{bucket}.s3-")) for bucket in buckets):
            return True
        return _is_listed(host, port, self._hosts)


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError, TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), _PATIENCE)


def _forwarded(headers: bytes) -> bytes:
    """The headers but those that are about the connection to the proxy."""
    lines = headers.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.lower().startswith((b"connection:", b"proxy-")))


async def _pass(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while piece := await source.read(_PIECE):
        target.write(piece)
        await target.drain()
    with suppress(OSError):
        target.write_eof()


async def _both(out: Coroutine[None, None, None], back: Coroutine[None, None, None]) -> None:
    """Both ways, until what comes back has ended."""
    going = asyncio.create_task(out)
    try:
        await back
    finally:
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
