"""Rivers drawn into pictures of forest: calm water is smooth, hardly brighter than the trees, and rare in the data.

The level of a drawn river differs from that of the forest about it by a few per cent, its texture is less, and its
course is a smoothed random walk. Where it flows, the labels say that there is no forest, as they do for real rivers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from scipy.ndimage import distance_transform_edt, gaussian_filter, gaussian_filter1d

__all__ = ["course", "draw_river", "flooded"]

FOREST, NOT_FOREST = 1, 2
LEAST_FOREST = 0.5
"""Share of a picture below which no river is drawn into it."""

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


def flooded(scene: Path, labels: Path, folder: Path, seed: int) -> tuple[Path, Path] | None:
    """Copies of a picture and its labels with a river in them, in `folder`; None where there is too little forest."""
    with rasterio.open(scene) as file:
        picture, profile = file.read(), {"driver": "GTiff", "crs": file.crs, "transform": file.transform}
    with rasterio.open(labels) as file:
        classes = file.read(1)
    if (classes == FOREST).mean() < LEAST_FOREST:
        return None
    rng = np.random.default_rng(seed)
    water = course(classes.shape, rng)
    drawn, classes = draw_river(picture, classes == FOREST, water, rng), np.where(water, NOT_FOREST, classes)
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f"{scene.stem}-river-{seed}.tif", folder / f"{scene.stem}-river-{seed}-labels.tif"
    for path, bands in zip(made, (drawn, classes[np.newaxis]), strict=True):
        shape = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": "uint8"}
        with rasterio.open(path, "w", **profile, **shape, compress="deflate") as file:
            file.write(bands.astype(np.uint8))
    return made


def course(shape: tuple[int, int], rng: np.random.Generator) -> Mask:
    """Where a river of 8 to 90 pixels flows from one side of a picture to the other."""
    side = max(shape)
    along = np.arange(2 * side) - side // 2
    bends = gaussian_filter1d(rng.normal(size=along.size), rng.uniform(20, 80), mode="wrap")
    across = bends / np.abs(bends).max() * rng.uniform(0.05, 0.25) * side + rng.uniform(0.2, 0.8) * side
    angle = rng.uniform(0, np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array(shape)[:, np.newaxis] / 2
    rows, columns = (turn @ (np.stack([along, across]) - side / 2) + middle).round().astype(int)
    inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    line = np.ones(shape, bool)
    line[rows[inside], columns[inside]] = False
    if line.all():  # the walk passed the picture by
        return np.zeros(shape, bool)
    # Noise smoothed over 30 pixels has a spread of a hundredth: so the width varies by a sixth along the river.
    width = np.exp(rng.uniform(np.log(8), np.log(90))) * (1 + 0.3 * gaussian_filter(rng.normal(size=shape), 30) * 60)
    return np.asarray(distance_transform_edt(line) < np.clip(width, 4, None) / 2)


def draw_river(picture: Pixels, forest: Mask, water: Mask, rng: np.random.Generator) -> Pixels:
    """The picture (bands, rows, columns) with calm water where `water` says."""
    level = np.median(picture[:, forest], axis=1)
    tint = 1 + rng.uniform(-0.02, 0.35) * rng.uniform(0.3, 1, 3) + rng.uniform(-0.03, 0.03, 3)
    # Likewise over 60 pixels: brightness drifts along the river by a per cent or two.
    drift = gaussian_filter(rng.normal(size=water.shape), 60) * 60 * rng.uniform(0, 0.05)
    rough = rng.normal(size=picture.shape) * rng.uniform(0.2, 0.7)
    surface = (level * tint)[:, np.newaxis, np.newaxis] * (1 + drift) + rough
    share = gaussian_filter(water.astype(np.float64), 0.7)  # a pixel on the bank holds some of both
    drawn: Pixels = np.clip(np.rint(picture * (1 - share) + surface * share), 0, 255).astype(np.uint8)
    return drawn
