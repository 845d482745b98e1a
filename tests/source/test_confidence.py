"""Probabilities as whole numbers: where there are none nothing counts, and what is no probability is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import GridError, SourceError
from geoseg.planes import KNOWN, STEP
from geoseg.source.confidence import confidence_rasters
from geoseg.window import GeoBox, Window, whole
from tests.source.sources import write_raster

BOX = GeoBox((12, 17), Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32633")
NAME = "confidence_mean"


def written(path: Path, array: np.ndarray[Any, Any], **options: Any) -> Path:
    return write_raster(path, array[None], BOX, **options)


@given(
    seed=st.integers(0, 99), dtype=st.sampled_from(["uint8", "uint16", "float32", "float64"]),
    row=st.integers(0, 8), col=st.integers(0, 9),
)  # fmt: skip
def test_numbers_in_steps_and_whether_they_are_known(
    tmp_path_factory: pytest.TempPathFactory, seed: int, dtype: str, row: int, col: int
) -> None:
    random = np.random.default_rng(seed)
    shares, known = random.random(BOX.shape), random.random(BOX.shape) < 0.7
    scale, nodata = {"uint8": (0.004, 255), "uint16": (1e-4, 65535)}.get(dtype, (1.0, -9.0))
    stored = np.where(known, np.round(shares / scale) if scale < 1 else shares, nodata).astype(dtype)
    folder = tmp_path_factory.mktemp("sure")
    rasters = confidence_rasters(written(folder / "sure.tif", stored, nodata=nodata, scales=(scale,)), NAME, BOX)
    window = Window(row_off=row, col_off=col, height=4, width=8)
    found, counted = (rasters[name].read(window) for name in (NAME, KNOWN))
    assert found.dtype == counted.dtype == rasters[NAME].dtype
    np.testing.assert_array_equal(counted, known[window.slices])
    expected = np.where(known, stored.astype(float) * scale, 0)[window.slices]
    np.testing.assert_allclose(found * STEP, expected, atol=0.51 * STEP)


def test_it_lies_on_the_grid_of_the_map(tmp_path: Path) -> None:
    sure = np.full(BOX.shape, 200, np.uint8)
    path = written(tmp_path / "sure.tif", sure, scales=(0.004,))
    for other in (
        GeoBox(BOX.shape, BOX.transform, "EPSG:32632"),
        GeoBox(BOX.shape, BOX.transform @ Affine.translation(1, 0), BOX.crs),
        GeoBox((12, 18), BOX.transform, BOX.crs),
    ):
        with pytest.raises(GridError, match=r"sure.tif: confidence_mean lies on another grid"):
            confidence_rasters(path, NAME, other)
    bare = write_raster(tmp_path / "bare.tif", sure[None], GeoBox(BOX.shape, BOX.transform, None), scales=(0.004,))
    found = confidence_rasters(bare, NAME, BOX)[NAME].read(whole(BOX))
    np.testing.assert_allclose(found * STEP, 0.8)


@pytest.mark.parametrize("value", [100, -1])
def test_what_is_no_probability_is_refused(tmp_path: Path, value: int) -> None:
    path = written(tmp_path / "sure.tif", np.full(BOX.shape, value, np.int16))
    with pytest.raises(SourceError, match=rf"sure.tif: holds {value}, and a probability is 0 to 1"):
        confidence_rasters(path, NAME, BOX)[NAME].read(whole(BOX))


def test_several_bands_are_refused(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "two.tif", np.zeros((2, *BOX.shape), np.uint8), BOX)
    with pytest.raises(SourceError, match=r"two.tif: holds 2 bands"):
        confidence_rasters(path, NAME, BOX)
