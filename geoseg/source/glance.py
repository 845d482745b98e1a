"""A whole scene at the size of a picture, without reading all of it where its files hold overviews.

The sources that a scene is made of (files, bands joined, masks, warps) are followed down to its files. Each file is
read thinned, and the same masks and warps are applied to the few pixels that come of it: what is shown as usable is
what a run sees so, give or take a pixel of the picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from affine import Affine

from geoseg.errors import GeosegError
from geoseg.protocols import Source
from geoseg.scene import BandSet
from geoseg.source.maps import ShiftedSource
from geoseg.source.mask import MaskedSource
from geoseg.source.pair import PairSource
from geoseg.source.raster import RasterSource
from geoseg.source.resample import GridMapping
from geoseg.source.warp import JoinedSource, WarpedSource
from geoseg.types import Pixels, Valid
from geoseg.window import GeoBox, Window, crop_geobox, whole

__all__ = ["Glance", "glance"]

_PIECE = 1024
"""Side of the windows in which a source is read that cannot be read thinned."""
_MOST_PIECES = 1024
"""Of a source with more pieces than that only so many points are seen."""
_MOST_FAILURES = 3
"""Windows that fail before no more are tried: a server that is gone is waited for at each of them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Glance:
    """A scene in few pixels; a `geoseg.protocols.Source` itself."""

    pixels: Pixels
    """Stored numbers (band, row, col)."""
    valid: Valid
    """(row, col), True where the scene is usable and could be seen."""
    geobox: GeoBox
    """The grid of these pixels."""
    bands: BandSet
    """What lies along the first axis of `pixels`."""

    @property
    def block(self) -> tuple[int, int]:
        """(rows, cols) of all of it."""
        return whole(self.geobox).shape

    def identity(self) -> Mapping[str, str]:
        """A hash of what is seen."""
        return {"glance": f"sha256:{hashlib.sha256(self.pixels.tobytes() + self.valid.tobytes()).hexdigest()}"}

    def read(self, window: Window) -> tuple[Pixels, Valid]:
        """Stored numbers (band, row, col) and usable pixels (row, col); beyond the edge 0 and False."""
        inside = window & whole(self.geobox)
        pixels = np.zeros((len(self.bands), *window.shape), self.pixels.dtype)
        valid = np.zeros(window.shape, bool)
        place = inside.within(window).slices
        pixels[:, *place], valid[place] = self.pixels[:, *inside.slices], self.valid[inside.slices]
        return pixels, valid


def glance(source: Source, side: int, window: Window | None = None) -> Glance:
    """`source`, or a `window` of it, with `side` pixels along the longer side, or its own where those are fewer.

    Memory is that of `side` x `side` pixels of every band. Nothing is raised for what cannot be read: a picture is no
    reason for a run to fail, so it is not valid.
    """
    extent = whole(source.geobox) if window is None else window
    shape = _thin(extent, max(1.0, max(extent.shape) / side))
    grid = _grid(source, extent, shape)
    try:
        seen = source if extent.shape == shape else _seen(source, extent, shape)
        pixels, valid = seen.read(extent if seen is source else whole(grid))
    except Exception:  # noqa: BLE001  (a source may be anybody's)
        pixels, valid = _sampled(source, extent, shape)
    return Glance(pixels=pixels, valid=valid, geobox=grid, bands=source.bands)


def _thin(window: Window, factor: float) -> tuple[int, int]:
    """(rows, cols) of a window at a `factor`-th of its size, at least 1."""
    return max(1, round(window.height / factor)), max(1, round(window.width / factor))


def _grid(source: Source, window: Window, shape: tuple[int, int]) -> GeoBox:
    """The grid of `shape` pixels that covers `window`."""
    part = crop_geobox(source.geobox, window)
    scale = Affine.scale(window.width / shape[1], window.height / shape[0])
    return GeoBox(shape, part.transform @ scale, part.crs)


def _moved(window: Window, rows: int, cols: int) -> Window:
    return replace(window, row_off=window.row_off + rows, col_off=window.col_off + cols)


def _seen(source: Source, window: Window, shape: tuple[int, int]) -> Source:
    """What reads the same bands as `source` on the few pixels that cover `window`."""
    if isinstance(source, JoinedSource):
        return replace(source, sources=tuple(_seen(each, window, shape) for each in source.sources))
    if isinstance(source, MaskedSource):
        return replace(source, source=_seen(source.source, window, shape), mask=_seen(source.mask, window, shape))
    if isinstance(source, PairSource):
        return replace(source, before=_seen(source.before, window, shape), after=_seen(source.after, window, shape))
    grid = _grid(source, window, shape)
    if isinstance(source, ShiftedSource):
        inner = _seen(source.source, _moved(window, source.rows, source.cols), shape)
        return replace(source, source=inner, geobox=grid, rows=0, cols=0)
    if isinstance(source, WarpedSource):
        return WarpedSource(_beneath(source.source, grid), grid, "nearest")
    pixels, valid = _leaf(source, window, shape)
    return Glance(pixels=pixels, valid=valid, geobox=grid, bands=source.bands)


def _beneath(source: Source, grid: GeoBox) -> Source:
    """What the pixels of `grid` see of a source on another grid, at about their size."""
    mapping = GridMapping(grid, source.geobox)
    reach = mapping.reach(whole(grid)) or Window(row_off=0, col_off=0, height=1, width=1)
    cols, rows = np.maximum(1, mapping.source_pixels)
    return _seen(source, reach, (max(1, round(reach.height / rows)), max(1, round(reach.width / cols))))


def _leaf(source: Source, window: Window, shape: tuple[int, int]) -> tuple[Pixels, Valid]:
    """The nearest pixels of a source that wraps no other."""
    if not isinstance(source, RasterSource):
        return _sampled(source, window, shape)
    try:
        return _thinned(source, window, shape)
    except GeosegError:  # a bad block: others can be seen
        return _sampled(source, window, shape)


def _thinned(source: RasterSource, window: Window, shape: tuple[int, int]) -> tuple[Pixels, Valid]:
    """As the files give it, the part of `window` beyond them left invalid."""
    inside = window & whole(source.geobox)
    here = inside.within(window)
    rows, cols = window.height / shape[0], window.width / shape[1]
    place = Window.from_bounds(
        round(here.row_off / rows), round(here.col_off / cols), round(here.row_stop / rows), round(here.col_stop / cols)
    )
    pixels = np.zeros((len(source.bands), *shape), np.result_type(*(band.dtype for band in source.bands)))
    valid = np.zeros(shape, bool)
    if inside and place:
        pixels[:, *place.slices], valid[place.slices] = source.thinned(inside, place.shape)
    return pixels, valid


def _sampled(source: Source, window: Window, shape: tuple[int, int]) -> tuple[Pixels, Valid]:
    """The nearest pixels of any source, read window by window; a window that cannot be read is not valid."""
    pieces = [-(-length // _PIECE) for length in window.shape]
    factor = max(1.0, (pieces[0] * pieces[1] / _MOST_PIECES) ** 0.5)
    coarse = shape if factor == 1 else _thin(Window.from_bounds(0, 0, *pieces), factor)
    rows, cols = (_centres(length, count) for length, count in zip(window.shape, coarse, strict=True))
    pixels = np.zeros((len(source.bands), *coarse), np.result_type(*(band.dtype for band in source.bands)))
    valid = np.zeros(coarse, bool)
    failures = 0
    for row_slice, col_slice in product(_together(rows), _together(cols)):
        ys, xs = rows[row_slice], cols[col_slice]
        part = Window.from_bounds(int(ys[0]), int(xs[0]), int(ys[-1]) + 1, int(xs[-1]) + 1)
        down, across = np.ix_(ys - ys[0], xs - xs[0])
        try:
            values, usable = source.read(_moved(part, window.row_off, window.col_off))
        except Exception:  # noqa: BLE001  (a source may be anybody's)
            failures += 1
            if failures == _MOST_FAILURES:
                break
            continue
        pixels[:, row_slice, col_slice] = values[:, down, across]
        valid[row_slice, col_slice] = usable[down, across]
    down, across = np.ix_(_centres(coarse[0], shape[0]), _centres(coarse[1], shape[1]))
    return pixels[:, down, across], valid[down, across]


def _centres(length: int, count: int) -> npt.NDArray[np.int64]:
    """Of `length` pixels those in which the centres of `count` larger (or smaller) ones lie.

    >>> _centres(10, 4).tolist()
    [1, 3, 6, 8]
    """
    return ((np.arange(count) + 0.5) * length / count).astype(np.int64)


def _together(places: npt.NDArray[np.int64]) -> Iterator[slice]:
    """Stretches of neighbouring places that lie in one piece."""
    starts = np.flatnonzero(np.diff(places // _PIECE, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(places)], strict=True):
        yield slice(int(start), int(stop))


if TYPE_CHECKING:
    _: type[Source] = Glance
