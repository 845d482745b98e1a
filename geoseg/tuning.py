"""How to run a net fast on this machine: measured once, cached, and never by changing what the net computes.

Runtime, threads, batch and memory format are chosen by timing a few tiles; a runtime counts only if its scores agree with
torch's in fp32. The tile is never chosen here, and lower precision only on request (on CUDA it is what ``auto`` means).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from geoseg.errors import ConfigError, GeosegError, MissingExtraError, ModelError
from geoseg.events import OnEvent, Warned
from geoseg.models.convert import AGREEMENT, cache_dir, difference
from geoseg.models.held import passing
from geoseg.models.loading import model_of, sample_of
from geoseg.models.package import Package, open_package, verify
from geoseg.protocols import Model
from geoseg.settings import Backend, Precision, Settings

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ProbedCost", "cache_dir", "choose_settings", "probe_cost", "usable_cores"]

_CHEAP = 0.02
"""Seconds per tile below which a long probe would cost more than it wins."""
_CHEAP_BUDGET, _BUDGET = 1.5, 45.0
"""Seconds that a probe may take for a cheap net and for any other; a candidate that has begun is finished."""
_ROUNDS = 5
_MARGIN = 0.97
"""A less plain setting must beat the plainer one by this factor."""
_SLICE = 0.04
"""Seconds of work per measurement, at least."""
_MOST_PIXELS = 1 << 20
"""Pixels per batch on a CPU, at most: beyond that caches overflow and nothing is won."""
_CUDA_BATCHES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedCost:
    """What a few tiles cost on this machine."""

    seconds_per_tile: float
    """Wall time per tile with all lanes busy."""
    net_bytes: int
    """Memory that the net added to the process."""


def choose_settings(
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
) -> Settings:
    """The fastest way found to run a model here; the same answer each time, until model, machine or libraries change.

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
    wanted = _Wanted(
        device=place,
        backends=_backends(package, backend, place),
        precision=_precision(package, precision, place),
        batch=_batch(package, batch),
        tile=package.spec.static_tile or tile or package.spec.tile,
        cores=max(1, usable_cores() // max(1, workers)),
        forced=backend != "auto",
    )
    path = cache_dir() / "settings" / f"{_key(package, wanted)}.json"
    found = _recall(path) if cache else None
    if found is None:
        verify(package)
        found = _probe(package, wanted)
        if cache:
            _remember(path, found)
    if on_event is not None and found.warning:
        on_event(Warned(message=found.warning))
    return found.settings


def probe_cost(name_or_path: str | Path, settings: Settings, *, tile: int | None = None) -> ProbedCost:
    """Time per tile and memory of a net, measured now on a few random tiles.

    Raises:
        ModelError: The package is wrong or does not run with these settings.
    """
    import psutil

    package = open_package(name_or_path)
    verify(package)
    process, peak = psutil.Process(), [0]
    before = process.memory_info().rss

    def watch() -> None:
        peak[0] = max(peak[0], process.memory_info().rss)

    side = package.spec.static_tile or tile or package.spec.tile
    with passing():
        bench = _Bench(package, settings, side, watch)
        seconds = min(bench.time() for _ in range(3))
    return ProbedCost(seconds_per_tile=seconds, net_bytes=max(peak[0] - before, package.weights.stat().st_size))


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A request, with everything but the measuring resolved."""

    device: str
    backends: tuple[Backend, ...]
    precision: Precision
    batch: int | None
    tile: int
    cores: int
    forced: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What a probe found, as it is kept."""

    settings: Settings
    warning: str = ""
    table: tuple[tuple[dict[str, Any], float], ...] = ()
    """Settings and seconds per tile of everything that was timed."""


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
        raise ConfigError(f"device {device!r}: this machine has {torch.cuda.device_count()} CUDA devices that torch can use")
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


def _precision(package: Package, precision: str, device: str) -> Precision:
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


# --- probing ---


class _Bench:
    """One candidate: its model, its lanes, its input."""

    def __init__(self, package: Package, settings: Settings, tile: int, watch: Callable[[], None] | None = None) -> None:
        self.settings = settings
        self.best = float("inf")
        self.model: Model = model_of(package, settings)
        self._batch = sample_of(package, settings.batch, tile).to(settings.device)
        self._watch = watch
        self._repeats = 1
        self._repeats = max(1, int(_SLICE / max(1e-4, self.time() * settings.batch)))  # this run also warms up
        self.best = float("inf")

    def scores(self) -> Tensor:
        """Of the sample, which is the same for all candidates of one batch size."""
        return self.model.predict(self._batch).float().cpu()

    def time(self) -> float:
        """Seconds per tile with all lanes busy, now."""
        lanes = self.settings.lanes
        with ThreadPoolExecutor(lanes) as pool:
            start = time.perf_counter()
            for task in [pool.submit(self._lane) for _ in range(lanes)]:
                task.result()
            if self.settings.device != "cpu":
                import torch

                torch.cuda.synchronize(self.settings.device)
            spent = time.perf_counter() - start
        seconds = spent / (self._repeats * lanes * self.settings.batch)
        self.best = min(self.best, seconds)
        return seconds

    def _lane(self) -> None:
        for _ in range(self._repeats):
            self.model.predict(self._batch)
            if self._watch is not None:
                self._watch()


def _probe(package: Package, wanted: _Wanted) -> _Found:
    with passing():
        return _probe_cuda(package, wanted) if wanted.device != "cpu" else _probe_cpu(package, wanted)


def _probe_cpu(package: Package, wanted: _Wanted) -> _Found:
    start = time.perf_counter()
    plain = Settings(
        backend=wanted.backends[0], precision=wanted.precision, batch=wanted.batch or 1, lanes=wanted.cores, threads=1
    )
    first = _Bench(package, plain, wanted.tile)
    budget = _CHEAP_BUDGET if first.time() < _CHEAP else _BUDGET
    deadline = start + budget
    reference = _reference(package, first, wanted)
    benches = [first]
    for settings in _runtimes(plain, wanted.backends):
        if time.perf_counter() > start + budget / 2:
            break
        with suppress(ModelError, MissingExtraError):
            bench = _Bench(package, settings, wanted.tile)
            if wanted.precision != "fp32" or difference(bench.scores(), reference) < AGREEMENT:
                benches.append(bench)
    _race(benches, deadline)
    winner = _fastest(benches)
    rivals = []
    for settings in _layouts(winner.settings, wanted):
        if time.perf_counter() > deadline - 2 * winner.best * wanted.cores:
            break
        with suppress(GeosegError, RuntimeError, MemoryError):
            rivals.append(_Bench(package, settings, wanted.tile))
    _race([winner, *rivals], deadline)
    final = _fastest([winner, *rivals])
    table = tuple((asdict(bench.settings), bench.best) for bench in (*benches, *rivals))
    return _Found(settings=final.settings, table=table, warning=_disagreement(winner.scores(), reference, wanted))


def _runtimes(plain: Settings, backends: Sequence[Backend]) -> Iterable[Settings]:
    """The same layout on every runtime and in every memory format."""
    if plain.backend == "torch":
        yield replace(plain, channels_last=True)
    for backend in backends[1:]:
        yield replace(plain, backend=backend)


def _layouts(winner: Settings, wanted: _Wanted) -> Iterable[Settings]:
    """Other ways to spread the same work over the cores."""
    if wanted.cores > 1:
        yield replace(winner, lanes=1, threads=wanted.cores)
    if wanted.cores > 4:
        yield replace(winner, lanes=wanted.cores // 4, threads=4)
    if wanted.batch is None:
        for batch in (4, 16):
            if batch * wanted.tile * wanted.tile <= _MOST_PIXELS:
                yield replace(winner, batch=batch)


def _race(benches: Sequence[_Bench], deadline: float) -> None:
    """Times all in turn, so that what else the machine does meets each alike; the slow drop out early."""
    for _ in range(_ROUNDS):
        leader = min(bench.best for bench in benches)
        for bench in benches:
            if time.perf_counter() > deadline and all(other.best < float("inf") for other in benches):
                return
            if bench.best == float("inf") or bench.best < 1.5 * leader:
                bench.time()


def _fastest(benches: Sequence[_Bench]) -> _Bench:
    """The earliest of those that none beats clearly: the least of several times is what noise cannot fake."""
    winner = benches[0]
    for bench in benches[1:]:
        if bench.best < _MARGIN * winner.best:
            winner = bench
    return winner


def _reference(package: Package, first: _Bench, wanted: _Wanted) -> Tensor:
    """Scores of the sample in fp32, on torch where the package allows it."""
    backend: Backend = "onnxruntime" if package.format == "onnx" else "torch"
    if first.settings.backend == backend and wanted.precision == "fp32":
        return first.scores()
    plain = Settings(backend=backend, batch=first.settings.batch, device=wanted.device, threads=wanted.cores)
    return model_of(package, plain).predict(sample_of(package, plain.batch, wanted.tile).to(wanted.device)).cpu()


def _disagreement(scores: Tensor, reference: Tensor, wanted: _Wanted) -> str:
    """One sentence where a lower precision was used."""
    if wanted.precision == "fp32":
        return ""
    gap = difference(scores, reference)
    changed = float((scores.argmax(1) != reference.argmax(1)).float().mean())
    return (
        f"{wanted.precision} moves this model's scores by up to {gap:.1e} of the largest, and the label of "
        f"{100 * changed:.2f} % of pixels, measured on random tiles of {wanted.tile}"
    )


def _probe_cuda(package: Package, wanted: _Wanted) -> _Found:
    """The batch from which on more tiles at once win little, within half of the device's free memory."""
    import torch

    plain = Settings(device=wanted.device, precision=wanted.precision, channels_last=package.spec.dates == 1)
    free, _ = torch.cuda.mem_get_info(wanted.device)
    torch.cuda.reset_peak_memory_stats(wanted.device)
    base = torch.cuda.memory_allocated(wanted.device)
    first = _Bench(package, replace(plain, batch=wanted.batch or 1), wanted.tile)
    per_tile = (torch.cuda.max_memory_allocated(wanted.device) - base) / first.settings.batch
    reference = _reference(package, first, wanted)
    benches = [first]
    for batch in () if wanted.batch is not None else _CUDA_BATCHES[1:]:
        if batch * per_tile > 0.5 * free:
            break
        with suppress(torch.OutOfMemoryError):
            benches.append(_Bench(package, replace(plain, batch=batch), wanted.tile))
    _race(benches, time.perf_counter() + _BUDGET)
    final = _fastest(benches)
    table = tuple((asdict(bench.settings), bench.best) for bench in benches)
    warning = _disagreement(first.scores(), reference, wanted)
    torch.cuda.empty_cache()
    return _Found(settings=final.settings, table=table, warning=warning)


# --- remembering ---


def _key(package: Package, wanted: _Wanted) -> str:
    """Everything that could change the answer."""
    facts = [package.spec.digest, asdict(wanted), _processor(wanted.device), _versions()]
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


def _recall(path: Path) -> _Found | None:
    """What an earlier probe kept; None where nothing, or nothing readable, is there."""
    try:
        kept = json.loads(path.read_text("utf-8"))
        return _Found(settings=Settings(**kept["settings"]), warning=str(kept["warning"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(path: Path, found: _Found) -> None:
    """Keeps the answer; a cache that cannot be written costs a probe next time, nothing else."""
    draft = path.with_suffix(f".{os.getpid()}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(asdict(found), indent=1), "utf-8")
        draft.replace(path)
