"""The polygons of a finished run in a table of PostGIS, as ``geoseg segment --to`` writes it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import shapely

from geoseg.catalog.query import bounds_near
from geoseg.earth import to_lonlat
from geoseg.serve.database import Database
from geoseg.serve.polygons import (
    PageInTheMaking,
    PolygonPage,
    Polygons,
    Wish,
    crs_uri,
    footprint_of,
    not_told,
    range_of,
)
from geoseg.serve.problems import Problem

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PolygonTable", "find_table"]

Shapes = npt.NDArray[np.object_]
Condition = tuple[Any, list[Any]]
"""A part of a statement, and its values."""

_DIGITS = 10**9  # what each half of a token holds of an id


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PolygonTable:
    """The rows of one run."""

    database: Database
    """Where."""
    run: str
    """What its rows have as ``run_id``."""
    srid: int
    """EPSG number of the table's CRS."""
    types: Mapping[str, str]
    """Attribute -> its type in PostgreSQL."""
    footprint: Any
    """Around all polygons, in longitude and latitude."""

    @property
    def attributes(self) -> list[str]:
        """Names of the columns but geometry and run_id."""
        return list(self.types)

    @property
    def count(self) -> int:
        """Number of the run's polygons."""
        return int(self.database.ask("SELECT count(*) FROM {table} WHERE run_id = %s", [self.run])[0][0])

    @property
    def stored_crs(self) -> str:
        """The table's CRS as a URI."""
        return crs_uri(self.srid)

    def page(self, wish: Wish, limit: int, token: str | None = None) -> PolygonPage:
        """The first `limit` polygons that are meant by id, or those after the page that gave the `token`.

        Raises:
            Problem: The wish or the token makes no sense, or the database does not answer.
        """
        after, conditions = _after(token), self._conditions(wish)
        found = PageInTheMaking(area=wish.area, room=limit)
        while True:
            few, shapes = self._rows([*conditions, _condition("id > %s", after)], max(1, found.step))
            if not len(few):
                return found.page(None)
            if found.is_full:
                return found.page(f"{after // _DIGITS}-{after % _DIGITS}")
            after = few["id"][-1].as_py()
            found.take(few, shapes)

    def matched(self, wish: Wish) -> int | None:
        """How many polygons are meant; None where only their shapes could tell."""
        if wish.area is not None:
            return None
        where, values = _joined(self._conditions(wish))
        return int(self.database.ask("SELECT count(*) FROM {table} WHERE {where}", values, where=where)[0][0])

    def find(self, polygon_id: int) -> tuple[pa.Table, Shapes] | None:
        """The row of one polygon; None where there is none."""
        table, shapes = self._rows([self._own(), _condition("id = %s", polygon_id)], 1)
        return (table, shapes) if len(table) else None

    def _rows(self, conditions: Sequence[Condition], limit: int) -> tuple[pa.Table, Shapes]:
        import pyarrow as pa
        from psycopg.sql import SQL, Identifier

        where, values = _joined(conditions)
        rows = self.database.ask(
            "SELECT {columns}, ST_AsBinary(geometry) FROM {table} WHERE {where} ORDER BY id LIMIT %s",
            [*values, limit],
            columns=SQL(", ").join(map(Identifier, self.types)),
            where=where,
        )
        columns = list(zip(*rows, strict=True)) or [()] * (len(self.types) + 1)
        kinds = _kinds()
        arrays = {
            name: pa.array(column, kinds[kind])
            for (name, kind), column in zip(self.types.items(), columns[:-1], strict=True)
        }
        return pa.table(arrays), self._lonlat(np.asarray(shapely.from_wkb(list(columns[-1])), dtype=object))

    def _lonlat(self, shapes: Shapes) -> Shapes:
        """Multipolygons as files have them: those of one polygon are polygons."""
        alone = shapely.get_num_geometries(shapes) == 1
        shapes[alone] = shapely.get_geometry(shapes[alone], 0)
        placed = to_lonlat(shapes, self.srid)
        return np.where(shapely.is_empty(placed), shapely.Polygon(), placed)

    def _own(self) -> Condition:
        return _condition("run_id = %s", self.run)

    def _conditions(self, wish: Wish) -> list[Condition]:
        """What the columns, and the index of the boxes, can tell."""
        found = [self._own()]
        if wish.area is not None:
            found.append(self._touches(wish.area))
        if wish.interval is not None:
            found.append(self._at(*wish.interval))
        for name, text in wish.values.items():
            found += self._has(name, text)
        return found

    def _touches(self, area: Any) -> Condition:
        if not shapely.intersects(self.footprint, area):
            return _condition("false")
        bounds = bounds_near(self.footprint, area, f"EPSG:{self.srid}")
        return _condition("geometry && ST_MakeEnvelope(%s, %s, %s, %s, %s)", *bounds, self.srid)

    def _at(self, first: datetime, last: datetime) -> Condition:
        names = ("before", "after") if "before" in self.types else ("datetime", "datetime")
        if names[0] not in self.types:
            return _condition("false")
        low, high = (when.replace(microsecond=when.microsecond // 1000 * 1000) for when in (first, last))
        return _condition("{last} >= %s AND {first} <= %s", low, high, first=names[0], last=names[1])

    def _has(self, name: str, text: str) -> list[Condition]:
        kind = self.types.get(name, "")
        if kind == "text":
            return [_condition("{name} = %s", text.replace("\0", "\ufffd"), name=name)]
        if kind not in {"int4", "int8", "float8"}:
            raise not_told(name)
        low, high = range_of(name, text)
        found = [_condition("{name} IS NOT NULL", name=name)]
        found += [] if low is None else [_condition("{name} >= %s::float8", low, name=name)]
        return found + ([] if high is None else [_condition("{name} <= %s::float8", high, name=name)])


def find_table(
    database: Database, run: str, outline: Mapping[str, Any], names: Sequence[str] | None
) -> PolygonTable | None:
    """The rows of a run; None where the table has none.

    Args:
        database: Where.
        run: What its rows have as ``run_id``.
        outline: Of the run, a GeoJSON geometry.
        names: Of its attributes; None: whatever columns the table has, of other runs too.

    Raises:
        Problem: The database does not answer.
    """
    found = database.ask(
        "SELECT tableoid, ST_SRID(geometry) FROM {table} WHERE run_id = %s LIMIT 1", [run]
    )  # the type of a column may leave the CRS open
    if not found:
        return None
    types = {
        str(name): str(kind)
        for name, kind in database.ask(
            "SELECT attname, typname FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid"
            " WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            [found[0][0]],
        )
        if kind in _kinds() and name != "run_id" and (names is None or name in names)
    }
    return PolygonTable(
        database=database,
        run=run,
        srid=int(found[0][1]),
        types=types,
        footprint=footprint_of(outline),
    )


def _kinds() -> dict[str, Any]:
    import pyarrow as pa

    return {
        "int4": pa.int32(),
        "int8": pa.int64(),
        "float8": pa.float64(),
        "text": pa.string(),
        "bool": pa.bool_(),
        "timestamptz": pa.timestamp("ms", tz="UTC"),
    }


def _condition(text: str, *values: Any, **names: str) -> Condition:
    from psycopg.sql import SQL, Identifier

    return SQL(text).format(**{key: Identifier(name) for key, name in names.items()}), list(values)


def _joined(conditions: Sequence[Condition]) -> Condition:
    from psycopg.sql import SQL

    return SQL(" AND ").join(part for part, _ in conditions), [value for _, values in conditions for value in values]


def _after(token: str | None) -> int:
    """The id of the last polygon that the client has.

    Raises:
        Problem: The token is none of ours.
    """
    if token is None:
        return 0
    found = re.fullmatch(r"(\d{1,9})-(\d{1,9})", token, re.ASCII)
    if found is None:
        raise Problem(400, "Bad Request", "token: take it from the link to the next page")
    return int(found[1]) * _DIGITS + int(found[2])


_: type[Polygons] = PolygonTable
