"""Timing a package's net on this machine, runtime by runtime and layout by layout, on random tiles.

On a CPU the timing is done by a process of its own (this module run as a program): every runtime and conversion that is
tried keeps hundreds of megabytes, and one that crashes must not take the run with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from geoseg.errors import GeosegError, MissingExtraError, ModelError
from geoseg.models.convert import AGREEMENT, difference
from geoseg.models.held import passing
from geoseg.models.loading import model_of, sample_of
from geoseg.models.package import Package, open_package
from geoseg.settings import Backend, Precision, Settings

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Bench", "Found", "Wanted", "found_of", "probe", "probe_apart"]

_CHEAP = 0.02
"""Seconds per tile below which a long probe would cost more than it wins."""
_CHEAP_BUDGET, _BUDGET = 1.0, 45.0
"""Seconds that a probe may take for a cheap net and for any other; a candidate that has begun is finished."""
_ROUNDS = 5
"""Measurements of each candidate, at most; three of those that take long."""
_LONG = 0.25
"""Seconds of one measurement that count as long."""
_MARGIN = 0.97
"""A less plain setting must beat the plainer one by this factor."""
_SLICE = 0.04
"""Seconds of work per measurement, at least."""
_MOST_PIXELS = 1 << 19
"""Pixels per batch on a CPU, at most: beyond that caches overflow and nothing is won."""
_BYTES_PER_PIXEL = 1 << 10
"""What a U-Net of common size holds per pixel of a tile that it works on."""
_CUDA_BATCHES = (2, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A request, with everything but the measuring resolved."""

    device: str
    backends: tuple[Backend, ...]
    precision: Precision
    batch: int | None
    tile: int
    cores: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a probe found, as it is kept."""

    settings: Settings
    warning: str = ""
    table: tuple[tuple[dict[str, Any], float], ...] = ()
    """Settings and seconds per tile of everything that was timed."""

    @property
    def seconds_per_tile(self) -> float | None:
        """What a tile took with the chosen settings; None where they were not timed."""
        chosen = asdict(self.settings)
        return min((seconds for settings, seconds in self.table if settings == chosen), default=None)


class _Clock:
    """Seconds that the probe would have taken on an idle machine: a busy one must not cut it short."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._wall, self._busy = time.perf_counter(), time.process_time()

    def spent(self) -> float:
        """Since this clock was made; never more than the wall says."""
        return min(time.perf_counter() - self._wall, (time.process_time() - self._busy) / self._cores)


class Bench:
    """One candidate: its model, its lanes, its input. Close it: it owns threads."""

    def __init__(self, package: Package, settings: Settings, tile: int) -> None:
        self.settings = settings
        self.best = float("inf")
        self._model = model_of(package, settings)
        self._batches = [sample_of(package, settings.batch, tile, seed).to(settings.device) for seed in range(2)]
        self._pool = ThreadPoolExecutor(settings.lanes, "geoseg-probe")
        self._repeats = 1
        self._repeats = max(1, int(_SLICE / max(1e-4, self.time() * settings.batch)))  # this run also warms up
        self.best = float("inf")

    def close(self) -> None:
        """Ends the lanes."""
        self._pool.shutdown()

    def scores(self) -> Tensor:
        """Of the samples, which are the same for all candidates of one batch size."""
        import torch

        return torch.cat([self._model.predict(batch).cpu() for batch in self._batches])

    def time(self) -> float:
        """Seconds per tile with all lanes busy, now; `best` keeps the least, of what this process itself spent."""
        start, busy = time.perf_counter(), time.process_time()
        for task in [self._pool.submit(self._lane) for _ in range(self.settings.lanes)]:
            task.result()
        if self.settings.device != "cpu":
            import torch

            torch.cuda.synchronize(self.settings.device)
        spent, busy = time.perf_counter() - start, time.process_time() - busy
        tiles = self._repeats * self.settings.lanes * self.settings.batch
        # Lanes of one thread never wait for each other: their processor time is the time they would take on a machine
        # where nothing else runs, which is what the choice is for.
        alone = self.settings.device == "cpu" and self.settings.threads == 1
        self.best = min(self.best, (min(spent, busy / self.settings.lanes) if alone else spent) / tiles)
        return spent / tiles

    def _lane(self) -> None:
        for _ in range(self._repeats):
            self._model.predict(self._batches[0])


def probe(package: Package, wanted: Wanted) -> Found:
    """The fastest settings for a verified package, measured now.

    Raises:
        ModelError: The net does not run on the first of the backends.
        MissingExtraError: That backend is not installed.
    """
    with passing(), ExitStack() as stack:

        def bench(settings: Settings) -> Bench:
            made = Bench(package, settings, wanted.tile)
            stack.callback(made.close)
            return made

        return (_probe_cpu if wanted.device == "cpu" else _probe_cuda)(package, wanted, bench)


def probe_apart(package: Package, wanted: Wanted) -> Found:
    """What `probe` finds, in a process of its own.

    Raises:
        ModelError: As `probe`, or the process died.
        MissingExtraError: As `probe`.
    """
    request = json.dumps({"package": str(package.path), "wanted": asdict(wanted)})
    places = os.pathsep.join(place for place in sys.path if place)  # wherever this process found geoseg
    child = subprocess.run(
        [sys.executable, "-m", "geoseg.models.probe"],
        input=request,
        env={**os.environ, "PYTHONPATH": places},
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        answer = json.loads(child.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        last = (child.stderr.splitlines() or ["without a word"])[-1]
        raise ModelError(f"timing {package.spec.name!r} ended with code {child.returncode}: {last[:200]}") from error
    if "error" in answer:
        raise (MissingExtraError if answer["kind"] == "MissingExtraError" else ModelError)(answer["error"])
    return found_of(answer)


def found_of(kept: Mapping[str, Any]) -> Found:
    """What `dataclasses.asdict` made of a `Found`, made again.

    Raises:
        KeyError: A field is missing.
        TypeError: A field is unknown.
    """
    table = tuple((dict(settings), float(seconds)) for settings, seconds in kept["table"])
    return Found(settings=Settings(**kept["settings"]), warning=str(kept["warning"]), table=table)


def _main() -> None:
    """The process of `probe_apart`: a request on standard input, one line of JSON on standard output."""
    request = json.load(sys.stdin)
    wanted = Wanted(**(request["wanted"] | {"backends": tuple(request["wanted"]["backends"])}))
    try:
        answer = asdict(probe(open_package(request["package"]), wanted))
    except (ModelError, MissingExtraError) as error:
        answer = {"error": str(error), "kind": type(error).__name__}
    sys.stdout.write(json.dumps(answer) + "\n")


def _probe_cpu(package: Package, wanted: Wanted, bench: Callable[[Settings], Bench]) -> Found:
    clock = _Clock(wanted.cores)
    lanes = _most_lanes(wanted)
    plain = Settings(
        backend=wanted.backends[0],
        precision=wanted.precision,
        batch=wanted.batch or 1,
        lanes=lanes,
        threads=wanted.cores // lanes,
    )
    first = bench(plain)
    budget = _CHEAP_BUDGET if first.time() < _CHEAP else _BUDGET
    reference = _reference(package, first, wanted)
    benches = [first]
    for settings in _runtimes(plain, wanted.backends):
        if clock.spent() > 0.5 * budget:
            break
        with suppress(ModelError, MissingExtraError):
            one = bench(settings)
            if wanted.precision != "fp32" or difference(one.scores(), reference) < AGREEMENT:
                benches.append(one)
    _race(benches, clock, 0.7 * budget)
    winner = _fastest(benches)
    rivals = []
    for settings in _layouts(winner.settings, wanted):
        if clock.spent() < 0.8 * budget:
            with suppress(GeosegError, RuntimeError, MemoryError):
                rivals.append(bench(settings))
    _race([winner, *rivals], clock, budget)
    final = _fastest([winner, *rivals])
    warning = _disagreement(winner.scores(), reference, wanted)
    return Found(settings=final.settings, warning=warning, table=_table([*benches, *rivals]))


def _most_lanes(wanted: Wanted) -> int:
    """A lane per core, as long as their tiles fit into half of the memory that is free."""
    import psutil

    fitting = psutil.virtual_memory().available // (
        2 * _BYTES_PER_PIXEL * wanted.tile * wanted.tile * (wanted.batch or 1)
    )
    return max(1, min(wanted.cores, int(fitting)))


def _table(benches: Iterable[Bench]) -> tuple[tuple[dict[str, Any], float], ...]:
    return tuple((asdict(one.settings), one.best) for one in benches)


def _runtimes(plain: Settings, backends: Sequence[Backend]) -> Iterable[Settings]:
    """The same layout on every runtime and in every memory format."""
    if plain.backend == "torch":
        yield replace(plain, channels_last=True)
    for backend in backends[1:]:
        yield replace(plain, backend=backend)


def _layouts(winner: Settings, wanted: Wanted) -> Iterable[Settings]:
    """Other ways to spread the same work over the cores."""
    if wanted.cores > 1:
        yield replace(winner, lanes=1, threads=wanted.cores)
    if wanted.cores > 4:
        yield replace(winner, lanes=wanted.cores // 4, threads=4)
    if wanted.batch is None:
        for batch in (4, 16):
            if batch * wanted.tile * wanted.tile <= _MOST_PIXELS:
                yield replace(winner, batch=batch)


def _race(benches: Sequence[Bench], clock: _Clock, budget: float) -> None:
    """Times all in turn, so that what else the machine does meets each alike; the clearly slow drop out."""
    for turn in range(_ROUNDS):
        start = time.perf_counter()
        leader = min(bench.best for bench in benches)
        for bench in benches:
            if turn < 2 or bench.best < 1.5 * leader:
                bench.time()
        if clock.spent() > budget or (turn == 2 and time.perf_counter() - start > _LONG * len(benches)):
            return


def _fastest(benches: Sequence[Bench]) -> Bench:
    """The earliest of those that none beats clearly: the least of several times is what noise cannot fake."""
    winner = benches[0]
    for bench in benches[1:]:
        if bench.best < _MARGIN * winner.best:
            winner = bench
    return winner


def _reference(package: Package, first: Bench, wanted: Wanted) -> Tensor:
    """Scores of the samples in fp32, on torch where the package allows it."""
    backend: Backend = "onnxruntime" if package.format == "onnx" else "torch"
    if first.settings.backend == backend and wanted.precision == "fp32":
        return first.scores()
    plain = Settings(backend=backend, batch=first.settings.batch, device=wanted.device, threads=wanted.cores)
    with closing(Bench(package, plain, wanted.tile)) as bench:
        return bench.scores()


def _disagreement(scores: Tensor, reference: Tensor, wanted: Wanted) -> str:
    """One sentence where a lower precision was used."""
    if wanted.precision == "fp32":
        return ""
    gap = difference(scores, reference)
    changed = float((scores.argmax(1) != reference.argmax(1)).float().mean())
    return (
        f"{wanted.precision} moves this model's scores by up to {gap:.1e} of the largest, and the label of "
        f"{100 * changed:.2f} % of pixels, measured on random tiles of {wanted.tile}"
    )


def _probe_cuda(package: Package, wanted: Wanted, bench: Callable[[Settings], Bench]) -> Found:
    """The batch from which on more tiles at once win little, within half of the device's free memory."""
    import torch

    plain = Settings(device=wanted.device, precision=wanted.precision, channels_last=package.spec.dates == 1)
    free, _ = torch.cuda.mem_get_info(wanted.device)
    torch.cuda.reset_peak_memory_stats(wanted.device)
    base = torch.cuda.memory_allocated(wanted.device)
    first = bench(replace(plain, batch=wanted.batch or 1))
    per_tile = (torch.cuda.max_memory_allocated(wanted.device) - base) / first.settings.batch
    warning = _disagreement(first.scores(), _reference(package, first, wanted), wanted)
    benches = [first]
    for batch in () if wanted.batch is not None else _CUDA_BATCHES:
        if batch * per_tile > 0.5 * free:
            break
        with suppress(torch.OutOfMemoryError):
            benches.append(bench(replace(plain, batch=batch)))
    _race(benches, _Clock(1), _BUDGET)
    final = _fastest(benches)
    torch.cuda.empty_cache()
    return Found(settings=final.settings, warning=warning, table=_table(benches))


if __name__ == "__main__":
    _main()
