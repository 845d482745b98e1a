"""ONNX Runtime and OpenVINO against PyTorch, with the same nets on the same tiles."""

from __future__ import annotations

import os
import statistics
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import torch

from benchmarks.floor import floor_seconds
from benchmarks.measure import Bench, Figure, interleaved
from benchmarks.nets import unet_package
from geoseg.models import load_model
from geoseg.settings import Settings

__all__ = ["measure"]


def measure(bench: Bench) -> list[Figure]:
    """How many times faster each runtime is than torch in channels_last fp32, and how far its scores are off."""
    cores = len(os.sched_getaffinity(0))
    # Runtimes compile for the tile of the card, which is 512.
    tile, tiles, rounds = 512, bench.pick(16, 1), bench.pick(5, 1)
    figures: list[Figure] = []
    for encoder in ("mobilenet_v2",) if bench.quick else ("mobilenet_v2", "resnet18", "resnet34"):
        package = unet_package(bench.folder("nets"), encoder)
        torch_settings = Settings(lanes=cores, channels_last=True)
        every = {
            "torch": torch_settings,
            "onnxruntime": replace(torch_settings, backend="onnxruntime", channels_last=False),
        }
        if find_spec("openvino"):
            every["openvino"] = replace(torch_settings, backend="openvino", channels_last=False)
        models = {name: load_model(package, one) for name, one in every.items()}
        actions = {name: partial(floor_seconds, models[name], every[name], tile=tile, tiles=tiles) for name in every}
        seconds = {name: statistics.median(times) / tiles for name, times in interleaved(actions, rounds).items()}
        batch = torch.rand(1, 4, tile, tile, generator=torch.Generator().manual_seed(0))
        scores = {name: model.predict(batch) for name, model in models.items()}
        size = f"U-Net {encoder}, tile {tile}, {cores} lanes of 1 thread"
        fastest = min(seconds, key=seconds.__getitem__)
        note = ", ".join(f"{name} {each * 1e3:.0f} ms" for name, each in seconds.items())
        figures.append(
            Figure(
                benchmark="runtimes", what=f"fastest runtime ({fastest}) over torch channels_last fp32: {size}",
                value=seconds["torch"] / seconds[fastest], unit="x", limit=1.3, wanted=">=", note=note,
            )
        )  # fmt: skip
        for name in every.keys() - {"torch"}:
            off = float((scores[name] - scores["torch"]).abs().max() / scores["torch"].abs().max())
            what = f"largest difference of {name}'s scores from torch's, over the largest score: {size}"
            figures.append(Figure(benchmark="runtimes", what=what, value=off, unit="", limit=2e-5))
    return figures
