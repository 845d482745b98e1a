"""Polygons as well-known binary, an array of them in one compiled pass."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

__all__ = ["as_wkb"]

Bytes = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]

_HEAD = np.frombuffer(b"\x01\x03\x00\x00\x00\x01\x00\x00\x00", np.uint8)
"""Little-endian, a polygon, of one ring; the number of its points follows."""
_COUNT, _POINT = 4, 16


def as_wkb(shapes: npt.NDArray[np.object_]) -> Any:
    """An Arrow array of ISO WKB, little-endian, byte for byte what shapely writes.

    Polygons without holes, which is what most regions of a map are, are written here, all at once; shapely writes the
    others one by one.
    """
    counts = shapely.get_num_coordinates(shapes)
    plain = (
        (shapely.get_type_id(shapes) == shapely.GeometryType.POLYGON)
        & (shapely.get_num_interior_rings(shapes) == 0)
        & (shapely.get_coordinate_dimension(shapes) == 2)
        & (counts > 0)
    )
    others = np.flatnonzero(~plain)
    texts = [np.frombuffer(text, np.uint8) for text in shapely.to_wkb(shapes[others], flavor="iso")]
    lengths = len(_HEAD) + _COUNT + _POINT * counts.astype(np.int64)
    lengths[others] = [len(text) for text in texts]
    starts = np.concatenate(([0], np.cumsum(lengths)))
    data = np.empty(starts[-1], np.uint8)
    for place, text in zip(starts[others], texts, strict=True):
        data[place : place + len(text)] = text
    points = np.ascontiguousarray(shapely.get_coordinates(shapes[plain]))
    _write(data, starts[:-1][plain], points.view(np.uint8), counts[plain])
    offsets = pa.py_buffer(starts.astype(np.int32))
    return pa.BinaryArray.from_buffers(pa.binary(), len(shapes), [None, offsets, pa.py_buffer(data)])


@numba.njit(cache=True, nogil=True)
def _write(data: Bytes, starts: IntArray, points: Bytes, counts: Any) -> None:
    """Writes polygons of one ring.

    Args:
        data: Bytes of all geometries.
        starts: (n,) where each begins.
        points: (vertex, 16) bytes of x and y.
        counts: (n,) vertices of each.
    """
    vertex = 0
    for number in range(len(starts)):
        at = starts[number]
        for place in range(len(_HEAD)):
            data[at + place] = _HEAD[place]
        at += len(_HEAD)
        for place in range(_COUNT):
            data[at + place] = counts[number] >> (8 * place) & 255
        at += _COUNT
        for _ in range(counts[number]):
            for place in range(_POINT):
                data[at + place] = points[vertex, place]
            at, vertex = at + _POINT, vertex + 1
