"""The abstract tests of OGC API - Processes 1.0 (core, job-list, dismiss), each named as its requirement is."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema
import pytest
from starlette.testclient import TestClient

from geoseg.config import RunConfig
from geoseg.serve.service import Service
from tests.conftest import CHECKOUT
from tests.serve import pretend
from tests.serve.conftest import ask, state_of, until

pytestmark = pytest.mark.usefixtures("pretending")

REL = "http://www.opengis.net/def/rel/ogc/1.0"
EXCEPTIONS = "http://www.opengis.net/def/exceptions/ogcapi-processes-1/1.0"


def rels(document: dict[str, Any]) -> dict[str, str]:
    return {link["rel"]: link["href"] for link in document["links"]}


def problem(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    assert {"type", "title"} <= document.keys()
    return document


def finish(client: TestClient, tile: int = pretend.SUCCEED, **more: Any) -> str:
    """The id of a job that has ended."""
    job_id = str(ask(client, tile, **more).json()["jobID"])
    until(lambda: state_of(client, job_id) in {"successful", "failed"})
    return job_id


# --- core ---


def test_core_landingpage_op_and_success(client: TestClient) -> None:
    """/conf/core/landingpage-op, -success: 200, links to API, conformance and processes."""
    page = client.get("/", headers={"Accept": "application/json"})
    assert page.status_code == 200
    links = rels(page.json())
    assert {"service-desc", f"{REL}/conformance", f"{REL}/processes", f"{REL}/job-list"} <= links.keys()
    for href in links.values():
        assert client.get(href).status_code == 200, href


def test_core_api_definition(client: TestClient) -> None:
    """/conf/core/api-definition-op, -success: the OpenAPI document, with every route of the standard."""
    api = client.get("/api")
    assert api.status_code == 200
    assert api.json()["openapi"].startswith("3.1")
    paths = {"/processes", "/processes/{process}", "/jobs", "/jobs/{job_id}", "/jobs/{job_id}/results"}
    assert paths <= api.json()["paths"].keys()


def test_core_conformance_op_and_success(client: TestClient) -> None:
    """/conf/core/conformance-op, -success."""
    classes = client.get("/conformance").json()["conformsTo"]
    for name in ("core", "ogc-process-description", "json", "job-list", "dismiss"):
        assert f"http://www.opengis.net/spec/ogcapi-processes-1/1.0/conf/{name}" in classes


def test_core_process_list(client: TestClient) -> None:
    """/conf/core/process-list, -success, process-summary-links: each links to its description."""
    listed = client.get("/processes").json()
    assert [process["id"] for process in listed["processes"]] == ["segment", "change", "vectorize", "evaluate"]
    for process in listed["processes"]:
        assert {"id", "version", "jobControlOptions", "outputTransmission", "links"} <= process.keys()
        assert client.get(rels(process)["self"]).json()["id"] == process["id"]
    assert rels(listed)["self"].endswith("/processes")


def test_core_process_description(client: TestClient) -> None:
    """/conf/ogc-process-description: inputs and outputs with JSON schemas, made from the configuration's fields."""
    for process in ("segment", "change", "vectorize", "evaluate"):
        told = client.get(f"/processes/{process}").json()
        for each in [*told["inputs"].values(), *told["outputs"].values()]:
            jsonschema.Draft202012Validator.check_schema(each["schema"])
    inputs = client.get("/processes/segment").json()["inputs"]
    assert inputs["scene"]["schema"]["enum"] == ["after", "before"]
    assert inputs["scene"]["minOccurs"] == 1
    assert inputs["tile"]["minOccurs"] == 0
    assert inputs["blend"]["description"] == RunConfig.model_fields["blend"].description
    assert not {"out", "mask", "aoi", "items", "report", "scheduler", "device", "debug"} & inputs.keys()


def test_core_process_exception_no_such_process(client: TestClient) -> None:
    """/conf/core/process-exception/no-such-process, also for its execution."""
    assert problem(client.get("/processes/nothing"), 404)["type"] == f"{EXCEPTIONS}/no-such-process"
    asked = client.post("/processes/nothing/execution", json={"inputs": {}})
    assert problem(asked, 404)["type"] == f"{EXCEPTIONS}/no-such-process"


def test_core_process_execute_async(client: TestClient) -> None:
    """/conf/core/process-execute-success-async: 201, Location of the job, its status as body."""
    response = ask(client)
    assert response.status_code == 201
    assert response.headers["preference-applied"] == "respond-async"
    told = response.json()
    assert response.headers["location"] == rels(told)["self"]
    assert told["status"] in {"accepted", "running"}
    assert (told["processID"], told["type"], told["progress"]) == ("segment", "process", 0)


def test_core_process_execute_default_mode_is_sync(client: TestClient) -> None:
    """/conf/core/process-execute-default-execution-mode and -sync-document: without a preference, results at once."""
    response = ask(client, prefer="")
    assert response.status_code == 200
    assert response.json()["labels"]["type"].startswith("image/tiff")
    assert "Location" not in response.headers


def test_core_process_execute_sync_raw_ref(client: TestClient) -> None:
    """/conf/core/process-execute-sync-raw-ref: no body, links as headers."""
    response = ask(client, prefer="", response="raw", outputs={"labels": {}})
    assert response.status_code == 204
    assert not response.content
    link = response.headers["link"]
    assert link.startswith("<http://127.0.0.1/jobs/")
    assert "labels.tif>" in link


def test_core_process_execute_inputs_are_validated(client: TestClient) -> None:
    """/conf/core/process-execute-inputs: what is missing, unknown, or no such value is named; 400."""
    for inputs, name in (
        ({}, "scene"),
        ({"scene": "before", "no_such": 1}, "no_such"),
        ({"scene": "before", "tile": "64"}, "tile"),
        ({"scene": "before", "tile": 0}, "tile"),
        ({"scene": "before", "model": "/etc/passwd"}, "model"),
        ({"scene": "before", "bbox": [1, 2, 3]}, "bbox"),
        ({"scene": "before", "bbox": [1, 2, 3, 1]}, "bbox"),
        ({"scene": "before", "crs": "+proj=utm +nadgrids=/etc/passwd"}, "crs"),
        ({"scene": "before", "bands": {"red": "B04.tif"}}, "bands"),
        ({"scene": "before", "vector": ["shp"]}, "vector"),
        ({"scene": "before", "out": "/tmp/x"}, "out"),
        ({"scene": "before", "scale": 0}, "scale"),
        ({"scene": "nowhere"}, "scene"),
    ):
        response = client.post("/processes/segment/execution", json={"inputs": inputs})
        assert name in problem(response, 400)["detail"], inputs
    assert client.get("/jobs").json()["jobs"] == []


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'"text"', b'{"inputs": []}', b'{"inputs": {"scene": NaN}}', b"\xff"]
)
def test_a_body_that_is_no_request_is_a_problem(client: TestClient, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    problem(client.post("/processes/segment/execution", content=body, headers=headers), 400)


def test_core_process_execute_outputs(client: TestClient) -> None:
    """/conf/core/process-execute-outputs: only those that are asked for; an unknown one is refused."""
    assert set(ask(client, prefer="", outputs={"labels": {}, "item": {}}).json()) == {"labels", "item"}
    problem(ask(client, outputs={"no_such": {}}), 400)


def test_core_job_status(client: TestClient, service: Service) -> None:
    """/conf/core/job, -success: accepted, then running with progress and times, then successful."""
    first = ask(client, pretend.WAIT).json()["jobID"]
    second = ask(client).json()["jobID"]
    told = until(lambda: (now := client.get(f"/jobs/{first}").json())["progress"] and now)
    assert (told["status"], told["progress"]) == ("running", 47)
    assert "1 of 2 tiles" in told["message"]
    assert "finished" not in told
    assert state_of(client, second) == "accepted"
    (service.settings.root / "go").touch()
    until(lambda: state_of(client, second) == "successful")
    told = client.get(f"/jobs/{first}").json()
    times = [datetime.fromisoformat(told[name]) for name in ("created", "started", "finished")]
    assert times == sorted(times)
    assert told["progress"] == 100
    assert f"{REL}/results" in rels(told)


def test_core_job_exception_no_such_job(client: TestClient) -> None:
    """/conf/core/job-exception-no-such-job, job-results-exception/no-such-job."""
    for path in ("/jobs/nothing", "/jobs/nothing/results"):
        assert problem(client.get(path), 404)["type"] == f"{EXCEPTIONS}/no-such-job"
    problem(client.delete("/jobs/nothing"), 404)


def test_core_job_results_async_document(client: TestClient) -> None:
    """/conf/core/job-results-async-document: links to files of the declared types, which can be fetched in ranges."""
    job_id = finish(client)
    results = client.get(f"/jobs/{job_id}/results")
    assert results.status_code == 200
    for name, link in results.json().items():
        file = client.get(link["href"])
        assert file.status_code == 200, name
        assert file.headers["content-type"].startswith(link["type"].partition(";")[0])
    labels = results.json()["labels"]["href"]
    part = client.get(labels, headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content[:2]) == (206, b"II")
    assert client.head(labels).headers["accept-ranges"] == "bytes"


def test_core_job_results_exception_not_ready(client: TestClient, service: Service) -> None:
    """/conf/core/job-results-exception/results-not-ready."""
    job_id = ask(client, pretend.WAIT).json()["jobID"]
    assert problem(client.get(f"/jobs/{job_id}/results"), 404)["type"] == f"{EXCEPTIONS}/result-not-ready"
    (service.settings.root / "go").touch()


def test_core_job_results_failed(client: TestClient) -> None:
    """/conf/core/job-results-failed: what its command said, without paths."""
    job_id = finish(client, pretend.FAIL)
    told = client.get(f"/jobs/{job_id}").json()
    assert (told["status"], told["message"]) == ("failed", "scene.tif: has no band nir; passwd has")
    assert problem(client.get(f"/jobs/{job_id}/results"), 422)["detail"] == told["message"]


@pytest.mark.parametrize(("tile", "told"), [(pretend.NOTHING, "exit code 0"), (pretend.DIE, "SIGKILL")])
def test_a_process_that_ends_without_a_word_has_failed(client: TestClient, tile: int, told: str) -> None:
    job_id = finish(client, tile)
    assert told in problem(client.get(f"/jobs/{job_id}/results"), 500)["detail"]


# --- job list ---


def test_job_list_op_and_links(client: TestClient) -> None:
    """/conf/job-list/job-list-op, -success, -links, limit-definition, limit-response: pages, the newest first."""
    ids = [finish(client) for _ in range(3)]
    page, seen = client.get("/jobs?limit=2").json(), []
    assert page["numberMatched"] == 3
    while True:
        seen += [job["jobID"] for job in page["jobs"]]
        if "next" not in rels(page):
            break
        page = client.get(rels(page)["next"]).json()
    assert seen == ids[::-1]
    assert [job["jobID"] for job in client.get(rels(page)["prev"]).json()["jobs"]] == ids[:0:-1]
    for limit in (0, -1, 1001, "x"):
        problem(client.get(f"/jobs?limit={limit}"), 400)


def test_job_list_filters(client: TestClient) -> None:
    """/conf/job-list/{type,processID,status,datetime,duration}-definition, -response."""
    good, bad = finish(client), finish(client, pretend.FAIL)

    def ids(query: dict[str, Any]) -> list[str]:
        return [job["jobID"] for job in client.get("/jobs", params=query).json()["jobs"]]

    assert ids({"status": "successful"}) == [good]
    assert ids({"status": ["failed", "successful"]}) == [bad, good]
    assert ids({"processID": "segment", "type": "process"}) == [bad, good]
    assert ids({"processID": "change"}) == []
    soon = datetime.now(UTC) + timedelta(hours=1)
    before = datetime.now(UTC) - timedelta(hours=1)
    assert ids({"datetime": f"{before.isoformat()}/{soon.isoformat()}"}) == [bad, good]
    assert ids({"datetime": f"{soon.isoformat()}/.."}) == []
    assert ids({"datetime": f"../{before.isoformat()}"}) == []
    assert ids({"minDuration": 3600}) == []
    assert ids({"maxDuration": 3600}) == [bad, good]
    for query in ({"status": "odd"}, {"type": "odd"}, {"datetime": "yesterday"}, {"datetime": "a/b/c"}):
        problem(client.get("/jobs", params=query), 400)


# --- dismiss ---


def test_dismiss_job_at_work(client: TestClient, service: Service) -> None:
    """/conf/dismiss/job-dismiss-op, -success: its process ends, what it did is forgotten, the next one begins."""
    job_id, following = (ask(client, tile).json()["jobID"] for tile in (pretend.WAIT, pretend.SUCCEED))
    until(lambda: client.get(f"/jobs/{job_id}").json()["progress"])
    answer = client.delete(f"/jobs/{job_id}")
    assert (answer.status_code, answer.json()["status"]) == (200, "dismissed")
    until(lambda: state_of(client, following) == "successful")
    assert state_of(client, job_id) == "dismissed"
    job = service.jobs.find(job_id)
    assert job is not None
    assert not (job.folder / "run").exists()
    problem(client.get(f"/jobs/{job_id}/results"), 410)


def test_dismiss_job_that_waits_or_has_ended(client: TestClient, service: Service) -> None:
    """One that waits never begins; one that ended is removed with its files."""
    first, second = (ask(client, tile).json()["jobID"] for tile in (pretend.WAIT, pretend.SUCCEED))
    assert client.delete(f"/jobs/{second}").json()["status"] == "dismissed"
    (service.settings.root / "go").touch()
    until(lambda: state_of(client, first) == "successful")
    assert state_of(client, second) == "dismissed"
    for job_id in (first, second):
        assert client.delete(f"/jobs/{job_id}").json()["status"] == "dismissed"
        problem(client.get(f"/jobs/{job_id}"), 404)
        problem(client.get(f"/jobs/{job_id}/files/labels.tif"), 404)
    assert [path.name for path in (service.settings.root / "jobs").iterdir()] == []


def test_names_of_elsewhere_are_still_those() -> None:
    from geoseg import change
    from geoseg.serve import inputs

    assert inputs.INDEX_CHANGE == change.INDEX_CHANGE


def test_the_service_starts_without_torch() -> None:
    code = "import sys, geoseg.serve.app; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert done.stdout.strip() == "False"
