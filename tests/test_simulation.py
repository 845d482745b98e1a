"""The simulated cluster against closed forms: one worker, no scheduler, nothing but scheduler, disk or tail."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.measure import Bench
from benchmarks.scheduling import CLIENT_PER_JOB, SCHEDULER_PER_JOB
from benchmarks.simulation import CLASSES, Costs, costs_of, limits_of, plan_for, simulate
from geoseg.engine import SEAMS_AT_ONCE
from geoseg.plan import RunPlan

TILE = 64


def plan(tiles: int, *, overlap: int = 0, chunk: int = 1) -> RunPlan:
    """`tiles` x `tiles` of the lattice, in chunks of `chunk` x `chunk`."""
    stride = TILE - overlap
    return plan_for(1, side=tiles * stride + overlap, tile=TILE, overlap=overlap, chunk=chunk * stride)


def test_one_worker_does_everything_one_after_the_other() -> None:
    costs = Costs(tile=2.0, chunk=3.0, seam=1.0, seam_pixel=0.25, client=0.01)
    run = plan(6, overlap=16, chunk=2)
    seams = [sum(area.size for area in chunk.seam) for chunk in run.chunks if chunk.seam]
    expected = 36 * 2.0 + 9 * 3.0 + len(seams) * 1.0 + sum(seams) * 0.25
    assert len(seams) == 8
    assert simulate(run, 1, costs).seconds == pytest.approx(expected + 0.01)  # sent before, noted after
    assert simulate(run, 1, Costs(tile=2.0, start=5.0)).seconds == 36 * 2.0 + 5.0


@pytest.mark.parametrize("workers", [1, 2, 4, 16, 64])
def test_equal_work_that_divides_is_shared_out_perfectly(workers: int) -> None:
    found = simulate(plan(16, chunk=2), workers, Costs(tile=0.5))
    assert found.seconds == pytest.approx(256 * 0.5 / workers)
    assert found.efficiency == pytest.approx(1.0)


def test_work_that_does_not_divide_leaves_a_tail() -> None:
    run = plan(10, chunk=2)  # 25 chunks: 24 workers need as long as 13
    assert simulate(run, 24, Costs(tile=1.0)).efficiency == pytest.approx(25 / 48)
    limits = limits_of(run, 24, Costs(tile=1.0))
    assert next(iter(limits)).startswith("tail")
    assert limits["tail: chunks are no multiple of workers"] == pytest.approx(23 / 48)
    assert all(won == 0 for name, won in limits.items() if not name.startswith("tail"))


@pytest.mark.parametrize("busy", ["client", "scheduler"])
@pytest.mark.parametrize("workers", [1, 7, 500])
def test_jobs_without_work_take_what_the_busier_of_client_and_scheduler_takes(workers: int, busy: str) -> None:
    run = plan(12, overlap=16)
    seams = sum(bool(chunk.seam) for chunk in run.chunks)
    seconds = simulate(run, workers, Costs(tile=0.0, **{busy: 0.004})).seconds
    least, most = len(run.chunks) + math.ceil(seams / SEAMS_AT_ONCE), len(run.chunks) + seams
    assert 0.004 * least - 1e-9 <= seconds <= 0.004 * most + 1e-9
    both = simulate(run, workers, Costs(tile=0.0, client=0.003, scheduler=0.003)).seconds
    assert 0.003 * least < both < 0.006 * most + 1e-9
    if workers == 500:
        assert both < 0.0045 * most, "they work beside each other"
    if workers == 1:
        assert seconds < 0.004 * 1.2 * least, "seams share jobs"


def test_a_narrow_file_system_takes_its_bytes_one_after_the_other() -> None:
    run = plan(8, overlap=16, chunk=2)
    costs = Costs(tile=0.0, bandwidth=1e6, stored=0.5)
    shared = run.chunks.pixels_shared * (4 * CLASSES + 1)
    read_again = 2 * sum(area.size for chunk in run.chunks for area in chunk.seam) * (4 * CLASSES + 1)
    written = run.chunks.crop.size * 2
    expected = 0.5 * (run.bytes_to_read + written) + shared + read_again
    assert simulate(run, 5, costs).seconds == pytest.approx(expected / 1e6)


@settings(max_examples=30)
@given(tiles=st.integers(1, 12), chunk=st.integers(1, 5), workers=st.integers(1, 40))
def test_any_run_keeps_grahams_bounds(tiles: int, chunk: int, workers: int) -> None:
    run = plan(tiles, chunk=chunk)
    longest = max(each.tiles for each in run.chunks)
    seconds = simulate(run, workers, Costs(tile=1.0)).seconds
    least = max(run.tiles / workers, longest)
    assert least - 1e-9 <= seconds <= run.tiles / workers + (1 - 1 / workers) * longest + 1e-9


@settings(max_examples=20)
@given(
    job=st.floats(0, 0.1), chunk=st.floats(0, 1), seam=st.floats(0, 1), start=st.floats(0, 5), workers=st.integers(1, 9)
)
def test_no_cost_makes_a_run_faster_than_its_forward_passes(
    job: float, chunk: float, seam: float, start: float, workers: int
) -> None:
    run = plan(5, overlap=16, chunk=2)
    found = simulate(
        run, workers, Costs(tile=1.0, client=job, scheduler=job / 2, chunk=chunk, seam=seam, start=start, bandwidth=1e8)
    )
    assert 0 < found.efficiency <= 1
    assert math.isfinite(found.seconds)


def test_the_planner_gives_1024_workers_several_chunks_each() -> None:
    for workers in (64, 256, 1024):
        chunks = plan_for(workers).chunks
        assert len(chunks) >= 4 * workers
        assert sum(chunk.tiles for chunk in chunks) == 261**2


def test_costs_that_are_given_count_more_than_measured_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.simulation.measured", lambda bench: {"chunk": 0.5, "seam": 0.1})
    bench = Bench(place=tmp_path)
    assert costs_of(bench)[0] == Costs(
        tile=0.0, chunk=0.5, seam=0.1, client=0.0025, scheduler=0.0025, start=10.0, bandwidth=10e9
    )
    rows = [
        {"benchmark": "scheduling", "what": what, "value": value, "unit": "ms"}
        for what, value in [("one chunk", 4.0), (CLIENT_PER_JOB, 2.0), (SCHEDULER_PER_JOB, 1.0)]
    ]
    (tmp_path / "results.json").write_text(json.dumps({"figures": rows}))
    (tmp_path / "costs.json").write_text(json.dumps({"seam": 0.25}))
    costs, origin = costs_of(bench)
    assert (costs.client, costs.scheduler, costs.seam, costs.chunk) == (0.002, 0.001, 0.25, 0.5)
    assert origin == "jobs measured here, scheduling as benchmarked, costs.json as given"
    (tmp_path / "costs.json").write_text(json.dumps({"petrol": 1}))
    with pytest.raises(ValueError, match="no cost named petrol"):
        costs_of(bench)
