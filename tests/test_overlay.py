"""Scenes laid over one another: an oracle that looks at one pixel at a time."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.overlay import Overlay, cloud_like, in_order
from geoseg.spec import ClassInfo
from geoseg.window import Window

NODATA, CLOUD, NOWHERE = 255, 5, 65535
SHAPE = (3, 4)


@st.composite
def scenes(draw: st.DrawFn) -> list[tuple[Any, Any, Any]]:
    """Labels, confidence and validity of a few scenes; few values, so that they often agree."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return [
        (
            random.choice([1, 2, CLOUD], SHAPE).astype(np.uint8),
            random.choice([0, 100, 250], SHAPE).astype(np.uint8),
            random.random(SHAPE) < draw(st.sampled_from([0.0, 0.5, 1.0])),
        )
        for _ in range(draw(st.integers(0, 5)))
    ]


def laid(stack: list[tuple[Any, Any, Any]], hidden: frozenset[int] | None, *, confident: bool = True) -> Overlay:
    overlay = Overlay(SHAPE, nodata=NODATA, dtype="uint8", hidden=hidden, nowhere=NOWHERE)
    for number, (labels, confidence, valid) in enumerate(stack):
        for half in (Window.from_bounds(0, 0, 3, 1), Window.from_bounds(0, 1, 3, 4)):
            part = half.slices
            overlay.lay(half, number, labels[part], confidence[part] if confident else None, valid[part])
    return overlay


def chosen(stack: list[tuple[Any, Any, Any]], at: tuple[int, int], hidden: frozenset[int] | None) -> int | None:
    """Which scene a pixel is from, by the words of the rule."""
    there = [number for number, (_, _, valid) in enumerate(stack) if valid[at]]
    if hidden is None:
        return there[0] if there else None
    clear = [number for number in there if stack[number][0][at] not in hidden]
    return max(clear, key=lambda number: (stack[number][1][at], -number)) if clear else there[0] if there else None


@given(stack=scenes(), hidden=st.sampled_from([None, frozenset({CLOUD}), frozenset()]))
def test_every_pixel_is_from_the_scene_that_the_rule_names(
    stack: list[tuple[Any, Any, Any]], hidden: frozenset[int] | None
) -> None:
    overlay = laid(stack, hidden)
    for at in np.ndindex(*SHAPE):
        number = chosen(stack, at, hidden)
        wanted = (NODATA, 255, NOWHERE) if number is None else (stack[number][0][at], stack[number][1][at], number)
        assert [int(raster[at]) for raster in (overlay.labels, overlay.confidence, overlay.scene)] == list(wanted)


@given(stack=scenes(), hidden=st.sampled_from([None, frozenset({CLOUD})]))
def test_what_is_settled_is_changed_by_no_further_scene(
    stack: list[tuple[Any, Any, Any]], hidden: frozenset[int] | None
) -> None:
    for shown in range(len(stack) + 1):
        overlay = laid(stack[:shown], hidden)
        if overlay.is_settled:
            whole = laid(stack, hidden)
            for raster in ("labels", "confidence", "scene"):
                assert np.array_equal(getattr(overlay, raster), getattr(whole, raster))


def test_a_window_is_settled_when_nothing_can_be_better() -> None:
    full: npt.NDArray[np.bool_] = np.ones(SHAPE, bool)
    clear, sure = np.full(SHAPE, 1, np.uint8), np.full(SHAPE, 250, np.uint8)
    assert not laid([], None).is_settled
    assert laid([(clear, sure - 100, full)], None).is_settled
    assert laid([(clear, sure, full)], frozenset({CLOUD})).is_settled
    assert not laid([(clear, sure - 1, full)], frozenset({CLOUD})).is_settled
    assert not laid([(clear + 4, sure, full)], frozenset({CLOUD})).is_settled


def test_without_confidence_the_first_clear_scene_counts() -> None:
    full = np.ones(SHAPE, bool)
    cloud, one, two = (np.full(SHAPE, value, np.uint8) for value in (CLOUD, 1, 2))
    sure = np.full(SHAPE, 250, np.uint8)
    overlay = laid(
        [(cloud, sure, full), (one, sure - 200, full), (two, sure, full)], frozenset({CLOUD}), confident=False
    )
    assert (overlay.scene == 1).all()
    assert (overlay.confidence == 255).all()


@pytest.mark.parametrize(
    ("names", "hidden"),
    [
        (["water", "vegetation", "bare-or-built", "snow", "cloud"], {4}),
        (["clear", "thick cloud", "thin cloud", "cloud shadow"], {1, 2, 3}),
        (["cloud_shadows", "vegetation", "unclassified", "cirrus", "cloud_high_probability"], {0, 3, 4}),
        (["cloud-free", "cloudy", "shadow"], {1, 2}),
        (["building", "shadow", "cloudberry", "scloud"], set()),
        (["NotCloud", "no_cloud", "CLOUD"], {2}),
    ],
)
def test_classes_that_hide_the_ground_are_known_by_name(names: list[str], hidden: set[int]) -> None:
    assert cloud_like([ClassInfo(value=value, name=name) for value, name in enumerate(names)]) == hidden


@given(
    days=st.lists(st.none() | st.integers(1, 9), max_size=8),
)
def test_the_newest_comes_first_and_the_order_of_equals_stays(days: list[int | None]) -> None:
    times = [None if day is None else datetime(2024, 5, day, tzinfo=UTC) for day in days]
    order = in_order(times, "newest")
    assert sorted(order) == list(range(len(days)))
    assert in_order(times, "cloudless") == order
    assert in_order(times, "first") == list(range(len(days)))
    for one, other in pairwise(order):
        assert (-(days[one] or 0), one) < (-(days[other] or 0), other)
