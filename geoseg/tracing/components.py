"""Connected components of labels, by a forest that points at earlier pixels (union-find)."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from geoseg.types import Labels

__all__ = ["add_areas", "add_up", "census", "corner_groups", "joined", "label_components", "root_of"]

IntArray = npt.NDArray[np.int64]


def label_components(labels: Labels, nodata: int | None) -> tuple[npt.NDArray[Any], int]:
    """4-connected components (row + 2, col + 2), numbered 1, 2, ... by first pixel, and how many; 0 for none.

    The border of one pixel around them is 0.
    """
    height, width = labels.shape
    # The forest of the union-find lives in the raster of components itself and points at pixels.
    small = (height + 2) * (width + 2) <= np.iinfo(np.int32).max
    padded = np.full((height + 2, width + 2), -1, np.int32 if small else np.int64)
    _link(labels, nodata is not None, 0 if nodata is None else nodata, padded.reshape(-1))
    count = _number(padded.reshape(-1))
    return padded.astype(np.int32, copy=False), count


def joined(count: int, *pairs: npt.NDArray[Any]) -> tuple[IntArray, int]:
    """(count,) which of the sets each of `count` things belongs to, given pairs (n, 2) of one set; and how many sets.

    Sets are numbered from 0 by their first member.

    >>> joined(4, np.array([[3, 1]]))[0].tolist()
    [0, 1, 2, 1]
    """
    parent = np.arange(count)
    for each in pairs:
        _unite(parent, each.astype(np.int64, copy=False))
    sets = _number(parent)
    return parent - 1, sets


def corner_groups(padded: npt.NDArray[Any], values: npt.NDArray[Any]) -> IntArray:
    """(component,) the first component, from 0, of the 8-connected group that each 4-connected one belongs to.

    Args:
        padded: Components as `label_components` gives them.
        values: (component,) class value.
    """
    parent = np.arange(len(values))
    _link_corners(padded, values, parent)
    return parent


@numba.njit(cache=True, nogil=True)
def root_of(parent: Any, pixel: int) -> int:
    """The root of the tree that holds a node of the forest `parent`; halves the path on the way."""
    while parent[pixel] != pixel:
        parent[pixel] = parent[parent[pixel]]
        pixel = parent[pixel]
    return pixel


@numba.njit(cache=True, nogil=True)
def _unite(parent: Any, pairs: Any) -> None:
    for at in range(len(pairs)):
        one, other = root_of(parent, pairs[at, 0]), root_of(parent, pairs[at, 1])
        parent[max(one, other)] = min(one, other)


@numba.njit(cache=True, nogil=True)
def _link(labels: Any, has_nodata: bool, nodata: int, parent: Any) -> None:
    """Points every pixel at an earlier pixel of its component, the first of a tree at itself; nodata stays -1."""
    height, width = labels.shape
    for row in range(height):
        pixel = (row + 1) * (width + 2)
        root = -1
        for col in range(width):
            pixel += 1
            value = labels[row, col]
            if has_nodata and value == nodata:
                continue
            up = row > 0 and labels[row - 1, col] == value
            left = col > 0 and labels[row, col - 1] == value
            if not left:
                root = root_of(parent, pixel - width - 2) if up else pixel
            elif up and labels[row - 1, col - 1] != value:  # with the corner alike, both are one tree already
                other = root_of(parent, pixel - width - 2)
                parent[max(root, other)] = min(root, other)
                root = min(root, other)
            parent[pixel] = root


@numba.njit(cache=True, nogil=True)
def _number(parent: Any) -> int:
    """Turns the forest into numbers 1, 2, ... by first pixel, 0 for none; returns how many."""
    count = 0
    for pixel in range(parent.size):
        up = parent[pixel]
        if up == pixel:
            count += 1
            parent[pixel] = -1 - count
        elif up >= 0:  # a parent comes before its child, so it has its number
            parent[pixel] = parent[up]
    for pixel in range(parent.size):
        parent[pixel] = -1 - parent[pixel]
    return count


@numba.njit(cache=True, nogil=True)
def census(padded: Any, count: int) -> tuple[IntArray, IntArray]:
    """Pixels per component, and the flat index (without border) of each one's first pixel."""
    pixels = np.zeros(count, np.int64)
    first = np.zeros(count, np.int64)
    height, width = padded.shape
    for row in range(1, height - 1):
        for col in range(1, width - 1):
            component = padded[row, col] - 1
            if component >= 0:
                if pixels[component] == 0:
                    first[component] = (row - 1) * (width - 2) + col - 1
                pixels[component] += 1
    return pixels, first


@numba.njit(cache=True, nogil=True)
def _link_corners(padded: Any, values: Any, parent: Any) -> None:
    """Points components at the first of those that hold together: of one value, and touching at a corner."""
    height, width = padded.shape
    for row in range(1, height - 2):
        for col in range(1, width - 1):
            upper = padded[row, col]
            for side in (-1, 1):
                lower = padded[row + 1, col + side]
                if upper > 0 and lower > 0 and lower != upper and values[lower - 1] == values[upper - 1]:
                    one, other = root_of(parent, upper - 1), root_of(parent, lower - 1)
                    parent[max(one, other)] = min(one, other)
    for component in range(len(parent)):
        parent[component] = parent[parent[component]]  # a parent comes before its child, so it has its root


@numba.njit(cache=True, nogil=True)
def add_up(padded: Any, raster: Any, sums: Any) -> None:
    """Adds the numbers of a `raster` (row, col) to the `sums` (component,) of the components that they lie in."""
    for row in range(raster.shape[0]):
        for col in range(raster.shape[1]):
            component = padded[row + 1, col + 1]
            if component > 0:
                sums[component - 1] += raster[row, col]


@numba.njit(cache=True, nogil=True)
def add_areas(padded: Any, nodes: Any, lines: Any, col_off: int, scale: float, sums: Any) -> None:
    """Adds the areas of pixels to the `sums` (component,), in whole units.

    What is rounded is the area of all pixels to the left of a vertex, so a stretch of pixels in a row has an error of
    one unit however long it is, and the same parts have the same sum however a row is cut.

    Args:
        padded: Components (row + 2, col + 2).
        nodes: (node,) columns of the raster.
        lines: (row, node) area of the pixels in these columns; those between lie on a straight line.
        col_off: Column of the first pixel.
        scale: Units in an area of 1.
        sums: (component,) units so far.
    """
    before = np.zeros(len(nodes))
    for row in range(len(lines)):
        line = lines[row]
        for node in range(len(nodes) - 1):
            pixels = nodes[node + 1] - nodes[node]
            before[node + 1] = before[node] + pixels * line[node] + (line[node + 1] - line[node]) * (pixels - 1) / 2
        node, last, low = 0, 0, 0
        for at in range(1, padded.shape[1]):
            component = padded[row + 1, at] if at < padded.shape[1] - 1 else 0
            if component == last:
                continue
            col = col_off + at - 1
            while node + 1 < len(nodes) and nodes[node + 1] <= col:
                node += 1
            pixels, rise = col - nodes[node], 0.0
            if node + 1 < len(nodes):
                rise = (line[node + 1] - line[node]) / (nodes[node + 1] - nodes[node])
            high = int(np.rint((before[node] + pixels * line[node] + rise * pixels * (pixels - 1) / 2) * scale))
            if last > 0:
                sums[last - 1] += high - low
            last, low = component, high
