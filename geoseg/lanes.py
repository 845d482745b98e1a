"""Tiles side by side: batches of one tile row run on the device and add up in the row's sums.

On a CPU several lanes run at once, each with its own few threads. Contributions are exact multiples of 2^-22, so the
order in which lanes add their tiles changes no bit; a lock per border keeps two neighbours from adding at once.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from geoseg.blend import Blend, TileWeights, add_weighted, to_probs
from geoseg.errors import ModelError
from geoseg.grid import Chunk, Tile
from geoseg.protocols import Model
from geoseg.settings import Settings
from geoseg.types import Valid

__all__ = ["FullBatches", "Lanes", "Row"]


@dataclass(slots=True)
class Row:
    """One tile row of a chunk in flight."""

    index: int
    channels: Tensor  # (date * channel, tile, width): what the net sees
    inside: Valid  # (tile, width)
    sums: Tensor  # (class, tile, width)
    running: list[Future[None]] = field(default_factory=list)
    checks: list[tuple[Tensor, list[Tile]]] = field(default_factory=list)
    emitted: Future[None] | None = None


class FullBatches:
    """Runs a model on any number of tiles; it always sees a full batch, so that a tile's companions change nothing.

    `predict` may be called from several threads at once.
    """

    def __init__(self, model: Model, batch: int) -> None:
        """Takes the model, and how many tiles it sees at once."""
        self.halvings = 0
        """Times that the batch was halved for lack of device memory."""
        self._model, self._batch = model, batch

    def predict(self, views: list[Tensor]) -> Tensor:
        """Scores (n, class, row, col) of tiles, each (date * channel, row, col).

        A batch too large for the device is halved, and so are all that follow.
        """
        batch = self._batch
        try:
            scores = [self._padded(views[at : at + batch], batch) for at in range(0, len(views), batch)]
        except torch.cuda.OutOfMemoryError:
            if batch == 1 or self._model.spec.static_batch is not None:
                raise
            torch.cuda.empty_cache()
            self._batch = max(1, batch // 2)
            self.halvings += 1
            return self.predict(views)
        return torch.cat(scores) if len(scores) > 1 else scores[0]

    def _padded(self, views: list[Tensor], batch: int) -> Tensor:
        full = torch.stack(views + [views[-1]] * (batch - len(views)))
        if (dates := self._model.spec.dates) > 1:
            full = full.reshape(batch, dates, -1, *full.shape[2:])  # (n, date, channel, row, col)
        return self._model.predict(full)[: len(views)]


class Lanes:
    """Runs the tiles of tile rows, one batch per lane at a time, and adds what comes out to the row's sums."""

    def __init__(self, chunk: Chunk, model: Model, blend: Blend, settings: Settings) -> None:
        """Takes the chunk whose tiles are run, and how."""
        self.forward_passes = 0
        """Tiles that the net saw, or will see."""
        self.seconds = 0.0
        """Time of the net, summed over lanes."""
        self._chunk, self._model = chunk, model
        self._weights = TileWeights(chunk.grid, blend, settings.device)
        self._batch = settings.batch
        self._net = FullBatches(model, settings.batch)
        self._pool = ThreadPoolExecutor(settings.lanes, "geoseg-lane", torch.set_num_threads, (settings.threads,))
        columns = chunk.tile_cols[1] - chunk.tile_cols[0]
        # Neighbours in a row overlap: a tile holds the locks of its left and its right border while it adds.
        self._borders = [threading.Lock() for _ in range(columns + 1)]
        self._counting = threading.Lock()

    @property
    def halvings(self) -> int:
        """Times that the batch was halved for lack of device memory."""
        return self._net.halvings

    def start(self, row: Row) -> None:
        """Queues the tiles of a row that hold at least one pixel that gets a label."""
        tile, stride = self._chunk.grid.tile, self._chunk.grid.stride
        first, stop = self._chunk.tile_cols
        positions = range(stop - first)
        wanted = [at for at in positions if row.inside[:, at * stride : at * stride + tile].any()]
        self.forward_passes += len(wanted)
        for start in range(0, len(wanted), self._batch):
            row.running.append(self._pool.submit(self._run, row, wanted[start : start + self._batch]))

    def wait(self, row: Row) -> None:
        """Returns when all tiles of a row are added.

        Raises:
            ModelError: A tile came out as NaN or infinity.
        """
        for future in row.running:
            future.result()
        for finite, tiles in row.checks:
            if not bool(finite.all()):
                bad = tiles[int((~finite).nonzero()[0])]
                raise ModelError(
                    f"model {self._model.spec.name!r} gave NaN or infinity for the tile at {bad.window}; "
                    "check its scaling and precision, or try --precision fp32"
                )

    def close(self) -> None:
        """Drops what has not started and waits for what has."""
        self._pool.shutdown(cancel_futures=True)

    @torch.inference_mode()
    def _run(self, row: Row, positions: list[int]) -> None:
        began = time.perf_counter()
        tile, stride = self._chunk.grid.tile, self._chunk.grid.stride
        views = [row.channels[:, :, at * stride : at * stride + tile] for at in positions]
        scores = self._net.predict(views)
        # One reduction per tile over all its scores: with `dim` torch's aminmax takes twenty times as long.
        ends = [torch.stack(torch.aminmax(tile_scores)) for tile_scores in scores]
        tiles = [self._chunk.grid.tile_at(row.index, self._chunk.tile_cols[0] + at) for at in positions]
        row.checks.append((torch.isfinite(torch.stack(ends)).all(dim=1), tiles))
        for at, place, probs in zip(positions, tiles, to_probs(scores, self._model.spec), strict=True):
            here, weights = row.sums[:, :, at * stride : at * stride + tile], self._weights(place.row, place.col)
            with self._borders[at], self._borders[at + 1]:
                add_weighted(here, probs, weights)
        with self._counting:
            self.seconds += time.perf_counter() - began
