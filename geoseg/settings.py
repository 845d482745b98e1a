"""How and where a model is run: choices that change speed, never the answer by more than float noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from geoseg.errors import ConfigError

__all__ = ["Backend", "ClusterOptions", "MosaicRule", "Precision", "Settings"]

Backend = Literal["torch", "onnxruntime", "openvino"]
Precision = Literal["fp32", "bf16", "fp16"]
MosaicRule = Literal["newest", "cloudless", "first"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """Where the chunks of a run are worked on: processes of this machine, or a cluster that is named in one way."""

    workers: int | None = None
    """Processes on this machine; None: one, where no cluster is named."""
    scheduler: str | None = None
    """Address of a Dask scheduler, like ``tcp://10.0.0.1:8786``."""
    scheduler_file: Path | None = None
    """File that a Dask scheduler wrote its address to."""
    cluster: Path | None = None
    """YAML file that describes a cluster to start."""
    worker_timeout: float = 600.0
    """Seconds to wait for workers that are started on demand."""
    report: Path | None = None
    """HTML file for Dask's performance report."""
    dashboard: bool = False
    """Whether workers on this machine get Dask's dashboard, where bokeh is installed."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"--workers {self.workers}: at least one process is needed")
        if not 0 < self.worker_timeout < float("inf"):
            raise ConfigError(f"--worker-timeout {self.worker_timeout}: should be a number of seconds above 0")
        if len(self.named) > 1:
            first, second = [" ".join(item) for item in self.named.items()][:2]
            raise ConfigError(f"{first} and {second} exclude each other: name one place for the work")

    @property
    def named(self) -> dict[str, str]:
        """The options that name a place for the work, and what they name."""
        places = {
            "--workers": self.workers,
            "--scheduler": self.scheduler,
            "--scheduler-file": self.scheduler_file,
            "--cluster": self.cluster,
        }
        return {option: str(place) for option, place in places.items() if place is not None}
