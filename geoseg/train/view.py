"""What a net sees of chips: the channels that the engine will show it of scenes, by the engine's own preparation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from geoseg.errors import ConfigError
from geoseg.indices import named, names_of_indices, parse
from geoseg.models.card import rescale_of
from geoseg.prepare import Recipe, prepare, recipes_for
from geoseg.scene import Band, BandSet, Scaling
from geoseg.spec import Channel, ClassInfo, ModelSpec
from geoseg.train.options import ChannelLike, DataOptions
from geoseg.train.samples import ChipReader

__all__ = ["View", "channels_on", "classes_on"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """Bands to channels."""

    channels: tuple[ChannelLike, ...]
    """As the card lists them."""
    scaling: tuple[Mapping[str, Any], ...] | None
    """Value scaling of each channel, as the card has it."""
    spec: ModelSpec
    """The card's promise, as far as the input goes."""
    recipe: Recipe
    """From reflectance of one date."""

    @classmethod
    def of(
        cls,
        chips: ChipReader,
        options: DataOptions,
        classes: Sequence[ClassInfo],
        scaling: tuple[Mapping[str, Any], ...] | None,
    ) -> View:
        """What `options` say that the net sees of `chips`.

        Raises:
            ConfigError: A channel or a scaling makes no sense.
            ModelError: A formula or a scaling cannot be read.
        """
        listed = options.channels or chips.bands
        if scaling is not None and len(scaling) not in (1, len(listed)):
            raise ConfigError(
                f"data.scaling has {len(scaling)} entries for {len(listed)} channels: give 1 or {len(listed)}"
            )
        every = scaling * len(listed) if scaling is not None and len(scaling) == 1 else scaling
        channels = tuple(
            replace(channel, rescale=rescale_of(None if every is None else every[number]))
            for number, channel in enumerate(channels_on(chips.bands, listed))
        )
        spec = ModelSpec(
            name="training", bands=chips.bands, channels=channels, classes=tuple(classes), fill=options.fill,
            dates=chips.dates, assume_scaling=chips.assumed,
        )  # fmt: skip
        reflectance = BandSet(tuple(Band(name=name, dtype="float32", scaling=Scaling()) for name in chips.bands))
        (recipe,) = recipes_for(replace(spec, dates=1), reflectance)
        return cls(channels=tuple(listed), scaling=scaling, spec=spec, recipe=recipe)

    def show(self, bands: Tensor, valid: Tensor) -> Tensor:
        """Channels float32 (n, channel, row, col), or (n, date, channel, row, col) of pairs.

        Args:
            bands: float32 (n, date, band, row, col) reflectance.
            valid: bool (n, row, col) usable; others are filled on all dates.
        """
        count, dates = bands.shape[:2]
        flat = bands.movedim(2, 0).flatten(1, 2)  # (band, n * date, row, col)
        usable = valid[:, None].expand(-1, dates, -1, -1).flatten(0, 1)
        out = torch.empty((len(self.recipe.channels), *flat.shape[1:]))
        shown = prepare(flat, usable, self.recipe, out).reshape(-1, count, dates, *flat.shape[2:]).movedim(0, 2)
        return shown.contiguous() if dates > 1 else shown[:, 0].contiguous()


def channels_on(bands: Sequence[str], listed: Sequence[ChannelLike]) -> tuple[Channel, ...]:
    """The channels that bands, indices and formulas stand for, before any scaling.

    Raises:
        ConfigError: One is none of these, or needs a band that there is not.
        ModelError: A formula cannot be read.

    >>> [channel.expression for channel in channels_on(("red", "nir"), ("red", "NDVI"))]
    [None, '(nir - red) / (nir + red)']
    """
    return tuple(_channel(bands, one) for one in listed)


def _channel(bands: Sequence[str], one: ChannelLike) -> Channel:
    if isinstance(one, str) and one in bands:
        return Channel(name=one)
    if isinstance(one, str):
        if one not in names_of_indices():
            raise ConfigError(
                f"data.channels: {one!r} is neither a band of the chips ({', '.join(bands)}) nor an index"
            )
        name, expression = one, named(one)
    else:
        if not {"name", "expression"} <= set(one) <= {"name", "expression", "format"}:
            raise ConfigError(f"data.channels: {dict(one)} should hold name and expression")
        name, expression = one["name"], one["expression"]
    if missing := sorted(parse(expression).names - set(bands)):
        raise ConfigError(f"data.channels: {name} needs {', '.join(missing)}; the chips hold {', '.join(bands)}")
    return Channel(name=name, expression=expression)


def classes_on(chips: ChipReader, colors: Mapping[str, str]) -> tuple[ClassInfo, ...]:
    """The classes of the chips, in the order of their numbers, each with its colour.

    Raises:
        ConfigError: A colour is no RRGGBB, or of no class; pairs have no class of value 0.
    """
    names = [name for _, name in chips.classes]
    for name, color in colors.items():
        if name not in names or len(color) != 6 or set(color.upper()) - set("0123456789ABCDEF"):
            raise ConfigError(f"package.colors: {name}: {color}: give RRGGBB for one of {', '.join(names)}")
    if chips.dates == 2 and 0 not in [value for value, _ in chips.classes]:
        raise ConfigError(
            f"data.chips {chips.folder}: pairs need a class of value 0 for what did not change; there are "
            + ", ".join(f"{name}={value}" for value, name in chips.classes)
        )
    palette = (colors.get(name, _PALETTE[number % len(_PALETTE)]) for number, name in enumerate(names))
    return tuple(
        ClassInfo(value=value, name=name, title=name, color=color.upper())
        for (value, name), color in zip(chips.classes, palette, strict=True)
    )


_PALETTE = ("4477AA", "228833", "CCBB44", "EE6677", "66CCEE", "AA3377", "BBBBBB", "994F00", "005AB5", "117733")
"""The colours that a card without colours is shown in."""
