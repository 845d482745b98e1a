"""The queue before the device: nothing is lost, nothing is mixed up, and everybody gets a turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.serve.batching import Batcher
from geoseg.serve.problems import Problem

Item = tuple[int, int]
"""Request and number within it."""


class Device:
    """Squares the numbers it is given, notes its batches, fails where it is told to, and waits until it is let go."""

    def __init__(self, *, bad: Sequence[Item] = (), held: bool = False, batch: int = 64, lanes: int = 1) -> None:
        self.batches: list[list[Item]] = []
        self.go, self.begun = threading.Event(), threading.Semaphore(0)
        self._bad, self._batch = frozenset(bad), batch
        self._free = threading.BoundedSemaphore(lanes)
        if not held:
            self.go.set()

    def __call__(self, items: Sequence[Item]) -> list[tuple[Item, int]]:
        assert 0 < len(items) <= self._batch
        assert self._free.acquire(blocking=False), "more threads than lanes are on the device"
        try:
            self.batches.append(list(items))
            self.begun.release()
            assert self.go.wait(20)
            if not self._bad.isdisjoint(items):
                raise ValueError(f"bad: {sorted(self._bad.intersection(items))}")
            return [(item, item[1] ** 2) for item in items]
        finally:
            self._free.release()


@contextmanager
def batcher(
    device: Callable[[Sequence[Item]], Sequence[tuple[Item, int]]], **options: float
) -> Iterator[Batcher[Item, tuple[Item, int]]]:
    with closing(Batcher(device, **options)) as made:  # type: ignore[arg-type]
        yield made


@settings(max_examples=40)
@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=12),
    batch=st.integers(1, 6),
    lanes=st.integers(1, 3),
    bad=st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=4),
)
def test_every_request_gets_its_own_results_and_its_own_errors(
    counts: list[int], batch: int, lanes: int, bad: set[Item]
) -> None:
    device = Device(bad=tuple(bad), batch=batch, lanes=lanes)

    def ask(request: int) -> list[tuple[Item, int] | str]:
        with queue.turn(counts[request]) as turn:
            futures = [turn.submit((request, number)) for number in range(counts[request])]
            return [str(error) if (error := future.exception(20)) else future.result() for future in futures]

    with (
        batcher(device, batch=batch, lanes=lanes, linger=0.001) as queue,
        ThreadPoolExecutor(len(counts)) as threads,
    ):
        answers = list(threads.map(ask, range(len(counts))))
    for request, answer in enumerate(answers):
        items = [(request, number) for number in range(counts[request])]
        assert answer == [f"bad: {[item]}" if item in bad else (item, item[1] ** 2) for item in items]
    tried = [item for items in device.batches for item in items]
    good = [items for items in device.batches if bad.isdisjoint(items)]
    assert {*tried} == {(request, number) for request, count in enumerate(counts) for number in range(count)}
    assert len({item for items in good for item in items}) == sum(map(len, good)), "an item ran twice"


def test_a_device_that_returns_too_little_is_an_error_and_not_a_mix_up() -> None:
    with batcher(lambda items: [(item, 0) for item in items[1:]]) as queue, queue.turn(1) as turn:
        error = turn.submit((0, 0)).exception(20)
    assert isinstance(error, ValueError)


def test_batches_take_from_each_request_in_turn() -> None:
    device = Device(held=True, batch=4)
    with batcher(device, batch=4, linger=0) as queue, queue.turn(1) as first, queue.turn(9) as large:
        running = first.submit((0, 0))
        assert device.begun.acquire(timeout=20)
        futures = [large.submit((1, number)) for number in range(9)]
        with queue.turn(2) as small, queue.turn(1) as last:
            futures += [small.submit((2, 0)), small.submit((2, 1)), last.submit((3, 0))]
            device.go.set()
            for future in [running, *futures]:
                future.result(20)
    assert device.batches[1] == [(1, 0), (2, 0), (3, 0), (1, 1)]
    assert device.batches[2] == [(2, 1), (1, 2), (1, 3), (1, 4)]


def test_a_batch_waits_for_tiles_that_are_known_to_come_and_for_no_others() -> None:
    device = Device(batch=4)
    with batcher(device, batch=4, linger=20) as queue:
        with queue.turn(2) as turn:
            futures = [turn.submit((0, number)) for number in range(2)]
            for future in futures:
                future.result(10)  # not 20: all that is known is there
        with queue.turn(3) as one, queue.turn(1) as other:
            futures = [one.submit((1, number)) for number in range(3)]
            assert not any(future.done() for future in futures)
            futures.append(other.submit((2, 0)))
            for future in futures:
                future.result(10)
    assert [len(items) for items in device.batches] == [2, 4]


def test_who_goes_away_takes_what_waits_along_and_nothing_else() -> None:
    device = Device(held=True)
    with batcher(device) as queue, queue.turn(1) as stays:
        with queue.turn(3) as leaves:
            futures = [leaves.submit((0, number)) for number in range(3)]
            assert device.begun.acquire(timeout=20)
            kept = stays.submit((1, 0))
        assert [future.cancelled() for future in futures] == [False, True, True]
        with pytest.raises(CancelledError):
            leaves.submit((0, 3))
        device.go.set()
        assert kept.result(20) == ((1, 0), 0)
    assert device.batches == [[(0, 0)], [(1, 0)]]


def test_too_much_is_sent_away_until_there_is_room_again() -> None:
    device = Device(held=True)
    with batcher(device, capacity=4) as queue, ExitStack() as inside:
        turns = [inside.enter_context(queue.turn(2)) for _ in range(2)]
        with pytest.raises(Problem) as refused, queue.turn(1):
            pass
        assert refused.value.args[0] == 503
        assert int(refused.value.headers["Retry-After"]) > 0
        future = turns[0].submit((0, 0))
        device.go.set()
        future.result(20)
        with queue.turn(1):
            pass
    with batcher(Device(), capacity=4) as queue, queue.turn(9) as alone:
        assert alone.submit((0, 0)).result(20) == ((0, 0), 0)


def test_closing_lets_those_who_are_in_finish_and_nobody_in() -> None:
    device, before = Device(held=True), set(threading.enumerate())
    queue: Batcher[Item, tuple[Item, int]] = Batcher(device)
    with queue.turn(3) as turn:
        futures: list[Future[tuple[Item, int]]] = [turn.submit((0, number)) for number in range(2)]
        closer = threading.Thread(target=queue.close)
        closer.start()
        assert _until(lambda: _is_shut(queue))
        futures.append(turn.submit((0, 2)))
        device.go.set()
        results = [future.result(20)[1] for future in futures]
    closer.join(20)
    assert not closer.is_alive()
    assert results == [0, 1, 4]
    assert set(threading.enumerate()) <= before


def _is_shut(queue: Batcher[Item, tuple[Item, int]]) -> bool:
    try:
        with queue.turn(1):
            return False
    except Problem:
        return True


def _until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()
