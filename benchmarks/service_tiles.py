"""Tiles of a large finished map over loopback: how long a client waits, and whether the service's memory stays flat.

The map has the five classes of `benchmarks.vectors`. Tiles are drawn at random, each once, over all zooms from the one
at which the map is a tile to one beyond its own pixels, so that none is answered from memory.
"""

from __future__ import annotations

import http.client
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import rasterio
from rasterio.enums import Resampling

from benchmarks.measure import Bench, Figure
from benchmarks.vectors import CLASSES, NODATA, labels_of_a_map
from geoseg.catalog.item import describe_run, write_item
from geoseg.earth import PixelAreas, longest_line
from geoseg.scene import Band, BandSet, Scene
from geoseg.sink.features import region_frames
from geoseg.sink.vector import write_features
from geoseg.source.labels import RasterLabels
from geoseg.spec import Channel, ModelSpec
from geoseg.testing import geobox_of
from geoseg.tracing.regions import trace_regions
from geoseg.types import Labels
from geoseg.window import GeoBox

__all__ = ["measure"]

SPEC = ModelSpec(
    name="cover", bands=("red",), channels=(Channel(name="red"),), classes=CLASSES, digest="ab" * 32
)  # fmt: skip


def measure(bench: Bench) -> list[Figure]:
    """Pictures of the labels, then vector tiles of the polygons."""
    side, count = bench.pick(16384, 1024), bench.pick(200, 20)
    root = bench.folder("runs") / f"service-{side}"
    if not (root / "runs" / "map" / "run.json").exists():
        _make_run(bench, root / "runs" / "map", side)
    figures = []
    with _served(root) as (url, process):
        for layer, suffix in (("labels", "png"), ("polygons", "mvt")):
            seconds, sizes, memory = _fetched(url, process, layer, suffix, count)
            p95 = 1e3 * float(np.quantile(seconds, 0.95))
            what = f"{layer} of {side} x {side} pixels, {count} tiles"
            note = f"median {1e3 * float(np.median(seconds)):.0f}, slowest {1e3 * max(seconds):.0f} ms; "
            note += f"{np.mean(sizes) / 1e3:.0f} kB each"
            figures.append(
                Figure(benchmark="service_tiles", what=f"{what}: p95", value=p95, unit="ms", limit=100, note=note)
            )
            note = f"{memory[0] / 1e6:.0f} MB after a quarter of them, {memory[1] / 1e6:.0f} MB after all"
            ratio = memory[1] / memory[0]
            figures.append(
                Figure(
                    benchmark="service_tiles", what=f"{what}: memory", value=ratio, unit="x", limit=1.1, note=note
                )
            )  # fmt: skip
    return figures


def _make_run(bench: Bench, folder: Path, side: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    geobox = geobox_of(side, side)
    paths = [_write_labels(labels_of_a_map(bench, side), folder / "labels.tif", geobox)]
    labels = RasterLabels(paths[0])
    regions = trace_regions(
        labels,
        transform=labels.geobox.transform[:6],
        joints=longest_line(labels.geobox),
        areas=PixelAreas(labels.geobox),
    )
    frames = region_frames(regions, geobox=labels.geobox, classes=CLASSES)
    paths += write_features(frames, folder, ["parquet"])
    when = datetime(2024, 5, 1, tzinfo=UTC)
    told = Scene(
        id="map",
        source=None,
        geobox=geobox,
        bands=BandSet((Band(name="red", dtype="uint16"),)),
        datetime=when,
        datetime_source="item",
        href="scene.tif",
    )
    item = describe_run(told, SPEC, paths, geobox=geobox, started=when, software={"geoseg": "0"}, home=folder)
    write_item(item, folder / "item.json")
    (folder / "run.json").write_text(json.dumps({"outputs": [path.name for path in paths]}))


def _write_labels(labels: Labels, path: Path, geobox: GeoBox) -> Path:
    """A tiled GeoTIFF with overviews, as runs write their labels."""
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint8", count=1, height=labels.shape[0], width=labels.shape[1],
        crs=str(geobox.crs), transform=geobox.transform, nodata=NODATA, tiled=True, blockxsize=512, blockysize=512,
        compress="deflate",
    ) as raster:  # fmt: skip
        raster.write(labels, 1)
        raster.build_overviews(
            [2**n for n in range(1, 1 + max(1, math.ceil(math.log2(len(labels) / 512))))], Resampling.mode
        )
    return path


@contextmanager
def _served(root: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A service of its own process over finished runs: its address, and the process."""
    command = [sys.executable, "-m", "geoseg", "serve", "--root", str(root), "--port", "0", "--rate", "1e6"]
    with subprocess.Popen(
        [*command, "--burst", "1000000"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), psutil.Process(process.pid)
        finally:
            process.terminate()


def _fetched(
    url: str, process: psutil.Process, layer: str, suffix: str, count: int
) -> tuple[list[float], list[int], tuple[int, int]]:
    """Seconds and bytes of each tile; memory of the service after a quarter of them, and after all."""
    client = http.client.HTTPConnection(urlsplit(url).netloc, timeout=600)
    told = json.loads(_body(client, f"/runs/map/tiles/{layer}/tilejson.json"))
    seconds, sizes, memory = [], [], []
    for number, (z, x, y) in enumerate(_tiles(told, count)):
        path = f"/runs/map/tiles/{layer}/{z}/{x}/{y}.{suffix}"
        if not number:
            _body(client, path + "?first")  # what is loaded once
        began = time.perf_counter()
        sizes.append(len(_body(client, path)))
        seconds.append(time.perf_counter() - began)
        if number + 1 in {count // 4, count}:
            memory.append(process.memory_info().rss)
    client.close()
    return seconds, sizes, (memory[0], memory[-1])


def _body(client: http.client.HTTPConnection, path: str) -> bytes:
    client.request("GET", path)
    answer = client.getresponse()
    body = answer.read()
    if answer.status not in {200, 204}:
        raise RuntimeError(f"{path}: {answer.status} {body[:200]!r}")
    return body


def _tiles(told: dict[str, Any], count: int) -> list[tuple[int, int, int]]:
    """Different tiles of a map, as many of each zoom as there are, at most an equal share."""
    rng = np.random.default_rng(0)
    west, south, east, north = told["bounds"]
    found: dict[tuple[int, int, int], None] = {}
    zooms = range(int(told["minzoom"]), int(told["maxzoom"]) + 2)
    while len(found) < count:
        z = int(rng.choice(zooms))
        lon, lat = rng.uniform(west, east), math.radians(rng.uniform(south, north))
        down = (1 - math.asinh(math.tan(lat)) / math.pi) / 2
        found[z, int((lon + 180) / 360 * 2**z), int(down * 2**z)] = None
    return list(found)
