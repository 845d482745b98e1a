"""A service over two small scenes: in this process, and as a process of its own."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from starlette.testclient import TestClient

from geoseg.earth import footprint, lonlat_bbox
from geoseg.serve import starting
from geoseg.serve.app import create_app
from geoseg.serve.service import Service
from geoseg.serve.settings import ServiceSettings
from geoseg.testing.synthetic import SyntheticScene, write_scene
from tests.conftest import CHECKOUT
from tests.runs import make_run
from tests.serve import pretend

SIDE = 160
"""Rows and columns of the scenes."""
TIMES = {"before": "2024-05-01T10:20:00Z", "after": "2024-06-01T10:20:00Z"}


def add_scene(catalog: Path, name: str, *, side: int = SIDE, seed: int = 0, when: str = TIMES["before"]) -> Path:
    """Writes a scene and its STAC item into a catalog's folder; `write_listing` lists it."""
    import shapely

    scene = SyntheticScene(side, side, seed=seed)
    folder = catalog / name
    folder.mkdir(parents=True)
    write_scene(folder / "scene.tif", side, side, seed)
    outline = footprint(scene.geobox)
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "geometry": json.loads(shapely.to_geojson(outline)),
        "bbox": list(lonlat_bbox(outline)),
        "properties": {"datetime": when},
        "links": [],
        "assets": {
            "image": {
                "href": "./scene.tif",
                "type": "image/tiff; application=geotiff",
                "roles": ["data"],
                "eo:bands": [{"name": band, "common_name": band} for band in scene.names],
                "raster:bands": [{"scale": 1e-4, "offset": 0, "nodata": 0} for _ in scene.names],
            }
        },
    }
    (folder / "item.json").write_text(json.dumps(item))
    return folder


def write_listing(catalog: Path) -> Path:
    """The ``catalog.json`` of what stands in a folder."""
    names = sorted(path.parent.name for path in catalog.glob("*/item.json"))
    links = [{"rel": "item", "href": f"./{name}/item.json", "type": "application/geo+json"} for name in names]
    document = {"type": "Catalog", "stac_version": "1.0.0", "id": "scenes", "description": "Scenes.", "links": links}
    (catalog / "catalog.json").write_text(json.dumps(document))
    return catalog


@pytest.fixture(scope="session")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dates of one place, ``before`` and ``after``."""
    folder = tmp_path_factory.mktemp("scenes")
    for seed, (name, when) in enumerate(TIMES.items()):
        add_scene(folder, name, seed=seed, when=when)
    return write_listing(folder)


@pytest.fixture(scope="session")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, made without a net."""
    folder = tmp_path_factory.mktemp("made") / "run"
    make_run(folder, vector=("geojson", "parquet"))
    return folder


@pytest.fixture
def pretending(monkeypatch: pytest.MonkeyPatch, made_run: Path) -> None:
    """Jobs of services in this process only pretend (`tests.serve.pretend`)."""
    monkeypatch.setattr(starting, "_CHILD", pretend.MODULE)
    monkeypatch.setenv("PRETEND_RUN", str(made_run))
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))


@pytest.fixture
def settings(tmp_path: Path, catalog: Path) -> ServiceSettings:
    """A service for this machine, without tokens, whose root is empty."""
    return ServiceSettings(root=tmp_path / "service", catalog=catalog, device="cpu")


Connect = Callable[[ServiceSettings], TestClient]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Starts services in this process and gives a client for each; all end with the test."""
    with ExitStack() as stack:

        def _connect(settings: ServiceSettings) -> TestClient:
            app = create_app(settings)
            made = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False, client=("127.0.0.1", 1))
            return stack.enter_context(made)

        yield _connect


@pytest.fixture
def client(connect: Connect, settings: ServiceSettings) -> TestClient:
    """A client of a service in this process."""
    return connect(settings)


@pytest.fixture
def service(client: TestClient) -> Service:
    """That service."""
    found: Service = client.app.state.service  # type: ignore[attr-defined]
    return found


@dataclass(kw_only=True)
class Live:
    """A service that runs as a process of its own."""

    process: subprocess.Popen[str]
    root: Path
    log: Path
    url: str = ""

    def ready(self) -> Live:
        """Waits until it listens."""
        assert self.process.stdout is not None
        found, _, _ = select.select([self.process.stdout], [], [], 60)
        self.url = self.process.stdout.readline().strip() if found else ""
        assert self.url, f"the service did not start: {self.log.read_text()}"
        return self

    def end(self) -> None:
        """Ends it as it should end, or else as it has to."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def kill(self) -> None:
        """Ends it without a word, as a loss of power would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


Start = Callable[..., Live]


@pytest.fixture
def start(tmp_path: Path, catalog: Path, made_run: Path) -> Iterator[Start]:
    """Starts ``geoseg serve``, with further options as keywords, and waits until it listens.

    With `pretending` its jobs are those of `tests.serve.pretend`.
    """
    running: list[Live] = []

    def _start(root: Path | None = None, *, pretending: bool = False, **options: Any) -> Live:
        root = root or tmp_path / "service"
        words = ["--root", str(root), "--catalog", str(catalog), "--port", "0", "--device", "cpu"]
        words += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        log = tmp_path / f"service-{len(running)}.log"
        with log.open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", pretend.MODULE if pretending else "geoseg", "serve", *words],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": str(CHECKOUT), "PRETEND_RUN": str(made_run)},
            )
        live = Live(process=process, root=root, log=log)
        running.append(live)
        return live.ready()

    yield _start
    for live in running:
        live.end()


def ask(client: Any, tile: int = pretend.SUCCEED, *, prefer: str = "respond-async", **more: Any) -> Any:
    """Asks for a job that pretends; the response."""
    inputs = {"scene": "before", "tile": tile}
    headers = {"Prefer": prefer} if prefer else {}
    return client.post("/processes/segment/execution", json={"inputs": inputs, **more}, headers=headers)


def state_of(client: Any, job_id: str) -> str:
    """What the service says of a job."""
    return str(client.get(f"/jobs/{job_id}").json()["status"])


def until(condition: Callable[[], Any], seconds: float = 90.0) -> Any:
    """What a condition gives as soon as it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)
    return found
