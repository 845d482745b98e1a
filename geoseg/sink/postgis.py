"""Features into a table of PostGIS, run by run: a reader sees all of a run or what was there before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from geoseg.errors import ConfigError, MissingExtraError, SinkError, without_secrets
from geoseg.sink.layer import Layer, as_multipolygons
from geoseg.sink.lines import as_bytes, joined, texts

if TYPE_CHECKING:
    from psycopg import Cursor

__all__ = ["Destination", "parse_destination", "write_postgis"]

PATIENCE = 10
"""Seconds that a server has for a connection, where the address does not say."""

LONLAT = 4326

_TYPES = {
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float64(): "double precision",
    pa.string(): "text",
    pa.bool_(): "boolean",
    pa.timestamp("ms", tz="UTC"): "timestamptz",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A table of a PostgreSQL server."""

    address: str
    """What libpq connects with; may hold a password."""
    schema: str
    """Of the table; empty for the first of the server's search path."""
    table: str
    """Its name."""
    shown: str
    """Server, database and table, for messages."""

    def __repr__(self) -> str:
        return f"Destination({self.shown})"


def parse_destination(address: str, table: str = "") -> Destination:
    """The table that ``postgresql://USER@HOST/DATABASE?table=SCHEMA.TABLE`` names, or `table`; else ``polygons``.

    Nothing is asked of a server. What the address leaves out, libpq takes from its environment (PGHOST, PGPASSWORD).

    Raises:
        ConfigError: It is no such address.
        MissingExtraError: psycopg is not installed.

    >>> parse_destination("postgresql://me@maps.example/land?table=runs.polygons").shown
    'maps.example/land, table runs.polygons'
    """
    try:
        from psycopg import Error
        from psycopg.conninfo import conninfo_to_dict
    except ImportError as error:
        raise MissingExtraError("PostGIS needs psycopg: pip install 'geoseg[postgis]'") from error
    base, _, query = address.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    named = options.pop("table", "")
    plain = base + ("?" + urlencode(options) if options else "")
    try:
        known = conninfo_to_dict(plain) if base.startswith(("postgresql://", "postgres://")) else {}
    except Error:
        known = {}
    host, port, database = (str(known.get(key) or "") for key in ("host", "port", "dbname"))
    # A password with a slash or an at sign that is not quoted ends up in these, and libpq would tell it to the world.
    if not known or "@" in host + database or (port and not port.replace(",", "").isdecimal()):
        raise ConfigError(
            "the database's address is not postgresql://USER:PASSWORD@HOST:PORT/DATABASE?table=SCHEMA.TABLE, with "
            "percent signs for what is special in a password"
        ) from None
    table = table or named or "polygons"
    schema, _, name = table.rpartition(".")
    shown = f"{host or 'the local server'}{port and ':' + port}/{database}, table {table}"
    return Destination(address=plain, schema=schema, table=name, shown=shown)


def write_postgis(layer: Layer, to: Destination, *, run: str) -> int:
    """Puts all features into the table, in place of those of the same `run`, and returns how many.

    One transaction: the table and its indexes are made where there is none (key run_id and id; geometry; class_id),
    columns that it lacks are added, rows of the run are deleted, and the new ones copied. So a repeat changes nothing,
    and whoever reads meanwhile sees the old rows or the new ones. Several writers to a table take turns.

    Geometries are multipolygons in the layer's CRS where it has an EPSG number that PostGIS knows, and in WGS 84, cut
    at the antimeridian, where it has none or the table is already in WGS 84.

    Args:
        layer: The features.
        to: The table.
        run: What tells this run from others.

    Raises:
        SinkError: The server does not answer, lacks PostGIS, or does not allow it; or the table holds another CRS.
    """
    import psycopg

    layer.demand_place()
    try:
        with (
            psycopg.connect(to.address, connect_timeout=PATIENCE, fallback_application_name="geoseg") as connection,
            connection.cursor() as cursor,
        ):
            table = _Table(to, cursor)
            table.prepare(layer)
            table.replace(layer, run)
    except psycopg.Error as error:
        raise SinkError(f"{to.shown}: {_reason(error, to)}") from None
    return layer.count


def _reason(error: Any, to: Destination) -> str:
    """The server's own words on one line, with what to do, and without the password."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    text = str(error.diag.message_primary or error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        text += "; the user needs CREATE on the schema, or SELECT, INSERT and DELETE on the table"
    elif isinstance(error, psycopg.errors.InvalidSchemaName):
        text += "; make it with CREATE SCHEMA"
    elif isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        text = f"no connection: {text.removeprefix('connection failed: ')}"
    password = str(conninfo_to_dict(to.address).get("password") or "")
    return without_secrets(text.replace(password, "***") if password else text)


class _Table:
    """One table within a transaction."""

    def __init__(self, to: Destination, cursor: Cursor[Any]) -> None:
        from psycopg.sql import Identifier

        self._to, self._cursor = to, cursor
        self._name = Identifier(*([to.schema] if to.schema else []), to.table)

    def _do(self, statement: str, *values: Any, **names: Any) -> list[Any]:
        from psycopg.sql import SQL

        done = self._cursor.execute(SQL(statement).format(table=self._name, **names), values or None)
        return done.fetchall() if done.description else []

    def prepare(self, layer: Layer) -> None:
        """Makes the table what the layer needs, and finds out what CRS it has."""
        from psycopg.sql import SQL, Identifier

        text = self._name.as_string(self._cursor)
        self._do("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", f"geoseg {text}")
        if self._do("SELECT to_regtype('geometry')")[0][0] is None:
            raise SinkError(f"{self._to.shown}: the database has no PostGIS: CREATE EXTENSION postgis")
        types = {name: _TYPES[layer.schema.field(name).type] for name in layer.attributes}
        self._srid = self._srid_of(layer)
        if self._do("SELECT to_regclass(%s)", text)[0][0] is None:
            columns = [SQL("{} {}").format(Identifier(name), SQL(kind)) for name, kind in types.items()]
            self._do(
                "CREATE TABLE {table} (run_id text NOT NULL, {columns},"
                " geometry geometry(MultiPolygon, {srid}) NOT NULL, PRIMARY KEY (run_id, id))",
                columns=SQL(", ").join(columns), srid=self._srid,
            )  # fmt: skip
            self._do("CREATE INDEX ON {table} USING gist (geometry)")
            if "class_id" in types:
                self._do("CREATE INDEX ON {table} (class_id)")
            return
        rows = self._do(
            "SELECT attname, postgis_typmod_srid(atttypmod) FROM pg_attribute"
            " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped", text,
        )  # fmt: skip
        there = dict(rows)
        if missing := {"run_id", "id", "geometry"} - set(there):
            raise SinkError(f"{self._to.shown}: has no column {', '.join(sorted(missing))}; name another table")
        if there["geometry"] not in {self._srid, LONLAT, 0}:
            raise SinkError(
                f"{self._to.shown}: holds geometries in EPSG:{there['geometry']}, these are in EPSG:{self._srid}; name "
                "another table, or one in EPSG:4326"
            )
        self._srid = there["geometry"] or self._srid
        for name in types.keys() - there.keys():
            self._do("ALTER TABLE {table} ADD COLUMN {name} {kind}", name=Identifier(name), kind=SQL(types[name]))

    def _srid_of(self, layer: Layer) -> int:
        code = layer.crs.to_epsg() if layer.crs else None
        known = code and self._do("SELECT 1 FROM spatial_ref_sys WHERE srid = %s", code)
        return code if code and known else LONLAT

    def replace(self, layer: Layer, run: str) -> None:
        """Deletes the rows of `run` and copies those of the layer."""
        from psycopg.sql import SQL, Identifier

        self._do("DELETE FROM {table} WHERE run_id = %s", run)
        columns = SQL(", ").join(map(Identifier, ["run_id", *layer.attributes, "geometry"]))
        copy = SQL("COPY {table} ({columns}) FROM STDIN").format(table=self._name, columns=columns)
        with self._cursor.copy(copy) as copying:
            for table, shapes in self._tables(layer):
                values = texts(table, layer.attributes, quote=_quoted, null="\\N")
                row = [part for value in values for part in (value, "\t")]
                lines = joined(_quoted(run) + "\t", *row, _hexadecimal(shapes, self._srid), "\n")
                copying.write(as_bytes(lines))
        self._do("ANALYZE {table}")

    def _tables(self, layer: Layer) -> Any:
        """Tables of features, each with its geometries as WKB in the table's CRS."""
        if self._srid == LONLAT:
            return ((table, pa.array(shapely.to_wkb(shapes), pa.binary())) for table, shapes in layer.lonlat())
        return ((table, table["geometry"].combine_chunks()) for table in layer)


def _quoted(value: Any) -> str:
    """A word or a time as COPY reads it."""
    text = value if isinstance(value, str) else value.isoformat()
    return text.translate({92: "\\\\", 9: "\\t", 10: "\\n", 13: "\\r"})


def _hexadecimal(shapes: Any, srid: int) -> Any:
    """WKB as strings of hexadecimal digits of PostGIS's own kind, which says the CRS."""
    bodies = pc.binary_slice(as_multipolygons(shapes), 5, 2**31 - 1)  # without byte order and type
    ends = 2 * np.cumsum([0, *pc.binary_length(bodies).to_pylist()])
    digits = pa.py_buffer(as_bytes(bodies).hex().encode())
    body = pa.StringArray.from_buffers(len(bodies), pa.py_buffer(ends.astype(np.int32)), digits)
    return joined("0106000020" + srid.to_bytes(4, "little").hex(), body)
