"""What an encoder starts from, and how it saves memory: pretrained weights from a file, gradient checkpointing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from geoseg.errors import ConfigError

__all__ = ["checkpoint_stages", "load_encoder", "widened"]

_WRAPPERS = ("encoder", "backbone", "module", "model", "_orig_mod", "state_dict")
"""Names under which libraries put an encoder."""


def load_encoder(net: nn.Module, path: Path) -> int:
    """Gives the encoder of `net` the weights in a file, and says how many tensors those were.

    The first convolution is made to fit the channels of the net (`widened`). What the encoder lacks in the file is an
    error; what the file has beyond (a classifier) is left.

    Args:
        net: With an ``encoder``, as nets of segmentation_models_pytorch have one.
        path: safetensors, or what torch.save wrote: names and tensors only, nothing in it is ever run.

    Raises:
        ConfigError: The file cannot be read, or holds another encoder.
    """
    encoder = getattr(net, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise ConfigError(f"net.encoder_weights {path}: {type(net).__name__} has no encoder that could take them")
    own = encoder.state_dict()
    given = {_core(name): tensor for name, tensor in _read(path).items()}
    fitted: dict[str, Tensor] = {}
    for name, tensor in own.items():
        found = given.get(_core(name))
        if found is not None and found.shape != tensor.shape and _differ_in_channels(found, tensor):
            found = widened(found, tensor.shape[1])
        if found is not None and found.shape == tensor.shape:
            fitted[name] = found
        elif not name.endswith("num_batches_tracked"):
            what = "is not there" if found is None else f"is {tuple(found.shape)}, not {tuple(tensor.shape)}"
            raise ConfigError(f"net.encoder_weights {path}: holds another encoder: {name} {what}")
    encoder.load_state_dict(own | fitted)
    return len(fitted)


def widened(weights: Tensor, channels: int) -> Tensor:
    """A first convolution's weights (out, channel, row, col) for another number of channels.

    Every channel gets the mean of the old ones, times old / new channels: where all channels show the same, the
    result is the same as before.
    """
    mean = weights.mean(1, keepdim=True) * (weights.shape[1] / channels)
    return mean.expand(-1, channels, -1, -1).contiguous()


def _differ_in_channels(one: Tensor, other: Tensor) -> bool:
    return one.ndim == other.ndim == 4 and one.shape[0] == other.shape[0] and one.shape[2:] == other.shape[2:]


def _core(name: str) -> str:
    """A tensor's name without what libraries put before it; timm also writes ``stages_0`` for ``stages.0``."""
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in _WRAPPERS:
        parts = parts[1:]
    return re.sub(r"[._]", "_", ".".join(parts))


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the two libraries raise for a file that they cannot read
        text = " ".join(str(error).split())[:200]
        raise ConfigError(f"net.encoder_weights {path}: cannot be read ({text or type(error).__name__})") from error
    return dict(_tensors(content))


def _tensors(content: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of a nested mapping, by dotted name."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from _tensors(value, f"{prefix}{name}.")
    elif isinstance(content, Tensor):
        yield prefix.removesuffix("."), content


def checkpoint_stages(net: nn.Module) -> int:
    """Makes every stage of the encoder forget what is inside it until gradients need it; returns how many there are.

    Chen et al. 2016, arXiv:1604.06174. Stages are the parts right below ``encoder`` or its ``model`` that hold
    layers. What is computed again counts once: running means of batch norms and random draws are as without.
    """
    encoder = getattr(net, "encoder", None)
    encoder = getattr(encoder, "model", encoder)
    stages = [child for child in encoder.children() if _is_stage(child)] if isinstance(encoder, nn.Module) else []
    for stage in stages:
        stage.forward = _Checkpointed(stage)  # the names in its state stay as they are
    return len(stages)


def _is_stage(child: nn.Module) -> bool:
    return any(isinstance(inner, nn.Conv2d | nn.Linear) for inner in child.modules()) and not isinstance(
        child, nn.Conv2d | nn.Linear | nn.ModuleList | nn.ModuleDict
    )


class _Checkpointed:
    """The forward pass of a stage, whose inside is computed again in the backward pass."""

    def __init__(self, stage: nn.Module) -> None:
        self._stage, self._forward = stage, stage.forward

    def __call__(self, *inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*inputs)
        return checkpoint(self._forward, *inputs, use_reentrant=False, context_fn=self._contexts)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _norms_kept(self._stage)


@contextmanager
def _norms_kept(stage: nn.Module) -> Iterator[None]:
    """Leaves the running statistics of batch norms as they are."""
    norms = [inner for inner in stage.modules() if isinstance(inner, _BatchNorm)]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    try:
        yield
    finally:
        for norm, buffers in zip(norms, before, strict=True):
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])
