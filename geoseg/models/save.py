"""A torch module to a model package: weights, card, checksum, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.errors import ModelError
from geoseg.models.convert import AGREEMENT, difference, write_onnx
from geoseg.models.package import Format, Package
from geoseg.models.writing import BandLike, CardFacts, card_fields, write_package
from geoseg.scene import Scaling
from geoseg.spec import ClassInfo

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["save_package", "write_weights"]


def save_package(
    module: nn.Module,
    path: str | Path,
    *,
    name: str,
    bands: Sequence[BandLike],
    classes: Sequence[ClassInfo | str],
    format: Format = "safetensors",  # noqa: A002 - the word that users look for
    architecture: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    description: str = "",
    tile: int = 512,
    overlap: int | None = None,
    multiple_of: int = 32,
    halo: int | None = None,
    fill: float = 0.0,
    activation: str = "softmax",
    output_range: tuple[float, float] = (0.0, 1.0),
    value_scaling: Sequence[Mapping[str, Any]] | None = None,
    assume_scaling: Scaling | None = None,
    dates: int = 1,
    maps: int = 1,
    task: str = "segmentation",
    training_statistics: Mapping[str, Any] | None = None,
    properties: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes a model package and returns its folder; what was written is loaded again and compared with `module`.

    Args:
        module: Takes float32 (n, channel, row, col), or (n, date, channel, row, col); gives (n, class, row, col).
        path: Folder to make.
        name: The model's name: letters, digits, ``_ . -`` and blanks.
        bands: Input channels in order: STAC common names, names of spyndex indices (``NDVI``), or objects with
            ``name``, ``format`` (``rio-tiler``) and ``expression``.
        classes: Output channels in order: names, or `ClassInfo` for values, titles and colours.
        format: ``safetensors`` for nets of the registry, ``pt2`` (torch.export) or ``onnx`` for any other.
        architecture: For safetensors: name in the registry; found by itself for segmentation_models_pytorch's nets.
        arguments: For safetensors: what the registry builds it with; found by itself likewise.
        description: One line for people.
        tile: Side of the square that the net sees, in pixels.
        overlap: Pixels that neighbouring tiles share; None: a quarter of the tile.
        multiple_of: Tile and stride are multiples of this: the net's total stride.
        halo: Measured radius in pixels beyond which an input pixel moves no output by more than 1e-3.
        fill: What the net sees, after normalisation, where a pixel is invalid.
        activation: ``softmax``, ``sigmoid`` or ``none``.
        output_range: Range of the outputs after `activation`.
        value_scaling: MLM value scaling objects from reflectance to what the net sees: one, or one per band.
        assume_scaling: Stored numbers to reflectance for integer bands whose scene declares nothing.
        dates: Scenes per input.
        maps: Class maps per input: 2 where the net of a pair gives one for each date.
        task: ``segmentation`` or ``change-detection``.
        training_statistics: Per band: mean, sd, histogram of the training data.
        properties: More fields for the card: licence, provenance, metrics.
        overwrite: Whether a package that is already there is replaced.

    Raises:
        ModelError: The card would be wrong, the net cannot be stored in that format, or reads back differently.
    """
    import torch

    facts = CardFacts(
        name=name,
        bands=bands,
        classes=classes,
        description=description,
        tile=tile,
        overlap=overlap,
        multiple_of=multiple_of,
        halo=halo,
        fill=fill,
        activation=activation,
        output_range=output_range,
        value_scaling=value_scaling,
        assume_scaling=assume_scaling,
        dates=dates,
        maps=maps,
        task=task,
        training_statistics=training_statistics,
        properties=properties,
    )
    module = module.cpu().eval()
    built = _recipe(module, architecture, arguments) if format == "safetensors" else (type(module).__name__, None)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    side = multiple_of * -(-_TRIAL // multiple_of)
    shape = [dates, len(bands), side, side] if dates > 1 else [len(bands), side, side]
    sample = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    return write_package(
        path,
        card_fields(facts, format, architecture=built[0], arguments=built[1], parameters=parameters),
        format,
        put=lambda weights: write_weights(module, sample, weights, format),
        check=lambda package: _check(package, module, sample),
        overwrite=overwrite,
    )


_TRIAL = 64
"""Side of the tile on which the package is compared with the module, in pixels."""


def _recipe(
    module: nn.Module, architecture: str | None, arguments: Mapping[str, Any] | None
) -> tuple[str, dict[str, Any]]:
    from geoseg.models.registry import recipe_of

    if architecture is not None:
        return architecture, dict(arguments or {})
    recipe = recipe_of(module)
    if recipe is None:
        raise ModelError(
            f"{type(module).__name__} is no net of the registry: pass architecture and arguments, "
            "or store the graph with format='onnx' or 'pt2'"
        )
    return recipe


def write_weights(module: nn.Module, sample: Tensor, path: Path, kind: Format) -> None:
    """Writes `module`, for batches of any number and size of tiles as far as its code allows, as seen on `sample`.

    Raises:
        ModelError: The net cannot be stored in that format.
    """
    if kind == "safetensors":
        from safetensors.torch import save

        path.write_bytes(save({name: tensor.clone().contiguous() for name, tensor in module.state_dict().items()}))
    elif kind == "onnx":
        write_onnx(module, sample, path, any_size=True)
    else:
        _export(module, sample, path)


def _export(module: nn.Module, sample: Tensor, path: Path) -> None:
    """A torch.export archive for any batch, and for any size where the net's own code allows that."""
    import torch

    auto = torch.export.Dim.AUTO
    axes = {0: auto, sample.ndim - 2: auto, sample.ndim - 1: auto}
    try:
        program = torch.export.export(module, (sample,), dynamic_shapes=(axes,))
        torch.export.save(program, path)
    except Exception as error:  # the exporter raises whatever the net's own code does
        raise ModelError(f"the net cannot be exported by torch.export: {str(error)[:300]}") from error


def _check(package: Package, module: nn.Module, sample: Tensor) -> None:
    """Loads what was written and compares its scores with the module's."""
    import torch

    from geoseg.models.loading import model_of
    from geoseg.settings import Settings

    model = model_of(package, Settings(backend="onnxruntime" if package.format == "onnx" else "torch"))
    side = 2 * sample.shape[-1] if package.spec.static_tile is None else sample.shape[-1]
    for size in (sample.shape[-1], side):
        tiles = torch.rand(*sample.shape[:-2], size, size, generator=torch.Generator().manual_seed(size))
        with torch.inference_mode():
            expected = module(tiles)
        gap = difference(model.predict(tiles), expected)
        if not gap < 5 * AGREEMENT:
            raise ModelError(
                f"stored as {package.format}, the net's scores for {size} x {size} pixels move by {gap:.1e}"
            )
