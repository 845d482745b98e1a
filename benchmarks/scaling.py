"""Two workers over one, and a whole run over the forward passes alone on the same workers.

Workers are processes of one thread, in a cluster that is started from a file as anybody's would be. Times run from the
first chunk to the last durable part, with workers that have loaded the net: a small run goes before.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from benchmarks.engine import OVERLAP, TILE, run_once
from benchmarks.floor import floor_seconds
from benchmarks.measure import Bench, Figure, spread
from benchmarks.nets import unet_package
from benchmarks.scene import large_scene
from geoseg.cluster import Cluster
from geoseg.models import load_model
from geoseg.pipeline import plan_segment
from geoseg.settings import ClusterOptions, Settings

__all__ = ["floor_of", "measure", "workers_of_one_thread"]


@contextmanager
def workers_of_one_thread(count: int, folder: Path) -> Iterator[Cluster]:
    """A cluster of `count` processes with one thread each."""
    described = folder / f"workers-{count}.yaml"
    kwargs = {"workers": count, "memory_limit": 0}
    described.write_text(json.dumps({"class": "geoseg.processes.LocalProcesses", "kwargs": kwargs}))
    with Cluster(ClusterOptions(cluster=described)) as cluster:
        yield cluster


def floor_of(package: Path, *, workers: int, tile: int, tiles: int) -> float:
    """Seconds of `tiles` forward passes that as many processes of one thread share, all starting at once."""
    context = get_context("spawn")
    barrier, answers = context.Barrier(workers), context.SimpleQueue()
    shares = [tiles // workers + (number < tiles % workers) for number in range(workers)]
    processes = [context.Process(target=_floor, args=(package, tile, share, barrier, answers)) for share in shares]
    for process in processes:
        process.start()
    seconds: list[float] = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    return max(seconds)


def _floor(package: Path, tile: int, tiles: int, barrier: Barrier, answers: Any) -> None:
    settings = Settings()
    model = load_model(package, settings)
    floor_seconds(model, settings, tile=tile, tiles=1)  # loads what the first pass loads
    barrier.wait()
    answers.put(floor_seconds(model, settings, tile=tile, tiles=tiles))


def measure(bench: Bench) -> list[Figure]:
    """U-Net resnet18 in fp32 on torch; one and two workers and the floor of two take turns."""
    side, tile, overlap = bench.pick(8192, 640), bench.pick(TILE, 128), bench.pick(OVERLAP, 32)
    package, out = unet_package(bench.folder("nets"), "resnet18"), bench.folder("runs") / "scaling"
    scene, small = large_scene(bench.folder("scenes"), side), large_scene(bench.folder("scenes"), 2 * tile)
    model = load_model(package)  # as an object it runs as it is: one lane, one thread, whatever the machine has
    tiles = plan_segment(scene, model=model, tile=tile, overlap=overlap).tiles

    def run(workers: int) -> float:
        with workers_of_one_thread(workers, out.parent) as cluster:
            run_once(small, model, out, cluster=cluster, tile=tile, overlap=overlap)
            seconds = run_once(scene, model, out, cluster=cluster, tile=tile, overlap=overlap).to_parts
        shutil.rmtree(out)
        return seconds

    ones, twos, floors = [], [], [floor_of(package, workers=2, tile=tile, tiles=tiles)]
    for _ in range(bench.pick(2, 1)):
        twos.append(run(2))
        floors.append(floor_of(package, workers=2, tile=tile, tiles=tiles))
        ones.append(run(1))
    alone = floor_of(package, workers=1, tile=tile, tiles=tiles // 2)  # one half, while the other rests
    name = f"{package.name}, {side} x {side} x 4, tile {tile}/{overlap}"
    ratios = [one / two for one, two in zip(ones, twos, strict=True)]
    around = [(before + after) / 2 for before, after in pairwise(floors)]
    over = [two / floor for two, floor in zip(twos, around, strict=True)]
    note = f"{statistics.median(ones):.1f} s over {statistics.median(twos):.1f} s; {spread(ratios)}"
    return [
        Figure(
            benchmark="scaling",
            what=f"one worker of one thread over two: {name}",
            value=statistics.median(ratios),
            unit="x",
            limit=1.85,
            wanted=">=",
            note=note,
        ),
        Figure(
            benchmark="scaling",
            what=f"first read to last durable part over forward passes alone, two workers: {name}",
            value=statistics.median(over),
            unit="x",
            limit=1.05,
            note=f"floor {statistics.median(floors):.1f} s; {spread(over)}",
        ),
        Figure(
            benchmark="scaling",
            what=f"forward passes alone, one process over two, which is what this machine allows: {name}",
            value=2 * alone / statistics.median(floors),
            unit="x",
            note=f"twice {alone:.1f} s over {statistics.median(floors):.1f} s",
        ),
    ]
