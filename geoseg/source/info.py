"""What a raster's header declares: place, bands, tags, time; no pixel is read."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from odc.geo.crs import CRS
from pyproj.exceptions import CRSError
from rasterio.enums import ColorInterp, MaskFlags

from geoseg.errors import GridError
from geoseg.source.location import Location
from geoseg.source.open import Examined, environment, examine, open_raster
from geoseg.window import GeoBox

__all__ = ["BandInfo", "RasterFile", "RasterInfo", "inspect"]

MaskKind = Literal["none", "dataset", "band"]

_TIMES = (
    "ACQUISITIONDATETIME",
    "ACQUISITION_DATETIME",
    "DATATAKE_1_DATATAKE_SENSING_START",
    "PRODUCT_START_TIME",
    "SENSING_TIME",
    "DATETIME",
    "TIFFTAG_DATETIME",
)
_TIFF_DATE = re.compile(r"^(\d{4}):(\d{2}):(\d{2}) ")


@dataclass(frozen=True, slots=True, kw_only=True)
class BandInfo:
    """One band as its file declares it."""

    index: int
    """Counted from 1."""
    description: str
    """Free text, or empty."""
    tags: Mapping[str, str]
    """The band's own GDAL tags."""
    color: str
    """GDAL's color interpretation: ``red``, ``nir``, ``alpha``, ``gray``, ``undefined``, ..."""
    dtype: str
    """Numpy dtype of the stored numbers."""
    scale: float
    """1 where nothing is declared."""
    offset: float
    """0 where nothing is declared."""
    nodata: float | None
    """Stored number that means "no observation"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterFile:
    """What it takes to read a raster again, on another thread or machine."""

    examined: Examined
    """Where it is, and which version."""
    mask: MaskKind = "none"
    """Whether it has one mask (internal, or in a ``.msk``), one for each band, or none."""
    alpha: int | None = None
    """Its transparency band, counted from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterInfo:
    """A raster's header."""

    file: RasterFile
    """How to read it."""
    geobox: GeoBox
    """Shape, transform and CRS."""
    bands: tuple[BandInfo, ...]
    """In the file's order."""
    tags: Mapping[str, str] = field(hash=False)
    """Tags of the file, those of GDAL's IMAGERY domain included."""
    block: tuple[int, int]
    """(rows, cols) of a storage block."""
    overviews: tuple[int, ...]
    """Decimation factors."""
    datetime: datetime | None
    """Time of acquisition as the tags have it, in UTC."""

    @property
    def location(self) -> Location:
        """Where it is."""
        return self.file.examined.location

    @property
    def identity(self) -> dict[str, str]:
        """Location (no query) -> fingerprint, sidecars included."""
        return dict(self.file.examined.identity)


def inspect(
    location: Location | str | os.PathLike[str], *, assume_crs: str | None = None, unsigned: bool = False
) -> RasterInfo:
    """The header of a GeoTIFF or JPEG 2000.

    Args:
        location: A path, an http(s) or an s3 URL.
        assume_crs: CRS of a raster that declares none.
        unsigned: Whether S3 is asked without credentials.

    Raises:
        SourceError: It cannot be opened.
        GridError: It has no CRS and none is assumed, or its pixels have no size.
    """
    examined = examine(location, unsigned=unsigned)
    with environment(examined), open_raster(examined) as dataset:
        rows, cols = dataset.block_shapes[0]
        tags = {**dataset.tags(), **_imagery(examined, dataset)}
        bands = tuple(_band(dataset, index) for index in dataset.indexes)
        return RasterInfo(
            file=RasterFile(examined=examined, mask=_mask(dataset), alpha=_alpha(bands)),
            geobox=_geobox(str(examined.location), dataset, assume_crs),
            bands=bands,
            tags=tags,
            block=(int(rows), int(cols)),
            overviews=tuple(dataset.overviews(1)),
            datetime=_time(tags),
        )


def _imagery(examined: Examined, dataset: Any) -> Mapping[str, str]:
    """Tags of the domain for which GDAL looks for a dozen providers' files beside a local raster."""
    return dataset.tags(ns="IMAGERY") if examined.location.kind == "path" else {}


def _band(dataset: Any, index: int) -> BandInfo:
    return BandInfo(
        index=index,
        description=(dataset.descriptions[index - 1] or "").strip(),
        tags=dataset.tags(index),
        color=_color(dataset, index),
        dtype=dataset.dtypes[index - 1],
        scale=float(dataset.scales[index - 1]),
        offset=float(dataset.offsets[index - 1]),
        nodata=dataset.nodatavals[index - 1],
    )


def _color(dataset: Any, index: int) -> str:
    return str(ColorInterp(dataset.colorinterp[index - 1]).name)


def _mask(dataset: Any) -> MaskKind:
    flags = [set(each) for each in dataset.mask_flag_enums]
    explained = {MaskFlags.all_valid, MaskFlags.nodata, MaskFlags.alpha}
    if not any(each.isdisjoint(explained) for each in flags):
        return "none"
    return "dataset" if all(MaskFlags.per_dataset in each for each in flags) else "band"


def _alpha(bands: tuple[BandInfo, ...]) -> int | None:
    """The transparency band; GDAL calls many a fourth band alpha, also where its description says nir."""
    for band in bands:
        if band.color == "alpha" and band.description.lower() in {"", "alpha", "mask", "transparency"}:
            return band.index
    return None


def _geobox(name: str, dataset: Any, assume_crs: str | None) -> GeoBox:
    transform = dataset.transform
    if not all(math.isfinite(number) for number in transform[:6]):
        raise GridError(f"{name}: its transform holds NaN or infinity ({_six(transform)}); georeference it anew")
    if transform.determinant == 0:
        raise GridError(f"{name}: its pixels have no size (transform {_six(transform)}); georeference it anew")
    return GeoBox(dataset.shape, transform, _crs(name, dataset, assume_crs))


def _six(transform: Any) -> str:
    return ", ".join(f"{number:g}" for number in transform[:6])


def _crs(name: str, dataset: Any, assume_crs: str | None) -> CRS:
    declared = _declared(dataset)
    if declared is not None:
        return declared
    if dataset.gcps[0]:
        raise GridError(
            f"{name}: is placed by {len(dataset.gcps[0])} ground control points only; warp it with gdalwarp"
        )
    if assume_crs is not None:
        return parse_crs(assume_crs)
    raise GridError(f"{name}: declares no CRS that is known; name it with --assume-crs EPSG:...")


def _declared(dataset: Any) -> CRS | None:
    """The file's own CRS; None where it has none, or one that is not on the Earth (a local one)."""
    if not dataset.crs:
        return None
    for text in (dataset.crs.to_string(), dataset.crs.to_wkt()):
        try:
            crs = CRS(text)
        except CRSError:  # an authority that PROJ does not know
            continue
        if crs.proj.is_geographic or crs.proj.is_projected:
            return crs
    return None


def parse_crs(text: str) -> CRS:
    """The CRS that a user names.

    Raises:
        GridError: There is none of that name, or it is no place on the Earth.
    """
    try:
        crs = CRS(text)
    except CRSError as error:
        raise GridError(f"{text!r} is no CRS; write EPSG:32633, for instance") from error
    if not (crs.proj.is_geographic or crs.proj.is_projected):
        raise GridError(f"{text!r} is no geographic or projected CRS; write EPSG:32633, for instance")
    return crs


def _time(tags: Mapping[str, str]) -> datetime | None:
    upper = {key.upper(): value for key, value in tags.items()}
    for key in _TIMES:
        moment = _moment(upper.get(key, ""))
        if moment is not None:
            return moment
    return None


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(_TIFF_DATE.sub(r"\1-\2-\3 ", text.strip()))
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
