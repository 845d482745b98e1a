"""The settings that geoseg chooses by itself, against the best of a small grid."""

from __future__ import annotations

import os
import statistics
from functools import partial
from itertools import product

from benchmarks.floor import floor_seconds
from benchmarks.measure import Bench, Figure, interleaved
from benchmarks.nets import unet_package
from geoseg.models import load_model
from geoseg.settings import Settings
from geoseg.tuning import choose_settings

__all__ = ["grid", "measure"]


def grid(cores: int) -> list[Settings]:
    """All cores as lanes of one thread, or as threads of one lane; batches of 1 and 4; both memory formats."""
    shapes = sorted({(cores, 1), (1, cores)})
    return [
        Settings(lanes=lanes, threads=threads, batch=batch, channels_last=last)
        for (lanes, threads), batch, last in product(shapes, (1, 4), (False, True))
    ]


def measure(bench: Bench) -> list[Figure]:
    """Seconds per tile of the choice over the best of the grid, all of them taking turns."""
    cores = len(os.sched_getaffinity(0))
    tile, tiles, rounds = bench.pick(512, 64), bench.pick(16, 4), bench.pick(5, 1)
    figures = []
    for encoder in ("resnet18",) if bench.quick else ("resnet18", "mobilenet_v2"):
        package = unet_package(bench.folder("nets"), encoder)
        chosen = choose_settings(package, backend="torch", device="cpu", precision="fp32", tile=tile, cache=False)
        models = {str(one): (one, load_model(package, one)) for one in [chosen, *grid(cores)]}
        actions = {
            name: partial(floor_seconds, model, one, tile=tile, tiles=tiles) for name, (one, model) in models.items()
        }
        seconds = {name: statistics.median(times) / tiles for name, times in interleaved(actions, rounds).items()}
        best = min(seconds, key=seconds.__getitem__)
        mine, other = seconds[str(chosen)], seconds[best]
        note = f"{mine * 1e3:.0f} ms ({_brief(chosen)}) over {other * 1e3:.0f} ms ({_brief(models[best][0])})"
        what = f"chosen settings over the best of {len(grid(cores))}: U-Net {encoder}, tile {tile}, {cores} cores"
        figures.append(Figure(benchmark="settings", what=what, value=mine / other, unit="x", limit=1.05, note=note))
    return figures


def _brief(one: Settings) -> str:
    layout = "channels last" if one.channels_last else "channels first"
    return f"{one.lanes} lanes x {one.threads} threads, batch {one.batch}, {layout}"
