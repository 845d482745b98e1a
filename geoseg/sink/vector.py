"""Features as the files that people open: one layer of polygons, in any of the formats, whatever its size."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import geopandas

from geoseg.errors import GeosegError, SinkError
from geoseg.events import Event, OnEvent, Warned
from geoseg.sink.geojson import geojson_bytes, write_geojson, write_geojson_lines
from geoseg.sink.geoparquet import write_geoparquet
from geoseg.sink.layer import Layer, gather
from geoseg.sink.ogr import write_fgb, write_gpkg, write_pmtiles
from geoseg.sink.style import polygon_style
from geoseg.spec import ClassInfo

__all__ = ["FORMATS", "write_features"]

LARGE_GEOJSON = 10**9
"""Bytes of a GeoJSON beyond which a person is warned."""

FORMATS: Mapping[str, Callable[[Layer, Path], None]] = {
    "geojson": write_geojson,
    "geojsonl": write_geojson_lines,
    "parquet": write_geoparquet,
    "fgb": write_fgb,
    "gpkg": write_gpkg,
    "pmtiles": write_pmtiles,
}
"""What `write_features` can write, by file extension."""


def write_features(
    features: geopandas.GeoDataFrame | Iterable[geopandas.GeoDataFrame],
    directory: Path,
    formats: Collection[str],
    *,
    classes: Sequence[ClassInfo] = (),
    stem: str = "polygons",
    also: Callable[[Layer], object] | None = None,
    workdir: Path | None = None,
    on_event: OnEvent | None = None,
) -> list[Path]:
    """Writes ``polygons.EXT`` in `directory` for each of `formats`, and returns the paths in their order.

    The features may be more than memory holds: what is beyond a few hundred megabytes waits below `workdir` (default:
    `directory`) to be sorted. Each file holds all of them with a column ``id``, which counts from 1 in the order of
    ``first`` (a column of different integers, which no file holds) or, of one frame without it, in its order; so the
    same features are the same bytes, in whatever frames they came. A file is synced and then renamed. Without features
    it is valid and empty.

    Args:
        features: One frame, or many with the same columns and CRS.
        directory: Where the files go.
        formats: Names in `FORMATS`.
        classes: Colours and names for those who open a GeoPackage in QGIS; without, it has no style.
        stem: Name of the files.
        also: Is given the features once more when the files are there, to put them into a database, say.
        workdir: For what is not finished.
        on_event: Is told what a person should know.

    Raises:
        SinkError: A format is unknown, or a file cannot be written.
        MissingExtraError: The installed GDAL lacks the format.
    """
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown:
        raise SinkError(f"unknown vector format {', '.join(unknown)}: there are {', '.join(FORMATS)}")
    tell = on_event or _ignore
    scratch = (workdir or directory) / f".{stem}"
    shutil.rmtree(scratch, ignore_errors=True)
    writers = dict(FORMATS)
    if classes:
        writers["gpkg"] = partial(write_gpkg, style=polygon_style(classes))
    try:
        scratch.mkdir(parents=True)
        frames = [features] if isinstance(features, geopandas.GeoDataFrame) else features
        layer = gather(frames, scratch / "sorting")
        paths = []
        for name in dict.fromkeys(formats):
            path = scratch / f"{stem}.{name}"
            if name.startswith("geojson") and (size := geojson_bytes(layer)) > LARGE_GEOJSON:
                tell(Warned(message=f"{path.name} will take about {size / 1e9:.1f} GB; parquet takes a tenth of that"))
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always", RuntimeWarning)  # pyogrio passes on what GDAL says
                writers[name](layer, path)
            for warning in said:
                tell(Warned(message=f"{path.name}: {warning.message}"))
            paths.append(_published(path, directory))
        if also is not None:
            also(layer)
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
