"""forest-rgb: how its recipe parts the pictures, the recipe in miniature, and what ships."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy.ndimage import binary_dilation, binary_erosion

from geoseg.evaluation.confusion import count_confusion, iou
from geoseg.models import load_model, package_path, read_spec, validate_package
from geoseg.scene import Band, BandSet
from geoseg.sink.chip import write_chip, write_chip_labels
from geoseg.source import open_scene
from geoseg.train.label_files import open_labels
from geoseg.train.labels import LabelFile, LabelOptions
from geoseg.train.temperature import calibrate, labelled_scores
from geoseg.window import GeoBox
from pipelines.forest_rgb.__main__ import main, read_pictures
from pipelines.forest_rgb.rivers import flooded

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
    assert counts == {"train": 25, "val": 2, "test": 7}
    assert all(each.scene.is_file() and each.labels.is_file() for each in pictures)


def forested(folder: Path) -> tuple[Path, Path]:
    """A picture of much forest, and its labels."""
    scene, labels = (write_pictures(folder) / "train" / kind / "west.tif" for kind in ("image", "mask"))
    with rasterio.open(labels, "r+") as file:
        file.write(np.where(np.arange(SIDE) < SIDE // 4, 1, file.read(1)).astype(np.uint8), 1)
    return scene, labels


def test_a_river_lies_where_the_labels_say_and_nothing_else_changes(tmp_path: Path) -> None:
    scene, labels = forested(tmp_path / "data")
    made = flooded(scene, labels, tmp_path / "rivers", seed=3)
    assert made is not None
    before, after = (rasterio.open(path).read() for path in (scene, made[0]))
    known, told = (rasterio.open(path).read(1) for path in (labels, made[1]))
    river = (told == 2) & (known == 1)
    assert 0.01 < river.mean() < 0.5
    far = ~binary_dilation(river | (known == 2), iterations=6)
    assert far.any()
    assert (before == after).all(axis=0)[far].all()
    calm = binary_erosion(river, iterations=4)
    assert after[:, calm].std(axis=1).max() < before[:, calm].std(axis=1).min() / 2
    with rasterio.open(scene) as one, rasterio.open(made[0]) as other:
        assert (one.crs, one.transform) == (other.crs, other.transform)


def test_rivers_are_the_same_for_a_seed_and_others_for_another(tmp_path: Path) -> None:
    pair = forested(tmp_path / "data")
    drawn = [flooded(*pair, tmp_path / folder, seed) for folder, seed in (("a", 1), ("b", 1), ("a", 2))]
    contents = [None if each is None else each[0].read_bytes() for each in drawn]
    assert contents[0] == contents[1] != contents[2]
    assert None not in contents


def test_a_picture_of_fields_gets_no_river(tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data") / "train"
    labels = data / "mask" / "west.tif"
    with rasterio.open(labels, "r+") as file:
        file.write(np.full((SIDE, SIDE), 2, np.uint8), 1)
    assert flooded(data / "image" / "west.tif", labels, tmp_path / "rivers", seed=0) is None
    assert not (tmp_path / "rivers").exists()


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


def test_what_ships_is_small_and_says_where_it_comes_from() -> None:
    path = package_path("forest-rgb")
    assert validate_package(path) == []
    assert sum(file.stat().st_size for file in path.iterdir()) <= 8_000_000
    spec = read_spec(path)
    assert spec.bands == ("red", "green", "blue")
    assert [info.name for info in spec.classes] == ["forest", "non-forest"]
    card = json.loads((path / "model.json").read_text("utf-8"))["properties"]
    told = card["geoseg:provenance"]
    assert {"data", "citation", "attribution", "licence", "split", "recipe", "limits"} <= set(told)
    assert (card["license"], told["chips"]["chips"]) == ("other", {"train": 49, "val": 2, "test": 7})
    test = told["metrics"]["test"]
    assert test["calibration_error"]["after"] < test["calibration_error"]["before"]


def test_what_ships_is_as_good_as_its_card_says(shared: Path) -> None:
    model, matrix = load_model("forest-rgb"), np.zeros((2, 2), np.int64)
    for each in read_pictures(shared / "data" / "amazon_s2_forest_rgb"):
        if each.split == "test":
            scene = open_scene(str(each.scene), bands=model.spec.bands)
            opened = open_labels([LabelFile(path=str(each.labels))], LabelOptions())
            for scores, truth in labelled_scores(model, scene, opened.on(scene.geobox)):
                matrix += count_confusion(truth.numpy(), scores.argmax(1).numpy(), 2)
    card = json.loads((package_path("forest-rgb") / "model.json").read_text("utf-8"))["properties"]
    said = card["geoseg:provenance"]["metrics"]["test"]["iou"]
    assert dict(zip(said, iou(matrix), strict=True)) == pytest.approx(said, abs=0.005)
