"""``geoseg calibrate``: what it says, what it writes, and what it refuses before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from geoseg.models import read_spec, save_package
from geoseg.testing.fakes import geobox_of
from tests.cli.conftest import Call
from tests.models.cards import card_of, saved_mixer
from tests.source.rasters import write

GRID = geobox_of(90, 70)
PLACE: dict[str, Any] = {"crs": str(GRID.crs), "transform": GRID.transform}
BANDS = ("green", "red", "nir")


class Sure(nn.Module):
    """Scores that are three times too large."""

    def forward(self, batch: Tensor) -> Tensor:
        """Scores (n, 2, row, col)."""
        return 3 * batch[:, :2]


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A package, a scene, and labels that are drawn with the probabilities of scores that are right."""
    fields: dict[str, Any] = {"format": "onnx", "tile": 32, "multiple_of": 8}
    package = save_package(Sure(), tmp_path / "net", name="sure", bands=BANDS, classes=("no", "yes"), **fields)
    random = np.random.default_rng(0)
    pixels = random.normal(0, 1.5, (3, 90, 70)).astype(np.float32)
    labels = (pixels[:2] + random.gumbel(size=(2, 90, 70))).argmax(0).astype(np.uint8)
    scene = write(tmp_path / "scene.tif", pixels, names=BANDS, **PLACE)
    return package, scene, write(tmp_path / "truth.tif", labels[None], nodata=255, **PLACE)


def test_a_calibrated_copy_is_written(call: Call, inputs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    package, scene, truth = inputs
    ended = call("calibrate", package, scene, "--truth", truth, "--out", tmp_path / "calm")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0].startswith("6,300 pixels, ")
    assert lines[1].split()[:2] == ["temperature", "1"]
    before, after = map(float, lines[2].split()[-2:])
    assert after < before
    assert lines[-1] == str(tmp_path / "calm")
    told = card_of(tmp_path / "calm")["properties"]
    assert told["geoseg:temperature"] == pytest.approx(3, rel=0.1)
    assert told["geoseg:calibration"]["scenes"] == ["scene"]
    assert read_spec(package).temperature == 1.0
    assert "softmax at temperature" in call("models", "show", tmp_path / "calm").out


def test_the_package_itself_is_written_only_when_asked(call: Call, inputs: tuple[Path, Path, Path]) -> None:
    package, scene, truth = inputs
    told = json.loads(call("calibrate", package, scene, "--truth", truth, "--json").out)
    assert (told["written"], read_spec(package).temperature) == (None, 1.0)
    call("calibrate", package, scene, "--truth", truth, "--write")
    assert read_spec(package).temperature == told["temperature"]


def test_what_cannot_be_done_is_one_line_and_2(call: Call, inputs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    package, scene, truth = inputs
    pairs = saved_mixer(tmp_path / "pairs", dates=2)
    for words, told in (
        (("spectral-baseline", scene, "--truth", truth, "--write"), "comes with geoseg"),
        ((package, scene, "--truth", truth, "--out", package), "already there"),
        ((package, scene, "--truth", truth, "--ignore", "x"), "--ignore x"),
        ((pairs, scene, "--truth", truth), "two by two"),
        ((package, scene, "--truth", tmp_path / "none.tif"), "none.tif"),
    ):
        ended = call("calibrate", *words)
        assert (ended.code, ended.out, len(ended.err.splitlines())) == (2, "", 1), ended.err
        assert told in ended.err


class SureOfAfter(nn.Module):
    """Scores of the later date, three times too large."""

    def forward(self, batch: Tensor) -> Tensor:
        """Scores (n, 2, row, col) of (n, 2, channel, row, col)."""
        return 3 * batch[:, 1, :2] + 0 * batch[:, 0, :2]


def test_a_model_of_two_dates_takes_scenes_two_by_two(
    call: Call, inputs: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    _, scene, truth = inputs
    fields: dict[str, Any] = {"format": "onnx", "tile": 32, "multiple_of": 8, "dates": 2, "task": "change-detection"}
    pairs = save_package(SureOfAfter(), tmp_path / "two", name="two", bands=BANDS, classes=("no", "yes"), **fields)
    noise = write(tmp_path / "noise.tif", np.ones((3, 90, 70), np.float32), names=BANDS, **PLACE)
    told = json.loads(call("calibrate", pairs, noise, scene, "--truth", truth, "--json").out)
    assert told["pixels"] == 6300
    assert told["temperature"] == pytest.approx(3, rel=0.1)
