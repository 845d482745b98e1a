"""How a model is run on one machine: choices that change speed, never the answer by more than float noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Backend", "Precision", "Settings"]

Backend = Literal["torch", "onnxruntime", "openvino"]
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the probe chose or the user forced; pinned in the run's request, so that resuming repeats it."""

    backend: Backend = "torch"
    """Library that runs the net."""
    device: str = "cpu"
    """``cpu`` or ``cuda:N``."""
    precision: Precision = "fp32"
    """Arithmetic of the net; blending is always float32."""
    batch: int = 1
    """Tiles per forward pass; the last batch is padded, so that a tile's scores never depend on its companions."""
    lanes: int = 1
    """Tiles (batches) in flight at once on a CPU, each on its own thread of this process."""
    threads: int = 1
    """Threads inside one forward pass."""
    channels_last: bool = False
    """Memory format of the tensors that a torch net sees."""
    compiled: bool = False
    """Whether the torch net goes through torch.compile."""
