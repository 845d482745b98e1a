"""A client of OGC API - Processes that goes through QGIS's own network: its proxies, certificates and time-outs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urlsplit

from qgis.core import QgsBlockingNetworkRequest, QgsFeedback
from qgis.PyQt.QtCore import QByteArray, QUrl
from qgis.PyQt.QtNetwork import QNetworkRequest

__all__ = ["Client", "Ended", "ServiceError"]

_ANSWER_MILLISECONDS = 60_000
_PIECE_BYTES = 16 << 20
"""Of a file, in one answer: what is held in memory."""
_PATIENCE_SECONDS = 60.0
"""How long the service may be out of reach while a job is at work."""
_LOOK_SECONDS = (0.5, 5.0)
"""Between two looks at a job: at first, and at most."""
_DETAIL = 400
"""Letters of the service's words that are shown."""


class ServiceError(Exception):
    """Why something did not work, in one line."""

    def __init__(self, message: str, passing: bool = False) -> None:
        super().__init__(" ".join(message.split()), passing)

    def __str__(self) -> str:
        return str(self.args[0])

    @property
    def passing(self) -> bool:
        """Whether the same request may work a moment later."""
        return bool(self.args[1])


class Ended(Exception):  # noqa: N818 - no error
    """The user has cancelled."""


class Client:
    """One service, as the holder of one token sees it."""

    def __init__(self, url: str, token: str, feedback: QgsFeedback) -> None:
        """Takes the service's address, the token ("": none), and what tells that the user cancels.

        Raises:
            ServiceError: The address is none, or the token would be readable on its way.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ServiceError(f"{url!r} is no address of a service: set one like https://maps.example.org")
        if token and parts.scheme == "http" and parts.hostname not in {"localhost", "127.0.0.1", "::1"}:
            raise ServiceError(f"{url}: a token is not sent without encryption: use an address with https://")
        self._url = url.rstrip("/")
        self._token = token
        self._feedback = feedback

    def get(self, path: str) -> Any:
        """What stands at a path of the service, as JSON.

        Raises:
            ServiceError: The service says no, or nothing, or no JSON.
        """
        return self._json("GET", f"{self._url}{path}")

    def run(self, process: str, inputs: Mapping[str, Any], on_progress: Callable[[int, str], None]) -> dict[str, str]:
        """The URLs of a job's results, by name, once it has ended; a cancelled job is dismissed.

        Args:
            process: Id of the process.
            inputs: Its inputs.
            on_progress: Hears of percent and the service's words when they change.

        Raises:
            ServiceError: The job was refused, failed, was dismissed by somebody else, or the service is gone.
            Ended: The user cancelled.
        """
        body = json.dumps({"inputs": dict(inputs), "response": "document"}).encode()
        url = f"{self._url}/processes/{quote(process)}/execution"
        job = f"{self._url}/jobs/{quote(self._json('POST', url, body)['jobID'], safe='')}"
        try:
            self._wait(job, on_progress)
        except Ended:
            self._ask("DELETE", job)
            raise
        return {name: link["href"] for name, link in self._json("GET", f"{job}/results").items() if "href" in link}

    def download(self, url: str, path: Path) -> None:
        """Writes what stands at a URL, piece by piece; only a complete file gets the name.

        Raises:
            ServiceError: It cannot be had, or not be written.
            Ended: The user cancelled.
        """
        unfinished = path.with_name(f"{path.name}.part")
        try:
            with unfinished.open("wb") as file:
                while not self._piece(url, file.tell(), file.write):
                    pass
            unfinished.replace(path)
        except OSError as error:
            raise ServiceError(f"{path} cannot be written ({error.strerror})") from error
        finally:
            if unfinished.exists():
                unfinished.unlink()

    def _piece(self, url: str, start: int, write: Callable[[bytes], Any]) -> bool:
        """Writes the bytes from `start`; whether they are the last."""
        headers = {"Range": f"bytes={start}-{start + _PIECE_BYTES - 1}", "Accept-Encoding": "identity"}
        status, content, told = self._ask("GET", url, headers=headers)
        if status != 206:  # Partial Content; the service may send the whole
            if start:
                raise ServiceError(f"{url}: changed while it was read; run again")
            write(content)
            return True
        write(content)
        size = told.rpartition("/")[2]
        return not content or (size.isdigit() and start + len(content) >= int(size))

    def _wait(self, job: str, on_progress: Callable[[int, str], None]) -> None:
        pause, longest = _LOOK_SECONDS
        seen, known = time.monotonic(), None
        while True:
            try:
                status = self._json("GET", job)
                seen = time.monotonic()
            except ServiceError as error:
                if not error.passing or time.monotonic() - seen > _PATIENCE_SECONDS:
                    raise ServiceError(f"{error}; the job may go on: {job}") from error
            else:
                told = (int(status.get("progress", 0)), str(status.get("message", "")))
                if status["status"] in {"failed", "dismissed"}:
                    raise ServiceError(_short(told[1]) or f"the job is {status['status']}")
                if told != known:
                    on_progress(*told)
                    known = told
                if status["status"] == "successful":
                    return
            self._pause(pause)
            pause = min(longest, pause * 1.3)

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._feedback.isCanceled():
                raise Ended
            time.sleep(0.05)

    def _json(self, verb: str, url: str, body: bytes = b"") -> Any:
        content = self._ask(verb, url, body, {"Accept": "application/json"})[1]
        try:
            return json.loads(content.decode())
        except ValueError as error:
            raise ServiceError(f"{url}: no answer of a geoseg service; look at its address") from error

    def _ask(
        self, verb: str, url: str, body: bytes = b"", headers: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[int, bytes, str]:
        """Status, content and Content-Range of one answer."""
        exchange, request = QgsBlockingNetworkRequest(), self._request(url, headers)
        if verb == "GET":
            exchange.get(request, True, self._feedback)
        elif verb == "POST":
            request.setRawHeader(b"Content-Type", b"application/json")
            request.setRawHeader(b"Prefer", b"respond-async")
            exchange.post(request, QByteArray(body), True)  # to its end: a job whose id is unknown cannot be stopped
        else:
            exchange.deleteResource(request)
        reply = exchange.reply()
        status, content = reply.attribute(QNetworkRequest.HttpStatusCodeAttribute), bytes(reply.content())
        if verb == "GET" and self._feedback.isCanceled():
            raise Ended
        if status is None:
            raise ServiceError(f"{self._url} does not answer ({exchange.errorMessage()})", passing=True)
        if status >= 400:
            raise ServiceError(_problem(status, content), passing=status in {429, 502, 503, 504})
        found = {bytes(name).lower(): bytes(reply.rawHeader(name)).decode("latin-1") for name in reply.rawHeaderList()}
        return status, content, found.get(b"content-range", "")

    def _request(self, url: str, headers: Mapping[str, str]) -> QNetworkRequest:
        request = QNetworkRequest(QUrl(url))
        request.setTransferTimeout(_ANSWER_MILLISECONDS)
        for name, value in headers.items():
            request.setRawHeader(name.encode(), value.encode())
        if self._token and urlsplit(url)[:2] == urlsplit(self._url)[:2]:  # links may lead to other hosts
            request.setRawHeader(b"Authorization", f"Bearer {self._token}".encode())
        return request


def _problem(status: int, content: bytes) -> str:
    """What a problem document (RFC 9457) says."""
    try:
        told = json.loads(content.decode())
        words = [str(told[name]) for name in ("title", "detail") if told.get(name)]
    except (ValueError, AttributeError, TypeError):
        words = []
    return _short(": ".join(words)) or f"the service answered with status {status}"


def _short(text: str) -> str:
    return text if len(text) <= _DETAIL else f"{text[:_DETAIL]}..."
