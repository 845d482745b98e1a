"""Polygons of a run, packed for a page: outlines as small differences, attributes as columns.

The file is read row group by row group, twice: first for how large the polygons are, then for those that fit. What does
not fit is left out from the smallest up, so that whatever is shown is all there is of its size.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
from affine import Affine

from geoseg.errors import SourceError

__all__ = ["PackedPolygons", "pack_polygons"]

BATCH = 4096
"""Polygons that are decoded at once."""
FEWEST = 10_000
"""Vertices that every outline may have; with more than a twentieth of the bytes it is eased."""
FINE = 16
"""Parts of a pixel that coordinates are told in where they lie between pixels."""
_OCTAVE = 16  # steps in which the smallest area doubles
_BINS = 128 * _OCTAVE
_VERTEX_BYTES, _ROW_BYTES = 1.3, 12.0  # of realistic maps, compressed; what they really take decides
_POINT = 16  # bytes of a vertex in WKB

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedPolygons:
    """The largest polygons of a run, in few bytes."""

    outlines: bytes
    """Deflated numbers of 7 bits a byte: rings of each polygon, points of each ring, and from each point to the next
    the difference in columns and in rows, signs in the lowest bit, in `steps` to the pixel."""
    attributes: bytes
    """Deflated JSON: column -> its numbers, or its words and which of them each polygon has."""
    steps: int
    """Parts of a pixel that coordinates count."""
    count: int
    """Polygons that are held."""
    total: int
    """Polygons that there are."""
    smallest: float
    """Square metres below which polygons are left out; 0 where none is."""
    eased: int
    """Outlines with fewer vertices than they have."""

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.outlines) + len(self.attributes)


def pack_polygons(file: BinaryIO, transform: Affine, largest: int, name: str = "polygons.parquet") -> PackedPolygons:
    """The polygons of a GeoParquet file in at most `largest` bytes, in the file's order.

    Memory is that of one row group and of what is kept.

    Args:
        file: As `geoseg.sink.vector` writes it: WKB, with a column ``area_m2``.
        transform: From columns and rows of the picture to the file's coordinates.
        largest: Bytes.
        name: What messages call the file.

    Raises:
        SourceError: It cannot be read, or holds no areas.
    """
    try:
        table = pq.ParquetFile(file)
        geometry = json.loads(table.schema_arrow.metadata[b"geo"])["primary_column"]
        most = max(FEWEST, largest // 20)
        rows, need = _census(table, geometry, most)
        room = float(largest)
        while True:
            first = _first_bin(need, room)
            stream, columns = _packed(table, geometry, transform, first, most)
            packed = _finished(stream, columns, first, int(rows.sum()))
            if packed.size <= largest or packed.count == 0:
                return packed
            room = min(room, need[first:].sum()) * 0.95 * largest / packed.size
    except (pa.ArrowException, shapely.errors.ShapelyError, KeyError, TypeError, ValueError, OSError) as error:
        raise SourceError(f"{name}: cannot be read as polygons of a run: {error}") from error


def _bins_of(areas: npt.NDArray[np.float64]) -> Numbers:
    """Bin of each area in square metres; of none or an unknown one the first.

    >>> _bins_of(np.array([0.0, math.nan, 1.0, 2.0])).tolist()
    [0, 0, 1024, 1040]
    """
    known = np.where(areas > 0, areas, 2.0**-64)
    bins: Numbers = np.clip(np.floor(_OCTAVE * np.log2(known)) + _BINS // 2, 0, _BINS - 1).astype(np.int64)
    return bins


def _census(table: pq.ParquetFile, geometry: str, most: int) -> tuple[Numbers, npt.NDArray[np.float64]]:
    """Per bin of area: polygons, and bytes that they will take, about."""
    rows, need = np.zeros(_BINS, np.int64), np.zeros(_BINS)
    for batch in table.iter_batches(BATCH, columns=["area_m2", geometry]):
        bins = _bins_of(_floats(batch["area_m2"]))
        vertices = np.minimum(_floats(pc.binary_length(batch[geometry])) / _POINT, most)
        rows += np.bincount(bins, minlength=_BINS)
        need += np.bincount(bins, _ROW_BYTES + _VERTEX_BYTES * vertices, minlength=_BINS)
    return rows, need


def _floats(column: pa.Array) -> npt.NDArray[np.float64]:
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)


def _first_bin(need: npt.NDArray[np.float64], room: float) -> int:
    """The smallest areas of which, with all larger ones, there is room."""
    fitting = np.cumsum(need[::-1])[::-1] <= room
    return int(np.argmax(fitting)) if fitting.any() else _BINS


@dataclass(slots=True, kw_only=True)
class _Stream:
    """What has been packed so far."""

    place: Affine
    """From the file's coordinates to columns and rows."""
    steps: int
    most: int
    """Vertices of an outline."""
    rings: list[bytes] = field(default_factory=list)
    points: list[bytes] = field(default_factory=list)
    moves: list[bytes] = field(default_factory=list)
    at: Numbers = field(default_factory=lambda: np.zeros((1, 2), np.int64))
    """(1, 2) the last point."""
    count: int = 0
    eased: int = 0

    def add(self, polygons: npt.NDArray[np.object_]) -> bool:
        """Packs (n,) polygons; or nothing, and False, where corners lie between pixels but `steps` is 1."""
        large = shapely.get_num_coordinates(polygons) > self.most
        for index in np.flatnonzero(large):
            polygons[index] = _fewer(polygons[index], self.most, abs(self.place.determinant) ** -0.5)
        parts, of_part = shapely.get_parts(polygons, return_index=True)
        rings, of_ring = shapely.get_rings(parts, return_index=True)
        coords, of_point = shapely.get_coordinates(rings, return_index=True)
        a, b, c, d, e, f = self.place[:6]
        x, y = coords.T
        placed = np.column_stack([a * x + b * y + c, d * x + e * y + f]) * self.steps
        rounded = np.round(placed).astype(np.int64)
        if self.steps == 1 and len(placed) and np.abs(placed - rounded).max() > 0.01:
            return False
        path = rounded[np.append(of_point[1:] == of_point[:-1], False)[: len(rounded)]]  # rings close by themselves
        moves = np.diff(path, axis=0, prepend=self.at).ravel()
        self.rings.append(_varints(np.bincount(of_part[of_ring], minlength=len(polygons))))
        self.points.append(_varints(np.bincount(of_point, minlength=len(rings)) - 1))
        self.moves.append(_varints((moves << 1) ^ (moves >> 63)))
        self.at = path[-1:] if len(path) else self.at
        self.count += len(polygons)
        self.eased += int(large.sum())
        return True

    def deflated(self) -> bytes:
        return zlib.compress(b"".join([*self.rings, *self.points, *self.moves]), 6)


def _packed(
    table: pq.ParquetFile, geometry: str, transform: Affine, first: int, most: int
) -> tuple[_Stream, list[_Column]]:
    """All polygons whose areas lie in bin `first` or above: in whole pixels if that is where their corners lie."""
    for steps in (1, FINE):
        stream = _Stream(place=~transform, steps=steps, most=most)
        columns = _columns(table.schema_arrow, geometry)
        if all(
            stream.add(shapely.from_wkb(batch[geometry].to_numpy(zero_copy_only=False)))
            for batch in _batches(table, geometry, columns, first)
        ):
            break
    return stream, columns


def _finished(stream: _Stream, columns: Sequence[_Column], first: int, total: int) -> PackedPolygons:
    return PackedPolygons(
        outlines=stream.deflated(),
        attributes=zlib.compress(f"{{{','.join(column.json() for column in columns)}}}".encode(), 6),
        steps=stream.steps,
        count=stream.count,
        total=total,
        smallest=2.0 ** ((first - _BINS // 2) / _OCTAVE) if stream.count < total else 0.0,
        eased=stream.eased,
    )


def _batches(table: pq.ParquetFile, geometry: str, columns: Sequence[_Column], first: int) -> Iterator[pa.RecordBatch]:
    """The polygons that are kept, batch by batch; their attributes are added to `columns`."""
    names = dict.fromkeys([geometry, "area_m2", *(column.name for column in columns)])
    for batch in table.iter_batches(BATCH, columns=list(names)):
        kept = batch.filter(pa.array(_bins_of(_floats(batch["area_m2"])) >= first))
        for column in columns:
            column.add(kept[column.name])
        yield kept


@dataclass(slots=True, kw_only=True)
class _Column:
    """One attribute of the polygons that are kept."""

    name: str
    numeric: bool
    numbers: list[str] = field(default_factory=list)
    words: dict[str, int] = field(default_factory=dict)
    at: list[int] = field(default_factory=list)

    def add(self, values: pa.Array) -> None:
        if self.numeric:
            self.numbers += map(_number, values.to_pylist())
        else:
            self.at += [self.words.setdefault(_word(value), len(self.words)) for value in values.to_pylist()]

    def json(self) -> str:
        if self.numeric:
            return f'{json.dumps(self.name)}:{{"numbers":[{",".join(self.numbers)}]}}'
        at = {} if len(self.words) <= 1 else {"at": self.at}
        return f"{json.dumps(self.name)}:{json.dumps({'words': list(self.words)} | at, separators=(',', ':'))}"


def _columns(schema: pa.Schema, geometry: str) -> list[_Column]:
    """Those that people read: no shapes, no boxes around them."""
    found = []
    for each in schema:
        numeric = pa.types.is_integer(each.type) or pa.types.is_floating(each.type)
        if each.name != geometry and (numeric or (not pa.types.is_nested(each.type) and not _is_bytes(each.type))):
            found.append(_Column(name=each.name, numeric=numeric))
    return found


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _number(value: float | None) -> str:
    """As JSON has it, six digits of what is no whole number.

    >>> _number(7), _number(1234.56789), _number(math.nan)
    ('7', '1234.57', 'null')
    """
    if value is None or not math.isfinite(value):
        return "null"
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _word(value: Any) -> str:
    """Text for people; a time to the minute.

    >>> from datetime import datetime
    >>> _word(None), _word("water"), _word(datetime(2024, 5, 1, 10, 30))
    ('', 'water', '2024-05-01 10:30')
    """
    if value is None:
        return ""
    return f"{value:%Y-%m-%d %H:%M}" if hasattr(value, "strftime") else str(value)


def _fewer(polygon: Any, most: int, pixel: float) -> Any:
    """An outline of at most `most` vertices, eased by a pixel or more; holes smaller than that go first."""
    reach = pixel * max(1.0, shapely.get_num_coordinates(polygon) / most / 8)
    while shapely.get_num_coordinates(polygon) > most:
        parts = [part for part in shapely.get_parts(polygon) if shapely.area(part) >= reach**2]
        filled = [shapely.Polygon(part.exterior, _holes(part, reach**2)) for part in parts]
        polygon = shapely.simplify(shapely.MultiPolygon(filled), reach, preserve_topology=False)
        reach *= 2
    return polygon


def _holes(polygon: Any, least: float) -> list[Any]:
    rings = np.asarray(polygon.interiors, object)
    return list(rings[shapely.area(shapely.polygons(rings)) >= least]) if len(rings) else []


def _varints(values: Numbers) -> bytes:
    """Numbers from 0 on, 7 bits a byte, the lowest first; the highest bit says that more follow.

    >>> _varints(np.array([1, 127, 128, 300])).hex()
    '017f8001ac02'
    """
    bits = 7 * np.arange(1, 6)
    lengths = 1 + (values[:, None] >> bits > 0).sum(axis=1)
    starts = np.cumsum(lengths) - lengths
    out = np.zeros(int(lengths.sum()), np.uint8)
    for place in range(int(lengths.max(initial=0))):
        there = lengths > place
        more = (lengths[there] > place + 1) * 128
        out[starts[there] + place] = (values[there] >> (7 * place)) & 127 | more
    return out.tobytes()
