"""What is known of the steps of a pipeline, durable in the hidden folder ``.steps`` of its directory.

A file for each step that was begun: what was asked of it, what its inputs were, and once it is finished what it made.
The steps' own folders hold nothing but what their commands make. A step is finished if its record says so, it is asked
for the same again, its inputs are the same, and what it made is there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from geoseg.errors import without_secrets
from geoseg.journal import RunDirectory, differences
from geoseg.store import Place, open_store
from geoseg.store.lock import holder_of, locked

__all__ = ["PipelineStatus", "Record", "StepRecords", "StepStatus", "fingerprints", "plain", "read_steps", "runs_in"]

_FOLDER, _ORDER = ".steps", "steps.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of one step."""

    state: Literal["begun", "finished"]
    """``begun`` also where it failed or was killed."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """Verb, options that decide the result, and ``made`` of the steps that it needs, as JSON values."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Files of this machine that went in, and their fingerprints."""
    files: Sequence[str] = ()
    """What it made, by names in the directory of the pipeline."""
    replaces: bool = False
    """Whether it may replace what an earlier request made."""
    made: str = ""
    """Differs each time that the step is done."""
    seconds: float = 0.0
    """Time that it took."""
    at: str = ""
    """When this was written, ISO 8601 in UTC."""

    def changes(self, asked: Mapping[str, Any]) -> list[str]:
        """What is different now from when it was finished, in words; empty: the step need not be done again."""
        found = list(differences(dict(self.asked), dict(asked)))
        now = fingerprints(self.inputs)
        return found + [f"{place} is another file now" for place, known in self.inputs.items() if now[place] != known]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStatus:
    """How far one step is."""

    name: str
    """The step's, and its folder's."""
    verb: str
    """What it does."""
    state: Literal["waiting", "running", "interrupted", "finished"]
    """``interrupted`` also where it failed or was killed."""
    seconds: float | None
    """Time that it took; None where it is not finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineStatus:
    """How far a pipeline is."""

    out: str
    """Its directory."""
    steps: tuple[StepStatus, ...]
    """In their order."""

    @property
    def state(self) -> Literal["running", "interrupted", "finished"]:
        """Of all steps together."""
        states = {step.state for step in self.steps}
        return "running" if "running" in states else "finished" if states == {"finished"} else "interrupted"

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return {"state": self.state, **asdict(self)}


class StepRecords:
    """The records of a pipeline's directory."""

    def __init__(self, out: Place) -> None:
        self.store = open_store(out)
        """The directory, with a folder for each step."""
        self._state = self.store.below(_FOLDER)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the directory and holds its lock; it goes again if nothing was put into it.

        Raises:
            SinkError: Another process is at work here, or the directory cannot be made.
        """
        with self.store.made(), self._state.made(), locked(self._state):
            yield

    @property
    def is_held(self) -> bool:
        """Whether a process is at work here."""
        return holder_of(self._state) is not None

    def order(self) -> dict[str, str]:
        """Verbs by the names of the steps, in the order of the pipeline that was last at work here."""
        return dict(self._read(_ORDER) or {})

    def note_order(self, verbs: Mapping[str, str]) -> None:
        """Writes down which steps there are."""
        self._write(_ORDER, verbs)

    def of(self, name: str) -> Record | None:
        """The record of a step; None where it was never begun."""
        told = self._read(f"{name}.json")
        with suppress(TypeError):
            return None if told is None else Record(**told)
        return None  # of another version's making

    def put(self, name: str, record: Record) -> Record:
        """Makes a record that of a step, durably, and returns it with the time."""
        record = replace(record, at=datetime.now(UTC).isoformat(timespec="milliseconds"))
        self._write(f"{name}.json", asdict(record))
        return record

    def gone(self, record: Record) -> list[str]:
        """Those of the files that a step made which are not there any more."""
        folders = {name.rpartition("/")[0] for name in record.files}
        there = {f"{folder}/{name}" for folder in folders for name in open_store(self._place(folder)).entries()}
        return [name for name in record.files if name not in there]

    def _place(self, name: str) -> str:
        return f"{str(self.store).rstrip('/')}/{name}"

    def finish(self, name: str, record: Record, *, folder: Place, files: Sequence[str], seconds: float) -> Record:
        """Notes that a step is finished, with the inputs that the runs in its folder know of."""
        runs = runs_in(folder)
        known = [(RunDirectory(run).finished_request() or {}).get("asked", {}).get("inputs", {}) for run in runs]
        local = {place.removeprefix("mask:"): fingerprint for inputs in known for place, fingerprint in inputs.items()}
        on_disk = {place: found for place, found in local.items() if found.startswith("size ") and "://" not in place}
        inputs = {place: found for place, found in on_disk.items() if not self._is_within(place)}
        made = {str(self.inside(place)).partition("/")[2] for place in (*files, *(f"{run}/run.json" for run in runs))}
        return self.put(
            name,
            replace(
                record,
                state="finished",
                inputs={**record.inputs, **inputs},
                files=sorted(made),
                replaces=False,
                made=os.urandom(8).hex(),
                seconds=round(seconds, 3),
            ),
        )

    def inputs_in(self, options: Any) -> dict[str, str]:
        """Files and folders of this machine that options name, but those of steps, with their fingerprints."""
        places = (str(Path(place).absolute()) for place in _places(options) if not self._is_within(place))
        return {place: found for place, found in fingerprints(places).items() if found}

    def inside(self, options: Any) -> Any:
        """The options with ``DIR`` in the place of the pipeline's directory."""
        if isinstance(options, dict):
            return {name: self.inside(value) for name, value in options.items()}
        if isinstance(options, list):
            return [self.inside(value) for value in options]
        text = str(options)
        return f"DIR/{text[len(self._place('')) :]}" if text.startswith(self._place("")) else options

    def _is_within(self, place: str) -> bool:
        return place.startswith((self._place(""), f"{Path(self._place('')).absolute()}/"))

    def _read(self, name: str) -> Any:
        try:
            with self._state.open(name) as file:
                return json.load(file)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None

    def _write(self, name: str, document: Mapping[str, Any]) -> None:
        self._state.put(name, json.dumps(document, indent=1).encode())
        self._state.settle()


def read_steps(out: Place) -> PipelineStatus | None:
    """How far the pipeline in a directory is; None where there is none. Takes no lock and writes nothing."""
    records = StepRecords(out)
    held, steps = records.is_held, []
    for name, verb in records.order().items():
        record = records.of(name)
        state: Literal["waiting", "running", "interrupted", "finished"] = "waiting"
        if record is not None:
            state = "finished" if record.state == "finished" else "running" if held else "interrupted"
        seconds = record.seconds if record is not None and state == "finished" else None
        steps.append(StepStatus(name=name, verb=verb, state=state, seconds=seconds))
    return PipelineStatus(out=str(records.store.href()), steps=tuple(steps)) if steps else None


def runs_in(folder: Place) -> list[Place]:
    """The finished runs that stand in a folder: its own, or those of the folders below it."""
    store = open_store(folder)
    if RunDirectory(folder).is_finished:
        return [store.href()]
    below = [store.below(name).href() for name in store.folders() if not name.startswith(".")]
    return [place for place in below if RunDirectory(place).is_finished]


def fingerprints(places: Iterable[str]) -> dict[str, str]:
    """Size and time of last change of files and folders by place; "" for what is not there.

    They are those of `geoseg.source`, so that what a run noted of its inputs can be compared; of a folder, those of its
    files.
    """
    return {place: _fingerprint(Path(place)) for place in places}


def _fingerprint(path: Path) -> str:
    try:
        if path.is_dir():
            return "; ".join(f"{each.name}: {_fingerprint(each)}" for each in sorted(path.iterdir()) if each.is_file())
        status = path.stat()
    except (OSError, ValueError):
        return ""
    return f"size {status.st_size}, modified {status.st_mtime_ns}"


def _places(options: Any) -> Iterator[str]:
    """Every text in the options that may be a path, with and without what follows its last colon."""
    if isinstance(options, Mapping):
        for value in options.values():
            yield from _places(value)
    elif isinstance(options, list | tuple):
        for value in options:
            yield from _places(value)
    elif isinstance(options, str) and "://" not in options:
        yield from filter(None, (options, options.rpartition(":")[0]))


def plain(options: Any) -> Any:
    """Options as they may be written down: without the secrets of URLs."""
    if isinstance(options, Mapping):
        return {str(name): plain(value) for name, value in options.items()}
    if isinstance(options, list | tuple):
        return [plain(value) for value in options]
    return without_secrets(options) if isinstance(options, str) else options
