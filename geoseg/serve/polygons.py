"""What the polygons of a run answer, wherever they are kept: which are meant, page by page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pyproj
import shapely

from geoseg.serve.problems import Problem

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PageInTheMaking", "PolygonPage", "Polygons", "Wish", "crs_uri", "footprint_of", "not_told", "range_of"]

Shapes = npt.NDArray[np.object_]
"""(n,) polygons and multipolygons."""

_AT_ONCE = 256
"""Polygons that are placed on the Earth at once."""
_MOST_VERTICES = 1_000_000
"""Of a page; one with larger polygons ends early."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Which polygons a client means: those that meet all of it."""

    area: Any = None
    """What they touch, in longitude and latitude; None: anything."""
    interval: tuple[datetime, datetime] | None = None
    """When; None: at any time."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Attribute -> its value, or of numbers ``LEAST/LARGEST`` with ``..`` for an open end."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PolygonPage:
    """Some of the polygons that were meant, in the order in which they are kept."""

    tables: Sequence[tuple[pa.Table, Shapes]]
    """Rows with their polygons in longitude and latitude."""
    token: str | None
    """Of the next page; None: this was the last."""

    @property
    def count(self) -> int:
        """How many polygons."""
        return sum(len(shapes) for _, shapes in self.tables)


@dataclass(slots=True, kw_only=True, eq=False)
class PageInTheMaking:
    """A page that takes polygons until it is full."""

    area: Any
    """What they touch, in longitude and latitude; None: anything."""
    room: int
    """Polygons that it still holds."""
    tables: list[tuple[pa.Table, Shapes]] = field(default_factory=list)
    """As `PolygonPage` has them."""
    vertices: int = 0
    """Of all of them."""

    @property
    def is_full(self) -> bool:
        """Whether it ends before the next polygon."""
        return self.room <= 0 or self.vertices > _MOST_VERTICES

    @property
    def step(self) -> int:
        """How many polygons to look at next."""
        return min(self.room, _AT_ONCE)

    def take(self, rows: pa.Table, shapes: Shapes) -> None:
        """Adds those of some polygons, in longitude and latitude, that touch the area."""
        if self.area is not None:
            touching = shapely.intersects(shapes, self.area)
            rows, shapes = rows.filter(touching), shapes[touching]
        if len(rows):
            self.tables.append((rows, shapes))
            self.room -= len(rows)
            self.vertices += int(shapely.get_num_coordinates(shapes).sum())

    def page(self, token: str | None) -> PolygonPage:
        """What it took; `token` is of the next page."""
        return PolygonPage(tables=self.tables, token=token)


class Polygons(Protocol):
    """The polygons of one run; any number of threads may ask."""

    @property
    def attributes(self) -> list[str]:
        """Names of the columns that are neither geometry nor box."""

    @property
    def count(self) -> int:
        """How many polygons."""

    @property
    def stored_crs(self) -> str:
        """The CRS of what is kept, as a URI where it has one, else as WKT."""

    def page(self, wish: Wish, limit: int, token: str | None = None) -> PolygonPage:
        """The first `limit` polygons that are meant, or those after the page that gave the `token`.

        Raises:
            Problem: The wish or the token makes no sense.
        """

    def matched(self, wish: Wish) -> int | None:
        """How many polygons are meant; None where only their shapes could tell."""

    def find(self, polygon_id: int) -> tuple[pa.Table, Shapes] | None:
        """The row of one polygon; None where there is none."""


def footprint_of(outline: Mapping[str, Any]) -> Any:
    """A GeoJSON geometry around a run, and a little more: its sides are straight in degrees, those of a map bend."""
    shape = shapely.geometry.shape(outline)
    west, south, east, north = shape.bounds
    return shape.buffer(max(east - west, north - south) / 1000)


def crs_uri(crs: Any) -> str:
    """A CRS as a URI where it has one, else as WKT.

    >>> crs_uri(32632)
    'http://www.opengis.net/def/crs/EPSG/0/32632'
    """
    known = pyproj.CRS.from_user_input(crs)
    authority = known.to_authority(min_confidence=100)
    return f"http://www.opengis.net/def/crs/{authority[0]}/0/{authority[1]}" if authority else known.to_wkt()


def not_told(name: str) -> Problem:
    """What is wrong where a client chooses by something that is no attribute, or none to choose by."""
    return Problem(400, "Bad Request", f"{name}: these polygons have no such attribute to choose by")


def range_of(name: str, text: str) -> tuple[float | None, float | None]:
    """The least and the largest number that a client means by a number or ``LEAST/LARGEST``; None for an open end.

    Raises:
        Problem: It is neither.

    >>> range_of("area_m2", "../12")
    (None, 12.0)
    """
    words = text.split("/") if "/" in text else [text, text]
    try:
        low, high = (None if word == ".." else float(word) for word in words)
    except ValueError:
        raise Problem(400, "Bad Request", f"{name}: a number, or LEAST/LARGEST with .. for an open end") from None
    return low, high
