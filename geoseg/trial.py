"""What a run costs on the machine that will do it, measured on a few of its own tiles."""

from __future__ import annotations

import time
from dataclasses import replace

from geoseg.grid import ChunkGrid
from geoseg.plan import RunPlan
from geoseg.protocols import Model, Source
from geoseg.stream import stream_chunk
from geoseg.tuning import ProbedCost, probe_cost
from geoseg.window import Window

__all__ = ["try_out"]


def try_out(plan: RunPlan, source: Source, package: str, model: Model) -> ProbedCost:
    """What a few tiles in the middle of the scene cost, from the read to the decision.

    Args:
        plan: What would be run.
        source: The scene's pixels.
        package: Name or path of the model package.
        model: What runs it with the plan's settings, on as many dates as the scene has.

    Raises:
        SourceError: The source cannot be read.
        ModelError: The package is wrong or does not run with the plan's settings.
    """
    settings, grid = plan.settings, plan.grid
    net = probe_cost(package, settings, tile=grid.tile)
    crop, side = plan.chunks.crop, 2 * settings.lanes * grid.stride
    row, col = crop.row_off + crop.height // 2, crop.col_off + crop.width // 2
    middle = Window(row_off=row, col_off=col, height=grid.stride, width=side) & crop
    chunk = ChunkGrid(grid=grid, crop=middle, rows_per_chunk=len(grid), cols_per_chunk=len(grid))[0]
    began = time.perf_counter()
    _, counts = stream_chunk(
        chunk,
        source=source,
        model=model,
        blend=plan.blend,
        layers=plan.layers,
        settings=settings,
        write=lambda window, rasters: None,
    )
    seconds = (time.perf_counter() - began) / max(1, counts.forward_passes)
    return replace(net, seconds_per_tile=max(net.seconds_per_tile, seconds))
