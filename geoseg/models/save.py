"""A torch module to a model package: weights, card, checksum, in one call."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.errors import ModelError
from geoseg.indices import names_of_indices
from geoseg.models.convert import AGREEMENT, difference, write_onnx
from geoseg.models.package import CARD, SHA256, Format, Package, open_package, verify
from geoseg.scene import Scaling
from geoseg.spec import ClassInfo

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["save_package"]

_EXTENSIONS = [
    "https://stac-extensions.github.io/mlm/v1.5.2/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
]
_ARTIFACTS: Mapping[Format, tuple[str, str]] = {
    "safetensors": ("safetensors.torch.save_file", "application/octet-stream; framework=pytorch"),
    "pt2": ("torch.export.save", "application/octet-stream; framework=pytorch"),
    "onnx": ("onnx", "application/octet-stream; framework=onnx"),
}
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]")

BandLike = str | Mapping[str, str]


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

    target = Path(path)
    if (target / CARD).exists() and not overwrite:
        raise ModelError(f"{target} already holds a model package: pass overwrite=True or choose another folder")
    if not _NAME.fullmatch(name):
        raise ModelError(
            f"model name {name!r}: a letter first, then letters, digits, '_', '.', '-' or blanks, 3 or more"
        )
    module = module.cpu().eval()
    side = multiple_of * -(-_TRIAL // multiple_of)
    shape = [dates, len(bands), side, side] if dates > 1 else [len(bands), side, side]
    sample = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    built = _recipe(module, architecture, arguments) if format == "safetensors" else (type(module).__name__, None)
    fields: dict[str, Any] = {
        "datetime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "description": description or name,
        **_model_fields(module, name, built[0], format),
        "bands": [_band_entry(band) for band in bands],
        "mlm:input": [_input_entry(bands, dates, tile, value_scaling)],
        "mlm:output": [_output_entry(classes, tile, maps)],
        "geoseg:task": task,
        "geoseg:maps": maps if maps > 1 else None,
        "geoseg:tile": tile,
        "geoseg:overlap": overlap,
        "geoseg:multiple_of": multiple_of,
        "geoseg:halo": halo,
        "geoseg:fill": fill,
        "geoseg:activation": activation,
        "geoseg:output_range": list(output_range) if tuple(output_range) != (0.0, 1.0) else None,
        "geoseg:assume_scaling": assume_scaling and {"scale": assume_scaling.scale, "offset": assume_scaling.offset},
        "geoseg:arguments": built[1],
        "geoseg:training_statistics": training_statistics,
        **(properties or {}),
    }
    fields = {key: value for key, value in fields.items() if value is not None or key == "mlm:pretrained_source"}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        draft = Path(folder) / "package"
        draft.mkdir()
        _write_weights(module, sample, draft / f"model.{format}", format)
        _write_card(draft, name, fields, format)
        _check(open_package(draft), module, sample)
        if target.exists():
            shutil.rmtree(target)
        draft.replace(target)
    return target


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


def _model_fields(module: nn.Module, name: str, architecture: str, kind: Format) -> dict[str, Any]:
    framework = ("ONNX", version("onnxruntime")) if kind == "onnx" else ("PyTorch", version("torch"))
    return {
        "mlm:name": name,
        "mlm:architecture": architecture,
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:framework": framework[0],
        "mlm:framework_version": framework[1],
        "mlm:pretrained": False,
        "mlm:pretrained_source": None,
        "mlm:total_parameters": sum(parameter.numel() for parameter in module.parameters()),
    }


def _band_entry(band: BandLike) -> dict[str, str]:
    name = band if isinstance(band, str) else band["name"]
    plain = isinstance(band, str) and band not in names_of_indices()
    return {"name": name, "eo:common_name": name} if plain and name in _COMMON_NAMES else {"name": name}


_COMMON_NAMES = (
    "pan", "coastal", "blue", "green", "green05", "yellow", "red", "rededge", "rededge071", "rededge075", "rededge078",
    "nir", "nir08", "nir09", "cirrus", "swir16", "swir22", "lwir", "lwir11", "lwir12",
)  # fmt: skip
"""Common names of the STAC `eo` extension."""


def _input_entry(
    bands: Sequence[BandLike], dates: int, tile: int, scaling: Sequence[Mapping[str, Any]] | None
) -> dict[str, Any]:
    known = names_of_indices()
    listed = [
        {"name": band, "format": "spyndex", "expression": band} if isinstance(band, str) and band in known else band
        for band in bands
    ]
    time = dates > 1
    return {
        "name": "reflectance",
        "bands": [band if isinstance(band, str) else dict(band) for band in listed],
        "input": {
            "shape": [-1, *([dates] if time else []), len(bands), tile, tile],
            "dim_order": ["batch", *(["time"] if time else []), "bands", "height", "width"],
            "data_type": "float32",
        },
        "value_scaling": None if scaling is None else [dict(entry) for entry in scaling],
        "resize_type": None,
    }


def _output_entry(classes: Sequence[ClassInfo | str], tile: int, maps: int) -> dict[str, Any]:
    return {
        "name": "scores",
        "tasks": ["semantic-segmentation"],
        "result": {
            "shape": [-1, maps * len(classes), tile, tile],
            "dim_order": ["batch", "classes", "height", "width"],
            "data_type": "float32",
        },
        "classification:classes": [_class_entry(entry, position) for position, entry in enumerate(classes)],
    }


def _class_entry(entry: ClassInfo | str, position: int) -> dict[str, Any]:
    if isinstance(entry, str):
        return {"value": position, "name": entry, "description": entry}
    return {
        "value": entry.value,
        "name": entry.name,
        "title": entry.title or entry.name,
        "description": entry.description or entry.title or entry.name,
        "color_hint": entry.color,
    }


def _write_weights(module: nn.Module, sample: Tensor, path: Path, kind: Format) -> None:
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


def _write_card(folder: Path, name: str, fields: Mapping[str, Any], kind: Format) -> None:
    weights = folder / f"model.{kind}"
    content = weights.read_bytes()
    artifact, media = _ARTIFACTS[kind]
    card = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": name,
        "geometry": None,
        "stac_extensions": _EXTENSIONS,
        "properties": fields,
        "links": [],
        "assets": {
            "model": {
                "href": f"./{weights.name}",
                "type": media,
                "title": "weights",
                "roles": ["mlm:model", "mlm:weights"],
                "mlm:artifact_type": artifact,
                "file:size": len(content),
                "file:checksum": SHA256 + hashlib.sha256(content).hexdigest(),
                "bands": [{"name": band["name"]} for band in fields["bands"]],
            }
        },
    }
    (folder / CARD).write_text(json.dumps(card, indent=2, allow_nan=False) + "\n", "utf-8")


def _check(package: Package, module: nn.Module, sample: Tensor) -> None:
    """Loads what was written and compares its scores with the module's."""
    import torch

    from geoseg.models.loading import model_of
    from geoseg.settings import Settings

    verify(package)
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
