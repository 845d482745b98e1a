"""The net of a training, as its options describe it: built by name, checked on one input, weights from its seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geoseg.errors import ConfigError
from geoseg.models.registry import architectures, arguments_of, build
from geoseg.spec import ModelSpec
from geoseg.train.draws import seed_at
from geoseg.train.encoder import load_encoder
from geoseg.train.options import NetOptions

__all__ = ["NetRecipe", "device_of", "make_net", "net_recipe"]

_STRIDE = 32
"""Of nets that do not tell how often they halve their input."""
_WEIGHTS = 2**32
"""What chance at no epoch's place is for: the first weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetRecipe:
    """What the registry builds, and what it takes."""

    architecture: str
    """Name."""
    arguments: Mapping[str, Any]
    """All of them."""
    stride: int
    """Rows and columns of the input are multiples of this."""


def net_recipe(options: NetOptions, spec: ModelSpec) -> NetRecipe:
    """What to build for the channels and classes of `spec`.

    Raises:
        ConfigError: There is no such net, or the arguments say what follows from the chips.
        MissingExtraError: Its library is not installed.
    """
    names = {name.lower(): name for name in architectures()}
    if options.architecture.lower() not in names:
        close = get_close_matches(options.architecture.lower(), names, n=1)
        meant = f"did you mean {names[close[0]]}?" if close else f"choose among {', '.join(names.values())}"
        raise ConfigError(f"net.architecture: there is no {options.architecture!r}; {meant}")
    taken = arguments_of(options.architecture)
    facts = {
        "in_channels": len(spec.channels),
        "classes": spec.outputs,
        "num_classes": spec.outputs,
        "dates": spec.dates,
    }
    added = {name: value for name, value in facts.items() if name in taken}
    if twice := sorted(added.keys() & options.arguments.keys()):
        raise ConfigError(f"net.arguments: {twice[0]} follows from the chips ({added[twice[0]]}); leave it out")
    depth = options.arguments.get("encoder_depth", 5)
    stride = 2**depth if isinstance(depth, int) and "encoder_depth" in taken and 0 < depth < 8 else _STRIDE
    return NetRecipe(architecture=options.architecture, arguments={**options.arguments, **added}, stride=stride)


def make_net(recipe: NetRecipe, options: NetOptions, spec: ModelSpec, *, seed: int) -> nn.Module:
    """The net with its first weights; the caller's chance is untouched.

    Raises:
        ConfigError: The net does not take such chips, or the file of weights does not fit.
        ModelError: The net cannot be built.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_at(seed, _WEIGHTS))
        net = build(recipe.architecture, recipe.arguments)
        if options.encoder_weights:
            load_encoder(net, Path(options.encoder_weights))
        _try(net, recipe, spec)
    return net


def _try(net: nn.Module, recipe: NetRecipe, spec: ModelSpec) -> None:
    side = 2 * recipe.stride
    dates = (spec.dates,) if spec.dates > 1 else ()
    shape = (1, *dates, len(spec.channels), side, side)
    try:
        with torch.inference_mode():
            scores = net(torch.zeros(shape))
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        text = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"net.architecture {recipe.architecture} does not take an input of {shape}: {text}"
        ) from error
    expected = (1, spec.outputs, side, side)
    if not isinstance(scores, Tensor) or tuple(scores.shape) != expected:
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ConfigError(
            f"net.architecture {recipe.architecture} gives {found} for an input of {shape}; the chips need {expected}"
        )


def device_of(name: str) -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` stands for.

    Raises:
        ConfigError: There is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"fit.device {name}: give auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda") or (
        device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    ):
        raise ConfigError(f"fit.device {name}: this machine has {torch.cuda.device_count()} GPUs; give auto or cpu")
    return device
