"""What people labelled: rasters of class values and polygons with a class, read window by window on a scene's grid.

Files are painted in the order in which they are named, each over those before it; of a file's polygons the last counts.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import shapely

from geoseg.errors import GridError
from geoseg.protocols import Source
from geoseg.source.burned import BurnedSource, burn
from geoseg.source.grids import overlaps
from geoseg.source.maps import FinishedMap, extent_on, on_grid
from geoseg.source.outline import Features
from geoseg.store.disk import describe_file
from geoseg.window import GeoBox, Window, whole

__all__ = [
    "UNLABELLED",
    "Codes",
    "LabelFile",
    "LabelOptions",
    "LabelPart",
    "LabelPolygons",
    "Labels",
    "LabelsOn",
    "lattice",
]

Codes: TypeAlias = npt.NDArray[np.int64]
"""(row, col) class values; `UNLABELLED` where nobody said anything."""

UNLABELLED = -1
"""No class value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFile:
    """A file of labels."""

    path: str
    """Raster (path or URL) or polygons (path)."""
    split: str = ""
    """The split that it belongs to, where a person says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelOptions:
    """How labels are read."""

    class_column: str | None = None
    """Column of polygons that holds class values, or names of classes."""
    class_value: int | None = None
    """Class of every polygon, where no column tells it."""
    background: int | str | None = None
    """Class of what no polygon covers, in chips that hold one; None: nothing is known there."""
    classes: Mapping[str, int] = field(default_factory=dict)
    """Name -> value; others are not labels. Empty: whatever is found."""
    ignore: tuple[int, ...] = ()
    """Values that are no label."""
    all_touched: bool = False
    """Whether a pixel belongs to every polygon that touches it, or to the one that holds its centre."""
    split_column: str | None = None
    """Column of polygons that names their group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPolygons:
    """A file of polygons, with the class and the group of each."""

    file: LabelFile
    """Where they come from."""
    features: Features
    """Those that have a class."""
    codes: tuple[int, ...]
    """Class value of each."""
    groups: tuple[str, ...]
    """What each belongs to; empty where nobody says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """All files of labels, wherever they lie."""

    rasters: tuple[tuple[LabelFile, FinishedMap], ...]
    """Rasters of class values."""
    polygons: tuple[LabelPolygons, ...]
    """Files of polygons."""
    order: tuple[LabelFile, ...]
    """As they are painted."""
    names: Mapping[int, str]
    """Class names by value, as far as they are known."""
    background: int | None
    """Class of what no polygon covers."""
    options: LabelOptions
    """How they are read."""

    def identity(self) -> dict[str, str]:
        """Path -> what pins its content."""
        found = {part.file.path: describe_file(Path(part.file.path))["sha256"] for part in self.polygons}
        for _, raster in self.rasters:
            found.update(raster.open().identity())
        return found

    def on(self, grid: GeoBox) -> LabelsOn:
        """The labels that lie on the grid of a scene; there may be none.

        Raises:
            SourceError: A raster cannot be opened.
            GridError: The scene has no place in the CRS of the labels.
        """
        layers = [_raster_layer(file, raster, grid) for file, raster in self.rasters]
        layers += [_polygon_layer(part, grid, self.options) for part in self.polygons]
        painted = sorted((layer for layer in layers if layer), key=lambda layer: self.order.index(layer.file))
        return LabelsOn(grid=grid, layers=tuple(painted), labels=self)

    def parts(self) -> Iterator[LabelPart]:
        """Each polygon, and the outline of each raster."""
        for file, raster in self.rasters:
            outline = raster.geobox.extent.geom
            yield LabelPart(polygon=outline, crs=str(raster.geobox.crs), group=_group_of(file), called=file.path)
        for each in self.polygons:
            for number, (polygon, group) in enumerate(zip(each.features.polygons, each.groups, strict=True), 1):
                called = f"polygon {number} of {each.file.path}"
                own = group if self.options.split_column else _group_of(each.file)
                yield LabelPart(polygon=polygon, crs=each.features.crs, group=own, called=called)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPart:
    """One thing that was labelled."""

    polygon: Any
    """In `crs`."""
    crs: Any
    """Anything that pyproj takes as a CRS."""
    group: str
    """What it belongs to; empty where nobody says so."""
    called: str
    """What messages call it."""


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """One file on a scene's grid."""

    file: LabelFile
    values: Source
    """Class values."""
    extents: npt.NDArray[np.float64]
    """(part, 4): first row and column, last row and column of what may hold labels."""
    groups: BurnedSource | None = None
    """Numbers of the groups of polygons; None: the file is one group."""
    group_names: tuple[str, ...] = ()
    is_polygons: bool = False


@dataclass(frozen=True, kw_only=True)
class LabelsOn:
    """Labels on the grid of one scene."""

    grid: GeoBox
    """The scene's."""
    layers: tuple[_Layer, ...]
    """Files that touch it."""
    labels: Labels
    """Where they come from."""

    def active(self, size: int) -> list[Window]:
        """The chips of `size` x `size` pixels that may hold labels, row by row; no file is read for it."""
        rows, cols = (lattice(side, size) for side in self.grid.shape)
        found: set[tuple[int, int]] = set()
        for layer in self.layers:
            for top, left, bottom, right in layer.extents.tolist():
                down = range(bisect_right(rows, top - size), bisect_left(rows, bottom))
                across = range(bisect_right(cols, left - size), bisect_left(cols, right))
                found.update((rows[row], cols[col]) for row in down for col in across)
        return [Window(row_off=row, col_off=col, height=size, width=size) for row, col in sorted(found)]

    def read(self, window: Window) -> tuple[Codes, frozenset[str]]:
        """Class values (row, col) of a window, and the groups that its labels belong to.

        Raises:
            SourceError: A raster cannot be read.
        """
        codes = np.full(window.shape, UNLABELLED, np.int64)
        groups: set[str] = set()
        covered = False
        for layer in self.layers:
            (values,), known = layer.values.read(window)
            taken = known & self._is_class(values)
            codes[taken] = values[taken]
            groups |= self._groups(layer, window, taken)
            covered |= layer.is_polygons and bool(taken.any())
        if covered and self.labels.background is not None:
            codes[codes == UNLABELLED] = self.labels.background
        return codes, frozenset(groups)

    @cached_property
    def _listed(self) -> list[int]:
        return list(self.labels.options.classes.values())

    def _is_class(self, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        wanted = np.isin(values, self.labels.options.ignore, invert=True) & (values >= 0)
        return wanted & np.isin(values, self._listed) if self._listed else wanted

    def _groups(self, layer: _Layer, window: Window, taken: npt.NDArray[np.bool_]) -> set[str]:
        if not taken.any():
            return set()
        if layer.groups is None:
            return {_group_of(layer.file)}
        (numbers,), _ = layer.groups.read(window)
        return {layer.group_names[number] for number in np.unique(numbers[taken]).tolist()}


def lattice(length: int, size: int) -> list[int]:
    """Where chips begin along an axis: side by side, the last one at its end; none where one does not fit.

    >>> lattice(100, 30), lattice(90, 30), lattice(20, 30)
    ([0, 30, 60, 70], [0, 30, 60], [])
    """
    starts = list(range(0, length - size + 1, size))
    if starts and starts[-1] + size < length:
        starts.append(length - size)
    return starts


def _group_of(file: LabelFile) -> str:
    return file.split or PurePosixPath(file.path.partition("?")[0]).stem


def _raster_layer(file: LabelFile, raster: FinishedMap, grid: GeoBox) -> _Layer | None:
    if not overlaps(raster.geobox, grid):
        return None
    extent = extent_on(grid, raster.geobox) & whole(grid)
    corners = [extent.row_off, extent.col_off, extent.row_stop, extent.col_stop]
    return _Layer(file=file, values=on_grid(raster.open(), grid), extents=np.array([corners], float))


def _polygon_layer(part: LabelPolygons, grid: GeoBox, options: LabelOptions) -> _Layer | None:
    try:
        values = burn(part.features, part.codes, grid, name=part.file.path, all_touched=options.all_touched)
    except GridError:  # none of them lies on this scene
        return None
    names = tuple(sorted(set(part.groups)))
    grouped = None
    if options.split_column:
        numbers = [names.index(group) for group in part.groups]
        grouped = burn(part.features, numbers, grid, name=part.file.path, all_touched=options.all_touched)
    # A pixel more on each side: what a polygon touches begins before it.
    bounds = shapely.bounds(np.array(values.polygons, object))[:, [1, 0, 3, 2]] + [-1, -1, 1, 1]
    return _Layer(file=part.file, values=values, extents=bounds, groups=grouped, group_names=names, is_polygons=True)
