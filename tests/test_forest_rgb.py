"""forest-rgb: how its recipe parts the pictures, the recipe in miniature, and what ships."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from geoseg.models import validate_package
from geoseg.scene import Band, BandSet
from geoseg.sink.chip import write_chip, write_chip_labels
from geoseg.source import open_scene
from geoseg.train.labels import LabelFile
from geoseg.train.temperature import calibrate
from geoseg.window import GeoBox
from pipelines.forest_rgb.__main__ import main, read_pictures

SIDE = 512
FOREST, FIELD = (30, 60, 25), (150, 130, 90)
"""Levels of red, green, blue."""
PICTURES = {"west": ("train", -60.0), "middle": ("train", -57.5), "apart": ("val", -57.6)}


def write_pictures(folder: Path) -> Path:
    """Pictures for each use, forest in squares of 32 pixels, with grain on all of it."""
    random, rows = np.random.default_rng(0), []
    bands = BandSet(tuple(Band(name=name, dtype="uint8") for name in ("red", "green", "blue")))
    for name, (split, lon) in PICTURES.items():
        box = GeoBox.from_bbox((lon, -4.0, lon + 0.046, -3.954), "EPSG:4326", shape=(SIDE, SIDE))
        forest = np.kron(random.random((SIDE // 32, SIDE // 32)) < 0.5, np.ones((32, 32), bool))
        ground = np.where(forest, np.array(FOREST)[:, None, None], np.array(FIELD)[:, None, None])
        pixels = np.clip(ground + random.normal(0, 25, (3, SIDE, SIDE)), 0, 255).astype(np.uint8)
        for kind in ("image", "mask"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
        valid = np.ones(forest.shape, bool)
        write_chip(folder / split / "image" / f"{name}.tif", pixels, valid, geobox=box, bands=bands)
        codes = np.where(forest, 1, 2).astype(np.uint8)
        write_chip_labels(folder / split / "mask" / f"{name}.tif", codes, geobox=box, nodata=0)
        rows.append({"id": name, "split": split, "lon": lon})
    with (folder / "chips.csv").open("w", encoding="utf-8", newline="") as table:
        writer = csv.DictWriter(table, tuple(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_the_chips_to_test_with_choose_nothing(tmp_path: Path) -> None:
    uses = {each.scene.stem: each.split for each in read_pictures(write_pictures(tmp_path))}
    assert uses == {"west": "train", "middle": "val", "apart": "test"}


def test_the_real_pictures_lie_far_apart(shared: Path) -> None:
    pictures = read_pictures(shared / "data" / "amazon_s2_forest_rgb")
    counts = {split: sum(each.split == split for each in pictures) for split in ("train", "val", "test")}
    assert counts == {"train": 22, "val": 5, "test": 7}
    assert all(each.scene.is_file() and each.labels.is_file() for each in pictures)


MINIATURE = (
    "data.side=64", "fit.epochs=1", "fit.steps=30", "fit.batch=4", "fit.average=null", "net.arguments.encoder_depth=2",
    "net.arguments.decoder_channels=[16, 8]",
)  # fmt: skip


@pytest.mark.slow
def test_one_command_makes_a_package_that_is_as_sure_as_it_is_right(tmp_path: Path) -> None:
    data, settings = write_pictures(tmp_path / "data"), [word for each in MINIATURE for word in ("--set", each)]
    for out in ("a", "b"):
        main([str(data), str(tmp_path / out), *settings])
    package = tmp_path / "a" / "forest-rgb"
    assert validate_package(package) == []
    weights = [(tmp_path / out / "forest-rgb" / "model.safetensors").read_bytes() for out in ("a", "b")]
    assert weights[0] == weights[1]
    card = json.loads((package / "model.json").read_text("utf-8"))["properties"]
    assert card["geoseg:provenance"]["chips"]["chips"] == {"train": 1, "val": 1, "test": 1}
    assert card["geoseg:temperature"] == card["geoseg:calibration"]["temperature"] != 1
    told = card["geoseg:provenance"]["metrics"]["test"]
    assert told["miou"] > 0.8
    scene = open_scene(str(data / "val" / "image" / "apart.tif"), bands=("red", "green", "blue"))
    again = calibrate(package, [scene], [LabelFile(path=str(data / "val" / "mask" / "apart.tif"))])
    assert again.was == card["geoseg:temperature"]
    assert again.error[0] == pytest.approx(told["calibration_error"]["after"], abs=1e-3)
