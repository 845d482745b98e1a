"""One chunk, start to end, on one device: read, prepare, predict, blend, decide, write.

Three stages overlap. A reader thread decodes the next rows (`geoseg.feed`); the net runs the tiles of one or two tile
rows; a writer thread decides and hands over what no later tile can touch. Sums live in buffers of
(class, tile, extent's width), one per tile row in flight, so memory does not know how tall the chunk or the scene is.

On a CPU several lanes run tiles side by side, each lane with its own few threads: for nets of common size that is
faster than one tile on all threads. Sums are exact, so the order in which lanes add their tiles does not matter.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geoseg.blend import Blend
from geoseg.decide import Layers, decide
from geoseg.feed import Strip, read_ahead
from geoseg.grid import Chunk
from geoseg.lanes import Lanes, Row
from geoseg.prepare import Recipe, prepare, recipes_for
from geoseg.protocols import Model, Source, Wanted
from geoseg.settings import Settings
from geoseg.types import Pixels, Scores, Valid
from geoseg.window import Window

__all__ = ["SharedSums", "StreamCounts", "WriteRows", "decide_shared", "stream_chunk"]

WriteRows = Callable[[Window, dict[str, Pixels]], None]
"""Takes decided rows of the core: raster name -> (band, row, col)."""

_ROWS_IN_FLIGHT = 2  # the next tile row starts while the last tiles of this one still run


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSums:
    """What one chunk knows of an area that other chunks' tiles also cover."""

    window: Window
    """Where it lies in the scene."""
    sums: Scores
    """Partial sums (class, row, col) of weighted probabilities."""
    inside: Valid
    """Pixels (row, col) that get a label; all chunks agree on them."""


@dataclass(slots=True, kw_only=True)
class StreamCounts:
    """What one chunk cost."""

    tiles: int = 0
    """Tiles of the lattice that the chunk owns."""
    forward_passes: int = 0
    """Tiles that the net saw: those with at least one pixel that gets a label."""
    pixels: int = 0
    """Pixels decided, the seams left out."""
    bytes_read: int = 0
    """Stored numbers that the source gave, in bytes."""
    halvings: int = 0
    """Times that the batch was halved for lack of device memory."""
    read: float = 0.0
    """Seconds that the source took, in its own thread."""
    wait: float = 0.0
    """Seconds that the net waited for pixels."""
    compute: float = 0.0
    """Seconds of the net, summed over lanes."""
    write: float = 0.0
    """Seconds of deciding and writing, in their own thread."""


def stream_chunk(
    chunk: Chunk,
    *,
    source: Source,
    model: Model,
    blend: Blend,
    layers: Layers,
    settings: Settings,
    write: WriteRows,
    wanted: Wanted | None = None,
    on_row: Callable[[int, int], None] = lambda tiles, pixels: None,
) -> tuple[list[SharedSums], StreamCounts]:
    """Runs the tiles of a chunk; decided rows of its core go to `write`, top to bottom; shared areas come back as sums.

    Args:
        chunk: Which tiles.
        source: Where their pixels come from.
        model: On `settings.device`.
        blend: Taper.
        layers: Which rasters to make.
        settings: Batch, lanes, threads.
        write: Takes decided rows, in a thread of its own.
        wanted: Pixels that are asked for, of the whole scene; None for all.
        on_row: Called with the tiles and pixels of each finished tile row.

    Raises:
        SourceError: The source cannot be read.
        ModelError: The net gave NaN, infinity or the wrong number of classes; names the tile.
    """
    counts = StreamCounts(tiles=chunk.tiles)
    in_flight: deque[Row] = deque()
    with ExitStack() as stack:
        stack.enter_context(_threads_here(settings.threads))
        emitter = stack.enter_context(closing(_Emitter(chunk, layers, write, counts)))
        lanes = stack.enter_context(closing(Lanes(chunk, model, blend, settings)))
        strips = stack.enter_context(closing(read_ahead(source, chunk, wanted)))
        rows = _Rows(chunk, recipes_for(model.spec, source.bands), settings, layers.depth)

        def finish(row: Row) -> None:
            lanes.wait(row)
            on_row(chunk.tile_cols[1] - chunk.tile_cols[0], emitter.take(row, *rows.close(row)))

        for index in range(*chunk.tile_rows):
            began = time.perf_counter()
            strip = next(strips)
            counts.wait += time.perf_counter() - began
            counts.read += strip.seconds
            counts.bytes_read += strip.bytes_read
            in_flight.append(rows.open(index, strip))
            lanes.start(in_flight[-1])
            if len(in_flight) >= _ROWS_IN_FLIGHT:
                finish(in_flight.popleft())
        while in_flight:
            finish(in_flight.popleft())
        counts.forward_passes, counts.halvings, counts.compute = lanes.forward_passes, lanes.halvings, lanes.seconds
        return emitter.finish(), counts


@contextmanager
def _threads_here(threads: int) -> Iterator[None]:
    """Lets the calling thread use as many threads as a lane: idle ones would spin beside the net."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Rows:
    """Opens and closes tile rows; their tensors are used again, because fresh memory costs more than the arithmetic."""

    def __init__(self, chunk: Chunk, recipes: Sequence[Recipe], settings: Settings, depth: int) -> None:
        self._chunk, self._recipes, self._device = chunk, recipes, settings.device
        self._planes = sum(len(recipe.channels) for recipe in recipes)
        self._shape = (chunk.grid.tile, chunk.extent.width)
        self._depth = depth
        self._free_channels: list[Tensor] = []
        self._free_sums: list[Tensor] = []
        self._opened: Row | None = None
        self._closed: Row | None = None

    def open(self, index: int, strip: Strip) -> Row:
        """The strip's pixels prepared on the device, below what the tile row above already had of this one."""
        channels, sums = self._tensors()
        inside, above = strip.inside, self._opened
        if above is not None:
            stride = self._chunk.grid.stride
            channels[:, : -len(inside)].copy_(above.channels[:, stride:])
            inside = np.concatenate([above.inside[stride:], inside])
        valid = None if strip.valid.all() else _to_device(strip.valid, self._device)
        fresh, pixels = channels[:, -len(strip.inside) :], _to_device(strip.pixels, self._device)
        for recipe, of_date in zip(self._recipes, fresh.chunk(len(self._recipes)), strict=True):
            prepare(pixels, valid, recipe, out=of_date)
        self._opened = Row(index, channels, inside, sums)
        return self._opened

    def close(self, row: Row) -> tuple[Tensor, Valid]:
        """Sums and places of a row's final pixels, with what the tile row above left for them.

        Rows are closed in order, each once all its tiles are added and the next one is open.
        """
        stride, above = self._chunk.grid.stride, self._closed
        if above is not None:
            row.sums[:, : self._chunk.grid.overlap].add_(above.sums[:, stride:])
            if above.emitted is not None:
                above.emitted.result()
            self._free_sums.append(above.sums)
        self._free_channels.append(row.channels)
        self._closed = row
        final = slice(None) if row.index == self._chunk.tile_rows[1] - 1 else slice(0, stride)
        return row.sums[:, final], row.inside[final]

    def _tensors(self) -> tuple[Tensor, Tensor]:
        channels = self._free_channels.pop() if self._free_channels else self._new(self._planes)
        sums = self._free_sums.pop() if self._free_sums else self._new(self._depth)
        return channels, sums.zero_()

    def _new(self, depth: int) -> Tensor:
        return torch.empty((depth, *self._shape), dtype=torch.float32, device=self._device)


def _to_device(array: npt.NDArray[Any], device: str) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


class _Emitter:
    """Cuts finished rows into the core, which it decides and writes, and the shared areas, which it keeps as sums."""

    def __init__(self, chunk: Chunk, layers: Layers, write: WriteRows, counts: StreamCounts) -> None:
        self._chunk, self._layers, self._write, self._counts = chunk, layers, write, counts
        self._core = chunk.core
        self._shared = [_empty(area, layers.depth) for area in chunk.shared]
        self._pool = ThreadPoolExecutor(1, "geoseg-writer")
        self._waiting: deque[Future[None]] = deque()

    def take(self, row: Row, sums: Tensor, inside: Valid) -> int:
        """Takes the final pixels of a row, (class, row, width); returns how many of them the core decides."""
        extent, row_off = self._chunk.extent, row.index * self._chunk.grid.stride
        window = Window(row_off=row_off, col_off=extent.col_off, height=sums.shape[1], width=extent.width)
        row.emitted = self._pool.submit(self._emit, window, sums, inside)
        self._waiting.append(row.emitted)
        while len(self._waiting) > _ROWS_IN_FLIGHT:
            self._waiting.popleft().result()
        return (window & self._core).size

    def finish(self) -> list[SharedSums]:
        """Waits for the writer; returns the shared areas."""
        while self._waiting:
            self._waiting.popleft().result()
        return self._shared

    def close(self) -> None:
        """Drops what has not started and waits for what has."""
        self._pool.shutdown(cancel_futures=True)

    @torch.inference_mode()
    def _emit(self, window: Window, sums: Tensor, inside: Valid) -> None:
        began = time.perf_counter()
        for shared in self._shared:
            if part := shared.window & window:
                rows, cols = part.within(window).slices
                place = part.within(shared.window).slices
                shared.sums[:, *place] = sums[:, rows, cols].cpu().numpy()
                shared.inside[place] = inside[rows, cols]
        if part := self._core & window:
            rows, cols = part.within(window).slices
            self._write(part, _decided(sums[:, rows, cols], inside[rows, cols], self._layers))
            self._counts.pixels += part.size
        self._counts.write += time.perf_counter() - began


def _empty(area: Window, classes: int) -> SharedSums:
    """An area whose sums are still to come."""
    sums = np.empty((classes, *area.shape), dtype=np.float32)
    return SharedSums(window=area, sums=sums, inside=np.empty(area.shape, dtype=bool))


def _decided(sums: Tensor, inside: Valid, layers: Layers) -> dict[str, Pixels]:
    usable = None if inside.all() else torch.from_numpy(inside).to(sums.device)
    return {name: bands.cpu().numpy() for name, bands in decide(sums, usable, layers).items()}


@torch.inference_mode()
def decide_shared(parts: Sequence[SharedSums], layers: Layers) -> dict[str, Pixels]:
    """Rasters of an area from the partial sums of every chunk whose tiles cover it.

    Args:
        parts: At least one; all of the same window.
        layers: Which rasters to make.
    """
    total = torch.from_numpy(parts[0].sums.copy())
    for part in parts[1:]:
        total.add_(torch.from_numpy(part.sums))
    return _decided(total, parts[0].inside, layers)
