"""Training sees of a chip what the engine sees of a scene; the edge of what is usable included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from geoseg.errors import ConfigError, SourceError
from geoseg.models.card import rescale_of
from geoseg.prepare import prepare, recipes_for
from geoseg.scene import Scaling
from geoseg.source.bands import declare_band
from geoseg.source.info import inspect
from geoseg.source.raster import join_rasters
from geoseg.spec import Channel, ModelSpec
from geoseg.train import IGNORE
from geoseg.train.feed import judged_batches
from geoseg.train.options import DataOptions
from geoseg.train.samples import open_chips
from geoseg.train.statistics import measure
from geoseg.train.view import View, classes_on
from geoseg.window import whole
from tests.train.fields import REFLECTANCE, SIDE, SPLITS, make_chips

SCALING = ({"type": "z-score", "mean": 0.25, "stddev": 0.1},)


@pytest.mark.parametrize("dates", [1, 2])
@pytest.mark.parametrize("declared", [True, False])
def test_a_chip_is_shown_as_the_engine_shows_a_scene(tmp_path: Path, dates: int, declared: bool) -> None:
    folder = make_chips(tmp_path / "chips", dates=dates, scaling=REFLECTANCE if declared else None)
    chips = open_chips(folder)
    chips.assumed = None if declared else Scaling(scale=2e-4, offset=-0.1)
    options = DataOptions(channels=("nir", "NDVI", {"name": "sum", "expression": "red + nir"}), fill=-7.0)
    view = View.of(chips, options, classes_on(chips, {}), SCALING)
    sample = chips.read(chips.of("train")[0])
    shown = view.show(sample.bands[None], sample.valid[None])[0].reshape(dates, 3, SIDE, SIDE)

    rescale = rescale_of(SCALING[0])
    formulas = {"nir": None, "NDVI": "(nir - red) / (nir + red)", "sum": "red + nir"}
    spec = ModelSpec(
        name="net", bands=("red", "nir"), classes=classes_on(chips, {}), fill=-7.0, dates=dates,
        channels=tuple(Channel(name=name, expression=formula, rescale=rescale) for name, formula in formulas.items()),
        assume_scaling=chips.assumed,
    )  # fmt: skip
    info = inspect(folder / "images" / "train0.tif")
    source = join_rasters([(info, one.index, declare_band(info, one.index, one.description)) for one in info.bands])
    pixels, valid = source.read(whole(source.geobox))
    for date, recipe in enumerate(recipes_for(spec, source.bands)):
        expected = prepare(torch.from_numpy(pixels), torch.from_numpy(valid), recipe)
        assert torch.equal(shown[date], expected)
    assert (shown[..., :3, :] == -7.0).all()
    assert (sample.labels[:3] == IGNORE).all()
    assert (sample.labels[3:] != IGNORE).all()


def test_what_was_kept_reads_the_same_and_room_is_bounded(tmp_path: Path) -> None:
    folder = make_chips(tmp_path / "chips")
    fresh, held = open_chips(folder), open_chips(folder)
    one = SIDE * SIDE * (2 * 2 + 1 + 1)
    held.keep(2.5 * one)
    for _ in range(2):
        for chip in held.chips:
            assert torch.equal(held.read(chip).bands, fresh.read(chip).bands)
    assert len(held._kept) == 2
    assert not fresh._kept


def test_figures_are_those_of_usable_pixels(tmp_path: Path) -> None:
    chips = open_chips(make_chips(tmp_path / "chips"))
    train = chips.of("train")
    found = measure(chips.bands, chips, train, lambda bands, _: bands[0])
    every = np.concatenate([chips.read(chip).bands[0][:, 3:].flatten(1).double().numpy() for chip in train], 1)
    for number, name in enumerate(("red", "nir")):
        entry = found.values[name]
        assert entry["mean"] == pytest.approx(every[number].mean(), rel=1e-5)
        assert entry["sd"] == pytest.approx(every[number].std(), rel=1e-5)
        expected, _ = np.histogram(every[number], 20, (every[number].min(), every[number].max()))
        assert sum(entry["histogram"]["counts"]) == every.shape[1]
        assert np.abs(np.array(entry["histogram"]["counts"]) - expected).max() <= 2  # float32 at the edges of bins
    scored = found.z_scores[0]
    assert (scored["mean"], scored["stddev"]) == (found.values["red"]["mean"], found.values["red"]["sd"])


def test_chips_are_judged_whole_and_what_is_added_has_no_label(tmp_path: Path) -> None:
    chips = open_chips(make_chips(tmp_path / "chips"))
    view = View.of(chips, DataOptions(fill=-7.0), classes_on(chips, {}), None)
    (channels, labels), *rest = judged_batches(chips, chips.of("val"), view, 8, 24)
    assert not rest
    assert channels.shape == (SPLITS["val"], 2, 48, 48)
    assert (channels[..., SIDE:] == -7.0).all()
    assert (labels[:, SIDE:] == IGNORE).all()
    assert torch.equal(labels[0, :SIDE, :SIDE], chips.read(chips.of("val")[0]).labels.long())


def test_chips_that_are_not_what_they_should_be_are_refused(tmp_path: Path) -> None:
    folder = make_chips(tmp_path / "chips")
    (folder / "labels" / "train0.tif").write_bytes((folder / "images" / "train1.tif").read_bytes())
    chips = open_chips(folder)
    with pytest.raises(SourceError, match=r"train0\.tif"):
        chips.read(chips.chips[0])
    (folder / "images" / "train1.tif").write_bytes(
        (make_chips(tmp_path / "pairs", dates=2) / "images" / "train1.tif").read_bytes()
    )
    with pytest.raises(SourceError, match=r"train1\.tif: holds before\.red.*others red, nir"):
        chips.read(chips.chips[1])
    (folder / "chips.json").write_text('{"asked": {}}')
    with pytest.raises(ConfigError, match="the cut is not finished"):
        open_chips(folder)


def test_pairs_need_a_class_for_what_did_not_change(tmp_path: Path) -> None:
    folder = make_chips(tmp_path / "chips", dates=2)
    (folder / "chips.json").write_text('{"classes": [{"name": "dry", "value": 1}, {"name": "wet", "value": 2}]}')
    with pytest.raises(ConfigError, match=r"pairs need a class of value 0 .* dry=1, wet=2"):
        classes_on(open_chips(folder), {})
    with pytest.raises(ConfigError, match=r"package\.colors: wet: red: give RRGGBB"):
        classes_on(open_chips(make_chips(tmp_path / "other")), {"wet": "red"})
