"""``geoseg chips`` on the command line: a folder of chips, a table, and one line for whatever is wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from geoseg.testing import SyntheticScene, write_scene
from tests.cli.conftest import Call
from tests.source.rasters import write

SIDE = 160


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scene, and labels of its upper half: 1 and 2 in stripes, and a little of 7."""
    write_scene(tmp_path / "scene.tif", SIDE, SIDE)
    grid = SyntheticScene(SIDE, SIDE).geobox
    values = np.repeat(np.tile(np.array([1, 2], np.uint8), SIDE // 40), 20)[None].repeat(SIDE, 0)
    values[5:8, 70:72] = 7
    values[SIDE // 2 :] = 0
    write(tmp_path / "land.tif", values[None], crs=str(grid.crs), transform=grid.transform, nodata=0)
    monkeypatch.chdir(tmp_path)
    return tmp_path


CUT = ("chips", "scene.tif", "--labels", "land.tif", "--size", "16", "--split", "blocks:320", "--out", "out")


def test_chips_are_cut_and_told(place: Path, call: Call) -> None:
    done = call(*CUT, "--bands", "red,nir", "--classes", "field=1,meadow=2,pond=7", "--buffer", "20")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split() == ["split", "chips", "labelled", "field", "meadow", "pond"]
    assert lines[1].split()[0] == "train"
    assert lines[1].split()[-1] == "6"
    assert any(line.endswith("lie too close to a chip of another split") for line in lines)
    assert lines[-1] == "out/chips.csv"
    assert sorted(path.name for path in (place / "out").iterdir() if path.name != "lock") == [
        "chips.csv",
        "chips.json",
        "images",
        "labels",
        "split.geojson",
        "split.png",
    ]
    with rasterio.open(next((place / "out" / "images").iterdir())) as chip:
        assert (chip.count, chip.shape, chip.descriptions) == (2, (16, 16), ("red", "nir"))
        assert chip.scales == (1e-4, 1e-4)
    assert "warning: val has no pixel of pond" in done.err
    again = call(*CUT, "--bands", "red,nir", "--classes", "field=1,meadow=2,pond=7", "--buffer", "20")
    assert again.out == done.out


def test_one_json_document_says_what_is_there(place: Path, call: Call) -> None:
    done = call(*CUT, "--bands", "nir=4,red", "--json", "--per-class", "3", "--seed", "5", "--fractions", "0.5,0.5")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["folder"] == "out"
    assert set(told["chips"]) == {"train", "val"}
    assert told["classes"] == ["class_1", "class_2", "class_7"]
    with rasterio.open(next((place / "out" / "images").iterdir())) as chip:
        assert chip.descriptions == ("nir", "red")
    kept = json.loads((place / "out" / "chips.json").read_text())
    assert kept["chips"] == told["chips"]
    assert kept["classes"][2] == {"name": "class_7", "value": 7}
    assert kept["ignore_index"] == 255


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--bands", "red,red"), "--bands red,red: name each band once"),
        (("--bands", "swir99"), "no band is named 'swir99'"),
        (("--bands", "red", "--fractions", "0.7;0.3"), "--fractions 0.7;0.3: give two or three numbers"),
        (("--bands", "red", "--fractions", "0,1"), "train's above 0"),
        (("--bands", "red", "--classes", "water"), "--classes water: write names with their values"),
        (("--bands", "red", "--classes", "a=1,b=1"), "--classes a=1,b=1: the value 1 stands there twice"),
        (("--bands", "red", "--classes", "a=1,a=2"), "--classes a=1,a=2: the name a stands there twice"),
        (("--bands", "red", "--classes", "a=-1"), "--classes a=-1: write names with their values"),
        (("--bands", "red", "--ignore", "a"), "--ignore a: write whole numbers"),
        (("--bands", "red", "--ignore", "--5"), "--ignore --5: write whole numbers"),
        (("--bands", "red", "--split", "random"), "split 'random' is none of"),
        (("--bands", "red", "--split", "areas:none.geojson"), "none.geojson: cannot read"),
        (("--bands", "red", "--labels", "val=land.tif"), "needs --split file"),
        (("--bands", "red", "--labels", "none.tif"), "none.tif"),
        (("--bands", "red", "--labels", "none.shp"), "none.shp: No such file"),
        (("--bands", "red", "--labels", "land.kml"), "land.kml: polygons are read from GeoJSON"),
        (("--bands", "red", "--size", "0"), "chips of 0 pixels"),
        (("--bands", "red", "--out", "no/such/out"), "its parent directory does not exist"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    place: Path, call: Call, words: tuple[str, ...], message: str
) -> None:
    (place / "land.kml").write_text("<kml/>")
    done = call(*CUT, *words)
    assert done.code == 2
    assert len(done.error_lines) == 1
    assert message in done.error_lines[0]
    assert not (place / "out").exists()


def test_pairs_are_cut_as_one_scene(place: Path, call: Call) -> None:
    write_scene(place / "after.tif", SIDE, SIDE, seed=1)
    words = ("chips", "scene.tif", "after.tif", *CUT[2:], "--bands", "red,nir", "--pairs")
    assert call(*words).code == 0
    with (place / "out" / "chips.csv").open(newline="") as table:
        row = next(csv.DictReader(table))
    top, left = int(row["row_off"]), int(row["col_off"])
    with rasterio.open(place / "out" / row["image"]) as chip:
        assert chip.descriptions == ("before.red", "before.nir", "after.red", "after.nir")
        pixels = chip.read()
    for scene, bands in (("scene", pixels[:2]), ("after", pixels[2:])):
        with rasterio.open(place / f"{scene}.tif") as file:
            names = [file.descriptions.index(name) + 1 for name in ("red", "nir")]
            np.testing.assert_array_equal(bands, file.read(names, window=((top, top + 16), (left, left + 16))))
    alone = call(*CUT, "--bands", "red", "--pairs")
    assert alone.code == 2
    assert "two by two, before and after; there are 1" in alone.error_lines[0]


def test_what_fails_after_chips_were_begun_says_how_to_go_on(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geoseg.errors import SinkError
    from geoseg.train import chip_folder

    def fail(*_: object, **__: object) -> None:
        raise SinkError("no space left on out, need about 1 MB")

    monkeypatch.setattr(chip_folder, "write_chip_labels", fail)
    done = call(*CUT, "--bands", "red")
    assert done.code == 1
    assert done.error_lines == [
        "geoseg: error: no space left on out, need about 1 MB. The same command goes on where this one ended."
    ]
    assert not (place / "out" / "chips.csv").exists()
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert call(*CUT, "--bands", "red").code == 0
