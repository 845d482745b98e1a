"""A figure of the table, clocks, and memory of a process of its own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from geoseg.events import Event, StageStarted

__all__ = ["Bench", "Figure", "StageClock", "in_own_process", "interleaved", "own_peak_memory", "spread"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One row of the table."""

    benchmark: str
    """Module that measured it."""
    what: str
    """What was measured, with the sizes that matter."""
    value: float
    """The number."""
    unit: str = "s"
    """Its unit; ``x`` for a ratio."""
    limit: float | None = None
    """Target."""
    wanted: Literal["<=", ">="] = "<="
    """On which side of the target the number should lie."""
    note: str = ""
    """What a reader must know to judge it."""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.limit is None:
            return None
        return self.value <= self.limit if self.wanted == "<=" else self.value >= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where and how large a benchmark runs."""

    place: Path
    """Scratch folder; scenes in it are kept from run to run."""
    quick: bool = False
    """Sizes of seconds: to see that everything works, not to judge it."""

    def pick(self, full: int, quick: int) -> int:
        """The full size, or the quick one."""
        return quick if self.quick else full

    def folder(self, name: str) -> Path:
        """A folder for one purpose, made."""
        path = self.place / name
        path.mkdir(parents=True, exist_ok=True)
        return path


def interleaved(actions: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds that each action reports, the actions taking turns so that a slow minute hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            seconds[name].append(action())
    return seconds


def spread(values: list[float]) -> str:
    """Least and largest of several rounds, for a note."""
    return f"{len(values)} rounds, {min(values):.3g} to {max(values):.3g}, median {statistics.median(values):.3g}"


@dataclass(slots=True)
class StageClock:
    """Listens to a run and notes when each stage began: process start and model load lie before the first."""

    began: dict[str, float] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        """Takes one event."""
        if isinstance(event, StageStarted):
            self.began.setdefault(event.stage, time.perf_counter())

    @property
    def to_parts(self) -> float:
        """Seconds from the first read to the last durable part."""
        return self.began["assemble"] - self.began["predict"]

    @property
    def to_rasters(self) -> float:
        """Seconds from the first read to the finished COGs."""
        return self.began["describe"] - self.began["predict"]


def own_peak_memory() -> int:
    """Peak resident bytes of this process since it began.

    Not from getrusage: that one remembers the parent's size across fork and exec.
    """
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def in_own_process(module: str, *arguments: str) -> dict[str, Any]:
    """The last line that ``python -m MODULE ARGUMENTS`` prints, as JSON."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} failed:\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
