"""Augmentation moves truth and validity with the ground, all dates alike, and draws the same at the same place."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from geoseg.train import IGNORE
from geoseg.train.augment import Augmenter
from geoseg.train.draws import generator_at, seed_at
from geoseg.train.options import Augmentation
from geoseg.train.samples import Sample
from geoseg.train.statistics import Statistics
from tests.train.fields import PLAIN

ROWS, COLS = 40, 48
STATISTICS = Statistics(
    values={
        name: {"mean": 0.5, "sd": 0.2, "histogram": {"low": 0.0, "high": 1.0, "counts": []}} for name in ("red", "nir")
    }
)


def sample(seed: int = 0, rows: int = ROWS, cols: int = COLS) -> Sample:
    """Two dates; the second band of the first date holds the label, the last rows are not usable."""
    random = torch.Generator().manual_seed(seed)
    labels = (
        torch.rand((rows // 8, cols // 8), generator=random)
        .gt(0.5)
        .to(torch.uint8)
        .kron(torch.ones(8, 8, dtype=torch.uint8))
    )
    bands = torch.rand((2, 2, rows, cols), generator=random)
    bands[0, 1] = labels
    valid = torch.ones((rows, cols), dtype=torch.bool)
    valid[-8:] = False
    bands[:, :, ~valid] = 0
    return Sample(bands=bands, labels=labels.masked_fill(~valid, IGNORE), valid=valid)


def drawn(options: Augmentation, *samples: Sample, side: int = 24, place: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    augmenter = Augmenter(options=options, side=side, statistics=STATISTICS)
    return augmenter(samples or (sample(),), generator_at(3, 1, place))


GEOMETRY = [
    {"flips": True},
    {"rotate": 40.0},
    {"scale": (0.5, 2.0)},
    {"elastic": 3.0},
    {"flips": True, "rotate": 180.0, "scale": (0.7, 1.4), "elastic": 2.0},
]


@pytest.mark.parametrize("given_options", GEOMETRY)
@pytest.mark.parametrize("place", [0, 1])
def test_truth_moves_with_the_ground(given_options: dict[str, Any], place: int) -> None:
    """Where bilinear and nearest agree (no border of a class near), the band that holds the label is the label."""
    bands, labels, valid = drawn(replace(PLAIN, **given_options), place=place)
    seen = bands[:, 0, 1]
    sure = valid & ((seen < 1e-4) | (seen > 1 - 1e-4))
    assert sure.float().mean() > 0.3
    assert torch.equal(seen[sure].round().to(torch.uint8), labels[sure])
    assert (labels[~valid] == IGNORE).all()
    assert set(labels.flatten().tolist()) <= {0, 1, IGNORE}


@pytest.mark.parametrize("given_options", GEOMETRY)
def test_dates_move_alike(given_options: dict[str, Any]) -> None:
    one = sample()
    twice = Sample(bands=one.bands[:1].repeat(2, 1, 1, 1), labels=one.labels, valid=one.valid)
    bands, _, _ = drawn(replace(PLAIN, **given_options), twice)
    assert torch.equal(bands[:, 0], bands[:, 1])


def test_a_pixel_made_of_unusable_ones_is_not_usable() -> None:
    """Usable ground is 1 everywhere here: any share of the zeros beside it would show."""
    one = sample()
    ones = Sample(bands=one.valid.float().expand(2, 2, -1, -1), labels=one.labels, valid=one.valid)
    bands, _, valid = drawn(replace(PLAIN, rotate=30, scale=(0.6, 1.6), elastic=2.0), ones, side=40)
    assert valid.any()
    assert not valid.all()
    assert (bands.movedim((1, 2), (-2, -1))[valid] > 0.99).all()


def test_without_augmentation_a_chip_of_the_same_size_is_itself() -> None:
    one = sample(rows=40, cols=40)
    bands, labels, valid = drawn(PLAIN, one, side=40)
    for found, expected in ((bands, one.bands), (labels, one.labels), (valid, one.valid)):
        assert torch.equal(found[0], expected)


def test_a_small_chip_is_filled_up_with_what_is_not_usable() -> None:
    bands, labels, valid = drawn(PLAIN, sample(rows=16, cols=24), side=32)
    assert bands.shape == (1, 2, 2, 32, 32)
    assert not valid[:, 16:].any()
    assert (labels[:, 16:] == IGNORE).all()


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_flips_keep_every_pixel_once(seed: int) -> None:
    one = sample(rows=16, cols=16)
    numbered = Sample(
        bands=torch.arange(256.0).reshape(1, 1, 16, 16).expand(2, 2, -1, -1), labels=one.labels, valid=one.valid
    )
    augmenter = Augmenter(options=replace(PLAIN, flips=True), side=16, statistics=STATISTICS)
    bands, _, _ = augmenter((numbered,), torch.Generator().manual_seed(seed))
    assert torch.equal(bands[0, 0, 0].flatten().sort().values, torch.arange(256.0))


@pytest.mark.parametrize(("name", "value"), [("brightness", 0.3), ("contrast", 0.3), ("gamma", 0.3), ("noise", 0.3)])
def test_light_changes_each_band_and_date_on_its_own_and_no_label(name: str, value: float) -> None:
    one = sample()
    same = Sample(bands=one.bands[:1, :1].expand(2, 2, -1, -1), labels=one.labels, valid=one.valid)
    changed: dict[str, Any] = {name: value}
    plain, labels, valid = drawn(PLAIN, same)
    bands, relabelled, still = drawn(replace(PLAIN, **changed), same)
    assert torch.equal(labels, relabelled)
    assert torch.equal(valid, still)
    kinds = bands.flatten(1, 2)[0]
    assert all(not torch.allclose(kinds[a], kinds[b]) for a in range(4) for b in range(a))
    factor = bands[0, 0, 0] / plain[0, 0, 0]
    if name == "brightness":
        assert torch.allclose(factor[valid[0]], factor[valid[0]][0].expand(int(valid.sum())), rtol=1e-4)
        assert 0.7 <= factor[valid[0]][0] <= 1.3
    if name == "contrast":
        usable = valid[0]
        assert bands[0, 0, 0][usable].mean() == pytest.approx(float(plain[0, 0, 0][usable].mean()), abs=1e-5)
    if name == "gamma":  # monotonic, and the ends stay
        order = plain[0, 0, 0].flatten().argsort()
        assert (bands[0, 0, 0].flatten()[order].diff() >= -1e-6).all()


def test_lost_rectangles_have_no_label_and_dropped_channels_are_filled() -> None:
    _, labels, valid = drawn(replace(PLAIN, lost=1.0), *[sample(seed) for seed in range(6)])
    assert (labels[~valid] == IGNORE).all()
    assert ((~valid).flatten(1).any(1)).all()
    augmenter = Augmenter(options=replace(PLAIN, channel_dropout=1.0), side=24, statistics=STATISTICS)
    dropped = augmenter.drop_channels(torch.ones(5, 2, 3, 8, 8), -7.0, generator_at(0))
    filled = (dropped == -7.0).flatten(3).all(3)  # (n, date, channel)
    assert (filled.sum(2) == 1).all()
    assert torch.equal(filled[:, 0], filled[:, 1])


@pytest.mark.parametrize("name", [each.name for each in fields(Augmentation)])
def test_each_change_is_a_function_of_its_place(name: str) -> None:
    values: dict[str, Any] = {"flips": True, "scale": (0.5, 2.0), "rotate": 45.0, "elastic": 3.0}
    options = replace(PLAIN, **{name: values.get(name, 0.9)})
    one, again, elsewhere = (drawn(options, *[sample(n) for n in range(4)], place=place) for place in (0, 0, 1))
    assert all(torch.equal(*each) for each in zip(one, again, strict=True))
    assert not all(torch.equal(*each) for each in zip(one, elsewhere, strict=True))


def test_places_have_seeds_of_their_own() -> None:
    seeds = {
        seed_at(seed, epoch, step, part)
        for seed in range(3)
        for epoch in range(9)
        for step in range(9)
        for part in range(3)
    }
    assert len(seeds) == 3 * 9 * 9 * 3
    assert all(0 <= seed < 2**63 for seed in seeds)
