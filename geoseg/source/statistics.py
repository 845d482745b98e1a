"""Statistics of any raster over polygons: exact in that a pixel counts by the part of it that is covered."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from affine import Affine
from pyproj import Transformer
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT

from geoseg.earth import crs_of
from geoseg.errors import ConfigError, MissingExtraError, SourceError
from geoseg.source.location import Location, parse_location
from geoseg.source.open import environment, examine, open_raster, reason
from geoseg.window import GeoBox

__all__ = ["STATISTICS", "ZonalStatistics", "demand_names_apart", "parse_statistics"]

STATISTICS = (
    "count", "sum", "mean", "min", "max", "median", "stdev", "variance", "majority", "minority", "variety",
)  # fmt: skip
"""What can be asked for; ``count`` is the covered area in pixels, those without data left out."""


def parse_statistics(text: str) -> tuple[str, tuple[str, ...]]:
    """What ``RASTER:mean,max`` asks for: the raster, and the names of statistics.

    Raises:
        ConfigError: There is no raster, or no such statistic.

    >>> parse_statistics("s3://bucket/height.tif:mean,max")
    ('s3://bucket/height.tif', ('mean', 'max'))
    """
    raster, _, names = text.rpartition(":")
    asked = tuple(name.strip() for name in names.split(","))
    unknown = [name for name in asked if name not in STATISTICS]
    if not raster or unknown:
        raise ConfigError(f"statistics {text!r} are not RASTER:NAME,... with names of {', '.join(STATISTICS)}")
    return raster, asked


def demand_names_apart(texts: Iterable[str], taken: Collection[str]) -> None:
    """Refuses columns of one name; capitals do not part them, as in GeoPackage.

    Args:
        texts: What is asked for, as `parse_statistics` reads it.
        taken: Names of other columns, in small letters.

    Raises:
        ConfigError: A text makes no sense, or a column has the name of another.
        SourceError: A raster's location is none.
    """
    rasters: dict[str, Location] = {}
    for raster, statistics in map(parse_statistics, texts):
        location = parse_location(raster)
        for column in _columns(location, statistics):
            name = column.casefold()
            if name in taken:
                raise ConfigError(
                    f"--stats: {location} would give {column}, a column that polygons have; rename the raster"
                )
            if rasters.setdefault(name, location) != location:
                raise ConfigError(
                    f"--stats: {rasters[name]} and {location} would both give the column {column}; rename a raster"
                )


def _columns(location: Location, statistics: Iterable[str]) -> list[str]:
    return [f"{location.stem}_{name}" for name in statistics]


class ZonalStatistics:
    """Columns of statistics of the first band of a raster, over polygons given in batches. Used in a ``with``.

    A raster in another CRS than the polygons, or a rotated one, is warped as it is read: onto the grid of the map, or
    one as fine as the raster where that is finer, each pixel with the value of the nearest. Stored numbers are scaled
    as the raster declares.

    Args:
        raster: A path, an http(s) or an s3 URL.
        statistics: Names of `STATISTICS`.
        geobox: The grid of the map; without a CRS, that of the raster is not looked at.
    """

    def __init__(self, raster: str, statistics: Sequence[str], geobox: GeoBox) -> None:
        self._location: Location = parse_location(raster)
        self._statistics, self._geobox = list(statistics), geobox
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        """Opens the raster.

        Raises:
            MissingExtraError: exactextract is not installed.
            SourceError: The raster cannot be opened, or has no place while the polygons have.
        """
        try:
            import exactextract  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("statistics need exactextract: pip install 'geoseg[stats]'") from error
        self._examined = examine(self._location)
        with ExitStack() as opened:
            dataset = opened.enter_context(open_raster(self._examined))
            if self._geobox.crs is not None:
                if dataset.crs is None:
                    raise SourceError(f"{self._location}: has no CRS; statistics need to know where it lies")
                crs = rasterio.CRS.from_wkt(self._geobox.crs.to_wkt())
                if crs != dataset.crs or not _upright(dataset):
                    # Beyond the raster there is nothing: without a number for that, and without alpha, GDAL says 0.
                    bare = dataset.nodata is None and ColorInterp.alpha not in dataset.colorinterp
                    grid = _grid(self._geobox, dataset)
                    dataset = opened.enter_context(WarpedVRT(dataset, crs=crs, add_alpha=bare, **grid))
            self._dataset = dataset
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the raster."""
        self._opened.close()

    @property
    def names(self) -> list[str]:
        """Of the columns: ``height_mean`` for the mean of ``height.tif``."""
        return _columns(self._location, self._statistics)

    def over(self, polygons: npt.NDArray[np.object_]) -> Mapping[str, npt.NDArray[np.float64]]:
        """(n,) for each of `names`: the statistic over each polygon; NaN where the raster has no data.

        Raises:
            SourceError: The raster cannot be read.
        """
        from exactextract import exact_extract
        from exactextract.raster import RasterioRasterSource

        try:
            with environment(self._examined):
                raster = RasterioRasterSource(self._dataset)
                found = exact_extract(raster, _features(polygons, raster.srs_wkt()), self._statistics)
        except (RasterioError, RuntimeError) as error:
            raise SourceError(f"{self._location}: cannot be read: {reason(error, self._location)}") from None
        rows = [row["properties"] for row in found]
        return {
            column: np.array([np.nan if row[name] is None else row[name] for row in rows], np.float64)
            for column, name in zip(self.names, self._statistics, strict=True)
        }


def _upright(dataset: Any) -> bool:
    return bool(dataset.transform.is_rectilinear and dataset.transform.a > 0 > dataset.transform.e)


def _grid(geobox: GeoBox, dataset: Any) -> dict[str, Any]:
    """An upright grid over `geobox`, with pixels as small as its own and those of `dataset` in the middle of it."""
    a, b, c, d, e, f = geobox.transform[:6]
    height, width = geobox.shape
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]]) @ [[a, d], [b, e]] + [c, f]
    (west, south), (east, north) = corners.min(axis=0), corners.max(axis=0)
    there = Transformer.from_crs(crs_of(geobox), dataset.crs.to_wkt(), always_xy=True)
    col, row = ~dataset.transform @ there.transform((west + east) / 2, (south + north) / 2)
    around = [dataset.transform @ at for at in ((col, row), (col + 1, row), (col, row + 1))]
    xs, ys = np.transpose(around)
    places = np.column_stack(there.transform(xs, ys, direction="INVERSE"))
    pixel = math.sqrt(abs(a * e - b * d))
    finest = float(np.hypot(*(places[1:] - places[0]).T).min())
    if 0 < finest < pixel:
        pixel /= math.ceil(pixel / finest - 1e-3)
    transform = Affine(pixel, 0, west, 0, -pixel, north)
    size = math.ceil((east - west) / pixel - 1e-6), math.ceil((north - south) / pixel - 1e-6)
    return {"transform": transform, "width": size[0], "height": size[1]}


def _features(polygons: npt.NDArray[np.object_], wkt: str | None) -> Any:
    """`polygons` as exactextract reads them; its own way to them leads through JSON."""
    from exactextract.feature import FeatureSource, JSONFeature

    class Shape(JSONFeature):  # type: ignore[misc]
        def geometry(self) -> bytes:
            return bytes(self.wkb)

    class Shapes(FeatureSource):  # type: ignore[misc]
        def count(self) -> int:
            return len(polygons)

        def __iter__(self) -> Iterator[Any]:
            for wkb in shapely.to_wkb(polygons):
                shape = Shape()
                shape.wkb = wkb
                yield shape

        def srs_wkt(self) -> str | None:
            return wkt

    return Shapes()
