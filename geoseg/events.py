"""What a run tells whoever watches it: small facts, no behaviour. The engine itself prints nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["ChunkDone", "ClusterReady", "Event", "OnEvent", "RowDone", "StageStarted", "Warned"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class RowDone:
    """One row of tiles of one chunk is finished."""

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


Event: TypeAlias = StageStarted | RowDone | ChunkDone | ClusterReady | Warned
OnEvent: TypeAlias = Callable[[Event], None]
