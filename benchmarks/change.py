"""What comparing two dates costs: a Siamese net against segmentation of one date with the same encoder."""

from __future__ import annotations

import shutil
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import geoseg
from benchmarks.engine import OVERLAP, TILE, run_once
from benchmarks.measure import Bench, Figure, StageClock, interleaved, spread
from benchmarks.nets import siamese_package, unet_package
from benchmarks.scene import large_scene

__all__ = ["measure"]


def measure(bench: Bench) -> list[Figure]:
    """Wall time from the call to the finished COGs of a pair over that of one date, both taking turns."""
    side, rounds = bench.pick(4096, 640), bench.pick(3, 1)
    tile, overlap = bench.pick(TILE, 128), bench.pick(OVERLAP, 32)
    scene, nets, runs = large_scene(bench.folder("scenes"), side), bench.folder("nets"), bench.folder("runs")
    options = {"tile": tile, "overlap": overlap, "backend": "torch", "precision": "fp32"}
    one, pair = unet_package(nets, "resnet18"), siamese_package(nets, "resnet18")

    def segmented() -> float:
        return run_once(scene, one, runs / "one", **options).to_rasters

    seconds = interleaved({"one": segmented, "pair": partial(_compared, scene, pair, runs / "pair", options)}, rounds)
    ratios = [both / alone for alone, both in zip(seconds["one"], seconds["pair"], strict=True)]
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return [
        Figure(
            benchmark="change",
            what=f"two dates over one, U-Net resnet18, {side} x {side} x 4, tile {tile}/{overlap}, to finished COGs",
            value=statistics.median(ratios),
            unit="x",
            limit=2.1,
            note=f"{medians['pair']:.1f} s over {medians['one']:.1f} s; {spread(ratios)}",
        )
    ]


def _compared(scene: Path, package: Path, out: Path, options: dict[str, Any]) -> float:
    """Seconds; both dates are one file, which costs what two do: nothing knows that it was read before."""
    shutil.rmtree(out, ignore_errors=True)
    clock = StageClock()
    geoseg.detect_change(scene, scene, model=package, out=out, vector=(), on_event=clock, **options)
    return clock.to_rasters
