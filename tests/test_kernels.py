"""Compiled loops give, bit for bit, what tensor arithmetic gives: that is what other devices run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoseg import kernels

SIDES = st.integers(1, 40)


@given(classes=st.integers(1, 5), height=SIDES, width=SIDES, left=st.integers(0, 9), seed=st.integers(0, 2**32 - 1))
def test_contributions_are_those_of_tensor_arithmetic(
    classes: int, height: int, width: int, left: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    weights = torch.randint(0, 2049, (height, width), generator=random) / 2048
    probs = torch.rand(classes, height, width, generator=random)
    around = torch.round(torch.rand(classes, height, width + 12, generator=random) * 2**22) / 2**22
    expected = around.clone()
    expected[:, :, left : left + width] += (probs * weights + 3.0) - 3.0
    kernels.add_weighted(around[:, :, left : left + width].numpy(), probs.numpy(), weights.numpy(), 3.0)
    assert torch.equal(around, expected)


@pytest.mark.parametrize(
    ("classes", "dtype"), [(1, torch.uint8), (6, torch.uint8), (256, torch.uint8), (300, torch.int32)]
)
@given(seed=st.integers(0, 2**32 - 1), rows=st.tuples(st.integers(0, 3), st.integers(4, 9)), width=SIDES)
def test_the_first_maximum_is_found_in_any_view(
    seed: int, rows: tuple[int, int], width: int, classes: int, dtype: torch.dtype
) -> None:
    # Few different values, so that many are equal.
    steps = torch.randint(0, 4, (classes, 9, width + 2), generator=torch.Generator().manual_seed(seed))
    view = (steps / 4)[:, slice(*rows), 1 : width + 1]
    best, index = torch.empty(view.shape[1:]), torch.empty(view.shape[1:], dtype=dtype)
    kernels.first_maximum(view.numpy(), best.numpy(), index.numpy())
    np.testing.assert_array_equal(index.numpy(), view.numpy().argmax(axis=0))
    assert torch.equal(best, view.amax(dim=0))
