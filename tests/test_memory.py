"""Memory does not know how large a scene is: measured in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.test_pipeline import write_tiff

RUN = """
import json, sys
import geoseg
from geoseg.settings import Settings
from geoseg.testing import LinearModel
scene, out = sys.argv[1:]
model = LinearModel([[8.0, 0, 0, 0], [0, 9.0, 0, -3.0], [0, 0, 4.0, 3.0]])
geoseg.segment(scene, model=model, out=out, tile=256, overlap=64, chunk=768, vector=())
line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(json.dumps(int(line.split()[1]) * 1024))
"""


def _peak(folder: Path, side: int) -> int:
    random = np.random.default_rng(0)
    pixels = np.tile(random.integers(1, 9999, (4, 1024, 1024), dtype=np.uint16), (1, side // 1024, side // 1024))
    scene = write_tiff(folder / f"{side}.tif", pixels, tiled=True, blockxsize=256, blockysize=256)
    command = [sys.executable, "-c", RUN, str(scene), str(folder / f"out-{side}")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    peak: int = json.loads(done.stdout)
    return peak


def test_sixteen_times_the_pixels_take_no_tenth_more_memory(tmp_path: Path) -> None:
    small, large = _peak(tmp_path, 1024), _peak(tmp_path, 4096)
    assert large <= 1.10 * small, f"{large / 1e6:.0f} MB over {small / 1e6:.0f} MB"
