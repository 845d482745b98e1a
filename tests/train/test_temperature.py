"""A net that is surer than it is right is found out: its temperature is recovered, and no label changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from torch import Tensor, nn

from geoseg.blend import to_probs
from geoseg.errors import ConfigError, ModelError
from geoseg.models import read_spec, save_package
from geoseg.models.package import open_package
from geoseg.models.writing import amend_card
from geoseg.scene import Scene
from geoseg.testing.fakes import ArraySource, geobox_of, scene_of
from geoseg.train.label_files import open_labels
from geoseg.train.labels import LabelFile, LabelOptions
from geoseg.train.temperature import calibrate, fit_temperature, labelled_scores
from tests.models.cards import rewrite, saved_mixer
from tests.source.rasters import write

BANDS = ("red", "green", "blue")
SURE = 3.0
"""How many times too large the scores of the net are."""
SPEC = replace(read_spec("spectral-baseline"), classes=read_spec("spectral-baseline").classes[:3])


class Sure(nn.Module):
    """Scores that would be right, times a factor."""

    def __init__(self, factor: float = SURE) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, batch: Tensor) -> Tensor:
        """Scores (n, 3, row, col)."""
        return self.factor * batch[:, [2, 0, 1]]


def labels_of(scores: npt.NDArray[Any], seed: int = 0) -> npt.NDArray[np.int64]:
    """Classes (...) drawn with the probabilities that scores (class, ...) promise."""
    draws = np.random.default_rng(seed).gumbel(size=scores.shape)
    found: npt.NDArray[np.int64] = (scores + draws).argmax(0)
    return found


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sure") / "net"
    fields: dict[str, Any] = {"tile": 32, "multiple_of": 8, "format": "onnx"}
    return save_package(Sure(), path, name="sure", bands=BANDS, classes=("a", "b", "c"), **fields)


def scene(height: int = 150, width: int = 110, seed: int = 0) -> tuple[Scene[Any], npt.NDArray[np.float32]]:
    pixels = np.random.default_rng(seed).normal(0, 1.5, (3, height, width)).astype(np.float32)
    return scene_of(ArraySource(pixels, names=BANDS, scaling=None, geobox=geobox_of(height, width))), pixels


def truth_file(path: Path, values: npt.NDArray[Any]) -> LabelFile:
    grid = geobox_of(*values.shape)
    write(path, values.astype(np.uint8)[None], crs=str(grid.crs), transform=grid.transform, nodata=255)
    return LabelFile(path=str(path))


@examples(max_examples=20)
@given(factor=st.floats(0.3, 8), classes=st.integers(2, 5), seed=st.integers(0, 99), independent=st.booleans())
def test_the_temperature_is_where_the_likelihood_is_largest(
    factor: float, classes: int, seed: int, independent: bool
) -> None:
    right = np.random.default_rng(seed).normal(0, 2, (classes, 3000))
    truth = labels_of(right, seed)
    spec = replace(SPEC, activation="sigmoid" if independent else "softmax")
    found = fit_temperature(torch.from_numpy(factor * right.T), torch.from_numpy(truth), spec)

    def loss(logarithm: float) -> float:
        scores = factor * right / np.exp(logarithm)
        if independent:
            signs = np.where(np.arange(classes)[:, None] == truth, 1.0, -1.0)
            return float(np.logaddexp(0, -signs * scores).mean())
        return float(-log_softmax(scores, axis=0)[truth, np.arange(truth.size)].mean())

    best = minimize_scalar(loss, bounds=(-4, 4), method="bounded", options={"xatol": 1e-9})
    assert np.log(found) == pytest.approx(best.x, abs=1e-5)
    if not independent:
        assert found == pytest.approx(factor, rel=0.15)


def test_a_net_that_is_too_sure_is_found_out(package: Path, tmp_path: Path) -> None:
    opened, pixels = scene()
    labels = truth_file(tmp_path / "truth.tif", labels_of(pixels[[2, 0, 1]]))
    found = calibrate(package, [opened], [labels])
    assert found.pixels == 150 * 110  # each pixel once, whatever the overlap of tiles
    assert found.temperature == pytest.approx(SURE, rel=0.05)
    assert found.error[0] > 0.1
    assert found.error[1] < 0.02
    assert found.loss[1] < found.loss[0]
    path = amend_card(open_package(package), {"geoseg:temperature": found.temperature}, tmp_path / "calm")
    was, calm = read_spec(package), read_spec(path)
    assert (was.temperature, calm.temperature) == (1.0, found.temperature)
    again = calibrate(path, [opened], [labels])
    assert again.temperature == pytest.approx(found.temperature)
    assert again.was == found.temperature
    assert again.error[0] == pytest.approx(found.error[1])
    scores = torch.from_numpy(SURE * pixels[None])
    probs = to_probs(scores, calm)
    np.testing.assert_allclose(probs.numpy(), softmax(SURE * pixels[None] / found.temperature, axis=1), atol=1e-6)
    assert (probs.argmax(1) == to_probs(scores, was).argmax(1)).all()


def test_scores_are_those_of_the_pixels_that_are_labelled(package: Path, tmp_path: Path) -> None:
    from geoseg.models import load_model

    opened, pixels = scene(45, 70)
    values = np.full((45, 70), 255)
    values[3:20, 30:66] = np.arange(17 * 36).reshape(17, 36) % 5  # 3 and 4 are no classes of the model
    valid = np.ones((45, 70), bool)
    valid[10:12] = False
    source = ArraySource(pixels, valid, names=BANDS, scaling=None, geobox=opened.geobox)
    placed = open_labels([truth_file(tmp_path / "truth.tif", values)], LabelOptions()).on(opened.geobox)
    parts = list(labelled_scores(load_model(package), scene_of(source), placed))
    wanted = valid & (values < 3)
    found = sorted(zip(*(torch.cat(part).tolist() for part in zip(*parts, strict=True)), strict=True))
    expected = sorted(zip((SURE * pixels[[2, 0, 1]])[:, wanted].T.tolist(), values[wanted].tolist(), strict=True))
    np.testing.assert_allclose([row for row, _ in found], [row for row, _ in expected], rtol=1e-5)
    assert [place for _, place in found] == [place for _, place in expected]


def test_a_part_of_the_pixels_gives_nearly_the_same(package: Path, tmp_path: Path) -> None:
    opened, pixels = scene()
    labels = truth_file(tmp_path / "truth.tif", labels_of(pixels[[2, 0, 1]]))
    found = calibrate(package, [opened], [labels], pixels=5000)
    assert 4500 < found.pixels < 5500
    assert found.temperature == pytest.approx(SURE, rel=0.1)
    assert calibrate(package, [opened], [labels], pixels=5000) == found
    assert calibrate(package, [opened], [labels], pixels=5000, seed=1) != found


@pytest.mark.parametrize(
    ("values", "words"),
    [(lambda right: right, "100.0 % of them right"), (lambda right: np.full_like(right, 7), "no pixel is labelled")],
)
def test_labels_that_cannot_tell_are_refused(values: Any, words: str, package: Path, tmp_path: Path) -> None:
    opened, pixels = scene()
    labels = truth_file(tmp_path / "truth.tif", values(pixels[[2, 0, 1]].argmax(0)))
    with pytest.raises(ConfigError, match=words):
        calibrate(package, [opened], [labels])


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"geoseg__activation": "none"}, "activation none"), ({"geoseg__temperature": 0}, "temperature")],
)
def test_cards_that_know_no_temperature(fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = saved_mixer(tmp_path / "net")
    rewrite(path, **fields)
    opened, _ = scene()
    with pytest.raises(ModelError, match=words):
        calibrate(path, [opened], [])


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_temperature_divides_scores_before_they_become_probabilities(activation: Any) -> None:
    scores = torch.randn(2, 3, 4, 5)
    spec = replace(SPEC, activation=activation)
    torch.testing.assert_close(to_probs(scores, replace(spec, temperature=2.5)), to_probs(scores / 2.5, spec))
    assert torch.equal(to_probs(scores, replace(spec, temperature=1.0)), to_probs(scores, spec))
