"""A model's card (``model.json``, a STAC item with the MLM extension) to the `ModelSpec` that the engine keeps.

Whatever the card asks for and geoseg does not do is an error, never silently left out.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from geoseg.errors import ModelError
from geoseg.indices import named, parse
from geoseg.scene import Scaling
from geoseg.spec import Channel, ClassInfo, ModelSpec, Rescale

__all__ = ["rescale_of", "spec_of"]

_FRAMES = (("batch", "bands", "height", "width"), ("batch", "time", "bands", "height", "width"))
_PALETTE = ("4477AA", "228833", "CCBB44", "EE6677", "66CCEE", "AA3377", "BBBBBB", "994F00", "005AB5", "117733")
_TILE = 512

Limits = tuple[int | None, int | None]
"""Batch and tile that a graph fixes; None: any."""


def spec_of(
    card: Mapping[str, Any], *, digest: str = "", limits: Limits = (None, None), multiple_of: int = 1
) -> ModelSpec:
    """The promise that a card makes.

    Args:
        card: The parsed ``model.json``.
        digest: Of card and weights, hexadecimal.
        limits: What the weights' own graph fixes.
        multiple_of: For cards that do not state ``geoseg:multiple_of``.

    Raises:
        ModelError: The card is incomplete, contradicts itself, or asks for something that geoseg does not do.
    """
    if "mlm:input" not in _take(card, "properties", dict, {}):
        raise ModelError("it is no STAC item with MLM fields: properties hold no mlm:input")
    fields = card["properties"]
    entry = _only(fields, "mlm:input")
    channels = _channels(entry, _common_names(card))
    shape, dates = _frame(entry, len(channels))
    batch, size = limits
    tile = size or _take(fields, "geoseg:tile", int, shape[-1] if shape[-1] > 0 else _TILE)
    low, high = _pair(fields, "geoseg:output_range", (0.0, 1.0))
    return ModelSpec(
        name=str(_take(card, "id", str)),
        bands=_bands_of(channels),
        channels=channels,
        classes=_classes(fields),
        tile=tile,
        overlap=_take(fields, "geoseg:overlap", int, None),
        multiple_of=_take(fields, "geoseg:multiple_of", int, multiple_of),
        halo=_take(fields, "geoseg:halo", int, None),
        fill=_number(fields, "geoseg:fill", 0.0),
        activation=_choice(fields, "geoseg:activation", ("softmax", "sigmoid", "none")),  # type: ignore[arg-type]
        output_range=(low, high),
        temperature=_number(fields, "geoseg:temperature", 1.0),
        assume_scaling=_assumed(fields),
        task=_choice(fields, "geoseg:task", ("segmentation", "change-detection")),  # type: ignore[arg-type]
        dates=dates,
        maps=_take(fields, "geoseg:maps", int, 1),
        static_batch=batch,
        static_tile=size,
        digest=digest,
        description=str(_take(fields, "description", str, "")),
        training_statistics=_take(fields, "geoseg:training_statistics", dict, None),
    )


def rescale_of(entry: Mapping[str, Any] | None) -> tuple[Rescale, ...]:
    """The steps of one MLM value scaling object; none where it is null.

    >>> rescale_of({"type": "z-score", "mean": 0.5, "stddev": 0.25})
    (Rescale(gain=4.0, offset=-2.0, low=None, high=None),)

    Raises:
        ModelError: Its type is ``processing`` or unknown, or its numbers are missing or divide by 0.
    """
    kind = None if entry is None else entry.get("type")
    if entry is None or kind is None:
        return ()
    match kind:
        case "min-max":
            low = _number(entry, "minimum")
            return _linear(low, _number(entry, "maximum") - low, entry)
        case "z-score":
            return _linear(_number(entry, "mean"), _number(entry, "stddev"), entry)
        case "clip":
            return (Rescale(low=_number(entry, "minimum"), high=_number(entry, "maximum")),)
        case "clip-min":
            return (Rescale(low=_number(entry, "minimum")),)
        case "clip-max":
            return (Rescale(high=_number(entry, "maximum")),)
        case "offset":
            return (Rescale(offset=-_number(entry, "value")),)
        case "scale":
            return _linear(0.0, _number(entry, "value"), entry)
    raise ModelError(
        f"value_scaling type {kind!r} is not supported: use numbers (min-max, z-score, clip, offset, scale)"
    )


def _linear(zero: float, unit: float, entry: Mapping[str, Any]) -> tuple[Rescale, ...]:
    """``(x - zero) / unit``."""
    if unit == 0:
        raise ModelError(f"value_scaling {dict(entry)} divides by 0")
    return (Rescale(gain=1.0 / unit, offset=-zero / unit),)


def _common_names(card: Mapping[str, Any]) -> dict[str, str]:
    """Band name -> STAC common name, as the card's own band list says (``B04`` -> ``red``)."""
    listed = list(_take(card["properties"], "bands", list, []))
    for asset in _take(card, "assets", dict, {}).values():
        listed += _take(asset, "bands", list, [])
    names: dict[str, str] = {}
    for band in listed:
        if isinstance(band, dict) and isinstance(band.get("eo:common_name"), str):
            names.setdefault(str(band.get("name")), band["eo:common_name"])
    return names


def _channels(entry: Mapping[str, Any], common: Mapping[str, str]) -> tuple[Channel, ...]:
    """The net's input channels, in order."""
    listed = _take(entry, "bands", list)
    scalings = _take(entry, "value_scaling", list, None) or [None]
    if len(scalings) not in (1, len(listed)):
        raise ModelError(f"value_scaling has {len(scalings)} entries for {len(listed)} bands: give 1 or {len(listed)}")
    if entry.get("pre_processing_function") is not None:
        raise ModelError("it asks for a pre_processing_function: geoseg runs no code from a card; use value_scaling")
    if entry.get("resize_type") not in (None, "crop", "pad"):
        raise ModelError(
            f"it asks for resize_type {entry['resize_type']!r}: geoseg feeds tiles at the scene's own resolution"
        )
    if len(scalings) == 1:
        scalings = scalings * len(listed)
    return tuple(_channel(band, scaling, common) for band, scaling in zip(listed, scalings, strict=True))


def _channel(band: object, scaling: Mapping[str, Any] | None, common: Mapping[str, str]) -> Channel:
    if isinstance(band, str):
        return Channel(name=common.get(band, band), rescale=rescale_of(scaling))
    if not isinstance(band, dict) or not isinstance(band.get("name"), str):
        raise ModelError(f"input band {str(band)[:80]!r} is neither a name nor an object with a name")
    name, kind = band["name"], band.get("format")
    if kind is None:
        return Channel(name=common.get(name, name), rescale=rescale_of(scaling))
    if kind == "spyndex":
        expression = named(str(band.get("expression")))
    elif kind == "rio-tiler":
        expression = str(band.get("expression"))
    else:
        raise ModelError(f"band {name!r} has an expression of format {kind!r}: geoseg reads spyndex and rio-tiler")
    return Channel(name=name, expression=_renamed(expression, common), rescale=rescale_of(scaling))


def _renamed(expression: str, common: Mapping[str, str]) -> str:
    """The formula on common names."""
    tree = ast.parse(expression, mode="eval") if parse(expression).names & common.keys() else None
    if tree is None:
        return expression
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = common.get(node.id, node.id)
    return ast.unparse(tree)


def _bands_of(channels: Sequence[Channel]) -> tuple[str, ...]:
    """Every band that is read, each once: the channels' own order first, then what only formulas need."""
    names = [channel.name for channel in channels if channel.expression is None]
    for channel in channels:
        if channel.expression is not None:
            names += sorted(parse(channel.expression).names)
    return tuple(dict.fromkeys(names))


def _frame(entry: Mapping[str, Any], channels: int) -> tuple[Sequence[int], int]:
    """Shape of the input, and scenes per input."""
    structure = _take(entry, "input", dict)
    shape, order = _take(structure, "shape", list), _take(structure, "dim_order", list)
    aliases = {"channel": "bands", "channels": "bands", "band": "bands"}
    axes = tuple(aliases.get(str(axis), str(axis)) for axis in order)
    if axes not in _FRAMES or len(shape) != len(axes) or not all(isinstance(size, int) for size in shape):
        raise ModelError(f"input {shape} with dim_order {order}: geoseg feeds batch, (time,) bands, height, width")
    dtype = structure.get("data_type", "float32")
    if dtype != "float32":
        raise ModelError(f"input data_type is {dtype}: geoseg feeds float32")
    if shape[-3] not in (-1, channels):
        raise ModelError(f"input shape {shape} has {shape[-3]} channels, but {channels} bands are listed")
    if shape[-1] != shape[-2]:
        raise ModelError(f"input shape {shape} is not square: geoseg cuts square tiles")
    dates = shape[1] if len(shape) == 5 else 1
    if dates < 1:
        raise ModelError(f"input shape {shape} must fix the number of dates")
    return shape, dates


def _classes(fields: Mapping[str, Any]) -> tuple[ClassInfo, ...]:
    """Output channels of the net, in order."""
    if not _take(fields, "mlm:output", list):
        raise ModelError("mlm:output is empty")
    output = fields["mlm:output"][0]
    listed = _take(output, "classification:classes", list)
    result = _take(output, "result", dict, {})
    shape, order = _take(result, "shape", list, []), _take(result, "dim_order", list, [])
    if output.get("post_processing_function") is not None:
        raise ModelError(
            "it asks for a post_processing_function: geoseg runs no code from a card; use geoseg:activation"
        )
    if len(shape) != 4 or len(order) != 4 or order[0] != "batch" or list(order[2:]) != ["height", "width"]:
        raise ModelError(f"output {shape} with dim_order {order}: geoseg takes batch, classes, height, width")
    maps = _take(fields, "geoseg:maps", int, 1)
    if shape[1] not in (-1, maps * len(listed)):
        raise ModelError(
            f"output shape {shape} has {shape[1]} channels, but {len(listed)} classes are listed for {maps} map(s)"
        )
    return tuple(_class(entry, position) for position, entry in enumerate(listed))


def _class(entry: Mapping[str, Any], position: int) -> ClassInfo:
    name = str(entry.get("name") or entry.get("value"))
    color = str(entry.get("color_hint") or _PALETTE[position % len(_PALETTE)]).lstrip("#").upper()
    if len(color) != 6 or set(color) - set("0123456789ABCDEF"):
        raise ModelError(f"class {name!r}: color_hint {color!r} is not RRGGBB")
    return ClassInfo(
        value=_take(entry, "value", int),
        name=name,
        title=str(entry.get("title") or name),
        description=str(entry.get("description") or ""),
        color=color,
    )


def _assumed(fields: Mapping[str, Any]) -> Scaling | None:
    entry = _take(fields, "geoseg:assume_scaling", dict, None)
    if entry is None:
        return None
    return Scaling(scale=_number(entry, "scale", 1.0), offset=_number(entry, "offset", 0.0))


def _only(fields: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    entries = _take(fields, key, list)
    if len(entries) != 1 or not isinstance(entries[0], dict):
        raise ModelError(f"{key} has {len(entries)} entries: geoseg runs nets of one input")
    return cast("Mapping[str, Any]", entries[0])


_REQUIRED: Any = object()


def _take(fields: object, key: str, kind: type[Any], default: Any = _REQUIRED) -> Any:
    """``fields[key]``, of the type that it must have."""
    if not isinstance(fields, Mapping):
        raise ModelError(f"{key} is looked for in {str(fields)[:80]!r}, which is no object")
    value = fields.get(key)
    if value is None and default is not _REQUIRED:
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ModelError(f"{key} must be {_WORDS[kind]}, not {str(value)[:80]!r}")
    return value


_WORDS: Mapping[type[Any], str] = {dict: "an object", list: "a list", int: "an integer", str: "text"}


def _number(fields: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = fields.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ModelError(f"{key} must be a finite number, not {str(value)[:80]!r}")
    return float(value)


def _pair(fields: Mapping[str, Any], key: str, default: tuple[float, float]) -> tuple[float, float]:
    values = fields.get(key, default)
    if not isinstance(values, list | tuple) or len(values) != 2:
        raise ModelError(f"{key} must be two numbers, not {str(values)[:80]!r}")
    low, high = (_number({key: value}, key) for value in values)
    if not low < high:
        raise ModelError(f"{key} {values} must rise")
    return low, high


def _choice(fields: Mapping[str, Any], key: str, allowed: Sequence[str]) -> str:
    value = fields.get(key, allowed[0])
    if value not in allowed:
        raise ModelError(f"{key} must be one of {', '.join(allowed)}, not {str(value)[:80]!r}")
    return str(value)
