"""Scenes that are arrays already: an `xarray.DataArray` with dims band, y, x and a CRS, in memory or lazy.

What rioxarray and odc-stac produce goes in as it is. Only the window that is asked for is computed, by the calling
thread, so reader threads and workers decide how much runs at once.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine

from geoseg.errors import ConfigError, GridError, SourceError
from geoseg.scene import Band, BandSet
from geoseg.source.grids import same_grid
from geoseg.source.info import BandInfo
from geoseg.types import Pixels, Valid
from geoseg.window import GeoBox, Window, whole

if TYPE_CHECKING:
    import xarray as xr

    from geoseg.protocols import Source

__all__ = ["ArrayInfo", "XarraySource", "inspect_array", "usable"]

_BLOCK = 512
"""Side of the blocks that an array without chunks claims to have."""
_FILL_NAMES = ("_FillValue", "nodata", "missing_value")
_UNEVEN = 0.01
"""Pixels that a coordinate may lie off even steps, beyond what rounding explains."""
_COARSE = 0.25
"""Pixels that rounding may explain: a row that is missing moves others by half a pixel or more."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class XarraySource:
    """Some bands of an array, as a `geoseg.protocols.Source`; `geoseg.source.open_scene` makes one."""

    array: xr.DataArray
    """Dims (band, row, col), whatever their names."""
    indices: tuple[int, ...]
    """Where each of `bands` lies along the first dim, from 0."""
    bands: BandSet
    """What `read` returns along its first axis."""
    geobox: GeoBox
    """Shape, transform and CRS."""

    @property
    def block(self) -> tuple[int, int]:
        """(rows, cols) of the first chunk; for an array without chunks any window costs only itself."""
        height, width = self.geobox.shape
        chunks = self.array.chunks
        if chunks is None:
            return min(_BLOCK, height), min(_BLOCK, width)
        return int(chunks[1][0]), int(chunks[2][0])

    def read(self, window: Window) -> tuple[Pixels, Valid]:
        """Stored numbers (band, row, col) and usable pixels (row, col) of `window`; only it is computed."""
        pixels = np.zeros((len(self.bands), *window.shape), _native(self.array))
        valid = np.zeros(window.shape, bool)
        inner = window & whole(self.geobox)
        if inner:
            place = inner.within(window).slices
            part = self._values(inner)
            pixels[:, *place] = part
            valid[place] = usable(part, self.bands)
        return pixels, valid

    def identity(self) -> Mapping[str, str]:
        """A hash of what the array holds, or, for a lazy one, of how it is computed."""
        name = f"array:{_called(self.array)}"
        lazy = getattr(self.array.variable.data, "name", None) if self.array.chunks is not None else None
        return {name: f"dask:{lazy}" if lazy else f"sha256:{self._digest()}"}

    def _values(self, window: Window) -> Pixels:
        data = self.array.variable[list(self.indices), *window.slices].data
        values: Pixels = np.asarray(data.compute(scheduler="synchronous") if hasattr(data, "compute") else data)
        return values.astype(_native(self.array), copy=False)

    def _digest(self) -> str:
        digest = hashlib.sha256(f"{self.array.dtype.str} {self.indices} {self.geobox}".encode())
        for piece in whole(self.geobox).pieces(_BLOCK, self.geobox.shape[1]):
            digest.update(self._values(piece).tobytes())
        return digest.hexdigest()


def usable(pixels: Pixels, bands: Sequence[Band]) -> Valid:
    """(row, col), True where no band of `pixels` (band, row, col) is its nodata number, NaN or infinite.

    >>> usable(np.array([[[0, 1]], [[5, 9]]]), [Band(name="red", dtype="int64", nodata=0)] * 2).tolist()
    [[False, True]]
    """
    valid: Valid = np.ones(pixels.shape[1:], bool)
    for layer, band in zip(pixels, bands, strict=True):
        if np.issubdtype(layer.dtype, np.floating):
            valid &= np.isfinite(layer)
        if band.nodata is not None:
            valid &= layer != band.nodata  # a NaN differs from everything, and isfinite has seen to it
    return valid


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArrayInfo:
    """What an array declares, in the words of a raster's header (`geoseg.source.info.RasterInfo`)."""

    array: xr.DataArray
    """Dims (band, row, col), whatever their names."""
    geobox: GeoBox
    """Shape, transform and CRS."""
    bands: tuple[BandInfo, ...]
    """In the array's order."""
    tags: Mapping[str, str]
    """Its attributes, as text."""
    datetime: datetime | None
    """Its ``time`` coordinate, where that is one moment, in UTC."""

    @property
    def location(self) -> str:
        """What to call it in a message."""
        return _called(self.array)


def inspect_array(array: Any, *, assume_crs: str | None = None) -> ArrayInfo:
    """What `array` declares; nothing of it is computed.

    Dims of length 1 besides band, y and x are dropped; without a band dim there is one band, with the array's name.

    Raises:
        ConfigError: It is no `xarray.DataArray`.
        SourceError: What it holds are no pixels: complex numbers, objects, text.
        GridError: Its dims are not band, y, x; it has no CRS; or its coordinates are no regular grid.
    """
    import xarray as xr

    if not isinstance(array, xr.DataArray):
        hint = "; turn a Dataset into one with .to_array('band')" if isinstance(array, xr.Dataset) else ""
        raise ConfigError(f"an input is a path, a URL or an xarray.DataArray, not {type(array).__name__}{hint}")
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise SourceError(
            f"{_called(array)}: {array.dtype.name} is no dtype of pixels: turn it into integers of up to 64 bits, "
            "float16, float32 or float64 with array.astype(...)"
        )
    placed = _three_dims(array)
    return ArrayInfo(
        array=placed,
        geobox=_geobox(placed, assume_crs),
        bands=tuple(_band_info(placed, index, name) for index, name in enumerate(_names(placed))),
        tags={str(key): str(value) for key, value in placed.attrs.items()},
        datetime=_time(placed),
    )


def _band_info(array: xr.DataArray, index: int, name: str) -> BandInfo:
    def number(one: str, many: str, default: float) -> float:
        value = array.attrs[many][index] if many in array.attrs else array.attrs.get(one, default)
        return float(np.asarray(value).ravel()[0])

    filled = (array.attrs[key] for key in _FILL_NAMES if array.attrs.get(key) is not None)
    return BandInfo(
        index=index + 1,
        description=name,
        tags={},
        color="undefined",
        dtype=_native(array).name,
        scale=number("scale_factor", "scales", 1.0),
        offset=number("add_offset", "offsets", 0.0),
        nodata=next((float(np.asarray(value).ravel()[0]) for value in filled), None),
    )


def _time(array: xr.DataArray) -> datetime | None:
    moment = array.coords["time"].values if "time" in array.coords else None
    if moment is None or moment.size != 1 or moment.dtype.kind != "M" or np.isnat(moment).any():
        return None
    micros = int(moment.astype("datetime64[us]").astype(np.int64).ravel()[0])
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)


def _native(array: xr.DataArray) -> np.dtype[Any]:
    """The dtype in this machine's order of bytes: GDAL and torch take no other."""
    return array.dtype.newbyteorder("=")


def _called(array: xr.DataArray) -> str:
    return "array" if array.name is None else str(array.name)


def _three_dims(array: xr.DataArray) -> xr.DataArray:
    from odc.geo.xr import spatial_dims

    place = spatial_dims(array, relaxed=True)
    if place is None:
        raise GridError(f"an array with dims ({', '.join(map(str, array.dims))}) has no y and x: rename its dims")
    for dim in array.dims:
        if dim not in (*place, "band") and array.sizes[dim] == 1:
            array = array.isel({dim: 0})
    if "band" not in array.dims:
        array = array.expand_dims(band=[_called(array)])
    if set(array.dims) != {"band", *place}:
        shape = ", ".join(f"{dim}: {size}" for dim, size in array.sizes.items())
        raise GridError(f"an array must have the dims band, y, x, not ({shape}): select one of what is left over")
    return array.transpose("band", *place)


def _names(array: xr.DataArray) -> tuple[str, ...]:
    """Names from the band coordinate; where it only counts (rioxarray), from the descriptions in ``long_name``."""
    names = array.coords["band"].values if "band" in array.coords else np.arange(1, array.sizes["band"] + 1)
    described = array.attrs.get("long_name")
    if np.issubdtype(np.asarray(names).dtype, np.number) and described is not None:
        described = (described,) if isinstance(described, str) else tuple(described)
        if len(described) == len(names):
            return tuple(str(name or "") for name in described)
    return tuple("" if isinstance(name, (int, np.integer)) else str(name) for name in names)


def _geobox(array: xr.DataArray, assume_crs: str | None) -> GeoBox:
    import odc.geo.xr  # registers the `odc` accessor  # noqa: F401

    y, x = (_even(array, dim, letter) for dim, letter in zip(array.dims[1:], "yx", strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of several CRS coordinates the first counts, as in odc-geo
        geobox = array.odc.geobox
    if not isinstance(geobox, GeoBox):
        raise GridError(
            f"an array of {array.sizes[array.dims[1]]} x {array.sizes[array.dims[2]]} pixels has no regular grid: "
            "give it y and x coordinates at even steps, or a spatial_ref with a GeoTransform"
        )
    if geobox.crs is None and assume_crs is None:
        raise GridError("the array has no CRS: write one with array.odc.assign_crs(...), or name it with assume_crs")
    return GeoBox(geobox.shape, _refitted(geobox, y, x), assume_crs if geobox.crs is None else geobox.crs)


def _refitted(geobox: GeoBox, y: tuple[float, float], x: tuple[float, float]) -> Affine:
    """The transform by all coordinates: odc-geo's takes the first step of each axis, whose rounding adds up."""
    (top, dy), (left, dx) = y, x
    straight = geobox.affine.b == geobox.affine.d == 0  # else the coordinates count the pixels of a turned grid
    fitted = Affine(dx, 0, left - dx / 2, 0, dy, top - dy / 2)
    if not straight or fitted.is_degenerate or same_grid(geobox, GeoBox(geobox.shape, fitted, geobox.crs)):
        return geobox.affine
    return fitted


def _even(array: xr.DataArray, dim: Hashable, letter: str) -> tuple[float, float]:
    """First coordinate and step along `dim`, 0 where they say nothing.

    The coordinate has the name of its dim or, as for odc-geo, one that begins with `letter`.

    Raises:
        GridError: The steps are uneven.
    """
    named = [
        name for name, each in array.coords.items() if each.dims == (dim,) and str(name).lower().startswith(letter)
    ]
    name = dim if dim in array.coords else next(iter(named), None)
    if name is None or array.sizes[dim] < 2 or array.coords[name].dtype.kind not in "iuf":
        return 0.0, 0.0
    values = array.coords[name].values.astype(np.float64)
    single = bool((values == values.astype(np.float32)).all())
    rounding = float(np.spacing(np.abs(values).max().astype(np.float32 if single else np.float64)))
    step = float(values[-1] - values[0]) / (len(values) - 1)
    off = np.abs(values - (values[0] + step * np.arange(len(values))))
    if not (off < min(_UNEVEN * abs(step) + rounding, _COARSE * abs(step))).all():
        steps = np.diff(values)
        usual = float(np.nanmedian(steps))
        at = int(np.argmax(~(np.abs(steps - usual) <= _UNEVEN * abs(usual) + 2 * rounding)))
        raise GridError(
            f"{_called(array)}: {name} is uneven: from {values[at]:.10g} ({at}) to {values[at + 1]:.10g} ({at + 1}), "
            f"else {usual:.6g} apart: lay it on even steps with array.reindex(...) or array.interp(...)"
        )
    return float(values[0]), step


if TYPE_CHECKING:
    _: type[Source] = XarraySource
