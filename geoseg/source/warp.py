"""Sources on different grids, read onto one: bands at 10, 20 and 60 m, or a whole scene in another CRS.

Pixels are warped in fixed blocks of the target grid, each always by the same request, with exact transforms (no
approximation of the projection). So a pixel has one value, whatever window asks for it, and neighbouring windows,
chunks and workers agree. What lies on the target grid already is never warped.

Values are interpolated bilinearly (widened to the footprint of a target pixel where that is coarser). A pixel is valid
only if every source pixel that its value mixes is usable, so nothing of a cloud or of the nodata number bleeds into a
valid pixel. Beyond the source's outermost pixels nothing is valid; along its rim only what lies inside is mixed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from odc.geo.overlap import compute_output_geobox

from geoseg.errors import GridError, SourceError
from geoseg.protocols import Source
from geoseg.scene import BandSet
from geoseg.source.projection import Points, ToPixels, crs_of, to_world
from geoseg.types import Pixels, Valid
from geoseg.window import GeoBox, Window, crop_geobox, whole

__all__ = ["JoinedSource", "WarpedSource", "bring_together", "overlaps", "same_grid", "target_grid"]

Resampling: TypeAlias = Literal["bilinear", "nearest"]

_BLOCK = 512
"""Side of the blocks that are warped at once; part of the result, so it is no option."""
_SAMPLES = 17
"""Points along each side of a block whose place in the source says what to read."""
_TOLERANCE = 1e-6
"""Source pixels by which GDAL may approximate the projection: too little to change a stored number (rasterio fails on
0, and 1e-9 takes twice the time)."""
_UNUSABLE = 1e-4
"""Share of a value that may come from unusable pixels: the float noise of weights that are zero."""
_SAME = 0.01
"""Pixels by which grids may differ and still be one."""
_MAX_PIXELS = 5 * 10**11


class WarpedSource:
    """Another source, seen on the grid `geobox`. Pickles as its constructor's arguments."""

    def __init__(self, source: Source, geobox: GeoBox, resampling: Resampling = "bilinear") -> None:
        self.source = source
        self.geobox = geobox
        self.resampling = resampling
        self._blocks = _Blocks()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.source, self.geobox, self.resampling)

    @property
    def bands(self) -> BandSet:
        """The other source's bands."""
        return self.source.bands

    @property
    def block(self) -> tuple[int, int]:
        """(rows, cols) of what is warped at once."""
        return min(_BLOCK, self.geobox.shape[0]), min(_BLOCK, self.geobox.shape[1])

    def identity(self) -> Mapping[str, str]:
        """The other source's identity."""
        return self.source.identity()

    def read(self, window: Window) -> tuple[Pixels, Valid]:
        """Stored numbers (band, row, col) and usable pixels (row, col) of `window`, cut from the fixed blocks.

        Raises:
            SourceError: The other source cannot be read, or GDAL cannot warp it.
        """
        scene = whole(self.geobox)
        pixels = np.zeros((len(self.bands), *window.shape), _joined_dtype(self.bands))
        valid = np.zeros(window.shape, bool)
        blocks = list(_blocks_touching(window & scene))
        self._blocks.make_room(len(blocks))
        for block in blocks:
            values, usable = self._blocks.get(block & scene, self._warp)
            part = block & scene & window
            here, there = part.within(window).slices, part.within(block).slices
            pixels[:, *here], valid[here] = values[:, *there], usable[there]
        return pixels, valid

    @cached_property
    def _mapping(self) -> _Mapping:
        return _Mapping(self.geobox, self.source.geobox)

    def _warp(self, window: Window) -> tuple[Pixels, Valid]:
        """One block; the same arithmetic every time it is made."""
        dtype = _joined_dtype(self.bands)
        reach = self._mapping.reach(window)
        if not reach:
            return np.zeros((len(self.bands), *window.shape), dtype), np.zeros(window.shape, bool)
        pixels, valid = self.source.read(reach)
        # Validity travels as one more band. Unusable numbers become 0 and drop out where the share of what is usable
        # says that nothing else was mixed in.
        real = np.float32 if dtype.itemsize <= 2 or dtype == np.float32 else np.float64
        stack = np.zeros((len(pixels) + 1, *reach.shape), real)
        np.copyto(stack[:-1], pixels, where=valid)
        stack[-1] = valid
        try:
            warped = self._mapping.resample(stack, reach, window, self.resampling)
        except OSError as error:
            names = ", ".join(self.source.identity())
            raise SourceError(f"{names}: cannot be warped to {window} of the target grid: {error}") from error
        return _stored(warped[:-1], dtype), warped[-1] > 1 - _UNUSABLE


class JoinedSource:
    """Bands of several sources on one grid, in any order. Pickles as its constructor's arguments."""

    def __init__(self, sources: tuple[Source, ...], names: tuple[str, ...]) -> None:
        self.sources = sources
        self.names = names

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.sources, self.names)

    @property
    def geobox(self) -> GeoBox:
        """The grid that all share."""
        return self.sources[0].geobox

    @property
    def bands(self) -> BandSet:
        """The bands named in `names`."""
        every = {band.name: band for source in self.sources for band in source.bands}
        return BandSet(tuple(every[name] for name in self.names))

    @property
    def block(self) -> tuple[int, int]:
        """(rows, cols) of the largest block of any source."""
        return max(source.block[0] for source in self.sources), max(source.block[1] for source in self.sources)

    def identity(self) -> Mapping[str, str]:
        """The identities of all, together."""
        return {key: value for source in self.sources for key, value in source.identity().items()}

    def read(self, window: Window) -> tuple[Pixels, Valid]:
        """Stored numbers (band, row, col) and pixels (row, col) that every source calls usable.

        Raises:
            SourceError: One of the sources cannot be read.
        """
        pixels = np.zeros((len(self.names), *window.shape), _joined_dtype(self.bands))
        valid: Valid = np.ones(window.shape, bool)
        for source in self.sources:
            values, usable = source.read(window)
            pixels[[self.names.index(name) for name in source.bands.names]] = values
            valid &= usable
        return pixels, valid


def target_grid(geobox: GeoBox, resolution: float | None = None, crs: str | None = None) -> GeoBox:
    """The grid that covers `geobox` at another pixel size (in units of the CRS) or in another CRS, as odc-geo lays it.

    Raises:
        GridError: The resolution is not positive, the CRS unknown, or the grid too large.

    >>> scene = GeoBox.from_bbox((0, 0, 100, 60), "EPSG:32633", resolution=10)
    >>> target_grid(scene, resolution=20).shape
    Shape2d(x=5, y=3)
    """
    if resolution is None and crs is None:
        return geobox
    if resolution is not None and not (np.isfinite(resolution) and resolution > 0):
        raise GridError(f"resolution {resolution} is no pixel size: give a positive number in units of the CRS")
    try:
        grid = compute_output_geobox(
            geobox, crs or str(geobox.crs), resolution="auto" if resolution is None else resolution
        )
    except (ValueError, RuntimeError, OverflowError) as error:  # pyproj's CRSError is a RuntimeError
        raise GridError(f"no grid in {crs or geobox.crs} covers the scene: {error}") from error
    height, width = grid.shape
    if not 0 < height * width <= _MAX_PIXELS:
        raise GridError(f"resolution {resolution} makes {height} x {width} pixels: choose a coarser one")
    return grid


def same_grid(one: GeoBox, other: GeoBox) -> bool:
    """Whether two grids have the same pixels: no corner further apart than a hundredth of a pixel."""
    if one.shape != other.shape or one.crs != other.crs:
        return False
    height, width = one.shape
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], float)
    inverse = GeoBox(one.shape, ~one.transform, None)
    return bool(np.abs(to_world(to_world(corners, other), inverse) - corners).max() <= _SAME)


def overlaps(one: GeoBox, other: GeoBox) -> bool:
    """Whether any pixel of `other` lies on `one`."""
    return bool(_Mapping(other, one).reach(whole(other)))


def bring_together(
    sources: Sequence[Source], names: tuple[str, ...], resolution: float | None = None, crs: str | None = None
) -> Source:
    """One source that reads the bands `names` of all `sources`, in that order, on one grid.

    The grid is that of the finest source (of the first, where several are), or what `target_grid` makes of it. Sources
    that lie on it are read as they are; the others are warped.

    Raises:
        GridError: A source does not touch that grid, or there is no such grid.
    """
    finest = min(sources, key=lambda source: _pixel_size(source.geobox, sources[0].geobox))
    grid = target_grid(finest.geobox, resolution, crs)
    placed: list[Source] = []
    for source in sources:
        if source.geobox == grid:
            placed.append(source)
        elif overlaps(source.geobox, grid):
            placed.append(WarpedSource(source, grid))
        else:
            raise GridError(
                f"{', '.join(source.identity())} ({bounds_text(source.geobox)}) does not touch the grid of the other "
                f"bands ({bounds_text(grid)}): are they of one scene?"
            )
    if len(placed) == 1 and placed[0].bands.names == names:
        return placed[0]
    return JoinedSource(tuple(placed), names)


def bounds_text(geobox: GeoBox) -> str:
    """Bounds and CRS of a grid, for messages.

    >>> bounds_text(GeoBox.from_bbox((0, 0, 10, 20), "EPSG:32633", resolution=10))
    '0, 0, 10, 20 in WGS 84 / UTM zone 33N'
    """
    return f"{', '.join(f'{value:.8g}' for value in geobox.boundingbox.bbox)} in {crs_of(geobox).name}"


def _pixel_size(geobox: GeoBox, like: GeoBox) -> float:
    """Area of a pixel, in units of `like`'s CRS; a grid in another CRS counts as coarse as can be."""
    return abs(geobox.transform.determinant) if geobox.crs == like.crs else float("inf")


class _Mapping:
    """Where the pixels of a target grid lie on a source grid."""

    def __init__(self, target: GeoBox, source: GeoBox) -> None:
        from rasterio.crs import CRS

        self.target = target
        self.source = source
        self.target_crs = CRS.from_wkt(crs_of(target).to_wkt())
        self.source_crs = CRS.from_wkt(crs_of(source).to_wkt())
        self._to_source = ToPixels(crs_of(target), source)
        self.source_pixels = self._source_pixels_per_target_pixel()

    def __call__(self, points: Points) -> Points:
        """(Column, row) of the target grid to (column, row) of the source grid."""
        return self._to_source(to_world(points, self.target))

    def reach(self, window: Window) -> Window:
        """What to read of the source, so that the kernel of every pixel of `window` finds what it mixes."""
        cols = np.linspace(window.col_off, window.col_stop, _SAMPLES)
        rows = np.linspace(window.row_off, window.row_stop, _SAMPLES)
        lattice = np.stack(np.meshgrid(cols, rows), axis=-1)
        places = self(lattice.reshape(-1, 2)).reshape(lattice.shape)
        known = np.isfinite(places).all(axis=-1)
        if not known.any():
            return Window(row_off=0, col_off=0, height=0, width=0)
        # Between two samples the true extreme may lie beyond both, by less than they differ.
        places[~known] = places[known][0]
        step = np.maximum(np.abs(np.diff(places, axis=0)).max((0, 1)), np.abs(np.diff(places, axis=1)).max((0, 1)))
        margin = step + np.maximum(self.source_pixels, 1.0) + 2
        extent = whole(self.source)
        limit = np.array([extent.width, extent.height])
        low = np.clip(np.floor(places.min((0, 1)) - margin), 0, limit).astype(int)
        high = np.clip(np.ceil(places.max((0, 1)) + margin), 0, limit).astype(int)
        return Window.from_bounds(int(low[1]), int(low[0]), int(high[1]), int(high[0]))

    def resample(
        self, stack: npt.NDArray[Any], reach: Window, window: Window, resampling: Resampling
    ) -> npt.NDArray[Any]:
        """`stack` (band, row, col), which lies at `reach` of the source grid, on the pixels of `window`.

        Only a WarpedVRT obeys the tolerance (`rasterio.warp.reproject` of rasterio 1.4 ignores it), and it needs a
        dataset, which is made in memory.
        """
        from rasterio.enums import Resampling as Method
        from rasterio.io import MemoryFile
        from rasterio.vrt import WarpedVRT

        here, there = crop_geobox(self.source, reach), crop_geobox(self.target, window)
        count, height, width = stack.shape
        shape = {"count": count, "height": height, "width": width, "dtype": stack.dtype.name, "interleave": "band"}
        with MemoryFile() as memory:
            with memory.open(driver="GTiff", crs=self.source_crs, transform=here.transform, **shape) as plain:
                plain.write(stack)
            with (
                memory.open(driver="GTiff") as plain,
                WarpedVRT(
                    plain,
                    crs=self.target_crs,
                    transform=there.transform,
                    height=window.height,
                    width=window.width,
                    resampling=Method[resampling],
                    tolerance=_TOLERANCE,
                    **self.options,
                ) as warped,
            ):
                values: npt.NDArray[Any] = warped.read()
        return values

    @property
    def options(self) -> dict[str, str]:
        """GDAL's warp options that fix the width of the kernel, which it would else guess anew for every block."""
        return dict(zip(("XSCALE", "YSCALE"), (repr(float(1 / pixels)) for pixels in self.source_pixels), strict=True))

    def _source_pixels_per_target_pixel(self) -> Points:
        """Source columns and rows that one target pixel spans, in the middle of the target grid."""
        height, width = self.target.shape
        middle = np.array([width / 2, height / 2])
        ends = self(middle + np.array([[-0.5, 0], [0.5, 0], [0, -0.5], [0, 0.5]]))
        span = np.hypot(ends[1] - ends[0], ends[3] - ends[2])
        return span if np.isfinite(span).all() and (span > 0).all() else np.ones(2)


class _Blocks:
    """Blocks that were warped lately: each is made once, even if several threads ask for it at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ready: OrderedDict[Window, Future[tuple[Pixels, Valid]]] = OrderedDict()
        self._room = 0

    def make_room(self, blocks: int) -> None:
        """Windows of so many blocks are being read; what two of them need is kept."""
        with self._lock:
            self._room = max(self._room, 2 * blocks)

    def get(self, block: Window, make: Callable[[Window], tuple[Pixels, Valid]]) -> tuple[Pixels, Valid]:
        """The block, from memory or made now."""
        with self._lock:
            mine = block not in self._ready
            future = self._ready.setdefault(block, Future())
            self._ready.move_to_end(block)
            while len(self._ready) > self._room:
                self._ready.popitem(last=False)
        if mine:
            try:
                future.set_result(make(block))
            except BaseException as error:  # noqa: BLE001  (whoever waits for this block must hear of it)
                with self._lock:
                    self._ready.pop(block, None)
                future.set_exception(error)
        return future.result()


def _blocks_touching(window: Window) -> Iterator[Window]:
    """The fixed blocks that share pixels with `window`, row by row."""
    if not window:
        return
    for row in range(window.row_off // _BLOCK, -(-window.row_stop // _BLOCK)):
        for col in range(window.col_off // _BLOCK, -(-window.col_stop // _BLOCK)):
            yield Window(row_off=row * _BLOCK, col_off=col * _BLOCK, height=_BLOCK, width=_BLOCK)


def _joined_dtype(bands: BandSet) -> np.dtype[Any]:
    """The smallest dtype that holds the numbers of every band."""
    return np.result_type(*(np.dtype(band.dtype) for band in bands))


def _stored(values: npt.NDArray[Any], dtype: np.dtype[Any]) -> Pixels:
    """Interpolated values as stored numbers: rounded where they are integers."""
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.astype(dtype)


if TYPE_CHECKING:
    _: tuple[type[Source], ...] = (WarpedSource, JoinedSource)
