"""What a weights file fixes by itself: batch and tile of an ONNX or torch.export graph, read without its runtime.

Only the description of the graph is touched (protobuf fields are skipped by their length, a zip's JSON member is read
alone), so that looking at a card costs nothing however large the weights are.
"""

from __future__ import annotations

import json
import mmap
import zipfile
from collections.abc import Iterator
from pathlib import Path

from geoseg.errors import ModelError

__all__ = ["onnx_input_shape", "pt2_input_shape"]

Shape = tuple[int | None, ...]
"""Sizes along each axis; None: any."""

_FLOAT = 1
# Field numbers of onnx.proto: ModelProto.graph; GraphProto.initializer, .input; ValueInfoProto.name, .type;
# TypeProto.tensor_type; TypeProto.Tensor.elem_type, .shape; TensorShapeProto.dim; Dimension.dim_value;
# TensorProto.name, .data_location.
_MODEL_GRAPH, _GRAPH_INITIALIZER, _GRAPH_INPUT = 7, 5, 11
_INFO_NAME, _INFO_TYPE, _TYPE_TENSOR, _TENSOR_ELEMENT, _TENSOR_SHAPE, _SHAPE_DIM, _DIM_VALUE = 1, 2, 1, 1, 2, 1, 1
_INITIALIZER_NAME, _INITIALIZER_LOCATION, _EXTERNAL = 8, 14, 1

Field = tuple[int, int | memoryview]


def onnx_input_shape(path: Path) -> Shape:
    """Sizes of the one input of an ONNX file.

    Raises:
        ModelError: It is no ONNX file, has several inputs, takes no float32, or keeps weights in another file.
    """
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # goes when its last view does
        return _onnx_shape(memoryview(mapped), path)
    except (IndexError, ValueError, OSError) as error:
        raise ModelError(f"{path} cannot be read as an ONNX graph: {error}") from error


def _onnx_shape(view: memoryview, path: Path) -> Shape:
    graphs = [part for number, part in _fields(view) if number == _MODEL_GRAPH and isinstance(part, memoryview)]
    if not graphs:
        raise ModelError(f"{path} is no ONNX file: it holds no graph")
    inputs: list[list[Field]] = []
    weights: set[bytes] = set()
    for number, part in _fields(graphs[0]):
        if not isinstance(part, memoryview):
            continue
        if number == _GRAPH_INPUT:
            inputs.append(list(_fields(part)))
        elif number == _GRAPH_INITIALIZER:
            tensor = dict(_fields(part))
            weights.add(_bytes(tensor.get(_INITIALIZER_NAME)))
            if tensor.get(_INITIALIZER_LOCATION) == _EXTERNAL:
                raise ModelError(f"{path} keeps weights in another file, which no checksum covers: save it as one file")
    free = [dict(entry) for entry in inputs if _bytes(dict(entry).get(_INFO_NAME)) not in weights]
    if len(free) != 1:
        raise ModelError(f"{path} has {len(free)} inputs: geoseg runs nets of one input")
    return _value_shape(free[0], path)


def _value_shape(info: dict[int, int | memoryview], path: Path) -> Shape:
    kind = dict(_fields(_part(info, _INFO_TYPE)))
    tensor = dict(_fields(_part(kind, _TYPE_TENSOR)))
    if tensor.get(_TENSOR_ELEMENT) != _FLOAT:
        raise ModelError(f"{path} takes numbers of ONNX type {tensor.get(_TENSOR_ELEMENT)}: geoseg feeds float32")
    dims = [part for number, part in _fields(_part(tensor, _TENSOR_SHAPE)) if number == _SHAPE_DIM]
    sizes = [dict(_fields(dim)).get(_DIM_VALUE) for dim in dims if isinstance(dim, memoryview)]
    return tuple(size if isinstance(size, int) and size > 0 else None for size in sizes)


def _part(fields: dict[int, int | memoryview], number: int) -> memoryview:
    part = fields.get(number)
    return part if isinstance(part, memoryview) else memoryview(b"")


def _bytes(part: int | memoryview | None) -> bytes:
    return bytes(part) if isinstance(part, memoryview) else b""


def _fields(view: memoryview) -> Iterator[Field]:
    """Field numbers and values of a protobuf message; nested messages and text as views, nothing copied."""
    position = 0
    while position < len(view):
        key, position = _varint(view, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(view, position)
            yield number, value
            continue
        if wire == 2:
            size, position = _varint(view, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if number == 0 or position + size > len(view):
            raise ValueError("a field reaches beyond the end of the file")
        yield number, view[position : position + size]
        position += size


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def pt2_input_shape(path: Path) -> Shape:
    """Sizes of the one input of a torch.export archive.

    Raises:
        ModelError: It is no such archive, or has several inputs.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = next(name for name in archive.namelist() if name.endswith("models/model.json"))
            module = json.loads(archive.read(member))["graph_module"]
        inputs = [spec["user_input"]["arg"] for spec in module["signature"]["input_specs"] if "user_input" in spec]
        if len(inputs) != 1 or "as_tensor" not in inputs[0]:
            raise ModelError(f"{path} has {len(inputs)} inputs: geoseg runs nets of one input")
        sizes = module["graph"]["tensor_values"][inputs[0]["as_tensor"]["name"]]["sizes"]
    except (zipfile.BadZipFile, StopIteration, KeyError, ValueError, TypeError, OSError) as error:
        raise ModelError(f"{path} cannot be read as a torch.export archive: {error!r}") from error
    return tuple(size.get("as_int") for size in sizes)
