"""The engine over its floor: first read to last durable part, and to finished COGs, over the forward passes alone."""

from __future__ import annotations

import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geoseg
from benchmarks.floor import floor_seconds
from benchmarks.measure import Bench, Figure, StageClock, spread
from benchmarks.nets import pointwise_package, unet_package
from benchmarks.scene import large_scene
from geoseg.models import load_model
from geoseg.pipeline import plan_segment
from geoseg.protocols import Model

__all__ = ["Round", "measure", "rounds_over_floor", "run_once"]

TILE, OVERLAP = 512, 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One run and the same forward passes alone, one after the other."""

    to_parts: float
    """Seconds to the last durable part."""
    to_rasters: float
    """Seconds to the finished COGs."""
    floor: float
    """Seconds of the forward passes alone."""


def run_once(scene: Path, package: Path | Model, out: Path, **options: Any) -> StageClock:
    """One run without vectors into a fresh directory; when its stages began."""
    shutil.rmtree(out, ignore_errors=True)
    clock = StageClock()
    geoseg.segment(scene, model=package, out=out, vector=(), on_event=clock, **options)
    return clock


def rounds_over_floor(
    scene: Path, package: Path, out: Path, *, tile: int, overlap: int, rounds: int, **options: Any
) -> list[Round]:
    """Runs and floors in turn, so that a slow minute of the machine hits both; floors on either side of a run."""
    plan = plan_segment(scene, model=package, tile=tile, overlap=overlap, **options)
    model = load_model(package, plan.settings)

    def floor() -> float:
        return floor_seconds(model, plan.settings, tile=tile, tiles=plan.tiles)

    found, before = [], floor()
    for _ in range(rounds):
        clock = run_once(scene, package, out, tile=tile, overlap=overlap, **options)
        after = floor()
        found.append(Round(to_parts=clock.to_parts, to_rasters=clock.to_rasters, floor=(before + after) / 2))
        before = after
    return found


def measure(bench: Bench) -> list[Figure]:
    """U-Net resnet18 in fp32 on torch, which has targets, and a 1 x 1 convolution, which shows the engine alone."""
    side, tile, overlap = bench.pick(8192, 640), bench.pick(TILE, 128), bench.pick(OVERLAP, 32)
    scene = large_scene(bench.folder("scenes"), side)
    nets, out = bench.folder("nets"), bench.folder("runs") / "engine"
    figures = []
    for package, rounds, limits in (
        (unet_package(nets, "resnet18"), 1, (1.05, 1.10)),
        (pointwise_package(nets), bench.pick(3, 1), (None, None)),
    ):
        found = rounds_over_floor(
            scene, package, out, tile=tile, overlap=overlap, rounds=rounds, backend="torch", precision="fp32"
        )
        name = f"{package.name}, {side} x {side} x 4, tile {tile}/{overlap}"
        ends = {
            "last durable part": [one.to_parts for one in found],
            "finished COGs": [one.to_rasters for one in found],
        }
        for (end, seconds), limit in zip(ends.items(), limits, strict=True):
            ratios = [mine / one.floor for mine, one in zip(seconds, found, strict=True)]
            note = f"{statistics.median(seconds):.2f} s; {spread(ratios)}"
            what = f"first read to {end} over forward passes alone: {name}"
            value = statistics.median(ratios)
            figures.append(Figure(benchmark="engine", what=what, value=value, unit="x", limit=limit, note=note))
    shutil.rmtree(out, ignore_errors=True)
    return figures
