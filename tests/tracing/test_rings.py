"""Runs chain into the rings that they were cut from."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from geoseg.tracing.components import label_components
from geoseg.tracing.polygons import NOWHERE
from geoseg.tracing.rings import chain, entries, look_beyond, trace
from geoseg.types import Labels
from tests.tracing.test_polygons import NODATA, rasters


@given(labels=rasters, seed=st.integers(0, 99))
def test_rings_come_back_from_their_pieces(labels: Labels, seed: int) -> None:
    rng = np.random.default_rng(seed)
    padded, _ = label_components(labels, NODATA)
    vertices, runs = trace(padded, padded, NOWHERE, (0, 0, labels.shape[1] + 1, -1))
    bounds = np.concatenate([[0], runs[:, 3]])
    starts: list[int] = []
    sizes: list[int] = []
    following: list[int] = []
    for low, high in pairwise(bounds.tolist()):
        cuts = np.unique([low, *rng.integers(low, high, rng.integers(0, 4))])
        turn = int(rng.integers(len(cuts)))  # the first piece need not be the one with the ring's first vertex
        cuts, ends = np.roll(cuts, turn), np.roll(np.append(cuts[1:], high), turn)
        number = len(starts) + np.arange(len(cuts))
        starts += cuts.tolist()
        sizes += (ends - cuts).tolist()
        following += np.roll(number, -1).tolist()
    found, lengths, members = chain(np.array(following, int), np.array(starts, int), np.array(sizes, int), vertices)
    np.testing.assert_array_equal(found, vertices)
    np.testing.assert_array_equal(lengths, np.diff(bounds))
    assert (np.diff(members) > 0).all()


@given(labels=rasters, joints=st.sampled_from([-1, 0, 2]))
def test_what_comes_in_goes_out(labels: Labels, joints: int) -> None:
    """Of a window within a raster: as many runs are entered as left, and none has the key of another."""
    height, width = labels.shape
    if min(height, width) < 3:
        return
    none = np.iinfo(np.int32).min
    values = np.where(labels == NODATA, none, labels.astype(np.int32))
    padded, count = label_components(values[1:-1, 1:-1], none)
    sides = look_beyond(padded, values, count, corners=False)
    place = (1, 1, width + 1, joints)
    starts = entries(padded, values, place)
    vertices, runs = trace(padded, values, starts, place)
    is_open = runs[:, 0] != runs[:, 1]
    assert len(set(runs[is_open, 0])) == len(set(runs[is_open, 1])) == is_open.sum() >= len(starts)
    assert set(runs[is_open, 2]) <= {int(each) for side in sides for each in side}, "who is entered reaches beyond"
    assert runs[-1, 3] == len(vertices) if len(runs) else len(vertices) == 0
