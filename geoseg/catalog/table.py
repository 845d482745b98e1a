"""All items of a catalog as one table: stac-geoparquet, so that a search reads one file and not thousands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from geoseg.catalog.tree import TABLE
from geoseg.errors import MissingExtraError, SinkError, SourceError
from geoseg.store import Store
from geoseg.store.disk import scratch_folder

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["items_view", "plain_schema", "read_table", "sql_table", "table_bytes", "table_of"]


def table_of(items: Sequence[Mapping[str, Any]]) -> pa.Table | None:
    """The items that have a place on the Earth, a row for each in their order; None where no item has one.

    Args:
        items: STAC items as JSON values; the ``self`` link of each says where it stands, seen from the table.

    Raises:
        MissingExtraError: stac-geoparquet is not installed.
        SinkError: A field has values of different kinds in different items.
    """
    import pyarrow as pa

    try:
        from stac_geoparquet.arrow import parse_stac_items_to_arrow
    except ImportError as error:
        raise MissingExtraError("catalogs need stac-geoparquet: pip install 'geoseg[catalog]'") from error
    placed = [dict(item) for item in items if item.get("geometry")]
    if not placed:
        return None
    try:
        return parse_stac_items_to_arrow(placed).read_all()
    except (pa.ArrowException, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SinkError(f"the items make no table ({' '.join(str(error).split())[:200]})") from error


def table_bytes(table: pa.Table) -> bytes:
    """The table as a stac-geoparquet file: the same bytes for the same rows and the same libraries."""
    from stac_geoparquet.arrow import to_parquet

    with TemporaryDirectory(dir=scratch_folder()) as folder:
        path = Path(folder) / TABLE
        to_parquet(table, path, compression="zstd")
        return path.read_bytes()


def read_table(store: Store) -> pa.Table:
    """The table of the catalog in `store`.

    Raises:
        SourceError: There is none, or it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with store.open(TABLE) as file:
            return pq.read_table(file)
    except FileNotFoundError as error:
        raise SourceError(f"{store.href(TABLE)}: is missing; geoseg catalog add writes it") from error
    except (pa.ArrowException, OSError) as error:
        raise SourceError(
            f"{store.href(TABLE)}: cannot be read ({' '.join(str(error).split())[:200]}); geoseg catalog add RUNDIR "
            "writes it anew"
        ) from error


def sql_table(table: pa.Table) -> pa.Table:
    """The table of items with plain WKB, and where each item stands (``href``) seen from the table."""
    import pyarrow as pa

    hrefs = [next(link["href"] for link in links if link["rel"] == "self") for links in table["links"].to_pylist()]
    plain = table.cast(plain_schema(table.schema))
    return plain.append_column("href", pa.array(hrefs, pa.string()))


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Without metadata, by which DuckDB would take WKB for geometries of a CRS."""
    import pyarrow as pa

    return pa.schema([pa.field(field.name, field.type) for field in schema])


def items_view(schema: pa.Schema) -> str:
    """The SELECT that makes of such a table what people query: geometries, and short names for what geoseg notes."""
    short = {name: f"geoseg:{name}" for name in ("model", "scene") if f"geoseg:{name}" in schema.names}
    more = "".join(f', "{full}" AS {name}' for name, full in short.items())
    return f"SELECT * REPLACE (ST_GeomFromWKB(geometry) AS geometry){more} FROM _items"  # noqa: S608 - names of ours
