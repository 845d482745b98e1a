"""Losses as a person writes them: ``0.5*dice + 0.5*focal(gamma=2)``, or a mapping of names."""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from geoseg.errors import ConfigError
from geoseg.train import IGNORE
from geoseg.train.losses import LOSSES

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Loss", "LossTerm", "loss_by_name"]

Number: TypeAlias = float | tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerm:
    """One loss of a sum."""

    name: str
    """As `geoseg.train.losses.LOSSES` has it."""
    weight: float = 1.0
    """What it is multiplied by."""
    options: tuple[tuple[str, Number], ...] = ()
    """Its own options, by name."""

    def __str__(self) -> str:
        options = ", ".join(f"{key}={value}" for key, value in self.options)
        return f"{self.weight:g}*{self.name}" + (f"({options})" if options else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A weighted sum of losses, called with logits (n, class, row, col) and labels (n, row, col)."""

    terms: tuple[LossTerm, ...]
    """What is added."""
    ignore_index: int = IGNORE
    """Label without a part."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The sum, one number."""
        first, *rest = self.parts(logits, labels)
        return sum(rest, start=first)

    def parts(self, logits: Tensor, labels: Tensor) -> list[Tensor]:
        """Each term, weighted, in the order of `terms`."""
        return [
            term.weight * LOSSES[term.name](logits, labels, ignore_index=self.ignore_index, **dict(term.options))
            for term in self.terms
        ]

    def __str__(self) -> str:
        return " + ".join(map(str, self.terms))


def loss_by_name(
    wanted: str | Mapping[str, Any],
    *,
    class_weights: Sequence[float] | None = None,
    ignore_index: int = IGNORE,
) -> Loss:
    """The loss that a text or a mapping describes.

    Args:
        wanted: ``dice``, ``0.5*dice + 0.5*focal(gamma=2)``; or the same as a mapping from names to a weight, or to
            options among which ``weight`` may be: ``{"dice": 0.5, "focal": {"weight": 0.5, "gamma": 2}}``.
        class_weights: One per class, for ``weighted`` where it names none.
        ignore_index: Label of pixels that have no part in the loss.

    Raises:
        ConfigError: There is no such loss or option, or a number makes no sense.

    >>> str(loss_by_name("0.5*dice + focal(gamma=3)"))
    '0.5*dice + 1*focal(gamma=3.0)'
    >>> loss_by_name({"dice": 0.5, "focal": {"gamma": 3}}) == loss_by_name("0.5*dice + focal(gamma=3)")
    True
    """
    listed = _parse(wanted) if isinstance(wanted, str) else _unfold(wanted)
    terms = tuple(_checked(name, weight, options, class_weights) for name, weight, options in listed)
    if not terms:
        raise ConfigError(f"no loss is named; choose among {', '.join(LOSSES)}")
    return Loss(terms=terms, ignore_index=ignore_index)


_Listed: TypeAlias = list[tuple[str, Any, dict[str, Any]]]


def _unfold(wanted: Mapping[str, Any]) -> _Listed:
    listed: _Listed = []
    for name, value in wanted.items():
        options = dict(value) if isinstance(value, Mapping) else {"weight": value}
        listed.append((name, options.pop("weight", 1.0), options))
    return listed


def _parse(text: str) -> _Listed:
    """Name, weight and options of each term; nothing is ever evaluated."""
    try:
        return [_term(node) for node in _summands(ast.parse(text.strip(), mode="eval").body)]
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"loss {text!r} cannot be read; write a sum of losses, like 0.5*dice + 0.5*focal(gamma=2)"
        ) from error


def _summands(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_summands(node.left), node.right]
    return [node]


def _term(node: ast.expr) -> tuple[str, Any, dict[str, Any]]:
    weight: Any = 1.0
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        weight, node = ast.literal_eval(node.left), node.right
    if isinstance(node, ast.Name):
        return node.id, weight, {}
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args):
        raise ValueError
    return node.func.id, weight, {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}


def _checked(name: str, weight: Any, options: dict[str, Any], class_weights: Sequence[float] | None) -> LossTerm:
    if name not in LOSSES:
        raise ConfigError(f"there is no loss {name!r}; choose among {', '.join(LOSSES)}")
    known = set(inspect.signature(LOSSES[name]).parameters) - {"logits", "labels", "ignore_index"}
    if unknown := sorted(set(options) - known):
        raise ConfigError(f"loss {name} has no option {unknown[0]!r}; it has {', '.join(sorted(known)) or 'none'}")
    if name == "weighted" and "weights" not in options:
        if class_weights is None:
            raise ConfigError("loss weighted needs one weight per class: weighted(weights=[1, 5])")
        options = {**options, "weights": class_weights}
    return LossTerm(
        name=name,
        weight=_number(name, "weight", weight),
        options=tuple((key, _value(name, key, options[key])) for key in sorted(options)),
    )


def _value(name: str, key: str, value: Any) -> Number:
    if key == "weights":
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise ConfigError(f"loss {name}: weights is {value!r}; give a list, one number per class")
        return tuple(_number(name, key, each) for each in value)
    number = _number(name, key, value)
    if (key == "smoothing" and number >= 1) or (name == "focal_tversky" and key == "gamma" and number == 0):
        raise ConfigError(f"loss {name}: {key} cannot be {number:g}")
    return number


def _number(name: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ConfigError(f"loss {name}: {key} is {value!r}; give a number that is not negative")
    return float(value)
