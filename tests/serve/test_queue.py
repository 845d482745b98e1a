"""The queue: bounded, fair, and true to the disk whatever happens to the service."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2 as httpx
import psutil
import pytest
from starlette.testclient import TestClient

from geoseg.serve import queue
from geoseg.serve.service import Service
from geoseg.serve.settings import ServiceSettings
from geoseg.store.folder import FolderStore
from geoseg.store.lock import locked
from tests.serve import pretend
from tests.serve.conftest import Connect, Live, Start, ask, state_of, until


def tokens_file(folder: Path, **quotas: dict[str, int]) -> Path:
    """Clients whose tokens are their names."""
    file = folder / "tokens.yaml"
    entries = [
        {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), **limits} for name, limits in quotas.items()
    ]
    file.write_text(json.dumps(entries))
    return file


def as_client(client: TestClient, name: str) -> TestClient:
    client.headers["Authorization"] = f"Bearer {name}"
    return client


def children(live: Live) -> list[psutil.Process]:
    try:
        return psutil.Process(live.process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


# --- bounds ---


@pytest.mark.usefixtures("pretending")
def test_a_full_queue_refuses_and_says_when_to_come_again(connect: Connect, settings: ServiceSettings) -> None:
    client = connect(settings.model_copy(update={"queue": 2}))
    first = ask(client, pretend.WAIT).json()["jobID"]
    until(lambda: state_of(client, first) == "running")
    assert [ask(client).status_code for _ in range(3)] == [201, 201, 429]
    refused = ask(client)
    assert int(refused.headers["retry-after"]) > 0
    assert "at most 2" in refused.json()["detail"]
    (settings.root / "go").touch()
    until(lambda: ask(client).status_code == 201)


@pytest.mark.usefixtures("pretending")
def test_quotas_of_one_token_leave_room_for_the_others(
    connect: Connect, settings: ServiceSettings, tmp_path: Path
) -> None:
    file = tokens_file(tmp_path, a={"queued": 1, "running": 1, "per_day": 3}, b={})
    client = connect(settings.model_copy(update={"tokens": file, "jobs": 2}))
    first = ask(as_client(client, "a"), pretend.WAIT).json()["jobID"]
    until(lambda: state_of(client, first) == "running")
    second = ask(client).json()["jobID"]
    assert "of yours wait" in ask(client).json()["detail"]
    third = ask(as_client(client, "b")).json()["jobID"]
    until(lambda: state_of(client, third) == "successful")
    assert state_of(client, second) == "accepted", "its token has one at work already"
    (settings.root / "go").touch()
    until(lambda: state_of(client, second) == "successful")
    assert ask(as_client(client, "a")).status_code == 201
    assert "24 hours" in ask(client).json()["detail"]


@pytest.mark.usefixtures("pretending")
def test_only_who_asked_may_dismiss(connect: Connect, settings: ServiceSettings, tmp_path: Path) -> None:
    client = connect(settings.model_copy(update={"tokens": tokens_file(tmp_path, a={}, b={})}))
    job_id = ask(as_client(client, "a")).json()["jobID"]
    assert as_client(client, "b").delete(f"/jobs/{job_id}").status_code == 403
    assert client.get(f"/jobs/{job_id}").status_code == 200
    assert as_client(client, "a").delete(f"/jobs/{job_id}").status_code == 200


@pytest.mark.usefixtures("pretending")
def test_jobs_are_done_in_the_order_of_their_coming(client: TestClient, service: Service) -> None:
    gate = ask(client, pretend.WAIT).json()["jobID"]
    ids = [ask(client).json()["jobID"] for _ in range(4)]
    (service.settings.root / "go").touch()
    until(lambda: state_of(client, ids[-1]) == "successful")
    started = [client.get(f"/jobs/{job_id}").json()["started"] for job_id in (gate, *ids)]
    assert started == sorted(started)


@pytest.mark.usefixtures("pretending")
def test_a_process_that_does_not_listen_is_killed(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "GRACE", 0.5)
    job_id, following = (ask(client, tile).json()["jobID"] for tile in (pretend.STUBBORN, pretend.SUCCEED))
    until(lambda: client.get(f"/jobs/{job_id}").json()["progress"])
    assert client.delete(f"/jobs/{job_id}").status_code == 200
    until(lambda: state_of(client, following) == "successful")


@pytest.mark.usefixtures("pretending")
def test_a_request_that_waited_long_enough_gets_a_job(connect: Connect, settings: ServiceSettings) -> None:
    client = connect(settings.model_copy(update={"patience": 0.3}))
    response = ask(client, pretend.WAIT, prefer="")
    assert response.status_code == 201
    (settings.root / "go").touch()
    until(lambda: state_of(client, response.json()["jobID"]) == "successful")


@pytest.mark.usefixtures("pretending")
def test_a_disk_that_takes_no_job_is_a_problem(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FolderStore, "put", full)
    response = ask(client)
    assert response.status_code == 507
    assert str(service.settings.root) not in response.text
    monkeypatch.undo()
    assert client.get("/jobs").json()["jobs"] == []
    assert list((service.settings.root / "jobs").iterdir()) == []


# --- death and return ---


def test_after_kill_9_every_job_is_what_it_was_and_what_waited_goes_on(start: Start) -> None:
    live = start(pretending=True, jobs=2)
    with httpx.Client(base_url=live.url) as client:
        kinds = (pretend.SUCCEED, pretend.FAIL, pretend.SUCCEED, pretend.WAIT, pretend.WAIT, pretend.SUCCEED)
        good, bad, gone, *working, waiting = (ask(client, kind).json()["jobID"] for kind in kinds)
        until(lambda: state_of(client, gone) == "successful")
        until(lambda: all(client.get(f"/jobs/{job}").json()["progress"] for job in working))
        dismissed = ask(client).json()["jobID"]
        client.delete(f"/jobs/{dismissed}")
        before = {job: client.get(f"/jobs/{job}").json() for job in (good, bad, dismissed)}
        labels = client.get(f"/jobs/{good}/files/labels.tif").content
        client.delete(f"/jobs/{gone}")
    helpers = children(live)
    assert len(helpers) == 2
    live.kill()
    psutil.wait_procs(helpers, timeout=10)
    assert not [process for process in helpers if process.is_running()], "they die with the service"

    live = start(live.root, pretending=True, jobs=2)
    with httpx.Client(base_url=live.url) as client:
        for job, told in before.items():
            now = client.get(f"/jobs/{job}").json()
            assert {**now, "links": []} == {**told, "links": []}
        assert client.get(f"/jobs/{good}/files/labels.tif").content == labels
        assert client.get(f"/jobs/{gone}").status_code == 404
        until(lambda: all(client.get(f"/jobs/{job}").json()["progress"] for job in working))
        assert {state_of(client, job) for job in working} == {"running"}
        assert state_of(client, waiting) == "accepted"
        (live.root / "go").touch()
        until(lambda: all(state_of(client, job) == "successful" for job in (*working, waiting)))
        assert client.get(f"/jobs/{working[0]}/files/labels.tif").content == labels


def test_a_job_whose_service_died_before_it_noted_the_end_is_done(start: Start) -> None:
    live = start(pretending=True)
    with httpx.Client(base_url=live.url) as client:
        job_id = ask(client).json()["jobID"]
        until(lambda: state_of(client, job_id) == "successful")
    live.kill()
    (live.root / "jobs" / job_id / "ended.json").unlink()
    (live.root / "jobs" / ".new-torn").mkdir()
    (live.root / "jobs" / "torn").mkdir()
    (live.root / "jobs" / "torn" / "job.json").write_text("{")
    with httpx.Client(base_url=start(live.root, pretending=True).url) as client:
        assert state_of(client, job_id) == "successful"
        assert client.get("/jobs").json()["numberMatched"] == 1
    assert not (live.root / "jobs" / ".new-torn").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_stops_its_jobs_and_leaves_nobody(start: Start, number: signal.Signals) -> None:
    live = start(pretending=True)
    with httpx.Client(base_url=live.url) as client:
        job_id = ask(client, pretend.WAIT).json()["jobID"]
        until(lambda: client.get(f"/jobs/{job_id}").json()["progress"])
        helpers = children(live)
        began = time.monotonic()
        live.process.send_signal(number)
        assert live.process.wait(15) == 0
    assert time.monotonic() - began < 15
    assert helpers
    assert not [process for process in helpers if process.is_running()]
    events = [json.loads(line) for line in live.log.read_text().splitlines()]
    assert {"accepted", "begun", "stopped"} <= {event["event"] for event in events if event.get("job") == job_id}
    assert not (live.root / "jobs" / job_id / "ended.json").exists(), "it can go on"


def test_a_folder_has_one_service(tmp_path: Path) -> None:
    root = tmp_path / "service"
    root.mkdir()
    with locked(FolderStore(root=root)):
        done = subprocess.run(
            [sys.executable, "-m", "geoseg", "serve", "--root", str(root), "--port", "0", "--log-text"],
            capture_output=True, text=True, check=False, timeout=60, env=os.environ,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert "another service is at work here" in line
