"""A job: one folder, whose files say what was asked for and what became of it.

- ``job.json``     what was asked, by whom, and the command that does it; there from the first moment
- ``options.yaml`` the command's options; other files that came with the request
- ``started.json`` when it was last begun
- ``run``          the run directory; or ``scores.json``; or ``polygons.json`` and the files that it tells of
- ``log.jsonl``    what the command said
- ``ended.json``   when and how it ended

A folder is filled under another name and then renamed, so there is no half of a job. No file says that a job is at
work: that is known only of processes that this service has started, and they die with it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from geoseg.errors import SinkError
from geoseg.journal import RunDirectory
from geoseg.serve.problems import without_paths
from geoseg.serve.records import State
from geoseg.serve.runs import RUN_ID
from geoseg.status import read_status
from geoseg.store.folder import FolderStore

__all__ = ["Job", "JobStatus", "now", "read_jobs", "status_of", "write_job"]


_JOB, _STARTED, _ENDED, _LOG = "job.json", "started.json", "ended.json", "log.jsonl"
_UNFINISHED, _GONE = ".new-", ".gone-"
_LOG_TAIL = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What was asked for."""

    id: str
    """Made by the service."""
    folder: Path
    """Where it stands."""
    process: str
    """``segment``, ``change``, ``vectorize`` or ``evaluate``."""
    client: str
    """Name of the token that asked."""
    created: str
    """When, ISO 8601 in UTC; also the order in which jobs are done."""
    inputs: Mapping[str, Any]
    """As the client gave them."""
    outputs: Mapping[str, Any] | None
    """Which results the client wants, as it said; None: all."""
    response: Literal["raw", "document"]
    """How it wants them."""
    command: tuple[str, ...]
    """Words of the command line of geoseg, to be run in the folder."""
    result: Literal["run", "scores.json", "polygons.json"]
    """What that leaves in the folder; a file is what it prints."""

    @property
    def has_result(self) -> bool:
        """Whether the result is there, complete."""
        if self.result == "run":
            return RunDirectory(self.folder / "run").is_finished
        return (self.folder / self.result).is_file()

    def note(self, name: Literal["started", "ended"], **facts: object) -> None:
        """Writes down, durably, when it was begun, or when and how it ended."""
        FolderStore(root=self.folder).put(f"{name}.json", json.dumps({"at": now(), **facts}).encode())

    def noted(self, name: Literal["started", "ended"]) -> dict[str, Any]:
        """What was written down; empty where nothing was."""
        try:
            found: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found

    @property
    def log(self) -> Path:
        """File of what its command says."""
        return self.folder / _LOG

    def last_error(self) -> str:
        """What its command said last that was wrong, without paths; "" where it said nothing."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - _LOG_TAIL))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        for line in reversed(lines):
            try:
                told = json.loads(line)
            except ValueError:
                continue
            if isinstance(told, dict) and told.get("event") == "error":
                return without_paths(str(told.get("message", "")))
        return ""

    def forget_result(self) -> None:
        """Removes what a dismissed job has done so far."""
        shutil.rmtree(self.folder / "run", ignore_errors=True)

    def remove(self) -> None:
        """Removes the job and its results: out of sight at once, from the disk as fast as it goes."""
        gone = self.folder.with_name(f"{_GONE}{self.id}")
        self.folder.replace(gone)
        shutil.rmtree(gone, ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """How far a job is."""

    state: State
    """As it is now."""
    message: str
    """For people."""
    progress: int
    """Percent."""
    started: str | None
    """When it was last begun."""
    finished: str | None
    """When it ended."""
    updated: str
    """When something last happened."""


def now() -> str:
    """ISO 8601, in UTC."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def write_job(job: Job, files: Mapping[str, bytes]) -> None:
    """Puts a new job on the disk, with the files that its command needs, durably and all at once.

    Raises:
        SinkError: It cannot be written.
    """
    draft = FolderStore(root=job.folder.with_name(f"{_UNFINISHED}{job.id}"))
    document = asdict(job)
    del document["folder"]
    try:
        draft.workspace()
        for name, content in {**files, _JOB: json.dumps(document, indent=1).encode()}.items():
            draft.put(name, content)
        draft.settle()
        draft.root.replace(job.folder)
        FolderStore(root=job.folder.parent).settle()
    except OSError as error:
        draft.clear()
        raise SinkError(f"{job.folder}: a job cannot be written ({error.strerror or error}); make room") from error


def read_jobs(folder: Path) -> list[Job]:
    """The jobs that stand in a folder, in the order in which they were asked for; leftovers are removed."""
    jobs = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.startswith((_UNFINISHED, _GONE)):
            shutil.rmtree(path, ignore_errors=True)
        elif re.fullmatch(RUN_ID, path.name):
            try:
                told = json.loads((path / _JOB).read_bytes())
                jobs.append(Job(folder=path, **(told | {"id": path.name, "command": tuple(told["command"])})))
            except (OSError, ValueError, TypeError, KeyError):  # not of this service's making
                continue
    return sorted(jobs, key=lambda job: (job.created, job.id))


def status_of(job: Job, *, at_work: bool) -> JobStatus:
    """How far a job is, from what stands in its folder.

    Args:
        job: Which.
        at_work: Whether a process of this service does it now.
    """
    started, ended = job.noted("started").get("at"), job.noted("ended")
    at = ended.get("at")
    if ended.get("state") == "dismissed":
        return _status("dismissed", "dismissed", 0, started, at, job)
    if (ended or not at_work) and job.has_result:
        at = at or _changed(job)
        return _status("successful", "finished", 100, started, at, job)
    if ended:
        return _status("failed", ended.get("message") or "its result is gone", 0, started, at, job)
    if not at_work:
        message = "interrupted; goes on when it is its turn" if started else "waiting"
        return _status("accepted", message, _progress(job)[0] if started else 0, started, None, job)
    progress, message, updated = _progress(job)
    told = _status("running", message, progress, started, None, job)
    return replace(told, updated=updated) if updated else told


def _status(state: State, message: str, progress: int, started: str | None, ended: str | None, job: Job) -> JobStatus:
    updated = ended or started or job.created
    return JobStatus(state=state, message=message, progress=progress, started=started, finished=ended, updated=updated)


def _changed(job: Job) -> str:
    """When the result got its name: where the service died before it could write that down."""
    name = "run/run.json" if job.result == "run" else job.result
    moment = datetime.fromtimestamp((job.folder / name).stat().st_mtime, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _progress(job: Job) -> tuple[int, str, str]:
    """Percent, what is done now, and when something last happened."""
    run = read_status(RunDirectory(job.folder / "run")) if job.result == "run" else None
    if run is None:
        return 0, "starting", ""
    percent = int(95 * run.pixels_done / run.pixels) if run.pixels else 0  # polygons and pictures come after the pixels
    told = f"{run.stage}: {run.tiles_done} of {run.tiles} tiles" if run.tiles else run.stage
    return percent, told, run.last_activity.replace("+00:00", "Z")
