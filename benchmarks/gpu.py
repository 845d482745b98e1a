"""A whole run on a GPU over the net's raw throughput; needs neither geopandas nor pyarrow.

``python -m benchmarks.gpu`` runs it alone; ``--device cpu --side 1024`` tries it where there is no GPU.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine import run_once
from benchmarks.floor import floor_seconds
from benchmarks.measure import Bench, Figure
from benchmarks.nets import unet_package
from benchmarks.scene import large_scene
from geoseg.models import load_model
from geoseg.pipeline import plan_segment

__all__ = ["measure"]


def measure(bench: Bench) -> list[Figure]:
    """U-Net resnet34 in bf16 on a scene of 16k x 16k; nothing where there is no GPU."""
    if not torch.cuda.is_available():
        return []
    return on_device(bench.place, side=bench.pick(16384, 2048), device="cuda:0", precision="bf16")


def on_device(place: Path, *, side: int, device: str, precision: str, tile: int = 512) -> list[Figure]:
    """Raw over whole seconds, and whether device memory grows from a quarter of the scene's side to all of it."""
    nets, runs = place / "nets", place / "runs"
    for folder in (nets, runs, place / "scenes"):
        folder.mkdir(parents=True, exist_ok=True)
    package = unet_package(nets, "resnet34")
    small, large = (large_scene(place / "scenes", size) for size in (side // 4, side))
    options: dict[str, Any] = {
        "device": device,
        "precision": precision,
        "backend": "torch",
        "tile": tile,
        "overlap": tile // 4,
    }
    plan = plan_segment(large, model=package, **options)
    model = load_model(package, plan.settings)
    raw = floor_seconds(model, plan.settings, tile=tile, tiles=plan.tiles)
    run_once(small, package, runs / "gpu", **options)  # warm: kernels chosen, pinned memory there
    low, _ = _measured(small, package, runs / "gpu", device, options)
    high, clock = _measured(large, package, runs / "gpu", device, options)
    shutil.rmtree(runs / "gpu")
    name = torch.cuda.get_device_name(device) if device != "cpu" else "cpu"
    what = f"U-Net resnet34 {precision}, {side} x {side} x 4, batch {plan.settings.batch}, {name}"
    speed = side * side / 1e6 / clock[0]
    figures = [
        Figure(
            benchmark="gpu", what=f"{end}, throughput over raw forward passes: {what}", value=raw / seconds, unit="x",
            limit=limit, wanted=">=", note=f"{raw:.2f} s raw, {seconds:.2f} s; {speed:.0f} Mpx/s to parts",
        )
        for end, seconds, limit in (("to parts", clock[0], 0.90), ("to finished COGs", clock[1], None))
    ]  # fmt: skip
    if device == "cpu":
        return figures
    note = f"{high / 1e6:.0f} MB over {low / 1e6:.0f} MB"
    grown = f"peak device memory, {side} x {side} over {side // 4} x {side // 4}"
    return [*figures, Figure(benchmark="gpu", what=grown, value=high / low, unit="x", limit=1.05, note=note)]


def _measured(
    scene: Path, package: Path, out: Path, device: str, options: dict[str, Any]
) -> tuple[int, tuple[float, float]]:
    """Peak device memory, and seconds to parts and to COGs."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
    clock = run_once(scene, package, out, **options)
    peak = torch.cuda.max_memory_allocated(device) if device != "cpu" else 0
    return peak, (clock.to_parts, clock.to_rasters)


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--place", type=Path, default=Path("bench"))
    parser.add_argument("--side", type=int, default=16384)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--tile", type=int, default=512)
    asked = parser.parse_args()
    for figure in on_device(**vars(asked)):
        print(f"{figure.value:.3f} {figure.unit}  {figure.what}  ({figure.note})")


if __name__ == "__main__":
    main()
