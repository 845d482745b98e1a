"""Nets that geoseg builds by name, so that a package needs to hold numbers only (safetensors), never code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from geoseg.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["architectures", "arguments_of", "build", "recipe_of"]

_SMP = (
    "DPT", "DeepLabV3", "DeepLabV3Plus", "FPN", "Linknet", "MAnet", "PAN", "PSPNet", "Segformer", "UPerNet", "Unet",
    "UnetPlusPlus",
)  # fmt: skip
_TORCHGEO = ("BTC", "ChangeStarFarSeg", "ChangeViT", "FCSiamConc", "FCSiamDiff")
_OWN = {
    "FCEF": "geoseg.models.temporal",
    "SiameseUnet": "geoseg.models.change",
    "TemporalUnet": "geoseg.models.temporal",
    "TemporalWeights": "geoseg.models.temporal",
    "ThresholdNet": "geoseg.models.nets",
}
_HOMES = {
    **dict.fromkeys(_SMP, "segmentation_models_pytorch"),
    **dict.fromkeys(_TORCHGEO, "geoseg.models.torchgeo_nets"),
    **_OWN,
}
"""Names, and the modules that define them."""
_LOWERED = {name.lower(): name for name in _HOMES}
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.\-]+")


def architectures() -> tuple[str, ...]:
    """Names that `build` takes."""
    return tuple(sorted(_HOMES))


def arguments_of(architecture: str) -> tuple[str, ...]:
    """Names of the arguments that `build` takes for a net.

    Raises:
        ModelError: The name is not known.
        MissingExtraError: The library that defines the net is not installed.
    """
    return tuple(_parameters(_maker(architecture)))


def build(architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The net named `architecture`, in evaluation mode, its weights not yet those of any package.

    Nothing is downloaded: ``encoder_weights`` is always None, and names of encoders that stand for a download are
    refused.

    Raises:
        ModelError: The name or an argument is not known.
        MissingExtraError: The library that defines the net is not installed.
    """
    import torch

    maker = _maker(architecture)
    parameters = _parameters(maker)
    arguments = {**arguments, **({"encoder_weights": None} if "encoder_weights" in parameters else {})}
    for name, value in arguments.items():
        if name.endswith(("encoder_name", "backbone")) and not _PLAIN_NAME.fullmatch(str(value)):
            raise ModelError(f"{name} {value!r}: only names that timm or segmentation_models_pytorch build offline")
    unknown = sorted(set(arguments) - set(parameters))
    if unknown:
        raise ModelError(f"{architecture} takes no {', '.join(unknown)}; it takes {', '.join(parameters)}")
    try:
        with torch.random.fork_rng(devices=[]):  # building draws random weights; the caller's stream stays as it was
            return maker(**arguments).eval()
    except ModelError:
        raise
    except Exception as error:  # whatever a library raises for arguments that do not fit
        raise ModelError(f"{architecture} cannot be built with {dict(arguments)}: {error}") from error


def recipe_of(module: nn.Module) -> tuple[str, dict[str, Any]] | None:
    """(architecture, arguments) from which `build` makes the same net; None where the module does not tell."""
    name = type(module).__name__
    known = getattr(module, "arguments", None)
    if known is None:  # what derives from segmentation_models_pytorch's nets keeps its constructor's arguments
        known = getattr(module, "_hub_mixin_config", None)
    if name not in _HOMES or not isinstance(known, dict) or "args" in known:  # positional ones come without a name
        return None
    return name, {**known, **({"encoder_weights": None} if "encoder_weights" in known else {})}


def _maker(architecture: str) -> type[nn.Module]:
    name = _LOWERED.get(architecture.lower())
    if name is None:
        raise ModelError(
            f"mlm:architecture {architecture!r} is not one that geoseg builds: {', '.join(architectures())}"
        )
    try:
        maker: type[nn.Module] = getattr(import_module(_HOMES[name]), name)
    except ImportError as error:
        package = "'geoseg[torchgeo]'" if name in _TORCHGEO else "segmentation-models-pytorch"
        raise MissingExtraError(f"{name} cannot be imported ({error}): pip install {package}") from error
    return maker


def _parameters(maker: type[nn.Module]) -> list[str]:
    """Names of the arguments; where a constructor passes the rest on, those of the class that it extends too."""
    named: dict[str, inspect.Parameter] = {}
    for kind in maker.__mro__:
        found = inspect.signature(kind).parameters.values()
        named |= {one.name: one for one in found if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)}
        if not any(one.kind is one.VAR_KEYWORD for one in found):
            break
    return list(named)
