"""A scene's chunks and seams as tasks of a Dask graph, whose results are the blocks of lazy arrays.

The graph follows the engine. A *chunk* task runs the tiles that one chunk owns; it returns what the chunk decides
alone, and its partial sums of the areas that it shares. A *block* task adds what meets there and puts one block of the
result together. So every tile runs once however many blocks need it; a block alone costs the chunks that meet in it.

::

    input -> pieces (of blocks that several chunks read) -> chunks -> shares (for one block each) -> blocks -> result

Tasks hold positions; what they have in common is one key of the graph. No pixel is read and no net is loaded while the
graph is built: each process loads the net with its first chunk and keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise, product
from operator import getitem
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from geoseg.decide import PROBABILITY_NODATA, PROBABILITY_SCALE
from geoseg.errors import ModelError
from geoseg.feed import reflect
from geoseg.grid import Axis, Chunk, ChunkGrid
from geoseg.models import load_model
from geoseg.models.held import hold
from geoseg.plan import RunPlan
from geoseg.protocols import Model
from geoseg.scene import BandSet
from geoseg.source.pieces import Pieces, PiecesSource
from geoseg.spec import ModelSpec
from geoseg.stream import SharedSums, decide_shared, stream_chunk
from geoseg.types import Pixels
from geoseg.window import GeoBox, Window

if TYPE_CHECKING:
    import dask.array as da

__all__ = ["Work", "lazy_rasters"]

_Graph = dict[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What all tasks of one graph have in common."""

    plan: RunPlan
    """Lattice, chunks, blend, layers, and how the net is run."""
    model: str | Model
    """Name or path of a package, or an object that pickles as its constructor's arguments."""
    spec: ModelSpec
    """The card that the plan was made for."""
    bands: BandSet
    """What the net's channels are made of."""
    geobox: GeoBox
    """Of the whole scene."""

    def net(self) -> Model:
        """The model, loaded once per process.

        Raises:
            ModelError: The package is damaged, or not the one that the graph was built for.
        """
        if isinstance(self.model, Model):
            return self.model
        return hold(("package", self.model, self.spec.digest, self.plan.settings), self._load)

    def _load(self) -> Model:
        model = load_model(str(self.model), self.plan.settings)
        if model.spec.digest != self.spec.digest:
            raise ModelError(
                f"model {self.spec.name!r} at {self.model} changed since the graph was built: its digest was "
                f"{self.spec.digest[:12]}, now it is {model.spec.digest[:12]}; build the graph again"
            )
        return model


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What one chunk leaves."""

    rasters: Mapping[str, Pixels]
    """Of the core: raster name -> (band, row, col)."""
    shared: Sequence[SharedSums]
    """Partial sums of the areas around it."""


def lazy_rasters(pixels: da.Array, indices: Sequence[int], work: Work) -> dict[str, da.Array]:
    """Every raster of a run, (band, row, col) in blocks: labels in their dtype, probabilities as float32 and NaN.

    Args:
        pixels: Stored numbers (band, row, col).
        indices: Where each of the bands lies along the first axis.
        work: What to do.
    """
    import dask.array as da
    from dask.base import tokenize
    from dask.highlevelgraph import HighLevelGraph

    token = tokenize(pixels.name, tuple(indices), work)
    tasks = f"geoseg-{token}"
    graph = HighLevelGraph.from_collections(
        tasks, _tasks(pixels, indices, work, token), dependencies=cast("Any", [pixels])
    )
    rows, cols = _block_sizes(work.plan.chunks)
    rasters = {}
    for layer, count in work.plan.layers.counts.items():
        name = f"{layer}-{token}"
        keys: _Graph = {
            (name, 0, row, col): (getitem, (f"geoseg-block-{token}", row, col), layer)
            for row, col in product(range(len(rows)), range(len(cols)))
        }
        own = HighLevelGraph({**graph.layers, name: keys}, {**graph.dependencies, name: {tasks}})
        dtype = work.plan.layers.label_dtype if layer == "labels" else "float32"
        rasters[layer] = da.Array(own, name, ((count,), rows, cols), dtype=dtype)
    return rasters


def _tasks(pixels: da.Array, indices: Sequence[int], work: Work, token: str) -> _Graph:
    """Pieces, chunks, shares and blocks."""
    chunks, common = work.plan.chunks, f"geoseg-work-{token}"
    chunk_name, share_name, block_name = (f"geoseg-{kind}-{token}" for kind in ("chunk", "share", "block"))
    graph: _Graph = {common: work}
    slabs = _slabs(indices, pixels.chunks[0])
    for chunk in chunks:
        cuts = _Cuts(pixels, f"geoseg-piece-{token}", chunk)
        pieces = [cuts.pieces(slab, graph) for slab in slabs]
        graph[chunk_name, chunk.row, chunk.col] = (_run_chunk, common, chunk.row, chunk.col, pieces)
    for row, col in product(*(range(len(sizes)) for sizes in _block_sizes(chunks))):
        near = _near(chunks, row, col)
        for place in near:
            share = (_share, common, row, col, place == near[-1], (chunk_name, *place))
            graph[share_name, row, col, *place] = share
        graph[block_name, row, col] = (
            _fill_block,
            common,
            row,
            col,
            [(share_name, row, col, *place) for place in near],
        )
    return graph


# --- where things lie ---


def _block_sizes(chunks: ChunkGrid) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows and columns of the blocks: all alike but the last, which is no larger, as Zarr wants it.

    A block spans the strides of a chunk's tiles. The last chunk may reach beyond its strides by up to an overlap, which
    then is one more block.
    """
    grid = chunks.grid
    return _sizes(grid.rows, chunks.rows_per_chunk), _sizes(grid.cols, chunks.cols_per_chunk)


def _sizes(axis: Axis, tiles: int) -> tuple[int, ...]:
    side = tiles * axis.stride
    return tuple(min(side, axis.length - start) for start in range(0, axis.length, side))


def _near(chunks: ChunkGrid, row: int, col: int) -> list[tuple[int, int]]:
    """Places of the chunks that meet in a block: those before it whose tiles reach into it, and last its own."""
    return [(chunk.row, chunk.col) for chunk in chunks.meeting(_block_window(chunks, row, col))]


def _block_window(chunks: ChunkGrid, row: int, col: int) -> Window:
    height, width = chunks.rows_per_chunk * chunks.grid.stride, chunks.cols_per_chunk * chunks.grid.stride
    return Window(row_off=row * height, col_off=col * width, height=height, width=width) & chunks.crop


def _owner(chunks: ChunkGrid, row: int, col: int) -> Chunk:
    """The chunk in whose name a block is decided."""
    return chunks.chunk_at(min(row, chunks.shape[0] - 1), min(col, chunks.shape[1] - 1))


def _read_window(chunk: Chunk) -> Window:
    """The pixels that a chunk reads: its extent, and what is reflected where that reaches beyond the scene."""
    extent, grid = chunk.extent, chunk.grid
    rows = reflect(np.arange(extent.row_off, extent.row_stop), grid.height)
    cols = reflect(np.arange(extent.col_off, extent.col_stop), grid.width)
    return Window.from_bounds(int(rows.min()), int(cols.min()), int(rows.max()) + 1, int(cols.max()) + 1)


def _slabs(indices: Sequence[int], sizes: Sequence[int]) -> list[tuple[int, list[int]]]:
    """The bands in their order, as (block along the band axis, indices within it)."""
    places = [(block, at) for block, size in enumerate(sizes) for at in range(size)]
    runs = groupby((places[index] for index in indices), key=lambda place: place[0])
    return [(block, [at for _, at in run]) for block, run in runs]


class _Cuts:
    """The pieces of the input that one chunk reads: whole blocks as they are, of others only what is needed."""

    def __init__(self, pixels: da.Array, name: str, chunk: Chunk) -> None:
        self._pixels, self._name, self._chunk = pixels, name, chunk
        window = _read_window(chunk)
        self._rows = list(_overlaps(pixels.chunks[1], window.row_off, window.row_stop))
        self._cols = list(_overlaps(pixels.chunks[2], window.col_off, window.col_stop))

    def pieces(self, slab: tuple[int, list[int]], graph: _Graph) -> list[list[Any]]:
        """Keys of the pieces of some bands, nested by row and column; tasks that cut are added to `graph`."""
        return [[self._piece(slab, row, col, graph) for col in self._cols] for row in self._rows]

    def _piece(self, slab: tuple[int, list[int]], row: _Overlap, col: _Overlap, graph: _Graph) -> Any:
        band, bands = slab
        key = (self._pixels.name, band, row.block, col.block)
        if row.whole and col.whole and bands == list(range(self._pixels.chunks[0][band])):
            return key
        piece = (self._name, self._chunk.row, self._chunk.col, band, bands[0], row.block, col.block)
        graph[piece] = (_cut, key, bands, row.part, col.part)
        return piece


@dataclass(frozen=True, slots=True, kw_only=True)
class _Overlap:
    """What a stretch of pixels needs of one block along one axis."""

    block: int
    part: slice
    whole: bool


def _overlaps(sizes: Sequence[int], start: int, stop: int) -> Iterator[_Overlap]:
    for block, (first, end) in enumerate(pairwise(accumulate(sizes, initial=0))):
        if first < stop and end > start and first < end:
            part = slice(max(start, first) - first, min(stop, end) - first)
            yield _Overlap(block=block, part=part, whole=part == slice(0, end - first))


# --- what workers do ---


def _cut(block: Pixels, bands: list[int], rows: slice, cols: slice) -> Pixels:
    """A part of a block of the input, copied, so that the block itself can go."""
    return np.array(block[bands, rows, cols])


def _run_chunk(work: Work, row: int, col: int, pieces: Pieces) -> _Outcome:
    """Runs the tiles of one chunk."""
    plan = work.plan
    chunk = plan.chunks.chunk_at(row, col)
    core = chunk.core
    rasters = _empty(work, core)

    def write(window: Window, decided: Mapping[str, Pixels]) -> None:
        for name, bands in decided.items():
            rasters[name][:, *window.within(core).slices] = bands

    source = PiecesSource(pieces=pieces, window=_read_window(chunk), bands=work.bands, geobox=work.geobox)
    shared, _ = stream_chunk(
        chunk,
        source=source,
        model=work.net(),
        blend=plan.blend,
        layers=plan.layers,
        settings=plan.settings,
        write=write,
    )
    return _Outcome(rasters=rasters, shared=shared)


def _share(work: Work, row: int, col: int, own: bool, outcome: _Outcome) -> _Outcome:
    """What one block needs of one chunk: little of it travels between workers, and the rest can go."""
    seam = _owner(work.plan.chunks, row, col).seam
    shared = [part for part in outcome.shared if part.window in seam]
    return _Outcome(rasters=outcome.rasters if own else {}, shared=shared)


def _fill_block(work: Work, row: int, col: int, near: Sequence[_Outcome]) -> dict[str, Pixels]:
    """One block of every raster, from the chunks that meet in it; its own comes last."""
    chunks, layers = work.plan.chunks, work.plan.layers
    own, window = _owner(chunks, row, col), _block_window(chunks, row, col)
    rasters = _empty(work, window)
    decided = [(own.core, near[-1].rasters)]
    for area in own.seam:
        if area & window:
            known = [part for outcome in near for part in outcome.shared if part.window == area]
            decided.append((area, decide_shared(known, layers)))
    for area, found in decided:
        if part := area & window:
            for name, raster in rasters.items():
                raster[:, *part.within(window).slices] = found[name][:, *part.within(area).slices]
    return {name: raster if name == "labels" else _values(raster) for name, raster in rasters.items()}


def _empty(work: Work, window: Window) -> dict[str, Pixels]:
    layers = work.plan.layers
    return {name: np.empty((count, *window.shape), layers.dtype(name)) for name, count in layers.counts.items()}


def _values(stored: Pixels) -> Pixels:
    return np.where(stored == PROBABILITY_NODATA, np.float32(np.nan), stored * np.float32(PROBABILITY_SCALE))
