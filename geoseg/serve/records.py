"""The documents of OGC API - Processes 1.0 that the service sends, as models, and how links in them are made."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field
from starlette.requests import Request

__all__ = [
    "Conformance", "Execute", "JobList", "JobQuery", "LinkTo", "OutputWish", "Process", "ProcessList", "ProcessSummary",
    "State", "StatusInfo", "base_url", "link_to",
]  # fmt: skip

State = Literal["accepted", "running", "successful", "failed", "dismissed"]


class LinkTo(BaseModel):
    """A link (RFC 8288)."""

    href: str
    rel: str
    type: str | None = None
    title: str | None = None


class Conformance(BaseModel):
    """Which standards the service keeps."""

    conformsTo: list[str]  # noqa: N815 - the standard's name


class ProcessSummary(BaseModel):
    """One process in the list."""

    id: str
    title: str
    description: str
    version: str
    jobControlOptions: list[Literal["sync-execute", "async-execute", "dismiss"]]  # noqa: N815 - the standard's name
    outputTransmission: list[Literal["value", "reference"]]  # noqa: N815 - the standard's name
    links: list[LinkTo]


class ProcessList(BaseModel):
    """All processes."""

    processes: list[ProcessSummary]
    links: list[LinkTo]


class Process(ProcessSummary):
    """What one process takes and gives."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]


class OutputWish(BaseModel):
    """How a client wants one output."""

    transmissionMode: Literal["value", "reference"] | None = None  # noqa: N815 - the standard's name
    format: dict[str, Any] | None = None


class Execute(BaseModel):
    """A request to do something."""

    inputs: dict[str, Any] = Field(default_factory=dict)
    outputs: dict[str, OutputWish] | None = None
    response: Literal["raw", "document"] = "document"


class StatusInfo(BaseModel):
    """How far a job is."""

    processID: str  # noqa: N815 - the standard's name
    type: Literal["process"] = "process"
    jobID: str  # noqa: N815 - the standard's name
    status: State
    message: str
    created: dt.datetime
    started: dt.datetime | None = None
    finished: dt.datetime | None = None
    updated: dt.datetime
    progress: int = Field(ge=0, le=100)
    links: list[LinkTo]


class JobQuery(BaseModel):
    """Which jobs to list."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 10
    offset: Annotated[int, Field(ge=0, le=10**9)] = 0
    type: Annotated[list[Literal["process"]], Field(max_length=1)] = []
    processID: Annotated[list[str], Field(max_length=20)] = []  # noqa: N815 - the standard's name
    status: Annotated[list[State], Field(max_length=20)] = []
    datetime: Annotated[str, Field(max_length=100)] = ""
    minDuration: Annotated[int | None, Field(ge=0)] = None  # noqa: N815 - the standard's name
    maxDuration: Annotated[int | None, Field(ge=0)] = None  # noqa: N815 - the standard's name


class JobList(BaseModel):
    """Some of the jobs, the newest first."""

    jobs: list[StatusInfo]
    numberMatched: int  # noqa: N815 - as OGC API - Features calls it
    numberReturned: int  # noqa: N815 - as above
    links: list[LinkTo]


def base_url(request: Request) -> str:
    """Where the client finds the service, without a slash at the end."""
    told = request.app.state.service.settings.url
    return str(told or request.base_url).rstrip("/")


def link_to(request: Request, path: str, rel: str, kind: str = "application/json", title: str | None = None) -> LinkTo:
    """A link to a path of the service."""
    return LinkTo(href=f"{base_url(request)}{path}", rel=rel, type=kind, title=title)
