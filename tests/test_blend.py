"""Weights are a partition of unity, sums do not depend on order, and the sentence about exactness is true."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoseg.blend import BLENDS, Blend, TileWeights, add_weighted, axis_weights, exactness, to_probs
from geoseg.errors import GridError, ModelError
from geoseg.grid import Axis, TileGrid
from geoseg.spec import Channel, ClassInfo, ModelSpec
from geoseg.testing.strategies import tile_grids


def _spec(classes: int = 3, **fields: object) -> ModelSpec:
    infos = tuple(ClassInfo(value=value, name=f"c{value}") for value in range(classes))
    return ModelSpec(name="m", bands=("red",), channels=(Channel(name="red"),), classes=infos, **fields)  # type: ignore[arg-type]


@given(st.sampled_from(BLENDS), tile_grids(max_side=150))
def test_weights_of_all_tiles_add_up_to_exactly_one(blend: Blend, grid: TileGrid) -> None:
    total = torch.zeros(grid.height + grid.tile, grid.width + grid.tile)
    weights = TileWeights(grid, blend)
    for tile in grid:
        total[tile.window.slices] += weights(tile.row, tile.col)
    assert torch.equal(total[: grid.height, : grid.width], torch.ones(grid.height, grid.width))


@given(st.sampled_from(BLENDS), st.integers(1, 64), st.data())
def test_tapers_rise_and_keep_full_weight_where_no_neighbour_is(blend: Blend, tile: int, data: st.DataObject) -> None:
    axis = Axis(length=5 * tile, tile=tile, overlap=data.draw(st.integers(0, tile // 2)))
    first, middle, last = (axis_weights(axis, index, blend) for index in (0, 1, axis.tiles - 1))
    assert (first[: tile - axis.overlap] == 1).all()
    assert (last[axis.overlap :] == 1).all()
    assert (np.diff(middle[: axis.overlap]) >= 0).all()
    assert (np.diff(middle[tile - axis.overlap :]) <= 0).all()
    assert (middle >= 0).all()
    assert (middle <= 1).all()


def test_ramp_trusts_no_tile_over_the_outer_three_eighths_of_the_overlap() -> None:
    weights = axis_weights(Axis(length=1000, tile=64, overlap=16), 1, "ramp")
    assert (weights[:6] == 0).all()
    assert (weights[6:10] > 0).all()
    assert (weights[10:54] == 1).all()
    assert np.allclose(weights[6:10], 0.5 - 0.5 * np.cos(np.pi * (np.arange(4) + 0.5) / 4), atol=1 / 2048)


@given(st.integers(0, 2**32 - 1))
def test_sums_are_the_same_bits_in_any_order(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    taper = torch.randint(0, 2049, (4, 8, 8), generator=random) / 2048
    probs = torch.rand(4, 3, 8, 8, generator=random)
    sums = []
    for order in itertools.permutations(range(4)):
        total = torch.zeros(3, 8, 8)
        for index in order:
            add_weighted(total, probs[index].clone(), taper[index] / 4)
        sums.append(total)
    assert all(torch.equal(sums[0], other) for other in sums[1:])


def test_rounding_stays_below_float32_noise() -> None:
    probs = torch.rand(2, 50, 50, generator=torch.Generator().manual_seed(1))
    sums = torch.zeros(2, 50, 50)
    add_weighted(sums, probs.clone(), torch.ones(50, 50))
    assert (sums - probs).abs().max() <= 2**-23


def test_unknown_blend_is_refused() -> None:
    with pytest.raises(GridError, match="ramp, linear, gaussian, crop"):
        axis_weights(Axis(length=100, tile=10, overlap=2), 1, "feather")  # type: ignore[arg-type]


def test_probabilities_of_each_activation() -> None:
    scores = torch.tensor([[[[2.0]], [[-1.0]], [[0.5]]]])
    assert torch.allclose(to_probs(scores, _spec()).sum(1), torch.ones(1, 1, 1))
    assert torch.equal(to_probs(scores, _spec(activation="sigmoid")), torch.sigmoid(scores))
    ranged = _spec(activation="none", output_range=(-2.0, 2.0))
    assert to_probs(scores, ranged).flatten().tolist() == [1.0, 0.25, 0.625]


def test_one_score_for_two_classes_is_split() -> None:
    probs = to_probs(torch.zeros(1, 1, 2, 2), _spec(2, activation="sigmoid"))
    assert probs.shape == (1, 2, 2, 2)
    assert (probs == 0.5).all()


def test_wrong_number_of_classes_names_both() -> None:
    with pytest.raises(ModelError, match="gave 4 classes, its card lists 3"):
        to_probs(torch.zeros(1, 4, 2, 2), _spec())


@pytest.mark.parametrize(
    ("blend", "overlap", "halo", "begins"),
    [
        ("crop", 128, 64, "exact"),
        ("crop", 128, 65, "approximate"),
        ("ramp", 128, 48, "exact"),
        ("ramp", 128, 49, "approximate"),
        ("linear", 128, 1, "approximate"),
        ("gaussian", 128, 0, "exact"),
        ("ramp", 128, None, "unknown"),
    ],
)
def test_exactness_in_words(blend: Blend, overlap: int, halo: int | None, begins: str) -> None:
    assert exactness(blend, overlap, halo).startswith(begins)
