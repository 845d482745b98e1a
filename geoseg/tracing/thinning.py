"""Rings drawn anew: cut into arcs, with fewer vertices, and with curves in place of corners.

The kernels of `geoseg.tracing.arcs`. Which vertices of an arc go is decided by the areas of their triangles and by the
corners of the raster in them; no other ring is looked at.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from geoseg.tracing.corners import EAST, NODE, OUTER, SOUTH, VERTEX, flag_at

__all__ = ["LARGEST", "draw", "place"]

FloatArray = npt.NDArray[np.float64]

LARGEST = 1 << 30
"""Twice the area of the largest triangle that is ever cut off, in pixels."""

FARTHEST = 1000
"""How many pixel sides an arc follows the next one to see where it ends."""

CURVE = 4
"""Lines that a rounded corner is drawn with."""


@numba.njit(cache=True, nogil=True)
def draw(xy: Any, rings: Any, pages: Any, limits: Any, smooth: bool) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Rings (vertex, xy) with their offsets (ring + 1,), simplified and rounded."""
    longest = 0
    for ring in range(len(rings) - 1):
        longest = max(longest, rings[ring + 1] - rings[ring])
    path = np.empty((longest, 2), np.int64)
    links = np.empty((longest, 3), np.int64)
    heap = np.empty(3 * longest, np.int64)
    drawn = np.empty((len(xy) * (CURVE + 1 if smooth else 1), 2), np.float64)
    ends = np.zeros(len(rings), np.int64)
    zero: Any = np.int64(0)  # the number 0 itself has a type of its own, and all that takes it would be compiled twice
    at = zero
    for ring in range(len(rings) - 1):
        low, high = rings[ring], rings[ring + 1] - 1
        count = high - low
        shift = _beginning(xy, low, high, pages)
        for k in range(count + 1):
            for axis in range(2):
                path[k, axis] = xy[low + (shift + k) % count, axis]
        begin = zero
        for end in range(1, count + 1):
            if end == count or flag_at(pages, path[end, 0], path[end, 1]) & NODE:
                _thin(path, begin, end, pages, limits, links, heap)
                begin = end
        at = _write(path, count, (count - shift) % count, links, pages, smooth, drawn, at)
        ends[ring + 1] = at
    return drawn[:at].copy(), ends


@numba.njit(cache=True, nogil=True)
def _beginning(xy: Any, low: int, high: int, pages: Any) -> int:
    """Where to cut a ring first: at any node; without one at its first vertex in row-major order."""
    best = low
    for k in range(low, high):
        if flag_at(pages, xy[k, 0], xy[k, 1]) & NODE:
            return k - low
        if _before(xy, k, best):
            best = k
    return best - low


@numba.njit(cache=True, nogil=True)
def _write(path: Any, count: int, lead: int, links: Any, pages: Any, smooth: bool, drawn: Any, at: int) -> int:
    """Puts what is left of a ring into `drawn` from `at` on, vertex `lead` or the next one first; where it ends."""
    begin = first = at
    before = count - 1
    while links[before, 2] < 0:
        before -= 1
    for k in range(count):
        if k == lead:
            first = at
        if links[k, 2] < 0:
            continue
        after = k + 1
        while after < count and links[after, 2] < 0:
            after += 1
        fixed = flag_at(pages, path[k, 0], path[k, 1]) & (NODE | OUTER)
        if smooth and not fixed and _is_free(path, before, k, k or count, after, pages):
            at = _bend(path, (before, k, after), drawn, begin, at)
        else:
            drawn[at, 0], drawn[at, 1] = path[k, 0], path[k, 1]
            at += 1
        before = k
    if _same(drawn, at - 1, begin):
        at -= 1
    if begin < first < at:
        _flip(drawn, begin, first - 1)
        _flip(drawn, first, at - 1)
        _flip(drawn, begin, at - 1)
    drawn[at, 0], drawn[at, 1] = drawn[begin, 0], drawn[begin, 1]
    return at + 1


@numba.njit(cache=True, nogil=True)
def _bend(path: Any, corner: tuple[int, int, int], drawn: Any, begin: int, at: int) -> int:
    """Draws the quadratic Bezier curve of three vertices, from middle to middle of their lines; returns where it ends.

    All numbers are sums of few powers of two, so no rounding tells one direction from the other.
    """
    for step in range(CURVE + 1):
        t = step / CURVE
        for axis in range(2):
            a, b, c = path[corner[0], axis], path[corner[1], axis], path[corner[2], axis]
            drawn[at, axis] = (1 - t) * (1 - t) * (a + b) / 2 + 2 * t * (1 - t) * b + t * t * (b + c) / 2
        at += at == begin or not _same(drawn, at, at - 1)
    return at


@numba.njit(cache=True, nogil=True)
def place(drawn: Any, ends: Any, transform: Any) -> None:
    """Moves vertices (vertex, xy) where they belong; exteriors stay counter-clockwise where y points up."""
    a, b, c, d, e, f = transform
    for at in range(len(drawn)):
        col, row = drawn[at, 0], drawn[at, 1]
        drawn[at, 0], drawn[at, 1] = col * a + row * b + c, col * d + row * e + f
    if a * e - b * d < 0:
        for ring in range(len(ends) - 1):
            _flip(drawn, ends[ring], ends[ring + 1] - 1)


@numba.njit(cache=True, nogil=True)
def _thin(path: Any, low: int, high: int, pages: Any, limits: Any, links: Any, heap: Any) -> None:
    """Decides which vertices of the arc `low` to `high` of `path` go: their third link becomes -1.

    `links` are the vertex before, the vertex after and twice the area of the triangle of the three.
    """
    for k in range(low, high + 1):
        links[k, 0], links[k, 1], links[k, 2] = k - 1, k + 1, 0
    if high - low == 1 or flag_at(pages, path[low + 1, 0], path[low + 1, 1]) & OUTER:
        return
    closed = _same(path, low, high)
    backwards = _before(path, high - 1, low + 1) if closed else _before(path, high, low)
    if backwards:
        _flip(path, low, high)
    _cut_off(path, low, high, closed, pages, limits, links, heap)
    if backwards:
        _flip(path, low, high)
        _flip(links, low, high)


@numba.njit(cache=True, nogil=True)
def _cut_off(path: Any, low: int, high: int, closed: bool, pages: Any, limits: Any, links: Any, heap: Any) -> None:
    """Takes vertices out of an arc that runs in its own direction, the smallest triangle first."""
    inner = high - low - 1
    size: Any = np.int64(0)
    for k in range(low + 1, high):
        size = _offer(path, k, limits, links, heap, size)
    while size > 0 and not (closed and inner == 2):  # three corners are the least that a region has
        k, area = heap[0] & 0xFFFFFFFF, heap[0] >> 32
        size = _pop(heap, size)
        if links[k, 2] != area:
            continue
        before, after = links[k, 0], links[k, 1]
        if not _is_free(path, before, k, k, after, pages):
            continue
        if not closed and inner == 1 and not _may_vanish(path, low, k, high, pages):
            break
        links[k, 2] = -1
        links[before, 1], links[after, 0] = after, before
        inner -= 1
        if before > low:
            size = _offer(path, before, limits, links, heap, size)
        if after < high:
            size = _offer(path, after, limits, links, heap, size)


@numba.njit(cache=True, nogil=True)
def _offer(path: Any, k: int, limits: Any, links: Any, heap: Any, size: int) -> int:
    """Notes the triangle of a vertex, and puts it on the heap if it may be cut off; returns the heap's size."""
    area = abs(_bulge(path, links[k, 0], k, links[k, 1]))
    links[k, 2] = area
    if area > limits[path[k, 1]]:
        return size
    key = (area << 32) + k
    at = size
    while at > 0 and heap[(at - 1) // 2] > key:
        heap[at] = heap[(at - 1) // 2]
        at = (at - 1) // 2
    heap[at] = key
    return size + 1


@numba.njit(cache=True, nogil=True)
def _pop(heap: Any, size: int) -> int:
    """Takes the smallest off the heap; returns its size."""
    size -= 1
    key, at = heap[size], 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = key
    return size


@numba.njit(cache=True, nogil=True)
def _may_vanish(path: Any, low: int, k: int, high: int, pages: Any) -> bool:
    """Whether an open arc may become the straight line between its ends, its last vertex being `k`.

    If two arcs with the same ends did, the region between them would be gone. Nothing is left between them then, so it
    is a region with these two arcs around it, and they bend away from each other: both see it, and the one that bends
    to the right gives way. (Of two that bend to one side, one has a corner in the other's last triangle.)
    """
    bulge = _bulge(path, low, k, high)
    if bulge == 0:
        return True
    turn = 3 if bulge > 0 else 1
    x, y = path[low, 0], path[low, 1]
    heading = _towards(path[low + 1, 0] - x, path[low + 1, 1] - y) + turn
    while not _is_line(pages, x, y, heading % 4):
        heading += turn
    is_straight = True
    for _ in range(FARTHEST):
        x, y = _ahead(x, y, heading % 4)
        if flag_at(pages, x, y) & NODE:
            return x != path[high, 0] or y != path[high, 1] or (bulge > 0 and not is_straight)
        if flag_at(pages, x, y) & VERTEX:
            is_straight = False
            heading += 1 if _is_line(pages, x, y, (heading + 1) % 4) else 3
    return False


@numba.njit(cache=True, nogil=True)
def _towards(across: int, down: int) -> int:
    """The heading of a step along a row or a column: 0 east, 1 south, 2 west, 3 north."""
    if down == 0:
        return 0 if across > 0 else 2
    return 1 if down > 0 else 3


@numba.njit(cache=True, nogil=True)
def _ahead(x: int, y: int, heading: int) -> tuple[int, int]:
    """The next corner."""
    return x + (heading == 0) - (heading == 2), y + (heading == 1) - (heading == 3)


@numba.njit(cache=True, nogil=True)
def _is_line(pages: Any, x: int, y: int, heading: int) -> bool:
    """Whether a boundary leaves a corner."""
    if heading >= 2:
        x, y = _ahead(x, y, heading)
    return x >= 0 and y >= 0 and flag_at(pages, x, y) & (SOUTH if heading % 2 else EAST) > 0


@numba.njit(cache=True, nogil=True)
def _is_free(path: Any, a: int, b: int, again: int, c: int, pages: Any) -> bool:
    """Whether the closed triangle of three vertices holds no corner but those of the path between `a` and `c`.

    `again` is `b`, or where the path comes back to it if that is a ring's beginning.
    """
    # By Pick's theorem nothing is in or on the triangle of half a pixel.
    if abs(_bulge(path, a, b, c)) == 1:
        return True
    top = min(path[a, 1], path[b, 1], path[c, 1])
    bottom = max(path[a, 1], path[b, 1], path[c, 1])
    found = 0
    for y in range(top, bottom + 1):
        west, east = _span(path, a, b, c, y)
        for x in range(west, east + 1):
            found += (flag_at(pages, x, y) & VERTEX) > 0
    if found == 3:
        return True
    own = 3
    for k in range(a + 1, again):
        own += top <= path[k, 1] <= bottom and _covers(path, a, b, c, k)
    for k in range(b + 1, c):
        own += top <= path[k, 1] <= bottom and _covers(path, a, b, c, k)
    return found == own


@numba.njit(cache=True, nogil=True)
def _covers(path: Any, a: int, b: int, c: int, k: int) -> bool:
    """Whether a vertex in one of the rows of a closed triangle lies in it."""
    west, east = _span(path, a, b, c, path[k, 1])
    return bool(west <= path[k, 0] <= east)


@numba.njit(cache=True, nogil=True)
def _span(path: Any, a: int, b: int, c: int, y: int) -> tuple[int, int]:
    """The first and the last column of row `y` in a closed triangle that reaches to that row."""
    nowhere: Any = np.int64(-1)
    west, east = _stretched(path, a, b, y, nowhere + LARGEST + 1, nowhere)
    west, east = _stretched(path, b, c, y, west, east)
    return _stretched(path, c, a, y, west, east)


@numba.njit(cache=True, nogil=True)
def _stretched(path: Any, top: int, bottom: int, y: int, west: int, east: int) -> tuple[int, int]:
    """A stretch of row `y` made long enough for where the line between two vertices meets the row."""
    if path[bottom, 1] < path[top, 1]:
        top, bottom = bottom, top
    height = path[bottom, 1] - path[top, 1]
    if not 0 <= y - path[top, 1] <= height:
        return west, east
    x, across = path[top, 0], path[bottom, 0] - path[top, 0]
    if height == 0:
        return min(west, x, x + across), max(east, x, x + across)
    along = across * (y - path[top, 1])
    return min(west, x - (-along) // height), max(east, x + along // height)


@numba.njit(cache=True, nogil=True)
def _before(path: Any, one: int, other: int) -> bool:
    """Whether vertex `one` comes before the other in row-major order."""
    return bool(path[one, 1] < path[other, 1] or (path[one, 1] == path[other, 1] and path[one, 0] < path[other, 0]))


@numba.njit(cache=True, nogil=True)
def _same(path: Any, one: int, other: int) -> bool:
    """Whether two vertices are in one place."""
    return bool(path[one, 0] == path[other, 0] and path[one, 1] == path[other, 1])


@numba.njit(cache=True, nogil=True)
def _bulge(path: Any, a: int, b: int, c: int) -> int:
    """Twice the area of a triangle, in pixels; above 0 if b lies to the right of the way from a to c, rows run down."""
    ax, ay = path[a, 0], path[a, 1]
    return int((path[c, 0] - ax) * (path[b, 1] - ay) - (path[c, 1] - ay) * (path[b, 0] - ax))


@numba.njit(cache=True, nogil=True)
def _flip(array: Any, low: int, high: int) -> None:
    """Reverses the rows `low` to `high`, both included."""
    while low < high:
        for axis in range(array.shape[1]):
            array[low, axis], array[high, axis] = array[high, axis], array[low, axis]
        low += 1
        high -= 1
