"""What a model needs and what it gives: the promise that its card makes and the engine enforces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from geoseg.errors import ModelError
from geoseg.scene import DATES, Scaling

__all__ = ["Channel", "ClassInfo", "ModelSpec", "Rescale", "from_to_value"]

Task = Literal["segmentation", "change-detection"]
Activation = Literal["softmax", "sigmoid", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescale:
    """One step of normalisation: ``y = clip(x * gain + offset, low, high)``.

    Every scaling type of the STAC MLM extension is one such step (min-max, z-score, clip, clip-min, clip-max, offset,
    scale).
    """

    gain: float = 1.0
    """Factor."""
    offset: float = 0.0
    """Summand, after the factor."""
    low: float | None = None
    """Lower bound, or None."""
    high: float | None = None
    """Upper bound, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One input channel of a net: a band, or an index computed from bands."""

    name: str
    """The band's or the index's name."""
    expression: str | None = None
    """Formula on band names (``(nir - red) / (nir + red)``); None where the channel is the band `name`."""
    rescale: tuple[Rescale, ...] = ()
    """Steps from reflectance (or index) to what the net sees, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassInfo:
    """One class of a model, as its card lists it."""

    value: int
    """Number in the label raster."""
    name: str
    """Machine name: ``water``."""
    title: str = ""
    """Human name; `name` where the card has none."""
    description: str = ""
    """One sentence."""
    color: str = "808080"
    """RRGGBB, hexadecimal, without ``#``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The card of a model, reduced to what the engine needs."""

    name: str
    """Unique name: the card's id."""
    bands: tuple[str, ...]
    """Common names of the bands to read, each once, in reading order."""
    channels: tuple[Channel, ...]
    """Input channels of the net, in its order."""
    classes: tuple[ClassInfo, ...]
    """Output channels of the net, in its order; values are unique."""
    tile: int = 512
    """Side of the square that the net sees, in pixels."""
    overlap: int | None = None
    """Pixels that neighbouring tiles share at the card's own tile; None: a quarter of the tile."""
    multiple_of: int = 1
    """Tile and stride are multiples of this (the net's total stride)."""
    halo: int | None = None
    """Measured radius beyond which an input pixel moves no output by more than 1e-3; None: not measured."""
    fill: float = 0.0
    """What the net sees in every channel (after normalisation) where a pixel is invalid."""
    activation: Activation = "softmax"
    """Turns scores into probabilities; ``none``: the net does so itself (see `output_range`)."""
    output_range: tuple[float, float] = (0.0, 1.0)
    """Range of the outputs after `activation`; mapped onto [0, 1] for blending."""
    temperature: float = 1.0
    """Scores are divided by it before `activation`, so that probabilities are as sure as they are right."""
    assume_scaling: Scaling | None = None
    """For integer bands whose scene declares none."""
    task: Task = "segmentation"
    """What the model is for."""
    dates: int = 1
    """Scenes per input: 1, or 2 for change detection (`b t c h w`)."""
    maps: int = 1
    """Class maps per input: 2 where the net gives one for each date (scores of both, one after the other)."""
    static_batch: int | None = None
    """Batch size that the artifact's graph fixes; None: any."""
    static_tile: int | None = None
    """Tile that the artifact's graph fixes; None: any multiple of `multiple_of`."""
    digest: str = ""
    """SHA-256 (hexadecimal) of the card and the weights together."""
    description: str = ""
    """One line for people."""
    training_statistics: Mapping[str, Any] | None = field(default=None, hash=False)
    """Per band: mean, sd and histogram of the training data, as the card holds them."""

    def __post_init__(self) -> None:
        values = [info.value for info in self.classes]
        if not self.channels or not self.bands:
            raise ModelError(f"model {self.name!r} names no input bands")
        if not values:
            raise ModelError(f"model {self.name!r} names no classes")
        if len(set(values)) != len(values) or min(values) < 0 or max(values) > 65534:
            raise ModelError(f"model {self.name!r}: class values {values} must differ and lie between 0 and 65534")
        if self.maps not in (1, self.dates):
            raise ModelError(
                f"model {self.name!r} gives {self.maps} maps of {self.dates} dates: one in all, or one each"
            )
        if self.maps > 1 and len(values) ** 2 > 65534:
            raise ModelError(
                f"model {self.name!r} maps {len(values)} classes, which may become one another in "
                f"{len(values) ** 2} ways: more than a uint16 numbers"
            )
        if not 0 < self.temperature < float("inf") or (self.temperature != 1 and self.activation == "none"):
            raise ModelError(
                f"model {self.name!r}: temperature {self.temperature} must be positive, and 1 where outputs are final"
            )
        if self.multiple_of < 1 or self.tile < 1 or self.tile % self.multiple_of:
            raise ModelError(f"model {self.name!r}: tile {self.tile} is no multiple of {self.multiple_of}")
        if self.static_tile is not None and self.tile != self.static_tile:
            raise ModelError(
                f"model {self.name!r}: its graph fixes tiles of {self.static_tile}, its card says {self.tile}"
            )

    @property
    def outputs(self) -> int:
        """Scores per pixel: one for each class of each map."""
        return self.maps * len(self.classes)

    @property
    def transitions(self) -> dict[int, tuple[ClassInfo, ClassInfo]]:
        """Of two maps: the label of each change -> the classes before and after; of one map none."""
        if self.maps == 1:
            return {}
        many = range(len(self.classes))
        pairs = ((was, is_now) for was in many for is_now in many if was != is_now)
        return {from_to_value(*pair, len(many)): (self.classes[pair[0]], self.classes[pair[1]]) for pair in pairs}

    @property
    def written(self) -> ModelSpec:
        """The card with the classes of the raster that is written: of two maps, unchanged and each transition.

        Raises:
            ModelError: There are more transitions than numbers of uint16.
        """
        if self.maps == 1:
            return self
        changed = (
            ClassInfo(
                value=value,
                name=f"{was.name}-to-{is_now.name}",
                title=f"{was.title or was.name} to {is_now.title or is_now.name}",
                description=f"{was.title or was.name} before, {is_now.title or is_now.name} after",
                color=is_now.color,
            )
            for value, (was, is_now) in self.transitions.items()
        )
        unchanged = ClassInfo(value=0, name="unchanged", title="Unchanged", description="the same class on both dates")
        return replace(self, classes=(unchanged, *changed), maps=1)

    @property
    def probability_names(self) -> tuple[str, ...]:
        """Of the probabilities that a pixel gets, in order: class names, with the date where each has a map."""
        names = tuple(info.name for info in self.classes)
        return names if self.maps == 1 else tuple(f"{date}.{name}" for date in DATES for name in names)

    @property
    def values(self) -> tuple[int, ...]:
        """Class values, in the net's order."""
        return tuple(info.value for info in self.classes)

    @property
    def label_dtype(self) -> str:
        """Smallest dtype that holds every class value beside the nodata value."""
        return "uint8" if max(self.values) < 255 else "uint16"

    @property
    def label_nodata(self) -> int:
        """Number in the label raster where there is no label: 255, or 65535 for uint16."""
        return 255 if self.label_dtype == "uint8" else 65535


def from_to_value(before: int, after: int, classes: int) -> int:
    """Label of a change from the class at one place of the card's list to that at another; 0 where it stays.

    >>> [[from_to_value(before, after, 3) for after in range(3)] for before in range(3)]
    [[0, 2, 3], [4, 0, 6], [7, 8, 0]]
    """
    return 0 if before == after else 1 + before * classes + after
