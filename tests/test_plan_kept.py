"""What a plan says is what a run does: passes, bytes read, sums exchanged, memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoseg.pipeline import plan_segment
from geoseg.testing import LinearModel
from tests.test_memory import run_apart
from tests.test_pipeline import WEIGHTS, write_tiff

_ARRAY_HEADER = 600
"""Bytes that an array in an npz takes beside its numbers, at most."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = np.random.default_rng(7).integers(1, 9999, (4, 500, 700), dtype=np.uint16)
    return write_tiff(tmp_path_factory.mktemp("scene") / "scene.tif", pixels, tiled=True, blockxsize=64, blockysize=64)


@pytest.mark.parametrize(
    "options",
    [
        {"chunk": 9999},
        {"chunk": 48},
        {"chunk": 150},
        {"chunk": 333, "overlap": 32},
        {"chunk": 100, "overlap": 0},
        {"chunk": 150, "workers": 2},
    ],
)
def test_a_plan_is_kept(scene: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    asked = {"tile": 64, "overlap": 16, **options}
    plan = plan_segment(scene, model=LinearModel(WEIGHTS), vector=(), **asked)
    run_apart(scene, tmp_path / "out", **asked)
    counts = json.loads((tmp_path / "out" / "run.json").read_text())["counts"]
    assert counts["forward_passes"] == plan.forward_passes == plan.tiles
    assert counts["bytes_read"] == plan.bytes_to_read
    assert counts["chunks"] == len(plan.chunks)
    lines = [json.loads(line) for line in (tmp_path / "out" / ".run" / "journal.jsonl").read_text().splitlines()]
    pieces = [line for line in lines if line["kind"] in ("chunk", "seam")]
    sizes = {name: facts["size"] for line in pieces for name, facts in line["files"].items()}
    shared = [size for name, size in sizes.items() if name.endswith(".npz")]
    arrays = 2 * sum(len(chunk.shared) for chunk in plan.chunks)
    assert plan.seam_bytes <= sum(shared) <= plan.seam_bytes + _ARRAY_HEADER * arrays
    assert bool(shared) == (plan.seam_bytes > 0)
    assert all(line["peak_memory"] <= plan.worker_memory for line in pieces)
