"""Nets from elsewhere, taken apart into what the registry builds and numbers; folders that smp wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Net", "load_weights", "net_of_folder", "with_two_scores"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """A net of the registry, with its weights and what its source tells of it."""

    architecture: str
    """What the registry builds."""
    arguments: Mapping[str, Any]
    """What it builds it with."""
    state: Mapping[str, Tensor]
    """Its weights."""
    channels: int
    """Input channels of one date."""
    outputs: int
    """Output channels."""
    known: Mapping[str, Any]
    """Fields of `CardFacts` that the source tells."""


_ACTIVATIONS: Mapping[Any, str] = {None: "softmax", "identity": "softmax", "softmax2d": "softmax", "sigmoid": "sigmoid"}


def net_of_folder(folder: Path) -> Net:
    """What ``save_pretrained`` of segmentation_models_pytorch wrote.

    Raises:
        ModelError: It is no such folder.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        state = load_file(folder / "model.safetensors")
        architecture = str(config["_model_class"])
        outputs, channels = int(config["classes"]), int(config["in_channels"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: is no folder that save_pretrained wrote (config.json with _model_class, in_channels and "
            f"classes, model.safetensors): {error}"
        ) from error
    arguments = {key: value for key, value in config.items() if key != "encoder_weights" and not key.startswith("_")}
    activation = arguments.pop("activation", None)
    if activation not in _ACTIVATIONS:
        raise ModelError(f"{folder}: its activation {activation!r} is none of softmax2d, sigmoid")
    if arguments.pop("aux_params", None) is not None:
        raise ModelError(f"{folder}: has a second output for whole pictures (aux_params), which geoseg does not run")
    known = {"activation": "softmax" if outputs == 1 else _ACTIVATIONS[activation]}
    return Net(
        architecture=architecture, arguments=arguments, state=state, channels=channels, outputs=outputs, known=known
    )


def load_weights(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Loads weights that must fit exactly.

    Raises:
        ModelError: They do not.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(
            f"{source} does not hold the weights of {type(module).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error


def with_two_scores(net: Net) -> tuple[dict[str, Tensor], dict[str, Any], int]:
    """Weights, arguments and outputs of the net that gives (0, z), whose softmax is the sigmoid of the one score z.

    Raises:
        ModelError: It has no last convolution of one channel.
    """
    import torch

    state = dict(net.state)
    heads = [key for key, tensor in state.items() if "head" in key and tensor.ndim == 4 and tensor.shape[0] == 1]
    if not heads:
        raise ModelError(f"{net.architecture} of one output has no last convolution in its head: export it as ONNX")
    weight = heads[-1]
    for key in (weight, weight.removesuffix("weight") + "bias"):
        if key in state:
            state[key] = torch.cat([torch.zeros_like(state[key]), state[key]])
    return state, {**net.arguments, "classes": 2}, 2
