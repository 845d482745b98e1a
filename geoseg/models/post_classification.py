"""Change by comparing two maps: a net for one date, run on both.

Post-classification comparison (Singh 1989, doi:10.1080/01431168908939285) needs no net for change and says from which
class to which; it is as wrong as both maps together.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from geoseg.errors import ModelError
from geoseg.protocols import Model
from geoseg.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PostClassification", "on_both_dates"]


def on_both_dates(spec: ModelSpec) -> ModelSpec:
    """The card of a net for one date as that of a model for pairs that gives a map of each.

    Raises:
        ModelError: The net's outputs are no probabilities of classes that exclude each other.
    """
    if spec.dates != 1 or spec.activation == "sigmoid" or len(spec.classes) < 2:
        raise ModelError(
            f"model {spec.name!r} gives no map of one class per pixel that could be compared between two dates; "
            "choose a model with softmax and two classes or more"
        )
    return replace(spec, dates=2, maps=2, task="change-detection")


class PostClassification:
    """A `geoseg.protocols.Model` for pairs: another model's scores of before, then of after."""

    def __init__(self, model: Model) -> None:
        """Takes a model for one date."""
        self._model = model
        self.spec = on_both_dates(model.spec)

    def __reduce__(self) -> tuple[type[PostClassification], tuple[Model]]:
        return PostClassification, (self._model,)

    def predict(self, batch: Tensor) -> Tensor:
        """Scores (n, 2 * class, row, col) of a batch (n, 2, channel, row, col).

        Each date is a batch of its own, as large as the given one: what a graph fixes, and memory, stay as planned.

        Raises:
            ModelError: As the other model raises it.
        """
        import torch

        return torch.cat([self._model.predict(date) for date in batch.unbind(1)], dim=1)


_: type[Model] = PostClassification
