"""``geoseg train`` on the command line: from a scene and its labels to a map, and one line for whatever is wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio

from geoseg.testing import SyntheticScene, write_scene
from tests.cli.conftest import Call
from tests.source.rasters import write
from tests.train.fields import TINY, make_chips

SIDE = 160
QUICK = f"""
net: {{arguments: {json.dumps(TINY)}}}
fit: {{epochs: 3, batch: 4, rate: 0.02, steps: 8, device: cpu}}
augment: {{rotate: 20, scale: [0.9, 1.1]}}
package: {{name: water, tile: 64}}
pictures: 1
tensorboard: false
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.yaml").write_text(QUICK)
    return tmp_path


def test_chips_of_a_scene_become_a_model_that_maps_it(place: Path, call: Call) -> None:
    write_scene(place / "scene.tif", SIDE, SIDE)
    grid = SyntheticScene(SIDE, SIDE).geobox
    with rasterio.open(place / "scene.tif") as file:
        red, nir = (file.read(file.descriptions.index(name) + 1).astype(float) for name in ("red", "nir"))
    ndvi = (nir - red) / np.maximum(nir + red, 1)
    green = (ndvi > np.median(ndvi)).astype(np.uint8)
    write(place / "land.tif", green[None], crs=str(grid.crs), transform=grid.transform, nodata=255)
    cut = ("chips", "scene.tif", "--labels", "land.tif", "--bands", "red,nir", "--size", "32", "--split", "blocks:640")
    assert call(*cut, "--classes", "bare=0,green=1", "--fractions", "0.6,0.4", "--out", "chips").code == 0
    done = call("train", "-c", "train.yaml", "--set", "data.channels=[red, nir, NDVI]", "--out", "out")
    assert done.code == 0, done.err
    assert done.out == "out/package\n"
    lines = [line.removeprefix("geoseg: ") for line in done.err.splitlines()]
    assert [line.split(":")[0] for line in lines[1:4]] == [f"epoch {number} of 3" for number in (1, 2, 3)]
    assert lines[4].startswith("val: mean IoU 0.")
    assert call("models", "validate", "out/package").code == 0
    mapped = call("segment", "scene.tif", "--model", "out/package", "--out", "map", "--vector", "none")
    assert mapped.code == 0, mapped.err
    with rasterio.open(place / "map" / "labels.tif") as file:
        assert (file.read(1) == green).mean() > 0.8
    again = call("train", "-c", "train.yaml", "--set", "data.channels=[red, nir, NDVI]", "--out", "out", "--json")
    assert again.code == 0
    assert json.loads(again.out)["epochs"] == 3
    assert "epoch 1" not in again.err


def test_the_configuration_is_shown_and_nothing_is_made(place: Path, call: Call) -> None:
    shown = call("train", "-c", "train.yaml", "--set", "fit.seed=5", "--out", "out", "--show-config")
    assert shown.code == 0
    assert "out: out  # --set" in shown.out
    assert "  seed: 5  # --set" in shown.out
    assert "  epochs: 3  # train.yaml" in shown.out
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "fit.epoch=3", "--out", "out"), "fit.epoch: no such option; did you mean fit.epochs?"),
        ((), "--out is missing"),
        (("--out", "out"), "data.chips chips: holds no chips.json; cut chips with geoseg chips"),
        (("--out", "out", "--set", "fit.device=tpu"), "fit.device tpu"),
        (("-c", "none.yaml",), "none.yaml: cannot read"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_and_nothing_is_made(
    place: Path, call: Call, words: tuple[str, ...], message: str
) -> None:
    done = call("train", *words)
    assert done.code == 2
    assert len(done.error_lines) == 1
    assert message in done.error_lines[0]
    assert not (place / "out").exists()


def test_a_training_that_fails_after_it_began_says_how_to_go_on(place: Path, call: Call) -> None:
    make_chips(place / "chips")
    done = call("train", "-c", "train.yaml", "--set", "fit.rate=1e30", "--set", "fit.clip=null", "--out", "out")
    assert done.code == 1
    assert "lower fit.rate" in done.error_lines[0]


def test_ctrl_c_ends_with_one_line_and_the_same_command_goes_on(place: Path, call: Call) -> None:
    make_chips(place / "chips")
    words = ["train", "-c", "train.yaml", "--set", "fit.epochs=20", "--set", "fit.steps=2", "--out", "out"]
    began = subprocess.Popen([sys.executable, "-m", "geoseg", *words], stderr=subprocess.PIPE, text=True)
    last, deadline = place / "out" / "checkpoints" / "last.pt", time.monotonic() + 60
    while not last.exists() and began.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    began.send_signal(signal.SIGINT)
    _, err = began.communicate(timeout=60)
    assert began.returncode == 130, err
    assert err.splitlines()[-1] == "geoseg: interrupted; the same command goes on from the last checkpoint in out"
    resumed = call(*words)
    assert resumed.code == 0
    assert "; goes on with epoch " in resumed.err.splitlines()[0]
    assert len((place / "out" / "history.csv").read_text().splitlines()) == 21
