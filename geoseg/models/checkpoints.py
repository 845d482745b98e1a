"""Lightning checkpoints of torchgeo's tasks for segmentation and change detection, read as plain data."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.errors import ModelError
from geoseg.models.foreign import Net

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["net_of_checkpoint", "plain_data"]

_SMP = {"unet": "Unet", "deeplabv3+": "DeepLabV3Plus", "upernet": "UPerNet", "segformer": "Segformer", "dpt": "DPT"}
_PAIRS = {
    "unet": "FCEF",
    "fcsiamdiff": "FCSiamDiff",
    "fcsiamconc": "FCSiamConc",
    "changevit": "ChangeViT",
    "btc": "BTC",
}
_ACTIVATIONS = {"binary": "softmax", "multiclass": "softmax", "multilabel": "sigmoid"}


def net_of_checkpoint(path: Path) -> Net:
    """The net of a checkpoint, with what its hyperparameters tell.

    Raises:
        ModelError: It holds more than plain data, or is no checkpoint of these tasks.
    """
    content = plain_data(path)
    parameters, weights = content.get("hyper_parameters"), content.get("state_dict")
    if not isinstance(parameters, Mapping) or not isinstance(weights, Mapping):
        raise ModelError(f"{path} is no Lightning checkpoint: it lacks hyper_parameters or state_dict")
    state = {key.removeprefix("model."): tensor for key, tensor in weights.items() if key.startswith("model.")}
    # Both tasks have the same parameters but this one, and a checkpoint does not bear the name of its class.
    is_change = "pos_weight" in parameters
    kind, architectures = str(parameters.get("model")), _PAIRS if is_change else _SMP
    if kind not in architectures or parameters.get("task", "multiclass") not in _ACTIVATIONS:
        what = "change detection" if is_change else "segmentation"
        raise ModelError(
            f"{path}: model {kind!r}, task {parameters.get('task')!r}: of torchgeo's tasks for {what} those with "
            f"model {', '.join(architectures)} can be imported; export others as ONNX"
        )
    return _net(path, parameters, state, architectures[kind], is_change=is_change)


def _net(
    path: Path, parameters: Mapping[str, Any], state: Mapping[str, Tensor], architecture: str, *, is_change: bool
) -> Net:
    outputs = parameters.get("num_classes") or parameters.get("num_labels") or 1
    channels = parameters.get("in_channels", 3)
    backbone = parameters.get("backbone", "resnet50")
    if not isinstance(outputs, int) or not isinstance(channels, int) or not isinstance(backbone, str):
        raise ModelError(f"{path}: backbone {backbone!r}, in_channels {channels!r}, num_classes {outputs!r}: no net")
    backbones, counts = _ARGUMENTS.get(architecture, ("encoder_name", "classes"))
    known: dict[str, Any] = {"activation": _ACTIVATIONS[parameters.get("task", "multiclass")]}
    if is_change:
        known |= {"dates": 2, "task": "change-detection"}
        if outputs == 1:
            known["classes"] = ["unchanged", "changed"]
    return Net(
        architecture=architecture,
        arguments={backbones: backbone, "in_channels": channels, counts: outputs},
        state=state,
        channels=channels,
        outputs=2 if is_change and outputs == 1 else outputs,  # the registry's nets for pairs give (0, z) themselves
        known=known,
    )


_ARGUMENTS = {"ChangeViT": ("backbone", "num_classes"), "BTC": ("backbone", "classes")}
"""Names of the arguments for backbone and outputs, where they are not encoder_name and classes."""


def plain_data(path: Path) -> dict[str, Any]:
    """What a file of ``torch.save`` holds, if that is tensors and plain data.

    Raises:
        ModelError: It holds objects of other classes, which could run code, or cannot be read.
    """
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than plain data, which could run code and is not loaded: save its state_dict and "
            f"hyper_parameters alone ({_culprit(str(error))})"
        ) from error
    except Exception as error:  # torch raises whatever it meets in a file that it does not understand
        raise ModelError(f"{path} cannot be read by torch {torch.__version__}: {str(error)[:200]}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}: no state dict")
    return content


def _culprit(message: str) -> str:
    """The line of torch's message that names the class."""
    lines = [line.strip() for line in message.splitlines() if "GLOBAL" in line or "nsupported" in line]
    return (lines or message.splitlines() or [""])[0][:160]
