"""What a person sees of a run while it lasts: a bar on a terminal, nothing but warnings on a pipe."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from geoseg.cli.outcome import printable
from geoseg.cli.text import count_text, speed_text, time_text
from geoseg.events import ChunkDone, Event, RowDone, StageStarted, Warned

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Watch"]

_WORK = ("resume", "predict")
"""Stages before which nothing stands in the directory of the results."""

_STAGES = {
    "resume": "resuming",
    "predict": "predicting",
    "assemble": "writing rasters",
    "vectorize": "tracing polygons",
    "describe": "describing",
}


class Bar:
    """Stage, tiles done, Mpx/s and time left, on a terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._total = self._tiles = self._pixels = 0
        self._since = time.monotonic()

    def start(self, event: StageStarted) -> None:
        """Goes over to a stage."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._total, self._tiles, self._pixels = event.total_tiles, event.done_tiles, 0
        self._since = time.monotonic()
        stage = _STAGES.get(event.stage, event.stage)
        total = event.total_tiles or None
        self._task = self._progress.add_task(stage, total=total, completed=self._tiles, tiles=self._counted(), speed="")

    def advance(self, event: RowDone) -> None:
        """Counts a row of tiles."""
        if self._task is None:
            return
        self._tiles += event.tiles
        self._pixels += event.pixels
        speed = speed_text(self._pixels / max(time.monotonic() - self._since, 1e-3))
        self._progress.update(self._task, completed=self._tiles, tiles=self._counted(), speed=speed)

    def say(self, line: str) -> None:
        """Writes a line above the bar."""
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _counted(self) -> str:
        return f"{count_text(self._tiles)} of {count_text(self._total)} tiles" if self._total else ""


def _terminal_progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[tiles]}"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


class Watch:
    """Receives the events of one run; knows whether its work has begun."""

    def __init__(self, label: str, *, quiet: bool, verbose: bool) -> None:
        self.began = False
        """Whether there is something to resume."""
        self._label = printable(label)
        self._quiet = quiet
        self._verbose = verbose
        self._bar: Bar | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and not self._quiet:
            self._bar = Bar(self._open.enter_context(_terminal_progress()))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar = None
        self._open.close()

    def __call__(self, event: Event) -> None:
        """Takes one event; may be called from any thread."""
        if isinstance(event, StageStarted):
            self.began = self.began or event.stage in _WORK
            if self._bar is not None:
                self._bar.start(event)
        elif isinstance(event, RowDone) and self._bar is not None:
            self._bar.advance(event)
        elif isinstance(event, Warned) and not self._quiet:
            self._say(f"geoseg: warning: {self._label}: {printable(' '.join(event.message.split()))}")
        elif isinstance(event, ChunkDone) and self._verbose:
            self._say(f"geoseg: {event.chunk} done in {time_text(event.seconds)}")

    def _say(self, line: str) -> None:
        if self._bar is None:
            click.echo(line, err=True)
        else:
            self._bar.say(line)
