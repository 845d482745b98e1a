"""The model that needs no training: its package is what the code says, and it knows water from snow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoseg.models import load_model, package_path, read_spec
from geoseg.models.baseline import CHANNELS, CLASSES, CRITERIA, spectral_baseline, write_spectral_baseline
from geoseg.prepare import prepare, recipes_for
from geoseg.scene import Band, BandSet
from tests.models.cards import card_of

# Surface reflectance of common covers: blue, green, red, nir, swir16, swir22.
SPECTRA = {
    "clear deep water": ("water", (0.04, 0.035, 0.025, 0.012, 0.005, 0.003)),
    "turbid river": ("water", (0.07, 0.10, 0.09, 0.06, 0.02, 0.01)),
    "flooded field": ("water", (0.10, 0.13, 0.14, 0.15, 0.05, 0.03)),
    "meadow": ("vegetation", (0.04, 0.08, 0.05, 0.40, 0.20, 0.10)),
    "spruce": ("vegetation", (0.02, 0.03, 0.02, 0.22, 0.09, 0.04)),
    "crop": ("vegetation", (0.04, 0.07, 0.04, 0.45, 0.18, 0.08)),
    "dry soil": ("bare-or-built", (0.10, 0.14, 0.18, 0.25, 0.33, 0.28)),
    "dark soil": ("bare-or-built", (0.05, 0.07, 0.09, 0.13, 0.20, 0.17)),
    "asphalt": ("bare-or-built", (0.08, 0.09, 0.10, 0.12, 0.14, 0.13)),
    "roofs": ("bare-or-built", (0.11, 0.13, 0.17, 0.22, 0.25, 0.22)),
    "fresh snow": ("snow", (0.92, 0.92, 0.90, 0.83, 0.12, 0.10)),
    "old snow": ("snow", (0.70, 0.70, 0.68, 0.58, 0.08, 0.06)),
    "cumulus": ("cloud", (0.60, 0.60, 0.62, 0.66, 0.50, 0.40)),
    "thin cloud over forest": ("cloud", (0.26, 0.25, 0.24, 0.35, 0.24, 0.17)),
}


def classify(reflectance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and confidence of reflectance (band, row, col), blue to swir22."""
    spec = read_spec("spectral-baseline")
    names = ("blue", "green", "red", "nir", "swir16", "swir22")
    ordered = np.stack([reflectance[names.index(band)] for band in spec.bands])
    bands = BandSet(tuple(Band(name=name, dtype="float32") for name in spec.bands))
    channels = prepare(torch.from_numpy(ordered.astype(np.float32)), None, recipes_for(spec, bands)[0])
    probs = load_model("spectral-baseline").predict(channels[None]).softmax(1)[0]
    return np.array(spec.values)[probs.argmax(0).numpy()], probs.amax(0).numpy()


@pytest.mark.parametrize("cover", sorted(SPECTRA))
def test_common_covers_are_told_apart(cover: str) -> None:
    expected, spectrum = SPECTRA[cover]
    labels, confidence = classify(np.array(spectrum, dtype=np.float32)[:, None, None])
    assert {info.value: info.name for info in CLASSES}[int(labels[0, 0])] == expected
    assert confidence[0, 0] > 0.5


def test_the_shipped_package_is_what_the_code_writes(tmp_path: Path) -> None:
    shipped, written = package_path("spectral-baseline"), write_spectral_baseline(tmp_path / "again")
    assert (shipped / "model.safetensors").read_bytes() == (written / "model.safetensors").read_bytes()
    cards = [card_of(shipped), card_of(written)]
    for card in cards:
        card["properties"].pop("mlm:framework_version")  # whichever torch wrote it
    assert cards[0] == cards[1]


def test_every_threshold_is_cited_in_code_and_card() -> None:
    text = json.dumps(card_of(package_path("spectral-baseline")))
    for criteria in CRITERIA.values():
        for criterion in criteria:
            assert "doi:10." in criterion.source
            assert criterion.source in text


@given(st.integers(0, 999))
def test_scores_are_the_weakest_criterion(seed: int) -> None:
    values = np.random.default_rng(seed).uniform(-1, 1, (len(CHANNELS), 4, 5)).astype(np.float32)
    channels = dict(zip(CHANNELS, values.astype(np.float64), strict=True))
    expected = np.stack(
        [
            np.minimum.reduce(
                [
                    2 * (sum(factor * channels[name] for name, factor in one.weights) - one.threshold) / one.width
                    for one in CRITERIA[info.name]
                ]
            )
            for info in CLASSES
        ]
    )
    with torch.inference_mode():
        found = spectral_baseline()(torch.from_numpy(values)[None])[0].numpy()
    np.testing.assert_allclose(found, expected.clip(-6, 6), atol=1e-3)


def test_it_sees_each_pixel_by_itself() -> None:
    tile = torch.rand(1, len(CHANNELS), 16, 16)
    model = load_model("spectral-baseline")
    whole = model.predict(tile)
    parts = torch.cat([model.predict(tile[..., :7].contiguous()), model.predict(tile[..., 7:].contiguous())], -1)
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-5)


def test_real_scenes_look_right(shared: Path) -> None:
    """Overcast is cloud, a clear wooded valley is vegetation, a flooded plain is water, fields and bare ground."""
    numbers = (2, 3, 4, 8, 12, 13)  # of blue, green, red, nir, swir16, swir22 among the 13 bands

    def shares(name: str) -> dict[str, float]:
        with rasterio.open(shared / "data" / "s2_scenes" / f"{name}.tif") as scene:
            labels, _ = classify(scene.read(numbers).astype(np.float32) * 1e-4)
        return {info.name: float((labels == info.value).mean()) for info in CLASSES}

    assert shares("eolearn_slovenia_l1c_0")["cloud"] > 0.95
    for clear in ("eolearn_slovenia_l1c_2", "eolearn_slovenia_l1c_4"):
        assert shares(clear)["vegetation"] > 0.95
    flood = shares("spain_segura_l1c_13band")
    assert 0.25 < flood["water"] < 0.5
    assert min(flood["vegetation"], flood["bare-or-built"]) > 0.15
    assert flood["snow"] < 0.001
