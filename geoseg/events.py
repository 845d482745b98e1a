"""What a run tells whoever watches it: small facts, no behaviour. The engine itself prints nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

__all__ = [
    "ChunkDone",
    "ChunkRetried",
    "ClusterReady",
    "Event",
    "OnEvent",
    "Planned",
    "RowDone",
    "StageStarted",
    "Warned",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted:
    """A stage of the run began: ``predict``, ``assemble``, ``vectorize``, ``describe``."""

    stage: str
    total_tiles: int = 0
    """Tiles that `predict` has to run, those already done included; 0 for other stages."""
    done_tiles: int = 0
    """Tiles that an earlier, interrupted run already finished."""
    total_pixels: int = 0
    """Pixels that the run writes."""
    total_chunks: int = 0
    """Chunks and seams that `predict` has to run, those already done included."""
    done_chunks: int = 0
    """Chunks and seams that an earlier, interrupted run already finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowDone:
    """One row of tiles of one chunk is finished; an attempt that repeats rows of an earlier one tells new ones only."""

    chunk: str
    tiles: int
    pixels: int
    worker: str = ""
    """Who finished it; "" is this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkDone:
    """One chunk (or seam) is finished and durable."""

    chunk: str
    seconds: float
    worker: str = ""
    """Who finished it; "" is this process."""
    tiles: int = 0
    """Tiles that it owned; a seam owns none."""
    pixels: int = 0
    """Pixels that it decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRetried:
    """One chunk (or seam) did not finish where it was and begins anew."""

    chunk: str
    reason: str
    """Why, in a few words: the worker died, hung, could not read."""
    worker: str = ""
    """Who had it; "" is unknown."""
    attempt: int = 2
    """Which attempt begins now, counted from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """How a run is shared out."""

    chunks: int
    chunk_tiles: tuple[int, int]
    """Tile rows and columns of a chunk, at most."""
    seam_bytes: int
    """Sums that chunks hand over to each other."""
    workers: int
    worker_memory: int
    """Resident bytes of each of them, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterReady:
    """The workers of a cluster can be reached."""

    address: str
    """The scheduler's."""
    workers: int
    dashboard: str | None = None
    """Its page, if it has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """Something that a person should know, and that does not stop the run."""

    message: str


Event: TypeAlias = StageStarted | RowDone | ChunkDone | ChunkRetried | Planned | ClusterReady | Warned
OnEvent: TypeAlias = Callable[[Event], None]
