"""Two dates on disk whose change numpy knows: what the tests of change are made of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import torch
from affine import Affine
from pyproj import Transformer
from torch import Tensor, nn

import geoseg
from geoseg.models import save_package
from geoseg.result import RunResult
from geoseg.testing import LinearModel
from geoseg.types import Valid
from geoseg.window import GeoBox
from tests.source.sources import write_raster

BANDS = ("blue", "green", "red", "nir")
GRID = GeoBox((150, 190), Affine(10, 0, 5e5, 0, -10, 5e6), "EPSG:32633")
STEP = 0.004
"""Probability per stored unit."""
COVERS = LinearModel([[9.0, 0, 0, 0], [0, 9.0, 0, -2.0], [0, -3.0, 4.0, 3.0]])
"""A net for one date, three classes."""

Image = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How a file keeps reflectance, and in which order its bands."""

    order: tuple[str, ...]
    dtype: str
    nodata: float
    scale: float = 1.0
    offset: float = 0.0


UNSIGNED = Storage(order=("nir", "blue", "red", "green"), dtype="uint16", nodata=0, scale=1e-4, offset=-0.1)
SIGNED = Storage(order=("green", "red", "nir", "blue"), dtype="int16", nodata=-9999, scale=2e-4)
FLOATING = Storage(order=("red", "nir", "green", "blue"), dtype="float32", nodata=float("nan"))


@dataclass(frozen=True, kw_only=True)
class Date:
    """One scene on disk, and what it says."""

    path: Path
    reflectance: Image
    """(band, row, col) in the order of `BANDS`, as stored."""
    valid: Valid

    @property
    def ndvi(self) -> Image:
        red, nir = self.reflectance[2:]
        return np.asarray((nir - red) / (nir + red))


def landscape(seed: int, grid: GeoBox = GRID) -> Image:
    """Reflectance (band, row, col) of hills and fields, the same ground on whichever grid it is seen."""
    random = np.random.default_rng(seed)
    rows, cols = np.mgrid[: grid.shape[0], : grid.shape[1]] + 0.5
    x, y = grid.transform @ (cols, rows)
    if grid.crs != GRID.crs:
        x, y = Transformer.from_crs(str(grid.crs), str(GRID.crs), always_xy=True).transform(x, y)
    waves = []
    for _ in BANDS:
        (along, up), (first, second) = random.uniform(90, 250, 2), random.uniform(0, 6, 2)
        waves.append(np.sin((x - 5e5) / along + first) * np.cos((y - 5e6) / up + second))
    return np.asarray(np.array([0.1, 0.15, 0.2, 0.4])[:, None, None] * (1 + 0.8 * np.stack(waves)))


def write_date(
    path: Path,
    reflectance: Image,
    valid: Valid | None = None,
    *,
    storage: Storage = UNSIGNED,
    grid: GeoBox = GRID,
    day: int | None = 1,
) -> Date:
    """A scene of June 2024; what is not valid is nodata in one band at least."""
    stored = (reflectance - storage.offset) / storage.scale
    stored = (stored if storage.dtype.startswith("float") else stored.round()).astype(storage.dtype)
    kept = stored.astype(np.float64) * storage.scale + storage.offset
    valid = np.ones(grid.shape, bool) if valid is None else valid
    stored[3, ~valid] = storage.nodata
    tags = {} if day is None else {"tags": {"TIFFTAG_DATETIME": f"2024:06:{day:02} 10:20:30"}}
    write_raster(
        path,
        stored[[BANDS.index(name) for name in storage.order]],
        grid,
        nodata=storage.nodata,
        descriptions=storage.order,
        scales=[storage.scale] * len(storage.order),
        offsets=[storage.offset] * len(storage.order),
        **tags,
    )
    return Date(path=path, reflectance=kept, valid=valid)


def write_pair(folder: Path, storages: tuple[Storage, Storage] = (UNSIGNED, SIGNED)) -> list[Date]:
    """Two landscapes of one place, each with a hole of its own."""
    dates = []
    for at, (name, storage) in enumerate(zip(("before", "after"), storages, strict=True)):
        valid = np.ones(GRID.shape, bool)
        valid[30 + 40 * at : 60 + 40 * at, 20:70] = False
        valid[100, 5 + at] = False
        dates.append(write_date(folder / f"{name}.tif", landscape(at), valid, storage=storage, day=1 + 20 * at))
    return dates


class NdviLoss(nn.Module):
    """Scores (n, 2, row, col) of a batch (n, date, channel, row, col) whose third channel is NDVI: a drop above 0.2."""

    def forward(self, batch: Tensor) -> Tensor:
        loss = 20 * (batch[:, 0, 2] - batch[:, 1, 2]) - 4
        return torch.stack([torch.zeros_like(loss), loss], 1)


def loss_probability(before: Date, after: Date) -> Image:
    """Probability (row, col) of what `NdviLoss` calls a loss."""
    return np.asarray(1 / (1 + np.exp(4 - 20 * (before.ndvi - after.ndvi))))


def save_ndvi_loss(path: Path) -> Path:
    return save_package(
        NdviLoss(),
        path,
        name="ndvi-loss",
        bands=["red", "nir", "NDVI"],
        classes=["unchanged", "loss"],
        format="onnx",
        tile=64,
        multiple_of=1,
        dates=2,
        task="change-detection",
    )


def read(path: Any) -> npt.NDArray[Any]:
    """The first band of a raster."""
    with rasterio.open(path) as file:
        return np.asarray(file.read(1))


def moved(rows: float, cols: float, shape: tuple[int, int] = (150, 190)) -> GeoBox:
    """A grid so many pixels from `GRID`."""
    return GeoBox(shape, GRID.transform @ Affine.translation(cols, rows), GRID.crs)


def report_of(result: RunResult) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(Path(result.report).read_text())
    return report


def detect(dates: list[Date], out: Path, **options: Any) -> RunResult:
    before, after = (date.path for date in dates)
    return geoseg.detect_change(before, after, out=out, **{"vector": (), **options})


def assert_probability(result: RunResult, expected: Image, valid: npt.NDArray[np.bool_]) -> None:
    """The raster holds the nearest step to `expected` wherever float32 can tell which that is, and nodata elsewhere."""
    stored, steps = read(result.confidence), expected / STEP
    is_clear = np.abs(steps - np.floor(steps) - 0.5) > 0.01
    assert is_clear.mean() > 0.9
    assert (stored[~valid] == 255).all()
    np.testing.assert_array_equal(stored[valid & is_clear], np.rint(steps)[valid & is_clear])
    assert np.abs(stored * STEP - expected)[valid].max() < 0.51 * STEP


def assert_loss(result: RunResult, before: Date, after: Date) -> None:
    """`result` is what the closed form says of both dates."""
    probability, valid = loss_probability(before, after), before.valid & after.valid
    change, is_clear = read(result.labels), np.abs(probability - 0.5) > 1e-4
    assert (change[~valid] == 255).all()
    np.testing.assert_array_equal(change[valid & is_clear], (probability > 0.5)[valid & is_clear])
    assert_probability(result, probability, valid)
    assert [area.pixels for area in result.areas] == [(change == value).sum() for value in (0, 1)]
