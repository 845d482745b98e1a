"""Band maths: formulas on band names, parsed to a syntax tree that an allow-list checks before anything is computed.

Named indices come from the spyndex catalogue (Montero et al. 2023, doi:10.1038/s41597-023-02096-0; MIT licence), of
which only the data files are read: spyndex itself evaluates with ``eval``, and importing it loads plotting libraries.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from geoseg.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    from torch import Tensor

    Value: TypeAlias = Tensor | float

__all__ = ["Formula", "mndwi", "named", "names_of_indices", "ndbi", "ndsi", "ndvi", "ndwi", "normalized", "parse"]

_LONGEST = 2000
_DEEPEST = 60

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: lambda left, right: left < right,
    ast.LtE: lambda left, right: left <= right,
    ast.Gt: lambda left, right: left > right,
    ast.GtE: lambda left, right: left >= right,
    ast.Eq: lambda left, right: left == right,
    ast.NotEq: lambda left, right: left != right,
}
_FUNCTIONS: dict[str, tuple[int, str]] = {
    "abs": (1, "abs"),
    "exp": (1, "exp"),
    "log": (1, "log"),
    "log10": (1, "log10"),
    "sqrt": (1, "sqrt"),
    "minimum": (2, "minimum"),
    "maximum": (2, "maximum"),
    "where": (3, "where"),
}
"""Name -> number of arguments and torch's name, as numexpr (and so rio-tiler) calls them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """A checked formula on band names; made by `parse`."""

    expression: str
    """As it was written."""
    names: frozenset[str]
    """Bands that it needs."""

    def evaluate(self, bands: Mapping[str, Tensor]) -> Tensor:
        """The index float32, in the shape of the bands (any shape, all the same); 0 where it is not defined.

        Not defined: any denominator is 0, a root or logarithm leaves its domain, the result overflows.

        Args:
            bands: Reflectance, float32, by band name; others than `names` are ignored.
        """
        import torch

        value = _evaluate(_tree(self.expression), bands)
        index = torch.as_tensor(value, dtype=torch.float32)
        return torch.nan_to_num(index, nan=0.0, posinf=0.0, neginf=0.0)


def parse(expression: str) -> Formula:
    """A formula on band names: numbers, names, ``+ - * / **``, comparisons, and the functions of `_FUNCTIONS`.

    >>> sorted(parse("(nir - red) / (nir + red)").names)
    ['nir', 'red']

    Raises:
        ModelError: It holds anything else, or names no band.
    """
    tree = _tree(expression)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    names = frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called)
    if not names:
        raise ModelError(f"formula {_quoted(expression)} names no band")
    return Formula(expression=expression, names=names)


def named(name: str) -> str:
    """The formula of an index of the spyndex catalogue, on STAC common names, its constants at their defaults.

    >>> named("NDVI")
    '(nir - red) / (nir + red)'

    Raises:
        ModelError: There is no such index, or it needs a number that the catalogue does not give.
        MissingExtraError: spyndex is not installed.
    """
    formulas, bands, constants = _catalogue()
    known = {short.lower(): short for short in formulas}
    short = name if name in formulas else known.get(name.lower())
    if short is None:
        raise ModelError(f"index {name!r} is not in the spyndex catalogue of {len(formulas)} indices")
    tree = ast.parse(formulas[short], mode="eval")
    return ast.unparse(_Translate(short, bands, constants).visit(tree))


def names_of_indices() -> tuple[str, ...]:
    """Names that `named` takes, sorted."""
    return tuple(sorted(_catalogue()[0]))


def normalized(first: Tensor, second: Tensor) -> Tensor:
    """``(first - second) / (first + second)`` of two bands of one shape; 0 where the sum is 0.

    >>> import torch
    >>> normalized(torch.tensor([0.5, 0.0]), torch.tensor([0.1, 0.0]))
    tensor([0.6667, 0.0000])
    """
    return _NORMALIZED.evaluate({"first": first, "second": second})


def ndvi(red: Tensor, nir: Tensor) -> Tensor:
    """Normalised difference vegetation index (Rouse et al. 1974) of reflectance; 0 where the sum is 0.

    >>> import torch
    >>> ndvi(torch.tensor([0.1]), torch.tensor([0.5]))
    tensor([0.6667])
    """
    return normalized(nir, red)


def ndwi(green: Tensor, nir: Tensor) -> Tensor:
    """Normalised difference water index (McFeeters 1996, doi:10.1080/01431169608948714); 0 where the sum is 0.

    >>> import torch
    >>> ndwi(torch.tensor([0.3]), torch.tensor([0.1]))
    tensor([0.5000])
    """
    return normalized(green, nir)


def mndwi(green: Tensor, swir16: Tensor) -> Tensor:
    """Modified NDWI (Xu 2006, doi:10.1080/01431160600589179); 0 where the sum is 0.

    >>> import torch
    >>> mndwi(torch.tensor([0.3]), torch.tensor([0.1]))
    tensor([0.5000])
    """
    return normalized(green, swir16)


def ndbi(swir16: Tensor, nir: Tensor) -> Tensor:
    """Normalised difference built-up index (Zha et al. 2003, doi:10.1080/01431160304987); 0 where the sum is 0.

    >>> import torch
    >>> ndbi(torch.tensor([0.3]), torch.tensor([0.1]))
    tensor([0.5000])
    """
    return normalized(swir16, nir)


def ndsi(green: Tensor, swir16: Tensor) -> Tensor:
    """Normalised difference snow index (Hall et al. 1995, doi:10.1016/0034-4257(95)00137-P); 0 where the sum is 0.

    The same arithmetic as `mndwi`; snow and water are told apart by the near infrared.

    >>> import torch
    >>> ndsi(torch.tensor([0.9]), torch.tensor([0.1]))
    tensor([0.8000])
    """
    return normalized(green, swir16)


@lru_cache(maxsize=256)
def _tree(expression: str) -> ast.expr:
    """The checked tree of a formula."""
    if len(expression) > _LONGEST:
        raise ModelError(f"a formula must be at most {_LONGEST} characters: {_quoted(expression)}")
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
        _check(tree, expression, 0)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ModelError(f"formula {_quoted(expression)} cannot be parsed: {error}") from error
    return tree


def _check(node: ast.expr, expression: str, depth: int) -> None:
    """Refuses whatever is not on the list."""
    parts: list[ast.expr] = []
    match node:
        case ast.Constant(value=value) if type(value) in (int, float) and abs(cast("float", value)) < 1e30:
            pass
        case ast.Name():
            pass
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            parts = [operand]
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
            parts = [left, right]
        case ast.Compare(left=left, ops=[comparison], comparators=[right]) if type(comparison) in _COMPARISONS:
            parts = [left, right]
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if len(args) == _FUNCTIONS.get(name, (-1,))[0]:
            parts = args
        case _:
            allowed = ", ".join(_FUNCTIONS)
            raise ModelError(
                f"formula {_quoted(expression)} holds {ast.unparse(node)[:60]!r}: only band names, numbers, "
                f"+ - * / **, comparisons and {allowed} are allowed"
            )
    if depth > _DEEPEST:
        raise ModelError(f"formula {_quoted(expression)} is nested deeper than {_DEEPEST} levels")
    for part in parts:
        _check(part, expression, depth + 1)


def _evaluate(node: ast.expr, bands: Mapping[str, Tensor]) -> Value:
    match node:
        case ast.Constant(value=value):
            return float(value)  # type: ignore[arg-type]  # `_check` lets only int and float through
        case ast.Name(id=name):
            return bands[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand, bands)
        case ast.UnaryOp(operand=operand):
            return _evaluate(operand, bands)
        case ast.BinOp(left=left, op=operator, right=right):
            return _OPERATORS[type(operator)](_evaluate(left, bands), _evaluate(right, bands))  # type: ignore[no-any-return]
        case ast.Compare(left=left, ops=[comparison], comparators=[right]):
            return _COMPARISONS[type(comparison)](_evaluate(left, bands), _evaluate(right, bands)) * 1.0  # type: ignore[no-any-return]
        case ast.Call(func=ast.Name(id=name), args=args):
            return _call(name, [_evaluate(argument, bands) for argument in args])
    raise AssertionError(f"unchecked node {node!r}")


def _call(name: str, values: list[Value]) -> Value:
    import torch

    tensors = [torch.as_tensor(value) for value in values]
    if name == "where":
        return torch.where(tensors[0] != 0, tensors[1], tensors[2])
    result: Tensor = getattr(torch, _FUNCTIONS[name][1])(*tensors)
    return result


def _divide(left: Value, right: Value) -> Value:
    """The quotient; NaN, not infinity, where `right` is 0, so that no later step can hide it."""
    if isinstance(right, float):
        return left / right if right else math.nan
    return left / right.masked_fill(right == 0, math.nan)


def _power(left: Value, right: Value) -> Value:
    if isinstance(left, float) and isinstance(right, float):
        try:
            power = left**right
        except (OverflowError, ZeroDivisionError):
            return math.nan
        return power if isinstance(power, float) else math.nan  # a root of a negative number is complex
    import torch

    return torch.pow(left, right)  # type: ignore[arg-type]  # one of them is a tensor


_OPERATORS = {**_ARITHMETIC, ast.Div: _divide, ast.Pow: _power}


class _Translate(ast.NodeTransformer):
    """spyndex names to STAC common names and numbers."""

    def __init__(self, index: str, bands: Mapping[str, str], constants: Mapping[str, float | None]) -> None:
        self._index, self._bands, self._constants = index, bands, constants

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self._bands:
            return ast.Name(id=self._bands[node.id])
        if (value := self._constants.get(node.id)) is not None:
            return ast.Constant(value=value)
        raise ModelError(f"index {self._index!r} needs {node.id!r}, for which the spyndex catalogue has no number")


@lru_cache(maxsize=1)
def _catalogue() -> tuple[dict[str, str], dict[str, str], dict[str, float | None]]:
    """Formulas by index, STAC common names by spyndex band, default numbers by constant."""
    found = find_spec("spyndex")  # finds the folder without running the package
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError("named indices need spyndex's catalogue: pip install spyndex")
    folder = Path(found.submodule_search_locations[0]) / "data"
    indices = json.loads((folder / "spectral-indices-dict.json").read_text("utf-8"))["SpectralIndices"]
    bands = json.loads((folder / "bands.json").read_text("utf-8"))
    constants = json.loads((folder / "constants.json").read_text("utf-8"))
    radar = {name: name.lower() for name in ("VV", "VH", "HV", "HH")}
    return (
        {short: str(index["formula"]) for short, index in indices.items()},
        {short: str(band["common_name"]) for short, band in bands.items()} | radar,
        {short: constant["default"] for short, constant in constants.items()},
    )


def _quoted(expression: object) -> str:
    text = str(expression)
    return repr(text if len(text) <= 80 else text[:77] + "...")


_NORMALIZED = parse("(first - second) / (first + second)")
