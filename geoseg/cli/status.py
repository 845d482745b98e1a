"""``geoseg status``: how far a run is, from a second terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from geoseg.cli.messages import printable
from geoseg.cli.options import debug_option, json_option
from geoseg.cli.outcome import DONE, FAILED
from geoseg.cli.progress import STAGES
from geoseg.cli.signals import Interrupted, Signals
from geoseg.cli.text import byte_text, count_text, speed_text, table, time_text
from geoseg.errors import ConfigError

if TYPE_CHECKING:
    from geoseg.status import RunStatus
    from geoseg.step_record import PipelineStatus

__all__ = ["scenes_text", "status", "status_text"]

_EVERY: Final = 2.0
"""Seconds between two looks at a run that is followed."""


@click.command()
@click.argument("folder", metavar="RUNDIR")
@click.option("--follow", is_flag=True, help="Look again every two seconds until no run is at work.")
@json_option
@debug_option
def status(folder: str, follow: bool, as_json: bool) -> int:
    """Say how far the run in RUNDIR is, or each run below it, or each step of a pipeline.

    Reads the run's request and journal only: it may be called at any time, and never disturbs the run. Ends with exit
    code 2 where there is no run; with --follow, 0 if every run finished and 1 if not.
    """
    if not follow:
        click.echo(_text(_look(folder), as_json=as_json))
        return DONE
    with Signals() as signals:
        try:
            return _follow(folder, as_json=as_json)
        except Interrupted as error:
            signals.hint = ""
            return error.code


def _follow(folder: str, *, as_json: bool) -> int:
    """Writes over what it wrote on a terminal; elsewhere, and as JSON, it writes anew where something changed."""
    on_terminal, shown = sys.stdout.isatty() and not as_json, ""
    while True:
        found = _look(folder)
        text = _text(found, as_json=as_json)
        if on_terminal and shown:
            click.echo(f"\x1b[{len(shown.splitlines())}A\x1b[J{text}")
        elif text != shown:
            click.echo(text)
        shown = text
        states = {each.state for each in (found if isinstance(found, list) else [found])}
        if "running" not in states:
            return DONE if states == {"finished"} else FAILED
        time.sleep(_EVERY)


def _look(folder: str) -> RunStatus | list[RunStatus] | PipelineStatus:
    """The run in a folder; or the steps of a pipeline; or the runs in the folders below it, by name.

    Raises:
        ConfigError: There is none.
    """
    from geoseg.journal import RunDirectory
    from geoseg.status import read_status
    from geoseg.step_record import read_steps

    directory = RunDirectory(folder)
    own = read_status(directory)
    if own is not None:
        return own
    pipeline = read_steps(folder if "://" in folder else Path(folder))
    if pipeline is not None:
        return pipeline
    places = [directory.store.below(name).href() for name in directory.store.folders() if not name.startswith(".")]
    found = [run for place in places if (run := read_status(RunDirectory(place))) is not None]
    if not found:
        raise ConfigError(f"{folder}: is no run directory, nor are there any below it; name the --out of a run")
    return found


def _text(found: RunStatus | list[RunStatus] | PipelineStatus, *, as_json: bool) -> str:
    from geoseg.step_record import PipelineStatus

    if isinstance(found, list):
        return json.dumps({"runs": [run.document() for run in found]}) if as_json else scenes_text(found)
    if as_json:
        return json.dumps(found.document())
    return _steps_text(found) if isinstance(found, PipelineStatus) else status_text(found)


def _steps_text(found: PipelineStatus) -> str:
    rows = [("step", "verb", "state", "took")]
    for step in found.steps:
        state = f"{step.state}; the same command goes on there" if step.state == "interrupted" else step.state
        rows.append((step.name, step.verb, state, "" if step.seconds is None else time_text(step.seconds)))
    return table(rows)


def status_text(run: RunStatus) -> str:
    """One run, for people."""
    rows = [("state", _state_text(run))]
    if run.scene:
        rows += [
            ("scene", printable(run.scene)),
            ("model", printable(run.model)),
            ("tiles", _share(run.tiles_done, run.tiles)),
            ("chunks", f"{_share(run.chunks_done, run.chunks)}; {byte_text(run.part_bytes)} of parts"),
            ("forward passes", count_text(run.forward_passes)),
        ]
    if run.retries:
        rows.append(("retries", count_text(run.retries)))
    if run.state == "running":
        rows.append(("speed", _speed(run)))
    if run.dashboard:
        rows.append(("dashboard", run.dashboard))
    if run.last_activity:
        rows.append(("last activity", _ago(run.last_activity)))
    text = table(rows)
    return f"{text}\n{_workers_table(run)}" if len(run.workers) > 1 else text


def _state_text(run: RunStatus) -> str:
    where = f" on {run.host}" if run.host else ""
    if run.state == "running":
        who = f" by process {run.process}{where}" if run.process else where
        return f"running{who}: {STAGES.get(run.stage, run.stage)}"
    if run.state == "interrupted":
        return "interrupted; the same command resumes it"
    return f"failed: {printable(run.error)}" if run.state == "failed" else "finished"


def _share(done: int, total: int) -> str:
    percent = f" ({100 * done / total:.0f} %)" if total else ""
    return f"{count_text(done)} of {count_text(total)}{percent}"


def _speed(run: RunStatus) -> str:
    if run.pixels_per_second is None or run.seconds_left is None:
        return "not known yet"
    return f"{speed_text(run.pixels_per_second)}, {time_text(run.seconds_left)} left"


def _ago(moment: str) -> str:
    seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    return f"{moment} ({time_text(max(0.0, seconds))} ago)"


def _workers_table(run: RunStatus) -> str:
    rows = [("worker", "chunks", "tiles", "speed", "peak memory")]
    rows += [
        (
            printable(worker.name),
            count_text(worker.chunks),
            count_text(worker.tiles),
            speed_text(worker.pixels_per_second),
            byte_text(worker.peak_memory),
        )
        for worker in run.workers
    ]
    return table(rows, right=frozenset({1, 2, 3, 4}))


def scenes_text(runs: Sequence[RunStatus]) -> str:
    """Several runs, one line each."""
    rows = [("folder", "state", "tiles", "speed", "left")]
    for run in runs:
        speed = "" if run.pixels_per_second is None else speed_text(run.pixels_per_second)
        left = "" if run.seconds_left is None else time_text(run.seconds_left)
        state = f"failed: {printable(run.error)}" if run.state == "failed" else run.state
        rows.append(
            (printable(run.out.rstrip("/").rpartition("/")[2]), state, _share(run.tiles_done, run.tiles), speed, left)
        )
    return table(rows, right=frozenset({2, 3, 4}))
