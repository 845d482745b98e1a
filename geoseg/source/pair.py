"""Two dates on one grid: what differs between their grids, and one source that reads both.

A date that lies on the grid is read as it is, or shifted where whole pixels suffice; else it is warped while it is
read, once, from the pixels of its files: what was already to be read at another resolution is not warped twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.errors import BandError, GridError
from geoseg.protocols import Source
from geoseg.scene import DATES, BandSet, Scene
from geoseg.source.grids import bounds_text, overlaps
from geoseg.source.info import inspect
from geoseg.source.maps import ShiftedSource
from geoseg.source.mask import MaskedSource, masked
from geoseg.source.projection import Points, crs_of, to_world
from geoseg.source.warp import JoinedSource, WarpedSource, bad_blocks_of
from geoseg.types import Pixels, Valid
from geoseg.window import GeoBox, Window

__all__ = ["PairSource", "differences", "in_order", "pair_of", "seen_on"]

_SAME = 0.01
"""Pixels by which grids may differ and still be one."""


@dataclass(frozen=True)
class PairSource:
    """The same bands of two dates on one grid: ``before.red``, ``before.nir``, ..., ``after.red``, ``after.nir``."""

    before: Source
    """The earlier date."""
    after: Source
    """The later date; the same bands in the same order, each with its own dtype, scaling and nodata number."""

    def __post_init__(self) -> None:
        if self.before.bands.names != self.after.bands.names:
            raise BandError(
                f"before has bands {', '.join(self.before.bands.names)}, after {', '.join(self.after.bands.names)}: "
                "read the same ones of both, in one order"
            )
        if lines := _grid_differences(self.before.geobox, self.after.geobox):
            raise GridError(f"a pair is read on one grid, but {'; '.join(lines)}")

    @property
    def geobox(self) -> GeoBox:
        """The grid of both."""
        return self.before.geobox

    @property
    def bands(self) -> BandSet:
        """All bands of before, then all of after, each named with its date."""
        dates = zip(DATES, (self.before, self.after), strict=True)
        return BandSet(
            tuple(replace(band, name=f"{date}.{band.name}") for date, source in dates for band in source.bands)
        )

    @property
    def block(self) -> tuple[int, int]:
        """(rows, cols) of the larger blocks."""
        one, other = self.before.block, self.after.block
        return max(one[0], other[0]), max(one[1], other[1])

    @property
    def bad_blocks(self) -> int:
        """Storage blocks that were filled because they cannot be decoded."""
        return bad_blocks_of(self.before, self.after)

    def identity(self) -> Mapping[str, str]:
        """The identities of both; a place that pins two different inputs (arrays of one name) pins them in order."""
        before, after = self.before.identity(), self.after.identity()
        both = {place: f"{before[place]}, {mark}" for place, mark in after.items() if before.get(place, mark) != mark}
        return {**before, **after, **both}

    def read(self, window: Window) -> tuple[Pixels, Valid]:
        """Stored numbers (2 * band, row, col) in the dtype that holds both dates', and pixels that both call usable.

        Raises:
            SourceError: One of the dates cannot be read.
        """
        before, usable_before = self.before.read(window)
        after, usable_after = self.after.read(window)
        return np.concatenate([before, after]), usable_before & usable_after


def differences(before: Scene[Any], after: Scene[Any]) -> list[str]:
    """What keeps two scenes from being read as one grid, a line for each: CRS, pixel size, grid origin, extent.

    Grids that differ by no more than a hundredth of a pixel are one; half a pixel is a difference.

    >>> grid = GeoBox.from_bbox((0, 0, 100, 60), "EPSG:32633", resolution=10)
    >>> moved = GeoBox.from_bbox((5, 0, 105, 60), "EPSG:32633", resolution=10, tight=True)
    >>> from geoseg.scene import BandSet, Scene
    >>> one, other = (Scene(id="a", source=None, geobox=each, bands=BandSet(())) for each in (grid, moved))
    >>> differences(one, other)
    ['grid origin: after begins 0 rows and 0.5 columns from a pixel of before']
    """
    return _grid_differences(before.geobox, after.geobox)


def _grid_differences(before: GeoBox, after: GeoBox) -> list[str]:
    lines = []
    same_crs = _same_crs(before, after)
    if not same_crs:
        lines.append(f"CRS: {crs_of(before).name} before, {crs_of(after).name} after")
    drift = _drift(before, after)
    if np.abs(drift).max() > _SAME:
        lines.append(f"pixel size: {_pixel_text(before)} before, {_pixel_text(after)} after")
    col, row = _corner(before, after)
    whole_col, whole_row = round(col), round(row)
    if same_crs and max(abs(col - whole_col), abs(row - whole_row)) > _SAME:
        lines.append(
            f"grid origin: after begins {abs(row - whole_row):.3g} rows and {abs(col - whole_col):.3g} columns "
            "from a pixel of before"
        )
    if before.shape != after.shape or (same_crs and (whole_col, whole_row) != (0, 0)):
        lines.append(f"extent: {_extent_text(before)} before, {_extent_text(after)} after")
    return lines


def pair_of(before: Scene[Source], after: Scene[Source], *, align: str | Path | None = None) -> Scene[PairSource]:
    """Both dates as one scene, whose source is a `PairSource`; no pixel is read yet.

    Args:
        before: The earlier date.
        after: The later date; bands are told by their names.
        align: The grid that both are read on where they differ: ``before``, ``after``, or a raster that lies on it.

    Raises:
        BandError: The dates have different bands.
        GridError: The dates do not touch, or their grids differ and `align` says nothing.
        SourceError: The raster of `align` cannot be opened.
    """
    _must_touch(before.geobox, after.geobox, "before", "after")
    grid = _chosen_grid(before, after, align)
    for scene, date in zip((before, after), DATES, strict=True):
        _must_touch(scene.geobox, grid, date, "the grid to align to")
    source = PairSource(seen_on(before.source, grid), in_order(seen_on(after.source, grid), before.bands.names))
    return Scene(
        id=f"{before.id}--{after.id}",
        source=source,
        geobox=grid,
        bands=source.bands,
        datetime=after.datetime,
        datetime_source=after.datetime_source,
        href=after.href,
        item_href=after.item_href,
        dates=(before, after),
    )


def _chosen_grid(before: Scene[Source], after: Scene[Source], align: str | Path | None) -> GeoBox:
    lines = differences(before, after)
    if align is None and lines:
        raise GridError(
            f"{before.id} and {after.id} lie on different grids ({'; '.join(lines)}): choose one with --align before, "
            "--align after or --align GRID, a raster"
        )
    if align is None or align == "before":
        return before.geobox
    return after.geobox if align == "after" else inspect(align).geobox


def _must_touch(one: GeoBox, other: GeoBox, this: str, that: str) -> None:
    if not overlaps(one, other):
        raise GridError(
            f"{this} ({bounds_text(one)}) does not touch {that} ({bounds_text(other)}): no pixel is in both"
        )


def in_order(source: Source, names: tuple[str, ...]) -> Source:
    """`source` with its bands in the order of `names`; one whose bands are others is left for its reader to refuse."""
    if source.bands.names == names or set(source.bands.names) != set(names):
        return source
    return JoinedSource((source,), names)


def seen_on(source: Source, grid: GeoBox) -> Source:
    """`source`, read on `grid`: as it is or shifted by whole pixels where that is exact, else warped bilinearly."""
    if not _grid_differences(grid, source.geobox):
        return source
    if _same_crs(grid, source.geobox) and np.abs(_drift(grid, source.geobox)).max() <= _SAME:
        col, row = _corner(source.geobox, grid)
        if max(abs(col - round(col)), abs(row - round(row))) <= _SAME:
            return ShiftedSource(source=source, geobox=grid, rows=round(row), cols=round(col))
    return _warped(source, grid)


def _warped(source: Source, grid: GeoBox) -> Source:
    """`source`, warped to `grid` from the pixels of its files, so that none is interpolated twice."""
    if isinstance(source, WarpedSource):
        return seen_on(source.source, grid)
    if isinstance(source, JoinedSource):
        return JoinedSource(tuple(seen_on(part, grid) for part in source.sources), source.names)
    if isinstance(source, MaskedSource):
        mask = source.mask.source if isinstance(source.mask, WarpedSource) else source.mask
        if isinstance(source.source, WarpedSource):
            return seen_on(masked(source.source.source, mask, source.classes), grid)
        if isinstance(source.source, JoinedSource):
            parts = (seen_on(masked(part, mask, source.classes), grid) for part in source.source.sources)
            return JoinedSource(tuple(parts), source.source.names)
    return WarpedSource(source, grid)


def _same_crs(one: GeoBox, other: GeoBox) -> bool:
    return one.crs == other.crs or crs_of(one).equals(crs_of(other), ignore_axis_order=True)


def _drift(one: GeoBox, other: GeoBox) -> Points:
    """(Column, row) of `one` by which the corners of `other` leave their places if both began at the same one."""
    move = ~one.transform @ other.transform
    height, width = (max(sides) for sides in zip(one.shape, other.shape, strict=True))
    corners = np.array([[width, 0], [0, height], [width, height]], float)
    return corners @ (np.array([[move.a, move.d], [move.b, move.e]]) - np.eye(2))


def _corner(one: GeoBox, other: GeoBox) -> tuple[float, float]:
    """(Column, row) of `one` at which `other` begins, taken in one plane."""
    place = to_world(to_world(np.zeros((1, 2)), other), GeoBox(one.shape, ~one.transform, None))[0]
    return float(place[0]), float(place[1])


def _pixel_text(geobox: GeoBox) -> str:
    move = geobox.transform
    turned = "" if (move.b, move.d) == (0, 0) and move.e < 0 < move.a else " (rotated or flipped)"
    return f"{np.hypot(move.a, move.d):.8g} x {np.hypot(move.b, move.e):.8g}{turned}"


def _extent_text(geobox: GeoBox) -> str:
    height, width = geobox.shape
    return f"{height} rows x {width} columns within {', '.join(f'{side:.10g}' for side in geobox.boundingbox.bbox)}"


if TYPE_CHECKING:
    _: type[Source] = PairSource
