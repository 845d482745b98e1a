"""The lattice, its chunks and their seams, against brute force over every pixel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import GridError
from geoseg.feed import reflect
from geoseg.grid import Axis, Chunk, ChunkGrid, TileGrid
from geoseg.window import Window


@st.composite
def grids(draw: st.DrawFn, max_side: int = 24, max_tile: int = 10) -> TileGrid:
    tile = draw(st.integers(2, max_tile))
    return TileGrid(
        height=draw(st.integers(1, max_side)),
        width=draw(st.integers(1, max_side)),
        tile=tile,
        overlap=draw(st.integers(0, tile // 2)),
    )


@st.composite
def chunk_grids(draw: st.DrawFn) -> ChunkGrid:
    grid = draw(grids())
    row, col = draw(st.integers(0, grid.height - 1)), draw(st.integers(0, grid.width - 1))
    crop = Window.from_bounds(row, col, draw(st.integers(row + 1, grid.height)), draw(st.integers(col + 1, grid.width)))
    whole = Window(row_off=0, col_off=0, height=grid.height, width=grid.width)
    return ChunkGrid(
        grid=grid,
        crop=draw(st.sampled_from([crop, whole])),
        rows_per_chunk=draw(st.integers(1, 4)),
        cols_per_chunk=draw(st.integers(1, 4)),
    )


def count(windows: list[Window], grid: TileGrid) -> npt.NDArray[np.int64]:
    """How many of `windows` cover each pixel of the scene."""
    counts = np.zeros((grid.height, grid.width), dtype=np.int64)
    for window in windows:
        assert window.row_off >= 0, "a negative slice would count from the end"
        assert window.col_off >= 0, "a negative slice would count from the end"
        counts[window.slices] += 1
    return counts


def inside(window: Window, grid: TileGrid) -> npt.NDArray[np.int64]:
    return count([window], grid)


def windows_of(chunk: Chunk) -> list[Window]:
    """The windows of the tiles that a chunk owns."""
    return [chunk.grid.tile_at(row, col).window for row in range(*chunk.tile_rows) for col in range(*chunk.tile_cols)]


@given(length=st.integers(1, 200), tile=st.integers(1, 40), share=st.floats(0, 0.5))
def test_an_axis_is_covered_by_one_or_two_tiles_and_none_is_idle(length: int, tile: int, share: float) -> None:
    axis = Axis(length=length, tile=tile, overlap=int(tile * share))
    starts = [k * axis.stride for k in range(axis.tiles)]
    covers = [sum(start <= pixel < start + tile for start in starts) for pixel in range(length)]
    assert set(covers) <= {1, 2}
    assert axis.tiles == 1 or starts[-1] + axis.overlap < length, "the last tile adds pixels that no other covers"


@given(grid=grids(), data=st.data())
def test_covering_is_brute_force(grid: TileGrid, data: st.DataObject) -> None:
    axis = grid.rows
    start = data.draw(st.integers(0, axis.length - 1))
    stop = data.draw(st.integers(start + 1, axis.length))
    touching = [k for k in range(axis.tiles) if k * axis.stride < stop and k * axis.stride + axis.tile > start]
    assert list(axis.covering(start, stop)) == touching


@given(grid=grids())
def test_a_tile_grid_behaves_as_the_list_of_its_tiles(grid: TileGrid) -> None:
    tiles = list(grid)
    assert len(tiles) == len(grid) == grid.shape[0] * grid.shape[1]
    assert [(tile.row, tile.col) for tile in tiles] == [
        (row, col) for row in range(grid.shape[0]) for col in range(grid.shape[1])
    ]
    assert grid[-1] == tiles[-1]
    assert grid[1:3] == tiles[1:3]
    for outside in (len(grid), -len(grid) - 1):
        with pytest.raises(IndexError):
            grid[outside]


@given(grid=grids())
def test_tiles_are_uniform_anchored_at_the_corner_and_cover_everything(grid: TileGrid) -> None:
    assert {tile.window.shape for tile in grid} == {(grid.tile, grid.tile)}
    assert grid[0].window.row_off == grid[0].window.col_off == 0
    counts = count([tile.window for tile in grid], grid)
    assert counts.min() >= 1
    assert counts.max() <= 4


@given(chunks=chunk_grids())
def test_cores_and_seams_cover_the_crop_exactly_once(chunks: ChunkGrid) -> None:
    decided = [window for chunk in chunks for window in (chunk.core, *chunk.seam) if window]
    assert np.array_equal(count(decided, chunks.grid), inside(chunks.crop, chunks.grid))


@given(chunks=chunk_grids())
def test_every_tile_that_touches_the_crop_belongs_to_exactly_one_chunk(chunks: ChunkGrid) -> None:
    owned = [window for chunk in chunks for window in windows_of(chunk)]
    needed = [tile.window for tile in chunks.grid if tile.window & chunks.crop]
    assert sorted(owned, key=str) == sorted(needed, key=str)
    assert chunks.tiles == len(needed) == sum(chunk.tiles for chunk in chunks)


@given(chunks=chunk_grids())
def test_a_pixel_is_shared_by_exactly_the_chunks_whose_tiles_cover_it(chunks: ChunkGrid) -> None:
    """So a core needs no other chunk, and what the contributors hand over is everything that lies on a seam."""
    crop = inside(chunks.crop, chunks.grid)
    covers = [crop * (count(windows_of(chunk), chunks.grid) > 0) for chunk in chunks]
    owners = np.sum(covers, axis=0)
    for chunk, mine in zip(chunks, covers, strict=True):
        assert np.array_equal(inside(chunk.core, chunks.grid), mine * (owners == 1))
        assert np.array_equal(count(list(chunk.shared), chunks.grid), mine * (owners > 1))


@given(chunks=chunk_grids())
def test_contributors_are_all_whose_tiles_reach_the_seam(chunks: ChunkGrid) -> None:
    covers = [(chunk, count(windows_of(chunk), chunks.grid)) for chunk in chunks]
    for chunk in chunks:
        reach = [other for other, tiles in covers if any(tiles[area.slices].any() for area in chunk.seam)]
        assert list(chunks.contributors(chunk)) == reach


@given(chunks=chunk_grids())
def test_shared_areas_of_two_chunks_coincide_or_are_apart(chunks: ChunkGrid) -> None:
    """So partial sums are added window on window, without cutting."""
    areas = {area for chunk in chunks for area in chunk.shared}
    assert not [(a, b) for a in areas for b in areas if a != b and a & b]


@given(chunks=chunk_grids())
def test_an_extent_is_the_hull_of_the_chunks_tiles(chunks: ChunkGrid) -> None:
    for chunk in chunks:
        tiles = windows_of(chunk)
        hull = Window.from_bounds(
            min(tile.row_off for tile in tiles),
            min(tile.col_off for tile in tiles),
            max(tile.row_stop for tile in tiles),
            max(tile.col_stop for tile in tiles),
        )
        assert chunk.extent == hull


@given(chunks=chunk_grids())
def test_pixels_of_all_chunks_are_counted_without_looking_at_each(chunks: ChunkGrid) -> None:
    def read(start: int, stop: int, length: int) -> int:
        needed = reflect(np.arange(start, stop), length)
        return int(needed.max() - needed.min()) + 1

    extents = [chunk.extent for chunk in chunks]
    height, width = chunks.grid.height, chunks.grid.width
    assert chunks.pixels_read == sum(
        read(extent.row_off, extent.row_stop, height) * read(extent.col_off, extent.col_stop, width)
        for extent in extents
    )
    assert chunks.pixels_shared == sum(area.size for chunk in chunks for area in chunk.shared)


@given(chunks=chunk_grids(), data=st.data())
def test_chunks_that_meet_a_window_are_found_in_reading_order(chunks: ChunkGrid, data: st.DataObject) -> None:
    row, col = data.draw(st.integers(-3, chunks.grid.height)), data.draw(st.integers(-3, chunks.grid.width))
    window = Window.from_bounds(row, col, row + data.draw(st.integers(0, 9)), col + data.draw(st.integers(0, 9)))
    expected = [chunk for chunk in chunks if any(tile & window & chunks.crop for tile in windows_of(chunk))]
    assert list(chunks.meeting(window)) == expected


@given(chunks=chunk_grids())
def test_names_are_unique_and_sort_in_reading_order(chunks: ChunkGrid) -> None:
    names = [chunk.name for chunk in chunks]
    assert names == sorted(set(names))


def test_a_grid_of_a_large_scene_costs_nothing() -> None:
    grid = TileGrid(height=2**23, width=2**23, tile=512, overlap=128)
    assert len(grid) == 21_845**2
    assert grid[len(grid) - 1].window.row_stop >= 2**23


@pytest.mark.parametrize(
    ("height", "width", "tile", "overlap", "text"),
    [
        (0, 5, 4, 0, "0 x 5 pixels"),
        (5, 5, 0, 0, "not 0"),
        (5, 5, 4, 3, "choose 0 to 2"),
        (5, 5, 4, -1, "overlap -1"),
    ],
)
def test_what_cannot_be_tiled_is_refused_with_the_numbers(
    height: int, width: int, tile: int, overlap: int, text: str
) -> None:
    with pytest.raises(GridError, match=text):
        TileGrid(height=height, width=width, tile=tile, overlap=overlap)


@pytest.mark.parametrize("crop", [Window(row_off=0, col_off=0, height=0, width=4), Window.from_bounds(0, 0, 9, 4)])
def test_a_crop_beyond_the_scene_is_refused(crop: Window) -> None:
    grid = TileGrid(height=8, width=8, tile=4, overlap=1)
    with pytest.raises(GridError, match="does not lie within the scene"):
        ChunkGrid(grid=grid, crop=crop, rows_per_chunk=1, cols_per_chunk=1)


def test_a_chunk_without_tiles_is_refused() -> None:
    grid = TileGrid(height=8, width=8, tile=4, overlap=1)
    with pytest.raises(GridError, match="at least one tile"):
        ChunkGrid(grid=grid, crop=Window.from_bounds(0, 0, 8, 8), rows_per_chunk=0, cols_per_chunk=1)
