"""Rows of Arrow tables in the order of a number, however many there are: what memory cannot hold waits on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["Sorted", "pieces"]

Table: TypeAlias = Any
"""A pyarrow.Table."""

BUDGET = 256 * 2**20
"""Bytes of rows that are held before they are sorted and put on disk."""

FAN = 64
"""Sorted runs that are merged at once."""

ROWS = 4096
"""Most rows of a piece."""

PIECE = 32 * 2**20
"""Most bytes of a piece of more than one row."""


class Sorted:
    """Rows by ascending `key`, a column of integers that differ; may be read again and again.

    An external merge sort: up to `budget` bytes are sorted in memory, each as a run of its own on disk where there are
    more, and runs are merged as they are read, in about twice that much memory. What is read depends on the rows alone,
    not on the order or the size of the tables in which they came.
    """

    def __init__(self, folder: Path, key: str, *, budget: int | None = None) -> None:
        self._folder, self._key, self._budget = folder, key, BUDGET if budget is None else budget
        self._held: list[Table] = []
        self._bytes = self._made = 0
        self._runs: list[Path] = []

    def add(self, table: Table) -> None:
        """Takes rows; every table has the same schema."""
        if not len(table):
            return
        self._held.append(table)
        self._bytes += table.nbytes
        if self._bytes > self._budget:
            self._spill()

    def __iter__(self) -> Iterator[Table]:
        """All rows, in tables of at most `ROWS` rows and about `PIECE` bytes."""
        if self._runs and self._held:
            self._spill()
        if self._runs:
            return pieces(self._merged(self._runs))
        return pieces(self._in_memory())

    def whole(self) -> Table | None:
        """All rows as one table, in the order in which they came; None where some had to wait on disk, or none came."""
        if self._runs or not self._held:
            return None
        self._held = [pa.concat_tables(self._held).combine_chunks()]
        return self._held[0]

    def _in_memory(self) -> Iterator[Table]:
        if not self._held:
            return
        table = pa.concat_tables(self._held).combine_chunks()
        self._held = [table]
        order = np.argsort(_numbers(table, self._key), kind="stable")
        for start in range(0, len(order), ROWS):
            yield table.take(pa.array(order[start : start + ROWS]))

    def _spill(self) -> None:
        """What is held becomes a run; as many runs as are merged at once become one."""
        self._runs.append(self._written(pieces(self._in_memory(), self._budget // FAN)))
        self._held, self._bytes = [], 0
        if len(self._runs) == FAN:
            whole = self._written(pieces(self._merged(self._runs), self._budget // FAN))
            for run in self._runs:
                run.unlink()
            self._runs = [whole]

    def _written(self, tables: Iterator[Table]) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self._made}.arrow"
        self._made += 1
        first = next(tables)
        with pa.ipc.new_file(path, first.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as file:
            file.write_table(first.combine_chunks())
            for table in tables:
                file.write_table(table.combine_chunks())
        return path

    def _merged(self, runs: Iterable[Path]) -> Iterator[Table]:
        """The rows of all runs: each time those up to the least last key of what is at the front of a run."""
        with ExitStack() as opened:
            rest = [_batches(opened.enter_context(pa.OSFile(str(run)))) for run in runs]
            front = [next(batches) for batches in rest]
            while front:
                keys = [_numbers(table, self._key) for table in front]
                stop = min(key[-1] for key in keys)
                counts = [int(np.searchsorted(key, stop, side="right")) for key in keys]
                ready = pa.concat_tables(table.slice(0, count) for table, count in zip(front, counts, strict=True))
                yield ready.combine_chunks().take(pa.array(np.argsort(_numbers(ready, self._key), kind="stable")))
                front = [table.slice(count) for table, count in zip(front, counts, strict=True)]
                moved = [
                    table if len(table) else next(batches, None) for table, batches in zip(front, rest, strict=True)
                ]
                rest = [batches for table, batches in zip(moved, rest, strict=True) if table is not None]
                front = [table for table in moved if table is not None]


def _batches(file: Any) -> Iterator[Table]:
    reader = pa.ipc.open_file(file)
    for number in range(reader.num_record_batches):
        yield pa.Table.from_batches([reader.get_batch(number)])


def _numbers(table: Table, key: str) -> npt.NDArray[Any]:
    return np.asarray(table[key].to_numpy())


def pieces(tables: Iterable[Table], limit: int | None = None) -> Iterator[Table]:
    """The same rows in tables that depend on the rows alone: as many as fit, one at least, of `ROWS` and `limit` bytes.

    Bytes are those of the column ``geometry``; `limit` is `PIECE` by default.
    """
    limit = PIECE if limit is None else limit
    held: list[Table] = []
    rows = size = 0
    for table in tables:
        lengths = np.asarray(pc.binary_length(table["geometry"]).to_numpy())
        reach, start = np.cumsum(lengths), 0
        while start < len(table):
            before = reach[start - 1] if start else 0
            stop = min(int(np.searchsorted(reach, before + limit - size, side="right")), start + ROWS - rows)
            stop = max(stop, start if rows else start + 1)
            if stop > start:
                held.append(table.slice(start, stop - start))
                rows, size = rows + stop - start, size + int(reach[stop - 1] - before)
            start = stop
            if start < len(table) or rows == ROWS:
                yield pa.concat_tables(held)
                held, rows, size = [], 0, 0
    if rows:
        yield pa.concat_tables(held)
