"""Windows asked of a service over HTTP, one after the other and many at once: nothing may be lost by asking together.

``python -m benchmarks.service_windows`` runs it alone; on a machine with a GPU it measures that.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import shapely

from benchmarks.measure import Bench, Figure, interleaved
from benchmarks.nets import pointwise_package, unet_package
from benchmarks.scene import large_scene
from geoseg.earth import footprint
from geoseg.models import read_spec
from geoseg.testing import geobox_of

__all__ = ["measure"]

WINDOW = 512
"""Side of a window in pixels."""
TOGETHER = 32
"""Clients that ask at once."""


def measure(bench: Bench) -> list[Figure]:
    """A net that costs nothing, so that the service itself is seen, and a U-Net."""
    side, asked = bench.pick(8192, 1536), bench.pick(32, 4)
    cheap = pointwise_package(bench.folder("nets"))
    figures = of_net(bench.place, cheap, side=side, asked=asked, rounds=bench.pick(5, 1))
    if not bench.quick:
        net = unet_package(bench.folder("nets"), "mobilenet_v2")
        figures += of_net(bench.place, net, side=side, asked=asked, rounds=2)
    return figures


def of_net(place: Path, package: Path, *, side: int, asked: int, rounds: int, device: str = "auto") -> list[Figure]:
    """Throughput of windows that are asked for together over that of one at a time, and the time of the slowest."""
    catalog, name = _catalog(place / "windows", side), read_spec(package).name
    bodies = _bodies(side, asked, name)
    spent = {"alone": _Spent(), "together": _Spent()}
    with _service(place / "windows" / f"service-{name}", catalog, package, device) as (url, process):
        _ask(url, bodies[0])  # loads the model, and times it where that was never done
        actions = {
            "alone": partial(_all, url, process, bodies, 1, spent["alone"]),
            "together": partial(_all, url, process, bodies, TOGETHER, spent["together"]),
        }
        seconds = interleaved(actions, rounds)
    alone, together = (statistics.median(seconds[kind]) for kind in ("alone", "together"))
    busy = {kind: statistics.median(each.processor) / asked for kind, each in spent.items()}
    gpu = _has_gpu() and device != "cpu"
    what = f"windows of {WINDOW} x {WINDOW}, {name}, {'GPU' if gpu else 'CPU'}"
    note = f"{asked / alone:.2f} windows a second one at a time, {asked / together:.2f} together"
    p95 = {kind: float(np.percentile(each.waits, 95)) for kind, each in spent.items()}
    figure = partial(Figure, benchmark="service_windows")
    return [
        figure(
            what=f"{what}: throughput, {TOGETHER} clients over one",
            value=alone / together,
            unit="x",
            limit=2.0 if gpu else 1.0,
            wanted=">=",
            note=note,
        ),
        figure(
            what=f"{what}: processor time, {TOGETHER} clients over one",
            value=busy["together"] / busy["alone"],
            unit="x",
            note=f"{busy['alone']:.2f} s a window one at a time: what else the machine does has no part in this",
        ),
        figure(
            what=f"{what}: p95 of an answer, {TOGETHER} clients",
            value=p95["together"],
            note=f"one client: {p95['alone']:.2f} s",
        ),
    ]


@dataclass(slots=True)
class _Spent:
    """What one way to ask cost, of all rounds."""

    waits: list[float] = field(default_factory=list)
    """Seconds of each answer."""
    processor: list[float] = field(default_factory=list)
    """Seconds of each round, of the service's process."""


def _catalog(folder: Path, side: int) -> Path:
    """A catalog of one scene, ``scene``."""
    folder.mkdir(parents=True, exist_ok=True)
    scene = large_scene(folder, side)
    outline = footprint(geobox_of(side, side))
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": "scene", "links": [],
        "geometry": json.loads(shapely.to_geojson(outline)), "bbox": list(outline.bounds),
        "properties": {"datetime": "2024-05-01T10:20:00Z"},
        "assets": {"image": {"href": f"./{scene.name}", "type": "image/tiff; application=geotiff", "roles": ["data"]}},
    }  # fmt: skip
    (folder / "item.json").write_text(json.dumps(item))
    links = [{"rel": "item", "href": "./item.json", "type": "application/geo+json"}]
    listing = {"type": "Catalog", "stac_version": "1.0.0", "id": "scenes", "description": "One.", "links": links}
    (folder / "catalog.json").write_text(json.dumps(listing))
    return folder


def _bodies(side: int, count: int, model: str) -> list[bytes]:
    """Requests for windows anywhere in the scene."""
    transform, random = geobox_of(side, side).transform, np.random.default_rng(0)
    bodies = []
    for row, col in random.integers(0, side - WINDOW, (count, 2)).tolist():
        (west, north), (east, south) = transform * (col, row), transform * (col + WINDOW, row + WINDOW)
        body = {"scene": "scene", "model": model, "bbox": [west, south, east, north], "crs": "EPSG:32632"}
        bodies.append(json.dumps(body).encode())
    return bodies


@contextmanager
def _service(root: Path, catalog: Path, package: Path, device: str) -> Iterator[tuple[str, psutil.Process]]:
    words = ["--root", str(root), "--catalog", str(catalog), "--models", str(package), "--port", "0"]
    words += ["--device", device, "--rate", "1e6", "--burst", "1000000", "--patience", "600"]
    log = root.with_suffix(".log")
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "geoseg", "serve", *words], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], 120)
        url = process.stdout.readline().strip() if ready else ""
        if not url:
            raise SystemExit(f"the service did not start; {log} tells why")
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


def _all(url: str, process: psutil.Process, bodies: Sequence[bytes], clients: int, spent: _Spent) -> float:
    """Seconds until all are answered."""
    before, began = sum(process.cpu_times()[:2]), time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        spent.waits += threads.map(partial(_ask, url), bodies)
    seconds = time.perf_counter() - began
    spent.processor.append(sum(process.cpu_times()[:2]) - before)
    return seconds


def _ask(url: str, body: bytes) -> float:
    """Seconds until a window is there."""
    began, place = time.perf_counter(), urlsplit(url)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=900)
    try:
        headers = {"Content-Type": "application/json", "Accept": "image/tiff"}
        connection.request("POST", "/segment", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{answer.status}: {content.decode(errors='replace')}")
    finally:
        connection.close()
    return time.perf_counter() - began


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def main() -> None:
    """Runs this benchmark alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench"), help="scenes and nets that are kept")
    parser.add_argument("--quick", action="store_true", help="sizes of seconds")
    asked = parser.parse_args()
    print(f"{os.cpu_count()} cores")
    for figure in measure(Bench(place=asked.out.absolute(), quick=asked.quick)):
        print(f"{figure.what}: {figure.value:.2f} {figure.unit} ({figure.note})")


if __name__ == "__main__":
    main()
