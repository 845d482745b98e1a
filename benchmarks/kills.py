"""Runs that are killed with SIGKILL: the whole group at any moment and then started again, or one worker after another.

Nothing is said about speed but this: a run whose workers keep dying takes how many times longer.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.measure import Bench, Figure, spread
from benchmarks.nets import unet_package
from benchmarks.scene import large_scene
from geoseg.journal import RunDirectory

__all__ = ["Victim", "measure"]

COMPARED = ("labels.tif", "confidence.tif", "polygons.geojson", "polygons.parquet")
WORKERS = 2
PAUSE = (3.0, 7.0)
"""Seconds between two deaths of workers: one that is started again needs about three to load torch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """A run that may be killed, as a process of the command line in a group of its own."""

    scene: Path
    """Input."""
    package: Path
    """Model."""
    out: Path
    """Run directory."""
    tile: int
    """Pixels."""
    chunk: int
    """Pixels."""

    def start(self) -> subprocess.Popen[bytes]:
        """Begins or resumes the run."""
        options: dict[str, object] = {
            "tile": self.tile,
            "overlap": self.tile // 4,
            "chunk": self.chunk,
            "workers": WORKERS,
        }
        options |= {"model": self.package, "out": self.out, "backend": "torch", "batch-size": 1}
        given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "geoseg", "segment", str(self.scene), *given, "-q"]
        return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def finish(self) -> float:
        """Runs to the end; seconds."""
        began = time.perf_counter()
        done = self.start()
        _, errors = done.communicate()
        if done.returncode:
            raise RuntimeError(f"the run failed:\n{errors.decode()}")
        return time.perf_counter() - began

    def digests(self) -> tuple[str, ...]:
        """What of the outputs must not depend on any kill."""
        return tuple(hashlib.sha256((self.out / name).read_bytes()).hexdigest() for name in COMPARED)

    def clear(self) -> None:
        """Takes everything away."""
        shutil.rmtree(self.out, ignore_errors=True)

    def chunks(self) -> Counter[str]:
        """How often the journal says of each chunk that it was finished."""
        return Counter(line["name"] for line in RunDirectory(self.out).lines() if line.get("kind") == "chunk")


def killed_and_resumed(victim: Victim, after: float) -> int:
    """Kills the whole group, and runs to the end; how many finished chunks were worked on again.

    Raises:
        AssertionError: A finished chunk was lost.
    """
    victim.clear()
    process = victim.start()
    with suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=after)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = victim.chunks()
    if not RunDirectory(victim.out).is_finished:  # else it was faster
        victim.finish()
    assert not before - victim.chunks(), "the journal has lost a chunk"
    return sum(times - 1 for times in victim.chunks().values())


def killed_worker_by_worker(victim: Victim, moments: random.Random) -> tuple[float, int]:
    """Kills a random worker now and then until the run is finished; seconds, and how many died."""
    victim.clear()
    began, deaths = time.perf_counter(), 0
    process = victim.start()
    while process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(*PAUSE))
        if workers := _workers_of(process.pid):
            with suppress(psutil.NoSuchProcess):
                moments.choice(workers).kill()
                deaths += 1
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the run failed:\n{errors.decode()}")
    return time.perf_counter() - began, deaths


def _workers_of(parent: int) -> list[psutil.Process]:
    """Its worker processes."""
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(parent).children(recursive=True)
        return sorted((child for child in children if _is_worker(child)), key=lambda child: child.pid)
    return []


def _is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return "spawn_main" in " ".join(process.cmdline())
    return False


def measure(bench: Bench) -> list[Figure]:
    """Twenty runs whose group is killed, twenty whose workers are."""
    side, tile, times = bench.pick(4096, 512), bench.pick(256, 128), bench.pick(20, 1)
    victim = Victim(
        scene=large_scene(bench.folder("scenes"), side),
        package=unet_package(bench.folder("nets"), "mobilenet_v2"),
        out=bench.folder("runs") / "kills",
        tile=tile,
        chunk=bench.pick(768, 192),
    )
    moments = random.Random(20261121)
    victim.clear()
    usual = victim.finish()
    answer = victim.digests()
    size = f"{side} x {side}, {len(victim.chunks())} chunks, two workers"
    equal, again = 0, []
    for _ in range(times):
        again.append(killed_and_resumed(victim, moments.uniform(1.0, usual)))
        equal += victim.digests() == answer
    survived, seconds, deaths = 0, [], []
    for _ in range(times):
        took, died = killed_worker_by_worker(victim, moments)
        survived += victim.digests() == answer
        seconds.append(took / usual)
        deaths.append(died)
    victim.clear()
    dying = f"{min(deaths)} to {max(deaths)} deaths a run, {PAUSE[0]:g} to {PAUSE[1]:g} s apart"
    return [
        Figure(
            benchmark="kills",
            what=f"same bytes after the group was killed at any moment and started again: {size}",
            value=equal,
            unit=f"of {times}",
            limit=times,
            wanted=">=",
        ),
        Figure(
            benchmark="kills",
            what="finished chunks that were worked on again",
            value=sum(again),
            unit="chunks",
            limit=0,
            note="what is lost are chunks in flight: one per worker",
        ),
        Figure(
            benchmark="kills",
            what=f"same bytes although workers kept dying: {size}",
            value=survived,
            unit=f"of {times}",
            limit=times,
            wanted=">=",
            note=dying,
        ),
        Figure(
            benchmark="kills",
            what="wall time with workers dying over without",
            value=max(seconds),
            unit="x",
            limit=2.0,
            note=f"the slowest; {spread(seconds)}; without {usual:.1f} s",
        ),
    ]
