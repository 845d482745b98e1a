"""The jobs of OGC API - Processes: the list, one job's status, its results, its files, its end."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse

from geoseg.serve.jobs import Job, JobStatus
from geoseg.serve.limits import client_of
from geoseg.serve.problems import NO_SUCH_JOB, Problem, problem_responses
from geoseg.serve.records import JobList, JobQuery, LinkTo, StatusInfo, base_url, link_to
from geoseg.serve.results import document_response, files_of, results_response
from geoseg.serve.service import Service

__all__ = ["job_url", "router", "status_info"]

_RESULTS = "http://www.opengis.net/def/rel/ogc/1.0/results"


def job_url(request: Request, job: Job) -> str:
    """Where a job's status is."""
    return f"{base_url(request)}/jobs/{job.id}"


def status_info(request: Request, service: Service, job: Job, status: JobStatus | None = None) -> StatusInfo:
    """How far a job is, as the standard has it."""
    told = status or service.jobs.status(job)
    links = [link_to(request, f"/jobs/{job.id}", "self"), link_to(request, "/jobs", "up")]
    if told.state == "successful":
        links.append(link_to(request, f"/jobs/{job.id}/results", _RESULTS, title="Results"))
    return StatusInfo(
        processID=job.process,
        jobID=job.id,
        status=told.state,
        message=told.message,
        created=datetime.fromisoformat(job.created),
        started=datetime.fromisoformat(told.started) if told.started else None,
        finished=datetime.fromisoformat(told.finished) if told.finished else None,
        updated=datetime.fromisoformat(told.updated or job.created),
        progress=told.progress,
        links=links,
    )


def router(service: Service) -> APIRouter:
    """``/jobs`` and what is below it."""
    routes = APIRouter(tags=["jobs"])
    _add_list(routes, service)

    def found(job_id: str) -> Job:
        job = service.jobs.find(job_id)
        if job is None:
            raise Problem(404, "No such job", type=NO_SUCH_JOB)
        return job

    @routes.get(
        "/jobs/{job_id}", summary="How far a job is", responses=problem_responses(404), response_model_exclude_none=True
    )
    async def status(request: Request, job_id: str) -> StatusInfo:
        return status_info(request, service, found(job_id))

    @routes.delete(
        "/jobs/{job_id}",
        summary="Stop a job; remove one that ended",
        responses=problem_responses(403, 404),
        response_model_exclude_none=True,
    )
    async def dismiss(request: Request, job_id: str) -> StatusInfo:
        job = found(job_id)
        if job.client != client_of(request).name:
            raise Problem(403, "Not your job", "only the token that asked for a job may dismiss it")
        return status_info(request, service, job, await service.jobs.dismiss(job))

    @routes.get(
        "/jobs/{job_id}/results",
        summary="What a job made",
        response_model=dict[str, Any],
        responses=_RESULT_ANSWERS,
    )
    async def results(request: Request, job_id: str) -> Response:
        return results_response(request, service, found(job_id))

    @routes.get(
        "/jobs/{job_id}/files/{name}", summary="A file of a finished run", responses=_FILE, response_class=Response
    )
    @routes.head("/jobs/{job_id}/files/{name}", include_in_schema=False)
    def file(job_id: str, name: str) -> Response:
        found = next(((path, kind) for path, kind in files_of(service, job_id) if path.name == name), None)
        if found is None or not found[0].is_file():
            raise Problem(404, "No such file", "the job's results name its files")
        path, kind = found
        if name in {"item.json", "run.json"}:
            return document_response(json.loads(path.read_bytes()), kind)
        return FileResponse(path, media_type=kind)

    return routes


_RESULT_ANSWERS: dict[int | str, dict[str, Any]] = {
    204: {"description": "Links to the results, as headers."},
    **problem_responses(404, 410, 422, 500),
}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": {"*/*": {}}},
    206: {"description": "Bytes of it, where a range was asked for.", "content": {"*/*": {}}},
    **problem_responses(404, 416),
}


def _add_list(routes: APIRouter, service: Service) -> None:
    @routes.get(
        "/jobs", summary="Jobs, the newest first", responses=problem_responses(400), response_model_exclude_none=True
    )
    async def jobs(request: Request, query: Annotated[JobQuery, Query()]) -> JobList:
        begin, end = interval(query.datetime)
        told = ((job, service.jobs.status(job)) for job in service.jobs.list())
        matched = [
            (job, now)
            for job, now in told
            if (not query.processID or job.process in query.processID)
            and (not query.status or now.state in query.status)
            and begin <= datetime.fromisoformat(job.created) <= end
            and _lasts(now, query.minDuration, query.maxDuration)
        ]
        offset, limit = query.offset, query.limit
        page = matched[offset : offset + limit]
        links = _page_links(request, offset, limit, len(matched))
        shown = [status_info(request, service, job, now) for job, now in page]
        return JobList(jobs=shown, numberMatched=len(matched), numberReturned=len(page), links=links)


def _page_links(request: Request, offset: int, limit: int, total: int) -> list[LinkTo]:
    def page(rel: str, start: int) -> LinkTo:
        url = request.url.include_query_params(limit=limit, offset=start)
        return link_to(request, f"/jobs?{url.query}", rel)

    links = [page("self", offset)]
    if offset + limit < total:
        links.append(page("next", offset + limit))
    if offset:
        links.append(page("prev", max(0, offset - limit)))
    return links


def interval(text: str) -> tuple[datetime, datetime]:
    """First and last moment of a time, or of an interval ``START/END`` with ``..`` for an open end.

    >>> [str(moment) for moment in interval("2024-05-01T00:00:00Z/..")]
    ['2024-05-01 00:00:00+00:00', '9999-12-31 23:59:59.999999+00:00']

    Raises:
        Problem: It is neither.
    """
    open_ends = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    if not text:
        return open_ends
    words = text.split("/") if "/" in text else [text, text]
    try:
        first, last = (
            default if word in {"", ".."} else _moment(word) for word, default in zip(words, open_ends, strict=True)
        )
    except ValueError:
        raise Problem(400, "Bad Request", "datetime: a time (RFC 3339), or an interval START/END") from None
    return first, last


def _moment(word: str) -> datetime:
    moment = datetime.fromisoformat(word)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _lasts(told: JobStatus, shortest: int | None, longest: int | None) -> bool:
    """Whether a job took, or has taken so far, a number of seconds between two bounds."""
    if shortest is None and longest is None:
        return True
    if told.started is None:
        return False
    end = datetime.fromisoformat(told.finished) if told.finished else datetime.now(UTC)
    seconds = (end - datetime.fromisoformat(told.started)).total_seconds()
    return (shortest is None or seconds >= shortest) and (longest is None or seconds <= longest)
