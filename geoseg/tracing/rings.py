"""Boundaries of components: walked from pixel corner to pixel corner, chained into rings, put together as polygons.

A boundary is a chain of directed pixel edges with the component on the right hand. Where the pixels around a vertex
tell what comes next, the walk goes on. It ends a *run* where it leaves the pixels that it knows, or where it meets a
pixel of the same value across a corner and does not know whether that is the same component. The keys of a run name
the edge before it and its own last edge, each by the vertex where that edge ends and by its heading; so they are the
same for everybody, and runs of several chunks chain by them alone.

Where a component touches itself at a corner, its boundary turns away from the pixel that it comes from. So a ring never
meets itself (a closed path within the component separates the two sides of the corner), and what would pinch off is a
ring of its own. For the same reason a ring that closes within a chunk needs no second look: where it meets its own
value across a corner unknowingly, the other pixel belongs to another component of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numba
import numpy as np
import numpy.typing as npt
import shapely

__all__ = ["assemble", "chain", "entries", "look_beyond", "trace"]

IntArray = npt.NDArray[np.int64]

Place: TypeAlias = tuple[int, int, int, int]
"""Row and column of a chunk's first pixel; vertices in a row of the whole raster; and joints: -1 for vertices only
where a boundary turns, otherwise also where that of a neighbour turns or ends on a straight stretch, and where a
stretch crosses a row or column that is a multiple of the number (if not 0)."""


@numba.njit(cache=True, nogil=True)
def trace(padded: Any, values: Any, starts: Any, place: Place) -> tuple[Any, IntArray]:
    """Walks every boundary once: vertices (row, col) int32, and runs (key before, own key, component, end).

    The end is where a run ends among the vertices; it has those at which its edges begin. Rings that close come last,
    each from its first edge that heads east, in row-major order of these; both their keys are the same.

    Args:
        padded: Components (row + 2, col + 2); in the border -n for what is of component n, other negative numbers for
            other pixels (those of neighbours are equal where their values are), and 0 for none.
        values: Class values of the same pixels.
        starts: Where boundaries come in from outside, as `entries` gives them.
        place: Where the first pixel lies, and where vertices are wanted.
    """
    width = padded.shape[1]
    flat = padded.reshape(-1)
    walked = np.zeros(flat.size, np.uint8)  # top edges, by the pixel below
    # By heading, 0 east, 1 south, 2 west, 3 north: a step, and the pixels ahead to the left and to the right, from the
    # pixel south-east of the vertex.
    steps = np.array([[1, width, -1, -width], [-width, 0, -1, -width - 1], [0, -1, -width - 1, -width]])
    view = (flat, values.reshape(-1), walked, steps)
    vertices = np.empty((1024, 2), np.int32)
    runs = np.empty((1024, 4), np.int64)
    count = n_runs = 0
    for at in range(len(starts)):
        here, before, heading, corner = starts[at, 0], starts[at, 1], starts[at, 2], starts[at, 3] == 1
        cut = True
        while cut:
            runs = _grown(runs, n_runs + 1)
            runs[n_runs, 0], runs[n_runs, 2] = _key(here, before, width, place), flat[here + steps[2, heading]]
            vertices, count, here, before, cut = _walk(view, place, vertices, count, here, heading, corner, False)
            runs[n_runs, 1], runs[n_runs, 3] = _key(here, before, width, place), count
            n_runs += 1
            heading, corner = (before + 1) % 4, True
    for start in range(width, flat.size - width):
        component = flat[start]
        if component <= 0 or walked[start] or abs(flat[start - width]) == component:
            continue
        vertices, count, here, before, cut = _walk(view, place, vertices, count, start, 0, True, True)
        runs = _grown(runs, n_runs + 1)
        runs[n_runs, 0] = runs[n_runs, 1] = _key(start, before, width, place)
        runs[n_runs, 2], runs[n_runs, 3] = component, count
        n_runs += 1
    return vertices[:count].copy(), runs[:n_runs]


@numba.njit(cache=True, nogil=True)
def _walk(
    view: Any, place: Place, vertices: Any, count: int, here: int, heading: int, corner: bool, closes: bool
) -> tuple[Any, int, int, int, bool]:
    """One run: all vertices so far and how many, where it ends, its heading there, and whether it was cut there."""
    flat, seen, walked, steps = view
    start, inside = here, here + steps[2, heading]
    component, value, width = flat[inside], seen[inside], steps[0, 1]
    row, col = here // width - 1 + place[0], here % width - 1 + place[1]
    while True:
        if corner:
            vertices = _grown(vertices, count + 1)
            vertices[count, 0], vertices[count, 1] = row, col
            count += 1
        if heading == 0:
            walked[here] = 1
        behind = flat[here + steps[1, heading]]
        here += steps[0, heading]
        row += (heading == 1) - (heading == 3)
        col += (heading == 0) - (heading == 2)
        if closes and here == start:
            return vertices, count, here, heading, False
        beside, beyond = flat[here + steps[1, heading]], flat[here + steps[2, heading]]
        if beside == component:
            heading = (heading + 3) % 4
            corner = True
        elif beyond == component and beside != -component:
            corner = abs(behind) != abs(beside) if place[3] >= 0 else False
            corner = corner or (place[3] > 0 and (row if heading % 2 else col) % place[3] == 0)
        elif abs(beyond) == component:
            return vertices, count, here, heading, False
        elif not closes and seen[here + steps[1, heading]] == value:
            return vertices, count, here, heading, True
        else:
            heading = (heading + 1) % 4
            corner = True


@numba.njit(cache=True, nogil=True)
def _key(here: int, heading: int, width: int, place: Place) -> int:
    """The edge that arrives at a vertex with a heading, as one number."""
    row, col = here // width - 1 + place[0], here % width - 1 + place[1]
    return 4 * (row * place[2] + col) + heading


@numba.njit(cache=True, nogil=True)
def entries(padded: Any, values: Any, place: Place) -> IntArray:
    """Where boundaries come into a chunk: (pixel south-east of the vertex, heading before, heading, 1 for a vertex).

    Arguments are those of `trace`; the border of `values` holds the pixels around, its corners included.
    """
    width = padded.shape[1]
    flat, seen = padded.reshape(-1), values.reshape(-1)
    right = np.array([0, -1, -width - 1, -width])
    found = np.empty((64, 4), np.int64)
    count = 0
    for row in range(padded.shape[0] - 1):
        outermost = row in {0, padded.shape[0] - 2}
        for col in range(0, width - 1, 1 if outermost else width - 2):
            here = (row + 1) * width + col + 1
            for heading in range(4):
                ahead, beside = here + right[heading], here + right[(heading + 3) % 4]
                behind, across = here + right[(heading + 1) % 4], here + right[(heading + 2) % 4]
                value = seen[ahead]
                if flat[ahead] <= 0 or seen[beside] == value or seen[behind] != value:
                    continue
                turns = seen[across] == value
                if flat[across if turns else behind] > 0:
                    continue
                along = row + place[0] if heading % 2 else col + place[1]
                corner = turns or (place[3] >= 0 and seen[across] != seen[beside])
                corner = corner or (place[3] > 0 and along % place[3] == 0)
                found = _grown(found, count + 1)
                found[count, 0], found[count, 1] = here, (heading + 1) % 4 if turns else heading
                found[count, 2], found[count, 3] = heading, corner
                count += 1
    return found[:count]


def look_beyond(padded: Any, values: Any, count: int, *, corners: bool) -> list[IntArray]:
    """The component of each pixel along top, bottom, left and right that has its like beyond, 0 for the others.

    Fills the border of `padded` as `trace` needs it.

    Args:
        padded: `count` components (row + 2, col + 2).
        values: Class values of the same pixels, and of those around; the least number for none.
        count: Number of components.
        corners: Whether a pixel beyond a corner is its like, too.
    """
    none, found = np.iinfo(values.dtype).min, []
    turned = ((padded, values), (padded[::-1], values[::-1]), (padded.T, values.T), (padded.T[::-1], values.T[::-1]))
    for components, seen in turned:
        inner, own, across = components[1, 1:-1], seen[1, 1:-1], seen[0]
        alike = (inner > 0) & (across[1:-1] == own)
        stretch = 1 + count + np.cumsum(across[1:-1] != across[:-2])
        components[0, 1:-1] = np.where(alike, -inner, np.where(across[1:-1] == none, 0, -stretch))
        if corners:
            alike |= (inner > 0) & ((across[:-2] == own) | (across[2:] == own))
        found.append(np.where(alike, inner, 0))
    return found


@numba.njit(cache=True, nogil=True)
def _grown(array: Any, size: int) -> Any:
    """`array` (n, k) with room for at least `size` rows."""
    if size <= len(array):
        return array
    larger = np.empty((max(size, 2 * len(array)), array.shape[1]), array.dtype)
    for at in range(len(array)):  # a slice would take numba two seconds more to compile
        for column in range(array.shape[1]):
            larger[at, column] = array[at, column]
    return larger


@numba.njit(cache=True, nogil=True)
def chain(following: Any, starts: Any, sizes: Any, vertices: Any) -> tuple[Any, Any, Any]:
    """Runs joined into rings: vertices (row, col), sizes (ring,), and one run of each (ring,).

    Each ring starts at its first edge that heads east, in row-major order, as `trace` has those that close.

    Args:
        following: (run,) the run that comes next.
        starts: (run,) where its vertices start.
        sizes: (run,) how many they are.
        vertices: (vertex, 2) row and column.
    """
    joined = np.empty_like(vertices)
    rings = np.empty((len(sizes), 2), np.int64)  # size, a run
    done = np.zeros(len(sizes), np.bool_)
    n_rings = end = 0
    for first in range(len(sizes)):
        start, run = end, first
        while not done[run]:
            done[run] = True
            for at in range(starts[run], starts[run] + sizes[run]):
                joined[end, 0], joined[end, 1] = vertices[at, 0], vertices[at, 1]
                end += 1
            run = following[run]
        if end > start:
            _turn(joined, start, end)
            rings[n_rings, 0], rings[n_rings, 1] = end - start, first
            n_rings += 1
    return joined, rings[:n_rings, 0].copy(), rings[:n_rings, 1].copy()


@numba.njit(cache=True, nogil=True)
def _turn(vertices: Any, start: int, end: int) -> None:
    """Turns the ring from `start` to `end` so that it begins with its first edge that heads east."""
    best = -1
    for at in range(start, end):
        after = at + 1 if at + 1 < end else start
        if vertices[at, 0] != vertices[after, 0] or vertices[at, 1] > vertices[after, 1]:
            continue
        if (
            best < 0
            or vertices[at, 0] < vertices[best, 0]
            or (vertices[at, 0] == vertices[best, 0] and vertices[at, 1] < vertices[best, 1])
        ):
            best = at
    kept = np.empty((best - start, 2), vertices.dtype)
    for at in range(start, best):
        kept[at - start, 0], kept[at - start, 1] = vertices[at, 0], vertices[at, 1]
    for at in range(best, end):
        vertices[at - best + start, 0], vertices[at - best + start, 1] = vertices[at, 0], vertices[at, 1]
    for at in range(len(kept)):
        vertices[end - len(kept) + at, 0], vertices[end - len(kept) + at, 1] = kept[at, 0], kept[at, 1]


def assemble(
    vertices: Any, starts: IntArray, sizes: IntArray, owner: IntArray, count: int, transform: Sequence[float]
) -> npt.NDArray[np.object_]:
    """Rings to polygons (count,), valid; exteriors counter-clockwise, holes clockwise where y points up.

    Args:
        vertices: (vertex, 2) row and column.
        starts: (ring,) where its vertices start.
        sizes: (ring,) how many they are; none comes twice.
        owner: (ring,) the polygon it belongs to, from 0; the first ring of each is the exterior, the others are holes.
        count: How many polygons.
        transform: a, b, c, d, e, f of ``x = a * col + b * row + c``, ``y = d * col + e * row + f``.
    """
    if count == 0:
        return np.empty(0, object)
    order = np.argsort(owner, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(sizes[order] + 1)])
    coords = _placed(vertices, starts[order], offsets, tuple(map(float, transform[:6])))
    ring_offsets = np.searchsorted(owner[order], np.arange(count + 1))
    return np.asarray(
        shapely.from_ragged_array(shapely.GeometryType.POLYGON, coords, (offsets, ring_offsets)), dtype=object
    )


@numba.njit(cache=True, nogil=True)
def _placed(vertices: Any, starts: Any, offsets: Any, transform: Any) -> npt.NDArray[np.float64]:
    """(vertex, xy) of the rings, closed, transformed and turned counter-clockwise."""
    a, b, c, d, e, f = transform
    backwards = a * e - b * d < 0
    coords = np.empty((offsets[-1], 2), np.float64)
    for ring in range(len(starts)):
        low, high = offsets[ring], offsets[ring + 1]
        for at in range(low, high):
            row, col = vertices[starts[ring] + (at - low if at + 1 < high else 0)]
            to = low + high - 1 - at if backwards else at
            coords[to, 0] = col * a + row * b + c
            coords[to, 1] = col * d + row * e + f
    return coords
