"""Everything that decides how a net is trained, with the values that hold where nobody says otherwise.

`geoseg.train_config` reads these from YAML and the command line. Keys are dotted there: ``fit.epochs`` is
`TrainOptions.fit`'s `FitOptions.epochs`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

from geoseg.errors import ConfigError

__all__ = ["Augmentation", "DataOptions", "FitOptions", "NetOptions", "PackageOptions", "TrainOptions", "plain"]

ChannelLike: TypeAlias = str | Mapping[str, str]
"""A band of the chips, an index of the spyndex catalogue, or ``{name, expression}``."""

_NO_OTHERS = {"extra": "forbid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOptions:
    """What the net learns from, and what it sees of it."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = _NO_OTHERS

    chips: str = "chips"
    """Folder that `geoseg chips` wrote."""
    channels: tuple[ChannelLike, ...] | None = None
    """What the net sees, in order: bands, indices (NDVI), or {name, expression}; null: every band of the chips."""
    scaling: Literal["z-score", "none"] | tuple[Mapping[str, Any], ...] = "z-score"
    """From reflectance and indices to what the net sees: z-score by the training chips, none, or MLM value scalings."""
    assume_scaling: Mapping[Literal["scale", "offset"], float] | None = None
    """Scale and offset of chips of integers that declare none; the card says the same of scenes."""
    fill: float = 0.0
    """What the net sees in every channel where a pixel is not usable."""
    side: int | None = None
    """Pixels of the square that is cut from each chip, anew every time; null: the largest that fits chips and net."""
    sampling: Literal["all", "balanced"] = "all"
    """Whether an epoch takes every chip once, or draws those with rare classes more often."""
    memory: float = 2.0
    """Gigabytes of chips, as stored, that are kept after they were read."""

    def __post_init__(self) -> None:
        _demand("data.side", self.side, 1, whole_or_none=True)
        _demand("data.memory", self.memory, 0)
        if self.channels is not None and not self.channels:
            raise ConfigError("data.channels is empty: name what the net sees")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetOptions:
    """Which net, and from which weights it starts."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = _NO_OTHERS

    architecture: str = "Unet"
    """Name in geoseg's registry; for pairs of dates SiameseUnet, FCEF, TemporalUnet, FCSiamDiff, ..."""
    arguments: Mapping[str, Any] = field(default_factory=lambda: {"encoder_name": "resnet18"})
    """What it is built with; channels and classes are added."""
    encoder_weights: str | None = None
    """File (safetensors, torch) of pretrained weights of the encoder; its first layer is made to fit the channels."""
    checkpoint_gradients: bool = False
    """Whether the encoder's stages are computed twice, to hold less memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """The loop."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = _NO_OTHERS

    epochs: int = 50
    """How often the training chips are gone through, at most."""
    steps: int | None = None
    """Steps of the optimizer in an epoch; null: as many as show every chip once."""
    batch: int = 8
    """Chips that the net sees at once."""
    accumulate: int = 1
    """Batches whose gradients make one step."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW (Loshchilov and Hutter 2019), or stochastic gradient descent with a momentum of 0.9."""
    rate: float = 1e-3
    """Highest learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls to 0 after the warm-up."""
    warmup: float = 0.05
    """Part of all steps over which the rate rises."""
    decay: float = 0.01
    """Weight decay, of weights, not of biases and norms."""
    clip: float | None = 1.0
    """Longest gradient; longer ones are shortened."""
    average: float | None = None
    """Part of the past in a moving average of the weights, which is judged and kept instead; 0.999, say."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the net; the loss and the weights are fp32 always."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    patience: int | None = None
    """Epochs without a better `monitor` after which training ends."""
    monitor: Literal["miou", "loss"] = "miou"
    """What decides which epoch's weights are kept: mean IoU or loss on the chips of val."""
    checkpoint_steps: int | None = None
    """Steps after which progress is put on disk, within an epoch too; null: at the end of each epoch."""
    seed: int = 0
    """Decides all that is left to chance."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate"):
            _demand(f"fit.{name}", getattr(self, name), 1)
        for name in ("steps", "patience", "checkpoint_steps"):
            _demand(f"fit.{name}", getattr(self, name), 1, whole_or_none=True)
        _demand("fit.rate", self.rate, 0)
        _demand("fit.decay", self.decay, 0)
        _demand("fit.warmup", self.warmup, 0, 1)
        _demand("fit.seed", self.seed, 0)
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"fit.clip is {self.clip:g}: give a number above 0, or null")
        if self.average is not None and not 0 < self.average < 1:
            raise ConfigError(f"fit.average is {self.average:g}: give a number between 0 and 1, or null")


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How training chips are changed each time that they are shown; 0 leaves a change out."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = _NO_OTHERS

    flips: bool = True
    """One of the square's eight symmetries."""
    rotate: float = 0.0
    """Degrees, at most, to either side."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Least and greatest factor by which the ground is magnified."""
    elastic: float = 0.0
    """Pixels, about, by which the ground is bent (Simard et al. 2003)."""
    brightness: float = 0.1
    """Reflectance of each band and date is multiplied by 1 plus or minus this, at most."""
    contrast: float = 0.1
    """The same of what differs from the band's mean on the chip."""
    gamma: float = 0.1
    """Exponent 1 plus or minus this, at most, between the least and greatest value that the band has in training."""
    noise: float = 0.02
    """Standard deviation of what is added to each pixel, in standard deviations of the band."""
    channel_dropout: float = 0.0
    """Part of the chips of which one channel is filled."""
    lost: float = 0.0
    """Part of the chips of which a rectangle is made unusable, as at the edge of a scene or below a cloud."""

    def __post_init__(self) -> None:
        _demand("augment.rotate", self.rotate, 0, 180)
        _demand("augment.elastic", self.elastic, 0)
        _demand("augment.noise", self.noise, 0)
        for name in ("brightness", "contrast", "gamma", "channel_dropout", "lost"):
            _demand(f"augment.{name}", getattr(self, name), 0, 1)
        if not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise ConfigError(f"augment.scale is {list(self.scale)}: give the least and the greatest factor, above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageOptions:
    """The model package that comes out."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = _NO_OTHERS

    name: str = "my-model"
    """The model's name: letters, digits, `_ . -` and blanks."""
    description: str = ""
    """One line for people."""
    license: str = "other"
    """SPDX identifier, or other."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What the card says beside what is known from the chips: data, citation, licence of the data, limits."""
    tile: int = 512
    """Side of the square that the net sees by default when it maps scenes."""
    overlap: int | None = None
    """Pixels that neighbouring tiles share by default; null: a quarter of the tile."""
    colors: Mapping[str, str] = field(default_factory=dict)
    """Class name to RRGGBB."""

    def __post_init__(self) -> None:
        _demand("package.tile", self.tile, 1)
        _demand("package.overlap", self.overlap, 0, whole_or_none=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """All of it."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = _NO_OTHERS

    out: str | None = None
    """Folder of checkpoints, history, pictures, and in the end the package."""
    data: DataOptions = field(default_factory=DataOptions)
    """What the net learns from."""
    net: NetOptions = field(default_factory=NetOptions)
    """Which net."""
    loss: str | Mapping[str, Any] = "0.5*cross_entropy + 0.5*dice"
    """What is made small: losses by name, as a sum or as a mapping."""
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None
    """For `weighted`: one weight per class, or balanced: 1 / labelled training pixels, their mean 1."""
    augment: Augmentation = field(default_factory=Augmentation)
    """How chips are changed."""
    fit: FitOptions = field(default_factory=FitOptions)
    """The loop."""
    package: PackageOptions = field(default_factory=PackageOptions)
    """What comes out."""
    pictures: int = 4
    """Chips of val that are drawn after each epoch: what is seen, truth, prediction."""
    tensorboard: bool = True
    """Whether figures and pictures also go to TensorBoard, where it is installed."""

    def __post_init__(self) -> None:
        _demand("pictures", self.pictures, 0)


def _demand(key: str, value: float | None, low: float, high: float = math.inf, *, whole_or_none: bool = False) -> None:
    if value is None and whole_or_none:
        return
    if value is None or not low <= value <= high or not math.isfinite(value):
        most = f" to {high:g}" if math.isfinite(high) else " or more"
        raise ConfigError(f"{key} is {value}: give {low:g}{most}" + (", or null" if whole_or_none else ""))


def plain(value: Any) -> Any:
    """A value of an option as YAML and JSON have it: without tuples.

    >>> plain({"scale": (0.8, 1.25)})
    {'scale': [0.8, 1.25]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
