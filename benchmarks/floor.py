"""The floor under any engine: the same forward passes alone, on tiles that lie in memory already."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from geoseg.protocols import Model
from geoseg.settings import Settings

__all__ = ["floor_seconds"]


def floor_seconds(model: Model, settings: Settings, *, tile: int, tiles: int) -> float:
    """Seconds of `tiles` forward passes in batches of `settings.batch`, as many side by side as there are lanes.

    The last batch is full, as in the engine. One forward pass per lane goes before, unmeasured.
    """
    shape = (settings.batch, len(model.spec.channels), tile, tile)
    batches = [torch.rand(shape, device=settings.device) for _ in range(settings.lanes)]
    with ThreadPoolExecutor(settings.lanes, initializer=torch.set_num_threads, initargs=(settings.threads,)) as pool:
        list(pool.map(model.predict, batches))
        wait(settings.device)
        began = time.perf_counter()
        waiting = [batches[number % settings.lanes] for number in range(-(-tiles // settings.batch))]
        for scores in pool.map(lambda batch: _forward(model, batch), waiting):
            del scores
        wait(settings.device)
        return time.perf_counter() - began


def _forward(model: Model, batch: Tensor) -> None:
    model.predict(batch)


def wait(device: str) -> None:
    """Returns when the device has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize(device)
