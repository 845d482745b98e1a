"""Decisions equal numpy's argmax, bytes keep their promise of 1/250."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geoseg.decide import PROBABILITY_SCALE, Layers, decide
from geoseg.types import Probs

PROBS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(1, 6)), elements=st.floats(0, 1, width=32)
)


def _layers(values: tuple[int, ...], dtype: str = "uint8", nodata: int = 255) -> Layers:
    return Layers(values=values, label_dtype=dtype, label_nodata=nodata, probabilities=True)


@given(PROBS)
def test_the_first_maximum_wins(probs: Probs) -> None:
    decision = decide(torch.from_numpy(probs), None, _layers(tuple(range(len(probs)))))
    np.testing.assert_array_equal(decision["labels"][0].numpy(), probs.argmax(axis=0))
    assert np.abs(decision["confidence"][0].numpy() * PROBABILITY_SCALE - probs.max(axis=0)).max() <= 0.002 + 1e-6
    assert np.abs(decision["probabilities"].numpy() * PROBABILITY_SCALE - probs).max() <= 0.002 + 1e-6


def test_labels_are_the_cards_values() -> None:
    probs = torch.tensor([[[0.1, 0.7]], [[0.6, 0.2]], [[0.3, 0.1]]])
    assert decide(probs, None, _layers((7, 3, 1)))["labels"].tolist() == [[[3, 7]]]


def test_values_beyond_a_byte() -> None:
    probs = torch.tensor([[[0.1, 0.7]], [[0.9, 0.3]]])
    labels = decide(probs, torch.tensor([[True, False]]), _layers((1, 40000), "uint16", 65535))["labels"]
    assert labels.dtype == torch.uint16
    assert labels.tolist() == [[[40000, 65535]]]


def test_more_classes_than_a_byte_counts() -> None:
    probs = torch.zeros(400, 1, 2)
    probs[399, 0, 0] = probs[300, 0, 1] = 1.0
    labels = decide(probs, None, _layers(tuple(range(400)), "uint16", 65535))["labels"]
    assert labels.tolist() == [[[399, 300]]]


def test_unusable_pixels_are_nodata_in_every_raster() -> None:
    decision = decide(torch.rand(3, 1, 2), torch.tensor([[False, True]]), _layers((0, 1, 2)))
    assert all((raster[:, 0, 0] == 255).all() for raster in decision.values())
    assert all((raster[:, 0, 1] != 255).all() for raster in decision.values())


def test_only_what_is_asked_for_is_made() -> None:
    layers = Layers(values=(0, 1), label_dtype="uint8", label_nodata=255, confidence=False)
    assert list(decide(torch.rand(2, 1, 1), None, layers)) == list(layers.counts) == ["labels"]
