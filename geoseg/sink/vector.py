"""Polygons with their class, area and confidence, as the files that people open."""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyogrio
import shapely

from geoseg.earth import longest_line, pixel_areas, to_lonlat
from geoseg.errors import GeosegError, GridError, MissingExtraError, SinkError
from geoseg.events import Event, OnEvent, Warned
from geoseg.polygons import Regions, polygonize
from geoseg.scene import DATES, Scene
from geoseg.sink.pmtiles import empty_pmtiles
from geoseg.spec import ClassInfo, ModelSpec
from geoseg.types import Labels
from geoseg.window import GeoBox

__all__ = ["FORMATS", "make_change_features", "make_features", "write_features"]

LARGE_GEOJSON = 10**9
"""Bytes of a GeoJSON beyond which a person is warned."""

EQUATOR = 40075016.7
"""Length of the equator, in metres."""

TILE_STEPS = 4096
"""Steps of a vector tile's coordinates along one side."""

BATCH = 4096
"""Polygons that are held as text at once."""


def make_features(
    labels: Labels,
    *,
    geobox: GeoBox,
    nodata: int | None,
    classes: Sequence[ClassInfo],
    confidence: npt.NDArray[Any] | None = None,
    confidence_scale: float = 1.0,
    confidence_offset: float = 0.0,
    scene: str = "",
    datetime: datetime | None = None,
    model: str = "",
) -> geopandas.GeoDataFrame:
    """One row per 4-connected region of `labels`, in the row-major order of their first pixel, in the scene's CRS.

    Columns: class_id, class_name, area_m2 (on the ellipsoid; NaN without a CRS), confidence_mean (NaN without
    `confidence`), scene, datetime (UTC; empty where None), model, geometry. Neighbours share all their vertices.

    Args:
        labels: (row, col) class values.
        geobox: Where `labels` lies.
        nodata: Value that is no class.
        classes: Names of the values.
        confidence: (row, col) stored numbers, usable wherever there is a label.
        confidence_scale: Confidence per stored unit.
        confidence_offset: Confidence of a stored 0.
        scene: The scene's id.
        datetime: Time of acquisition, with a time zone.
        model: The model's name.

    Raises:
        GridError: `labels`, `geobox` and `confidence` differ in shape.
    """
    regions = _regions(labels, geobox, nodata)
    means = np.full(len(regions), np.nan)
    if confidence is not None:
        means = regions.mean_of(confidence) * confidence_scale + confidence_offset
    names = {info.value: info.name for info in classes}
    columns = {
        "class_id": regions.values.astype(np.int32),
        "class_name": _words(names.get(int(value), str(value)) for value in regions.values),
        "area_m2": _areas(regions, geobox),
        "confidence_mean": np.round(means, 5),
        "scene": _words([scene] * len(regions)),
        "datetime": _times(datetime, len(regions)),
        "model": _words([model] * len(regions)),
    }
    return _frame(columns, regions, geobox)


def make_change_features(
    change: Labels,
    *,
    geobox: GeoBox,
    spec: ModelSpec,
    probability: npt.NDArray[Any] | None,
    probability_scale: float,
    pair: Scene[Any],
    more: Callable[[Regions], Mapping[str, npt.NDArray[Any]]],
) -> geopandas.GeoDataFrame:
    """One row per 4-connected region of one kind of change, as `make_features` makes them; none for what did not.

    Columns: class_id, class_name, from_class and to_class (where the model maps both dates), area_m2,
    probability_mean, before and after (UTC; empty where not known), what `more` adds, scene, model, geometry.

    Args:
        change: (row, col) labels as `spec.written` lists them, 0 for unchanged.
        geobox: Where `change` lies.
        spec: The model's card.
        probability: (row, col) stored probability of change.
        probability_scale: Probability per stored unit.
        pair: Both dates.
        more: Gives further columns of the regions.

    Raises:
        GridError: `change`, `geobox` and `probability` differ in shape.
    """
    regions = _regions(np.where(change == spec.written.label_nodata, 0, change), geobox, 0)
    count, values = len(regions), [int(value) for value in regions.values]
    means = np.full(count, np.nan) if probability is None else regions.mean_of(probability) * probability_scale
    names = {info.value: info.name for info in spec.written.classes}
    columns = {"class_id": regions.values.astype(np.int32), "class_name": _words(names[value] for value in values)}
    if transitions := spec.transitions:
        columns |= {
            "from_class": _words(transitions[value][0].name for value in values),
            "to_class": _words(transitions[value][1].name for value in values),
        }
    columns |= {"area_m2": _areas(regions, geobox), "probability_mean": np.round(means, 5)}
    columns |= {name: _times(date.datetime, count) for name, date in zip(DATES, pair.dates, strict=True)}
    columns |= {**more(regions), "scene": _words([pair.id] * count), "model": _words([spec.name] * count)}
    return _frame(columns, regions, geobox)


def _regions(labels: Labels, geobox: GeoBox, nodata: int | None) -> Regions:
    if labels.shape != tuple(geobox.shape):
        raise GridError(f"labels of {labels.shape} pixels do not fit a grid of {tuple(geobox.shape)}")
    return polygonize(labels, nodata=nodata, transform=geobox.transform[:6], joints=longest_line(geobox))


def _words(words: Iterable[str]) -> Any:
    return pd.array(list(words), dtype="str")


def _times(moment: datetime | None, count: int) -> Any:
    return pd.Series([pd.Timestamp(moment) if moment else pd.NaT] * count, dtype="datetime64[ms, UTC]")


def _frame(columns: Mapping[str, Any], regions: Regions, geobox: GeoBox) -> geopandas.GeoDataFrame:
    crs = geobox.crs.to_wkt() if geobox.crs else None
    return geopandas.GeoDataFrame(dict(columns), geometry=regions.polygons, crs=crs)


def _areas(regions: Regions, geobox: GeoBox) -> npt.NDArray[np.float64]:
    """(n,) square metres on the ellipsoid, to a millionth of a pixel."""
    total = np.zeros(len(regions) + 1)
    for rows, areas in pixel_areas(geobox):
        total += np.bincount(regions.components[rows].ravel(), areas.ravel(), minlength=len(total))
    pixel = total[1:].sum() / max(1, int(regions.pixels.sum()))
    return np.round(total[1:], 6 - math.floor(math.log10(pixel))) if pixel > 0 else total[1:]


def write_features(
    frame: geopandas.GeoDataFrame,
    directory: Path,
    formats: Collection[str],
    *,
    workdir: Path | None = None,
    on_event: OnEvent | None = None,
) -> list[Path]:
    """Writes ``polygons.EXT`` in `directory` for each of `formats`, and returns the paths in their order.

    Each file is written below `workdir` (default: `directory`), synced, and renamed. A frame without rows gives valid
    files without features.

    Raises:
        SinkError: A format is unknown, or a file cannot be written.
        MissingExtraError: The installed GDAL lacks the format.
    """
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown:
        raise SinkError(f"unknown vector format {', '.join(unknown)}: there are {', '.join(FORMATS)}")
    tell = on_event or _ignore
    if "geojson" in formats and (size := _geojson_bytes(frame)) > LARGE_GEOJSON:
        tell(Warned(message=f"polygons.geojson will take about {size / 1e9:.1f} GB; parquet takes a tenth of that"))
    scratch = (workdir or directory) / ".polygons"
    shutil.rmtree(scratch, ignore_errors=True)
    paths = []
    try:
        scratch.mkdir(parents=True)
        for name in dict.fromkeys(formats):
            path = scratch / f"polygons.{name}"
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always", RuntimeWarning)  # pyogrio passes on what GDAL says
                FORMATS[name](frame, path)
            for warning in said:
                tell(Warned(message=f"{path.name}: {warning.message}"))
            paths.append(_published(path, directory))
    except GeosegError:
        raise
    except (OSError, RuntimeError) as error:  # pyogrio's errors are of the latter kind
        raise SinkError(f"{directory}: the polygons cannot be written: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return paths


def _ignore(_event: Event) -> None:
    """Nobody watches."""


def _published(path: Path, directory: Path) -> Path:
    """Syncs a finished file and moves it to its final name."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path.replace(directory / path.name)


def _geojson_bytes(frame: geopandas.GeoDataFrame) -> int:
    """About how large the GeoJSON will be."""
    return 24 * int(shapely.get_num_coordinates(frame.geometry.array).sum()) + 250 * len(frame)


def _write_geojson(frame: geopandas.GeoDataFrame, path: Path) -> None:
    """RFC 7946: WGS 84, counter-clockwise exteriors, cut at the antimeridian, 7 decimals, one feature a line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write('{"type":"FeatureCollection","features":[')
        for start in range(0, len(frame), BATCH):
            lines = _feature_lines(frame.iloc[start : start + BATCH])
            file.write((",\n" if start else "\n") + ",\n".join(lines))
        file.write("\n]}\n")


def _feature_lines(frame: geopandas.GeoDataFrame) -> list[str]:
    """One GeoJSON feature per row."""
    shapes = shapely.to_geojson(_lonlat(frame))
    table = pd.DataFrame(frame.drop(columns=frame.geometry.name))
    for name in table.select_dtypes("datetimetz"):
        table[name] = [None if pd.isna(time) else time.strftime("%Y-%m-%dT%H:%M:%SZ") for time in table[name]]
    table = table.astype(object).where(table.notna(), None)
    return [
        f'{{"type":"Feature","properties":{json.dumps(row, ensure_ascii=False)},"geometry":{shape}}}'
        for row, shape in zip(table.to_dict("records"), shapes, strict=True)
    ]


def _lonlat(frame: geopandas.GeoDataFrame) -> npt.NDArray[np.object_]:
    """The polygons in WGS 84, cut at the antimeridian."""
    if frame.crs is None:
        raise SinkError("polygons without a CRS have no longitude and latitude: write parquet, fgb or gpkg")
    try:
        return to_lonlat(np.asarray(frame.geometry.array), frame.crs)
    except GridError as error:
        raise SinkError(f"{error}: write parquet, fgb or gpkg") from error


def _write_parquet(frame: geopandas.GeoDataFrame, path: Path) -> None:
    """GeoParquet 1.1 in the scene's CRS, along a Hilbert curve, with a bbox column to filter by."""
    if len(frame):
        frame = frame.iloc[np.argsort(frame.hilbert_distance().to_numpy(), kind="stable")]
    frame.to_parquet(
        path, index=False, compression="zstd", schema_version="1.1.0", write_covering_bbox=True, row_group_size=BATCH
    )


def _write_fgb(frame: geopandas.GeoDataFrame, path: Path) -> None:
    """FlatGeobuf in the scene's CRS, with its spatial index."""
    pyogrio.write_dataframe(frame, path, driver="FlatGeobuf", layer="polygons", geometry_type="Polygon")


def _write_gpkg(frame: geopandas.GeoDataFrame, path: Path) -> None:
    """GeoPackage in the scene's CRS; its time of change is the epoch, so that the same features are the same bytes."""
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "1970-01-01T00:00:00.000Z"})
    try:
        pyogrio.write_dataframe(frame, path, driver="GPKG", layer="polygons", geometry_type="Polygon")
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})


def _write_pmtiles(frame: geopandas.GeoDataFrame, path: Path) -> None:
    """Vector tiles for a browser: seven zoom levels, the deepest with at least two steps per pixel."""
    if "w" not in pyogrio.list_drivers().get("PMTiles", ""):
        raise MissingExtraError("this GDAL cannot write PMTiles: pip install 'pyogrio>=0.10', or choose another format")
    shapes = _lonlat(frame)
    if len(shapes) == 0:
        path.write_bytes(empty_pmtiles("polygons"))
        return
    pixel = math.sqrt(float(frame["area_m2"].min()))
    zoom = min(16, max(0, math.ceil(math.log2(EQUATOR / TILE_STEPS / pixel * 2))))
    options = {"NAME": "polygons", "MAXZOOM": zoom, "MINZOOM": max(0, zoom - 6), "EXTENT": TILE_STEPS}
    options |= {"SIMPLIFICATION": 1, "SIMPLIFICATION_MAX_ZOOM": 0}
    pyogrio.write_dataframe(
        frame.set_geometry(shapes, crs="EPSG:4326"),
        path,
        driver="PMTiles",
        layer="polygons",
        geometry_type="Unknown",
        dataset_options=options,
    )


FORMATS: Mapping[str, Callable[[geopandas.GeoDataFrame, Path], None]] = {
    "geojson": _write_geojson,
    "parquet": _write_parquet,
    "fgb": _write_fgb,
    "gpkg": _write_gpkg,
    "pmtiles": _write_pmtiles,
}
"""What `write_features` can write, by file extension."""
