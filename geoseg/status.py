"""How far a run is: noted in its journal while it lasts, read from there by anybody, at any time.

Reading takes no lock and writes nothing, so it never disturbs a run. Only `request.json`, `journal.jsonl` and, once the
run is finished, `run.json` are looked at.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from geoseg.errors import GeosegError, without_secrets
from geoseg.events import ChunkRetried, ClusterReady, Event, OnEvent, StageStarted

if TYPE_CHECKING:
    from geoseg.journal import Record, RunDirectory
    from geoseg.plan import RunPlan

__all__ = ["RunStatus", "State", "WorkerFigures", "noted", "read_status", "totals_of", "worker_figures"]

State = Literal["running", "interrupted", "failed", "finished"]

_WINDOW = 300.0  # seconds over which the speed is taken, where chunks are short
_CHUNKS_IN_WINDOW = 3  # a window shorter than a few chunks would jump with each that ends


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFigures:
    """What one worker did in a run."""

    name: str
    """Its name in the cluster, or the process's number."""
    chunks: int
    """Chunks and seams that it finished."""
    tiles: int
    """Tiles of those."""
    pixels: int
    """Pixels that those decided."""
    seconds: float
    """Time that it spent on them."""
    peak_memory: int
    """Largest resident size in bytes, as it told last."""

    @property
    def pixels_per_second(self) -> float:
        """While it was at work."""
        return self.pixels / max(self.seconds, 1e-9)

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"pixels_per_second": round(self.pixels_per_second), "seconds": round(self.seconds, 3)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """How far one run is."""

    out: str
    """The run directory."""
    state: State
    """``interrupted`` also where the process was killed."""
    process: int | None
    """Who is at work; None where nobody is."""
    host: str
    """Where that process is, or was last; "" before it said so."""
    stage: str
    """What it is or was at: ``start``, then as in `geoseg.events.StageStarted`."""
    error: str
    """What a failed run ended with."""
    scene: str
    """Id; "" before the run has begun."""
    model: str
    """Name."""
    chunks: int
    """Chunks and seams of the run."""
    chunks_done: int
    """Those that are finished and durable."""
    tiles: int
    """Tiles of the lattice that the run has to do."""
    tiles_done: int
    """Those of finished chunks."""
    pixels: int
    """Pixels that the run writes."""
    pixels_done: int
    """Those that are decided."""
    forward_passes: int
    """Tiles that the net has seen in finished chunks."""
    retries: int
    """Attempts that came to nothing."""
    part_bytes: int
    """Size of the finished chunks' parts, as they were written."""
    pixels_per_second: float | None
    """Over the last minutes; None where nothing was finished in them, or nobody is at work."""
    seconds_left: float | None
    """Until all chunks are finished, at that speed."""
    last_activity: str
    """When the journal last grew, ISO 8601 in UTC; "" if it never did."""
    dashboard: str
    """Page of the cluster at work; "" where there is none."""
    workers: tuple[WorkerFigures, ...]
    """By name."""

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"workers": [worker.document() for worker in self.workers]}


def totals_of(plan: RunPlan) -> dict[str, Any]:
    """What a run has to do, as JSON values: noted in its request, for `read_status`."""
    seams = sum(bool(chunk.seam) for chunk in plan.chunks)
    return {
        "scene": plan.scene_id,
        "chunks": len(plan.chunks) + seams,
        "tiles": plan.tiles,
        "pixels": plan.chunks.crop.size,
    }


@contextmanager
def noted(directory: RunDirectory, on_event: OnEvent) -> Iterator[OnEvent]:
    """While it is open, the journal tells who is at work, at which stage, and in the end how it ended.

    Yields:
        In place of `on_event`: passes every event on, and notes those that a second terminal wants to know.
    """

    def note(kind: str, **facts: object) -> None:
        with suppress(OSError, GeosegError):  # a disk may be full; the run itself finds out soon enough
            directory.note(kind, **facts)

    def tell(event: Event) -> None:
        if isinstance(event, StageStarted):
            note("stage", stage=event.stage)
        elif isinstance(event, ClusterReady):
            note("cluster", workers=event.workers, dashboard=event.dashboard or "")
        elif isinstance(event, ChunkRetried):
            note("retry", name=event.chunk, worker=event.worker, reason=without_secrets(event.reason))
        on_event(event)

    note("began", process=os.getpid(), host=socket.gethostname())
    try:
        yield tell
    except KeyboardInterrupt:
        note("ended", state="interrupted")
        raise
    except BaseException as error:
        text = " ".join(str(error).split()) or type(error).__name__
        note("ended", state="failed", error=without_secrets(text))
        raise
    note("ended", state="finished")


def worker_figures(records: Iterable[Record]) -> tuple[WorkerFigures, ...]:
    """What each worker did, by name, from the records of chunks and seams.

    >>> record = {"process": 7, "seconds": 2.0, "counts": {"pixels": 6, "tiles": 1}, "peak_memory": 9}
    >>> [worker] = worker_figures([record, record])
    >>> worker.name, worker.chunks, worker.pixels_per_second
    ('7', 2, 3.0)
    """
    by_name: dict[str, list[Record]] = {}
    for record in records:
        by_name.setdefault(str(record.get("worker") or record["process"]), []).append(record)
    return tuple(
        WorkerFigures(
            name=name,
            chunks=len(own),
            tiles=sum(record["counts"].get("tiles", 0) for record in own),
            pixels=sum(record["counts"]["pixels"] for record in own),
            seconds=sum(record["seconds"] for record in own),
            peak_memory=max(record["peak_memory"] for record in own),
        )
        for name, own in sorted(by_name.items())
    )


def read_status(directory: RunDirectory, *, now: datetime | None = None) -> RunStatus | None:
    """How far the run in a directory is; None where there is none.

    Args:
        directory: It need not exist.
        now: The time, with a zone; None: the clock's.
    """
    holder = directory.holder()
    request = directory.stored_request() or directory.finished_request()
    if request is None and holder is None:
        return None
    lines = directory.lines() if request is not None else []
    records = list({line["name"]: line for line in lines if "files" in line}.values())
    notes = [line for line in lines if "files" not in line]
    session = _last_session(notes)
    state, error = _state(session, finished=directory.is_finished, held=holder is not None)
    asked, totals = (request or {}).get("asked", {}), (request or {}).get("totals", {})
    pixels, done = totals.get("pixels", 0), sum(record["counts"]["pixels"] for record in records)
    speed = None
    if state == "running":
        speed = _recent_speed(records, session, now or datetime.now(UTC))
    return RunStatus(
        out=str(directory.out),
        state=state,
        process=holder if state == "running" else None,
        host=_last(session, "began", "host"),
        stage=_last(session, "stage", "stage") or "start",
        error=error,
        scene=totals.get("scene", ""),
        model=asked.get("model", {}).get("name", ""),
        chunks=totals.get("chunks", 0),
        chunks_done=len(records),
        tiles=totals.get("tiles", 0),
        tiles_done=sum(record["counts"].get("tiles", 0) for record in records),
        pixels=pixels,
        pixels_done=done,
        forward_passes=sum(record["counts"].get("forward_passes", 0) for record in records),
        retries=sum(note["kind"] == "retry" for note in notes),
        part_bytes=sum(file["size"] for record in records for file in record["files"].values()),
        pixels_per_second=speed,
        seconds_left=None if not speed else max(0, pixels - done) / speed,
        last_activity=max((_time_of(line) for line in lines), default=""),
        dashboard=_last(session, "cluster", "dashboard") if state == "running" else "",
        workers=worker_figures(records),
    )


def _last_session(notes: Sequence[Record]) -> list[Record]:
    """The notes of the process that was last at work."""
    begins = [number for number, note in enumerate(notes) if note["kind"] == "began"]
    return list(notes[begins[-1] :]) if begins else []


def _state(session: Sequence[Record], *, finished: bool, held: bool) -> tuple[State, str]:
    ended = next((note for note in session if note["kind"] == "ended"), None)
    if finished:
        return "finished", ""
    if ended is not None and ended["state"] == "failed":
        return "failed", ended["error"]
    return ("running", "") if held and ended is None else ("interrupted", "")


def _last(notes: Sequence[Record], kind: str, key: str) -> str:
    return next((str(note[key]) for note in reversed(notes) if note["kind"] == kind), "")


def _time_of(line: Record) -> str:
    """When a line was written; all are of one clock's zone, so that text sorts as time does."""
    return str(line.get("finished_at") or line["at"])


def _recent_speed(records: Sequence[Record], session: Sequence[Record], now: datetime) -> float | None:
    """Pixels per second of the chunks that this session finished in the last minutes.

    Each chunk counts whole when it ends, so the window has to hold a few of them.
    """
    if not session:
        return None
    age = (now - datetime.fromisoformat(_time_of(session[0]))).total_seconds()
    longest = max((record["seconds"] for record in records), default=0.0)
    window = min(age, max(_WINDOW, _CHUNKS_IN_WINDOW * longest))
    recent = [record for record in records if (now - datetime.fromisoformat(_time_of(record))).total_seconds() < window]
    return sum(record["counts"]["pixels"] for record in recent) / max(window, 1e-3) if recent else None
