"""What tiling does to a trained net's answer, for every taper, against one forward pass of the whole scene.

*Jump*: how much probabilities change from one pixel to the next across a line, over how much they change across the
same line in the whole-scene answer; 1 means that the line cannot be told from any other. Tile edges are where a tile
begins or ends; cut lines run through the middle of each overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import Bench, Figure
from benchmarks.nets import unet
from geoseg.blend import BLENDS, TileWeights
from geoseg.grid import Axis, TileGrid
from geoseg.testing import COVERS, Cover, SyntheticScene
from geoseg.window import Window, whole

__all__ = ["blended", "jump", "measure", "trained"]

SCALE = 1e-4
TRAINING, HELD_OUT = 11, 12  # seeds of two scenes that share nothing
TRAINING_SIDE = 2048
Weights = Callable[[int, int], Tensor]
"""Weights (tile, tile) of the tile at a row and column of the lattice."""


def trained(path: Path, *, steps: int, side: int = 128, batch: int = 8) -> nn.Module:
    """A U-Net that tells the covers of the synthetic scene apart; trained once, its weights kept at `path`."""
    net = unet("resnet18", channels=6, classes=len(COVERS) - 1).requires_grad_(True)
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
        return net.eval().requires_grad_(False)
    scene = SyntheticScene(TRAINING_SIDE, TRAINING_SIDE, seed=TRAINING)
    pixels = _reflectance(scene, whole(scene.geobox))
    truth = torch.from_numpy(scene.truth(whole(scene.geobox)))
    random = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    loss_of = nn.CrossEntropyLoss(ignore_index=int(Cover.NODATA))
    net.train()
    for _ in range(steps):
        corners = random.integers(0, TRAINING_SIDE - side, (batch, 2)).tolist()
        seen = torch.stack([pixels[:, row : row + side, col : col + side] for row, col in corners])
        right = torch.stack([truth[row : row + side, col : col + side] for row, col in corners]).long()
        optimizer.zero_grad()
        loss_of(net(seen), right).backward()
        optimizer.step()
        schedule.step()
    torch.save(net.state_dict(), path)
    return net.eval().requires_grad_(False)


def _reflectance(scene: SyntheticScene, window: Window) -> Tensor:
    """(band, row, col)."""
    return torch.from_numpy(scene.read(window)[0].astype(np.float32)).mul_(SCALE)


def blended(net: nn.Module, image: Tensor, grid: TileGrid, tapers: dict[str, Weights]) -> dict[str, Tensor]:
    """Probabilities (class, row, col) of `image` (band, row, col), tile by tile, for each taper from the same tiles.

    What lies beyond the image is reflected.
    """
    sums: dict[str, Tensor] = {}
    last = grid[-1].window
    beyond = (0, last.col_stop - grid.width, 0, last.row_stop - grid.height)
    image = nn.functional.pad(image, beyond, mode="reflect")
    totals = {name: torch.zeros(image.shape[1:]) for name in tapers}
    with torch.inference_mode():
        for tile in grid:
            rows, cols = tile.window.slices
            probs = net(image[None, :, rows, cols]).softmax(1)[0]
            for name, weights in tapers.items():
                weight = weights(tile.row, tile.col)
                sums.setdefault(name, torch.zeros(len(probs), *image.shape[1:]))[:, rows, cols] += probs * weight
                totals[name][rows, cols] += weight
    return {name: (sums[name] / totals[name])[:, : grid.height, : grid.width] for name in tapers}


def jump(probs: Tensor, answer: Tensor, rows: list[int], cols: list[int]) -> float:
    """Mean step of `probs` across the lines before these rows and columns, over the mean step of `answer`."""

    def step(values: Tensor) -> Tensor:
        down = (values[:, rows] - values[:, [row - 1 for row in rows]]).abs().flatten()
        along = (values[:, :, cols] - values[:, :, [col - 1 for col in cols]]).abs().flatten()
        return torch.cat([down, along]).double().mean()

    return float(step(probs) / step(answer))


def _edges(axis: Axis) -> list[int]:
    """Where tiles begin or end, as far as tiles can be compared."""
    starts = [k * axis.stride for k in range(1, axis.tiles)]
    ends = [start - axis.stride + axis.tile for start in starts]
    return [at for at in starts + ends if at < _comparable(axis)]


def _cuts(axis: Axis) -> list[int]:
    """The middles of the overlaps, likewise."""
    middles = [k * axis.stride + axis.overlap // 2 for k in range(1, axis.tiles)]
    return [at for at in middles if at < _comparable(axis)]


def _comparable(axis: Axis) -> int:
    """Up to where no tile reaches beyond the scene, where it sees a reflection that the whole scene's pass does not."""
    reaching = [k * axis.stride for k in range(axis.tiles) if k * axis.stride + axis.tile > axis.length]
    return min(reaching, default=axis.length)


def tapers_for(grid: TileGrid) -> dict[str, Weights]:
    """Geoseg's tapers, and three of others."""
    tapers: dict[str, Weights] = {blend: TileWeights(grid, blend) for blend in BLENDS}
    tile = grid.tile
    offset = torch.arange(tile) - (tile - 1) / 2
    bell = torch.exp(-0.5 * (offset / (tile / 8)) ** 2)
    distance = tile / 2 - offset.abs()
    return tapers | {
        "cosine over the whole overlap": _lattice_weights(grid, _cosine(grid.overlap)),
        "Gaussian of the whole tile (MONAI)": _everywhere(torch.outer(bell, bell).clamp(min=1e-3)),
        "distance to the tile's edge (geoai)": _everywhere(torch.minimum(distance[:, None], distance[None, :])),
    }


def _everywhere(weights: Tensor) -> Weights:
    return lambda _row, _col: weights


def _cosine(overlap: int) -> Tensor:
    return 0.5 - 0.5 * torch.cos(torch.pi * (torch.arange(overlap) + 0.5) / overlap)


def _lattice_weights(grid: TileGrid, rise: Tensor) -> Weights:
    """A rise over each overlap; full weight where a tile has no neighbour."""

    def line(index: int, count: int) -> Tensor:
        weights = torch.ones(grid.tile)
        if index > 0:
            weights[: len(rise)] = rise
        if index < count - 1:
            weights[grid.tile - len(rise) :] = rise.flip(0)
        return weights

    return lambda row, col: torch.outer(line(row, grid.shape[0]), line(col, grid.shape[1]))


def measure(bench: Bench) -> list[Figure]:
    """The table of docs on blending: mean difference, jumps at tile edges and at cut lines, for every taper."""
    side, tile, steps = bench.pick(2048, 320), bench.pick(512, 128), bench.pick(300, 4)
    net = trained(bench.folder("nets") / f"seams-{steps}.pt", steps=steps)
    scene = SyntheticScene(2 * side, 2 * side, seed=HELD_OUT)
    window = Window(row_off=side * 3 // 4, col_off=side * 3 // 4, height=side, width=side)
    image = _reflectance(scene, window)
    with torch.inference_mode():
        answer = net(image[None]).softmax(1)[0]
    right = float((answer.argmax(0).numpy() == scene.truth(window)).mean())
    figures: list[Figure] = []
    off: dict[tuple[int, str], float] = {}
    for size in (tile, tile // 2):
        grid = TileGrid(height=side, width=side, tile=size, overlap=size // 4)
        rows, cols = _comparable(grid.rows), _comparable(grid.cols)
        for name, probs in blended(net, image, grid, tapers_for(grid)).items():
            off[size, name] = float((probs - answer)[:, :rows, :cols].abs().double().mean())
            figures += _rows(name, probs, answer, grid, off[size, name], f"{right:.1%} of the labels are right")
    what = f"mean difference of the default taper over crop's, tile {tile}"
    ratio = off[tile, "ramp"] / off[tile, "crop"]
    figures.append(Figure(benchmark="seams", what=what, value=ratio, unit="x", limit=1.05))
    what = f"mean difference at tile {tile // 2} over tile {tile}, default taper"
    figures.append(Figure(benchmark="seams", what=what, value=off[tile // 2, "ramp"] / off[tile, "ramp"], unit="x"))
    return figures


def _rows(name: str, probs: Tensor, answer: Tensor, grid: TileGrid, off: float, note: str) -> list[Figure]:
    limit = 1.02 if name == "ramp" else None
    end = f"{name}, tile {grid.tile}/{grid.overlap}"
    lines = {"tile edges": _edges, "cut lines": _cuts}
    jumps = {where: jump(probs, answer, of(grid.rows), of(grid.cols)) for where, of in lines.items()}
    return [
        Figure(benchmark="seams", what=f"mean difference from one forward pass: {end}", value=off, unit="", note=note),
        *(
            Figure(benchmark="seams", what=f"jump across {where}: {end}", value=value, unit="x", limit=limit)
            for where, value in jumps.items()
        ),
    ]
