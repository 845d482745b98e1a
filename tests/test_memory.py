"""Memory does not know how large or wide a scene is, or how many chunks it has; a plan says how much it will be."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window as RasterioWindow

from geoseg.plan import _TILE_BYTES_PER_CHANNEL_PIXEL
from tests.test_pipeline import NAMES, WEIGHTS, write_tiff

RUN = """
import json, sys
import geoseg
from geoseg.pipeline import plan_segment
from geoseg.testing import LinearModel
scene, out, options = sys.argv[1:]
options = {"vector": (), **json.loads(options)}
options["model"] = LinearModel(options.pop("weights"))
plan = plan_segment(scene, **options)
result = geoseg.segment(scene, out=out, **options)
line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
found = {"peak": int(line.split()[1]) * 1024, "planned": plan.worker_memory, "told": result.peak_memory}
print(json.dumps(found | {"chunks": len(plan.chunks)}))
"""


BUFFERS = """
import resource, torch
from geoseg.memory import give_back
give_back()
faults = []
for _ in range(50):
    torch.empty(4 << 20).fill_(1.0)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[9])
"""


def run_apart(scene: Path, out: Path, **options: Any) -> dict[str, int]:
    """Peak and planned memory of a run in a process of its own: what this one ever held counts for nothing."""
    options = {"weights": WEIGHTS.tolist(), **options}
    command = [sys.executable, "-c", RUN, str(scene), str(out), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    found: dict[str, int] = json.loads(done.stdout)
    return found


def _peak(folder: Path, side: int) -> int:
    random = np.random.default_rng(0)
    pixels = np.tile(random.integers(1, 9999, (4, 1024, 1024), dtype=np.uint16), (1, side // 1024, side // 1024))
    scene = write_tiff(folder / f"{side}.tif", pixels, tiled=True, blockxsize=256, blockysize=256)
    return run_apart(scene, folder / f"out-{side}", tile=256, overlap=64, chunk=768)["peak"]


def _sparse_scene(path: Path, width: int) -> Path:
    """A scene of few rows of which most columns were never written."""
    values = np.random.default_rng(0).integers(1, 9999, (4, 600, 1024), dtype=np.uint16)
    profile = {"crs": "EPSG:32633", "transform": rasterio.Affine(1, 0, 5e5, 0, -1, 5e6), "nodata": 0}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=4,
        height=600,
        width=width,
        dtype="uint16",
        tiled=True,
        sparse_ok=True,
        **profile,
    ) as file:
        file.descriptions = NAMES
        file.scales = [1e-4] * 4
        for col in range(0, width - 1024, 8192):
            file.write(values, window=RasterioWindow(col, 0, 1024, 600))
    return path


def test_sixteen_times_the_pixels_take_no_tenth_more_memory(tmp_path: Path) -> None:
    small, large = _peak(tmp_path, 1024), _peak(tmp_path, 4096)
    assert large <= 1.10 * small, f"{large / 1e6:.0f} MB over {small / 1e6:.0f} MB"


def test_a_scene_of_100_000_columns_takes_what_was_planned_and_no_tenth_more_than_one_of_4_000(tmp_path: Path) -> None:
    found = {
        width: run_apart(
            _sparse_scene(tmp_path / f"{width}.tif", width), tmp_path / f"out-{width}", tile=256, overlap=64
        )
        for width in (4096, 100_000)
    }
    assert found[100_000]["chunks"] > 10 * found[4096]["chunks"]
    for one in found.values():
        assert one["peak"] <= one["planned"], one
    assert found[100_000]["peak"] <= 1.10 * found[4096]["peak"], found


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what is asked of glibc concerns glibc only")
def test_buffers_of_a_net_are_not_mapped_anew_on_a_worker_of_dask() -> None:
    """Dask starts workers with this threshold; without more, each of these buffers of 16 MB costs 4096 page faults."""
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", BUFFERS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert int(done.stdout) < 4096


def test_many_classes_and_their_probabilities_take_what_was_planned(tmp_path: Path) -> None:
    weights = np.random.default_rng(1).normal(size=(12, 4)).tolist()
    options = {"tile": 512, "overlap": 128, "probabilities": True, "weights": weights}
    found = run_apart(_sparse_scene(tmp_path / "scene.tif", 9000), tmp_path / "out", **options)
    net = 512 * 512 * 4 * _TILE_BYTES_PER_CHANNEL_PIXEL  # granted to a net that was not probed; this one takes little
    assert found["peak"] <= found["planned"] - net, found
