"""``geoseg doctor`` of a cluster: real workers, in another folder than this process and without its credentials."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from geoseg.source.credentials import VARIABLES
from geoseg.testing import write_scene
from tests.buckets import SECRET, Bucket
from tests.cli.conftest import Call, Called
from tests.clusters import scheduler_process, worker_processes


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of a scheduler and a worker."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as environment:
        for name in VARIABLES:
            environment.delenv(name, raising=False)
        with scheduler_process(folder), worker_processes(folder, "--workers", "1", "--name", "far"):
            yield folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process's folder, with a scene in it."""
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    write_scene(tmp_path / "scene.tif", 64, 64, seed=1)
    return tmp_path


def examined(call: Call, elsewhere: Path, *places: str) -> tuple[Called, dict[str, Any]]:
    """How ``geoseg doctor --json`` ends for places that workers must reach."""
    words = [word for place in places for word in ("--reach", place)]
    ended = call("doctor", "--json", "--scheduler-file", elsewhere / "scheduler.json", *words)
    return ended, json.loads(ended.out)


def test_a_worker_is_shown_with_what_it_reaches(call: Call, elsewhere: Path, here: Path) -> None:
    ended = call("doctor", "--scheduler-file", elsewhere / "scheduler.json", "--reach", "scene.tif", "--reach", "./")
    assert (ended.code, ended.err) == (0, "")
    heading, row = ended.out.splitlines()[1:3]
    assert heading.split()[:4] == ["name", "address", "geoseg", "python"]
    assert row.split()[0] == "far"
    assert row.endswith("2 of 2")
    assert [path.name for path in here.iterdir()] == ["scene.tif"], "nothing is left there"


def test_a_bucket_is_reached_as_a_run_would_reach_it(call: Call, elsewhere: Path, here: Path, bucket: Bucket) -> None:
    bucket.put("scenes/scene.tif", (here / "scene.tif").read_bytes())
    places = (f"s3://{bucket.name}/scenes/scene.tif", f"s3://{bucket.name}/maps/")
    ended, told = examined(call, elsewhere, *places)
    assert (ended.code, ended.err) == (0, "")
    assert told["healthy"]
    assert told["workers"][0]["unreached"] == {}
    assert list(bucket.objects()) == ["scenes/scene.tif"], "nothing is left there"
    assert SECRET not in (elsewhere / "workers.log").read_text() + ended.out


@pytest.mark.usefixtures("here")
def test_what_a_worker_cannot_reach_is_named(call: Call, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from geoseg import workers

    monkeypatch.setattr(workers, "strangers", lambda client, addresses, store: dict.fromkeys(addresses, "read only"))
    ended, told = examined(call, elsewhere, "scene.tif", "./")
    address = told["workers"][0]["address"]
    assert ended.code == 4
    assert ended.error_lines == [f"geoseg: error: worker {address} cannot reach ./ (read only)"]
    assert told["workers"][0]["unreached"] == {"./": "read only"}
    assert told["findings"] == [{"text": f"worker {address} cannot reach ./ (read only)", "fatal": True}]


@pytest.mark.usefixtures("here")
def test_an_input_that_is_nowhere_is_refused(call: Call, elsewhere: Path) -> None:
    ended = call("doctor", "--scheduler-file", elsewhere / "scheduler.json", "--reach", "missing.tif")
    assert ended.code == 2
    assert "missing.tif: No such file or directory" in ended.error_lines[0]
