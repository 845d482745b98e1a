"""One number that makes a net as sure as it is right: temperature scaling on labelled pixels.

Scores are divided by a temperature before they become probabilities (Guo, Pleiss, Sun and Weinberger 2017,
arXiv:1706.04599). No class of any pixel changes by it; only how sure the map says it is. The temperature is the one at
which the labels are most likely, so it can be found only where people labelled what the net was not trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from geoseg.blend import TileWeights, to_probs
from geoseg.errors import ConfigError, ModelError
from geoseg.evaluation.calibration import expected_calibration_error, reliability
from geoseg.feed import reflect
from geoseg.grid import Tile, TileGrid
from geoseg.models import load_model
from geoseg.models.package import open_package
from geoseg.plan import tiling_for
from geoseg.prepare import prepare, recipes_for
from geoseg.protocols import Model, Source
from geoseg.scene import Scene
from geoseg.settings import Settings
from geoseg.spec import ModelSpec
from geoseg.train.label_files import open_labels
from geoseg.train.labels import UNLABELLED, Codes, LabelFile, LabelOptions, LabelsOn
from geoseg.tuning import usable_cores
from geoseg.types import Valid
from geoseg.window import Window, whole

__all__ = ["Calibration", "calibrate", "fit_temperature", "labelled_scores"]

_LEAST, _MOST = 0.02, 50.0
"""Temperatures that mean something; labels that ask for others cannot tell one."""
_PIXELS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A temperature, and what it does on the pixels that it was found on."""

    temperature: float
    """Divides the scores."""
    was: float
    """What the card said before."""
    pixels: int
    """Labelled pixels that were used."""
    accuracy: float
    """Share of them whose class is right, which no temperature changes."""
    error: tuple[float, float]
    """Expected calibration error before and after."""
    loss: tuple[float, float]
    """Mean negative log likelihood of the labels before and after."""


def calibrate(
    model: str | Path,
    scenes: Sequence[Scene[Source]],
    labels: Sequence[LabelFile],
    *,
    reading: LabelOptions | None = None,
    pixels: int = _PIXELS,
    seed: int = 0,
) -> Calibration:
    """The temperature of a model, from scenes that it was not trained on and labels of them.

    Args:
        model: A shipped model's name, or a package's folder.
        scenes: With the model's bands; pairs for a model that compares dates.
        labels: Rasters of the model's class values, or polygons.
        reading: How labels are read; names of classes are the model's.
        pixels: Labelled pixels that are used, at most: drawn from all.
        seed: Of the draw.

    Raises:
        ModelError: The model's outputs are final, or it gives a map of each date.
        ConfigError: No pixel is labelled, or the labels cannot tell a temperature.
        SourceError: A scene or labels cannot be read.
        BandError: A scene lacks a band.
    """
    package = open_package(model)
    spec = package.spec
    _demand_scores(spec)
    backend, cores = ("onnxruntime" if package.format == "onnx" else "torch"), usable_cores()
    net = load_model(model, Settings(backend=backend, threads=cores))  # type: ignore[arg-type]
    names = {info.name: info.value for info in spec.classes}
    opened = open_labels(labels, replace(reading or LabelOptions(), classes=names))
    placed = [(scene, opened.on(scene.geobox)) for scene in scenes]
    total = sum(int(known.sum()) for scene, on in placed for _, _, known in _labelled(scene, on, spec))
    if not total:
        raise ConfigError(f"no pixel is labelled with a class of model {spec.name!r}: {_listed(spec)}")
    draw = np.random.default_rng(seed)
    parts = [
        part
        for scene, on in placed
        for part in labelled_scores(net, scene, on, share=min(1.0, pixels / total), draw=draw)
    ]
    scores = torch.cat([part for part, _ in parts])
    truth = torch.cat([part for _, part in parts])
    if not len(truth):
        raise ConfigError(f"no labelled pixel is usable in {', '.join(scene.id for scene in scenes)}")
    return _judged(spec, fit_temperature(scores, truth, spec), scores, truth)


def _demand_scores(spec: ModelSpec) -> None:
    if spec.activation == "none":
        raise ModelError(f"model {spec.name!r} gives probabilities, not scores (activation none): nothing to calibrate")
    if spec.maps > 1:
        raise ModelError(f"model {spec.name!r} gives a map of each date: calibrate one that gives a single map")


def _listed(spec: ModelSpec) -> str:
    return ", ".join(f"{info.value} {info.name}" for info in spec.classes)


def _judged(spec: ModelSpec, temperature: float, scores: Tensor, truth: Tensor) -> Calibration:
    before, after = (replace(spec, temperature=each) for each in (spec.temperature, temperature))
    return Calibration(
        temperature=temperature,
        was=spec.temperature,
        pixels=len(truth),
        accuracy=float((scores.argmax(1) == truth).double().mean()),
        error=(_calibration_error(before, scores, truth), _calibration_error(after, scores, truth)),
        loss=tuple(  # type: ignore[arg-type]
            float(_loss(scores.double() / each.temperature, truth, spec)) for each in (before, after)
        ),
    )


def _calibration_error(spec: ModelSpec, scores: Tensor, truth: Tensor) -> float:
    confidence, label = to_probs(scores[..., None, None], spec)[..., 0, 0].max(1)
    right = (label == truth).numpy().astype(np.int64)
    return expected_calibration_error(reliability(confidence.double().numpy(), np.ones_like(right), right))


def _loss(scores: Tensor, truth: Tensor, spec: ModelSpec) -> Tensor:
    """Mean negative log likelihood: of the class, or of each class against the rest where they are independent."""
    if spec.activation == "softmax":
        return cross_entropy(scores, truth)
    return binary_cross_entropy_with_logits(scores, one_hot(truth, scores.shape[1]).to(scores.dtype))


def fit_temperature(scores: Tensor, truth: Tensor, spec: ModelSpec) -> float:
    """The temperature at which `truth` is most likely.

    Args:
        scores: Of labelled pixels (pixel, class).
        truth: Place of each pixel's class among the model's (pixel,), integers.
        spec: Says how scores become probabilities; its own temperature plays no part.

    Raises:
        ConfigError: The likelihood has no summit at any sensible temperature: nearly all pixels are right, or none is
            better than chance.
    """
    scores = scores.double()
    logarithm = torch.zeros((), dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [logarithm], max_iter=200, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = _loss(scores / logarithm.exp(), truth, spec)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    temperature = float(logarithm.detach().exp())
    if not _LEAST <= temperature <= _MOST:
        accuracy = float((scores.argmax(1) == truth).double().mean())
        raise ConfigError(
            f"{len(truth)} labelled pixels, {100 * accuracy:.1f} % of them right, cannot tell a temperature "
            f"({temperature:.3g} would be best): take labels of which the model gets most right and some wrong"
        )
    return temperature


def labelled_scores(
    model: Model, scene: Scene[Source], labels: LabelsOn, *, share: float = 1.0, draw: np.random.Generator | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores (pixel, class) of a scene's labelled pixels, and the place of their class among the model's (pixel,).

    Every pixel comes once, from the tile that it lies deepest in.

    Args:
        model: What gives the scores.
        scene: With its bands.
        labels: On its grid.
        share: Part of the pixels that is drawn.
        draw: Draws them.

    Raises:
        SourceError: The scene or the labels cannot be read.
        BandError: The scene lacks a band.
    """
    spec = model.spec
    draw = draw or np.random.default_rng(0)
    places = np.argsort(spec.values)
    for tile, codes, known in _labelled(scene, labels, spec):
        channels, valid = _seen(scene, tile, spec)
        wanted = known & valid
        wanted &= draw.random(wanted.shape) < share
        if not wanted.any():
            continue
        scores = model.predict(channels)[0].movedim(0, -1)[torch.from_numpy(wanted)]
        found = np.searchsorted(np.asarray(spec.values)[places], codes[wanted])
        yield scores, torch.from_numpy(places[found])


def _labelled(
    scene: Scene[Source], labels: LabelsOn, spec: ModelSpec
) -> Iterator[tuple[Tile, Codes, npt.NDArray[np.bool_]]]:
    """Tiles with labels: class values (row, col), and the pixels whose label counts here; overlaps are shared out."""
    height, width = scene.geobox.shape
    side, overlap = tiling_for(spec, None, None)
    grid = TileGrid(height=height, width=width, tile=side, overlap=overlap)
    weights = TileWeights(grid, "crop")
    for tile in grid:
        inside = tile.window & whole(scene.geobox)
        codes = np.full(tile.window.shape, UNLABELLED, np.int64)
        codes[inside.within(tile.window).slices], _ = labels.read(inside)
        known = np.isin(codes, spec.values) & (weights(tile.row, tile.col).numpy() == 1)
        if known.any():
            yield tile, codes, known


def _seen(scene: Scene[Source], tile: Tile, spec: ModelSpec) -> tuple[Tensor, Valid]:
    """What the net sees of a tile (1, [date,] channel, row, col), and the pixels of it that are usable."""
    window, (height, width) = tile.window, scene.geobox.shape
    rows = reflect(np.arange(window.row_off, window.row_stop), height)
    cols = reflect(np.arange(window.col_off, window.col_stop), width)
    top, left = int(rows.min()), int(cols.min())
    pixels, valid = scene.source.read(Window.from_bounds(top, left, int(rows.max()) + 1, int(cols.max()) + 1))
    place = np.ix_(rows - top, cols - left)
    pixels, valid = pixels[:, place[0], place[1]], valid[place]
    stored, usable = torch.from_numpy(pixels), torch.from_numpy(valid)
    dates = [prepare(stored, usable, recipe) for recipe in recipes_for(spec, scene.bands)]
    return (dates[0] if spec.dates == 1 else torch.stack(dates))[None], valid
