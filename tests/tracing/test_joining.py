"""Parts of regions find each other, and leave as soon as they are complete."""

from __future__ import annotations

import numpy as np
import pytest

from geoseg.source.labels import ArrayLabels
from geoseg.tracing import regions as tracing
from geoseg.tracing.joining import Beyond, Joiner, Parts, Rings, Runs
from geoseg.tracing.regions import trace_regions
from tests.tracing.test_polygons import NODATA, smooth


def pixel_of_a_bar(row: int, *, top: bool, bottom: bool) -> Beyond:
    """One of the pixels of a bar in column 0 of a raster with one column, as a chunk of its own.

    The bar's left side is walked to the north, its right side to the south; keys are 4 * vertex + heading.
    """
    northwest, northeast, southwest, southeast = (
        4 * (2 * (row + below) + right) for below in (0, 1) for right in (0, 1)
    )
    down, up = 1, 3
    keys, sizes, vertices = [(northeast + down, southeast + down), (southwest + up, northwest + up)], [0, 0], []
    if not top:
        keys, sizes, vertices = [(southwest + up, southeast + down)], [2], [[row, 0], [row, 1]]
    if not bottom:
        keys, sizes, vertices = [(northeast + down, northwest + up)], [2], [[row + 1, 1], [row + 1, 0]]
    one = np.ones(1, np.int64)
    return Beyond(
        parts=Parts(values=7 * one, first=row * one, group=0 * one, sums=one[:, None]),
        runs=Runs(
            vertices=np.array(vertices, np.int32).reshape(-1, 2),
            sizes=np.array(sizes),
            owner=np.zeros(len(sizes), np.int64),
            keys=np.array(keys),
        ),
        sides=[np.array([0 if beyond else -1]) for beyond in (top, bottom, False, False)],
    )


def test_a_bar_over_three_chunks_is_one_ring() -> None:
    joiner = Joiner(1, 1, corners=False)
    for row, top in ((4, False), (5, True)):
        parts, rings = joiner.add([pixel_of_a_bar(row, top=top, bottom=True)])
        assert len(parts) == len(rings.sizes) == 0
    parts, rings = joiner.add([pixel_of_a_bar(6, top=True, bottom=False)])
    assert (parts.values.tolist(), parts.first.tolist(), parts.sums.tolist()) == ([7], [4], [[3]])
    assert isinstance(rings, Rings)
    assert rings.vertices.tolist() == [[4, 0], [4, 1], [7, 1], [7, 0]]
    assert (rings.starts.tolist(), rings.sizes.tolist(), rings.owner.tolist()) == ([0], [4], [0])


def test_nothing_is_kept_of_what_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []

    class Watched(Joiner):
        def add(self, row: list[Beyond]) -> tuple[Parts, Rings]:  # type: ignore[override]
            complete = super().add(row)
            kept.append(sum(len(strip.vertices) for strip in self._strips) + len(self._parts))
            return complete

    monkeypatch.setattr(tracing, "Joiner", Watched)
    labels = smooth(64)
    labels[::16] = NODATA  # no region is higher than 15 rows
    tall = np.tile(labels, (30, 1))
    list(trace_regions(ArrayLabels(tall, NODATA), chunk=8))
    assert len(kept) == 240
    assert max(kept) < 4 * max(kept[:8])
    assert kept[-1] == 0
