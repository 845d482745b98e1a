"""Model packages made by others run unchanged, and every pixel is what their closed form says."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio

import geoseg
from geoseg.errors import ModelError
from geoseg.types import Pixels
from tests.test_pipeline import write_tiff


def channels_of(stored: Pixels, order: tuple[int, int, int, int]) -> npt.NDArray[np.float64]:
    """Channels (channel, row, col) of `ndvi-threshold`: blue, green, red, nir as reflectance, and NDVI."""
    blue, green, red, nir = (stored[index] * 1e-4 for index in order)
    total = nir + red
    ndvi = np.divide(nir - red, total, out=np.zeros_like(total), where=total != 0)
    return np.stack([blue, green, red, nir, ndvi])


def probabilities(shared: Path, channels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Softmax of the graph's own weights, applied by numpy in double precision."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(shared / "models" / "ndvi-threshold" / "model.onnx").graph
    arrays = {item.name: numpy_helper.to_array(item).astype(np.float64) for item in graph.initializer}
    node = next(node for node in graph.node if node.op_type == "Conv")
    weights = arrays[node.input[1]][:, :, 0, 0]
    scores = np.einsum("kc,crw->krw", weights, channels)
    if len(node.input) > 2:
        scores += arrays[node.input[2]][:, None, None]
    powers = np.exp(scores - scores.max(axis=0))
    return np.asarray(powers / powers.sum(axis=0))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tile": 64, "overlap": 0, "blend": "crop", "chunk": 100},
        {"tile": 96, "overlap": 48, "blend": "linear", "chunk": 1},
        {"tile": 128, "overlap": 20, "blend": "gaussian", "batch_size": 3},
        {"tile": 160, "blend": "ramp", "workers": 2, "chunk": 200},
    ],
)
def test_ndvi_threshold_is_exact_on_a_real_scene(shared: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    with rasterio.open(shared / "data" / "s2_scenes" / "ftw_austria_window_a.tif") as file:
        stored = file.read()  # red, green, blue, nir
    stored[:, 50:80, 60:130] = 0  # a hole
    stored[:, :, :7] = 0  # a rim
    scene = write_tiff(tmp_path / "scene.tif", stored, ("red", "green", "blue", "nir"))
    result = geoseg.segment(scene, model=shared / "models" / "ndvi-threshold", out=tmp_path / "out", **options)
    probs = probabilities(shared, channels_of(stored, (2, 1, 0, 3)))
    ranked, valid = np.sort(probs, axis=0), (stored != 0).all(axis=0)
    assert result.confidence is not None
    with rasterio.open(result.labels) as labels, rasterio.open(result.confidence) as confidence:
        found, stored_confidence = labels.read(1), confidence.read(1)
    assert (found[~valid] == 255).all()
    assert (found == probs.argmax(axis=0))[valid & (ranked[-1] - ranked[-2] > 1e-5)].all()
    assert np.abs(stored_confidence * 0.004 - ranked[-1])[valid].max() <= 1 / 250


def test_a_damaged_package_is_refused(shared: Path, tmp_path: Path) -> None:
    package = tmp_path / "package"
    shutil.copytree(shared / "models" / "ndvi-threshold", package)
    package.chmod(0o755)
    weights = package / "model.onnx"
    weights.chmod(0o644)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    scene = shared / "data" / "s2_scenes" / "ftw_austria_window_a.tif"
    with pytest.raises(ModelError, match="checksum"):
        geoseg.segment(scene, model=package, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
