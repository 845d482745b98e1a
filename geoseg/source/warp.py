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
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from geoseg.errors import GridError, SourceError
from geoseg.protocols import Source
from geoseg.scene import BandSet
from geoseg.source.grids import bounds_text, overlaps, target_grid
from geoseg.source.resample import GridMapping, Resampling, as_stored, step_aside
from geoseg.types import Pixels, Valid
from geoseg.window import GeoBox, Window, whole

__all__ = ["JoinedSource", "WarpedSource", "bad_blocks_of", "bring_together"]

_BLOCK = 512
"""Side of the blocks that are warped at once; part of the result, so it is no option."""
_SPARE = 64
"""Blocks that are kept beyond those of one window, at most."""
_UNUSABLE = 1e-4
"""Share of a value that may come from unusable pixels: the float noise of weights that are zero."""


@dataclass(frozen=True)
class WarpedSource:
    """Another source, seen on the grid `geobox`. Pickles as its constructor's arguments."""

    source: Source
    """What is read."""
    geobox: GeoBox
    """The grid that it is read on."""
    resampling: Resampling = "bilinear"
    """How values are interpolated."""

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

    @property
    def bad_blocks(self) -> int:
        """Storage blocks that were filled because they cannot be decoded."""
        return bad_blocks_of(self.source)

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
    def _mapping(self) -> GridMapping:
        return GridMapping(self.geobox, self.source.geobox)

    @cached_property
    def _blocks(self) -> _Blocks:
        return _Blocks()

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
        except (RasterioError, CPLE_BaseError) as error:
            names = ", ".join(self.source.identity())
            raise SourceError(
                f"{names}: cannot be warped to {window} of the target grid: {' '.join(str(error).split())}"
            ) from error
        stored, usable = as_stored(warped[:-1], dtype), warped[-1] > 1 - _UNUSABLE
        for layer, band in zip(stored, self.bands, strict=True):
            if band.nodata is not None:
                step_aside(layer, band.nodata)
        return stored, usable


@dataclass(frozen=True)
class JoinedSource:
    """Bands of several sources on one grid, in any order."""

    sources: tuple[Source, ...]
    """What is read; all on one grid."""
    names: tuple[str, ...]
    """The bands, in reading order."""

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

    @property
    def bad_blocks(self) -> int:
        """Storage blocks that were filled because they cannot be decoded."""
        return bad_blocks_of(*self.sources)

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


def bad_blocks_of(*sources: Source) -> int:
    """Blocks that sources filled because they cannot be decoded, as far as they count them."""
    return sum(getattr(source, "bad_blocks", 0) for source in sources)


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


class _Blocks:
    """Blocks that were warped lately: each is made once, even if several threads ask for it at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ready: OrderedDict[Window, Future[tuple[Pixels, Valid]]] = OrderedDict()
        self._room = 0

    def make_room(self, blocks: int) -> None:
        """Windows of so many blocks are being read: two of them are kept, unless they are huge."""
        with self._lock:
            self._room = max(self._room, min(2 * blocks, blocks + _SPARE))

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


def _joined_dtype(bands: BandSet) -> np.dtype[Any]:
    """The smallest dtype that holds the numbers of every band."""
    return np.result_type(*(np.dtype(band.dtype) for band in bands))


def _pixel_size(geobox: GeoBox, like: GeoBox) -> float:
    """Area of a pixel, in units of `like`'s CRS; a grid in another CRS counts as coarse as can be."""
    return abs(geobox.transform.determinant) if geobox.crs == like.crs else float("inf")


def _blocks_touching(window: Window) -> Iterator[Window]:
    """The fixed blocks that share pixels with `window`, row by row."""
    if not window:
        return
    for row in range(window.row_off // _BLOCK, -(-window.row_stop // _BLOCK)):
        for col in range(window.col_off // _BLOCK, -(-window.col_stop // _BLOCK)):
            yield Window(row_off=row * _BLOCK, col_off=col * _BLOCK, height=_BLOCK, width=_BLOCK)


if TYPE_CHECKING:
    _: tuple[type[Source], ...] = (WarpedSource, JoinedSource)
