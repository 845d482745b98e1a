"""Work of many requests, run together: one queue before the device, from which every request takes its turn.

A GPU does sixteen tiles in little more than the time of one, and tiles of sixteen requests fill a batch as well as
those of one. A request says first how many tiles it will bring, so that one too many is sent away before anything is
read for it. A batch takes one tile of each request in turn: a large window does not hold up a small one. It waits a few
milliseconds for more, but only for tiles that are known to come, and never where batches are of one tile, as on most
CPUs.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Generic, TypeVar

from geoseg.serve.problems import Problem

__all__ = ["Batcher", "Turn"]

_ItemT = TypeVar("_ItemT")
_ResultT = TypeVar("_ResultT")

_LINGER = 0.004
"""Seconds that a batch waits for tiles that are known to come."""
_RETRY_AFTER = 2
_LAST_WORDS = 10.0
"""Seconds that the threads have to end when the queue is closed."""


class Batcher(Generic[_ItemT, _ResultT]):
    """Runs items in batches, in threads of its own: nobody else touches what runs them."""

    def __init__(
        self,
        run: Callable[[Sequence[_ItemT]], Sequence[_ResultT]],
        *,
        batch: int = 1,
        lanes: int = 1,
        capacity: int = 256,
        linger: float = _LINGER,
    ) -> None:
        """Starts the threads.

        Args:
            run: Gives one result per item, in their order. It is called by `lanes` threads.
            batch: Items per call, at most.
            lanes: Calls at once.
            capacity: Items that may be waited for, of all requests together.
            linger: Seconds that a batch waits to be full.
        """
        self._run, self._batch, self._capacity, self._linger = run, batch, capacity, linger
        self._changed = threading.Condition()
        self._entered: set[Turn[_ItemT, _ResultT]] = set()
        self._queue: deque[Turn[_ItemT, _ResultT]] = deque()
        self._running = 0
        self._closed = False
        self._threads = [threading.Thread(target=self._work, name="geoseg-device", daemon=True) for _ in range(lanes)]
        for thread in self._threads:
            thread.start()

    @contextmanager
    def turn(self, items: int) -> Iterator[Turn[_ItemT, _ResultT]]:
        """A place in the queue for a request that brings up to so many items; what still waits at the end is dropped.

        Raises:
            Problem: 503, because too much waits already, or the queue is closed.
        """
        entered: Turn[_ItemT, _ResultT] = Turn(self._changed, self._queue, items)
        with self._changed:
            if self._closed:
                raise _unavailable("the model is being put away")
            ahead = sum(turn.left for turn in self._entered)
            if ahead and ahead + items > self._capacity:
                raise _unavailable(f"{ahead} tiles wait already")
            self._entered.add(entered)
        try:
            yield entered
        finally:
            entered.cancel()
            with self._changed:
                self._entered.discard(entered)
                self._changed.notify_all()

    def close(self) -> None:
        """Lets nobody in any more, and returns when those who are in have left."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(_LAST_WORDS)

    # --- in the threads ---

    def _work(self) -> None:
        while taken := self._take():
            self._do(taken)
            with self._changed:
                self._running -= len(taken)

    def _take(self) -> list[tuple[_ItemT, Future[_ResultT]]]:
        """The next batch; empty when there will be none."""
        with self._changed:
            while True:
                while not self._queue:
                    if self._closed and not self._entered:
                        return []
                    self._changed.wait()
                self._wait_for_more()
                taken: list[tuple[_ItemT, Future[_ResultT]]] = []
                while self._queue and len(taken) < self._batch:
                    turn = self._queue.popleft()
                    taken.append(turn.pop())
                    if turn.waiting:
                        self._queue.append(turn)
                if taken:
                    self._running += len(taken)
                    return taken

    def _wait_for_more(self) -> None:
        end = time.monotonic() + self._linger
        while self._more_may_come() and (left := end - time.monotonic()) > 0:
            self._changed.wait(left)

    def _more_may_come(self) -> bool:
        """Whether the batch is not full yet, and somebody who is in has not brought everything."""
        waiting = sum(len(turn.waiting) for turn in self._queue)
        known = sum(turn.left for turn in self._entered)
        return 0 < waiting < self._batch and waiting + self._running < known

    def _do(self, taken: Sequence[tuple[_ItemT, Future[_ResultT]]]) -> None:
        """Runs a batch; one that fails is run again item by item, so that an error is only told to whose it is."""
        try:
            results = self._run([item for item, _ in taken])
            pairs = list(zip(taken, results, strict=True))
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            if len(taken) > 1:
                for one in taken:
                    self._do([one])
            else:
                taken[0][1].set_exception(error)
            return
        for (_, future), result in pairs:
            future.set_result(result)


class Turn(Generic[_ItemT, _ResultT]):
    """One request's place in the queue. Its items may come from several threads."""

    def __init__(self, changed: threading.Condition, queue: deque[Turn[_ItemT, _ResultT]], items: int) -> None:
        self.waiting: deque[tuple[_ItemT, Future[_ResultT]]] = deque()
        """Items that no batch has taken yet."""
        self.left = items
        """Items that are waited for: still to come, waiting or running."""
        self._changed, self._queue, self._over = changed, queue, False

    def submit(self, item: _ItemT) -> Future[_ResultT]:
        """Puts an item into the queue.

        Raises:
            CancelledError: The turn is over.
        """
        future: Future[_ResultT] = Future()
        future.add_done_callback(self._count)
        with self._changed:
            if self._over:
                raise CancelledError
            if not self.waiting:
                self._queue.append(self)
            self.waiting.append((item, future))
            self._changed.notify_all()
        return future

    def pop(self) -> tuple[_ItemT, Future[_ResultT]]:
        """The item that has waited longest, which now runs; the lock is held."""
        item, future = self.waiting.popleft()
        future.set_running_or_notify_cancel()
        return item, future

    def cancel(self) -> None:
        """Ends the turn: what waits is dropped, and whoever waits for it gets a `CancelledError`."""
        with self._changed:
            self._over = True
            if self.waiting:
                self._queue.remove(self)
            dropped = list(self.waiting)
            self.waiting.clear()
            self._changed.notify_all()
        for _, future in dropped:
            future.cancel()

    def _count(self, _done: Future[_ResultT]) -> None:
        with self._changed:
            self.left = max(0, self.left - 1)


def _unavailable(why: str) -> Problem:
    return Problem(503, "Too busy", f"{why}; ask again in a moment", headers={"Retry-After": str(_RETRY_AFTER)})
