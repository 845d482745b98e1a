"""Model packages: a folder with a card (``model.json``) and the weights that the card's checksum pins."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from geoseg.errors import ModelError
from geoseg.models.card import spec_of
from geoseg.models.graph import onnx_input_shape, pt2_input_shape
from geoseg.spec import ModelSpec

__all__ = [
    "CARD",
    "Format",
    "Package",
    "list_models",
    "open_package",
    "package_path",
    "read_spec",
    "verify",
]

CARD = "model.json"
"""File name of the card."""
SHIPPED = Path(__file__).parent / "packages"
"""Packages that come with geoseg."""
SHA256 = "1220"
"""Multihash prefix: SHA-2 with 256 bits, 32 bytes."""
_NATIVE_STRIDE = 32

Format = Literal["safetensors", "pt2", "onnx"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package whose card has been read; its weights have not."""

    path: Path
    """Folder."""
    spec: ModelSpec
    """The card, reduced to what the engine needs."""
    weights: Path
    """File with the weights."""
    checksum: str
    """Multihash of the weights that the card states, hexadecimal."""
    format: Format
    """How the weights are stored."""
    architecture: str
    """``mlm:architecture``: what the registry builds for safetensors."""
    arguments: Mapping[str, Any]
    """``geoseg:arguments``: what it builds it with."""

    @property
    def place(self) -> str:
        """What finds it from any process: a shipped package's name, else its whole path."""
        return self.path.name if self.path.parent == SHIPPED else str(self.path.absolute())


def package_path(name_or_path: str | Path) -> Path:
    """The folder of a shipped package (by name) or of one's own (by its path, or that of its card).

    Raises:
        ModelError: Neither; the message lists the shipped names.
    """
    given = Path(name_or_path)
    for folder in (given.parent if given.name == CARD else given, SHIPPED / str(name_or_path)):
        if (folder / CARD).is_file():
            return folder
    names = ", ".join(name for name, _ in list_models())
    raise ModelError(
        f"no model {str(name_or_path)!r}: neither a shipped model ({names}) nor a folder that holds a {CARD}"
    )


def list_models() -> list[tuple[str, str]]:
    """Names and descriptions of the models that come with geoseg, sorted by name."""
    cards = [json.loads(path.read_text("utf-8")) for path in sorted(SHIPPED.glob(f"*/{CARD}"))]
    return [(str(card["id"]), str(card["properties"]["description"])) for card in cards]


def read_spec(name_or_path: str | Path) -> ModelSpec:
    """The card of a model: neither torch nor the weights are loaded.

    Raises:
        ModelError: There is no such package, or its card is wrong.
    """
    return open_package(name_or_path).spec


def open_package(name_or_path: str | Path) -> Package:
    """A package by name or path, its card read and checked, its weights located but not read.

    Raises:
        ModelError: There is no such package, or its card is wrong.
    """
    folder = package_path(name_or_path)
    path = folder / CARD
    try:
        content = path.read_bytes()
        card = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no JSON: {error}") from error
    if not isinstance(card, dict):
        raise ModelError(f"{path} is no STAC item")
    try:
        return _package(folder, card, content)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} is no model card: {error!r}") from error


def _package(folder: Path, card: dict[str, Any], content: bytes) -> Package:
    asset = _weights_asset(card)
    weights, checksum, kind = _weights_file(folder, asset), str(asset.get("file:checksum") or ""), _format(asset)
    if not re.fullmatch(SHA256 + "[0-9a-fA-F]{64}", checksum):
        raise ModelError(
            f"file:checksum of the weights must be a SHA-256 multihash ({SHA256} and 64 digits): {checksum!r}"
        )
    if not weights.is_file():
        raise ModelError(f"the weights {weights.name} are missing")
    digest = hashlib.sha256(content + bytes.fromhex(checksum)).hexdigest()
    fields = card.get("properties", {})
    limits, stride = _limits(kind, weights, fields), _default_stride(kind, fields)
    return Package(
        path=folder,
        spec=spec_of(card, digest=digest, limits=limits, multiple_of=stride),
        weights=weights,
        checksum=checksum,
        format=kind,
        architecture=str(fields.get("mlm:architecture", "")),
        arguments=dict(fields.get("geoseg:arguments") or {}),
    )


def _default_stride(kind: Format, fields: Mapping[str, Any]) -> int:
    """Registry nets halve their input five times at most; a graph of unknown make is believed to take any size."""
    return _NATIVE_STRIDE if kind == "safetensors" and fields.get("geoseg:arguments") is not None else 1


def _weights_asset(card: Mapping[str, Any]) -> Mapping[str, Any]:
    assets = [asset for asset in card.get("assets", {}).values() if "mlm:model" in asset.get("roles", ())]
    if len(assets) != 1:
        raise ModelError(f"{len(assets)} assets have the role mlm:model: exactly one must")
    return cast("Mapping[str, Any]", assets[0])


def _weights_file(folder: Path, asset: Mapping[str, Any]) -> Path:
    """The file beside the card; nothing outside the package is ever read."""
    href = str(asset.get("href", ""))
    path = folder / href
    if not href or "://" in href or not path.resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"the weights {href!r} must be a file inside the package")
    return path


def _format(asset: Mapping[str, Any]) -> Format:
    """By the file's name, which `mlm:artifact_type` must not contradict."""
    suffix, kind = Path(str(asset.get("href"))).suffix, str(asset.get("mlm:artifact_type", ""))
    formats: dict[str, tuple[Format, str]] = {
        ".safetensors": ("safetensors", "safetensors"),
        ".pt2": ("pt2", "torch.export"),
        ".onnx": ("onnx", "onnx"),
    }
    if suffix not in formats or not kind.lower().startswith(formats[suffix][1]):
        raise ModelError(
            f"weights {asset.get('href')!r} with mlm:artifact_type {kind!r}: geoseg loads .safetensors, .pt2 "
            "(torch.export.save) and .onnx, and never unpickles"
        )
    return formats[suffix][0]


def _limits(kind: Format, weights: Path, fields: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Batch and tile that the graph fixes."""
    if kind == "safetensors":
        return None, None
    shape = onnx_input_shape(weights) if kind == "onnx" else pt2_input_shape(weights)
    if len(shape) not in (4, 5):
        raise ModelError(f"{weights.name} takes an input of {len(shape)} axes: geoseg feeds 4, or 5 for several dates")
    listed = len(fields["mlm:input"][0]["bands"])
    if shape[-3] not in (None, listed):
        raise ModelError(f"{weights.name} takes {shape[-3]} channels, but the card lists {listed} bands")
    if shape[-1] != shape[-2]:
        raise ModelError(f"{weights.name} takes {shape[-2]} x {shape[-1]} pixels: geoseg cuts square tiles")
    return shape[0], shape[-1]


def verify(package: Package) -> None:
    """Compares the weights with the checksum on the card.

    Raises:
        ModelError: They differ, or cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with package.weights.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ModelError(f"{package.weights} cannot be read: {error}") from error
    if SHA256 + digest.hexdigest() != package.checksum.lower():
        raise ModelError(
            f"{package.weights} does not match the checksum on its card: expected {package.checksum[4:16]}..., "
            f"found {digest.hexdigest()[:12]}...; the file is damaged or was replaced"
        )
