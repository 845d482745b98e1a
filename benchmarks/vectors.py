"""Labels to polygons: over GDAL's polygonizer, in chunks over in one piece, and memory of ever larger rasters.

Two rasters: a map of five classes as a scene's vegetation index has them after a filter of 7 x 7 pixels (at 8192 x
8192: 71,000 regions with 8 million vertices, the largest a tenth of all), and noise, where one pixel in a hundred is of
another class (660,000 regions).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.features
import shapely

from benchmarks.measure import Bench, Figure, in_own_process, interleaved, own_peak_memory, spread
from benchmarks.scene import large_scene
from geoseg.earth import PixelAreas, longest_line
from geoseg.polygon_options import PolygonOptions
from geoseg.sink.features import region_frames
from geoseg.sink.vector import write_features
from geoseg.source.labels import ArrayLabels, RasterLabels
from geoseg.spec import ClassInfo
from geoseg.testing import geobox_of
from geoseg.tracing.polygons import polygonize
from geoseg.tracing.regions import trace_regions
from geoseg.types import Labels
from geoseg.vectors import Drawing
from geoseg.window import Window

__all__ = ["CLASSES", "NODATA", "labels_of_a_map", "measure"]

NODATA = 255
PIECE = 2048
"""Pixels: side of the piece of labels that is repeated."""
CLASSES = tuple(ClassInfo(value=value, name=f"class {value}") for value in range(5))


def measure(bench: Bench) -> list[Figure]:
    """Files by GDAL and by geoseg in turns; the same labels in memory, whole and in chunks; memory by size."""
    side, folder = bench.pick(8192, 512), bench.folder("vectors")
    figures = []
    for name, labels in (("a map", labels_of_a_map(bench, side)), ("noise", _noise(side))):
        path = _written(labels, folder / f"{name.replace(' ', '-')}-{side}.tif")
        figures += [*_over_gdal(bench, name, path), _over_whole(bench, name, labels)]
    return [*figures, *(_memory(bench, drawn_anew=each) for each in (False, True))]


def labels_of_a_map(bench: Bench, side: int) -> Labels:
    """Five classes of equal area, repeated and mirrored; shifted, so that no chunk ends where a copy does."""
    with rasterio.open(large_scene(bench.folder("scenes"), PIECE)) as raster:
        red, nir = raster.read([3, 4]).astype(np.float32)
    index = _filtered((nir - red) / (nir + red), 7)
    piece = np.digitize(index, np.quantile(index, [0.2, 0.4, 0.6, 0.8])).astype(np.uint8)
    copies = -(-side // PIECE) + 1
    large = np.pad(piece, (0, copies * PIECE), mode="symmetric")
    return np.ascontiguousarray(large[700 : 700 + side, 500 : 500 + side])


def _filtered(plane: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    """The mean (row, col) of `size` x `size` pixels."""
    padded = np.pad(plane, size // 2, mode="symmetric")
    rows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=0).mean(-1)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(rows, size, axis=1).mean(-1))


def _noise(side: int) -> Labels:
    """One class, in which one pixel in a hundred is of another."""
    rng = np.random.default_rng(0)
    return np.where(rng.random((side, side)) < 0.01, rng.integers(1, 4, (side, side)), 0).astype(np.uint8)


def _written(labels: Labels, path: Path) -> Path:
    """A tiled GeoTIFF, as runs write their labels."""
    geobox = geobox_of(*labels.shape)
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint8", count=1, height=labels.shape[0], width=labels.shape[1],
        crs=str(geobox.crs), transform=geobox.transform, nodata=NODATA, tiled=True, blockxsize=512, blockysize=512,
        compress="deflate",
    ) as raster:  # fmt: skip
        raster.write(labels, 1)
    return path


def _over_gdal(bench: Bench, name: str, path: Path) -> Iterator[Figure]:
    """From a file of labels: by GDAL to FlatGeobuf, by rasterio and shapely to objects, by geoseg to GeoParquet."""
    folder = bench.folder("runs") / "vectors"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tool = shutil.which("gdal_polygonize.py") or shutil.which("gdal_polygonize")
    actions: dict[str, Callable[[], object]] = {"geoseg": partial(_to_parquet, path, folder)}
    actions["rasterio.features.shapes with shapely"] = partial(_shapes, path)
    if tool:
        actions["gdal_polygonize to FlatGeobuf"] = partial(_gdal, tool, path, folder)
    _to_parquet(path, folder)  # compiles
    rounds = interleaved({each: partial(_timed, action) for each, action in actions.items()}, bench.pick(3, 1))
    least = {each: min(seconds) for each, seconds in rounds.items()}
    shutil.rmtree(folder)
    for other in list(actions)[1:]:
        yield Figure(
            benchmark="vectors", what=f"{name}, {_side(path)}: {other} over geoseg to GeoParquet",
            value=least[other] / least["geoseg"], unit="x", limit=3.0, wanted=">=",
            note=f"best of: geoseg {spread(rounds['geoseg'])}; {other} {spread(rounds[other])}",
        )  # fmt: skip


def _side(path: Path) -> str:
    side = path.stem.rpartition("-")[2]
    return f"{side} x {side}"


def _timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _to_parquet(path: Path, folder: Path) -> None:
    """All that a run writes of its polygons, areas and lengths on the ellipsoid included."""
    labels = RasterLabels(path)
    regions = trace_regions(
        labels,
        transform=labels.geobox.transform[:6],
        joints=longest_line(labels.geobox),
        areas=PixelAreas(labels.geobox),
    )
    write_features(region_frames(regions, geobox=labels.geobox, classes=CLASSES), folder, ["parquet"])


def _gdal(tool: str, path: Path, folder: Path) -> None:
    out = folder / "gdal.fgb"
    out.unlink(missing_ok=True)
    subprocess.run([tool, "-q", str(path), "-f", "FlatGeobuf", str(out)], check=True, capture_output=True)


def _shapes(path: Path) -> int:
    with rasterio.open(path) as raster:
        labels, transform = raster.read(1), raster.transform
    shapes = rasterio.features.shapes(labels, mask=labels != NODATA, transform=transform)
    return len([(shapely.geometry.shape(shape), value) for shape, value in shapes])


def _over_whole(bench: Bench, name: str, labels: Labels) -> Figure:
    """Labels in memory to shapely objects."""

    def whole() -> None:
        polygonize(labels, nodata=NODATA)

    def chunked() -> None:
        list(trace_regions(ArrayLabels(labels, NODATA), chunk=bench.pick(2048, 200)))

    actions = {"chunked": partial(_timed, chunked), "whole": partial(_timed, whole)}
    interleaved(actions, 1)
    rounds = interleaved(actions, bench.pick(5, 1))
    return Figure(
        benchmark="vectors", what=f"{name}, {len(labels)} x {len(labels)}: traced in chunks over in one piece",
        value=min(rounds["chunked"]) / min(rounds["whole"]), unit="x", limit=1.2,
        note=f"best of: chunks {spread(rounds['chunked'])}; whole {spread(rounds['whole'])}",
    )  # fmt: skip


class Repeated:
    """A raster of any size: one piece again and again, each copy framed by nodata, so that no region outgrows it."""

    dtype = np.dtype(np.uint8)
    nodata = NODATA

    def __init__(self, piece: Labels, side: int) -> None:
        self._piece = piece.copy()
        self._piece[0], self._piece[:, 0] = NODATA, NODATA
        self.shape = (side, side)

    def read(self, window: Window) -> Labels:
        """Labels (row, col)."""
        rows = np.arange(window.row_off, window.row_stop) % len(self._piece)
        cols = np.arange(window.col_off, window.col_stop) % len(self._piece)
        return self._piece[np.ix_(rows, cols)]


def _memory(bench: Bench, *, drawn_anew: bool) -> Figure:
    small, large = bench.pick(4096, 1024), bench.pick(32768, 2048)
    way = "with --min-area and --simplify" if drawn_anew else "as they are"
    peaks = {
        side: in_own_process("benchmarks.vectors", str(bench.place), str(side), way)["peak_memory"] / 1e6
        for side in (PIECE // 4, small, large)  # the first one compiles, which takes memory too
    }
    return Figure(
        benchmark="vectors", what=f"peak memory of regions {way}, {large} x {large} over {small} x {small}",
        value=peaks[large] / peaks[small], unit="x", limit=1.1,
        note=f"{peaks[large]:.0f} MB over {peaks[small]:.0f} MB",
    )  # fmt: skip


def _trace_in_this_process(place: Path, side: int, way: str) -> int:
    """Regions of a map that is repeated up to `side` x `side` pixels."""
    bench = Bench(place=place)
    labels = Repeated(labels_of_a_map(bench, PIECE), side)
    options = PolygonOptions() if way == "as they are" else PolygonOptions(min_area=5000, simplify=20)
    drawing = Drawing(options=options, scratch=bench.folder("runs"))
    return sum(map(len, drawing.regions(labels, geobox_of(side, side), rasters={})))


if __name__ == "__main__":
    found = _trace_in_this_process(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    print(json.dumps({"regions": found, "peak_memory": own_peak_memory()}))
