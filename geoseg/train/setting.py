"""All that is known before the first step of a training, from its options and its chips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from geoseg.errors import ConfigError
from geoseg.scene import Scaling
from geoseg.spec import ClassInfo
from geoseg.store.disk import describe_file
from geoseg.train.folder import TrainFolder
from geoseg.train.loss_names import Loss, loss_by_name
from geoseg.train.net import NetRecipe, net_recipe
from geoseg.train.options import TrainOptions
from geoseg.train.samples import ChipReader, open_chips
from geoseg.train.statistics import Statistics, measure
from geoseg.train.view import View, classes_on

__all__ = ["Setting"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Setting:
    """What a training is made of."""

    options: TrainOptions
    """As they were asked for."""
    chips: ChipReader
    """What the net learns from."""
    classes: tuple[ClassInfo, ...]
    """In the order of the net's scores."""
    view: View
    """What the net sees; scaled, once `measured`."""
    recipe: NetRecipe
    """The net."""
    side: int
    """Rows and columns of what it is trained on."""
    loss: Loss
    """What is made small."""
    identity: Mapping[str, str]
    """Input -> checksum."""
    statistics: Statistics
    """Of the bands, on the training chips, once `measured`."""

    @classmethod
    def of(cls, options: TrainOptions) -> Setting:
        """What `options` mean; of the chips only tables and one header are read.

        Raises:
            ConfigError: Options do not fit the chips or each other.
            ModelError: There is no such net.
        """
        chips = _opened(options)
        classes = classes_on(chips, options.package.colors)
        view = View.of(chips, options.data, classes, None)
        recipe = net_recipe(options.net, view.spec)
        identity = {"data.chips": chips.digest}
        if options.net.encoder_weights:
            identity["net.encoder_weights"] = _digest(options.net.encoder_weights)
        return cls(
            options=options,
            chips=chips,
            classes=classes,
            view=view,
            recipe=recipe,
            side=_side(options, chips, recipe),
            loss=loss_by_name(options.loss, class_weights=_class_weights(options, chips)),
            identity=identity,
            statistics=Statistics(values={}),
        )

    def measured(self, folder: TrainFolder) -> Setting:
        """The same with statistics and scaling: those that `folder` knows, or else of all training chips, now.

        Raises:
            SourceError: A chip cannot be read.
            SinkError: An input is no longer what it was when the training began.
        """
        found = folder.known(self.identity) or folder.tell(self.identity, self._measured())
        scaling = tuple(found["scaling"]) if found["scaling"] else None
        view = View.of(self.chips, self.options.data, self.classes, scaling)
        return replace(self, view=view, statistics=Statistics(values=found["statistics"]))

    def _measured(self) -> dict[str, Any]:
        chips, chosen, asked = self.chips, self.chips.of("train"), self.options.data.scaling
        bands = measure(chips.bands, chips, chosen, lambda values, _: values[0])
        scaling = () if isinstance(asked, str) else asked
        if asked == "z-score":
            names = [str(number) for number in range(len(self.view.channels))]  # two channels may be of one name
            scaling = measure(names, chips, chosen, self._channels).z_scores
        return {"statistics": bands.values, "scaling": [dict(each) for each in scaling]}

    def _channels(self, bands: Tensor, valid: Tensor) -> Tensor:
        """Channels of one chip before scaling, (date, channel, row, col)."""
        return self.view.show(bands, valid).reshape(self.chips.dates, -1, *valid.shape[1:])


def _opened(options: TrainOptions) -> ChipReader:
    chips = open_chips(options.data.chips)
    chips.keep(options.data.memory * 1e9)
    if options.data.assume_scaling is not None:
        chips.assumed = Scaling(**{"scale": 1.0, "offset": 0.0, **options.data.assume_scaling})
    return chips


def _side(options: TrainOptions, chips: ChipReader, recipe: NetRecipe) -> int:
    stride = recipe.stride
    for key, value in (("data.side", options.data.side), ("package.tile", options.package.tile)):
        if value is not None and value % stride:
            raise ConfigError(
                f"{key} {value} is no multiple of {stride}, by which {recipe.architecture} shrinks its input"
            )
    least = min(min(chip.shape) for chip in chips.of("train"))
    return options.data.side or max(stride, least // stride * stride)


def _class_weights(options: TrainOptions, chips: ChipReader) -> tuple[float, ...] | None:
    weights = options.class_weights
    if weights == "balanced":
        pixels = [sum(chip.pixels[number] for chip in chips.of("train")) for number in range(len(chips.classes))]
        rarity = [1 / count if count else 0.0 for count in pixels]
        return tuple(len(rarity) * each / sum(rarity) for each in rarity)
    if weights is not None and len(weights) != len(chips.classes):
        raise ConfigError(f"class_weights has {len(weights)} numbers for {len(chips.classes)} classes")
    return weights


def _digest(path: str) -> str:
    try:
        return str(describe_file(Path(path))["sha256"])
    except OSError as error:
        raise ConfigError(f"net.encoder_weights {path}: cannot be read ({error.strerror})") from error
