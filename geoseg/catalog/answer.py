"""Answers of a query as people and programs read them: CSV, JSON, Parquet, or rows of text."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import shapely

from geoseg.errors import ConfigError
from geoseg.store.disk import durable

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FORMATS", "format_of", "text_rows", "write_answer", "write_answer_file"]

FORMATS = ("csv", "json", "parquet")
"""What `write_answer_file` can write, by file extension."""
_NAME = b"ARROW:extension:name"


def format_of(path: Path) -> str:
    """The format that a file name means.

    Raises:
        ConfigError: None of `FORMATS`.
    """
    kind = path.suffix.lstrip(".").lower()
    if kind not in FORMATS:
        raise ConfigError(f"{path}: name it .csv, .json or .parquet, or write --format")
    return kind


def write_answer_file(answer: pa.RecordBatchReader, kind: str, path: Path) -> None:
    """Writes an answer to a file, which appears when it is whole.

    Raises:
        SinkError: It cannot be written.
        ConfigError: The query fails on its way.
    """
    with durable(path) as temporary:
        if kind == "parquet":
            _write_parquet(answer, temporary)
            return
        with temporary.open("w", encoding="utf-8", newline="") as file:
            write_answer(answer, kind, file)


def write_answer(answer: pa.RecordBatchReader, kind: str, file: TextIO) -> None:
    """Writes an answer as ``csv`` (geometries as WKT) or ``json`` (a list of objects, geometries as in GeoJSON)."""
    if kind == "csv":
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(answer.schema.names)
        rows.writerows(text_rows(answer))
        return
    before = "[\n"
    for row in _rows(answer, lambda shape: json.loads(shapely.to_geojson(shape))):
        file.write(before + _json(dict(zip(answer.schema.names, row, strict=True))))
        before = ",\n"
    file.write("[]\n" if before == "[\n" else "\n]\n")


def text_rows(answer: pa.RecordBatchReader) -> Iterator[list[str]]:
    """Each row as text: nothing for null, geometries as WKT, what is nested as JSON."""
    for row in _rows(answer, lambda shape: shape.wkt):
        yield [_text(value) for value in row]


def _text(value: Any) -> str:
    if isinstance(value, dict | list):
        return _json(value)
    return "" if value is None else str(value)


def _json(value: Any) -> str:
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    """`value` with null in place of numbers that JSON has not."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rows(answer: pa.RecordBatchReader, shown: Any) -> Iterator[list[Any]]:
    """Rows of JSON values; geometries as `shown` gives them."""
    shapes = _geometries(answer.schema)
    for batch in answer:
        columns = [
            [None if value is None else shown(shapely.from_wkb(value)) for value in column.to_pylist()]
            if name in shapes
            else [_value(value) for value in column.to_pylist()]
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        ]
        yield from (list(row) for row in zip(*columns, strict=True))


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _value(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_value(each) for each in value]
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal) and value.as_tuple().exponent == 0:  # sums of whole numbers are of 128 bits
        return int(value)
    return value if isinstance(value, str | int | float | None) else str(value)


def _geometries(schema: pa.Schema) -> list[str]:
    """Names of the columns that hold geometries, as WKB."""
    return [field.name for field in schema if (field.metadata or {}).get(_NAME) == b"geoarrow.wkb"]


def _write_parquet(answer: pa.RecordBatchReader, path: Path) -> None:
    """Parquet, with what GeoParquet 1.1 wants where there are geometries: they are longitude and latitude."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, shapes = pa.schema([pa.field(each.name, each.type) for each in answer.schema]), _geometries(answer.schema)
    if shapes:
        columns = {name: {"encoding": "WKB", "geometry_types": []} for name in shapes}
        told = {"version": "1.1.0", "primary_column": shapes[0], "columns": columns}
        schema = schema.with_metadata({"geo": json.dumps(told)})
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        for batch in answer:
            file.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
