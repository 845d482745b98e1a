"""The scores of a map: what `geoseg.evaluate` returns, as values and as a document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from geoseg.errors import ConfigError
from geoseg.evaluation.calibration import ReliabilityBin
from geoseg.evaluation.confusion import Matrix
from geoseg.evaluation.stratified import Z95, AreaEstimates

__all__ = [
    "CLASS_TITLES",
    "TITLES",
    "ClassScores",
    "Interval",
    "RegionScores",
    "Scores",
    "failures",
    "undefined_as_none",
]

TITLES: Final = {
    "accuracy": "accuracy",
    "miou": "mean IoU",
    "fwiou": "frequency-weighted IoU",
    "dice": "mean Dice (F1)",
    "precision": "mean precision",
    "recall": "mean recall",
    "boundary_iou": "mean boundary IoU",
    "boundary_f1": "mean boundary F1",
    "ece": "expected calibration error",
}
"""Score -> what people call it."""
CLASS_TITLES: Final = {
    "iou": "IoU",
    "dice": "Dice (F1)",
    "precision": "precision",
    "recall": "recall",
    "boundary_iou": "boundary IoU",
    "boundary_f1": "boundary F1",
}
"""Score of a class -> what people call it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScores:
    """One class; what is not defined is NaN."""

    value: int
    """Number in the map."""
    name: str
    """Of the map's classes, or the value as text."""
    truth_pixels: int
    """Pixels that are of this class."""
    predicted_pixels: int
    """Of the pixels whose truth is known, those that were mapped to it."""
    iou: float
    """Intersection over union."""
    dice: float
    """Dice coefficient, F1."""
    precision: float
    """Share of the mapped pixels that is right."""
    recall: float
    """Share of the true pixels that was found."""
    boundary_iou: float
    """IoU of the bands along the borders."""
    boundary_f1: float
    """F1 of the lines along the borders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionScores:
    """One region."""

    name: str
    """The column's value, or row and column of the grid's cell."""
    pixels: int
    """Pixels whose truth is known."""
    overall: Mapping[str, float] = field(hash=False)
    """As in `Scores.overall`, of the confusion matrix only."""
    iou: Mapping[str, float] = field(hash=False)
    """Class name -> intersection over union."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Where a score lies with 95 % confidence, as far as regions tell."""

    low: float
    """2.5 % of the draws lie below."""
    high: float
    """2.5 % of the draws lie above."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """How well a map agrees with the truth; what is not defined is NaN, and no mean counts it."""

    predicted: str
    """The map."""
    truth: str
    """What it was compared with."""
    pixels: int
    """Pixels that both have."""
    unmapped_pixels: int
    """Pixels whose truth is known and that the map leaves out; no score counts them."""
    boundary_width: int
    """Pixels of the band along borders; 0: borders were not looked at."""
    classes: tuple[ClassScores, ...]
    """By value."""
    confusion: Matrix
    """(truth, predicted) pixels, in the order of `classes`."""
    overall: Mapping[str, float]
    """accuracy, miou, fwiou, dice, precision, recall; boundary_iou, boundary_f1, ece where they were asked for."""
    reliability: tuple[ReliabilityBin, ...]
    """Confidence against accuracy; empty without a confidence raster."""
    estimates: AreaEstimates
    """Areas in square kilometres, and accuracies, of the whole map; classes in the order of `classes`."""
    regions: tuple[RegionScores, ...]
    """Scores of each region, where regions were asked for."""
    intervals: Mapping[str, Interval]
    """Score (`miou`, `iou.water`) -> its interval, from the regions."""
    notes: tuple[str, ...]
    """What has to be known to read the scores."""

    def value(self, name: str) -> float:
        """A score by name: one of `overall`, or ``iou.water``, ``f1.1`` of a class by its name or value.

        Raises:
            ConfigError: There is no such score; the message names those that are.
        """
        score, _, of = name.strip().partition(".")
        score = {"f1": "dice", "oa": "accuracy"}.get(score.lower(), score.lower())
        if not of and score in self.overall:
            return self.overall[score]
        known = [key for key in ClassScores.__slots__ if isinstance(getattr(self.classes[0], key), float)]
        if of and score in known:
            found = [each for each in self.classes if of.casefold() in {each.name.casefold(), str(each.value)}]
            if found:
                return float(getattr(found[0], score))
            raise ConfigError(f"{name}: the classes are {', '.join(each.name for each in self.classes)}")
        raise ConfigError(
            f"{name}: the scores are {', '.join(self.overall)}; of a class {', '.join(known)} (iou.water)"
        )

    def as_dict(self) -> dict[str, Any]:
        """A document for JSON: undefined numbers are None, estimates have their 95 % intervals."""
        names = [each.name for each in self.classes]
        document = {
            "predicted": self.predicted,
            "truth": self.truth,
            "pixels": self.pixels,
            "unmapped_pixels": self.unmapped_pixels,
            "boundary_width": self.boundary_width,
            "overall": dict(self.overall),
            "classes": [asdict(each) for each in self.classes],
            "confusion": {"rows": "truth", "columns": "predicted", "classes": names, "pixels": self.confusion.tolist()},
            "reliability": [asdict(each) for each in self.reliability],
            "estimates": _estimates(self.estimates, names),
            "regions": [
                {"name": each.name, "pixels": each.pixels, "overall": dict(each.overall), "iou": dict(each.iou)}
                for each in self.regions
            ],
            "intervals": {name: asdict(each) for name, each in self.intervals.items()},
            "notes": list(self.notes),
        }
        return dict(undefined_as_none(document))


def _estimates(found: AreaEstimates, names: Sequence[str]) -> dict[str, Any]:
    return {
        "accuracy": found.accuracy,
        "accuracy_95": Z95 * found.accuracy_error,
        "left_out": found.left_out,
        "classes": [
            {
                "name": name,
                "mapped_km2": float(found.mapped[at]),
                "km2": float(found.area[at]),
                "km2_95": float(Z95 * found.area_error[at]),
                "users": float(found.users[at]),
                "users_95": float(Z95 * found.users_error[at]),
                "producers": float(found.producers[at]),
                "producers_95": float(Z95 * found.producers_error[at]),
            }
            for at, name in enumerate(names)
        ],
    }


def undefined_as_none(document: Any) -> Any:
    """A document with None for every NaN, which JSON has not.

    >>> undefined_as_none({"iou": [0.5, float("nan")]})
    {'iou': [0.5, None]}
    """
    if isinstance(document, dict):
        return {key: undefined_as_none(value) for key, value in document.items()}
    if isinstance(document, list):
        return [undefined_as_none(value) for value in document]
    return None if isinstance(document, float) and math.isnan(document) else document


def failures(scores: Scores, least: Mapping[str, float]) -> list[str]:
    """One line for each score that is below what it must be at least, or not defined.

    Raises:
        ConfigError: There is no score of a name in `least`.
    """
    found = {name: scores.value(name) for name in least}
    return [
        f"{name} is {'not defined' if math.isnan(value) else f'{value:.4f}'}, and must be {least[name]:g} at least"
        for name, value in found.items()
        if not value >= least[name]
    ]
