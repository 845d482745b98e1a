"""Hypothesis strategies for what geoseg computes with: windows, lattices, chunks of lattices, small scenes.

This module needs hypothesis; importing `geoseg.testing` alone does not.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from geoseg.grid import ChunkGrid, TileGrid
from geoseg.testing.fakes import ArraySource
from geoseg.window import Window

__all__ = ["chunk_grids", "sources", "tile_grids", "windows"]


@st.composite
def windows(draw: st.DrawFn, outer: Window | None = None, *, max_side: int = 64) -> Window:
    """Windows that hold at least one pixel: inside `outer`, or anywhere near the origin, negative offsets too."""
    if outer is None:
        height, width = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
        row, col = draw(st.integers(-max_side, max_side)), draw(st.integers(-max_side, max_side))
        return Window(row_off=row, col_off=col, height=height, width=width)
    row = draw(st.integers(outer.row_off, outer.row_stop - 1))
    col = draw(st.integers(outer.col_off, outer.col_stop - 1))
    row_stop, col_stop = draw(st.integers(row + 1, outer.row_stop)), draw(st.integers(col + 1, outer.col_stop))
    return Window.from_bounds(row, col, row_stop, col_stop)


@st.composite
def tile_grids(draw: st.DrawFn, *, max_side: int = 200, max_tile: int = 64, multiple_of: int = 1) -> TileGrid:
    """Lattices over scenes from 1 x 1 on, tiles larger than the scene and overlap 0 included.

    Tile and stride are multiples of `multiple_of`.
    """
    tile = multiple_of * draw(st.integers(1, max(1, max_tile // multiple_of)))
    overlap = multiple_of * draw(st.integers(0, tile // 2 // multiple_of))
    height, width = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
    return TileGrid(height=height, width=width, tile=tile, overlap=overlap)


@st.composite
def chunk_grids(draw: st.DrawFn, grid: TileGrid | None = None, *, cropped: bool = True) -> ChunkGrid:
    """Chunks of `grid` (or of any lattice), of the whole scene or of a part."""
    grid = draw(tile_grids()) if grid is None else grid
    scene = Window(row_off=0, col_off=0, height=grid.height, width=grid.width)
    crop = draw(st.one_of(st.just(scene), windows(scene))) if cropped else scene
    rows, cols = draw(st.integers(1, grid.shape[0])), draw(st.integers(1, grid.shape[1]))
    return ChunkGrid(grid=grid, crop=crop, rows_per_chunk=rows, cols_per_chunk=cols)


@st.composite
def sources(
    draw: st.DrawFn,
    *,
    height: int | None = None,
    width: int | None = None,
    max_side: int = 150,
    names: tuple[str, ...] = ("blue", "green", "red", "nir"),
) -> ArraySource:
    """Scenes of uint16 reflectance in memory: smooth plus noise, nodata (0) at a rim, in a hole, at single pixels."""
    shape = (height or draw(st.integers(1, max_side)), width or draw(st.integers(1, max_side)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, cols = np.mgrid[0 : shape[0], 0 : shape[1]]
    waves = np.stack([np.sin(rows / random.uniform(3, 40)) * np.cos(cols / random.uniform(3, 40)) for _ in names])
    pixels = (2500 + 2000 * waves + random.integers(0, 400, waves.shape)).astype(np.uint16)
    if draw(st.booleans()):  # the slanted rim of a swath
        pixels[:, rows + 2 * cols < random.integers(0, sum(shape))] = 0
    if draw(st.booleans()):  # a hole
        hole = draw(windows(Window(row_off=0, col_off=0, height=shape[0], width=shape[1])))
        pixels[:, *hole.slices] = 0
    if draw(st.booleans()):  # single pixels, each in one band only: invalid all the same
        band = random.integers(0, len(names), 5), random.integers(0, shape[0], 5), random.integers(0, shape[1], 5)
        pixels[band] = 0
    block = (draw(st.integers(1, 64)), draw(st.integers(1, 64)))
    return ArraySource(pixels, names=names, nodata=0, block=block)
