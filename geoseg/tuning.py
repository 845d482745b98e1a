"""How to run a net fast on this machine: measured once, cached, and never by changing what the net computes.

Runtime, threads, batch and memory format are chosen by timing a few tiles; a runtime counts only if its scores agree
with torch's in fp32. The tile is never chosen here, and lower precision only on request (on CUDA ``auto`` means bf16).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Thread
from typing import Any, Literal, cast

from geoseg.errors import ConfigError
from geoseg.events import OnEvent, Warned
from geoseg.models.convert import cache_dir
from geoseg.models.held import passing
from geoseg.models.package import Package, open_package, verify
from geoseg.models.probe import Bench, Found, Wanted, found_of, probe, probe_apart
from geoseg.settings import Backend, Precision, Settings

__all__ = ["Found", "ProbedCost", "cache_dir", "choose_settings", "probe_cost", "tune", "usable_cores"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedCost:
    """What a few tiles cost on this machine."""

    seconds_per_tile: float
    """Wall time per tile with all lanes busy."""
    net_bytes: int
    """Memory that the net added to the process."""


def choose_settings(name_or_path: str | Path, **options: Any) -> Settings:
    """`tune`, without what was found on the way."""
    return tune(name_or_path, **options).settings


def tune(
    name_or_path: str | Path,
    *,
    backend: Backend | Literal["auto"] = "auto",
    device: str = "auto",
    precision: Precision | Literal["auto"] = "auto",
    batch: int | Literal["auto"] = "auto",
    tile: int | None = None,
    workers: int = 1,
    cache: bool = True,
    on_event: OnEvent | None = None,
) -> Found:
    """The fastest way found to run a model here, and what was timed.

    The same answer each time, until model, machine or libraries change.

    Args:
        name_or_path: A shipped model's name, or a package's folder.
        backend: ``auto``: the fastest whose scores agree with torch in fp32.
        device: ``auto``: the first CUDA device if there is one and the net runs on torch; ``cuda`` is ``cuda:0``.
        precision: ``auto``: fp32 on a CPU; on CUDA bf16 where the device has it.
        batch: Tiles per forward pass.
        tile: Side of a tile in pixels; None: the card's.
        workers: Processes that share this machine's cores.
        cache: Whether an earlier probe's answer is taken, and this one kept.
        on_event: Is told (`Warned`) by how much a lower precision moves the scores.

    Raises:
        ConfigError: The device is not there, or batch and graph disagree.
        ModelError: The package is wrong, or does not run with what was asked for.
        MissingExtraError: The backend that was asked for is not installed.
    """
    package = open_package(name_or_path)
    place = _device(package, device, backend)
    wanted = Wanted(
        device=place,
        backends=_backends(package, backend, place),
        precision=_precision(precision, place),
        batch=_batch(package, batch),
        tile=package.spec.static_tile or tile or package.spec.tile,
        cores=max(1, usable_cores() // max(1, workers)),
    )
    path = cache_dir() / "settings" / f"{_key(package, wanted)}.json"
    found = _recall(path) if cache else None
    if found is None:
        verify(package)
        found = (probe_apart if place == "cpu" else probe)(package, wanted)
        if cache:
            _remember(path, found)
    if on_event is not None and found.warning:
        on_event(Warned(message=found.warning))
    return found


def probe_cost(name_or_path: str | Path, settings: Settings, *, tile: int | None = None) -> ProbedCost:
    """Time per tile and memory of a net, measured now on a few random tiles.

    Raises:
        ModelError: The package is wrong or does not run with these settings.
    """
    package = open_package(name_or_path)
    verify(package)
    side = package.spec.static_tile or tile or package.spec.tile
    with _watched_memory() as peak, passing(), closing(Bench(package, settings, side)) as bench:
        seconds = min(bench.time() for _ in range(3))
    return ProbedCost(seconds_per_tile=seconds, net_bytes=max(peak(), package.weights.stat().st_size))


@contextmanager
def _watched_memory() -> Iterator[Callable[[], int]]:
    """Watches this process; what is yielded tells the most bytes that were added since."""
    import psutil

    process, done = psutil.Process(), Event()
    before = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not done.wait(0.005):
            most = max(most, process.memory_info().rss)

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: most - before
    finally:
        done.set()
        thread.join()


def usable_cores() -> int:
    """Cores that this process may use: its affinity, or its control group's share where that is smaller.

    >>> usable_cores() >= 1
    True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def _device(package: Package, device: str, backend: str) -> str:
    on_torch = package.format != "onnx" and backend in ("auto", "torch")
    if device == "cpu" or (device == "auto" and not on_torch):
        return "cpu"
    import torch

    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if device != "cuda" and not (device.startswith("cuda:") and device[5:].isdigit()):
        raise ConfigError(f"device {device!r}: use auto, cpu, cuda or cuda:N")
    if not on_torch:
        raise ConfigError(f"device {device!r}: model {package.spec.name!r} runs on the cpu only with that backend")
    index = int(device[5:] or 0)
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        raise ConfigError(
            f"device {device!r}: this machine has {torch.cuda.device_count()} CUDA devices that torch can use"
        )
    return f"cuda:{index}"


def _backends(package: Package, backend: str, device: str) -> tuple[Backend, ...]:
    """What to try, the reference first."""
    if backend != "auto":
        if backend == "torch" and package.format == "onnx":
            raise ConfigError(f"model {package.spec.name!r} is an ONNX graph: use backend onnxruntime or openvino")
        return (cast("Backend", backend),)
    if device != "cpu":
        return ("torch",)
    reference: Backend = "onnxruntime" if package.format == "onnx" else "torch"
    others: tuple[Backend, ...] = ("onnxruntime", "openvino")
    return reference, *(name for name in others if name != reference and find_spec(name) is not None)


def _precision(precision: str, device: str) -> Precision:
    if precision != "auto":
        return cast("Precision", precision)
    if device == "cpu":
        return "fp32"
    import torch

    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def _batch(package: Package, batch: int | Literal["auto"]) -> int | None:
    fixed = package.spec.static_batch
    if batch == "auto":
        return fixed
    if batch < 1:
        raise ConfigError(f"batch size must be at least 1, not {batch}")
    if fixed is not None and batch != fixed:
        raise ConfigError(f"batch size {batch}: the graph of model {package.spec.name!r} fixes batches of {fixed}")
    return batch


def _key(package: Package, wanted: Wanted) -> str:
    """Everything that could change the answer; tiles between two powers of two share theirs."""
    size = 1 << (wanted.tile - 1).bit_length()
    facts = [package.spec.digest, asdict(wanted) | {"tile": size}, _processor(wanted.device), _versions()]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("geoseg", "torch", "onnxruntime", "openvino"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@lru_cache(maxsize=8)
def _processor(device: str) -> str:
    if device != "cpu":
        import torch

        return torch.cuda.get_device_name(device)
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _recall(path: Path) -> Found | None:
    """What an earlier probe kept; None where nothing, or nothing readable, is there."""
    try:
        return found_of(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(path: Path, found: Found) -> None:
    """Keeps the answer; a cache that cannot be written costs a probe next time, nothing else."""
    draft = path.with_suffix(f".{os.getpid()}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(asdict(found), indent=1), "utf-8")
        draft.replace(path)
