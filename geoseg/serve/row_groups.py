"""Row groups of a run's GeoParquet as vector tiles need them: decoded, in pieces where large, kept for a while."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from geoseg.catalog.query import bounds_near
from geoseg.serve.opened import Opened, fingerprint
from geoseg.serve.packed_rings import PackedRings, pack, read_wkb
from geoseg.serve.polygon_file import PolygonFile
from geoseg.serve.rings import Rings, joined, pieces
from geoseg.serve.seams import united

__all__ = ["ATTRIBUTES", "Chosen", "choose", "read_ahead"]

Numbers = npt.NDArray[np.int64]
Box = tuple[float, float, float, float]

_ROOM = 256 << 20  # bytes of decoded row groups, of all runs together
_LARGE = 1 << 20  # bytes of a polygon that is cut into pieces, for most tiles see little of it
_PIECE = 1024
"""Points of a piece, about."""
ATTRIBUTES = ("class_id", "class_name", "from_class", "to_class", "area_m2", "confidence_mean")
"""What a vector tile tells of a polygon besides its id, where the run knows it."""
_READ = ("id", *ATTRIBUTES, "geometry", "bbox")
_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Group:
    """One row group."""

    rows: Any
    """A pyarrow.Table of ids and `ATTRIBUTES`."""
    boxes: npt.NDArray[np.float64]
    """(row, side) in the file's CRS."""
    rings: PackedRings
    """Of each row; none where the polygon is in pieces."""
    pieces: dict[int, tuple[PackedRings, npt.NDArray[np.float64]]]
    """Row -> the pieces of a large polygon, and their boxes."""

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        cut = sum(parts.nbytes + boxes.nbytes for parts, boxes in self.pieces.values())
        return int(self.rows.nbytes + self.boxes.nbytes + self.rings.nbytes + cut)


_KEPT: Opened[_Group] = Opened(most=_ROOM, weigh=lambda group: group.size)
_LOADERS = ThreadPoolExecutor(2, "geoseg-row-groups")  # a tile at a border needs several, and zstd lets threads run
_CUTTING = threading.Lock()  # that many who wait for one large polygon do not all cut it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chosen:
    """Polygons of a row group that a tile shows."""

    group: _Group
    """Where they are."""
    places: Numbers
    """Their rows."""
    reach: Box
    """What of them matters, in the file's CRS."""
    crs: str
    """Of the file."""

    def rows(self) -> Any:
        """A pyarrow.Table of their ids and `ATTRIBUTES`, those that the file has."""
        return self.group.rows.take(self.places)

    def rings(self, *, whole: bool) -> Rings:
        """Their rings in the file's CRS, of large ones those near by; owners count in the order of `places`.

        Large ones are in pieces, or `whole` again.
        """
        parts = [self.group.rings.rings(self.places)]
        for index, row in enumerate(self.places.tolist()):
            if row in self.group.pieces:
                packed, boxes = self.group.pieces[row]
                near = packed.rings(np.flatnonzero(_touching(boxes, self.reach)))
                near = united(near) if whole else near
                parts.append(replace(near, owners=np.full(len(near.owners), index)))
        return joined(parts)


def choose(file: PolygonFile, area: Any, least_area: float, most: int) -> list[Chosen]:
    """Polygons whose boxes touch an area in longitude and latitude; of more than `most` the largest.

    Args:
        file: Where they are.
        area: Where they lie.
        least_area: Of a polygon, in square metres.
        most: Number of polygons, as far as areas differ.
    """
    if not shapely.intersects(file.footprint, area):
        return []
    reach = bounds_near(file.footprint, area, file.crs)
    found = []
    parts, boxes = _parts(file)
    near = [parts[index] for index in np.flatnonzero(_touching(boxes, reach)).tolist()]
    for group in _LOADERS.map(partial(_group, file), near):
        places = np.flatnonzero(_touching(group.boxes, reach) & (_areas(group) >= least_area))
        found.append(Chosen(group=group, places=places, reach=reach, crs=file.crs))
    areas = np.concatenate([_areas(each.group)[each.places] for each in found] or [np.empty(0)])
    if len(areas) > most:
        least = np.partition(areas, -most)[-most]
        found = [replace(each, places=each.places[_areas(each.group)[each.places] >= least]) for each in found]
    return [each for each in found if len(each.places)]


def read_ahead(file: PolygonFile) -> None:
    """Decodes row groups before a tile needs them, as many as there is room for."""
    size = 0
    for part in _parts(file)[0]:
        size += _group(file, part).size
        if size > _ROOM:
            return


@lru_cache(maxsize=64)
def _parts(file: PolygonFile) -> tuple[Sequence[Any], npt.NDArray[np.float64]]:
    return file.parts()


def _group(file: PolygonFile, part: Any) -> _Group:
    """A row group, a pyarrow.dataset.Fragment, decoded now or before."""
    key = str(file.path), fingerprint(file.path), part.row_groups[0].id
    large = part.row_groups[0].total_byte_size > 8 * _LARGE
    with _CUTTING if large else nullcontext():
        return _KEPT.get(key, partial(_load, part, file.schema))


def _load(part: Any, schema: Any) -> _Group:
    import pyarrow.compute as pc

    table = part.to_table(schema=schema, columns=[name for name in _READ if name in schema.names])
    wkb = _flat(table["geometry"])
    if "bbox" in table.schema.names:
        box = _flat(table["bbox"])
        boxes = np.column_stack([np.asarray(box.field(side)) for side in _SIDES])
    else:
        boxes = shapely.bounds(shapely.from_wkb(np.asarray(wkb)))
    is_large = np.asarray(pc.binary_length(wkb)) > _LARGE
    small = np.flatnonzero(~is_large)
    read = read_wkb(wkb, small)
    rings = pack(replace(read, owners=small[read.owners]), len(wkb))
    cut = {row: _in_pieces(read_wkb(wkb, np.array([row]))) for row in np.flatnonzero(is_large).tolist()}
    rows = table.drop_columns([name for name in ("geometry", "bbox") if name in table.schema.names])
    return _Group(rows=rows, boxes=boxes, rings=rings, pieces=cut)


def _in_pieces(rings: Rings) -> tuple[PackedRings, npt.NDArray[np.float64]]:
    parts = list(pieces(rings, _PIECE))
    numbered = [replace(part, owners=np.full(len(part.owners), number)) for number, part in enumerate(parts)]
    return pack(joined(numbered), len(parts)), np.array([part.bounds for part in parts])


def _flat(column: Any) -> Any:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _areas(group: _Group) -> npt.NDArray[np.float64]:
    """In square metres; infinite where the file does not know them."""
    if "area_m2" not in group.rows.schema.names:
        return np.full(len(group.rows), np.inf)
    return np.asarray(group.rows["area_m2"])


def _touching(boxes: npt.NDArray[np.float64], reach: Box) -> npt.NDArray[np.bool_]:
    left, bottom, right, top = reach
    return np.asarray((boxes[:, 0] <= right) & (boxes[:, 2] >= left) & (boxes[:, 1] <= top) & (boxes[:, 3] >= bottom))
