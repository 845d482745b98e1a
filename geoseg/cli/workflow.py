"""``geoseg run``: the steps of a pipeline, one after the other, each in a folder of its own."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import click

from geoseg.cli.messages import say, set_up_messages
from geoseg.cli.options import json_option
from geoseg.cli.outcome import DONE, FAILED, INTERRUPTED, exit_code, say_error
from geoseg.cli.signals import Signals
from geoseg.cli.steps import Manner, Prepared, prepare
from geoseg.cli.text import table
from geoseg.errors import ConfigError
from geoseg.journal import RunDirectory
from geoseg.step_record import Record, StepRecords, plain, runs_in
from geoseg.workflow import Workflow, read_workflow

__all__ = ["run_pipeline"]

Standing: TypeAlias = Literal["new", "begun", "changed", "finished"]
_WOULD: dict[Standing, str] = {"new": "to do", "begun": "goes on", "changed": "to do again", "finished": "finished"}


@dataclass(slots=True, kw_only=True)
class _Task:
    """A step of a call: what is to be done, and what became of it."""

    prepared: Prepared
    standing: Standing
    """Before the call."""
    why: str = ""
    """What changed."""
    state: str = "waiting"
    seconds: float = 0.0
    result: Any = None
    """What the step's command says in JSON."""
    error: str = ""
    record: Record | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The step's."""
        return self.prepared.step.name

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        told = {"name": self.name, "verb": self.prepared.step.verb, "state": self.state, "seconds": self.seconds}
        told |= {"outputs": dict(self.prepared.outputs)}
        told |= {"result": self.result} if self.result is not None else {}
        return told | ({"error": self.error} if self.error else {})


def _assignments(ctx: click.Context, param: click.Parameter, given: Sequence[str]) -> dict[str, str]:  # noqa: ARG001 - click's signature
    found: dict[str, str] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise click.BadParameter(f"{text}: write NAME=VALUE")
        if name in found:
            raise click.BadParameter(f"{name}: is given twice")
        found[name] = value
    return found


@click.command("run")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("-o", "--out", required=True, metavar="DIR", help="Directory with a folder for each step, or s3://.")
@click.option("--set", "given", multiple=True, callback=_assignments, metavar="NAME=VALUE", help="Value of a variable.")
@click.option("--from", "first", metavar="STEP", help="Do this step and all that follow again.")
@click.option("--overwrite", is_flag=True, help="Do steps again whose options or inputs changed, and what needs them.")
@click.option("--restart", is_flag=True, help="Drop what an interrupted step left, if it was asked something else.")
@click.option("--dry-run", is_flag=True, help="Check everything, say what would be done, and stop.")
@json_option
@click.option("--log-json", is_flag=True, help="Messages as JSON, one object per line, and no progress bar.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors.")
@click.option("-v", "--verbose", is_flag=True, help="More about what happens.")
@click.option("--debug", is_flag=True, help="Tracebacks and library messages.")
def run_pipeline(
    file: Path,
    *,
    out: str,
    given: Mapping[str, str],
    first: str | None,
    overwrite: bool,
    restart: bool,
    dry_run: bool,
    as_json: bool,
    **messages: bool,
) -> int:
    """Carry out the steps of the pipeline in FILE, a YAML file, each in a folder of its own in DIR.

    The same command again goes on where it stopped: finished steps are left alone, a run in the middle resumes. A step
    that fails ends the pipeline with its exit code.
    """
    if messages["quiet"] and messages["verbose"]:
        raise ConfigError("--quiet and --verbose exclude each other")
    set_up_messages(**{"as_json" if name == "log_json" else name: value for name, value in messages.items()})
    workflow = read_workflow(file, given)
    records = StepRecords(out if "://" in out else Path.cwd() if Path(out) == Path() else Path(out))
    if dry_run:
        tasks = _tasks(workflow, records, first=first, overwrite=overwrite)
        click.echo(_report(workflow, out, tasks, DONE) if as_json else _plan_text(tasks))
        return DONE
    manner = Manner(messages={**messages, "json_output": as_json}, restart=restart)
    with Signals() as signals, records.locked():
        signals.hint = "interrupted; the same command goes on"
        tasks = _tasks(workflow, records, first=first, overwrite=overwrite)
        records.note_order({task.name: task.prepared.step.verb for task in tasks})
        _mark(tasks, records, first)
        code = _carry_out(tasks, records, manner, signals)
    if as_json:
        click.echo(_report(workflow, out, tasks, code))
    elif code == DONE:
        say(", ".join(f"{task.name} {task.state}" for task in tasks), level=logging.WARNING, event="summary")
    return code


def _tasks(workflow: Workflow, records: StepRecords, *, first: str | None, overwrite: bool) -> list[_Task]:
    """Every step, found good, and how it stands.

    Raises:
        ConfigError: A step is wrong, or changed and is not to be done again.
    """
    names = [step.name for step in workflow.steps]
    if first is not None and first not in names:
        raise ConfigError(f"{workflow.path}: --from {first}: no such step; there are {', '.join(names)}")
    tasks: list[_Task] = []
    for step in workflow.steps:
        outputs = {task.name: task.prepared.outputs for task in tasks}
        task = _stands(prepare(step, out=records.store, outputs=outputs), records, {each.name: each for each in tasks})
        tasks.append(task)
        if first is not None and names.index(step.name) >= names.index(first):
            task.standing = "new" if task.standing == "new" else "changed"
        elif first is not None and task.standing != "finished":
            raise ConfigError(f"{step.origin}: is not finished, so --from {first} cannot begin there; leave it out")
        elif task.standing == "changed" and not overwrite:
            raise ConfigError(
                f"{step.origin}: is finished, but not as it is asked for now ({task.why}); --overwrite does it again, "
                "or choose another --out"
            )
    return tasks


def _stands(prepared: Prepared, records: StepRecords, before: Mapping[str, _Task]) -> _Task:
    record = records.of(prepared.step.name)
    if record is None:
        return _Task(prepared=prepared, standing="new")
    if record.state == "begun":
        return _Task(prepared=prepared, standing="begun", record=record)
    waiting = [name for name in prepared.step.needs if before[name].standing != "finished"]
    changes = [f"step {name} is to be done first" for name in waiting] or record.changes(
        _asked(prepared, before, records)
    )
    gone = () if changes else records.gone(record)
    standing: Standing = "changed" if changes else "begun" if gone else "finished"
    why = [*changes, *(f"{place} is gone" for place in gone)]
    return _Task(prepared=prepared, standing=standing, why="; ".join(why[:3]), record=record)


def _asked(prepared: Prepared, tasks: Mapping[str, _Task], records: StepRecords) -> dict[str, Any]:
    """What decides the step's result, as JSON values; the same wherever the pipeline's directory stands."""
    needs = {name: task.record.made for name in prepared.step.needs if (task := tasks[name]).record is not None}
    options = json.loads(json.dumps(dict(prepared.asked), default=str))
    return {"verb": prepared.step.verb, "options": records.inside(options), "steps": needs}


def _mark(tasks: Sequence[_Task], records: StepRecords, first: str | None) -> None:
    """Takes back, durably, that steps are finished which are to be done again: a killed call needs not say it twice."""
    for task in tasks:
        is_gone = task.standing == "begun" and task.record is not None and task.record.state == "finished"
        if task.standing == "changed" or is_gone:
            task.record = records.put(task.name, Record(state="begun", replaces=True))
            for run in runs_in(task.prepared.folder) if first is not None or is_gone else ():
                RunDirectory(run).distrust()


def _carry_out(tasks: Sequence[_Task], records: StepRecords, manner: Manner, signals: Signals) -> int:
    """Does what is not finished, until a step fails; returns the exit code."""
    by_name = {task.name: task for task in tasks}
    for task in tasks:
        if task.standing == "finished":
            task.state = "skipped"
            task.seconds = task.record.seconds if task.record else 0.0
            continue
        try:
            code = _one(task, records, manner, by_name)
        except KeyboardInterrupt as error:
            signals.hint = ""
            code = exit_code(error, began=True)
        if code != DONE:
            task.state = "interrupted" if code > INTERRUPTED else "failed"
            text = f"step {task.name} {task.state}; the same command goes on there"
            say(text, level=logging.ERROR, event="stopped", step=task.name)
            return code
    return DONE


def _one(task: _Task, records: StepRecords, manner: Manner, by_name: Mapping[str, _Task]) -> int:
    replaces = task.record is not None and task.record.replaces
    record = Record(
        state="begun",
        asked=_asked(task.prepared, by_name, records),
        inputs=records.inputs_in(task.prepared.inputs),
        replaces=replaces,
    )
    records.put(task.name, record)
    say(f"step {task.name}: {task.prepared.step.verb}", event="step", step=task.name, verb=task.prepared.step.verb)
    began = time.perf_counter()
    code = _attempted(task, manner, replaces=replaces)
    task.seconds = round(time.perf_counter() - began, 3)
    if code == DONE:
        folder, files = task.prepared.folder, task.prepared.files
        task.record = records.finish(task.name, record, folder=folder, files=files, seconds=task.seconds)
        task.state = "done"
    return code


def _attempted(task: _Task, manner: Manner, *, replaces: bool) -> int:
    """The exit code of a step, whatever ends it; its command has said what went wrong."""
    told = Manner(
        messages=manner.messages,
        replaces=replaces,
        restart=manner.restart and task.standing == "begun",
    )
    captured = io.StringIO()
    try:
        with redirect_stdout(captured) if manner.messages["json_output"] else nullcontext():
            code = task.prepared.carry_out(told)
    except Exception as error:  # noqa: BLE001 - a step ends as a line, and the steps before it stay
        task.error = say_error(error, debug=manner.messages["debug"], about=f"step {task.name}")
        return exit_code(error, began=False) or FAILED
    task.result = json.loads(captured.getvalue()) if captured.getvalue().strip() else None
    task.error = task.result.get("error", "") if isinstance(task.result, dict) else ""
    return code


def _report(workflow: Workflow, out: str, tasks: Sequence[_Task], code: int) -> str:
    """The document of ``--json``."""
    steps = [task.document() | {"standing": task.standing} for task in tasks]
    told = {"pipeline": str(workflow.path), "out": out, "variables": plain(workflow.variables)}
    return json.dumps({**told, "steps": steps, "exit_code": code}, indent=2, default=str)


def _plan_text(tasks: Sequence[_Task]) -> str:
    rows = [("step", "verb", "state", "folder")]
    for task in tasks:
        why = f" ({task.why})" if task.why else ""
        rows.append((task.name, task.prepared.step.verb, _WOULD[task.standing] + why, str(task.prepared.folder)))
    return table(rows)
