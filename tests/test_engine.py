"""Chunks and seams in a run directory: the same bytes for any chunk and any number of workers, resumed or not."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geoseg.cluster import Cluster, ClusterOptions
from geoseg.decide import layers_of
from geoseg.engine import SEAMS_AT_ONCE, Agenda, parts_of, run_chunks
from geoseg.errors import ChunkError, ModelError
from geoseg.events import ChunkDone, Event, RowDone, StageStarted
from geoseg.exchange import Shared
from geoseg.jobs import ChunkJob, Facts, SeamJob, seam_name
from geoseg.journal import RunDirectory
from geoseg.plan import RunPlan, plan_run
from geoseg.protocols import Model
from geoseg.settings import Settings
from geoseg.sink.parts import PartMosaic
from geoseg.testing import ArraySource, BoxModel, LinearModel, scene_of
from geoseg.types import Pixels
from geoseg.window import whole

RANDOM = np.random.default_rng(7)
PIXELS = RANDOM.integers(1, 9999, (4, 150, 170), dtype=np.uint16)
PIXELS[:, :40, :30] = 0
SOURCE = ArraySource(PIXELS, nodata=0)


def plan_for(model: Model, *, chunk: int | None = None, workers: int = 1, tile: int = 32, overlap: int = 12) -> RunPlan:
    return plan_run(
        scene_of(SOURCE),
        model.spec,
        settings=Settings(lanes=2),
        layers=layers_of(model.spec, probabilities=True),
        tile=tile,
        overlap=overlap,
        chunk=chunk,
        workers=workers,
    )


def run(plan: RunPlan, model: Model, out: Path, workers: int = 1) -> tuple[dict[str, Pixels], list[Event]]:
    """Rasters by name, read back from the parts, and the events."""
    events: list[Event] = []
    directory = RunDirectory(out)
    with directory.locked(), Cluster(ClusterOptions(workers=workers)) as workers_of_run:
        if directory.stored_request() is None:
            directory.begin({"asked": {}, "plan": plan.pinned()})
        run_chunks(
            plan,
            source=SOURCE,
            model=model,
            directory=directory,
            wanted=None,
            cluster=workers_of_run,
            on_event=events.append,
        )
    layers = plan.layers
    rasters = {
        name: PartMosaic(
            parts_of(plan, directory, name), count=count, dtype=layers.dtype(name), nodata=layers.nodata(name)
        ).read(whole(SOURCE.geobox))
        for name, count in layers.counts.items()
    }
    return rasters, events


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pixels]:
    model = BoxModel(radius=7)
    return run(plan_for(model, chunk=9999), model, tmp_path_factory.mktemp("reference") / "out")[0]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chunk=st.integers(1, 200))
def test_chunks_change_no_byte(chunk: int, reference: dict[str, Pixels], tmp_path: Path) -> None:
    model = BoxModel(radius=7)
    out = tmp_path / os.urandom(4).hex()
    rasters, events = run(plan_for(model, chunk=chunk), model, out)
    for name, raster in rasters.items():
        np.testing.assert_array_equal(raster, reference[name])
    started = next(event for event in events if isinstance(event, StageStarted))
    assert sum(event.tiles for event in events if isinstance(event, RowDone)) == started.total_tiles
    assert sum(event.pixels for event in events if isinstance(event, RowDone)) == started.total_pixels == 150 * 170


def test_worker_processes_change_no_byte(reference: dict[str, Pixels], tmp_path: Path) -> None:
    model = BoxModel(radius=7)
    rasters, events = run(plan_for(model, workers=2), model, tmp_path / "out", workers=2)
    for name, raster in rasters.items():
        np.testing.assert_array_equal(raster, reference[name])
    assert sum(isinstance(event, ChunkDone) for event in events) >= 8
    assert sum(event.tiles for event in events if isinstance(event, RowDone)) == len(plan_for(model).grid)
    assert sum(event.pixels for event in events if isinstance(event, RowDone)) == 150 * 170


class _Stumbling(LinearModel):
    """A net that dies once it has run a number of tiles."""

    tiles_left = 10**9

    def __reduce__(self) -> tuple[Any, ...]:
        raise AssertionError("one process is enough here")

    def predict(self, batch: torch.Tensor) -> torch.Tensor:
        type(self).tiles_left -= 1
        if type(self).tiles_left < 0:
            raise OSError("the lights went out")
        return super().predict(batch)


def test_what_is_finished_is_not_done_again(tmp_path: Path) -> None:
    model = _Stumbling(np.eye(3, 4))
    plan = plan_for(model, chunk=50)
    _Stumbling.tiles_left = 30
    with pytest.raises(ChunkError, match=r"fake: chunk r0001c000. \(rows .*\) failed: the lights went out"):
        run(plan, model, tmp_path / "out")
    assert not list((tmp_path / "out" / ".run" / "parts").glob("*.partial"))
    finished = RunDirectory(tmp_path / "out").finished()
    chunks = {chunk.name: chunk for chunk in plan.chunks}
    done = [name for name in finished if name in chunks]
    assert done
    _Stumbling.tiles_left = 10**9
    before = model.tiles_run
    rasters, events = run(plan, model, tmp_path / "out")
    started = next(event for event in events if isinstance(event, StageStarted))
    assert started.done_tiles == sum(chunks[name].tiles for name in done)
    assert not {event.chunk for event in events if isinstance(event, ChunkDone)} & set(finished)
    again, _ = run(plan_for(model, chunk=9999), model, tmp_path / "whole")
    for name, raster in rasters.items():
        np.testing.assert_array_equal(raster, again[name])
    assert model.tiles_run > before


def test_errors_of_workers_come_back_as_themselves(tmp_path: Path) -> None:
    model = LinearModel(np.full((3, 4), np.nan))
    with pytest.raises(ModelError, match=r"NaN or infinity for the tile at rows"):
        run(plan_for(model, workers=2), model, tmp_path / "out", workers=2)


def test_parts_are_the_same_files_again(tmp_path: Path) -> None:
    model = BoxModel(radius=7)
    digests = []
    for name in ("one", "two"):
        run(plan_for(model, chunk=60), model, tmp_path / name)
        parts = sorted((tmp_path / name / ".run" / "parts").glob("*.tif"))
        digests.append([hashlib.sha256(part.read_bytes()).hexdigest() for part in parts])
    assert digests[0] == digests[1]


@settings(deadline=None, max_examples=40)
@given(chunk=st.integers(32, 120), slots=st.integers(1, 12), data=st.data())
def test_a_seam_is_handed_out_once_and_not_before_all_chunks_around_it(
    chunk: int, slots: int, data: st.DataObject
) -> None:
    model = LinearModel(np.eye(2, 4))
    plan = plan_for(model, chunk=chunk)
    seams = {seam_name(each): plan.chunks.contributors(each) for each in plan.chunks if each.seam}
    known = data.draw(st.sets(st.sampled_from([each.name for each in plan.chunks] + sorted(seams))))
    facts = Shared("", Facts(plan=plan, source=SOURCE, wanted=None, model=model, parts=RunDirectory("x").parts))
    agenda, finished, jobs = Agenda(plan.chunks, known), set(known), 0
    in_flight: list[list[str]] = []
    handed: list[str] = []
    while True:
        while len(in_flight) < slots and (job := agenda.next(facts)) is not None:
            assert isinstance(job, ChunkJob | SeamJob)
            names = [job.name]
            if isinstance(job, SeamJob):
                names = [seam_name(plan.chunks.chunk_at(*place)) for place in job.places]
                assert all(other.name in finished for name in names for other in seams[name])
                assert 0 < len(names) <= SEAMS_AT_ONCE
                jobs += 1
            handed += names
            in_flight.append(names)
        if not in_flight:
            break
        for name in in_flight.pop(data.draw(st.integers(0, len(in_flight) - 1))):
            finished.add(name)
            agenda.finish(name)
    missing = {each.name for each in plan.chunks} | seams.keys()
    assert sorted(handed) == sorted(missing - known)
    if slots == 1:
        assert jobs <= 1 + len(seams) // SEAMS_AT_ONCE
