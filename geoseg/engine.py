"""Runs the chunks of a plan and the seams between them; what is finished is durable before it counts.

A seam can be decided as soon as all chunks around it are finished. Which runner does the work, in what order and how
often it was interrupted changes no byte of the result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice

from geoseg.cluster import Cluster
from geoseg.events import ChunkDone, OnEvent, StageStarted
from geoseg.exchange import Job, Shared
from geoseg.grid import Chunk, ChunkGrid
from geoseg.jobs import ChunkJob, Facts, SeamJob, seam_name
from geoseg.journal import Record, RunDirectory
from geoseg.plan import RunPlan
from geoseg.protocols import Model, Source, Wanted
from geoseg.runner import Runner
from geoseg.sink.parts import Part, PartsIn
from geoseg.window import Window

__all__ = ["SEAMS_AT_ONCE", "Agenda", "parts_of", "run_chunks", "work_off"]


SEAMS_AT_ONCE = 16
"""Seams of one job: half a second of work, and the scheduler has nearly as few jobs as there are chunks."""


class Agenda:
    """What is left of a run: some seams as soon as all chunks around them are finished, else the next chunk.

    It makes jobs when they are asked for and looks only at the neighbours of a chunk that finishes, so that each chunk
    of a run costs the same, however many there are.
    """

    def __init__(self, chunks: ChunkGrid, finished: Collection[str]) -> None:
        """Takes the names of the chunks and seams that are finished already."""
        self._chunks, self._finished = chunks, finished
        self._done = {(chunk.row, chunk.col) for chunk in chunks if chunk.name in finished} if finished else set()
        self._ahead: Iterator[Chunk] = (chunk for chunk in chunks if chunk.name not in finished)
        self._given: dict[str, Chunk] = {}
        self._seams: deque[tuple[int, int]] = deque()
        if self._done:
            self._open((chunk.row, chunk.col) for chunk in chunks)

    def next(self, facts: Shared[Facts]) -> Job | None:
        """The next job; None if there is none, for now or for good."""
        scene_id = facts.value.plan.scene_id
        ahead = next(self._ahead, None) if len(self._seams) < SEAMS_AT_ONCE else None
        if ahead is not None:
            self._given[ahead.name] = ahead
            return ChunkJob(chunk=ahead, scene_id=scene_id, facts=facts)
        places = tuple(self._seams.popleft() for _ in range(min(SEAMS_AT_ONCE, len(self._seams))))
        return SeamJob(places=places, scene_id=scene_id, facts=facts) if places else None

    def finish(self, name: str) -> None:
        """A chunk or a seam is finished; nothing waits for a seam."""
        chunk = self._given.pop(name, None)
        if chunk is not None:
            row, col = chunk.row, chunk.col
            self._done.add((row, col))
            self._open(((row, col), (row, col + 1), (row + 1, col), (row + 1, col + 1)))

    def _open(self, places: Iterable[tuple[int, int]]) -> None:
        """A chunk's seam lies above it and left of it: itself and at most three others have tiles there."""
        rows, cols = self._chunks.shape
        for row, col in places:
            if row < rows and col < cols and all(place in self._done for place in _up_and_left(row, col)):
                chunk = self._chunks.chunk_at(row, col)
                if chunk.seam and seam_name(chunk) not in self._finished:
                    self._seams.append((row, col))


def _up_and_left(row: int, col: int) -> Iterator[tuple[int, int]]:
    return ((r, c) for r in range(max(0, row - 1), row + 1) for c in range(max(0, col - 1), col + 1))


def run_chunks(
    plan: RunPlan,
    *,
    source: Source,
    model: Model,
    directory: RunDirectory,
    wanted: Wanted | None,
    cluster: Cluster,
    on_event: OnEvent,
) -> list[Record]:
    """Runs what the journal does not hold yet; returns the records of every chunk and seam, without their files.

    Raises:
        SourceError: The source cannot be read.
        ModelError: The net gave something that is no score.
        SinkError: Parts cannot be written.
        ClusterError: The scheduler, or all workers, are gone.
        ChunkError: Anything else that a chunk died of.
    """
    finished = directory.finished()
    started = _started(plan, finished)
    on_event(started)
    records = [_short(record) for record in finished.values()]
    agenda = Agenda(plan.chunks, finished.keys())

    def accept(done: Sequence[Record]) -> None:
        directory.accept(*done)
        for record in done:
            records.append(_short(record))
            on_event(_done(record))

    if started.done_chunks < started.total_chunks:
        with closing(cluster.runner(on_event, plan.settings.device)) as runner:
            facts = runner.share(Facts(plan=plan, source=source, wanted=wanted, model=model, parts=directory.parts))
            work_off(lambda: agenda.next(facts), agenda.finish, runner, accept)
    return records


def work_off(
    next_job: Callable[[], Job | None],
    finish: Callable[[str], None],
    runner: Runner,
    accept: Callable[[Sequence[Record]], None],
) -> None:
    """Keeps a runner busy until there is no job left.

    Args:
        next_job: Gives a job; None while there is none.
        finish: Told the name of each finished piece, which may bring new jobs about.
        runner: Does the work.
        accept: Takes the records of jobs that finished at about the same time.

    Raises:
        GeosegError: As a job raised it; what was finished before has been accepted.
    """
    while True:
        jobs = list(islice(iter(next_job, None), max(0, runner.slots - runner.in_flight)))
        if jobs:
            runner.submit(jobs)
        if not runner.in_flight:
            return
        records = runner.next_done()
        accept(records)
        for record in records:
            finish(record["name"])


def _started(plan: RunPlan, finished: Collection[str]) -> StageStarted:
    return StageStarted(
        stage="predict",
        total_tiles=plan.tiles,
        done_tiles=sum(chunk.tiles for chunk in plan.chunks if chunk.name in finished),
        total_pixels=plan.chunks.crop.size,
        total_chunks=len(plan.chunks) + sum(bool(chunk.seam) for chunk in plan.chunks),
        done_chunks=len(finished),
    )


def _short(record: Record) -> Record:
    """What the report of a run needs of a record; names and checksums of files stand in the journal."""
    return {name: value for name, value in record.items() if name != "files"}


def _done(record: Record) -> ChunkDone:
    counts = record["counts"]
    return ChunkDone(
        chunk=record["name"],
        seconds=record["seconds"],
        worker=record.get("worker", ""),
        tiles=counts.get("tiles", 0),
        pixels=counts["pixels"],
    )


def parts_of(plan: RunPlan, directory: RunDirectory, raster: str) -> PartsIn:
    """What finds the pieces of one raster; all together cover the crop, each pixel once."""
    names = [name for chunk in plan.chunks for name, _ in _parts_named(chunk, raster)]
    paths = dict(zip(names, directory.local_parts(names), strict=True))

    def parts_in(window: Window) -> Iterator[Part]:
        for chunk in plan.chunks.meeting(window):
            for name, area in _parts_named(chunk, raster):
                if area & window:
                    yield Part(path=paths[name], window=area)

    return parts_in


def _parts_named(chunk: Chunk, raster: str) -> Iterator[tuple[str, Window]]:
    """The files that hold a chunk's core and seam, and where they lie."""
    if chunk.core:
        yield f"{chunk.name}.{raster}.tif", chunk.core
    for number, area in enumerate(chunk.seam):
        yield f"{seam_name(chunk)}{number}.{raster}.tif", area
