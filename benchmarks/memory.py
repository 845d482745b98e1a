"""Peak memory of a run, in a process of its own: it must not know how large the scene is."""

from __future__ import annotations

import json
import shutil
import sys

from benchmarks.measure import Bench, Figure, in_own_process, own_peak_memory
from benchmarks.nets import pointwise_package
from benchmarks.scene import large_scene

__all__ = ["measure"]


def measure(bench: Bench) -> list[Figure]:
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
    return [Figure(benchmark="memory", what=what, value=peaks[large] / peaks[small], unit="x", limit=1.10, note=note)]


def main() -> None:
    """One run as the first argument asks, in JSON; prints the peak memory of this process."""
    import geoseg

    geoseg.segment(**json.loads(sys.argv[1]))
    print(json.dumps({"peak_memory": own_peak_memory()}))


if __name__ == "__main__":
    main()
