"""landcover-s2: the scenes that it is trained on, and the recipe in miniature."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoseg.models import load_model, package_path, read_spec, validate_package
from geoseg.prepare import prepare, recipes_for
from geoseg.scene import Band, BandSet, Scaling
from geoseg.testing.spectra import BANDS, COVER_OF_KIND, Cover, Kind
from pipelines.landcover_s2.__main__ import main
from pipelines.landcover_s2.light import Conditions
from pipelines.landcover_s2.scenes import CLASSES, SIDE, make_sheets, observe

RED, NIR, SWIR16 = (BANDS.index(name) for name in ("red", "nir", "swir16"))


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_conditions_are_of_this_world(seed: int) -> None:
    drawn = Conditions.drawn(np.random.default_rng(seed))
    assert drawn.spectra.shape == (2, len(Kind), len(BANDS))
    assert ((drawn.spectra > 0) & (drawn.spectra <= 1.3)).all()
    assert ((drawn.passed > 0.4) & (drawn.passed < 1.3)).all()
    assert drawn.added[0] > drawn.added[-1] - 0.02, "air adds most where waves are short"
    assert ((drawn.shadow >= 0) & (drawn.shadow < 1)).all()


def test_no_two_scenes_are_seen_alike() -> None:
    one, other = (Conditions.drawn(np.random.default_rng(seed)) for seed in (1, 2))
    kinds = [kind for kind in Kind if not np.allclose(one.spectra[:, kind], other.spectra[:, kind], rtol=0.01)]
    assert kinds == list(Kind)


def test_a_scene_is_the_same_whenever_it_is_made() -> None:
    first, again, other = observe(3, 5), observe(3, 5), observe(3, 6)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])
    assert first[0].shape == (len(BANDS), SIDE, SIDE)
    assert first[0].dtype == np.uint16
    assert first[0].min() >= 1, "0 is nodata"


def test_every_class_is_seen_and_looks_like_itself() -> None:
    scenes = [observe(0, number) for number in range(40)]
    stored = np.concatenate([pixels.reshape(len(BANDS), -1) for pixels, _ in scenes], axis=1) * 1e-4
    classes = np.concatenate([labels.ravel() for _, labels in scenes])
    assert set(np.unique(classes)) == {0, *CLASSES.values()}
    assert {cover.name.lower(): cover + 1 for cover in Cover if cover != Cover.NODATA} == CLASSES
    assert set(COVER_OF_KIND.tolist()) | {Cover.CLOUD} == {value - 1 for value in CLASSES.values()}
    middle = {name: np.median(stored[:, classes == value], axis=1) for name, value in CLASSES.items()}
    greenness = {name: (each[NIR] - each[RED]) / (each[NIR] + each[RED]) for name, each in middle.items()}
    assert min(greenness["forest"], greenness["vegetation"]) > max(greenness["bare"], greenness["built"])
    assert middle["water"][SWIR16] == min(each[SWIR16] for each in middle.values())
    assert min(middle["snow"][RED], middle["cloud"][RED]) > 1.5 * middle["bare"][RED]


def test_sheets_hold_their_scenes_side_by_side(tmp_path: Path) -> None:
    sheets = make_sheets(tmp_path, {"train": 2, "val": 1}, seed=4)
    assert [each.split for each in sheets] == ["train", "val"]
    stored, classes = observe(4, 1)
    with rasterio.open(sheets[0].scene) as scene, rasterio.open(sheets[0].labels) as labels:
        assert scene.descriptions == BANDS
        assert np.array_equal(scene.read()[:, :SIDE, SIDE : 2 * SIDE], stored)
        assert np.array_equal(labels.read(1)[:SIDE, SIDE : 2 * SIDE], classes)
        assert not labels.read(1)[:, 2 * SIDE :].any()
    before = sheets[0].labels.stat().st_mtime_ns
    assert make_sheets(tmp_path, {"train": 2, "val": 1}, seed=4) == sheets
    assert sheets[0].labels.stat().st_mtime_ns == before


MINIATURE = (
    "data.side=64", "fit.epochs=1", "fit.steps=12", "fit.batch=4", "fit.average=null", "net.arguments.encoder_depth=2",
    "net.arguments.decoder_channels=[16, 8]",
)  # fmt: skip


@pytest.mark.slow
def test_one_command_makes_a_package(tmp_path: Path) -> None:
    main([str(tmp_path), "--scenes", "20", *(word for each in MINIATURE for word in ("--set", each))])
    package = tmp_path / "landcover-s2"
    assert validate_package(package) == []
    spec = read_spec(package)
    assert {info.name: info.value for info in spec.classes} == CLASSES
    assert "NDVI" in [channel.name for channel in spec.channels]
    card = json.loads((package / "model.json").read_text("utf-8"))["properties"]
    assert card["geoseg:provenance"]["chips"]["chips"] == {"train": 16, "val": 2, "test": 2}


def test_what_ships_is_small_and_says_that_it_never_saw_a_real_scene() -> None:
    path = package_path("landcover-s2")
    assert validate_package(path) == []
    assert sum(file.stat().st_size for file in path.iterdir()) <= 8_000_000
    card = json.loads((path / "model.json").read_text("utf-8"))["properties"]
    told = card["geoseg:provenance"]
    assert "Generated scenes only" in told["data"]
    test = told["metrics"]["test"]
    assert test["calibration_error"]["after"] < test["calibration_error"]["before"]
    assert {info.name: info.value for info in read_spec(path).classes} == CLASSES


def test_what_ships_maps_scenes_that_nobody_has_seen() -> None:
    model = load_model("landcover-s2")
    bands = BandSet(tuple(Band(name=name, dtype="uint16", scaling=Scaling(scale=1e-4)) for name in BANDS))
    (recipe,) = recipes_for(model.spec, bands)
    right = known = 0
    for number in range(6):
        stored, classes = observe(77, number)
        channels = prepare(torch.from_numpy(stored), torch.ones(SIDE, SIDE, dtype=torch.bool), recipe)
        found = np.array(model.spec.values)[model.predict(channels[None])[0].argmax(0).numpy()]
        right += int((found == classes)[classes > 0].sum())
        known += int((classes > 0).sum())
    assert right > 0.75 * known
