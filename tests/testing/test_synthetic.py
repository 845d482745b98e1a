"""The synthetic scene: the same however it is cut, plausible to an index, and a valid COG on disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rio_cogeo.cogeo import cog_validate

from geoseg.errors import BandError, GridError
from geoseg.testing import Cover, SyntheticScene, write_scene
from geoseg.testing import strategies as gst
from geoseg.testing.noise import bell, fractal, uniform, value_noise
from geoseg.types import Pixels
from geoseg.window import Window, whole

SIDE = 1100
OUTER = Window(row_off=0, col_off=0, height=SIDE, width=SIDE)


@pytest.fixture(scope="module")
def scene() -> SyntheticScene:
    return SyntheticScene(SIDE, SIDE, seed=5)


@pytest.fixture(scope="module")
def pixels(scene: SyntheticScene) -> Pixels:
    return scene.read(OUTER)[0]


@pytest.fixture(scope="module")
def truth(scene: SyntheticScene) -> npt.NDArray[np.uint8]:
    return scene.truth(OUTER)


@settings(max_examples=15)
@given(window=gst.windows(OUTER))
def test_any_window_is_the_same_however_it_is_cut(
    window: Window, scene: SyntheticScene, pixels: Pixels, truth: npt.NDArray[np.uint8]
) -> None:
    found, valid = scene.read(window)
    np.testing.assert_array_equal(found, pixels[:, *window.slices])
    np.testing.assert_array_equal(valid, pixels[0][window.slices] > 0)
    np.testing.assert_array_equal(scene.truth(window), truth[window.slices])


def test_every_cover_is_there_and_no_pixel_lacks_one(truth: npt.NDArray[np.uint8]) -> None:
    shares = {cover: float((truth == cover).mean()) for cover in Cover}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert min(shares.values()) > 0.002, shares


def test_truth_and_pixels_agree_on_where_nothing_was_observed(pixels: Pixels, truth: npt.NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(truth == Cover.NODATA, pixels[0] == 0)
    np.testing.assert_array_equal((pixels == 0).all(axis=0), (pixels == 0).any(axis=0))
    assert truth[0, 0] == Cover.NODATA
    assert pixels.max() <= 20_000


def test_indices_tell_the_covers_apart(pixels: Pixels, truth: npt.NDArray[np.uint8]) -> None:
    blue, green, red, nir, swir16, _ = pixels.astype(np.float64) + 1e-9
    ndvi, mndwi, ndsi = (
        (nir - red) / (nir + red),
        (green - swir16) / (green + swir16),
        (green - swir16) / (green + swir16),
    )

    def median(values: npt.NDArray[np.float64], cover: Cover) -> float:
        return float(np.median(values[truth == cover]))

    assert median(ndvi, Cover.FOREST) > 0.75
    assert median(ndvi, Cover.VEGETATION) > 0.5
    assert -0.1 < median(ndvi, Cover.BUILT) < median(ndvi, Cover.VEGETATION) - 0.2
    assert 0.1 < median(ndvi, Cover.BARE) < 0.3
    assert median(mndwi, Cover.WATER) > 0.3
    assert median(ndvi, Cover.WATER) < 0
    assert median(ndsi, Cover.SNOW) > 0.6
    assert median(blue, Cover.CLOUD) > 3000 > median(blue, Cover.BARE)
    assert median(swir16, Cover.CLOUD) > 3 * median(swir16, Cover.SNOW)


def test_neighbouring_bands_go_together_and_the_sensor_is_noisy(pixels: Pixels, truth: npt.NDArray[np.uint8]) -> None:
    land = (truth == Cover.VEGETATION) | (truth == Cover.BARE)
    between = np.corrcoef(pixels[:, land])
    assert between[0, 1] > 0.8
    assert between[4, 5] > 0.9
    lake = pixels[3][truth == Cover.WATER]
    assert np.unique(lake).size > 20


def test_seeds_make_different_scenes_and_names_choose_bands(scene: SyntheticScene, pixels: Pixels) -> None:
    window = Window(row_off=600, col_off=300, height=40, width=50)
    other = SyntheticScene(SIDE, SIDE, seed=6).read(window)[0]
    assert (other != pixels[:, *window.slices]).mean() > 0.9
    two = SyntheticScene(SIDE, SIDE, seed=5, names=("swir16", "blue"))
    assert two.bands.names == ("swir16", "blue")
    np.testing.assert_array_equal(two.read(window)[0], pixels[[4, 0]][:, *window.slices])
    assert two.identity() != scene.identity()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_a_scene_of_any_size_can_be_made(height: int, width: int) -> None:
    scene = SyntheticScene(height, width)
    pixels, valid = scene.read(whole(scene.geobox))
    assert pixels.shape == (6, height, width)
    assert valid.shape == scene.truth(whole(scene.geobox)).shape


def test_a_scene_without_pixels_or_with_unknown_bands_is_refused() -> None:
    with pytest.raises(GridError, match="0 x 5"):
        SyntheticScene(0, 5)
    with pytest.raises(BandError, match="purple; choose from blue"):
        SyntheticScene(5, 5, names=("red", "purple"))


def test_a_scene_on_disk_is_a_valid_cog_that_says_what_it_holds(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "scene.tif", 700, 1100, seed=2)
    valid, errors, warnings = cog_validate(path, strict=True, quiet=True)
    assert valid, (errors, warnings)
    with rasterio.open(path) as raster:
        assert raster.descriptions == ("blue", "green", "red", "nir", "swir16", "swir22")
        assert raster.scales == (1e-4,) * 6
        assert raster.nodata == 0
        assert raster.crs.to_epsg() == 32632
        assert raster.block_shapes == [(512, 512)] * 6
        assert raster.overviews(1) == [2, 4]
        assert raster.profile["compress"] == "deflate"
        assert raster.tags()["TIFFTAG_DATETIME"] == "2024:06:14 10:20:31"
        scene = SyntheticScene(700, 1100, seed=2)
        assert raster.transform == scene.geobox.transform
        np.testing.assert_array_equal(raster.read(), scene.read(whole(scene.geobox))[0])
    assert [file.name for file in tmp_path.iterdir()] == ["scene.tif"]


def test_a_scene_is_written_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    read = SyntheticScene.read

    def spying(scene: SyntheticScene, window: Window) -> object:
        sizes.append(window.shape)
        return read(scene, window)

    monkeypatch.setattr(SyntheticScene, "read", spying)
    write_scene(tmp_path / "scene.tif", 600, 1030, names=("red",))
    assert sorted(set(sizes)) == [(88, 6), (88, 512), (512, 6), (512, 512)]


def test_importing_the_package_is_light() -> None:
    code = "import sys, geoseg.testing; print({'torch', 'rasterio', 'hypothesis', 'dask.array'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@given(start=st.integers(-500, 500), period=st.integers(1, 90), key=st.integers(0, 2**40))
def test_noise_follows_absolute_coordinates(start: int, period: int, key: int) -> None:
    rows, cols = np.arange(-500, 600), np.arange(start, start + 60)
    full = value_noise(np.arange(-5, 40), rows, period, key)
    part = value_noise(np.arange(3, 9), cols, period, key)
    np.testing.assert_array_equal(full[8:14, start + 500 : start + 560], part)
    assert full.min() >= 0
    assert full.max() < 1


def test_noise_has_the_moments_it_says() -> None:
    rows, cols = np.arange(400)[:, None], np.arange(500)[None, :]
    normal, flat = bell(rows, cols, 3), uniform(rows, cols, 3)
    assert abs(normal.mean()) < 0.01
    assert abs(normal.std() - 1) < 0.01
    assert abs(flat.mean() - 0.5) < 0.005
    assert abs(np.corrcoef(flat[:, 1:].ravel(), flat[:, :-1].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(uniform(rows, cols, 4).ravel(), flat.ravel())[0, 1]) < 0.01
    smooth = fractal(rows[:, 0], cols[0], 100, 1, 5)
    assert 0 < smooth.min() < 0.35
    assert 0.65 < smooth.max() < 1
