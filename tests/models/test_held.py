"""What a process holds is made once, and let go when asked."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from geoseg.models.held import hold, passing


def test_one_build_however_many_threads_ask() -> None:
    built: list[int] = []
    gate = threading.Barrier(8)

    def build() -> object:
        built.append(1)
        time.sleep(0.02)
        return object()

    def ask(_: int) -> object:
        gate.wait()
        return hold(("test", "once"), build)

    with passing(), ThreadPoolExecutor(8) as pool:
        assert len(set(map(id, pool.map(ask, range(8))))) == 1
    assert built == [1]


def test_a_build_that_fails_is_tried_again() -> None:
    def fail() -> object:
        raise ValueError("no")

    with passing():
        with pytest.raises(ValueError, match="no"):
            hold(("test", "fails"), fail)
        assert hold(("test", "fails"), lambda: 3) == 3


def test_what_was_made_in_passing_goes_and_what_was_there_stays() -> None:
    with passing():
        hold(("test", "outer"), lambda: 1)
        with passing():
            hold(("test", "inner"), lambda: 1)
        assert hold(("test", "outer"), lambda: 2) == 1
        assert hold(("test", "inner"), lambda: 2) == 2


def test_only_so_many_are_held() -> None:
    with passing():
        for number in range(40):
            hold(("test", number), lambda: "first")
        assert hold(("test", 39), lambda: "second") == "first"
        assert hold(("test", 0), lambda: "second") == "second"
