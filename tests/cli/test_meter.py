"""Speed and time left: over a recent window, whatever an earlier run did, however the reports come in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.cli.meter import Meter, Pace
from geoseg.events import ChunkDone, ChunkRetried, RowDone, StageStarted


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def metered(**totals: int) -> tuple[Meter, Clock]:
    clock = Clock()
    meter = Meter(clock)
    meter.take(StageStarted(stage="predict", **totals))
    return meter, clock


def work(meter: Meter, clock: Clock, *, seconds: int, worker: str = "", tiles: int = 1, chunk: str = "c") -> None:
    """One row of a million pixels per second."""
    for _ in range(seconds):
        clock.now += 1
        meter.take(RowDone(chunk=chunk, tiles=tiles, pixels=1_000_000, worker=worker))


def test_tiles_of_an_earlier_run_are_done_but_are_no_speed() -> None:
    meter, clock = metered(total_tiles=1000, done_tiles=900)
    assert (meter.tiles, meter.pixels_per_second, meter.seconds_left) == (900, 0.0, None)
    work(meter, clock, seconds=10)
    assert meter.tiles == 910
    assert meter.pixels_per_second == pytest.approx(1e6)
    assert meter.seconds_left == pytest.approx(90.0)


def test_the_time_left_follows_a_change_of_speed_within_the_window() -> None:
    meter, clock = metered(total_tiles=100_000)
    work(meter, clock, seconds=3600)
    work(meter, clock, seconds=70, tiles=10)
    assert meter.seconds_left == pytest.approx((100_000 - 3600 - 700) / 10, rel=0.05)


def test_a_run_that_stands_still_gets_slower_and_slower() -> None:
    meter, clock = metered(total_tiles=1000)
    work(meter, clock, seconds=100)
    fresh = meter.pixels_per_second
    clock.now += 600
    assert meter.pixels_per_second < fresh / 5


def test_a_chunk_that_begins_anew_is_counted_once() -> None:
    meter, clock = metered(total_tiles=20, total_chunks=2)
    work(meter, clock, seconds=4, worker="a", chunk="r0c0")
    meter.take(ChunkRetried(chunk="r0c0", worker="a", reason="the worker died"))
    work(meter, clock, seconds=2, worker="b", chunk="r0c0")
    meter.take(ChunkDone(chunk="r0c0", seconds=9.0, worker="b", tiles=10, pixels=10))
    assert (meter.tiles, meter.chunks) == (10, 1)


def test_a_finished_chunk_counts_whole_even_where_rows_were_not_heard_of() -> None:
    meter, _ = metered(total_tiles=20, total_chunks=2, done_chunks=1, done_tiles=10)
    meter.take(ChunkDone(chunk="r0c1", seconds=9.0, tiles=10, pixels=10))
    assert (meter.tiles, meter.chunks, meter.seconds_left) == (20, 2, None)


def test_workers_are_listed_the_slowest_first() -> None:
    meter, clock = metered(total_tiles=1000)
    for second in range(30):
        clock.now += 1
        meter.take(RowDone(chunk="f", tiles=1, pixels=900_000, worker="fast"))
        if second % 3 == 2:
            meter.take(RowDone(chunk="s", tiles=1, pixels=900_000, worker="slow"))
    meter.take(ChunkDone(chunk="f", seconds=30.0, worker="fast", tiles=30, pixels=1))
    slow, fast = meter.workers
    assert (slow.name, slow.chunks, fast.name, fast.chunks) == ("slow", 0, "fast", 1)
    assert slow.pixels_per_second == pytest.approx(300_000, rel=0.01)
    assert fast.pixels_per_second == pytest.approx(900_000, rel=0.01)


def test_another_stage_begins_at_nothing() -> None:
    meter, clock = metered(total_tiles=10)
    work(meter, clock, seconds=10)
    meter.take(StageStarted(stage="vectorize"))
    assert (meter.stage, meter.tiles, meter.pixels_per_second, meter.seconds_left, meter.workers) == (
        "vectorize", 0, 0.0, None, [],
    )  # fmt: skip


@given(
    every=st.floats(0.01, 500.0),
    amount=st.integers(1, 10**9),
    steps=st.integers(1, 200),
    wait=st.floats(0.0, 1.0),
)
def test_a_steady_pace_is_told_as_it_is(every: float, amount: int, steps: int, wait: float) -> None:
    """However rare the reports are, and whenever one looks between two of them."""
    pace = Pace(since=0.0)
    for step in range(1, steps + 1):
        pace.add(amount, now=step * every)
    assert pace.per_second(now=(steps + wait) * every) == pytest.approx(amount / every, rel=1e-6)
    assert pace.total == amount * steps


@given(steps=st.integers(0, 3000))
def test_a_pace_remembers_no_more_than_its_window(steps: int) -> None:
    pace = Pace(since=0.0)
    for step in range(steps):
        pace.add(1, now=float(step))
    assert len(pace._steps) <= 63
