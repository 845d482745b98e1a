"""Runs the benchmarks and writes one table: ``results.md`` and ``results.json``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.measure import Bench, Figure

__all__ = ["NAMES", "main", "table"]

NAMES = (
    "engine", "scaling", "scheduling", "assembly", "simulation", "kills",
    "change", "peers", "settings", "runtimes", "memory", "seams", "vectors", "vector_files", "service",
    "service_tiles", "service_windows", "gpu",
)  # fmt: skip
LIBRARIES = ("geoseg", "torch", "onnxruntime", "openvino", "rasterio", "dask", "torchgeo", "monai")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what is named (everything if nothing is), one benchmark after the other; keeps other names' results."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(NAMES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="sizes of seconds: that everything works, not how fast")
    parser.add_argument(
        "--out", type=Path, default=Path("bench"), help="results, and scenes that are kept (default ./bench)"
    )
    asked = parser.parse_args(arguments)
    unknown = set(asked.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark named {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    bench = Bench(place=asked.out, quick=asked.quick)
    bench.folder("runs")
    results = asked.out / ("quick.json" if asked.quick else "results.json")
    figures = _known(results)
    for name in asked.names or NAMES:
        began = time.perf_counter()
        print(f"{name} ...", file=sys.stderr, flush=True)
        measured: list[Figure] = import_module(f"benchmarks.{name}").measure(bench)
        if asked.quick:  # nothing to judge: at these sizes fixed costs drown the rest
            measured = [replace(figure, limit=None) for figure in measured]
        figures = [figure for figure in figures if figure.benchmark != name] + measured
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        _write(results, figures)
    print(results.with_suffix(".md").read_text())


def _known(results: Path) -> list[Figure]:
    """What earlier calls measured."""
    if not results.exists():
        return []
    return [
        Figure(**{k: v for k, v in row.items() if k != "met"}) for row in json.loads(results.read_text())["figures"]
    ]


def _write(results: Path, figures: Sequence[Figure]) -> None:
    machine = _machine()
    rows = [asdict(figure) | {"met": figure.met} for figure in figures]
    results.write_text(json.dumps({"machine": machine, "figures": rows}, indent=2) + "\n")
    results.with_suffix(".md").write_text(table(figures, machine))


def _machine() -> dict[str, str]:
    """What a reader needs to compare."""
    found = {"cores": str(len(os.sched_getaffinity(0))), "processor": _processor(), "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _processor() -> str:
    """The processor's own name for itself."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def table(figures: Sequence[Figure], machine: dict[str, str]) -> str:
    """The figures in Markdown, benchmark by benchmark.

    >>> print(table([Figure(benchmark="engine", what="run", value=1.04, unit="x", limit=1.05)], {"cores": "2"}))
    # Benchmarks
    <BLANKLINE>
    cores 2
    <BLANKLINE>
    ## engine
    <BLANKLINE>
    | what | value | target | met | note |
    |---|---:|---:|---|---|
    | run | 1.04 x | <= 1.05 | yes |  |
    <BLANKLINE>
    """
    lines = ["# Benchmarks", "", ", ".join(f"{name} {what}" for name, what in machine.items()), ""]
    for name in dict.fromkeys(figure.benchmark for figure in figures):
        lines += [f"## {name}", "", "| what | value | target | met | note |", "|---|---:|---:|---|---|"]
        lines += [_row(figure) for figure in figures if figure.benchmark == name]
        lines.append("")
    return "\n".join(lines)


def _row(figure: Figure) -> str:
    target = "" if figure.limit is None else f"{figure.wanted} {figure.limit:g}"
    met = {None: "", True: "yes", False: "**no**"}[figure.met]
    value = f"{figure.value:.3g} {figure.unit}".strip()
    return f"| {figure.what} | {value} | {target} | {met} | {figure.note} |"
