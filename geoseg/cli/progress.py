"""What a person sees of a run while it lasts: a bar on a terminal, nothing but warnings on a pipe."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from statistics import median
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from geoseg.cli.messages import above_bar, log_is_json, printable, say
from geoseg.cli.meter import Meter, WorkerPace
from geoseg.cli.text import byte_text, count_text, speed_text, table, time_text
from geoseg.events import ChunkDone, ChunkRetried, ClusterReady, Event, Planned, RowDone, StageStarted, Warned

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["STAGES", "Watch"]

_WORK = ("resume", "predict", "mosaic")
"""Stages before which nothing stands in the directory of the results."""

STAGES: Final = {
    "resume": "resuming",
    "predict": "predicting",
    "mosaic": "laying scenes together",
    "assemble": "writing rasters",
    "vectorize": "tracing polygons",
    "describe": "describing",
}
"""Stage -> what people call it."""

_PAINTINGS_PER_SECOND = 8.0
_BAR_WIDTH = 24
_WORKER_LINES = 8  # more workers than this become one line


class Watch:
    """Receives the events of one run; knows whether its work has begun."""

    def __init__(self, label: str, *, quiet: bool, verbose: bool) -> None:
        self.began = False
        """Whether there is something to resume."""
        self._label = printable(label)
        self._quiet = quiet
        self._verbose = verbose
        self._lock = threading.Lock()
        self._meter = Meter()
        self._has_bar = False
        self._open = ExitStack()

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and not self._quiet and not log_is_json():
            self._open.enter_context(self._bar())
            self._has_bar = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._has_bar = False
        self._open.close()

    def __call__(self, event: Event) -> None:
        """Takes one event; may be called from any thread."""
        with self._lock:
            self._meter.take(event)
            self.began = self.began or (isinstance(event, StageStarted) and event.stage in _WORK)
        self._tell(event)

    def _tell(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            progress = self._progress() if event.total_tiles else {}
            self._say(_stage_text(event), "stage", {"stage": event.stage} | progress)
        elif isinstance(event, ClusterReady):
            # On a terminal the address is of use at once; a pipe gets it where it asks for more.
            level = logging.WARNING if self._has_bar else logging.INFO
            self._say(_cluster_text(event), "cluster", asdict(event), level)
        elif isinstance(event, Planned):
            self._say(_plan_text(event), "plan", asdict(event))
        elif isinstance(event, RowDone):
            self._say(f"{event.tiles} tiles of {event.chunk} done", "row", asdict(event), logging.DEBUG)
        elif isinstance(event, ChunkDone):
            by = f" by {event.worker}" if event.worker else ""
            facts = asdict(event) | {"seconds": round(event.seconds, 3)} | self._progress()
            self._say(f"{event.chunk} done in {time_text(event.seconds)}{by}", "chunk", facts)
        elif isinstance(event, ChunkRetried):
            text = f"chunk {event.chunk} begins anew (attempt {event.attempt}): {event.reason}"
            self._say(text, "retry", asdict(event), logging.WARNING)
        elif isinstance(event, Warned):
            self._say(event.message, "warning", {}, logging.WARNING)

    def _say(self, message: str, event: str, facts: Mapping[str, object], level: int = logging.INFO) -> None:
        if not self._quiet:
            say(message, level=level, event=event, scene=self._label, **facts)

    def _progress(self) -> dict[str, object]:
        """How far the stage is, for a log."""
        with self._lock:
            meter, left = self._meter, self._meter.seconds_left
            return {
                "chunks_done": meter.chunks,
                "chunks_total": meter.total_chunks,
                "tiles_done": meter.tiles,
                "tiles_total": meter.total_tiles,
                "pixels_per_second": round(meter.pixels_per_second),
                "seconds_left": None if left is None else round(left, 1),
            }

    def _bar(self) -> ExitStack:
        """A bar at the lower end of the terminal; closing it takes it away."""
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        stack = ExitStack()
        stack.enter_context(
            Live(
                get_renderable=self._picture,
                console=console,
                refresh_per_second=_PAINTINGS_PER_SECOND,
                transient=True,
                redirect_stdout=sys.stdout.isatty(),
            )
        )
        stack.enter_context(above_bar(lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)))
        return stack

    def _picture(self) -> RenderableType:
        """What the terminal shows now."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        with self._lock:
            meter = self._meter
            if not meter.stage:
                return Text("")
            bar = ProgressBar(
                total=meter.total_tiles or None, completed=meter.tiles, width=_BAR_WIDTH, pulse=not meter.total_tiles
            )
            facts, workers = _facts_text(meter), _workers_text(meter.workers) if self._verbose else ""
            stage = STAGES.get(meter.stage, meter.stage)
        row = Table.grid(padding=(0, 1))
        row.add_column(no_wrap=True)
        row.add_column()
        row.add_column(no_wrap=True, overflow="ellipsis")
        row.add_row(Text(stage), bar, Text(facts))
        return Group(row, Text(workers, no_wrap=True, overflow="ellipsis")) if workers else row


def _stage_text(event: StageStarted) -> str:
    stage = STAGES.get(event.stage, event.stage)
    if not event.total_tiles:
        return stage
    done = f", {count_text(event.done_tiles)} of them done before" if event.done_tiles else ""
    return f"{stage} {count_text(event.total_tiles)} tiles in {count_text(event.total_chunks)} chunks{done}"


def _plan_text(event: Planned) -> str:
    rows, cols = event.chunk_tiles
    seams = f", {byte_text(event.seam_bytes)} of sums between them" if event.seam_bytes else ""
    workers = f"{count_text(event.workers)} {'worker' if event.workers == 1 else 'workers'}"
    memory = f"{workers} of about {byte_text(event.worker_memory)}"
    return f"{count_text(event.chunks)} chunks of up to {rows} x {cols} tiles{seams}; {memory}"


def _cluster_text(event: ClusterReady) -> str:
    workers = f"{count_text(event.workers)} {'worker' if event.workers == 1 else 'workers'} at {event.address}"
    return f"{workers}, dashboard at {event.dashboard}" if event.dashboard else workers


def _facts_text(meter: Meter) -> str:
    """Tiles, chunks, speed, time left, workers; as much of it as there is to say."""
    if not meter.total_tiles:
        return ""
    facts = [f"{count_text(meter.tiles)} of {count_text(meter.total_tiles)} tiles"]
    if meter.total_chunks > 1:
        facts.append(f"{count_text(meter.chunks)} of {count_text(meter.total_chunks)} chunks")
    facts.append(speed_text(meter.pixels_per_second))
    if meter.seconds_left is not None:
        facts.append(f"{time_text(meter.seconds_left)} left")
    if len(meter.workers) > 1:
        facts.append(f"{count_text(len(meter.workers))} workers")
    return ", ".join(facts)


def _workers_text(workers: list[WorkerPace]) -> str:
    """A line per worker, the slowest first; one line for many."""
    if len(workers) < 2:
        return ""
    if len(workers) > _WORKER_LINES:
        slowest, middle = workers[0], median(worker.pixels_per_second for worker in workers)
        return (
            f"  workers: {speed_text(middle)} at the median; slowest {slowest.name} with "
            f"{speed_text(slowest.pixels_per_second)}"
        )
    rows = [
        (printable(worker.name), f"{count_text(worker.chunks)} chunks", speed_text(worker.pixels_per_second))
        for worker in workers
    ]
    return table(rows, right=frozenset({1, 2}), indent=2)
