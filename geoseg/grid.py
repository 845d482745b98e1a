"""The tile lattice of a scene, the chunks that own its tiles, and the seams where chunks meet.

Everything here is integer arithmetic in the scene's pixel coordinates; no geography, no pixels.

One axis at a time: tile ``k`` covers ``[k * stride, k * stride + tile)``; the last tile may reach beyond the edge. With
``overlap <= tile // 2`` at most two tiles per axis cover a pixel. A chunk owns the tiles ``[first, stop)``; where the
tiles of two chunks overlap lies a *strip* of `overlap` pixels whose sums both hold a part of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from geoseg.errors import GridError
from geoseg.window import Window

__all__ = ["Axis", "Chunk", "ChunkGrid", "Tile", "TileGrid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """What the net sees in one forward pass."""

    row: int
    """Row of the lattice."""
    col: int
    """Column of the lattice."""
    window: Window
    """Its pixels; may reach beyond the scene's lower and right edge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of the lattice."""

    length: int
    """Pixels of the scene."""
    tile: int
    """Pixels of a tile."""
    overlap: int
    """Pixels that neighbouring tiles share."""

    @property
    def stride(self) -> int:
        """Pixels from one tile's start to the next's."""
        return self.tile - self.overlap

    @property
    def tiles(self) -> int:
        """Number of tiles that cover the axis."""
        return 1 + max(0, -(-(self.length - self.tile) // self.stride))

    def covering(self, start: int, stop: int) -> range:
        """Indices of the tiles that touch pixels ``[start, stop)``."""
        first = max(0, (start - self.tile) // self.stride + 1)
        last = min(self.tiles - 1, (stop - 1) // self.stride)
        return range(first, last + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TileGrid(Sequence[Tile]):
    """The lattice of a scene: a sequence of tiles that holds four integers.

    >>> grid = TileGrid(height=1000, width=600, tile=512, overlap=128)
    >>> grid.shape, len(grid), grid[-1].window.row_off
    ((3, 2), 6, 768)
    """

    height: int
    """Rows of the scene."""
    width: int
    """Columns of the scene."""
    tile: int
    """Side of a tile in pixels."""
    overlap: int
    """Pixels that neighbouring tiles share."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise GridError(f"a scene of {self.height} x {self.width} pixels has nothing to tile")
        if self.tile < 1:
            raise GridError(f"tile must be at least 1 pixel, not {self.tile}")
        if not 0 <= self.overlap <= self.tile // 2:
            raise GridError(
                f"overlap {self.overlap} does not fit tile {self.tile}: choose 0 to {self.tile // 2} (half the tile)"
            )

    @property
    def rows(self) -> Axis:
        """The lattice along rows."""
        return Axis(length=self.height, tile=self.tile, overlap=self.overlap)

    @property
    def cols(self) -> Axis:
        """The lattice along columns."""
        return Axis(length=self.width, tile=self.tile, overlap=self.overlap)

    @property
    def stride(self) -> int:
        """Pixels from one tile's start to the next's."""
        return self.tile - self.overlap

    @property
    def shape(self) -> tuple[int, int]:
        """Tiles along rows and columns."""
        return self.rows.tiles, self.cols.tiles

    def tile_at(self, row: int, col: int) -> Tile:
        """The tile at a lattice position."""
        window = Window(row_off=row * self.stride, col_off=col * self.stride, height=self.tile, width=self.tile)
        return Tile(row=row, col=col, window=window)

    @overload
    def __getitem__(self, index: int) -> Tile: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tile]: ...
    def __getitem__(self, index: int | slice) -> Tile | list[Tile]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"tile {index} of {len(self)}")
        return self.tile_at(*divmod(index % len(self), self.shape[1]))

    def __len__(self) -> int:
        return self.shape[0] * self.shape[1]


def _segments(
    grid: TileGrid, first: int, stop: int, *, joins_before: bool, joins_after: bool
) -> tuple[range, range, range]:
    """Pixels that the tiles [first, stop) share with the chunk before, own alone, share with the one after."""
    start, end = first * grid.stride, stop * grid.stride
    reach = (stop - 1) * grid.stride + grid.tile
    inner = start + grid.overlap if joins_before else start
    return (
        range(start, inner),
        range(inner, end if joins_after else reach),
        range(end, reach if joins_after else end),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """The tiles that one task owns, and the pixels that follow from them.

    Its *extent* is what its tiles cover. It decides the *core* alone; the rest of the extent, at most three by three
    areas around it, it hands over as partial sums, because other chunks' tiles lie there too.
    """

    row: int
    """Row in the chunk grid."""
    col: int
    """Column in the chunk grid."""
    grid: TileGrid
    """The lattice."""
    tile_rows: tuple[int, int]
    """First and stop row of its tiles."""
    tile_cols: tuple[int, int]
    """First and stop column of its tiles."""
    joins: tuple[bool, bool, bool, bool]
    """Whether another chunk lies above, below, left, right."""
    crop: Window
    """What the run writes; areas are cut to it."""

    @property
    def name(self) -> str:
        """Name in the journal and of its parts."""
        return f"r{self.row:04d}c{self.col:04d}"

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return (self.tile_rows[1] - self.tile_rows[0]) * (self.tile_cols[1] - self.tile_cols[0])

    @property
    def extent(self) -> Window:
        """Every pixel that its tiles cover, beyond the scene's edge too."""
        last = self.grid.tile_at(self.tile_rows[1] - 1, self.tile_cols[1] - 1).window
        first = self.grid.tile_at(self.tile_rows[0], self.tile_cols[0]).window
        return Window.from_bounds(first.row_off, first.col_off, last.row_stop, last.col_stop)

    @property
    def _rows(self) -> tuple[range, range, range]:
        return _segments(self.grid, *self.tile_rows, joins_before=self.joins[0], joins_after=self.joins[1])

    @property
    def _cols(self) -> tuple[range, range, range]:
        return _segments(self.grid, *self.tile_cols, joins_before=self.joins[2], joins_after=self.joins[3])

    def _cut(self, rows: range, cols: range) -> Window:
        return Window.from_bounds(rows.start, cols.start, rows.stop, cols.stop) & self.crop

    @property
    def areas(self) -> tuple[tuple[Window, ...], ...]:
        """Three by three windows, cut to the crop: corners and edges are shared, the middle is the core."""
        cols = self._cols
        return tuple(tuple(self._cut(r, c) for c in cols) for r in self._rows)

    @property
    def core(self) -> Window:
        """What it decides alone."""
        return self._cut(self._rows[1], self._cols[1])

    @property
    def shared(self) -> tuple[Window, ...]:
        """The areas that it holds partial sums of, none of them empty."""
        return tuple(
            area for i, row in enumerate(self.areas) for j, area in enumerate(row) if (i, j) != (1, 1) and area
        )

    @property
    def seam(self) -> tuple[Window, ...]:
        """The shared areas decided in this chunk's name: its corner above left, its upper and its left edge."""
        (above, rows, _), (left, cols, _) = self._rows, self._cols
        return tuple(area for area in (self._cut(above, left), self._cut(above, cols), self._cut(rows, left)) if area)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkGrid(Sequence[Chunk]):
    """The chunks of a run: a sequence that holds a few integers.

    Cores and seams of all chunks together cover the crop, each pixel once; every tile that touches the crop belongs to
    exactly one chunk.
    """

    grid: TileGrid
    """The lattice; it knows nothing of chunks."""
    crop: Window
    """What the run writes."""
    rows_per_chunk: int
    """Tile rows of a chunk."""
    cols_per_chunk: int
    """Tile columns of a chunk."""

    def __post_init__(self) -> None:
        scene = Window(row_off=0, col_off=0, height=self.grid.height, width=self.grid.width)
        if not self.crop or self.crop not in scene:
            raise GridError(f"the crop ({self.crop}) does not lie within the scene ({scene})")
        if self.rows_per_chunk < 1 or self.cols_per_chunk < 1:
            raise GridError("a chunk holds at least one tile")

    @property
    def tile_rows(self) -> range:
        """Tile rows that touch the crop."""
        return self.grid.rows.covering(self.crop.row_off, self.crop.row_stop)

    @property
    def tile_cols(self) -> range:
        """Tile columns that touch the crop."""
        return self.grid.cols.covering(self.crop.col_off, self.crop.col_stop)

    @property
    def tiles(self) -> int:
        """Tiles of all chunks together."""
        return len(self.tile_rows) * len(self.tile_cols)

    @property
    def shape(self) -> tuple[int, int]:
        """Chunks along rows and columns."""
        return -(-len(self.tile_rows) // self.rows_per_chunk), -(-len(self.tile_cols) // self.cols_per_chunk)

    def chunk_at(self, row: int, col: int) -> Chunk:
        """The chunk at a position of the chunk grid."""
        tile_rows, tile_cols = self.tile_rows, self.tile_cols
        rows = tile_rows[row * self.rows_per_chunk : (row + 1) * self.rows_per_chunk]
        cols = tile_cols[col * self.cols_per_chunk : (col + 1) * self.cols_per_chunk]
        return Chunk(
            row=row,
            col=col,
            grid=self.grid,
            tile_rows=(rows.start, rows.stop),
            tile_cols=(cols.start, cols.stop),
            joins=(row > 0, rows.stop < tile_rows.stop, col > 0, cols.stop < tile_cols.stop),
            crop=self.crop,
        )

    def contributors(self, chunk: Chunk) -> tuple[Chunk, ...]:
        """The chunks whose partial sums meet in `chunk.seam`, itself included."""
        (corner, above, _), (left, _, _), _ = chunk.areas
        offsets = {(-1, -1): corner, (-1, 0): corner or above, (0, -1): corner or left, (0, 0): corner or above or left}
        return tuple(self.chunk_at(chunk.row + row, chunk.col + col) for (row, col), area in offsets.items() if area)

    def meeting(self, window: Window) -> Iterator[Chunk]:
        """The chunks whose tiles cover some pixel of `window` that the run writes."""
        common = window & self.crop
        if not common:
            return
        rows = self.grid.rows.covering(common.row_off, common.row_stop)
        cols = self.grid.cols.covering(common.col_off, common.col_stop)
        for row in _groups(rows, self.tile_rows.start, self.rows_per_chunk):
            for col in _groups(cols, self.tile_cols.start, self.cols_per_chunk):
                yield self.chunk_at(row, col)

    @property
    def pixels_read(self) -> int:
        """Pixels of the scene that all chunks read: what two of them need counts twice."""
        column, row = self._edges
        heights = (_pixels_read(chunk.extent.row_off, chunk.extent.row_stop, self.grid.height) for chunk in column)
        widths = (_pixels_read(chunk.extent.col_off, chunk.extent.col_stop, self.grid.width) for chunk in row)
        return sum(heights) * sum(widths)

    @property
    def pixels_shared(self) -> int:
        """Pixels of all chunks' shared areas: what two of them share counts twice."""
        column, row = self._edges
        everything = sum((chunk.extent & self.crop).height for chunk in column)
        everything *= sum((chunk.extent & self.crop).width for chunk in row)
        return everything - sum(chunk.core.height for chunk in column) * sum(chunk.core.width for chunk in row)

    @property
    def _edges(self) -> tuple[list[Chunk], list[Chunk]]:
        """The first column and the first row of the chunk grid: rows and columns of all chunks are theirs."""
        rows, cols = self.shape
        return [self.chunk_at(row, 0) for row in range(rows)], [self.chunk_at(0, col) for col in range(cols)]

    @overload
    def __getitem__(self, index: int) -> Chunk: ...
    @overload
    def __getitem__(self, index: slice) -> list[Chunk]: ...
    def __getitem__(self, index: int | slice) -> Chunk | list[Chunk]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"chunk {index} of {len(self)}")
        return self.chunk_at(*divmod(index % len(self), self.shape[1]))

    def __len__(self) -> int:
        return self.shape[0] * self.shape[1]

    def __iter__(self) -> Iterator[Chunk]:
        return (self[i] for i in range(len(self)))


def _pixels_read(start: int, stop: int, length: int) -> int:
    """Pixels of an axis that [start, stop) is filled from."""
    if stop <= length:
        return stop - start
    # A single tile of which most lies beyond the edge reflects more of the scene than it covers.
    return length - max(0, min(start, 2 * length - 1 - stop))


def _groups(indices: range, first: int, size: int) -> range:
    """Groups of `size` indices each, counted from `first`, that hold some of `indices`."""
    return range((indices.start - first) // size, (indices.stop - 1 - first) // size + 1)
