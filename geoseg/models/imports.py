"""Nets from elsewhere as model packages: weights of torchgeo, folders of segmentation_models_pytorch, graphs.

Nothing of what is imported is run as code or unpickled: numbers are read, and names of architectures are built by the
registry. What a file cannot tell is asked for, all of it in one error.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from geoseg.errors import ConfigError, ModelError
from geoseg.models.foreign import Net, load_weights, net_of_folder, with_two_scores
from geoseg.models.graph import onnx_input_shape, pt2_input_shape
from geoseg.models.package import CARD, Format, Package
from geoseg.models.writing import CardFacts, card_fields, write_package
from geoseg.scene import Scaling

__all__ = ["Told", "check_told", "common_names", "import_model"]

_ENUM = re.compile(r"\w+_Weights\.\w+")
_CODE = re.compile(r"b(\d{1,2})(a?)", re.IGNORECASE)
_SENTINEL_2 = {
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge071", "B06": "rededge075",
    "B07": "rededge078", "B08": "nir", "B8A": "nir08", "B09": "nir09", "B10": "cirrus", "B11": "swir16",
    "B12": "swir22", "R": "red", "G": "green", "B": "blue",
}  # fmt: skip
_STRIDE = 32
_TILE = 512
_KINDS = "a weights enum of torchgeo, a folder of save_pretrained, a Lightning checkpoint (.ckpt), .onnx or .pt2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a person says of a net; None: nothing."""

    name: str | None = None
    """Of the model; else that of the source."""
    bands: Sequence[str] | None = None
    """Input channels in order: common names, numbers of Sentinel-2's bands (``B8A``), names of spyndex indices."""
    classes: Sequence[str] | None = None
    """Names of the output channels in order."""
    value_scaling: Sequence[Mapping[str, Any]] | None = None
    """MLM value scaling objects, one or one per channel; empty: the net takes reflectance as it is."""
    assume_scaling: Scaling | None = None
    """Stored numbers to reflectance where a scene declares nothing."""
    tile: int | None = None
    """Side of the square that the net sees, in pixels."""
    multiple_of: int | None = None
    """The net's total stride, in pixels."""
    activation: str | None = None
    """``softmax``, ``sigmoid`` or ``none``."""
    description: str | None = None
    """One line for people."""


def import_model(
    source: str | Path,
    out: str | Path,
    told: Told | None = None,
    *,
    weights: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Makes a model package of a net from elsewhere, and returns its folder.

    Args:
        source: The name of a weights enum of torchgeo (``Unet_Weights.SENTINEL2_3CLASS_FTW``), a folder that
            segmentation_models_pytorch's ``save_pretrained`` wrote, a Lightning checkpoint of torchgeo's tasks for
            segmentation and change detection, an ONNX file, or a torch.export archive.
        out: Folder to make.
        told: What the source cannot tell, and what is to stand in the card in place of what it tells.
        weights: For an enum: file or URL of its weights, in place of the address that torchgeo knows.
        overwrite: Whether a package that is already there is replaced.

    Raises:
        ConfigError: Something is not known: the message names every option that is missing.
        ModelError: The source is none of these, holds more than plain data, or does not fit what is told.
        SourceError: The weights cannot be fetched.
        MissingExtraError: torchgeo is needed and not installed.
    """
    told, path = told or Told(), Path(source)
    if (Path(out) / CARD).exists() and not overwrite:
        raise ModelError(f"{out} already holds a model package: pass --overwrite or choose another folder")
    if weights is not None and not _ENUM.fullmatch(str(source)):
        raise ConfigError(f"--weights {weights}: is for weights enums of torchgeo, and {source} is none")
    if path.is_file() and path.suffix in (".onnx", ".pt2"):
        return _import_graph(path, out, told, overwrite=overwrite)
    if _ENUM.fullmatch(str(source)):
        from geoseg.models.torchgeo_weights import net_of_enum

        return _import_net(str(source), net_of_enum(str(source), weights), out, told, overwrite=overwrite)
    if path.is_dir():
        return _import_net(path.resolve().name, net_of_folder(path), out, told, overwrite=overwrite)
    if path.is_file() and path.suffix == ".ckpt":
        from geoseg.models.checkpoints import net_of_checkpoint

        return _import_net(path.stem, net_of_checkpoint(path), out, told, overwrite=overwrite)
    raise ModelError(f"{source}: is not there, or none of what can be imported: {_KINDS}")


def common_names(bands: Sequence[str]) -> list[str]:
    """Bands by their common names: numbers as Sentinel-2 has them; others stay as they are.

    >>> common_names(["B4", "B8A", "R", "nir", "VV"])
    ['red', 'nir08', 'red', 'nir', 'VV']
    """

    def named(band: str) -> str:
        match = _CODE.fullmatch(band)
        code = band if match is None else f"B{int(match[1])}A" if match[2] else f"B{int(match[1]):02d}"
        return _SENTINEL_2.get(code, band)

    return [named(band.strip()) for band in bands]


def check_told(source: str, known: Mapping[str, Any], channels: int | None, outputs: int | None) -> None:
    """Asks for everything that is still missing.

    Raises:
        ConfigError: Something is missing; or bands or classes are not as many as the net has.
    """
    counts = {"bands": channels, "classes": outputs}
    asked = [
        f"--{name} with {'the names of its' if count is None else count} {what}"
        for name, (count, what) in {
            "bands": (channels, "input channels in order"),
            "classes": (outputs, "output channels in order"),
        }.items()
        if known.get(name) is None
    ]
    if known.get("value_scaling") is None:
        asked.append("--normalise with what it was trained on (z-score:MEAN,SD for instance, or none)")
    if asked:
        raise ConfigError(f"{source} does not tell all that a card needs: give {'; '.join(asked)}")
    for name, count in counts.items():
        if count is not None and len(known[name]) != count:
            raise ConfigError(f"--{name} names {len(known[name])}, but {source} has {count}: {', '.join(known[name])}")


def _card_facts(source: str, told: Told, known: Mapping[str, Any], sizes: tuple[int | None, int | None]) -> CardFacts:
    """What the source tells, and over it what a person says."""
    said = {name: value for name in Told.__slots__ if (value := getattr(told, name)) is not None}
    origin = {"mlm:pretrained": True, "mlm:pretrained_source": source}
    fields = {"name": _name_from(source), **known, **said}
    check_told(source, fields, *sizes)
    fields["bands"] = common_names(fields["bands"])
    fields["value_scaling"] = fields["value_scaling"] or None
    fields["properties"] = {**origin, **known.get("properties", {})}
    return CardFacts(**fields)


def _name_from(source: str) -> str:
    """A name that a card may bear: letters, digits and hyphens, a letter first.

    >>> _name_from("Unet_Weights.OAM_RGB_RESNET34_TCD"), _name_from("7.onnx")
    ('oam-rgb-resnet34-tcd', 'model-7')
    """
    stem = source.rpartition(".")[2] if _ENUM.fullmatch(source) else Path(source).stem
    plain = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")
    return plain if re.match(r"[a-z].{2}", plain) else f"model-{plain}"


def _import_net(source: str, net: Net, out: str | Path, told: Told, *, overwrite: bool) -> Path:
    from geoseg.models.registry import build
    from geoseg.models.save import save_package

    state, arguments, outputs = net.state, dict(net.arguments), net.outputs
    known = {"multiple_of": _STRIDE, "tile": _TILE, **net.known}
    if outputs == 1:
        state, arguments, outputs = with_two_scores(net)
        told = replace(told, activation=None)  # a sigmoid is in them
    facts = _card_facts(source, told, known, (net.channels, outputs))
    module = build(net.architecture, arguments)
    load_weights(module, state, source)
    fields = {name: getattr(facts, name) for name in CardFacts.__slots__}
    return save_package(module, out, architecture=net.architecture, arguments=arguments, overwrite=overwrite, **fields)


def _import_graph(path: Path, out: str | Path, told: Told, *, overwrite: bool) -> Path:
    """A package around a copy of an ONNX file or torch.export archive."""
    kind = cast("Format", path.suffix[1:])
    shape = onnx_input_shape(path) if kind == "onnx" else pt2_input_shape(path)
    if len(shape) not in (4, 5):
        raise ModelError(f"{path} takes an input of {len(shape)} axes: geoseg feeds 4, or 5 for several dates")
    if len(shape) == 5 and shape[1] is None:
        raise ModelError(f"{path} takes any number of dates: export it for a fixed one")
    side, dates = shape[-1], cast("int", shape[1]) if len(shape) == 5 else 1
    stride = told.multiple_of or (_STRIDE if side is None and not (told.tile or 0) % _STRIDE else 1)
    known = {
        "tile": side or _TILE,
        "multiple_of": stride,
        "dates": dates,
        "task": "change-detection" if dates == 2 else "segmentation",
    }
    facts = _card_facts(path.name, told, known, (shape[-3], None))
    return write_package(
        out,
        card_fields(facts, kind, architecture=path.stem),
        kind,
        put=_copies(path),
        check=_tried,
        overwrite=overwrite,
    )


def _copies(path: Path) -> Callable[[Path], object]:
    return lambda target: shutil.copyfile(path, target)


def _tried(package: Package) -> None:
    from geoseg.models.loading import try_package

    try_package(package)
