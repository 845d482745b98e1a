"""A package and settings to a model that runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.errors import MissingExtraError, ModelError
from geoseg.models.package import CARD, Package, open_package, verify
from geoseg.protocols import Model
from geoseg.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["load_model", "model_of", "sample_of", "try_package", "validate_package"]

_SMALLEST = 64
"""Side of the tile on which a package is tried, in pixels, where its graph takes any."""


def load_model(name_or_path: str | Path, settings: Settings | None = None, *, load: bool = True) -> Model:
    """A model that is ready to run: checksum verified, weights loaded (once per process).

    On ONNX Runtime and OpenVINO, a net is converted or compiled when it meets its first tile.

    Args:
        name_or_path: A shipped model's name, or a package's folder.
        settings: From `geoseg.tuning.choose_settings`; None: fp32 on one thread of the CPU, on torch (on ONNX Runtime
            for an ONNX package).
        load: Whether a net on torch is loaded now, in place of where it meets its first tile: a GPU that only workers
            have cannot be tried here.

    Raises:
        ModelError: There is no such package, it is damaged, does not fit its card, or does not run on that backend.
        MissingExtraError: The backend is not installed.
    """
    package = open_package(name_or_path)
    verify(package)
    if settings is None:
        settings = Settings(backend="onnxruntime" if package.format == "onnx" else "torch")
    return model_of(package, settings, load=load)


def model_of(package: Package, settings: Settings, *, load: bool = True) -> Model:
    """The model of a verified package.

    Raises:
        ModelError: It does not run on that backend, device or precision.
    """
    spec, path = package.spec, package.place
    if settings.backend == "torch":
        if package.format == "onnx":
            raise ModelError(
                f"model {spec.name!r} is an ONNX graph: it runs on backend onnxruntime or openvino, not torch"
            )
        from geoseg.models.torch_model import TorchModel

        model = TorchModel(path, spec, settings)
        if load:
            model.load()
        return model
    if settings.device != "cpu":
        raise ModelError(
            f"backend {settings.backend} runs on the cpu here, not on {settings.device}: use backend torch"
        )
    if settings.backend == "onnxruntime":
        if settings.precision != "fp32":
            raise ModelError(f"backend onnxruntime runs fp32 here, not {settings.precision}: use torch or openvino")
        from geoseg.models.onnx_model import OnnxModel

        session = OnnxModel(path, spec, settings)
        if package.format == "onnx":  # others are converted when they meet their first tile and know its size
            session.load((spec.tile, spec.tile))
        return session
    from geoseg.models.openvino_model import OpenvinoModel

    return OpenvinoModel(path, spec, settings)


def sample_of(package: Package, batch: int, tile: int, seed: int = 0) -> Tensor:
    """A batch of smooth random tiles, as a scene's normalised channels might look: (n, [date,] channel, row, col)."""
    import torch
    from torch.nn.functional import interpolate

    spec = package.spec
    planes = batch * spec.dates
    generator = torch.Generator().manual_seed(seed)
    side = max(2, tile // 16)
    coarse = torch.randn(planes, len(spec.channels), side, side, generator=generator)
    fine = interpolate(coarse, (tile, tile), mode="bilinear")
    fine += 0.1 * torch.randn(fine.shape, generator=generator)
    return fine.reshape(batch, spec.dates, *fine.shape[1:]) if spec.dates > 1 else fine


def try_package(package: Package) -> None:
    """Loads a verified package and runs it once on a small tile.

    Raises:
        ModelError: It does not load, or its scores are not what its card promises.
    """
    import torch

    spec = package.spec
    tile = spec.static_tile or spec.multiple_of * -(-_SMALLEST // spec.multiple_of)
    backend = "onnxruntime" if package.format == "onnx" else "torch"
    model = model_of(package, Settings(backend=backend))  # type: ignore[arg-type]
    scores = model.predict(sample_of(package, spec.static_batch or 1, tile))
    if not bool(torch.isfinite(scores).all()):
        raise ModelError(f"model {spec.name!r} gives NaN or infinity on plain random input")


def validate_package(path: str | Path) -> list[str]:
    """What is wrong with a package, one sentence per problem; empty where it loads, runs and keeps its card's promises.

    The net is built and run once on a small tile, so this loads torch or onnxruntime.
    """
    try:
        package = open_package(path)
        verify(package)
        try_package(package)
    except (ModelError, MissingExtraError) as error:
        return [str(error)]
    return _missing(json.loads((package.path / CARD).read_text("utf-8")))


def _missing(card: Mapping[str, Any]) -> list[str]:
    """What the MLM extension requires and geoseg itself can do without."""
    problems = [f"properties lack {key}" for key in _REQUIRED if key not in card["properties"]]
    if not any("/mlm/v1." in str(extension) for extension in card.get("stac_extensions", ())):
        problems.append("stac_extensions do not name the MLM extension")
    return problems


_REQUIRED = ("mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output", "datetime")
