"""Peak memory of a run, in a process of its own, and of workers: it must not know how large the scene is."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import Bench, Figure, in_own_process, own_peak_memory
from benchmarks.nets import pointwise_package
from benchmarks.scene import large_scene, sparse_scene
from geoseg.journal import RunDirectory
from geoseg.pipeline import plan_segment

__all__ = ["measure", "peak_of_workers"]


def measure(bench: Bench) -> list[Figure]:
    """Scenes that grow in both directions, in one process; scenes that grow in width, on two workers."""
    return [_of_process(bench), *_of_workers(bench)]


def _of_process(bench: Bench) -> Figure:
    """16k x 16k over 4k x 4k, without vectors; the planner caps the chunk's width (the quick sizes by hand)."""
    small, large = bench.pick(4096, 1024), bench.pick(16384, 2048)
    options = {"vector": [], "backend": "torch", "tile": bench.pick(512, 128), "overlap": bench.pick(128, 32)}
    options |= {"chunk": 768} if bench.quick else {}
    package = pointwise_package(bench.folder("nets"))
    peaks = {}
    for side in (small, large):
        scene, out = large_scene(bench.folder("scenes"), side), bench.folder("runs") / f"memory-{side}"
        shutil.rmtree(out, ignore_errors=True)
        asked = {"scene": str(scene), "model": str(package), "out": str(out)} | options
        peaks[side] = in_own_process("benchmarks.memory", json.dumps(asked))["peak_memory"] / 1e6
        shutil.rmtree(out)
    note = f"{peaks[large]:.0f} MB over {peaks[small]:.0f} MB"
    what = f"peak memory without vectors, {large} x {large} over {small} x {small}"
    return Figure(benchmark="memory", what=what, value=peaks[large] / peaks[small], unit="x", limit=1.10, note=note)


def _of_workers(bench: Bench) -> list[Figure]:
    """Sparse scenes from 4k to 64k wide: the larger of two workers, over the narrowest scene's and over the plan."""
    widths = (1024, 2048, 4096) if bench.quick else (4096, 16384, 65536)
    options: dict[str, Any] = {
        "tile": bench.pick(512, 128),
        "overlap": bench.pick(128, 32),
        "backend": "torch",
        "workers": 2,
    }
    options["chunk"] = bench.pick(3072, 768)  # left alone, narrow scenes get smaller chunks, and workers stay smaller
    package = pointwise_package(bench.folder("nets"))
    peaks, planned = {}, {}
    for width in widths:
        scene = sparse_scene(bench.folder("scenes"), bench.pick(4096, 1024), width)
        planned[width] = plan_segment(scene, model=package, **options).worker_memory
        peaks[width] = peak_of_workers(scene, package, bench.folder("runs") / f"memory-{width}", **options)
    least, most = widths[0], max(widths, key=lambda width: peaks[width])
    scenes = f"sparse scenes {least} to {widths[-1]} wide, chunk {options['chunk']}"
    note = ", ".join(f"{width} wide: {peaks[width] / 1e6:.0f} of {planned[width] / 1e6:.0f} MB" for width in widths)
    return [
        Figure(
            benchmark="memory",
            what=f"peak memory of any of 2 workers, {scenes}, most over narrowest",
            value=peaks[most] / peaks[least],
            unit="x",
            limit=1.10,
            note=note,
        ),
        Figure(
            benchmark="memory",
            what="peak memory of any of 2 workers over what the plan said, largest of these scenes",
            value=max(peaks[width] / planned[width] for width in widths),
            unit="x",
            limit=1.0,
        ),
    ]


def peak_of_workers(scene: Path, package: Path, out: Path, **options: Any) -> int:
    """Resident bytes of the largest worker process of one run without vectors."""
    import geoseg

    shutil.rmtree(out, ignore_errors=True)
    geoseg.segment(scene, model=package, out=out, vector=(), **options)
    peaks = [int(line["peak_memory"]) for line in RunDirectory(out).lines() if "peak_memory" in line]
    shutil.rmtree(out)
    return max(peaks)


def main() -> None:
    """One run as the first argument asks, in JSON; prints the peak memory of this process."""
    import geoseg

    geoseg.segment(**json.loads(sys.argv[1]))
    print(json.dumps({"peak_memory": own_peak_memory()}))


if __name__ == "__main__":
    main()
