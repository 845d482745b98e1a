"""Vector tiles (MVT 2.1) of polygons: placed on a tile's grid, cut to it, and encoded."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import shapely

from geoseg.serve.drawing import drawn
from geoseg.serve.polygon_file import areal
from geoseg.serve.rings import Rings
from geoseg.serve.seams import parted
from geoseg.serve.tile_grid import Lattice

__all__ = ["BUFFER", "DEEPEST", "EXTENT", "LayerEncoder", "TilePlace", "valid"]

EXTENT = 4096
"""Units along the side of a tile."""
DEEPEST = 30
"""Last zoom of the pyramid."""
BUFFER = 64
"""Units beyond a tile's sides that its polygons reach, so that no outline is drawn along them."""

Shapes = npt.NDArray[np.object_]
Numbers = npt.NDArray[np.int64]

_HIGHEST = 85.0511287798066  # of the square that web maps show
_ASIDE = 1e-6  # units from a half, so that what is cut there is rounded outwards
_ASTRAY = 0.1  # cells that a line between two knots may be off
_POLYGON = 3
_SHORT = [bytes([low]) for low in range(128)] + [
    bytes([low | 128, high]) for high in range(1, 128) for low in range(128)
]
"""The varints of one byte or two, by their values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TilePlace:
    """A tile of the web's Mercator pyramid: column x and row y of zoom z, counted from the north-west."""

    z: int
    x: int
    y: int

    @property
    def exists(self) -> bool:
        """Whether the pyramid has such a tile.

        >>> TilePlace(z=1, x=1, y=0).exists, TilePlace(z=1, x=2, y=0).exists, TilePlace(z=31, x=0, y=0).exists
        (True, False, False)
        """
        return 0 <= self.z <= DEEPEST and all(0 <= number < 1 << self.z for number in (self.x, self.y))

    def area(self, margin: float = 0.0) -> Any:
        """A box in longitude and latitude around the tile, wider on each side by `margin` tiles."""
        west, east = (360 * (column / 2**self.z) - 180 for column in (self.x - margin, self.x + 1 + margin))
        north, south = (_latitude(row / 2**self.z) for row in (self.y - margin, self.y + 1 + margin))
        return shapely.box(max(west, -180), south, min(east, 180), north)

    def metres(self, pixels: int = 512) -> float:
        """Ground distance between neighbours of `pixels` along the tile's side, in its middle."""
        middle = np.radians(_latitude((self.y + 0.5) / 2**self.z))
        return float(40_075_016.686 * np.cos(middle) / pixels / 2**self.z)

    def place(self, lonlat: Shapes, grid: int) -> Shapes:
        """Polygons (n,) in the tile's units, y downwards, on a `grid` of whole units; empty where nothing is left.

        All corners of all polygons move to the same grid, so neighbours stay neighbours.
        """
        inside = areal(shapely.clip_by_rect(shapely.transform(lonlat, self._units), *self._reach))
        placed = shapely.transform(inside, lambda at: np.rint(at / grid) * grid)
        bent = ~shapely.is_valid(placed)  # few; for the others rounding is enough, and far faster
        placed[bent] = areal(shapely.set_precision(valid(inside[bent]), grid))
        return np.asarray(placed, dtype=object)

    def place_rings(self, rings: Rings, crs: str, count: int) -> Shapes:
        """Polygons (count,), the owners of rings in a CRS, as `place` has them; for whatever `cells` finds a lattice.

        They are cut half a unit within, where no corner is any more, and what was cut moves on to the buffer's end.
        """
        low, high = -BUFFER + 0.5 - _ASIDE, EXTENT + BUFFER - 0.5 + _ASIDE
        units = replace(rings, points=self._from(crs, *rings.points.T))
        cut = replace(units, points=np.rint(units.points)).within((low, low, high, high))
        placed = parted(replace(cut, points=np.rint(cut.points))).polygons(count)
        bent = np.flatnonzero(~shapely.is_valid(placed))
        if not len(bent):
            return placed
        few = units.some(np.flatnonzero(np.isin(units.owners, bent))).within(self._reach)
        placed[bent] = areal(shapely.set_precision(valid(few.polygons(count)[bent]), 1))
        return placed

    @property
    def _reach(self) -> tuple[float, float, float, float]:
        return -BUFFER, -BUFFER, EXTENT + BUFFER, EXTENT + BUFFER

    def cells(self, crs: str, reach: tuple[float, float, float, float], grid: int) -> Lattice | None:
        """Where a box of a CRS lies on the tile's cells of `grid` units, from the north-west of its buffer on.

        None where lines between no number of knots come near enough: about a pole, and across the line half round the
        Earth from the tile.
        """
        left, bottom, right, top = reach
        for knots in (33, 129, 513):
            xs, ys = np.linspace(left, right, knots), np.linspace(bottom, top, knots)
            places = self._cells_at(crs, xs, ys, grid)
            middles = self._cells_at(crs, (xs[1:] + xs[:-1]) / 2, (ys[1:] + ys[:-1]) / 2, grid)
            between = (places[1:, 1:] + places[1:, :-1] + places[:-1, 1:] + places[:-1, :-1]) / 4
            if np.abs(between - middles).max() < _ASTRAY:
                step = (right - left) / (knots - 1), (top - bottom) / (knots - 1)
                return Lattice(origin=(left, bottom), step=step, places=places)
        return None

    def _cells_at(self, crs: str, xs: Any, ys: Any, grid: int) -> npt.NDArray[np.float64]:
        x, y = np.meshgrid(xs, ys)
        return (self._from(crs, x.ravel(), y.ravel()).reshape(*x.shape, 2) + BUFFER) / grid

    def _from(self, crs: str, x: Any, y: Any) -> npt.NDArray[np.float64]:
        """(point, xy) in the tile's units of places in a CRS, less than half round the Earth from it."""
        lon, lat = _to_lonlat(crs).transform(x, y)
        middle = 360 * (self.x + 0.5) / 2**self.z - 180
        return self._units(np.column_stack([(np.asarray(lon) - middle + 180) % 360 - 180 + middle, lat]))

    def _units(self, lonlat: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        latitude = np.radians(np.clip(lonlat[:, 1], -_HIGHEST, _HIGHEST))
        across = (lonlat[:, 0] + 180) / 360
        down = 0.5 - np.arcsinh(np.tan(latitude)) / (2 * np.pi)
        return np.column_stack([(across * 2**self.z - self.x) * EXTENT, (down * 2**self.z - self.y) * EXTENT])


def valid(shapes: Shapes) -> Shapes:
    """Polygons (n,), those mended that touch themselves along a line, where they were cut."""
    torn = ~shapely.is_valid(shapes)
    shapes[torn] = areal(shapely.make_valid(shapes[torn]))
    return shapes


@lru_cache(maxsize=16)
def _to_lonlat(crs: str) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)


def _latitude(down: float) -> float:
    """Latitude at a part of the way down the pyramid.

    >>> round(_latitude(0), 4), _latitude(0.5)
    (85.0511, 0.0)
    """
    return float(np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * min(max(down, 0), 1))))))


@dataclass(slots=True, kw_only=True)
class LayerEncoder:
    """One layer of a tile, put together batch by batch."""

    name: str
    """Of the layer."""
    _keys: dict[str, int] = field(default_factory=dict)
    _values: dict[bytes, int] = field(default_factory=dict)
    _features: list[bytes] = field(default_factory=list)

    def add(self, ids: Numbers, attributes: Mapping[str, Sequence[Any]], shapes: Shapes) -> None:
        """Takes features.

        Args:
            ids: (n,) not negative.
            attributes: Name -> (n,) numbers, words, or None where there is none.
            shapes: (n,) polygons and multipolygons in whole units of the tile, none empty.
        """
        if len(shapes):
            self.add_outlines(ids, attributes, *_ragged(shapes))

    def add_outlines(
        self, ids: Numbers, attributes: Mapping[str, Sequence[Any]], points: Numbers, rings: Numbers, first: Numbers
    ) -> None:
        """Takes features whose rings are drawn already.

        Args:
            ids: (n,) not negative.
            attributes: As `add` has them.
            points: (point, xy) of closed rings, exteriors clockwise on the screen and before their holes.
            rings: (ring + 1,) where each begins and ends.
            first: (n + 1,) where the rings of each feature begin and end.
        """
        tags = [b""] * len(ids)
        for name, values in attributes.items():
            key = _varint(self._keys.setdefault(name, len(self._keys)))
            known = {value: self._tag(key, value) for value in set(values) if value is not None}
            tags = [tag + known.get(value, b"") for tag, value in zip(tags, values, strict=True)]
        for polygon_id, tag, geometry in zip(ids.tolist(), tags, drawn(points, rings, first), strict=True):
            body = b"\x08" + _varint(polygon_id) + _field(2, tag) + bytes([0x18, _POLYGON]) + _field(4, geometry)
            self._features.append(_field(2, body))

    def tile(self) -> bytes:
        """The tile; nothing at all if no feature came."""
        if not self._features:
            return b""
        keys = [_field(3, key.encode()) for key in self._keys]
        values = [_field(4, value) for value in self._values]
        whole = [_field(1, self.name.encode()), *self._features, *keys, *values, b"\x28" + _varint(EXTENT), b"\x78\x02"]
        return _field(3, b"".join(whole))

    def _tag(self, key: bytes, value: Any) -> bytes:
        coded = _value(value)
        return key + _varint(self._values.setdefault(coded, len(self._values)))


def _ragged(shapes: Shapes) -> tuple[Numbers, Numbers, Numbers]:
    """Points and rings of polygons and multipolygons, and the first ring of each: exteriors clockwise on the screen."""
    _, coords, offsets = shapely.to_ragged_array(shapely.orient_polygons(shapes))
    rings, polygons = (np.asarray(each, np.int64) for each in offsets[:2])
    parts = np.asarray(offsets[2], np.int64) if len(offsets) == 3 else np.arange(len(shapes) + 1)
    return np.rint(coords[:, :2]).astype(np.int64), rings, polygons[parts]


def _varint(value: int) -> bytes:
    """A number from 0 on, 7 bits a byte, the lowest first.

    >>> [_varint(value).hex() for value in (127, 300, 16383, 16384)]
    ['7f', 'ac02', 'ff7f', '808001']
    """
    if value < 1 << 14:  # nearly all
        return _SHORT[value]
    coded = bytearray()
    while value > 127:
        coded.append(value & 127 | 128)
        value >>= 7
    coded.append(value)
    return bytes(coded)


def _field(number: int, body: bytes) -> bytes:
    """A field of protocol buffers that says how long it is."""
    return bytes([number << 3 | 2]) + _varint(len(body)) + body


def _value(value: Any) -> bytes:
    """A value of an attribute: words, whole numbers, or doubles.

    >>> _value("sea").hex(), _value(-2).hex()
    ('0a03736561', '3003')
    """
    if isinstance(value, str):
        return _field(1, value.encode())
    if isinstance(value, int):
        return b"\x30" + _varint(value << 1 if value >= 0 else ~(value << 1))
    return b"\x19" + struct.pack("<d", value)
