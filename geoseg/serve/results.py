"""What a job made, as OGC API - Processes has it: a document of links or values, or as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from geoseg.serve.descriptions import OUTPUTS, output_id
from geoseg.serve.jobs import Job
from geoseg.serve.problems import RESULT_NOT_READY, Problem, without_paths
from geoseg.serve.records import base_url
from geoseg.serve.service import Service

__all__ = ["document_response", "files_of", "public", "results_response"]


def results_response(request: Request, service: Service, job: Job) -> Response:
    """The results of a job, in the way in which they were asked for.

    Raises:
        Problem: It has none: it has not ended, was dismissed, or failed.
    """
    status = service.jobs.status(job)
    if status.state in {"accepted", "running"}:
        raise Problem(404, "Result not ready", f"the job is {status.state}", type=RESULT_NOT_READY)
    if status.state == "dismissed":
        raise Problem(410, "Dismissed", "the job was dismissed; it has no results")
    if status.state == "failed":
        explained = job.noted("ended").get("code") in {1, 2, 3}  # else its process was killed, or never began
        raise Problem(422 if explained else 500, "The job failed", status.message)
    if job.process == "evaluate":
        scores = public(json.loads((job.folder / job.result).read_bytes()))
        return JSONResponse(scores if job.response == "raw" else {"scores": scores})
    links = _links(request, service, job)
    if job.response == "document":
        return JSONResponse(links)
    headers = [f'<{link["href"]}>; rel="item"; type="{link["type"]}"; title="{name}"' for name, link in links.items()]
    response = Response(status_code=204)
    for value in headers:
        response.headers.append("Link", value)
    return response


def _links(request: Request, service: Service, job: Job) -> dict[str, dict[str, str]]:
    base = f"{base_url(request)}/jobs/{job.id}/files"
    files = files_of(service, job.id)
    found = {output_id(path.name): {"href": f"{base}/{path.name}", "type": kind} for path, kind in files}
    return {name: link for name, link in found.items() if job.outputs is None or name in job.outputs}


def files_of(service: Service, job_id: str) -> list[tuple[Path, str]]:
    """The files of a finished run, or that a finished job made of one, each with its media type; no others."""
    run = service.runs.find(job_id)
    if run is not None:
        return [(run.folder / name, kind) for name, kind in run.files().items()]
    job = service.jobs.find(job_id)
    if job is None or job.process != "vectorize" or service.jobs.status(job).state != "successful":
        return []
    kinds = {name.replace("_", "."): kind for name, (_, kind) in OUTPUTS["vectorize"].items()}
    return [(path, kind) for name, kind in kinds.items() if (path := job.folder / name).is_file()]


def document_response(document: Mapping[str, Any], kind: str) -> Response:
    """A JSON file of a run, without what only means something on the service's own disk."""
    shown = public(dict(document))
    if isinstance(shown.get("links"), list):
        shown["links"] = [link for link in shown["links"] if "://" in str(link.get("href"))]
    return Response(json.dumps(shown, ensure_ascii=False, indent=2), media_type=kind)


def public(value: Any) -> Any:
    """JSON values whose texts hold no path."""
    if isinstance(value, dict):
        return {without_paths(key): public(each) for key, each in value.items()}
    if isinstance(value, list):
        return [public(each) for each in value]
    return without_paths(value) if isinstance(value, str) else value
