"""What changed by indices alone: every pixel as numpy says, the threshold as a search over all thresholds says."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import torch
from hypothesis import assume, given
from hypothesis import settings as examples
from hypothesis import strategies as st

import geoseg
from geoseg.errors import BandError, ModelError, SourceError
from geoseg.index_change import (
    LEAST,
    IndexChange,
    change_indices,
    index_bands,
    index_change_model,
    magnitude,
    sample_windows,
    threshold_of,
)
from geoseg.prepare import prepare, recipes_for
from geoseg.protocols import Model, Source
from geoseg.scene import Scene
from geoseg.source.pair import pair_of
from geoseg.testing.conformance import ModelConformance
from geoseg.testing.fakes import ArraySource
from geoseg.types import Pixels, Valid
from geoseg.window import Window, whole

BANDS = ("green", "red", "nir", "swir22")
PAIRS = {"NDVI": ("nir", "red"), "NDWI": ("green", "nir"), "NBR": ("nir", "swir22")}
MEADOW = (800, 500, 4000, 1000)
WATER = (350, 250, 120, 30)
BURNT = (500, 600, 1200, 2200)


def pair_scene(
    before: Pixels, after: Pixels, valid: Valid | None = None, *, names: tuple[str, ...] = BANDS
) -> Scene[Source]:
    joined = tuple(f"{date}.{name}" for date in ("before", "after") for name in names)
    source = ArraySource(np.concatenate([before, after]), valid, names=joined)
    return Scene(id="a--b", source=source, geobox=source.geobox, bands=source.bands)


def covered(cover: tuple[int, ...], *, side: int = 64, noise: float = 0.0, seed: int = 0) -> Pixels:
    """A land cover (band, row, col) in stored numbers, with relative noise."""
    grain = np.random.default_rng(seed).normal(1.0, noise, (len(cover), side, side))
    return np.clip(np.array(cover)[:, None, None] * grain, 1, 10000).astype(np.uint16)


def half(first: Pixels, second: Pixels) -> Pixels:
    """`first` above, `second` below."""
    middle = first.shape[1] // 2
    return np.concatenate([first[:, :middle], second[:, middle:]], axis=1)


def lengths_of(before: Pixels, after: Pixels) -> npt.NDArray[np.float64]:
    """Length (row, col) of the change vector, by numpy in double precision."""
    squares = np.zeros(before.shape[1:])
    for first, second in PAIRS.values():
        dates = []
        for stored in (before, after):
            one, other = (stored[BANDS.index(band)].astype(float) for band in (first, second))
            total = one + other
            dates.append(np.divide(one - other, total, out=np.zeros_like(total), where=total != 0))
        squares += (dates[1] - dates[0]) ** 2
    return np.sqrt(squares)


def changed_of(model: IndexChange, scene: Scene[Source]) -> npt.NDArray[np.float32]:
    """Probability of change (row, col), as the engine feeds the model."""
    pixels, valid = scene.source.read(whole(scene.geobox))
    recipes = recipes_for(model.spec, scene.bands)
    batch = torch.stack([prepare(torch.from_numpy(pixels), torch.from_numpy(valid), recipe) for recipe in recipes])
    return np.asarray(model.predict(batch[None]).softmax(1)[0, 1].numpy())


class TestIndexChange(ModelConformance):
    def make(self) -> Model:
        return index_change_model(pair_scene(covered(MEADOW), half(covered(MEADOW), covered(WATER))))


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_every_pixel_is_as_numpy_says(seed: int, scarce: bool) -> None:
    random = np.random.default_rng(seed)
    before, after = (random.integers(0, 4 if scarce else 10000, (4, 9, 7), dtype=np.uint16) for _ in range(2))
    valid = random.random((9, 7)) < 0.8
    assume(valid.any())
    scene = pair_scene(before, after, valid)
    model = index_change_model(scene)
    expected = 1 / (1 + np.exp(-6 * np.clip(lengths_of(before, after) / model.threshold - 1, -1, 1)))
    found = changed_of(model, scene)
    np.testing.assert_allclose(found[valid], expected[valid], atol=1e-4)
    assert (found[~valid] < 0.01).all(), "what is filled on both dates does not change"
    assert model.sampled == valid.sum()


@given(st.lists(st.integers(0, 50), min_size=2, max_size=40))
def test_the_threshold_parts_a_histogram_best(counts: list[int]) -> None:
    middles = np.arange(len(counts)) + 0.5
    found = threshold_of(np.array(counts), float(len(counts)))
    if np.count_nonzero(counts) < 2:
        assert found is None
        return

    def between(last: int) -> float:
        """Variance between the bins up to `last` and those after it."""
        low, high = np.array(counts[: last + 1], float), np.array(counts[last + 1 :], float)
        if not low.sum() or not high.sum():
            return 0.0
        gap = (low @ middles[: last + 1]) / low.sum() - (high @ middles[last + 1 :]) / high.sum()
        return float(low.sum() * high.sum() * gap**2)

    assert found is not None
    best = max(between(last) for last in range(len(counts)))
    assert between(int(found) - 1) == pytest.approx(best)


@pytest.mark.parametrize(("counts", "most", "expected"), [([3, 0, 0, 0, 0, 3], 6.0, 3.0), ([5, 0, 7], 0.3, 0.15)])
def test_a_gap_is_parted_in_its_middle(counts: list[int], most: float, expected: float) -> None:
    assert threshold_of(np.array(counts), most) == pytest.approx(expected)


@pytest.mark.parametrize("cover", [WATER, BURNT])
@pytest.mark.parametrize("seed", range(3))
def test_a_flood_and_a_fire_are_found_to_the_pixel(cover: tuple[int, ...], seed: int) -> None:
    before = covered(MEADOW, noise=0.03, seed=seed)
    again = covered(MEADOW, noise=0.03, seed=seed + 10)
    scene = pair_scene(before, half(again, covered(cover, noise=0.03, seed=seed + 20)))
    model = index_change_model(scene)
    assert model.otsu == model.threshold > LEAST
    expected = np.zeros((64, 64), bool)
    expected[32:] = True
    np.testing.assert_array_equal(changed_of(model, scene) > 0.5, expected)


def test_a_run_writes_what_the_model_says(tmp_path: Path) -> None:
    before, after = (np.random.default_rng(seed).integers(1, 10000, (4, 70, 90), dtype=np.uint16) for seed in range(2))
    sources = [ArraySource(date, names=BANDS) for date in (before, after)]
    dates = [
        Scene(id=name, source=one, geobox=one.geobox, bands=one.bands) for name, one in zip("ab", sources, strict=True)
    ]
    scene = pair_of(*dates)
    model = index_change_model(scene)
    geoseg.segment(scene, model=model, out=tmp_path / "out", tile=32)
    lengths = lengths_of(before, after)
    with rasterio.open(tmp_path / "out" / "change.tif") as raster:
        found = raster.read(1)
    clear = np.abs(lengths - model.threshold) > 1e-5
    np.testing.assert_array_equal(found[clear], (lengths > model.threshold)[clear])


def test_the_same_twice_changes_nowhere() -> None:
    before = covered(MEADOW, noise=0.2)
    scene = pair_scene(before, before)
    model = index_change_model(scene)
    assert (model.otsu, model.threshold) == (None, LEAST)
    assert changed_of(model, scene).max() < 0.01


def test_noise_alone_is_no_change() -> None:
    scene = pair_scene(covered(MEADOW, noise=0.01, seed=1), covered(MEADOW, noise=0.01, seed=2))
    model = index_change_model(scene)
    assert model.otsu is not None
    assert model.otsu < model.threshold == LEAST
    assert changed_of(model, scene).max() < 0.5
    assert "least" in model.spec.description


def test_an_index_beyond_its_range_counts_as_its_end() -> None:
    """Reflectance below 0 (an offset, an over-corrected shadow) sends an index anywhere."""
    before, after = covered(MEADOW, side=8).astype(np.int16), covered(MEADOW, side=8).astype(np.int16)
    after[BANDS.index("red")] = -3999  # nir + red = 1: NDVI 7999
    scene = pair_scene(before, after, names=BANDS)
    model = index_change_model(scene)
    ndvi = (4000 - 500) / 4500
    assert model.threshold == pytest.approx(LEAST)  # every pixel shows the same
    recipes = recipes_for(model.spec, scene.bands)
    dates = [prepare(torch.from_numpy(scene.source.read(whole(scene.geobox))[0]), None, recipe) for recipe in recipes]
    np.testing.assert_allclose(magnitude(torch.stack(dates)[None]).numpy(), 1 - ndvi, atol=1e-5)


@given(st.integers(1, 30000), st.integers(1, 30000))
def test_the_sample_is_spread_bounded_and_never_counts_twice(height: int, width: int) -> None:
    scene = Window(row_off=0, col_off=0, height=height, width=width)
    windows = sample_windows(scene)
    assert 1 <= len(windows) <= 64
    assert all(window and window in scene and max(window.shape) <= 256 for window in windows)
    assert not any(one & other for at, one in enumerate(windows) for other in windows[:at])
    if max(height, width) <= 2048:
        assert sum(window.size for window in windows) == scene.size
    middle = ((windows[0].row_off + windows[-1].row_stop) / 2, (windows[0].col_off + windows[-1].col_stop) / 2)
    assert middle == pytest.approx((height / 2, width / 2), abs=2)


def test_a_large_scene_is_sampled_not_read() -> None:
    before = np.ones((2, 2600, 2500), np.uint8)
    scene = pair_scene(before, before, names=("red", "nir"))
    assert isinstance(scene.source, ArraySource)
    model = index_change_model(scene)
    assert model.sampled == 64 * 256 * 256
    assert max(scene.source.times_read().ravel()) == 1


@pytest.mark.parametrize(
    ("bands", "indices", "opened"),
    [
        ("red nir", ("NDVI",), ("nir", "red")),
        ("blue green red nir swir16 swir22", ("NDVI", "NDWI", "NBR"), ("green", "nir", "red", "swir22")),
        ("swir16 nir green", ("NDWI", "NDMI"), ("green", "nir", "swir16")),
        ("nir swir22", ("NBR",), ("nir", "swir22")),
    ],
)
def test_indices_are_those_that_the_bands_allow(bands: str, indices: tuple[str, ...], opened: tuple[str, ...]) -> None:
    assert change_indices(bands.split()) == indices
    assert index_bands(bands.split()) == opened
    names = tuple(bands.split())
    even = np.ones((len(names), 4, 4), np.uint8)
    model = index_change_model(pair_scene(even, even, names=names))
    assert tuple(channel.name for channel in model.spec.channels) == indices
    assert model.spec.bands == opened


def test_bands_that_allow_no_index_are_named() -> None:
    with pytest.raises(BandError, match=r"NDVI of nir and red; .*: both dates have green, red$"):
        index_bands(["red", "green"])
    source = ArraySource(np.ones((4, 8, 8), np.uint16))
    with pytest.raises(BandError, match="no band in common"):
        index_change_model(Scene(id="alone", source=source, geobox=source.geobox, bands=source.bands))


def test_a_pair_without_a_common_valid_pixel_is_refused() -> None:
    with pytest.raises(SourceError, match="no pixel of a--b that is valid on both dates"):
        index_change_model(pair_scene(covered(MEADOW), covered(WATER), np.zeros((64, 64), bool)))


def test_a_batch_of_one_date_is_refused() -> None:
    model = index_change_model(pair_scene(covered(MEADOW), covered(WATER)))
    for shape in [(1, 3, 8, 8), (1, 3, 3, 8, 8), (1, 2, 2, 8, 8)]:
        with pytest.raises(ModelError, match="index-change takes"):
            model.predict(torch.zeros(shape))


@examples(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_the_model_is_the_same_each_time_and_travels(seed: int) -> None:
    random = np.random.default_rng(seed)
    before, after = (random.integers(1, 10000, (4, 8, 8), dtype=np.uint16) for _ in range(2))
    model = index_change_model(pair_scene(before, after))
    assert model == index_change_model(pair_scene(before, after)) == pickle.loads(pickle.dumps(model))
    assert len(pickle.dumps(model)) < 4096
    facts = json.loads(json.dumps(model.facts()))
    assert (facts["indices"], facts["sampled_pixels"]) == (["NDVI", "NDWI", "NBR"], 64)
    assert facts["threshold"] == max(facts["otsu"], facts["least"]) == model.threshold
    assert f"{model.threshold:.3f}" in model.spec.description


def test_another_threshold_is_another_model() -> None:
    flood, fire = (
        index_change_model(pair_scene(covered(MEADOW, noise=0.03), half(covered(MEADOW), covered(cover, noise=0.03))))
        for cover in (WATER, BURNT)
    )
    assert flood.threshold != fire.threshold
    assert flood.spec.digest != fire.spec.digest
