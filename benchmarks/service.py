"""The service: killed with twenty jobs in every state and started again; fuzzed; a job dismissed at work."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from benchmarks.measure import Bench, Figure
from geoseg.earth import footprint, lonlat_bbox
from geoseg.testing.synthetic import SyntheticScene, write_scene

__all__ = ["Service", "catalog_of", "measure", "served"]

STATES = ("successful", "failed", "dismissed", "running", "accepted")
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    "response_headers_conformance", "unsupported_method",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One that runs as a process of its own."""

    process: subprocess.Popen[str]
    """``geoseg serve``."""
    url: str
    """Where it listens."""

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        data = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **headers}
        try:
            with urlopen(Request(f"{self.url}{path}", data, sent, method=method), timeout=60) as reply:
                return reply.status, json.loads(reply.read())
        except HTTPError as error:
            return error.code, json.loads(error.read())

    def begin(self, scene: str, **options: Any) -> str:
        """The id of a new job."""
        body = {"inputs": {"scene": scene, **options}}
        status, told = self.ask("POST", "/processes/segment/execution", body, Prefer="respond-async")
        assert status == 201, told
        return str(told["jobID"])

    def state(self, job: str) -> str:
        """What it says of a job."""
        return str(self.ask("GET", f"/jobs/{job}")[1]["status"])

    def digest(self, job: str) -> str:
        """SHA-256 of a job's map."""
        with urlopen(f"{self.url}/jobs/{job}/files/labels.tif", timeout=60) as reply:
            return hashlib.sha256(reply.read()).hexdigest()


@contextmanager
def served(root: Path, catalog: Path, *words: str) -> Iterator[Service]:
    """A service, killed at the end if it still runs."""
    command = [sys.executable, "-m", "geoseg", "serve", "--root", str(root), "--catalog", str(catalog), "--port", "0"]
    command += ["--rate", "1e6", "--burst", "1000000", *words]
    with (root.with_suffix(".log")).open("a") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    try:
        yield Service(process=process, url=process.stdout.readline().strip())
    finally:
        process.kill()
        process.communicate()


def catalog_of(folder: Path, sides: dict[str, int]) -> Path:
    """A catalog of synthetic scenes, each of its name and side in pixels; made once."""
    links = [{"rel": "item", "href": f"./{name}.json"} for name in sides]
    for seed, (name, side) in enumerate(sides.items()):
        scene, image = SyntheticScene(side, side, seed=seed), folder / f"{name}.tif"
        if not image.exists():
            write_scene(image, side, side, seed)
        outline = footprint(scene.geobox)
        asset = {"href": f"./{name}.tif", "type": "image/tiff; application=geotiff", "roles": ["data"]}
        item = {
            "type": "Feature",
            "stac_version": "1.1.0",
            "id": name,
            "geometry": json.loads(json.dumps(outline.__geo_interface__)),
            "bbox": list(lonlat_bbox(outline)),
            "properties": {"datetime": "2024-06-14T10:20:31Z"},
            "links": [],
            "assets": {"image": asset | {"bands": [{"name": band, "eo:common_name": band} for band in scene.names]}},
        }
        (folder / f"{name}.json").write_text(json.dumps(item))
    listing = {"type": "Catalog", "stac_version": "1.1.0", "id": "scenes", "description": "Scenes", "links": links}
    (folder / "catalog.json").write_text(json.dumps(listing))
    return folder


def _until(condition: Callable[[], bool], seconds: float = 3600) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("it did not come true")
        time.sleep(0.1)


def killed_and_started(bench: Bench, catalog: Path) -> Iterator[Figure]:
    """Jobs in every state, ``kill -9``, and what the next service says of them."""
    each, root = bench.pick(4, 1), bench.folder("service") / "killed"
    shutil.rmtree(root, ignore_errors=True)
    working = min(each, 2)  # two processes at once are what two cores bear
    with served(root, catalog, "--jobs", str(working)) as service:
        good = [service.begin("small", tile=64) for _ in range(each)]
        bad = [service.begin("small", bands={"red": 9}) for _ in range(each)]
        _until(lambda: all(service.state(job) in {"successful", "failed"} for job in (*good, *bad)))
        at_work = [service.begin("large", tile=64) for _ in range(working)]
        _until(lambda: {service.state(job) for job in at_work} == {"running"})
        gone = [service.begin("small") for _ in range(each)]
        for job in gone:
            service.ask("DELETE", f"/jobs/{job}")
        waiting = [service.begin("small", tile=64) for _ in range(5 * each - 3 * each - working)]
        before = {job: service.ask("GET", f"/jobs/{job}")[1]["status"] for job in (*good, *bad, *gone)}
        digest = service.digest(good[0])
        time.sleep(bench.pick(5, 1))  # so that some chunks of those at work are done
        service.process.kill()
        service.process.wait()
    with served(root, catalog, "--jobs", str(working)) as service:
        true = sum(service.state(job) == state for job, state in before.items())
        true += sum(service.state(job) in {"accepted", "running"} for job in (*at_work, *waiting))
        _until(lambda: all(service.state(job) == "successful" for job in (*at_work, *waiting)))
        same = sum(service.digest(job) == digest for job in (*good, *waiting))
        straight = service.begin("large", tile=64)
        _until(lambda: service.state(straight) == "successful")
        same += sum(service.digest(job) == service.digest(straight) for job in at_work)
    number, maps = 5 * each, len(good) + len(waiting) + len(at_work)
    what = f"jobs of {number} in {len(STATES)} states that are true after kill -9 and a start"
    yield Figure(benchmark="service", what=what, value=true, unit="", limit=number, wanted=">=")
    what = f"maps of {maps}, finished before or after it, with the same bytes as without"
    yield Figure(benchmark="service", what=what, value=same, unit="", limit=maps, wanted=">=")


def dismissed(bench: Bench, catalog: Path) -> Figure:
    """How long a job's process lives after DELETE."""
    root = bench.folder("service") / "dismissed"
    shutil.rmtree(root, ignore_errors=True)
    with served(root, catalog) as service:
        job = service.begin("large", tile=64)
        _until(lambda: service.ask("GET", f"/jobs/{job}")[1]["progress"] > 0)
        following = service.begin("small")
        began = time.perf_counter()
        service.ask("DELETE", f"/jobs/{job}")
        _until(lambda: service.state(following) == "running")
        seconds = time.perf_counter() - began
    return Figure(benchmark="service", what="from DELETE to the next job's beginning", value=seconds, limit=10.0)


def fuzzed(bench: Bench, catalog: Path) -> Iterator[Figure]:
    """Requests that schemathesis makes up, until there are enough of them."""
    wanted, made, failures = bench.pick(10_000, 100), 0, 0
    root = bench.folder("service") / "fuzzed"
    shutil.rmtree(root, ignore_errors=True)
    with served(root, catalog, "--queue", "2", "--patience", "1") as service:
        seed = 0
        while made < wanted:
            seed += 1
            phases = "coverage,fuzzing" if seed == 1 and not bench.quick else "fuzzing"
            command = [
                str(Path(sys.executable).with_name("schemathesis")), "run", f"{service.url}/api", "--no-color",
                "--checks", ",".join(CHECKS), "--phases", phases,
                "--max-examples", str(bench.pick(200, 5)), "--seed", str(seed), "--generation-database", "none",
                "--request-timeout", "60", "--continue-on-failure",
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=bench.folder("service"))
            told = re.search(r"(\d+) generated(?:, (\d+) found)?", done.stdout)
            if told is None:
                raise RuntimeError(done.stdout[-4000:] + done.stderr[-4000:])
            made, failures = made + int(told[1]), failures + int(told[2] or 0)
            if done.returncode:
                sys.stderr.write(done.stdout[-8000:])
    yield Figure(benchmark="service", what="requests made up by schemathesis", value=made, unit="")
    what = "of these, answered with 5xx or against the description"
    yield Figure(benchmark="service", what=what, value=failures, unit="", limit=0)


def measure(bench: Bench) -> list[Figure]:
    """Kills, a dismissal, and requests that somebody made up."""
    catalog = catalog_of(bench.folder("service-scenes"), {"small": 160, "large": bench.pick(2048, 1024)})
    return [*killed_and_started(bench, catalog), dismissed(bench, catalog), *fuzzed(bench, catalog)]
