"""Other ways to run a net over a scene, on the same file, with the same net, tile and overlap, ending in a GeoTIFF.

Each is written as its project documents it. They read, scale, run, stitch and write labels; none but MONAI and the
array way blends.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import torch
from torch import Tensor, nn

from benchmarks.engine import run_once
from benchmarks.measure import Bench, Figure, interleaved
from benchmarks.nets import pointwise, pointwise_package
from benchmarks.scene import large_scene

__all__ = ["array_way", "dask_way", "measure", "monai_way", "torchgeo_way"]

SCALE = 1e-4
Labels = npt.NDArray[np.uint8]
Way = Callable[[Path, nn.Module, int, int], Labels]


def torchgeo_way(scene: Path, net: nn.Module, tile: int, overlap: int) -> Labels:
    """torchgeo: RasterDataset, GridGeoSampler, DataLoader; labels are put where the sample's bounds say."""
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import GridGeoSampler

    dataset = RasterDataset(str(scene), transforms=_scaled)
    sampler = GridGeoSampler(dataset, size=tile, stride=tile - overlap)
    loader = DataLoader(dataset, batch_size=1, sampler=sampler, collate_fn=stack_samples)
    with rasterio.open(scene) as raster:
        shape, inverse = raster.shape, ~raster.transform
    labels = np.full(shape, 255, dtype=np.uint8)
    half = overlap // 2
    with torch.inference_mode():
        for sample in loader:
            found = net(sample["image"]).argmax(1)[0].to(torch.uint8).numpy()
            x, y, _ = sample["bounds"][0]
            col, row = (round(value) for value in inverse * (x.start, y.stop))
            # The middle is trusted, and the rim where no other tile lies; tiles may reach beyond the scene.
            top, left = row + half if row > 0 else 0, col + half if col > 0 else 0
            bottom = row + tile - half if row + tile < shape[0] else shape[0]
            right = col + tile - half if col + tile < shape[1] else shape[1]
            labels[top:bottom, left:right] = found[top - row : bottom - row, left - col : right - col]
    return labels


def _scaled(sample: dict[str, Any]) -> dict[str, Any]:
    sample["image"] = sample["image"] * SCALE
    return sample


def monai_way(scene: Path, net: nn.Module, tile: int, overlap: int) -> Labels:
    """MONAI: sliding_window_inference with Gaussian weights over the whole scene as one tensor."""
    from monai.inferers import sliding_window_inference

    with torch.inference_mode():
        image = _whole(scene)[None]
        scores = sliding_window_inference(
            image, (tile, tile), sw_batch_size=1, predictor=net, overlap=overlap / tile, mode="gaussian"
        )
        assert isinstance(scores, Tensor)
        return scores[0].argmax(0).to(torch.uint8).numpy()


def dask_way(scene: Path, net: nn.Module, tile: int, overlap: int) -> Labels:
    """Dask: map_overlap with half the overlap on every side, trimmed off again; nothing is blended."""
    import dask
    import dask.array as da

    with rasterio.open(scene) as raster:
        bands, height, width = raster.count, raster.height, raster.width
    stride, depth = tile - overlap, overlap // 2

    def read(block_info: Any) -> npt.NDArray[np.uint16]:
        (_, row, col) = block_info[None]["array-location"]
        window = rasterio.windows.Window(col[0], row[0], col[1] - col[0], row[1] - row[0])
        with rasterio.open(scene) as raster:
            return np.asarray(raster.read(window=window))

    def run(block: npt.NDArray[np.uint16]) -> Labels:
        with torch.inference_mode():
            scores = net(torch.from_numpy(block.astype(np.float32) * SCALE)[None])
            return np.asarray(scores[0].argmax(0, keepdim=True).to(torch.uint8).numpy())

    chunks = ((bands,), _cuts(height, stride), _cuts(width, stride))
    image = da.map_blocks(read, chunks=chunks, dtype=np.uint16, meta=np.empty((0, 0, 0), np.uint16))
    around = {0: 0, 1: depth, 2: depth}
    padded = da.overlap.overlap(image, depth=around, boundary="reflect")
    labels = padded.map_blocks(run, dtype=np.uint8, chunks=((1,), *padded.chunks[1:]))
    trimmed = da.overlap.trim_internal(labels, around, boundary="reflect")
    with dask.config.set(scheduler="threads"):
        return np.asarray(trimmed.compute()[0])


def _cuts(length: int, stride: int) -> tuple[int, ...]:
    """Chunks of one stride; a short rest joins the last, because overlap cannot exceed a chunk."""
    whole = max(1, length // stride)
    return (*([stride] * (whole - 1)), length - stride * (whole - 1))


def array_way(scene: Path, net: nn.Module, tile: int, overlap: int) -> Labels:
    """Arrays of the scene's size: read all, add weighted scores tile by tile, divide, take the largest."""
    with torch.inference_mode():
        image = _whole(scene)
        _, height, width = image.shape
        rise = (torch.arange(overlap) + 0.5) / overlap
        line = torch.cat([rise, torch.ones(tile - 2 * overlap), rise.flip(0)])
        weights = line[:, None] * line[None, :]
        sums: Tensor | None = None
        for row in _starts(height, tile, tile - overlap):
            for col in _starts(width, tile, tile - overlap):
                scores = net(image[None, :, row : row + tile, col : col + tile])[0]
                if sums is None:
                    sums, total = torch.zeros(len(scores), height, width), torch.zeros(height, width)
                sums[:, row : row + tile, col : col + tile] += scores * weights
                total[row : row + tile, col : col + tile] += weights
        assert sums is not None
        sums /= total
        return sums.argmax(0).to(torch.uint8).numpy()


def _starts(length: int, tile: int, stride: int) -> list[int]:
    """Where tiles begin; the last one is moved back to end at the edge."""
    return sorted({min(start, length - tile) for start in range(0, max(1, length - tile + stride), stride)})


def _whole(scene: Path) -> Tensor:
    with rasterio.open(scene) as raster:
        return torch.from_numpy(raster.read().astype(np.float32)).mul_(SCALE)


def _write(labels: Labels, scene: Path, path: Path) -> None:
    """What every way ends with: a tiled, compressed GeoTIFF."""
    with rasterio.open(scene) as raster:
        profile = {"crs": raster.crs, "transform": raster.transform, "height": raster.height, "width": raster.width}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        dtype="uint8",
        nodata=255,
        compress="deflate",
        tiled=True,
        num_threads=2,
        **profile,
    ) as out:
        out.write(labels, 1)


WAYS: dict[str, tuple[Way, float | None]] = {
    "torchgeo sampler + stitch": (torchgeo_way, 4.0),
    "MONAI sliding_window_inference": (monai_way, 4.0),
    "dask map_overlap + trim": (dask_way, 1.3),
    "arrays of the scene's size": (array_way, None),
}


def measure(bench: Bench) -> list[Figure]:
    """A 1 x 1 convolution, so that only what surrounds the net is timed: to the labels, and to a finished raster."""
    side, tile, overlap = bench.pick(8192, 896), bench.pick(512, 128), bench.pick(128, 32)
    scene, package = large_scene(bench.folder("scenes"), side), pointwise_package(bench.folder("nets"))
    out, net = bench.folder("runs") / "peers", pointwise()
    labels: dict[str, Labels] = {}
    to_raster: dict[str, list[float]] = {}

    def ours() -> float:
        clock = run_once(scene, package, out, tile=tile, overlap=overlap, confidence=False, backend="torch")
        with rasterio.open(out / "labels.tif") as raster:
            labels["geoseg"] = raster.read(1)
        to_raster.setdefault("geoseg", []).append(clock.to_rasters)
        return clock.to_parts

    def theirs(name: str) -> Callable[[], float]:
        def action() -> float:
            began = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                labels[name] = WAYS[name][0](scene, net, tile, overlap)
            seconds = time.perf_counter() - began
            _write(labels[name], scene, out.with_suffix(".tif"))
            to_raster.setdefault(name, []).append(time.perf_counter() - began)
            return seconds

        return action

    to_labels = interleaved({"geoseg": ours} | {name: theirs(name) for name in WAYS}, bench.pick(2, 1))
    shutil.rmtree(out, ignore_errors=True)
    out.with_suffix(".tif").unlink(missing_ok=True)
    what = f"{side} x {side} x 4, 1 x 1 convolution, tile {tile}/{overlap}"
    mine = min(to_labels["geoseg"]), min(to_raster["geoseg"])
    note = f"to the last durable part; {mine[1]:.2f} s to the finished COG"
    figures = [Figure(benchmark="peers", what=f"geoseg, {what}", value=mine[0], note=note)]
    for name, (_, limit) in WAYS.items():
        same = float((labels[name] == labels["geoseg"]).mean())
        peer = min(to_labels[name]), min(to_raster[name])
        note = (
            f"{peer[0]:.2f} s to labels in memory; to a finished raster {peer[1]:.2f} s, {peer[1] / mine[1]:.2f} x; "
            f"{same:.2%} of the labels are the same"
        )
        figures.append(
            Figure(
                benchmark="peers",
                what=f"{name} over geoseg, {what}",
                value=peer[0] / mine[0],
                unit="x",
                limit=limit,
                wanted=">=",
                note=note,
            )
        )
    return figures
