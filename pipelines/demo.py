"""What `make demo` runs: makes a Sentinel-2-like scene, maps it with the default model, says what came out."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import geoseg
from geoseg.events import Event, StageStarted
from geoseg.result import RunResult
from geoseg.testing import write_scene, write_truth

STAGES = {
    "predict": "predicting",
    "assemble": "writing rasters",
    "vectorize": "tracing polygons",
    "describe": "drawing the preview, writing the STAC item",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the demo; progress goes to stderr, the table to stdout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096, help="rows and columns of the scene (default 4096)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="where everything goes (default ./demo)")
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    scene = make_scene(asked.out / f"scene-{asked.size}.tif", asked.size)
    make_truth(asked.out / f"truth-{asked.size}.tif", asked.size)
    result = geoseg.segment(scene, out=asked.out / "map", overwrite=True, restart=True, on_event=say_stage)
    print(summary(scene, result))


def make_scene(path: Path, size: int) -> Path:
    """The demo scene, written unless an earlier demo left it."""
    if path.exists():
        say(f"the scene is there already: {path}")
        return path
    say(f"making a scene of {size} x {size} pixels, 6 bands ...")
    began = time.perf_counter()
    write_scene(path, size, size)
    say(f"made in {time.perf_counter() - began:.0f} s: {path} ({path.stat().st_size / 1e6:.0f} MB)")
    return path


def make_truth(path: Path, size: int) -> Path:
    """What lies where in the demo scene, written unless an earlier demo left it."""
    if not path.exists():
        say("writing down what lies where ...")
        write_truth(path, size, size)
    return path


def say_stage(event: Event) -> None:
    """One line per stage of the run."""
    if isinstance(event, StageStarted):
        say(f"{STAGES.get(event.stage, event.stage)} ...")


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def summary(scene: Path, result: RunResult) -> str:
    """The table of classes, what the run cost, and where the results lie."""
    title = max(len("no data"), *(len(area.title) for area in result.areas))
    labelled = sum(area.pixels for area in result.areas)
    pixels, seconds = result.counts["pixels"], result.timings["seconds"]
    rows = [(area.title, area.pixels, f"{area.km2:10.2f}") for area in result.areas]
    rows.append(("no data", pixels - labelled, ""))
    lines = ["", f"{'class':<{title}} {'pixels':>14} {'share':>7} {'km2':>10}"]
    lines += [f"{name:<{title}} {count:14,} {count / pixels:7.1%} {km2}".rstrip() for name, count, km2 in rows]
    places = {
        "scene": scene,
        "map": result.labels,
        "polygons": " ".join(str(path) for path in result.polygons),
        "preview": result.preview,
        "item": result.item,
    }
    lines += [
        "",
        f"{'time':<11}{seconds:.1f} s, of which the net waited {result.timings['wait']:.1f} s for pixels",
        f"{'throughput':<11}{pixels / 1e6 / seconds:.2f} Mpx/s from scene to STAC item",
        f"{'memory':<11}{result.peak_memory / 1e6:,.0f} MB at most",
        f"{'tiles':<11}{result.counts['forward_passes']:,} forward passes of {result.counts['tiles']:,} tiles",
        "",
        *(f"{name:<11}{place}" for name, place in places.items()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
