"""Scenes to measure on: large ones cheaply, by repeating a synthetic piece, mirrored so that no edge shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from rasterio.shutil import copy
from rasterio.windows import Window as RasterWindow

from geoseg.testing import SyntheticScene, geobox_of
from geoseg.types import Pixels
from geoseg.window import Window, whole

__all__ = ["BANDS", "large_scene", "sparse_scene"]

BANDS = ("blue", "green", "red", "nir")
BLOCK = 512
PIECE = 2048  # pixels: side of the synthetic piece that is repeated


def large_scene(folder: Path, side: int, *, names: tuple[str, ...] = BANDS) -> Path:
    """A COG of `side` x `side` uint16 reflectances, every pixel valid; written once per folder.

    512 blocks, DEFLATE with predictor 2 and real texture, so that reading costs what reading Sentinel-2 costs.
    """
    path = folder / f"scene-{side}x{len(names)}.tif"
    if path.exists():
        return path
    piece = _piece(min(PIECE, max(BLOCK, side)), names)
    geobox = geobox_of(side, side)
    draft, ready = path.with_suffix(".draft.tif"), path.with_suffix(".ready.tif")
    layout = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "zstd", "zstd_level": 1}
    with rasterio.Env(GDAL_CACHEMAX=256, GDAL_NUM_THREADS="ALL_CPUS"):
        with rasterio.open(
            draft, "w", driver="GTiff", dtype="uint16", count=len(names), height=side, width=side, nodata=0,
            crs=str(geobox.crs), transform=geobox.transform, bigtiff="if_safer", **layout,
        ) as raster:  # fmt: skip
            raster.descriptions = names
            raster.scales = (1e-4,) * len(names)
            for window in whole(geobox).pieces(BLOCK, BLOCK):
                area = RasterWindow(window.col_off, window.row_off, window.width, window.height)
                raster.write(_repeated(piece, window), window=area)
        options = {"compress": "deflate", "level": 1, "predictor": 2, "bigtiff": "if_safer", "num_threads": "all_cpus"}
        copy(draft, ready, driver="COG", blocksize=BLOCK, overviews="none", **options)
    draft.unlink()
    return ready.replace(path)


def sparse_scene(folder: Path, height: int, width: int, *, names: tuple[str, ...] = BANDS) -> Path:
    """A tiled GeoTIFF of which only every eighth block, along diagonals, is there; the others are nodata."""
    path = folder / f"sparse-{height}x{width}x{len(names)}.tif"
    if path.exists():
        return path
    pixels = _piece(BLOCK, names)
    geobox, draft = geobox_of(height, width), path.with_suffix(".draft.tif")
    with rasterio.open(
        draft, "w", driver="GTiff", dtype="uint16", count=len(names), height=height, width=width, nodata=0,
        crs=str(geobox.crs), transform=geobox.transform, tiled=True, blockxsize=BLOCK, blockysize=BLOCK,
        compress="deflate", sparse_ok=True, bigtiff="if_safer",
    ) as raster:  # fmt: skip
        raster.descriptions = names
        raster.scales = (1e-4,) * len(names)
        for window in whole(geobox).pieces(BLOCK, BLOCK):
            if (window.row_off + window.col_off) // BLOCK % 8 == 0:
                part = RasterWindow(window.col_off, window.row_off, window.width, window.height)
                raster.write(pixels[:, : window.height, : window.width], window=part)
    return draft.replace(path)


def _piece(side: int, names: tuple[str, ...]) -> Pixels:
    """The middle of a synthetic scene: no swath edge."""
    scene = SyntheticScene(2 * side, 2 * side, names=names)
    pixels, valid = scene.read(Window(row_off=side // 2, col_off=side // 2, height=side, width=side))
    assert valid.all(), "the piece must not reach beyond the swath"
    return pixels


def _repeated(piece: Pixels, window: Window) -> Pixels:
    """A window of the plane that is covered by mirrored copies of `piece`."""
    side = piece.shape[1]

    there_and_back = np.concatenate([np.arange(side), np.arange(side)[::-1]])
    rows = there_and_back[np.arange(window.row_off, window.row_stop) % (2 * side)]
    cols = there_and_back[np.arange(window.col_off, window.col_stop) % (2 * side)]
    return np.asarray(piece[:, rows[:, None], cols[None, :]])
