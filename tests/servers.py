"""A small HTTP server with byte ranges that misbehaves on demand, for tests of anything that reads from the network."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

__all__ = ["Asked", "Fault", "RangeServer", "range_server", "range_server_process"]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    number: int
    """Counted from 0, over the server's life."""
    path: str
    """With its query."""
    start: int | None
    """First byte of the range, if one is asked for."""
    stop: int | None
    """Byte after its last, if there is one."""
    headers: dict[str, str]
    """As they came, names in lower case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What to do instead of a proper answer; the first that is set counts."""

    status: int | None = None
    """Answer with this status and a short text."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with `status`."""
    reset: bool = False
    """Close the connection without a word."""
    short: bool = False
    """Promise the whole body, send half of it, close."""
    stall: bool = False
    """Send the headers and a few bytes, then nothing."""
    delay: float = 0.0
    """Seconds to wait before a proper answer."""
    page: bool = False
    """Answer 200 with an HTML page."""
    no_ranges: bool = False
    """Answer 200 with the whole body."""


class RangeServer(ThreadingHTTPServer):
    """Serves `files` (path -> bytes); `fault` is asked before each answer."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.files = files
        self.fault: Callable[[Asked], Fault | None] = lambda _: None
        self.asked: list[Asked] = []
        self.etags = True
        self.stopping = threading.Event()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def etag(self, path: str) -> str:
        """The entity tag of a file as it is now."""
        return f'"{hashlib.sha256(self.files[path]).hexdigest()[:16]}"'

    def note(self, path: str, wanted: re.Match[str] | None, headers: dict[str, str]) -> Asked:
        """Counts a request."""
        start = int(wanted[1]) if wanted else None
        stop = int(wanted[2]) + 1 if wanted and wanted[2] else None
        with self._lock:
            asked = Asked(len(self.asked), path, start, stop, headers)
            self.asked.append(asked)
        return asked

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the game."""


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RangeServer

    def log_message(self, *args: Any) -> None:
        """Keeps quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        asked = self.server.note(self.path, wanted, {k.lower(): v for k, v in self.headers.items()})
        fault = self.server.fault(asked) or Fault()
        path = self.path.partition("?")[0]
        if fault.status is not None:
            self._send(fault.status, b"no\n", body=body, headers=fault.headers)
        elif fault.reset:
            self.close_connection = True
            self.connection.close()
        elif fault.page:
            self._send(200, b"<html>sign in</html>", body=body, headers={"Content-Type": "text/html"})
        elif path not in self.server.files:
            self._send(404, b"not here\n", body=body)
        else:
            time.sleep(fault.delay)
            self._file(path, wanted, fault, body=body)

    def _file(self, path: str, wanted: re.Match[str] | None, fault: Fault, *, body: bool) -> None:
        content = self.server.files[path]
        tag = {"ETag": self.server.etag(path)} if self.server.etags else {}
        condition = self.headers.get("If-Match")
        if condition is not None and self.server.etags and condition != tag["ETag"]:
            self._send(412, b"changed\n", body=body)
        elif wanted is None or fault.no_ranges:
            self._send(200, content, body=body, headers=tag, fault=fault)
        elif int(wanted[1]) >= len(content):
            self._send(416, b"", body=body)
        else:
            start, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
            head = {**tag, "Content-Range": f"bytes {start}-{last}/{len(content)}", "Accept-Ranges": "bytes"}
            self._send(206, content[start : last + 1], body=body, headers=head, fault=fault)

    def _send(
        self,
        status: int,
        content: bytes,
        *,
        body: bool,
        headers: dict[str, str] | None = None,
        fault: Fault | None = None,
    ) -> None:
        self.send_response(status)
        sent = {"Content-Length": str(len(content)), "Content-Type": "application/octet-stream", **(headers or {})}
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        if not body:
            return
        if fault and (fault.short or fault.stall):
            self.wfile.write(content[: len(content) // 2 if fault.short else 16])
            self.wfile.flush()
            self.close_connection = True
            if fault.stall:
                self.server.stopping.wait(120)
            return
        self.wfile.write(content)


@contextmanager
def range_server_process(files: dict[str, bytes], folder: Path) -> Iterator[str]:
    """The URL of a well-behaved server in a process of its own.

    GDAL keeps Python's lock while it looks at sidecars: a server in the same process could not answer.
    """
    for name, content in files.items():
        (folder / name.lstrip("/")).write_bytes(content)
    command = [sys.executable, "-m", "tests.servers", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@contextmanager
def range_server(files: dict[str, bytes]) -> Iterator[RangeServer]:
    """A server on loopback, stopped at the end."""
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


if __name__ == "__main__":
    serving = RangeServer({f"/{path.name}": path.read_bytes() for path in Path(sys.argv[1]).iterdir()})
    print(serving.url, flush=True)
    serving.serve_forever()
