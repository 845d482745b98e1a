"""Nets that geoseg builds by name, so that a package needs to hold numbers only (safetensors), never code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from geoseg.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["architectures", "build", "recipe_of"]

_SMP = (
    "DPT", "DeepLabV3", "DeepLabV3Plus", "FPN", "Linknet", "MAnet", "PAN", "PSPNet", "Segformer", "UPerNet", "Unet",
    "UnetPlusPlus",
)  # fmt: skip
"""Classes of segmentation_models_pytorch."""
_OWN = ("ThresholdNet",)
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.\-]+")


def architectures() -> tuple[str, ...]:
    """Names that `build` takes."""
    return tuple(sorted(_SMP + _OWN))


def build(architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The net named `architecture`, in evaluation mode, its weights not yet those of any package.

    Nothing is downloaded: ``encoder_weights`` is always None, and encoder names that stand for a download are refused.

    Raises:
        ModelError: The name or an argument is not known.
        MissingExtraError: segmentation_models_pytorch is not installed.
    """
    import torch

    maker = _maker(architecture)
    arguments = {**arguments, "encoder_weights": None} if architecture.lower() in _lowered(_SMP) else dict(arguments)
    for name, value in arguments.items():
        if name.endswith("encoder_name") and not _PLAIN_NAME.fullmatch(str(value)):
            raise ModelError(
                f"encoder_name {value!r}: only names that timm or segmentation_models_pytorch build offline"
            )
    unknown = sorted(set(arguments) - set(_parameters(maker)))
    if unknown:
        raise ModelError(f"{architecture} takes no {', '.join(unknown)}; it takes {', '.join(_parameters(maker))}")
    try:
        with torch.random.fork_rng(devices=[]):  # building draws random weights; the caller's stream stays as it was
            return maker(**arguments).eval()
    except ModelError:
        raise
    except Exception as error:  # whatever a library raises for arguments that do not fit
        raise ModelError(f"{architecture} cannot be built with {dict(arguments)}: {error}") from error


def recipe_of(module: nn.Module) -> tuple[str, dict[str, Any]] | None:
    """(architecture, arguments) from which `build` makes the same net; None where the module does not tell."""
    if (own := getattr(module, "arguments", None)) is not None and type(module).__name__ in _OWN:
        return type(module).__name__, dict(own)
    known = getattr(module, "_hub_mixin_config", None)  # segmentation_models_pytorch keeps its constructor's arguments
    if not isinstance(known, dict) or type(module).__name__ not in _SMP:
        return None
    return type(module).__name__, {**known, "encoder_weights": None}


def _lowered(names: tuple[str, ...]) -> dict[str, str]:
    return {name.lower(): name for name in names}


def _maker(architecture: str) -> Callable[..., nn.Module]:
    if architecture in _OWN:
        from geoseg.models.nets import ThresholdNet

        return ThresholdNet
    name = _lowered(_SMP).get(architecture.lower())
    if name is None:
        raise ModelError(
            f"mlm:architecture {architecture!r} is not one that geoseg builds: {', '.join(architectures())}"
        )
    try:
        import segmentation_models_pytorch
    except ImportError as error:
        raise MissingExtraError(
            f"{name} needs segmentation_models_pytorch: pip install segmentation-models-pytorch"
        ) from error
    maker: Callable[..., nn.Module] = getattr(segmentation_models_pytorch, name)
    return maker


def _parameters(maker: Callable[..., nn.Module]) -> list[str]:
    return [name for name, one in inspect.signature(maker).parameters.items() if one.kind is not one.VAR_KEYWORD]
