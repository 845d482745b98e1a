"""From the inputs of a process to the command of geoseg that does it: the only place where names become paths."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import ValidationError

from geoseg.serve.egress import allowed_location, demand_public
from geoseg.serve.inputs import INDEX_CHANGE, EvaluateInputs, Inputs, Link
from geoseg.serve.jobs import Job
from geoseg.serve.problems import Problem, explained
from geoseg.serve.service import Service

__all__ = ["Asked", "new_job", "parsed_inputs"]

_OPTIONS = "options.yaml"
_TRUTH = "truth.geojson"
_RESULTS: dict[str, Literal["scores.json", "polygons.json"]] = {"evaluate": "scores.json", "vectorize": "polygons.json"}
"""What becomes of what a command prints, of processes that make no run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A job to be, and the files that its command needs."""

    job: Job
    """Without an id yet."""
    files: Mapping[str, bytes]
    """By name."""


def parsed_inputs(kind: type[Inputs], inputs: Mapping[str, Any]) -> Inputs:
    """The inputs of a process.

    Raises:
        Problem: One is missing, unknown, or no value that it may have.
    """
    try:
        return kind.model_validate_json(json.dumps(dict(inputs)))
    except ValidationError as error:
        raise Problem(400, "Invalid input", explained(error.errors(include_url=False))) from None


async def new_job(
    service: Service,
    process: str,
    inputs: Inputs,
    *,
    outputs: Mapping[str, Any] | None,
    response: Literal["raw", "document"],
) -> Asked:
    """The job that a request means.

    Raises:
        Problem: A scene, a run or a model is not of this service, or a host is not allowed.
    """
    if isinstance(inputs, EvaluateInputs):
        command, files = await _evaluate(service, inputs)
    elif process == "vectorize":
        command, files = _vectorize(service, inputs)
    else:
        command, files = await _map(service, process, inputs)
    job = Job(
        id="",
        folder=Path(),
        process=process,
        client="",
        created="",
        inputs=inputs.model_dump(mode="json", exclude_unset=True),
        outputs=outputs,
        response=response,
        command=command,
        result=_RESULTS.get(process, "run"),
    )
    return Asked(job=job, files=files)


async def _map(service: Service, process: str, inputs: Inputs) -> tuple[tuple[str, ...], dict[str, bytes]]:
    given = inputs.model_dump(mode="json", exclude_none=True)
    names = [name for name in ("scene", "before", "after") if name in given]
    for name in names:
        del given[name]
    places = [await _scene(service, getattr(inputs, name)) for name in names]
    model = given.pop("model")
    given |= {
        "inputs": places,
        "model": model if model == INDEX_CHANGE else service.places[model],
        "out": "run",
        "device": service.settings.device,
    }
    return (process, "--config", _OPTIONS), {_OPTIONS: json.dumps(given, indent=1).encode()}  # JSON is YAML, too


async def _scene(service: Service, scene: str | Link) -> str:
    """Path or URL of a scene."""
    if isinstance(scene, Link):
        return await _link(service, scene)
    found = service.scenes.find(scene)
    if found is None:
        raise Problem(400, "No such scene", "the service lists no scene of that id; GET /scenes lists them")
    return found.href


async def _link(service: Service, link: Link) -> str:
    location = allowed_location(link.href, service.settings.hosts)
    if location.kind == "http":
        await demand_public(str(urlsplit(location.display).hostname), 443)
    return link.href


def _run(service: Service, run_id: str) -> str:
    """The folder of a finished run."""
    run = service.runs.find(run_id)
    if run is None:
        raise Problem(400, "No such run", "no finished job of that id has made a map")
    return str(run.folder.absolute())


def _vectorize(service: Service, inputs: Inputs) -> tuple[tuple[str, ...], dict[str, bytes]]:
    given = inputs.model_dump(mode="json", exclude_none=True)
    given["inputs"] = [_run(service, given.pop("run"))]
    given["out"] = [f"polygons.{kind}" for kind in dict.fromkeys(given.pop("vector"))]
    given |= {"json": True, "overwrite": True}  # of what a first attempt left
    return ("vectorize", "--config", _OPTIONS), {_OPTIONS: json.dumps(given, indent=1).encode()}


async def _evaluate(service: Service, inputs: EvaluateInputs) -> tuple[tuple[str, ...], dict[str, bytes]]:
    files, truth = {}, _TRUTH
    if isinstance(inputs.truth, Link):
        truth = await _link(service, inputs.truth)
    else:
        if inputs.truth.get("type") != "FeatureCollection" or not isinstance(inputs.truth.get("features"), list):
            raise Problem(400, "Invalid input", "truth: a GeoJSON FeatureCollection, or a link")
        shown = {
            name: inputs.truth[name] for name in ("type", "features")
        }  # an old "crs" may be a link that GDAL follows
        files[_TRUTH] = json.dumps(shown).encode()
    words = ["evaluate", _run(service, inputs.run), truth, "--json", f"--boundary={inputs.boundary}"]
    words += [f"--draws={inputs.draws}", f"--seed={inputs.seed}"]
    chosen = {"class-column": inputs.class_column, "class-value": inputs.class_value, "background": inputs.background}
    words += [f"--{name}={value}" for name, value in chosen.items() if value is not None]
    return (*words, *(["--all-touched"] if inputs.all_touched else [])), files
