"""Writing packages: what a card says, in its own words, and folders that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from geoseg.errors import ModelError
from geoseg.indices import names_of_indices
from geoseg.models.package import CARD, SHA256, SHIPPED, Format, Package, open_package, verify
from geoseg.scene import Scaling
from geoseg.spec import ClassInfo

__all__ = ["BandLike", "CardFacts", "amend_card", "card_fields", "demand_own", "weights_asset", "write_package"]

BandLike = str | Mapping[str, str]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What people know of a net, whatever its weights are stored in; the fields are those of `save_package`."""

    name: str
    bands: Sequence[BandLike]
    classes: Sequence[ClassInfo | str]
    description: str = ""
    tile: int = 512
    overlap: int | None = None
    multiple_of: int = 32
    halo: int | None = None
    fill: float = 0.0
    activation: str = "softmax"
    output_range: tuple[float, float] = (0.0, 1.0)
    value_scaling: Sequence[Mapping[str, Any]] | None = None
    assume_scaling: Scaling | None = None
    dates: int = 1
    maps: int = 1
    task: str = "segmentation"
    training_statistics: Mapping[str, Any] | None = None
    properties: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ModelError(
                f"model name {self.name!r}: a letter first, then letters, digits, '_', '.', '-' or blanks, 3 or more"
            )


def card_fields(
    facts: CardFacts,
    kind: Format,
    *,
    architecture: str,
    arguments: Mapping[str, Any] | None = None,
    parameters: int | None = None,
) -> dict[str, Any]:
    """The properties of a card.

    Args:
        facts: What is known.
        kind: How the weights are stored.
        architecture: What it is called, or what the registry builds.
        arguments: What the registry builds it with.
        parameters: How many there are; None: nobody counted.
    """
    scaling = facts.assume_scaling
    fields: dict[str, Any] = {
        "datetime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "description": facts.description or facts.name,
        **_model_fields(facts.name, architecture, kind, parameters),
        "bands": [_band_entry(band) for band in facts.bands],
        "mlm:input": [_input_entry(facts.bands, facts.dates, facts.tile, facts.value_scaling)],
        "mlm:output": [_output_entry(facts.classes, facts.tile, facts.maps)],
        "geoseg:task": facts.task,
        "geoseg:maps": facts.maps if facts.maps > 1 else None,
        "geoseg:tile": facts.tile,
        "geoseg:overlap": facts.overlap,
        "geoseg:multiple_of": facts.multiple_of,
        "geoseg:halo": facts.halo,
        "geoseg:fill": facts.fill,
        "geoseg:activation": facts.activation,
        "geoseg:output_range": list(facts.output_range) if tuple(facts.output_range) != (0.0, 1.0) else None,
        "geoseg:assume_scaling": scaling and {"scale": scaling.scale, "offset": scaling.offset},
        "geoseg:arguments": arguments,
        "geoseg:training_statistics": facts.training_statistics,
        **(facts.properties or {}),
    }
    return {key: value for key, value in fields.items() if value is not None or key == "mlm:pretrained_source"}


def write_package(
    path: str | Path,
    fields: Mapping[str, Any],
    kind: Format,
    *,
    put: Callable[[Path], object],
    check: Callable[[Package], None],
    overwrite: bool = False,
) -> Path:
    """Makes a package beside its place, checks it there, and moves it when it is whole; returns its folder.

    Args:
        path: Folder to make.
        fields: Properties of the card, from `card_fields`.
        kind: How the weights are stored.
        put: Writes the weights to the file that it is given.
        check: Raises if the package is not what it should be; its checksum is verified before.
        overwrite: Whether a package that is already there is replaced.

    Raises:
        ModelError: There is a package already, or the card is wrong, or `check` says so.
    """
    target = Path(path)
    if (target / CARD).exists() and not overwrite:
        raise ModelError(f"{target} already holds a model package: pass overwrite=True or choose another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        draft = Path(folder) / "package"
        draft.mkdir()
        put(draft / f"model.{kind}")
        _write_card(draft, fields, kind)
        package = open_package(draft)
        verify(package)
        check(package)
        if target.exists():
            shutil.rmtree(target)
        draft.replace(target)
    return target


def demand_own(package: Package, out: str | Path | None) -> None:
    """Refuses to write where `amend_card` may not.

    Raises:
        ModelError: The package comes with geoseg and `out` names no folder for a copy, or `out` is already there.
    """
    if out is None and package.path.resolve().parent == SHIPPED.resolve():
        raise ModelError(f"model {package.spec.name!r} comes with geoseg and is not written: name a folder with --out")
    if out is not None and Path(out).exists():
        raise ModelError(f"{out} is already there: choose another folder")


def amend_card(package: Package, fields: Mapping[str, Any], out: str | Path | None = None) -> Path:
    """Writes properties into a package's card, or into that of a copy at `out`; returns the folder. None removes one.

    Raises:
        ModelError: The package comes with geoseg, or `out` holds one already; with those fields it is no package.
    """
    demand_own(package, out)
    target = package.path if out is None else Path(out)
    card = json.loads((package.path / CARD).read_text("utf-8"))
    merged = {**card["properties"], **fields}
    card["properties"] = {key: value for key, value in merged.items() if value is not None or key not in fields}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        draft = Path(folder) / "package"
        shutil.copytree(package.path, draft)
        (draft / CARD).write_text(_json(card), "utf-8")
        open_package(draft)
        if out is None:  # one rename: whoever reads the card sees the old one or the new one
            (draft / CARD).replace(target / CARD)
        else:
            draft.replace(target)
    return target


def _model_fields(name: str, architecture: str, kind: Format, parameters: int | None) -> dict[str, Any]:
    framework = ("ONNX", version("onnxruntime")) if kind == "onnx" else ("PyTorch", version("torch"))
    return {
        "mlm:name": name,
        "mlm:architecture": architecture,
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:framework": framework[0],
        "mlm:framework_version": framework[1],
        "mlm:pretrained": False,
        "mlm:pretrained_source": None,
        "mlm:total_parameters": parameters,
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


def weights_asset(weights: Path, kind: Format, bands: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The asset of a card that points at its weights, with their checksum."""
    artifact, media = _ARTIFACTS[kind]
    content = weights.read_bytes()
    return {
        "href": f"./{weights.name}",
        "type": media,
        "title": "weights",
        "roles": ["mlm:model", "mlm:weights"],
        "mlm:artifact_type": artifact,
        "file:size": len(content),
        "file:checksum": SHA256 + hashlib.sha256(content).hexdigest(),
        "bands": [{"name": band["name"]} for band in bands],
    }


def _write_card(folder: Path, fields: Mapping[str, Any], kind: Format) -> None:
    card = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": fields["mlm:name"],
        "geometry": None,
        "stac_extensions": _EXTENSIONS,
        "properties": fields,
        "links": [],
        "assets": {"model": weights_asset(folder / f"model.{kind}", kind, fields["bands"])},
    }
    (folder / CARD).write_text(_json(card), "utf-8")


def _json(card: Mapping[str, Any]) -> str:
    return json.dumps(card, indent=2, allow_nan=False) + "\n"
