"""A raster looked at chunk by chunk, several at once, and what comes of it taken in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from geoseg.protocols import LabelReader
from geoseg.window import Window

__all__ = ["CHUNK", "chunks_of", "in_order"]

CHUNK = 2048
"""Pixels along both sides of a chunk, where nobody asks for others."""

_AskedT = TypeVar("_AskedT")
_FoundT = TypeVar("_FoundT")


def chunks_of(labels: LabelReader, rows: int, cols: int) -> Iterable[Window]:
    """The raster in chunks of so many rows and columns, row of chunks by row of chunks."""
    height, width = labels.shape
    return Window(row_off=0, col_off=0, height=height, width=width).pieces(rows, cols)


def in_order(action: Callable[[_AskedT], _FoundT], asked: Iterable[_AskedT], workers: int) -> Iterator[_FoundT]:
    """What `action` makes of each thing, in their order; two for each thread are at work or wait to be taken."""
    with ThreadPoolExecutor(workers, "geoseg-tracing") as pool:
        waiting: deque[Future[_FoundT]] = deque()
        try:
            for each in asked:
                waiting.append(pool.submit(action, each))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
