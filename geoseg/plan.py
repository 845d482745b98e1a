"""What a run will do, before it does it: tiles, chunks, memory, bytes; refused here if it cannot fit."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil

from geoseg.blend import BLENDS, Blend, exactness
from geoseg.decide import Layers
from geoseg.errors import GridError, PlanError
from geoseg.events import Planned
from geoseg.grid import ChunkGrid, TileGrid
from geoseg.memory import cache_bytes
from geoseg.protocols import Source
from geoseg.scene import Scene
from geoseg.settings import Settings
from geoseg.spec import ModelSpec
from geoseg.tuning import ProbedCost
from geoseg.window import Window, whole

__all__ = ["RunPlan", "check_fits", "check_memory", "layout_from", "plan_run", "tiling_for"]

_MAX_CHUNK_WIDTH = 4352  # pixels: sums and channels of a chunk are as wide as it is
_MAX_CHUNK_SECONDS = 120.0  # what a kill can cost
_CHUNK_TILES = 128  # at most: the sums that a chunk shares with its neighbours grow with its height
_USABLE = 0.9  # of a worker's memory: the estimate is one, and Dask begins to spill and pause not far above
_CHUNKS_PER_WORKER = 4
_IDLE = 0.05  # share of the workers' time: less than that may go with the last chunks before seams count for less
_PROCESS_BYTES = 768 << 20  # interpreter, torch with CUDA, numba and its compiler, GDAL, Dask; and making the outputs
_TILE_BYTES_PER_CHANNEL_PIXEL = 256  # what nets of common size hold per pixel of a tile in flight, where not probed
_ROWS_HELD = 3  # tile rows whose sums or channels are alive at once
_DECIDED = 16  # bytes per pixel: a maximum and where it lies, its quotient, and the bytes that are written
_LANE_COPIES = 4  # of what goes into the net and comes out of it
_HELD_BACK = 1.35  # measured: of buffers of such different sizes the C library keeps up to a third more than is in use


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """Everything that decides the bytes of a run, and what it is expected to cost."""

    scene_id: str
    """The scene."""
    model: str
    """The model's name."""
    digest: str
    """The model's digest."""
    grid: TileGrid
    """The lattice."""
    chunks: ChunkGrid
    """Who owns which tiles."""
    blend: Blend
    """Taper."""
    settings: Settings
    """How the net is run."""
    layers: Layers
    """Which rasters are made."""
    workers: int
    """Processes."""
    exactness: str
    """What the overlap means for this net, in a sentence."""
    bytes_to_read: int
    """Stored numbers of every chunk's extent."""
    bytes_to_write: int
    """Rasters before compression, overviews included."""
    disk_needed: int
    """Parts and outputs while the run lasts, about."""
    seam_bytes: int
    """Sums that chunks hand over to each other, as parts."""
    worker_memory: int
    """Resident bytes of one process at work, about."""
    memory_limit: int | None = None
    """Bytes that the smallest worker may use; None: the workers share this machine's memory."""
    seconds: float | None = None
    """Expected wall time; None where nothing was probed."""

    @property
    def tiles(self) -> int:
        """Tiles of the lattice that touch what is written."""
        return self.chunks.tiles

    @property
    def forward_passes(self) -> int:
        """Tiles that the net will see at most; those without a usable pixel are left out."""
        return self.chunks.tiles

    @property
    def peak_memory(self) -> int:
        """Resident bytes of all processes together, about."""
        return self.workers * self.worker_memory

    @property
    def probabilities(self) -> bool:
        """Whether the probability of every class is written."""
        return self.layers.probabilities

    @property
    def confidence(self) -> bool:
        """Whether the probability of the chosen class is written."""
        return self.layers.confidence

    @property
    def summary(self) -> Planned:
        """How the run is shared out, for whoever watches."""
        return Planned(
            chunks=len(self.chunks),
            chunk_tiles=_largest(self.chunks),
            seam_bytes=self.seam_bytes,
            workers=self.workers,
            worker_memory=self.worker_memory,
        )

    def pinned(self) -> dict[str, Any]:
        """What a resumed run must repeat, as JSON values."""
        return {
            "rows_per_chunk": self.chunks.rows_per_chunk,
            "cols_per_chunk": self.chunks.cols_per_chunk,
            "settings": {name: getattr(self.settings, name) for name in Settings.__slots__},
        }


def tiling_for(spec: ModelSpec, tile: int | None, overlap: int | None) -> tuple[int, int]:
    """Tile and overlap: as asked, else the card's; the overlap a quarter of the tile where the card has none.

    Raises:
        GridError: They do not suit each other or the net's strides.
    """
    tile = spec.tile if tile is None else tile
    unit = spec.multiple_of
    if spec.static_tile is not None and tile != spec.static_tile:
        raise GridError(f"model {spec.name!r} runs tiles of {spec.static_tile} pixels only; leave --tile {tile} out")
    if tile < 1 or tile % unit:
        raise GridError(f"tile {tile} is no multiple of {unit}, as model {spec.name!r} needs; try {_near(tile, unit)}")
    if overlap is None:
        overlap = spec.overlap if spec.overlap is not None and tile == spec.tile else tile // 4 // unit * unit
    if overlap % unit:
        raise GridError(
            f"overlap {overlap} is no multiple of {unit}, as model {spec.name!r} needs; try {_near(overlap, unit)}"
        )
    return tile, overlap


def _near(number: int, unit: int) -> int:
    return max(unit, round(number / unit) * unit)


def plan_run(
    scene: Scene[Source],
    spec: ModelSpec,
    *,
    settings: Settings,
    layers: Layers,
    tile: int | None = None,
    overlap: int | None = None,
    blend: Blend = "ramp",
    crop: Window | None = None,
    chunk: int | None = None,
    workers: int = 1,
    worker_memory: int | None = None,
    pinned: Mapping[str, Any] | None = None,
    seconds_per_tile: float | None = None,
    cost: ProbedCost | None = None,
) -> RunPlan:
    """Lays the lattice over a scene, shares it out to chunks, and estimates what the run costs.

    Args:
        scene: Only its header is used.
        spec: The model's card.
        settings: How the net will be run.
        layers: Which rasters to make.
        tile: Side of a tile in pixels; None: the card's.
        overlap: Pixels that neighbouring tiles share; None: the card's, or a quarter of the tile.
        blend: Taper.
        crop: What to compute and write; None: all. The lattice does not move.
        chunk: Side of a chunk in pixels, rounded down to whole strides; None: chosen.
        workers: Processes.
        worker_memory: Bytes that the smallest of them may use; None: they share what this machine has free.
        pinned: Chunk layout of the run that this one resumes.
        seconds_per_tile: What the net alone takes, if it was timed: bounds a chunk's time.
        cost: What a few tiles cost from the read to the decision, if they were probed.

    Raises:
        GridError: Tile, overlap and model do not suit each other.
    """
    if blend not in BLENDS:
        raise GridError(f"unknown blend {blend!r}; choose one of {', '.join(BLENDS)}")
    tile, overlap = tiling_for(spec, tile, overlap)
    extent = whole(scene.geobox)
    grid = TileGrid(height=extent.height, width=extent.width, tile=tile, overlap=overlap)
    crop = extent if crop is None else crop
    need = _MemoryNeed.of(scene, spec, grid, settings, layers, cost)
    timed = cost.seconds_per_tile if cost else seconds_per_tile
    layout = layout_from(pinned) or (
        _asked(chunk, grid)
        if chunk is not None
        else _layout(grid, crop, need, workers, _room(worker_memory, workers), timed)
    )
    chunks = ChunkGrid(grid=grid, crop=crop, rows_per_chunk=layout[0], cols_per_chunk=layout[1])
    raw = sum(count * np.dtype(layers.dtype(name)).itemsize for name, count in layers.counts.items()) * crop.size
    return RunPlan(
        scene_id=scene.id,
        model=spec.name,
        digest=spec.digest,
        grid=grid,
        chunks=chunks,
        blend=blend,
        settings=settings,
        layers=layers,
        workers=workers,
        exactness=exactness(blend, overlap, spec.halo),
        bytes_to_read=_bytes_to_read(scene, chunks),
        bytes_to_write=raw * 4 // 3,
        disk_needed=raw + _seam_bytes(chunks, spec.outputs),
        seam_bytes=_seam_bytes(chunks, spec.outputs),
        worker_memory=need.bytes(*_largest(chunks), alone=len(chunks) == 1),
        memory_limit=worker_memory,
        seconds=None if cost is None else cost.seconds_per_tile * chunks.tiles / workers,
    )


def layout_from(pinned: Mapping[str, Any] | None) -> tuple[int, int] | None:
    """Tile rows and columns per chunk of a stored plan."""
    return None if pinned is None else (int(pinned["rows_per_chunk"]), int(pinned["cols_per_chunk"]))


def _asked(chunk: int, grid: TileGrid) -> tuple[int, int]:
    """Tile rows and columns of chunks of so many pixels a side."""
    if chunk < 1:
        raise GridError(f"chunk must be at least 1 pixel, not {chunk}")
    side = max(1, chunk // grid.stride)
    return side, side


def _room(worker_memory: int | None, workers: int) -> int:
    """Bytes that one worker's chunk should stay below."""
    return int(_USABLE * (psutil.virtual_memory().available // workers if worker_memory is None else worker_memory))


def _layout(
    grid: TileGrid, crop: Window, need: _MemoryNeed, workers: int, room: int, seconds_per_tile: float | None
) -> tuple[int, int]:
    """Tile rows and columns per chunk: bounded in memory and time, enough for all workers to the end, few sums."""
    rows = len(grid.rows.covering(crop.row_off, crop.row_stop))
    cols = len(grid.cols.covering(crop.col_off, crop.col_stop))
    wanted = min(rows * cols, _CHUNKS_PER_WORKER * workers if workers > 1 else 1)
    most = min(_CHUNK_TILES, int(_MAX_CHUNK_SECONDS / seconds_per_tile) if seconds_per_tile else _CHUNK_TILES)
    widest = min(cols, max(1, int(_MAX_CHUNK_WIDTH / need.weight) // grid.stride))

    def tallest(width: int) -> int:
        down = -(-wanted // -(-cols // width))
        height = max(1, min(rows, most // width, (rows - 1) // (down - 1) if down > 1 else rows))
        while height > 1 and need.bytes(height, width) > room:
            height -= 1
        return height

    def judged(height: int, width: int) -> tuple[int, bool, int, int, int, int]:
        """By how much they are too large, if too few, how much of the workers idles, what they share, their shape."""
        down, across = -(-rows // height), -(-cols // width)
        turns = -(-down * across // workers)
        idle = turns * workers * height * width / (rows * cols) - 1 if workers > 1 else 0.0
        seams = (down - 1) * crop.width + (across - 1) * crop.height
        too_large = max(0, need.bytes(height, width) - room)
        return too_large, down * across < wanted, int(idle / _IDLE), seams, height, width

    shapes = [(height, width) for width in range(1, widest + 1) for height in _heights(tallest(width))]
    height, width = min(judged(*shape) for shape in shapes)[-2:]
    return -(-rows // -(-rows // height)), -(-cols // -(-cols // width))


def _heights(tallest: int) -> range:
    """Smaller chunks than half of what fits are never worth their seams."""
    return range(max(1, tallest // 2), tallest + 1)


def _largest(chunks: ChunkGrid) -> tuple[int, int]:
    """Tile rows and columns of the largest chunk."""
    return min(chunks.rows_per_chunk, len(chunks.tile_rows)), min(chunks.cols_per_chunk, len(chunks.tile_cols))


def _bytes_to_read(scene: Scene[Source], chunks: ChunkGrid) -> int:
    per_pixel = sum(np.dtype(band.dtype).itemsize for band in scene.bands)
    return per_pixel * chunks.pixels_read


def _seam_bytes(chunks: ChunkGrid, classes: int) -> int:
    return chunks.pixels_shared * (4 * classes + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _MemoryNeed:
    """What a worker's resident size is made of."""

    grid: TileGrid
    block: tuple[int, int]
    """Rows and columns of the source's blocks."""
    stored: int
    """Bytes of a pixel as it was read."""
    channels: int
    classes: int
    decided: int
    """Bytes of a pixel while it is decided."""
    in_flight: int
    """Pixels of the tiles that the net sees at once."""
    net: int
    """Bytes that the net holds while it runs."""

    @classmethod
    def of(
        cls,
        scene: Scene[Source],
        spec: ModelSpec,
        grid: TileGrid,
        settings: Settings,
        layers: Layers,
        cost: ProbedCost | None,
    ) -> Self:
        in_flight = settings.lanes * settings.batch * grid.tile**2
        return cls(
            grid=grid,
            block=scene.source.block,
            stored=sum(np.dtype(band.dtype).itemsize for band in scene.bands),
            channels=spec.dates * len(spec.channels),
            classes=spec.outputs,
            decided=_DECIDED + (5 * spec.outputs if layers.probabilities else 0),
            in_flight=in_flight,
            net=in_flight * 4 * _TILE_BYTES_PER_CHANNEL_PIXEL if cost is None else cost.net_bytes,
        )

    @property
    def weight(self) -> float:
        """How much heavier a column is than usual: many classes or channels make it so."""
        return max(1.0, (self.classes + self.channels) / 32)

    def bytes(self, rows: int, cols: int, *, alone: bool = False) -> int:
        """Resident bytes while a chunk of so many tiles is worked on; `alone`: it shares nothing with others."""
        height, width = (number * self.grid.stride + self.grid.overlap for number in (rows, cols))
        depth = self.channels + self.classes
        band = self.grid.tile * width * (_ROWS_HELD * 4 * depth + 4 * (self.stored + 2) + self.decided)
        shared = 0 if alone else 2 * (height + width) * self.grid.overlap * (4 * self.classes + 1)
        lanes = self.in_flight * 4 * _LANE_COPIES * depth
        buffers = band + shared + lanes + cache_bytes(self.block, width, self.grid.width, self.stored)
        return _PROCESS_BYTES + self.net + int(_HELD_BACK * buffers)


def check_memory(plan: RunPlan) -> None:
    """Refuses a run for which there is not enough memory.

    Raises:
        PlanError: It will not do; says by how much, and which option to change.
    """
    if plan.memory_limit is not None and plan.worker_memory > plan.memory_limit:
        raise PlanError(
            f"a worker needs about {_mb(plan.worker_memory)} of memory, the smallest has {_mb(plan.memory_limit)}: "
            f"{_mb(plan.worker_memory - plan.memory_limit)} too much. Give workers more, or choose a smaller "
            "--chunk, --tile or --batch-size"
        )
    memory = psutil.virtual_memory().available
    if plan.memory_limit is None and plan.peak_memory > memory:
        knob = "--workers" if plan.workers > 1 else "--chunk, --tile or --batch-size"
        raise PlanError(
            f"the run needs about {_mb(plan.peak_memory)} of memory, {_mb(memory)} are free: "
            f"{_mb(plan.peak_memory - memory)} too much. Choose a smaller {knob}"
        )


def check_fits(plan: RunPlan, out: Path, done: float = 0.0) -> None:
    """Refuses a run that this machine cannot hold.

    Args:
        plan: What would be run.
        out: Output directory; it or its parent exists.
        done: Share of the run that is finished already, 0 to 1.

    Raises:
        PlanError: Memory or disk will not do; says by how much, and which option to change.
    """
    check_memory(plan)
    disk = shutil.disk_usage(out if out.exists() else out.parent).free
    needed = int(plan.disk_needed * (1.0 - done))
    if needed > disk:
        raise PlanError(
            f"the run needs about {_mb(needed)} of disk at {out}, {_mb(disk)} are free: {_mb(needed - disk)} too much. "
            "Free some space, choose another --out, or crop with --bbox"
        )


def _mb(number: int) -> str:
    return f"{number / 1e6:,.0f} MB"
