"""How far and how fast a run is, from its events; what an earlier run did is never taken for speed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from geoseg.events import ChunkDone, Event, RowDone, StageStarted

__all__ = ["Meter", "Pace", "WorkerPace"]

_WINDOW: Final = 60.0
"""Seconds over which a speed is taken."""
_FEWEST: Final = 4
"""Reports over which it is taken at least, where they are rare."""

Clock = Callable[[], float]


class Pace:
    """Something that grows in steps, and by how much per second of late.

    >>> pace = Pace(since=0.0)
    >>> for second in (1, 2, 3):
    ...     pace.add(10, now=second)
    >>> pace.per_second(now=3), pace.per_second(now=3.5), pace.per_second(now=13)
    (10.0, 10.0, 2.5)
    """

    def __init__(self, since: float) -> None:
        self.total = 0.0
        self._steps: deque[tuple[float, float]] = deque([(since, 0.0)])

    def add(self, amount: float, *, now: float) -> None:
        """Grows by `amount`."""
        self.total += amount
        self._steps.append((now, self.total))
        while len(self._steps) > _FEWEST + 1 and self._steps[1][0] <= now - _WINDOW:
            self._steps.popleft()

    def per_second(self, *, now: float) -> float:
        """Mean over the window; waiting for the next step counts once it takes longer than those before."""
        (first, before), (last, total) = self._steps[0], self._steps[-1]
        if len(self._steps) == 1:
            return 0.0
        usual = (last - first) / (len(self._steps) - 1)
        return (total - before) / max(last - first + max(0.0, now - last - usual), 1e-3)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPace:
    """How one worker gets on."""

    name: str
    """As its events call it."""
    pixels_per_second: float
    """Of late."""
    chunks: int
    """Chunks and seams that it has finished."""


@dataclass(slots=True)
class _Worker:
    pace: Pace
    chunks: int = 0


class Meter:
    """Counts what the events of one stage tell."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self.stage = ""
        """As in `StageStarted`."""
        self.total_tiles = self.total_chunks = self.chunks = 0
        self._start(StageStarted(stage=""))

    def take(self, event: Event) -> None:
        """Counts one event."""
        if isinstance(event, StageStarted):
            self._start(event)
        elif isinstance(event, RowDone):
            self._row(event)
        elif isinstance(event, ChunkDone):
            self._done(event)

    def _start(self, event: StageStarted) -> None:
        now = self._clock()
        self.stage = event.stage
        self.total_tiles, self.total_chunks, self.chunks = event.total_tiles, event.total_chunks, event.done_chunks
        self._finished = event.done_tiles
        self._in_flight: dict[str, int] = {}
        self._since = now
        self._pixels, self._tiles = Pace(now), Pace(now)
        self._workers: dict[str, _Worker] = {}

    def _row(self, event: RowDone) -> None:
        now = self._clock()
        self._in_flight[event.chunk] = self._in_flight.get(event.chunk, 0) + event.tiles
        self._pixels.add(event.pixels, now=now)
        self._tiles.add(event.tiles, now=now)
        self._worker(event.worker).pace.add(event.pixels, now=now)

    def _done(self, event: ChunkDone) -> None:
        self._in_flight.pop(event.chunk, None)  # what a lost row did not tell is told now
        self._finished += event.tiles
        self.chunks += 1
        self._worker(event.worker).chunks += 1

    def _worker(self, name: str) -> _Worker:
        return self._workers.setdefault(name, _Worker(Pace(self._since)))

    @property
    def tiles(self) -> int:
        """Tiles that are done: those of finished chunks, and the rows told of the others."""
        return self._finished + sum(self._in_flight.values())

    @property
    def pixels_per_second(self) -> float:
        """Of late; 0 before anything was finished."""
        return self._pixels.per_second(now=self._clock())

    @property
    def seconds_left(self) -> float | None:
        """Until all tiles are done; None while the speed is unknown."""
        speed = self._tiles.per_second(now=self._clock())
        return max(0, self.total_tiles - self.tiles) / speed if speed > 0 and self.total_tiles else None

    @property
    def workers(self) -> list[WorkerPace]:
        """Those that were heard of in this stage, the slowest first."""
        now = self._clock()
        paces = [
            WorkerPace(name=name, pixels_per_second=worker.pace.per_second(now=now), chunks=worker.chunks)
            for name, worker in self._workers.items()
        ]
        return sorted(paces, key=lambda pace: (pace.pixels_per_second, pace.name))
