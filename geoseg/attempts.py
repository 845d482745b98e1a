"""What is known of the jobs that are in flight: who runs which since when, and what became of those before.

Pure bookkeeping, told what happens and what time it is; it never asks a cluster anything.
"""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field

__all__ = ["DEADLY", "Attempts", "Pace"]

DEADLY = 3
"""Workers that may die of one job before the job is given up."""

_ROWS_REMEMBERED = 1000
_SLOW = 20.0  # a tile row that takes so many times the usual one is no slow row


class Pace:
    """How long tile rows take in this run, and from when on a job that finishes none has to be called hung.

    >>> pace = Pace(patience=300.0)
    >>> for seconds in (10.0, 20.0, 90.0):
    ...     pace.note(seconds)
    >>> pace.limit
    400.0
    """

    def __init__(self, patience: float) -> None:
        """Takes the seconds that every job is granted, however fast the others are."""
        self._patience = patience
        self._rows: deque[float] = deque(maxlen=_ROWS_REMEMBERED)

    def note(self, seconds: float) -> None:
        """A tile row took so long."""
        self._rows.append(seconds)

    @property
    def limit(self) -> float:
        """Seconds without a finished tile row after which a job has hung."""
        return max(self._patience, _SLOW * statistics.median(self._rows)) if self._rows else self._patience


@dataclass(slots=True)
class Attempts:
    """One job in flight: the attempt under way, and what earlier ones came to."""

    name: str
    """The job's."""
    number: int = 1
    """Which attempt is under way, counted from 1; the cluster may start one more than once by itself."""
    worker: str = ""
    """Address of the worker that runs it; "" while it waits for one."""
    heard: float = 0.0
    """When it was last heard of."""
    starts: int = 0
    """How often a worker began it."""
    deaths: list[str] = field(default_factory=list)
    """Workers that died while they ran it."""
    hung: list[str] = field(default_factory=list)
    """Workers on which it hung."""
    _tiles: int = 0
    _pixels: int = 0

    def start(self, worker: str, now: float) -> None:
        """A worker began; one that had begun before and was not heard of again has died."""
        if self.worker and worker != self.worker:
            self.deaths.append(self.worker)
        self.worker, self.heard = worker, now
        self.starts += 1

    def advance(self, tiles: int, pixels: int) -> tuple[int, int]:
        """Tiles and pixels that are new, given what the attempt has finished by now.

        An attempt that repeats rows of an earlier one brings nothing new until it has caught up.

        >>> job = Attempts("r0000c0000")
        >>> job.advance(8, 800), job.advance(4, 400), job.advance(12, 1200)
        ((8, 800), (0, 0), (4, 400))
        """
        new = max(0, tiles - self._tiles), max(0, pixels - self._pixels)
        self._tiles, self._pixels = max(tiles, self._tiles), max(pixels, self._pixels)
        return new

    def lose(self, *, died: bool) -> None:
        """Its worker is gone: dead of it perhaps, or sent away."""
        if died:
            self.deaths.append(self.worker)
        self.worker = ""

    def hang(self) -> None:
        """It finishes nothing where it is."""
        self.hung.append(self.worker)
        self.worker = ""

    def has_hung(self, now: float, limit: float) -> bool:
        """Whether a worker began it and finished no tile row for `limit` seconds; waiting in a queue is no fault."""
        return bool(self.worker) and now - self.heard > limit

    @property
    def is_deadly(self) -> bool:
        """Whether too many workers died of it."""
        return len(self.deaths) >= DEADLY
