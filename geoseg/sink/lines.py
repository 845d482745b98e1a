"""Columns of a table as text, and rows of text put together, without a loop over rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from geoseg.sink.sorting import Table

__all__ = ["as_bytes", "joined", "texts"]


def texts(table: Table, columns: Sequence[str], *, quote: Callable[[Any], str], null: str) -> list[Any]:
    """Each of `columns` as an array of strings: numbers as they are, the rest as `quote` writes it.

    Args:
        table: Rows.
        columns: Of numbers, truth values, words or times.
        quote: Gives the text of a word (str) or a time (datetime); called once for each that occurs.
        null: Text of what is missing, NaN and infinities included.
    """
    return [_text(table[name], quote, null) for name in columns]


def _text(column: Any, quote: Callable[[Any], str], null: str) -> Any:
    column = column.combine_chunks()
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_finite(column), column, None)
    if pa.types.is_string(column.type) or pa.types.is_timestamp(column.type):
        found = pc.dictionary_encode(column)
        words = pa.array([quote(word) for word in found.dictionary.to_pylist()], pa.string())
        text = words.take(found.indices)
    else:
        text = pc.cast(column, pa.string())
    return pc.fill_null(text, null)


def joined(*parts: Any) -> Any:
    """One array of strings: in each row, `parts` one after the other; a str is the same in all rows."""
    return pc.binary_join_element_wise(*parts, "")


def as_bytes(strings: Any) -> memoryview:
    """The bytes of an array of strings or binaries, one after the other, without a copy."""
    _, offsets, data = strings.buffers()
    if data is None:
        return memoryview(b"")
    ends = np.frombuffer(offsets, np.int32)
    return memoryview(data)[ends[strings.offset] : ends[strings.offset + len(strings)]]
