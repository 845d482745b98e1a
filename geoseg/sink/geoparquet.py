"""GeoParquet 1.1: features along a Hilbert curve, in row groups that a query for a place can leave out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geoseg import __version__
from geoseg.sink import sorting
from geoseg.sink.curve import along_curve
from geoseg.sink.layer import Layer
from geoseg.sink.sorting import Sorted, Table

__all__ = ["write_geoparquet"]

SIDES = ("xmin", "ymin", "xmax", "ymax")


def write_geoparquet(layer: Layer, path: Path) -> None:
    """Writes all features in the layer's CRS, with a column ``bbox`` that covers each.

    Features that are near one another on the map lie in few row groups, because the file follows a Hilbert curve over
    the middles of their boxes; each group, of some thousands, knows the least and the largest coordinate within.
    """
    schema = layer.schema.with_metadata({b"geo": json.dumps(_metadata(layer)).encode()})
    words = [field.name for field in schema if pa.types.is_string(field.type)]
    with pq.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=words, write_statistics=_countable(schema)
    ) as file:
        for table in _along_curve(layer, path.with_suffix(".sorting")):
            file.write_table(table.cast(schema), row_group_size=len(table))


def _metadata(layer: Layer) -> dict[str, Any]:
    """The file's member ``geo``, as the specification of GeoParquet 1.1.0 asks."""
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": list(layer.kinds),
        "crs": None if layer.crs is None else _plain_members(layer.crs.to_json_dict()),
        "covering": {"bbox": {side: ["bbox", side] for side in SIDES}},
    }
    if layer.extent is not None:
        column["bbox"] = list(layer.extent)
    return {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {"geometry": column},
        "creator": {"library": "geoseg", "version": __version__},
    }


def _plain_members(crs: Any) -> Any:
    """PROJJSON without the ids of a datum ensemble's members, at which PROJ before 9.1 stumbles."""
    if isinstance(crs, dict):
        for member in crs.get("members", ()):
            member.pop("id", None)
        for value in crs.values():
            _plain_members(value)
    return crs


def _countable(schema: Any) -> list[str]:
    """Columns whose least and largest value a reader can use: all but the geometry."""
    return [name for name in schema.names if name not in {"geometry", "bbox"}] + [f"bbox.{side}" for side in SIDES]


def _along_curve(layer: Layer, folder: Path) -> Iterator[Table]:
    # What is in memory stays there, with two numbers more for each feature.
    rows = Sorted(folder, "curve", budget=sorting.BUDGET * 5 // 4)
    for table in layer.in_any_order():
        boxes = table["bbox"].combine_chunks()
        low_x, low_y, high_x, high_y = (np.asarray(boxes.field(side)) for side in SIDES)
        distance = along_curve((low_x + high_x) / 2, (low_y + high_y) / 2, layer.middles)
        ids = table["id"].to_numpy().astype(np.uint64)
        rows.add(table.append_column("curve", pa.array(distance << np.uint64(32) | ids)))
    for table in rows:
        yield table.drop_columns(["curve"])
