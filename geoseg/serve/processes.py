"""OGC API - Processes: what can be done, and how it is asked for."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse
from pydantic import WithJsonSchema, create_model
from starlette.concurrency import run_in_threadpool

import geoseg
from geoseg.serve import job_routes
from geoseg.serve.commands import new_job, parsed_inputs
from geoseg.serve.descriptions import OUTPUTS, body_schema, input_descriptions, summary_of
from geoseg.serve.inputs import Inputs, inputs_of_processes
from geoseg.serve.limits import client_of
from geoseg.serve.problems import NO_SUCH_PROCESS, Problem, problem_responses
from geoseg.serve.records import Execute, Process, ProcessList, ProcessSummary, StatusInfo, link_to
from geoseg.serve.results import results_response
from geoseg.serve.service import Service

__all__ = ["CONFORMS_TO", "LINKS", "router"]

_SPEC = "http://www.opengis.net/spec/ogcapi-processes-1/1.0/conf"
_REL = "http://www.opengis.net/def/rel/ogc/1.0"

CONFORMS_TO = (
    "http://www.opengis.net/spec/ogcapi-common-1/1.0/conf/core",
    *(f"{_SPEC}/{name}" for name in ("core", "ogc-process-description", "json", "job-list", "dismiss")),
)
LINKS = (
    (f"{_REL}/processes", "/processes", "application/json", "Processes"),
    (f"{_REL}/job-list", "/jobs", "application/json", "Jobs"),
    ("scenes", "/scenes", "application/geo+json", "Scenes that jobs may use"),
)


def router(service: Service) -> APIRouter:
    """``/processes``, ``/jobs`` and ``/scenes``."""
    one = [name for name, spec in service.models.items() if spec.dates == 1]
    two = [name for name, spec in service.models.items() if spec.dates > 1]
    kinds = inputs_of_processes(one, two)
    routes = APIRouter(tags=["processes"])
    _add_descriptions(routes, service, kinds)
    for process, kind in kinds.items():
        _add_execution(routes, service, process, kind)
    routes.include_router(job_routes.router(service))
    return routes


def _scene_ids(service: Service) -> list[str]:
    return [scene.id for scene in service.scenes.list()]


def _summary(request: Request, process: str) -> dict[str, Any]:
    links = [
        link_to(request, f"/processes/{process}", "self", title="What it takes and gives"),
        link_to(request, f"/processes/{process}/execution", f"{_REL}/execute", title="Ask for it"),
    ]
    return {**summary_of(process, geoseg.__version__), "links": links}


def _add_descriptions(routes: APIRouter, service: Service, kinds: dict[str, type[Inputs]]) -> None:
    @routes.get("/processes", summary="Processes", response_model_exclude_none=True)
    async def processes(request: Request) -> ProcessList:
        listed = [ProcessSummary(**_summary(request, process)) for process in kinds]
        return ProcessList(processes=listed, links=[link_to(request, "/processes", "self")])

    @routes.get(
        "/processes/{process}",
        summary="One process",
        responses=problem_responses(404),
        response_model_exclude_none=True,
    )
    async def description(request: Request, process: str) -> Process:
        if process not in kinds:
            raise Problem(404, "No such process", type=NO_SUCH_PROCESS)
        outputs = {
            name: {"title": title, "schema": {"type": "string", "contentMediaType": kind}}
            if process != "evaluate"
            else {"title": title, "schema": {"type": "object", "contentMediaType": kind}}
            for name, (title, kind) in OUTPUTS[process].items()
        }
        scenes = await run_in_threadpool(_scene_ids, service)
        inputs = input_descriptions(kinds[process], scenes)
        return Process(**_summary(request, process), inputs=inputs, outputs=outputs)

    @routes.get("/scenes", summary="Scenes that jobs may use")
    async def scenes() -> dict[str, Any]:
        found = await run_in_threadpool(service.scenes.list)
        return {"type": "FeatureCollection", "features": [scene.feature() for scene in found]}


def _add_execution(routes: APIRouter, service: Service, process: str, kind: type[Inputs]) -> None:
    taken = Annotated[dict[str, Any], WithJsonSchema(body_schema(input_descriptions(kind, ())))]
    body_kind = create_model(f"{process.capitalize()}Execute", __base__=Execute, inputs=(taken, ...))

    async def execute(
        request: Request,
        body: Execute,
        prefer: Annotated[str, Header(max_length=200)] = "",
    ) -> Response:
        unknown = sorted((body.outputs or {}).keys() - OUTPUTS[process].keys())
        if unknown:
            raise Problem(400, "No such output", f"{process} gives {', '.join(OUTPUTS[process])}")
        inputs = parsed_inputs(kind, body.inputs)
        outputs = None if body.outputs is None else {name: each.model_dump() for name, each in body.outputs.items()}
        new = await new_job(service, process, inputs, outputs=outputs, response=body.response)
        job = await service.jobs.submit(new.job, new.files, client_of(request))
        in_background = "respond-async" in prefer
        if not in_background and await service.jobs.wait(job, _patience(prefer, service.settings.patience)):
            return results_response(request, service, job)
        headers = {"Location": job_routes.job_url(request, job)}
        if in_background:
            headers["Preference-Applied"] = "respond-async"
        status = job_routes.status_info(request, service, job)
        return JSONResponse(status.model_dump(mode="json", exclude_none=True), 201, headers)

    execute.__annotations__["body"] = body_kind  # made above: no name that an annotation could tell
    answers: dict[int | str, dict[str, Any]] = {
        200: {"description": "The results, of a request that was waited for."},
        201: {"model": StatusInfo, "description": "A job, which is done in the background."},
        204: {"description": "Links to the results, as headers (response: raw)."},
    }
    routes.add_api_route(
        f"/processes/{process}/execution",
        execute,
        methods=["POST"],
        summary=f"Ask for {process}",
        operation_id=f"execute_{process}",
        responses=answers | problem_responses(400, 404, 410, 413, 422, 429, 500, 503),
        response_class=JSONResponse,
    )


def _patience(prefer: str, most: float) -> float:
    """Seconds that a client is ready to wait (RFC 7240), and the service is.

    >>> _patience("wait=5", 60.0), _patience("", 60.0), _patience("wait=900", 60.0)
    (5.0, 60.0, 60.0)
    """
    found = re.search(r"\bwait=(\d{1,9})\b", prefer)
    return min(most, float(found[1])) if found else most
