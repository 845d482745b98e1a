"""Assembly of a run's rasters over GDAL's COG driver alone, which gets the same pixels as plain tiled GeoTIFFs."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rasterio
import rasterio.shutil
from rasterio.windows import Window as RasterioWindow

from benchmarks.measure import Bench, Figure, interleaved, spread
from benchmarks.nets import pointwise_package
from benchmarks.scene import large_scene
from geoseg.assembly import Tally, assemble
from geoseg.models import read_spec
from geoseg.pipeline import plan_segment, segment
from geoseg.plan import RunPlan
from geoseg.sink.parts import Part, PartsIn, PartWriter
from geoseg.store import open_store
from geoseg.window import GeoBox, Window

__all__ = ["gdal_alone", "measure", "parts_from"]

UNET_SECONDS = 190.0
"""What a U-Net takes for 8192 x 8192 pixels on two cores, about: benchmark "engine"."""

OPTIONS = {
    "labels": {"LEVEL": "6", "PREDICTOR": "NO", "OVERVIEW_RESAMPLING": "MODE"},
    "confidence": {"LEVEL": "1", "PREDICTOR": "YES", "OVERVIEW_RESAMPLING": "AVERAGE"},
}
"""Creation options of each raster, as `geoseg.sink.cog` compresses it."""


def measure(bench: Bench) -> list[Figure]:
    """Labels and confidence, the areas of the classes included, in turns with GDAL; wall and processor time."""
    side = bench.pick(8192, 640)
    folder, package = bench.folder("runs") / "assembly", pointwise_package(bench.folder("nets"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    scene = large_scene(bench.folder("scenes"), side)
    options: dict[str, Any] = {"model": package, "backend": "torch"}
    options |= {"tile": 128, "chunk": 200} if bench.quick else {}
    plan, spec = plan_segment(scene, **options), read_spec(package)
    made = folder / "run"
    segment(scene, out=made, vector=(), **options)
    with rasterio.open(made / "labels.tif") as raster:
        geobox = GeoBox((raster.height, raster.width), raster.transform, raster.crs.to_wkt())
    plain = {name: _plain(made / f"{name}.tif", folder / f"plain-{name}.tif") for name in OPTIONS}
    parts = {name: parts_from(plan, plain[name], folder / "parts", name) for name in OPTIONS}

    def ours() -> None:
        assemble(plan, spec, geobox, parts, folder, Tally(geobox, spec))

    def theirs() -> None:
        gdal_alone(plain, folder)

    rounds = interleaved({"ours": lambda: _timed(ours), "theirs": lambda: _timed(theirs)}, bench.pick(5, 1))
    busy = {"ours": _busy(ours), "theirs": _busy(theirs)}
    shutil.rmtree(folder)
    what = f"{side} x {side} labels and confidence"
    note = f"best of: {spread(rounds['ours'])}; GDAL {spread(rounds['theirs'])}"
    least = {name: min(seconds) for name, seconds in rounds.items()}
    return [
        Figure(
            benchmark="assembly", what=f"{what} over GDAL's COG driver", value=least["ours"] / least["theirs"],
            unit="x", limit=1.3, note=note,
        ),
        Figure(
            benchmark="assembly", what=f"{what} over GDAL's COG driver, processor time",
            value=busy["ours"] / busy["theirs"], unit="x", note=f"{busy['ours']:.2f} s over {busy['theirs']:.2f} s",
        ),
        Figure(
            benchmark="assembly", what=f"{what} over the U-Net's run of {UNET_SECONDS:.0f} s",
            value=least["ours"] / UNET_SECONDS, unit="x", limit=0.10, note=f"{least['ours']:.2f} s",
        ),
    ]  # fmt: skip


def parts_from(plan: RunPlan, raster: Path, folder: Path, name: str) -> PartsIn:
    """The parts that a run of `plan` leaves of a finished raster."""
    folder.mkdir(exist_ok=True)
    windows: dict[str, Window] = {}
    for chunk in plan.chunks:
        windows |= {f"{chunk.name}-{number}": area for number, area in enumerate((chunk.core, *chunk.seam)) if area}
    with rasterio.open(raster) as file:
        for key, window in windows.items():
            writer = PartWriter(open_store(folder), key, window, {name: (file.count, file.dtypes[0])})
            for rows in window.pieces(plan.grid.stride, window.width):
                place = RasterioWindow(rows.col_off, rows.row_off, rows.width, rows.height)
                writer.write(rows, {name: file.read(window=place)})
            writer.close()
    found = [Part(path=folder / f"{key}.{name}.tif", window=window) for key, window in windows.items()]
    return lambda window: [part for part in found if part.window & window]


def gdal_alone(plain: dict[str, Path], folder: Path) -> None:
    """The same rasters by GDAL's COG driver, with all threads that it can use."""
    for name, path in plain.items():
        options = OPTIONS[name] | {"BLOCKSIZE": "512", "COMPRESS": "DEFLATE", "BIGTIFF": "IF_SAFER"}
        with rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS"):
            rasterio.shutil.copy(path, folder / f"gdal-{name}.tif", driver="COG", NUM_THREADS="ALL_CPUS", **options)


def _plain(finished: Path, path: Path) -> Path:
    """The pixels of a COG as a GeoTIFF without compression and overviews."""
    rasterio.shutil.copy(finished, path, driver="GTiff", TILED="YES", BLOCKXSIZE="512", BLOCKYSIZE="512")
    return path


def _timed(action: Callable[[], None]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _busy(action: Callable[[], None]) -> float:
    """Processor time of all threads."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    action()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
