"""A service that speaks OGC API - Processes as the standard has it and computes nothing: its results are a run's."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_NAMES = {"labels.tif": "labels", "confidence.tif": "confidence", "change.tif": "change"}


@dataclass(kw_only=True)
class Heard:
    """One request."""

    verb: str
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass(kw_only=True)
class FakeService:
    """What it has, what it says, and what it heard."""

    run: Path
    states: list[tuple[str, int, str]] = field(default_factory=lambda: [("successful", 100, "done")])
    """Status, progress and message at each look at the job; the last stays."""
    refusal: tuple[int, bytes] | None = None
    """Answer to whoever asks for a job."""
    lost: int = 0
    """Looks at the job that get no good answer first."""
    files_url: str = ""
    """Another service that has the files."""
    url: str = ""
    heard: list[Heard] = field(default_factory=list)

    def answer(self, heard: Heard) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and content."""
        self.heard.append(heard)
        verb, path = heard.verb, heard.path
        if verb == "POST" and re.fullmatch(r"/processes/(segment|change)/execution", path):
            if self.refusal is not None:
                return self.refusal[0], {"Content-Type": "application/problem+json"}, self.refusal[1]
            return self._json(201, self._status("accepted", 0, "waits"), Location=f"{self.url}/jobs/job%201")
        if path == "/jobs/job%201" and verb == "DELETE":
            return self._json(200, self._status("dismissed", 0, "dismissed"))
        if path == "/jobs/job%201":
            if self.lost:
                self.lost -= 1
                return 503, {}, b"the proxy's own words"
            return self._json(200, self._status(*(self.states.pop(0) if len(self.states) > 1 else self.states[0])))
        if path == "/jobs/job%201/results":
            return self._json(
                200, {self._name(file): self._link(file) for file in self.run.iterdir() if file.is_file()}
            )
        return self._file(heard)

    def _file(self, heard: Heard) -> tuple[int, Mapping[str, str], bytes]:
        file = self.run / heard.path.rpartition("/")[2]
        if not file.is_file():
            return self._json(404, {"title": "No such file", "status": 404})
        content = file.read_bytes()
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", heard.headers.get("Range", ""))
        if not found:
            return 200, {}, content
        start, end = int(found[1]), min(int(found[2]), len(content) - 1)
        return 206, {"Content-Range": f"bytes {start}-{end}/{len(content)}"}, content[start : end + 1]

    def _link(self, file: Path) -> dict[str, str]:
        return {"href": f"{self.files_url or self.url}/jobs/job%201/files/{file.name}", "type": "image/tiff"}

    @staticmethod
    def _name(file: Path) -> str:
        return _NAMES.get(file.name, file.name.replace(".", "_"))

    @staticmethod
    def _status(status: str, progress: int, message: str) -> dict[str, Any]:
        told = {"jobID": "job 1", "type": "process", "processID": "segment"}
        return told | {"status": status, "progress": progress, "message": message}

    @staticmethod
    def _json(status: int, document: Any, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
        return status, {"Content-Type": "application/json", **headers}, json.dumps(document).encode()


@contextmanager
def serving(fake: FakeService) -> Iterator[FakeService]:
    """Has it listen on loopback, under its `url`."""

    class Handler(BaseHTTPRequestHandler):
        def _reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            heard = Heard(
                verb=self.command, path=self.path, headers=dict(self.headers), body=json.loads(body) if body else None
            )
            status, headers, content = fake.answer(heard)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _reply  # noqa: N815 - the library's names

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
