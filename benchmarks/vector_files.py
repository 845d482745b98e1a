"""Files of a million polygons: GeoJSON over geopandas, memory by number, and what a query for a place reads.

The polygons are those of random classes: a million regions of a few pixels, as no map has them.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow.parquet
import shapely
from affine import Affine

from benchmarks.measure import Bench, Figure, in_own_process, interleaved, own_peak_memory, spread
from geoseg.earth import PixelAreas, longest_line
from geoseg.scene import Scaling
from geoseg.sink.features import Mean, joined_frames, region_frames
from geoseg.sink.vector import write_features
from geoseg.source.labels import ArrayLabels
from geoseg.spec import ClassInfo
from geoseg.tracing.regions import trace_regions
from geoseg.window import GeoBox

__all__ = ["frames", "groups_read", "measure"]

CLASSES = tuple(ClassInfo(value=value, name=f"class {value}") for value in range(4))
FORMATS = ("geojson", "parquet", "fgb")


def measure(bench: Bench) -> list[Figure]:
    """Both writers in turns on the same table; files of different lengths in processes of their own; a query."""
    side, folder = bench.pick(1400, 150), bench.folder("runs") / "vector-files"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    frame = joined_frames(frames(side))
    figures = [*_geojson(bench, frame, folder), _parquet(bench, frame, folder), *_query(frame, folder)]
    figures += [_memory(bench, name) for name in FORMATS]
    shutil.rmtree(folder)
    return figures


def frames(side: int) -> Iterator[geopandas.GeoDataFrame]:
    """The regions of `side` x `side` random pixels, with every column of a map."""
    rng = np.random.default_rng(0)
    geobox = GeoBox((side, side), Affine(10, 0, 500000, 0, -10, 5e6), "EPSG:32633")
    regions = trace_regions(
        ArrayLabels(rng.integers(0, 4, (side, side)).astype(np.uint8)),
        transform=geobox.transform[:6],
        joints=longest_line(geobox),
        chunk=512,
        areas=PixelAreas(geobox),
        rasters={"confidence": ArrayLabels(rng.integers(100, 250, (side, side)).astype(np.uint8))},
    )
    means = [Mean(column="confidence_mean", of="confidence", scaling=Scaling(scale=0.004))]
    scene = "S2A_MSIL2A_20240506T102031"
    yield from region_frames(regions, geobox=geobox, classes=CLASSES, means=means, scene=scene, model="net")


def _geojson(bench: Bench, frame: geopandas.GeoDataFrame, folder: Path) -> list[Figure]:
    """Our file is in longitude and latitude, so theirs is too; the table without the projection for comparison."""
    placed = frame.to_crs(4326)
    ways = {
        "ours": lambda: write_features(frame, folder, ["geojson"]),
        "theirs": lambda: frame.to_crs(4326).to_file(folder / "theirs.geojson", driver="GeoJSON"),
        "writing": lambda: placed.to_file(folder / "theirs.geojson", driver="GeoJSON"),
    }
    seconds = _turns(bench, ways)
    note = "; ".join(f"{name} {spread(values)}" for name, values in seconds.items())
    what = f"GeoJSON of {len(frame):,} polygons: geopandas.to_file over geoseg"
    return [
        _ratio(what, seconds["theirs"], seconds["ours"], limit=2.0, note=note),
        _ratio(f"{what}, which alone projects", seconds["writing"], seconds["ours"], limit=2.0),
    ]


def _parquet(bench: Bench, frame: geopandas.GeoDataFrame, folder: Path) -> Figure:
    options = {"compression": "zstd", "write_covering_bbox": True, "schema_version": "1.1.0", "row_group_size": 4096}

    def theirs() -> None:
        along = frame.iloc[np.argsort(frame.hilbert_distance().to_numpy(), kind="stable")]
        along.to_parquet(folder / "theirs.parquet", index=False, **options)

    seconds = _turns(bench, {"ours": lambda: write_features(frame, folder, ["parquet"]), "theirs": theirs})
    note = "; ".join(f"{name} {spread(values)}" for name, values in seconds.items())
    what = f"GeoParquet of {len(frame):,} polygons along a Hilbert curve: geopandas over geoseg"
    return _ratio(what, seconds["theirs"], seconds["ours"], note=note)


def _turns(bench: Bench, ways: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    return interleaved({name: partial(_timed, way) for name, way in ways.items()}, bench.pick(3, 1))


def _timed(way: Callable[[], Any]) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


def _ratio(what: str, theirs: list[float], ours: list[float], limit: float | None = None, note: str = "") -> Figure:
    return Figure(
        benchmark="vector_files",
        what=what,
        value=min(theirs) / min(ours),
        unit="x",
        limit=limit,
        wanted=">=",
        note=note,
    )


def _query(frame: geopandas.GeoDataFrame, folder: Path) -> list[Figure]:
    """One per cent of the extent, at twenty places: the most row groups that may hold a feature of it."""
    (path,) = write_features(frame, folder, ["parquet"])
    west, south, east, north = frame.total_bounds
    width, height = (east - west) / 10, (north - south) / 10
    bounds, rng = shapely.bounds(frame.geometry.array), np.random.default_rng(1)
    shares, rows = [], []
    for across, down in rng.uniform(0, 0.9, (20, 2)):
        x, y = float(west + across * (east - west)), float(south + down * (north - south))
        box = (x, y, float(x + width), float(y + height))
        low, high = (bounds[:, :2] <= box[2:]).all(axis=1), (bounds[:, 2:] >= box[:2]).all(axis=1)
        found = {"geopandas": len(geopandas.read_parquet(path, bbox=box)), **_in_duckdb(path, box)}
        if set(found.values()) != {int((low & high).sum())}:
            raise RuntimeError(f"{(low & high).sum()} polygons reach into {box}, and the query finds {found}")
        read, groups, share = groups_read(path, box)
        shares.append(read / groups)
        rows.append(share)
    note = f"20 places, median {np.median(shares):.1%} of {groups} groups; rows in them {max(rows):.1%} at most"
    what = f"row groups that a query for 1 % of the extent of {len(frame):,} polygons reads"
    return [Figure(benchmark="vector_files", what=what, value=100 * max(shares), unit="%", limit=10, note=note)]


def _in_duckdb(path: Path, box: tuple[float, ...]) -> dict[str, int]:
    """How many DuckDB finds by the column ``bbox``, where it is installed."""
    try:
        import duckdb
    except ImportError:
        return {}
    west, south, east, north = box
    condition = f"bbox.xmin <= {east} AND bbox.xmax >= {west} AND bbox.ymin <= {north} AND bbox.ymax >= {south}"
    with duckdb.connect() as connection:
        row = connection.execute(f"SELECT count(*) FROM '{path}' WHERE {condition}").fetchone()
    return {"duckdb": 0 if row is None else row[0]}


def groups_read(path: Path, box: tuple[float, float, float, float]) -> tuple[int, int, float]:
    """(row groups whose statistics do not rule out `box`, all row groups, part of all rows that lie in the former)."""
    metadata = pyarrow.parquet.read_metadata(path)
    columns = {metadata.schema.column(at).path: at for at in range(metadata.num_columns)}
    west, south, east, north = box
    read = rows = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        known = {side: group.column(columns[f"bbox.{side}"]).statistics for side in ("xmin", "ymin", "xmax", "ymax")}
        if (
            known["xmin"].min <= east and known["xmax"].max >= west
            and known["ymin"].min <= north and known["ymax"].max >= south
        ):  # fmt: skip
            read, rows = read + 1, rows + group.num_rows
    return read, metadata.num_row_groups, rows / max(1, metadata.num_rows)


def _memory(bench: Bench, name: str) -> Figure:
    """What a process needs beyond its start, for four times the polygons over once."""
    small, large = (bench.pick(side, side // 10) for side in (1400, 2800))
    folder = str(bench.folder("runs"))
    peaks = [
        in_own_process("benchmarks.vector_files", folder, str(side), name)["bytes"] / 1e6 for side in (small, large)
    ]
    what = f"peak memory of {name}, polygons of {large} x {large} over {small} x {small} random pixels"
    note = f"{peaks[1]:.0f} MB over {peaks[0]:.0f} MB"
    limit = None if name == "fgb" else 1.2  # GDAL keeps the index of a FlatGeobuf in memory
    return Figure(benchmark="vector_files", what=what, value=peaks[1] / peaks[0], unit="x", limit=limit, note=note)


if __name__ == "__main__":
    given_folder, given_side, given_format = sys.argv[1:]
    list(frames(64))  # compiles
    scratch = Path(given_folder) / "vector-memory"
    scratch.mkdir(exist_ok=True)
    write_features(frames(int(given_side)), scratch, [given_format])
    shutil.rmtree(scratch)
    print(json.dumps({"bytes": own_peak_memory()}))
