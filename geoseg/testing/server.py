"""A small HTTP server with byte ranges that misbehaves on request, for tests of whatever reads over a network.

::

    with range_server({"/scene.tif": content}) as server:
        server.fault = lambda asked: Fault(status=503) if asked.number % 3 == 1 else None
        ...  # read server.url + "/scene.tif"
        server.asked  # every request, in order

It answers GET and HEAD, one range or none, sends an entity tag that follows the content, and honours ``If-Match``.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

__all__ = ["Asked", "Fault", "RangeServer", "range_server", "range_server_process"]

_CHUNK = 1 << 10
"""Bytes that a slow body sends at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request."""

    number: int
    """Counted from 0, over the server's life."""
    method: str
    """``GET`` or ``HEAD``."""
    path: str
    """Without its query."""
    query: str
    """What stands after the question mark."""
    start: int | None
    """First byte of the range, if one is asked for."""
    stop: int | None
    """Byte after its last, if there is one."""
    headers: Mapping[str, str]
    """As they came, names in lower case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with one answer; the first four exclude the rest, which may be combined."""

    status: int | None = None
    """Answer with this status and `body`."""
    body: bytes = b"no\n"
    """Sent with `status`."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with the answer, in place of proper headers of these names."""
    reset: bool = False
    """Close the connection without a word."""
    page: bool = False
    """Answer 200 with an HTML page."""
    delay: float = 0.0
    """Seconds to wait before the answer."""
    whole: bool = False
    """Ignore the range: answer 200 with the whole body."""
    shift: int = 0
    """Send bytes from so far behind those that were asked for, and say so in Content-Range."""
    scramble: bool = False
    """Send other bytes under the right headers."""
    short: bool = False
    """Promise the whole body, send half of it, close."""
    stall: bool = False
    """Send the headers and a few bytes, then nothing."""
    rate: float | None = None
    """Bytes per second at which the body trickles."""


class RangeServer(ThreadingHTTPServer):
    """Serves `files` (path -> bytes, may be changed at any time) on a free port of 127.0.0.1."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, files: Mapping[str, bytes]) -> None:
        """Takes the files; `fault` is asked before each answer, `etags` says whether entity tags are sent."""
        super().__init__(("127.0.0.1", 0), _Answering)
        self.files = dict(files)
        self.fault: Callable[[Asked], Fault | None] = lambda _: None
        self.etags = True
        self.asked: list[Asked] = []
        self.stopping = threading.Event()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def etag(self, path: str) -> str:
        """The entity tag of a file as it is now."""
        return _tag_of(self.files[path])

    def ranges(self, path: str) -> list[tuple[int, int]]:
        """(first byte, byte after the last) of every range of a file that was asked for, in order."""
        size = len(self.files[path])
        asked = (each for each in self.asked if each.method == "GET" and each.path == path)
        return [(each.start, min(size, each.stop or size)) for each in asked if each.start is not None]

    def note(self, method: str, target: str, wanted: re.Match[str] | None, headers: Mapping[str, str]) -> Asked:
        """Counts a request."""
        path, _, query = target.partition("?")
        with self._lock:
            asked = Asked(
                number=len(self.asked),
                method=method,
                path=path,
                query=query,
                start=int(wanted[1]) if wanted else None,
                stop=int(wanted[2]) + 1 if wanted and wanted[2] else None,
                headers=headers,
            )
            self.asked.append(asked)
        return asked

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the game."""


@lru_cache
def _tag_of(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"'


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: RangeServer

    def log_message(self, *args: Any) -> None:
        """Keeps quiet."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = self.server.note(self.command, self.path, wanted, headers)
        fault = self.server.fault(asked) or Fault()
        self.server.stopping.wait(fault.delay)
        if fault.reset:
            self.close_connection = True
            self.connection.close()
        elif fault.status is not None:
            self._send(fault.status, fault.body, {}, fault)
        elif fault.page:
            self._send(200, b"<html>sign in</html>", {"Content-Type": "text/html"}, fault)
        elif asked.path not in self.server.files:
            self._send(404, b"not here\n", {}, fault)
        else:
            self._file(asked, fault)

    def _file(self, asked: Asked, fault: Fault) -> None:
        content = self.server.files[asked.path]
        tag = {"ETag": self.server.etag(asked.path)} if self.server.etags else {}
        if tag and asked.headers.get("if-match", tag["ETag"]) != tag["ETag"]:
            self._send(412, b"changed\n", {}, fault)
        elif asked.start is None or fault.whole:
            self._send(200, content, tag, fault)
        elif asked.start >= len(content):
            self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"}, fault)
        else:
            start, stop = asked.start + fault.shift, min(asked.stop or len(content), len(content)) + fault.shift
            place = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}", "Accept-Ranges": "bytes"}
            part = content[start:stop]
            self._send(206, part[::-1] if fault.scramble else part, tag | place, fault)

    def _send(self, status: int, content: bytes, headers: Mapping[str, str], fault: Fault) -> None:
        self.send_response(status)
        usual = {"Content-Length": str(len(content)), "Content-Type": "application/octet-stream"}
        for name, value in {**usual, **headers, **fault.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault.short or fault.stall:
            self.close_connection = True
            self.wfile.write(content[: len(content) // 2 if fault.short else 16])
            if fault.stall:
                self.server.stopping.wait()
        elif fault.rate is not None:
            self._trickle(content, fault.rate)
        else:
            self.wfile.write(content)

    def _trickle(self, content: bytes, rate: float) -> None:
        for start in range(0, len(content), _CHUNK):
            self.wfile.write(content[start : start + _CHUNK])
            if self.server.stopping.wait(_CHUNK / rate):
                return


@contextmanager
def range_server(files: Mapping[str, bytes]) -> Iterator[RangeServer]:
    """A server in a thread of this process, stopped at the end."""
    server = RangeServer(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def range_server_process(folder: Path) -> Iterator[str]:
    """The URL of a well-behaved server of a folder's files, in a process of its own.

    GDAL keeps Python's lock while it looks at a raster's sidecars: a server in the same process could not answer.
    """
    command = [sys.executable, "-m", "geoseg.testing.server", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip() if process.stdout else ""
        finally:
            process.terminate()


if __name__ == "__main__":
    serving = RangeServer({f"/{path.name}": path.read_bytes() for path in Path(sys.argv[1]).iterdir()})
    sys.stdout.write(f"{serving.url}\n")
    sys.stdout.flush()
    serving.serve_forever()
