"""A training as a whole: what comes out, and that an interruption leaves no trace in it."""

from __future__ import annotations

import csv
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from geoseg.errors import ConfigError, ModelError, SinkError
from geoseg.events import Warned
from geoseg.models import load_model, read_spec, validate_package
from geoseg.prepare import prepare, recipes_for
from geoseg.source import open_scene
from geoseg.train.fit import Loop
from geoseg.train.options import NetOptions
from geoseg.train.training import EpochDone, TrainBegan, Trained, train
from geoseg.window import whole
from tests.train.fields import NAMES, SIDE, SPLITS, make_chips, options_for


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chips(tmp_path_factory.mktemp("single") / "chips")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chips(tmp_path_factory.mktemp("pairs") / "chips", dates=2)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_training_ends_with_a_package_that_knows_where_it_comes_from(chips: Path, tmp_path: Path) -> None:
    events: list[object] = []
    out = tmp_path / "out"
    made = train(options_for(chips, epochs=6, rate=0.02), out, on_event=events.append)
    assert made == Trained(package=out / "package", history=out / "history.csv", epochs=6, metrics=made.metrics)
    assert validate_package(made.package) == []
    spec = read_spec(made.package)
    assert [channel.name for channel in spec.channels] == ["red", "nir", "NDVI"]
    assert [(info.value, info.name) for info in spec.classes] == [(0, "dry"), (1, "wet")]
    assert (spec.tile, spec.multiple_of, spec.dates, spec.task) == (64, 4, 1, "segmentation")
    fields = json.loads((made.package / "model.json").read_text())["properties"]
    told = fields["geoseg:provenance"]
    assert told["training"]["config"]["fit"]["epochs"] == 6
    assert told["chips"]["chips"] == SPLITS
    assert str(tmp_path) not in json.dumps(told["chips"])
    assert fields["license"] == "CC0-1.0"
    assert set(fields["geoseg:training_statistics"]) == {"red", "nir"}
    rows = rows_of(made.history)
    assert [row["epoch"] for row in rows] == [str(number) for number in range(1, 7)]
    best = max(rows, key=lambda row: float(row["val_miou"]))
    assert told["training"]["best_epoch"] == int(best["epoch"])
    assert made.metrics["val"]["miou"] == round(float(best["val_miou"]), 4) > 0.8
    assert made.metrics["val"]["iou"].keys() == set(NAMES)
    assert made.metrics["test"]["pixels"] == (SIDE - 3) * SIDE
    assert isinstance(events[0], TrainBegan)
    assert [event.row["epoch"] for event in events if isinstance(event, EpochDone)] == list(range(1, 7))
    with Image.open(out / "pictures" / "epoch-0006.webp") as picture:
        assert picture.size == (3 * SIDE + 2 * 4, SIDE)  # what is seen, truth, prediction


def test_the_package_scores_a_chip_as_the_training_did(chips: Path, tmp_path: Path) -> None:
    """Read as a scene, prepared by the engine's recipe, mapped by the package: the IoU on the card."""
    made = train(options_for(chips, epochs=4, rate=0.02), tmp_path / "out")
    model = load_model(made.package)
    scene = open_scene(chips / "images" / "test0.tif", bands=model.spec.bands)
    pixels, valid = scene.source.read(whole(scene.geobox))
    channels = prepare(torch.from_numpy(pixels), torch.from_numpy(valid), recipes_for(model.spec, scene.bands)[0])
    mapped = model.predict(channels[None]).argmax(1)[0].numpy()
    (truth,), known = open_scene(
        None, bands=("label",), band_map={"label": str(chips / "labels" / "test0.tif")}
    ).source.read(whole(scene.geobox))
    for value, name in enumerate(NAMES):
        here, there = (mapped == value) & known, (truth == value) & known
        assert made.metrics["test"]["iou"][name] == pytest.approx((here & there).sum() / (here | there).sum(), abs=1e-4)


def test_pairs_are_trained_with_their_dates_in_order(pairs: Path, tmp_path: Path) -> None:
    made = train(options_for(pairs, pairs=True, epochs=6, rate=0.02), tmp_path / "out")
    spec = read_spec(made.package)
    assert (spec.dates, spec.task) == (2, "change-detection")
    assert made.metrics["val"]["miou"] > 0.8


# --- what is refused ---


def test_another_training_is_kept_unless_it_is_to_go(chips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(options_for(chips, epochs=1), out)
    with pytest.raises(SinkError, match=r"another fit\.seed; choose another --out, or --overwrite"):
        train(options_for(chips, epochs=1, seed=1), out)
    assert train(options_for(chips, epochs=1, seed=1), out, overwrite=True).epochs == 1
    copied = make_chips(tmp_path / "copy")
    moved = replace(options_for(copied, epochs=1), data=replace(options_for(copied).data, chips=str(copied)))
    train(moved, tmp_path / "other")
    (copied / "chips.csv").write_text((copied / "chips.csv").read_text() + "\n")
    with pytest.raises(SinkError, match=r"data\.chips changed since this training began"):
        train(moved, tmp_path / "other")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("keep me")
    with pytest.raises(SinkError, match=r"holds letter\.txt, which is of no training"):
        train(moved, tmp_path / "full")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"net": NetOptions(architecture="Unett")}, "there is no 'Unett'; did you mean Unet"),
        (
            {"net": NetOptions(architecture="SiameseUnet", arguments={"encoder_depth": 2, "decoder_channels": [8, 4]})},
            "SiameseUnet does not take an input of",
        ),
        ({"net": NetOptions(arguments={"in_channels": 4})}, "in_channels follows from the chips"),
        ({"net": NetOptions(encoder_weights="none.safetensors")}, "none.safetensors: cannot be read"),
        ({"loss": "dise"}, "there is no loss 'dise'"),
        ({"class_weights": (1.0, 2.0, 3.0)}, "class_weights has 3 numbers for 2 classes"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_made(
    chips: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(replace(options_for(chips), **change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"channels": ("red", "swir16")}, "'swir16' is neither a band of the chips"),
        ({"channels": ("NDWI",)}, "NDWI needs green"),
        ({"channels": ({"name": "x"},)}, "should hold name and expression"),
        ({"side": 30}, "data.side 30 is no multiple of 4"),
        ({"scaling": ({"type": "scale", "value": 2}, {"type": "scale", "value": 2})}, "2 entries for 3 channels"),
        ({"chips": "nowhere"}, "nowhere: holds no chips.json; cut chips with geoseg chips"),
    ],
)
def test_data_that_does_not_fit_is_refused(chips: Path, tmp_path: Path, data: dict[str, Any], message: str) -> None:
    wanted = options_for(chips)
    with pytest.raises(ConfigError, match=message):
        train(replace(wanted, data=replace(wanted.data, **data)), tmp_path / "out")


def test_a_loss_that_is_no_number_any_more_ends_the_training(chips: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the loss became .* in epoch 1, step \d+: lower fit.rate"):
        train(options_for(chips, rate=1e30, warmup=0.0, clip=None, optimizer="sgd", epochs=9), tmp_path / "out")


# --- ends, averages, schedules ---


def test_patience_ends_a_training_and_the_best_epoch_is_kept(
    chips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [0.5, 0.7, 0.6, 0.65, 0.9]

    def worth(self: Loop, row: dict[str, float]) -> float:
        return values[int(row.get("epoch", self.progress.epoch + 1)) - 1]

    monkeypatch.setattr(Loop, "_worth", worth)
    made = train(options_for(chips, epochs=9, patience=2), tmp_path / "out")
    assert made.epochs == 4
    card = json.loads((made.package / "model.json").read_text())["properties"]["geoseg:provenance"]
    assert card["training"]["best_epoch"] == 2


def test_without_chips_to_judge_by_the_last_epoch_is_kept(tmp_path: Path) -> None:
    folder = make_chips(tmp_path / "chips")
    table = (folder / "chips.csv").read_text().splitlines()
    (folder / "chips.csv").write_text("\n".join(line for line in table if ",val," not in line and ",test," not in line))
    events: list[object] = []
    made = train(options_for(folder), tmp_path / "out", on_event=events.append)
    assert made.metrics == {}
    assert any(isinstance(event, Warned) and "no chip is in val" in event.message for event in events)
    assert "val_loss" not in rows_of(made.history)[0]


def test_bfloat16_learns_the_same_ground(chips: Path, tmp_path: Path) -> None:
    made = train(options_for(chips, epochs=6, rate=0.02, precision="bf16"), tmp_path / "out")
    assert made.metrics["val"]["miou"] > 0.8


def test_figures_and_pictures_reach_tensorboard(chips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            told.append((Path(folder).name, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            assert math.isfinite(value)
            told.append((name, step))

        def add_image(self, name: str, image: Any, step: int, dataformats: str) -> None:
            assert (dataformats, image.dtype, image.shape[2]) == ("HWC", np.uint8, 3)
            told.append((name, step))

        def flush(self) -> None: ...
        def close(self) -> None:
            told.append(("closed", 0))

    module = type(sys)("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    train(replace(options_for(chips, epochs=1), tensorboard=True), tmp_path / "out")
    assert told[0] == ("tensorboard", 1)
    assert {("loss", 1), ("val/miou", 1), ("val/predictions", 1), ("closed", 0)} <= set(told)
