"""Stored numbers to what the net sees: reflectance, indices, normalisation, fill.

All of it per pixel, on the model's device, so that cutting a scene into bands, chunks or tiles changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geoseg.errors import BandError
from geoseg.indices import Formula, parse
from geoseg.scene import DATES, Band, BandSet, Scaling
from geoseg.spec import Channel, ModelSpec, Rescale

__all__ = ["Recipe", "evaluated", "prepare", "recipes_for"]

_UNCHANGED = Scaling()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How the channels of one model come from the bands of one date of a source."""

    names: tuple[str, ...]
    """Band names, in the source's order; of a pair, this date's without the date."""
    scalings: tuple[Scaling, ...]
    """Stored numbers to reflectance, per band."""
    channels: tuple[Channel, ...]
    """In the net's order."""
    formulas: tuple[Formula | None, ...]
    """Parsed expression per channel; None where the channel is a band."""
    fill: float
    """What an invalid pixel shows the net, in every channel."""


def scaling_of(band: Band, assumed: Scaling | None) -> Scaling:
    """The scene's own word first; what the card assumes only for integer bands that declare nothing."""
    if band.scaling is not None:
        return band.scaling
    if assumed is not None and not band.dtype.startswith("float"):
        return assumed
    return _UNCHANGED


def recipes_for(spec: ModelSpec, bands: BandSet) -> tuple[Recipe, ...]:
    """The recipes for a model on a source that reads `bands`, one for each date that the model compares.

    Raises:
        BandError: A channel needs a band that the source does not read.
    """
    if spec.dates == 1:
        return (_recipe_for(spec, bands, bands.names),)
    return tuple(_recipe_for(spec, bands, _names_of(date, bands)) for date in DATES)


def _names_of(date: str, bands: BandSet) -> tuple[str, ...]:
    """The bands of one date under their own names, those of others without any."""
    prefix = f"{date}."
    return tuple(name.removeprefix(prefix) if name.startswith(prefix) else "" for name in bands.names)


def _recipe_for(spec: ModelSpec, bands: BandSet, names: tuple[str, ...]) -> Recipe:
    formulas = tuple(None if channel.expression is None else parse(channel.expression) for channel in spec.channels)
    for channel, formula in zip(spec.channels, formulas, strict=True):
        missing = ({channel.name} if formula is None else set(formula.names)) - set(names)
        if missing:
            raise BandError(
                f"channel {channel.name!r} of model {spec.name!r} needs {', '.join(sorted(missing))}; "
                f"the scene gives {', '.join(filter(None, names)) or 'one date only'}"
            )
    return Recipe(
        names=names,
        scalings=tuple(scaling_of(band, spec.assume_scaling) for band in bands),
        channels=spec.channels,
        formulas=formulas,
        fill=spec.fill,
    )


def prepare(pixels: Tensor, valid: Tensor | None, recipe: Recipe, out: Tensor | None = None) -> Tensor:
    """Channels float32 (channel, row, col) of stored numbers (band, row, col).

    Args:
        pixels: Stored numbers, any real dtype.
        valid: Usable pixels (row, col), bool; None where all are.
        recipe: From `recipes_for`.
        out: Where to put them; None: a new tensor.
    """
    if out is None:
        out = torch.empty((len(recipe.channels), *pixels.shape[1:]), dtype=torch.float32, device=pixels.device)
    reflectance: dict[str, Tensor] = {}
    for channel, formula, target in zip(recipe.channels, recipe.formulas, out, strict=True):
        if formula is None:
            target.copy_(pixels[recipe.names.index(channel.name)])
            _apply_scaling(target, recipe.scalings[recipe.names.index(channel.name)])
        else:
            for name in formula.names - reflectance.keys():
                band = pixels[recipe.names.index(name)].to(torch.float32, copy=True)  # scaled in place
                reflectance[name] = _apply_scaling(band, recipe.scalings[recipe.names.index(name)])
            target.copy_(formula.evaluate(reflectance))
        for step in channel.rescale:
            _apply_rescale(target, step)
    if valid is not None:
        out.masked_fill_(~valid, recipe.fill)
    return out


def evaluated(formula: Formula, stored: Mapping[str, tuple[npt.NDArray[Any], Scaling]]) -> npt.NDArray[np.float32]:
    """An index float32 (row, col) of stored numbers (row, col), given with their scaling by band name."""
    bands = {
        name: _apply_scaling(torch.from_numpy(stored[name][0].astype(np.float32)), stored[name][1])
        for name in formula.names
    }
    index: npt.NDArray[np.float32] = formula.evaluate(bands).numpy()
    return index


def _apply_scaling(values: Tensor, scaling: Scaling) -> Tensor:
    if scaling.scale != 1.0:
        values.mul_(scaling.scale)
    if scaling.offset != 0.0:
        values.add_(scaling.offset)
    return values


def _apply_rescale(values: Tensor, step: Rescale) -> None:
    if step.gain != 1.0:
        values.mul_(step.gain)
    if step.offset != 0.0:
        values.add_(step.offset)
    if step.low is not None or step.high is not None:
        values.clamp_(step.low, step.high)
