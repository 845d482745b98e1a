"""Errors as problem documents (RFC 9457): what is wrong and what to do, without paths or words of a library."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from geoseg.errors import (
    BandError,
    ClusterError,
    ConfigError,
    GeosegError,
    GridError,
    MissingExtraError,
    ModelError,
    PlanError,
    SinkError,
    SourceError,
    without_secrets,
)

__all__ = [
    "ANY_PROBLEM", "NO_SUCH_JOB", "NO_SUCH_PROCESS", "PROBLEM_JSON", "RESULT_NOT_READY", "Problem", "add_problems",
    "explained", "problem_of", "problem_responses", "without_paths",
]  # fmt: skip

PROBLEM_JSON = "application/problem+json"
"""Media type of every error."""

_PATH = re.compile(r"(?<![\w:/.])(?:/[^\s/:;,'\"()]+)+/?")
_STATUS: tuple[tuple[type[GeosegError], int], ...] = (
    (MissingExtraError, 501),
    (ClusterError, 503),
    (PlanError, 422),
    (SourceError, 422),
    (BandError, 422),
    (GridError, 422),
    (ModelError, 422),
    (ConfigError, 400),
    (SinkError, 507),
)
_OGC = "http://www.opengis.net/def/exceptions/ogcapi-processes-1/1.0"
NO_SUCH_PROCESS, NO_SUCH_JOB, RESULT_NOT_READY = (
    f"{_OGC}/{name}" for name in ("no-such-process", "no-such-job", "result-not-ready")
)
"""Types of problems that the standard names."""
_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
_CONTENT = {PROBLEM_JSON: {"schema": _SCHEMA}}
ANY_PROBLEM: dict[int | str, dict[str, Any]] = {"4XX": {"description": "What is wrong.", "content": _CONTENT}}
"""What the description says of every route: each may refuse a request."""

_log = logging.getLogger("geoseg.serve")


class Problem(Exception):  # noqa: N818 - as the standard calls it
    """An answer that says what is wrong: status, title and detail, and whatever else a client may want to know."""

    def __init__(self, status: int, title: str, detail: str = "", **more: Any) -> None:
        super().__init__(status, title, detail)
        self.headers: Mapping[str, str] = more.pop("headers", {})
        self.more = more

    def __str__(self) -> str:
        return f"{self.args[1]}: {self.args[2]}" if self.args[2] else str(self.args[1])

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        status, title, detail = self.args
        found = {"type": "about:blank", "title": title, "status": status, **self.more}
        return found | ({"detail": detail} if detail else {})

    def response(self) -> JSONResponse:
        """The answer."""
        headers = dict(self.headers)
        if self.args[0] == HTTPStatus.UNAUTHORIZED:
            headers.setdefault("WWW-Authenticate", 'Bearer realm="geoseg"')
        return JSONResponse(self.document(), self.args[0], headers, PROBLEM_JSON)


def without_paths(text: str) -> str:
    """Text in which every absolute path is its last name, and no URL has a query or a login.

    >>> without_paths("/srv/maps/jobs/1/scene.tif: no CRS; see https://host/a/b.tif?key=1")
    'scene.tif: no CRS; see https://host/a/b.tif'
    """
    return _PATH.sub(lambda found: found[0].rstrip("/").rpartition("/")[2], without_secrets(text))


def problem_of(error: BaseException) -> Problem:
    """The problem that an error is to a client."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, GeosegError):
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        return Problem(status, HTTPStatus(status).phrase, without_paths(str(error)))
    return Problem(500, "Internal Server Error", "the service failed; its log says where")


def add_problems(app: FastAPI) -> None:
    """Makes every error of an application a problem document."""

    def told(_: Request, error: Exception) -> JSONResponse:
        return problem_of(error).response()

    def of_http(request: Request, error: Exception) -> JSONResponse:
        status, headers = getattr(error, "status_code", 500), getattr(error, "headers", None) or {}
        if status == HTTPStatus.NOT_FOUND and request.url.path.startswith("/processes/"):
            return Problem(404, "No such process", type=NO_SUCH_PROCESS, headers=headers).response()
        return Problem(status, HTTPStatus(status).phrase, headers=headers).response()

    def of_validation(_: Request, error: Exception) -> JSONResponse:
        return Problem(400, "Bad Request", explained(error.errors())).response()  # type: ignore[attr-defined]

    def unexpected(_: Request, error: Exception) -> JSONResponse:
        _log.error("unexpected %s", type(error).__name__, exc_info=error, extra={"event": "error", "facts": {}})
        return problem_of(error).response()

    app.add_exception_handler(Problem, told)
    app.add_exception_handler(GeosegError, told)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_validation)
    app.add_exception_handler(Exception, unexpected)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What the description of an API says of the problems that a route may answer with."""
    return {status: {"description": HTTPStatus(status).phrase, "content": _CONTENT} for status in statuses}


def explained(errors: Any) -> str:
    """What is wrong with the parts of a request, from pydantic's list."""
    told = []
    for each in list(errors)[:5]:
        place = ".".join(str(word) for word in each["loc"] if word != "body")
        text = str(each["msg"]).removeprefix("Value error, ")
        told.append(f"{place}: {text}" if place else text)
    return "; ".join(told)
