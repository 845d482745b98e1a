"""Stored numbers become channels as a numpy oracle says, pixel by pixel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import BandError
from geoseg.prepare import prepare, recipes_for
from geoseg.scene import Band, BandSet, Scaling
from geoseg.spec import Channel, ClassInfo, ModelSpec, Rescale


def _spec(*channels: Channel, **fields: object) -> ModelSpec:
    classes = (ClassInfo(value=0, name="a"), ClassInfo(value=1, name="b"))
    return ModelSpec(name="m", bands=("red", "nir"), channels=channels, classes=classes, **fields)  # type: ignore[arg-type]


NDVI = Channel(name="ndvi", expression="(nir - red) / (nir + red)")
RED = Channel(name="red")


@given(st.integers(0, 2**32 - 1), st.sampled_from(["uint8", "uint16", "int16", "float32"]))
def test_channels_equal_numpy(seed: int, dtype: str) -> None:
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 120, (2, 7, 5)).astype(dtype)
    valid = random.random((7, 5)) < 0.7
    steps = (Rescale(gain=2.0, offset=-0.5), Rescale(low=-0.25, high=0.75))
    spec = _spec(Channel(name="nir", rescale=steps), NDVI, RED, fill=-9.0)
    bands = BandSet(
        (
            Band(name="red", dtype=dtype, scaling=Scaling(scale=0.01)),
            Band(name="nir", dtype=dtype, scaling=Scaling(scale=0.02, offset=-0.1)),
        )
    )
    red, nir = pixels[0] * 0.01, pixels[1] * 0.02 - 0.1
    total = np.float32(nir) + np.float32(red)
    ndvi = np.divide(nir - red, total, out=np.zeros_like(red), where=total != 0)
    expected = np.stack([np.clip(nir * 2 - 0.5, -0.25, 0.75), ndvi, red])
    expected[:, ~valid] = -9.0
    channels = prepare(torch.from_numpy(pixels), torch.from_numpy(valid), recipes_for(spec, bands)[0]).numpy()
    clear = np.abs(total) > 1e-3
    np.testing.assert_allclose(channels[[0, 2]], expected[[0, 2]], atol=2e-6)
    np.testing.assert_allclose(channels[1][clear | ~valid], expected[1][clear | ~valid], atol=2e-3)


@pytest.mark.parametrize(
    ("declared", "dtype", "expected"),
    [
        (Scaling(scale=0.5), "uint16", 50.0),  # the scene's own word comes first
        (None, "uint16", 0.01),  # what the card assumes
        (None, "float32", 100.0),  # floats are reflectance already
    ],
)
def test_scaling_comes_from_the_scene_then_the_card(declared: Scaling | None, dtype: str, expected: float) -> None:
    spec = _spec(RED, assume_scaling=Scaling(scale=1e-4))
    bands = BandSet((Band(name="red", dtype=dtype, scaling=declared), Band(name="nir", dtype=dtype)))
    channels = prepare(torch.full((2, 1, 1), 100).to(getattr(torch, dtype)), None, recipes_for(spec, bands)[0])
    assert channels.item() == pytest.approx(expected)


def test_zero_denominator_is_zero() -> None:
    bands = BandSet((Band(name="red", dtype="uint16"), Band(name="nir", dtype="uint16")))
    channels = prepare(torch.zeros(2, 1, 1, dtype=torch.uint16), None, recipes_for(_spec(NDVI), bands)[0])
    assert channels.item() == 0.0


def test_a_missing_band_is_named() -> None:
    with pytest.raises(BandError, match=r"'ndvi' of model 'm' needs nir; the scene gives red"):
        recipes_for(_spec(NDVI), BandSet((Band(name="red", dtype="uint16"),)))


@pytest.mark.parametrize("shuffled", [False, True])
def test_each_date_of_a_pair_has_its_own_bands_and_scaling(shuffled: bool) -> None:
    spec = replace(_spec(NDVI), dates=2, task="change-detection")
    declared = {"before.red": 0.5, "before.nir": 1.0, "after.red": 2.0, "after.nir": 1.0}
    stored = {"before.red": 4, "before.nir": 6, "after.red": 3, "after.nir": 2}
    names = sorted(stored) if shuffled else list(stored)
    bands = BandSet(tuple(Band(name=n, dtype="uint16", scaling=Scaling(scale=declared[n])) for n in names))
    pixels = torch.tensor([stored[name] for name in names]).reshape(4, 1, 1)
    before, after = (prepare(pixels, None, recipe).item() for recipe in recipes_for(spec, bands))
    assert [before, after] == pytest.approx([(6 - 2) / (6 + 2), (2 - 6) / (2 + 6)])


def test_one_date_is_no_pair() -> None:
    spec = replace(_spec(NDVI), dates=2, task="change-detection")
    with pytest.raises(BandError, match="the scene gives one date only"):
        recipes_for(spec, BandSet((Band(name="red", dtype="uint16"), Band(name="nir", dtype="uint16"))))
