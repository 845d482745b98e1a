"""`--mask`: what is not zero is excluded, or what is of some classes, on the scene's grid or another."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.warp import Resampling, reproject

from geoseg.errors import ConfigError, GridError, SourceError
from geoseg.protocols import Source
from geoseg.source import open_scene
from geoseg.source.mask import MaskedSource, masked, parse_mask
from geoseg.testing.conformance import SourceConformance
from geoseg.window import GeoBox, Window, crop_geobox, whole
from tests.source.sources import ArraySource, write_raster

SCENE = GeoBox((120, 150), Affine(10, 0, 399000, 0, -10, 5300000), "EPSG:32633")


def scene_source() -> ArraySource:
    rng = np.random.default_rng(0)
    return ArraySource(rng.integers(1, 999, (2, 120, 150)).astype("uint16"), SCENE, rng.random((120, 150)) > 0.1)


def mask_values(shape: Sequence[int], share: float = 0.3) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(1)
    values: npt.NDArray[np.uint8] = (rng.integers(1, 9, (1, *shape)) * (rng.random((1, *shape)) < share)).astype(
        "uint8"
    )
    return values


class TestMaskedSource(SourceConformance):
    def make(self) -> Source:
        return masked(scene_source(), ArraySource(mask_values(SCENE.shape), SCENE))


class TestMaskedByClass(SourceConformance):
    def make(self) -> Source:
        return masked(scene_source(), ArraySource(mask_values(SCENE.shape), SCENE), (3, 8))


def test_non_zero_is_excluded_and_nothing_else() -> None:
    source, values = scene_source(), mask_values(SCENE.shape)
    pixels, valid = masked(source, ArraySource(values, SCENE)).read(whole(SCENE))
    np.testing.assert_array_equal(valid, source.valid & (values[0] == 0))
    np.testing.assert_array_equal(pixels, source.values)


def test_where_the_mask_knows_nothing_it_excludes_nothing() -> None:
    source, values = scene_source(), mask_values(SCENE.shape)
    known = np.random.default_rng(2).random(SCENE.shape) > 0.2
    _, valid = masked(source, ArraySource(values, SCENE, known)).read(whole(SCENE))
    np.testing.assert_array_equal(valid, source.valid & ~(known & (values[0] != 0)))


def test_beyond_the_edge_nothing_is_valid() -> None:
    window = Window(row_off=-20, col_off=100, height=60, width=100)
    _, valid = masked(scene_source(), ArraySource(mask_values(SCENE.shape), SCENE)).read(window)
    assert not valid[:20].any()
    assert not valid[:, 50:].any()


@pytest.mark.parametrize(
    "grid",
    [
        GeoBox((40, 50), Affine(30, 0, 399000, 0, -30, 5300000), "EPSG:32633"),
        GeoBox((700, 800), Affine(2.5, 0, 398900, 0, -2.5, 5300100), "EPSG:32633"),
        GeoBox((170, 170), Affine(10, 0, 4594000, 0, -10, 2755600), "EPSG:3035"),
    ],
    ids=["coarser", "finer", "another CRS"],
)
def test_on_another_grid_the_nearest_counts_as_in_gdal(grid: GeoBox) -> None:
    source, values = scene_source(), mask_values(grid.shape)
    result = masked(source, ArraySource(values, grid))
    _, valid = result.read(whole(SCENE))
    nearest = np.zeros(SCENE.shape, np.uint8)
    reproject(
        values[0],
        nearest,
        src_transform=grid.transform,
        src_crs=CRS.from_user_input(str(grid.crs)),
        dst_transform=SCENE.transform,
        dst_crs=CRS.from_user_input(str(SCENE.crs)),
        resampling=Resampling.nearest,
    )
    differ = (valid != (source.valid & (nearest == 0))).mean()
    assert differ < 0.002  # rasterio 1.4 approximates the projection here, so a few centres fall to a neighbour
    if grid.crs == SCENE.crs:
        assert differ == 0
    window = Window(row_off=13, col_off=17, height=50, width=60)
    np.testing.assert_array_equal(result.read(window)[1], valid[window.slices])


def test_another_mask_is_another_input() -> None:
    source = scene_source()
    result = masked(source, ArraySource(mask_values(SCENE.shape), SCENE, names=("cloud",)))
    assert result.identity() == {**source.identity(), "mask:memory": "cloud"}
    copy = pickle.loads(pickle.dumps(result))
    assert isinstance(copy, MaskedSource)
    assert copy.bands == result.bands
    assert copy.block == source.block
    np.testing.assert_array_equal(copy.read(whole(SCENE))[1], result.read(whole(SCENE))[1])


def test_a_mask_of_another_place_is_refused() -> None:
    far = GeoBox((10, 10), Affine(10, 0, 799000, 0, -10, 5300000), "EPSG:32633")
    with pytest.raises(GridError, match=r"799000.*399000"):
        masked(scene_source(), ArraySource(mask_values(far.shape), far))


def test_open_scene_takes_a_mask_file(tmp_path: Path) -> None:
    values = scene_source().values
    scene_path = write_raster(tmp_path / "scene.tif", values, SCENE, descriptions=("red", "nir"))
    part = Window(row_off=40, col_off=60, height=50, width=50)
    grid = crop_geobox(SCENE, part)
    mask_path = write_raster(tmp_path / "clouds.tif", mask_values(grid.shape), grid, nodata=0)
    scene = open_scene(scene_path, bands=["nir"], mask=mask_path)
    _, valid = scene.source.read(whole(SCENE))
    expected = np.ones(SCENE.shape, bool)
    expected[part.slices] = mask_values(grid.shape)[0] == 0
    np.testing.assert_array_equal(valid, expected)
    assert f"mask:{mask_path}" in scene.source.identity()
    with pytest.raises(SourceError, match="nowhere"):
        open_scene(scene_path, bands=["nir"], mask=tmp_path / "nowhere.tif")


@given(st.sets(st.integers(0, 300), min_size=1))
def test_exactly_the_classes_are_excluded(classes: set[int]) -> None:
    source, values = scene_source(), mask_values(SCENE.shape, share=0.9)
    _, valid = masked(source, ArraySource(values, SCENE), tuple(classes)).read(whole(SCENE))
    np.testing.assert_array_equal(valid, source.valid & ~np.vectorize(classes.__contains__)(values[0]))


def test_classes_on_another_grid_are_those_of_the_nearest() -> None:
    grid = GeoBox((40, 50), Affine(30, 0, 399000, 0, -30, 5300000), "EPSG:32633")
    source, values = scene_source(), mask_values(grid.shape, share=0.9)
    _, valid = masked(source, ArraySource(values, grid), (3, 8)).read(whole(SCENE))
    nearest = np.repeat(np.repeat(values[0], 3, 0), 3, 1)
    np.testing.assert_array_equal(valid, source.valid & (nearest != 3) & (nearest != 8))


def test_other_classes_are_another_input() -> None:
    mask = ArraySource(mask_values(SCENE.shape), SCENE, names=("scl",))
    identities = [masked(scene_source(), mask, classes).identity() for classes in [(), (3,), (3, 8)]]
    assert len({tuple(identity.items()) for identity in identities}) == 3


PLACES = [
    "scl.tif",
    "/data/a b/scl.tif",
    "https://example.org/scl.tif",
    "http://host:8080/scl.tif",
    "https://example.org/scl.tif?sig=a%3A3",
    "s3://bucket/tiles/scl.tif",
    "file:///data/scl.tif",
    "C:/data/scl.tif",
    "odd:name.tif",
]


@pytest.mark.parametrize("place", PLACES)
@given(st.lists(st.integers(0, 99), max_size=5))
def test_what_is_written_after_the_place_is_read_back(place: str, classes: list[int]) -> None:
    written = f"{place}:{','.join(map(str, classes))}" if classes else place
    assert parse_mask(written) == (place, tuple(classes))


@pytest.mark.parametrize("text", ["http://host:80", "s3://bucket:3,8"])
def test_what_follows_a_bare_host_is_its_port(text: str) -> None:
    assert parse_mask(text) == (text, ())


@pytest.mark.parametrize("text", ["scl.tif:", "scl.tif:3,,8", "scl.tif:3,", "scl.tif:3 8"])
def test_a_list_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"mask scl.tif: .* FILE:3,8,9"):
        parse_mask(text)


def test_a_refused_list_shows_no_signature() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_mask("https://example.org/scl.tif?sig=hidden:3,,8")
    assert "hidden" not in str(caught.value)


def test_open_scene_takes_classes_and_one_may_be_the_masks_nodata_number(tmp_path: Path) -> None:
    scene_path = write_raster(tmp_path / "scene.tif", scene_source().values, SCENE, descriptions=("red", "nir"))
    values = mask_values(SCENE.shape, share=0.9)
    mask_path = write_raster(tmp_path / "scl.tif", values, SCENE, nodata=0)
    for text, kept in [
        (f"{mask_path}:3,8", ~np.isin(values[0], [3, 8])),
        (f"{mask_path}:0, 4", ~np.isin(values[0], [0, 4])),
        (str(mask_path), values[0] == 0),
    ]:
        _, valid = open_scene(scene_path, bands=["nir"], mask=text).source.read(whole(SCENE))
        np.testing.assert_array_equal(valid, kept)
