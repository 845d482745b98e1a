"""torch.export archives (``.pt2``), cleaned before torch reads them.

``torch.export.load`` unpickles example inputs and evaluates texts of the archive (shape expressions through sympy's
``eval``, guards through ``exec``, operators by attribute lookup from ``torch``). A model package must never run code,
so geoseg reads the archive itself, drops what only serves debugging (example inputs, guards, traces), checks the rest
against allow-lists, and hands torch a copy that holds nothing else.
"""

from __future__ import annotations

import ast
import io
import json
import re
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["load_exported"]

_LARGEST = 16 << 30
_MEMBER = re.compile(
    r"models/model\.json|data/(weights|constants)/(model_(weights|constants)_config\.json|(weight|tensor)_\d+)"
    r"|archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
)
_DROPPED = re.compile(r"data/sample_inputs/model\.pt|extra/.*|\.format_version|\.storage_alignment|data/?")
_PAYLOAD = re.compile(r"(weight|tensor)_\d+")
_OPERATOR = re.compile(
    r"torch\.ops\.aten\.(?!from_file)\w+(\.\w+)?"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|le|lt|ge|gt|and_|or_)"
    r"|torch\.sym_(int|float|max|min|not|ite)|math\.(ceil|floor|trunc)"
)
_WORD = re.compile(r"[\w.+\-]*")
_ARITHMETIC = (
    "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Min", "Max", "Mod", "PythonMod", "FloorDiv",
    "CeilDiv", "CleanDiv", "IntTrueDiv", "FloatTrueDiv", "ModularIndexing", "Eq", "Ne", "Le", "Lt", "Ge", "Gt", "And",
    "Or", "Not", "Where", "ToFloat", "FloorToInt", "CeilToInt",
)  # fmt: skip
"""Functions of sympy and torch that shape expressions are made of."""
_FREE_TEXT = "as_string"
"""Arguments of operators (``bilinear``); torch quotes them wherever it writes code."""


def load_exported(path: Path) -> nn.Module:
    """The net of an archive, on the CPU, without anything of the archive having been run.

    Raises:
        ModelError: It is no such archive, holds something that could run, or torch cannot read it.
    """
    import torch

    cleaned = _cleaned(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net: nn.Module = torch.export.load(cleaned).module()
    except Exception as error:  # torch raises whatever it meets in a file that it does not understand
        raise ModelError(f"{path} cannot be loaded by torch {torch.__version__}: {str(error)[:300]}") from error
    # An exported graph has one mode and raises where it is put into it, as the exporter to ONNX does.
    net.train = lambda mode=True: net  # type: ignore[method-assign]
    return net


def _cleaned(path: Path) -> io.BytesIO:
    """A copy of the archive that holds allow-listed members with allow-listed content only."""
    target = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as copy:
            if sum(member.file_size for member in source.infolist()) > _LARGEST:
                raise ModelError(f"{path} unpacks to more than {_LARGEST >> 30} GiB")
            for name in source.namelist():
                _, _, inner = name.partition("/")
                if _DROPPED.fullmatch(inner):
                    continue
                if not _MEMBER.fullmatch(inner):
                    raise ModelError(f"{path} holds {name!r}, which could hold code; save it with torch.export.save")
                copy.writestr(f"model/{inner}", _member(inner, source.read(name), path))
            copy.writestr("model/data/sample_inputs/model.pt", b"")
    except (zipfile.BadZipFile, ValueError, RecursionError, OSError, NotImplementedError) as error:
        raise ModelError(f"{path} cannot be read as a torch.export archive: {error}") from error
    target.seek(0)
    return target


def _member(inner: str, content: bytes, path: Path) -> bytes:
    if not inner.endswith(".json"):
        return content
    parsed = json.loads(content)
    if inner == "models/model.json":
        parsed["guards_code"] = []
        _check_program(parsed, "", path)
    else:
        for payload in parsed["config"].values():
            if payload.get("use_pickle") is not False or not _PAYLOAD.fullmatch(str(payload.get("path_name"))):
                raise ModelError(f"{path} holds pickled weights, which can run code; save plain tensors")
    return json.dumps(parsed).encode()


def _check_program(node: Any, key: str, path: Path) -> None:
    """Walks the whole program; drops metadata, refuses every text that is not of a known harmless kind."""
    if isinstance(node, dict):
        if "metadata" in node:
            node["metadata"] = {}
        for inner, value in node.items():
            if not _WORD.fullmatch(inner):
                raise ModelError(f"{path}: unexpected name {inner[:60]!r}")
            if inner != _FREE_TEXT or not isinstance(value, str):
                _check_program(value, inner, path)
    elif isinstance(node, list):
        for value in node:
            _check_program(value, key, path)
    elif isinstance(node, str):
        _check_text(node, key, path)


def _check_text(text: str, key: str, path: Path) -> None:
    if key in ("target", "as_operator"):
        fine = _OPERATOR.fullmatch(text) is not None
    elif key == "expr_str":
        fine = _is_arithmetic(text)
    elif key in ("in_spec", "out_spec"):
        fine = "__enum__" not in text and "\\u" not in text  # an enumeration would be imported by its name
    else:
        fine = _WORD.fullmatch(text) is not None
    if not fine:
        raise ModelError(f"{path}: {key} {text[:60]!r} is not on the list of what a torch.export graph may hold")


def _is_arithmetic(expression: str) -> bool:
    """Whether a shape expression only combines numbers and symbols by sympy's arithmetic."""
    try:
        tree = ast.parse(expression, mode="eval")
    except (SyntaxError, ValueError):
        return False
    return all(_is_plain(node) for node in ast.walk(tree))


def _is_plain(node: ast.AST) -> bool:
    """Only calls can do anything: those of sympy's arithmetic may, attributes and subscripts may not."""
    match node:
        case ast.Call(func=ast.Name(id=name)):
            return name in _ARITHMETIC
        case ast.Name(id=name):
            return not name.startswith("_")
        case ast.Constant(value=value):
            return not isinstance(value, str) or value.isidentifier()
    return isinstance(node, _PLAIN)


_PLAIN = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.keyword, ast.expr_context)
