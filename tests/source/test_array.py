"""An `xarray.DataArray` as a scene: what its attributes say, and that only the window is computed."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import xarray as xr
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.xr import xr_coords

from geoseg.errors import BandError, ConfigError, GridError
from geoseg.protocols import Source
from geoseg.scene import Band, Scaling
from geoseg.source import open_scene
from geoseg.source.array import inspect_array, usable
from geoseg.testing.conformance import SourceConformance
from geoseg.window import GeoBox, Window, whole

GRID = GeoBox((30, 40), Affine(10, 0, 500000, 0, -10, 5300000), "EPSG:32633")
NAMES = ("red", "green", "nir")


def array_on(
    grid: GeoBox, values: Any, names: tuple[str, ...] | None = NAMES, attrs: dict[str, Any] | None = None
) -> xr.DataArray:
    coords = dict(xr_coords(grid))
    dims = ("band", *(str(dim) for dim in grid.dimensions))
    if names is not None:
        coords["band"] = xr.DataArray(list(names), dims=("band",))
    return xr.DataArray(values, dims=dims, coords=coords, attrs=attrs or {}, name="scene")


def numbers(dtype: str = "uint16", grid: GeoBox = GRID, bands: int = 3) -> npt.NDArray[Any]:
    rng = np.random.default_rng(7)
    return rng.integers(1, 10000, (bands, *grid.shape)).astype(dtype)


class TestXarraySource(SourceConformance):
    def make(self) -> Source:
        return open_scene(array_on(GRID, numbers(), attrs={"_FillValue": 9}), bands=["nir", "red"]).source


class TestLazyXarraySource(SourceConformance):
    def make(self) -> Source:
        lazy = dask.array.from_array(numbers("float32"), chunks=(1, 7, 11))
        return open_scene(array_on(GRID, lazy), bands=["nir", "red"]).source


@given(row=st.integers(-35, 35), col=st.integers(-45, 45), height=st.integers(0, 40), width=st.integers(0, 50))
def test_any_window_equals_the_padded_array(row: int, col: int, height: int, width: int) -> None:
    values = numbers()
    scene = open_scene(array_on(GRID, values), bands=["nir", "red"])
    window = Window(row_off=row, col_off=col, height=height, width=width)
    pixels, valid = scene.source.read(window)
    inside = np.pad(np.ones((30, 40), bool), 100)[row + 100 : row + 100 + height, col + 100 : col + 100 + width]
    expected = np.pad(values[[2, 0]], ((0, 0), (100, 100), (100, 100)))
    assert pixels.shape == (2, height, width)
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(valid, inside)
    np.testing.assert_array_equal(pixels, expected[:, row + 100 :, col + 100 :][:, :height, :width])


@pytest.mark.parametrize(
    "grid",
    [
        GRID,
        GeoBox((30, 40), Affine(10, 0, 500000, 0, 10, 5300000), "EPSG:32633"),
        GeoBox((30, 40), Affine(0.1, 0, 10, 0, -0.1, 50), "EPSG:4326"),
        GeoBox((30, 40), Affine(8, 6, 500000, 6, -8, 5300000), "EPSG:32633"),
        GeoBox((1, 1), Affine(10, 0, 500000, 0, -10, 5300000), "EPSG:32633"),
        GeoBox((1, 40), Affine(10, 0, 500000, 0, -10, 5300000), "EPSG:32633"),
    ],
    ids=["north-up", "south-up", "degrees", "rotated", "one pixel", "one row"],
)
def test_the_grid_comes_through(grid: GeoBox) -> None:
    scene = open_scene(array_on(grid, numbers(grid=grid)), bands=["red"])
    assert scene.geobox.shape == grid.shape
    assert scene.geobox.crs == grid.crs
    assert tuple(scene.geobox.transform) == pytest.approx(tuple(grid.transform), rel=1e-12)


def test_only_the_window_is_computed() -> None:
    computed: list[tuple[int, ...]] = []

    def block(block_info: Any = None) -> npt.NDArray[np.uint16]:
        computed.append(block_info[None]["chunk-location"])
        return np.ones(block_info[None]["chunk-shape"], np.uint16)

    lazy = dask.array.map_blocks(block, chunks=((1, 1, 1), (10, 10, 10), (20, 20)), dtype=np.uint16)
    scene = open_scene(array_on(GRID, lazy), bands=["nir"])
    assert scene.source.block == (10, 20)
    assert computed == []
    scene.source.read(Window(row_off=10, col_off=20, height=10, width=20))
    assert computed == [(2, 1, 1)]


def test_lazy_and_in_memory_read_the_same_and_travel() -> None:
    values = numbers("float32")
    values[0, 3, 4] = np.nan
    values[1, 5, 6] = np.inf
    window = Window(row_off=1, col_off=2, height=9, width=30)
    results = []
    for data in (values, dask.array.from_array(values, chunks=(2, 7, 11))):
        source = open_scene(array_on(GRID, data), bands=NAMES).source
        copy = pickle.loads(pickle.dumps(source))
        assert copy.identity() == source.identity()
        assert copy.bands == source.bands
        results.append(copy.read(window))
    for pixels, valid in results:
        np.testing.assert_array_equal(pixels, values[:, 1:10, 2:32])
        assert (~valid).sum() == 2
        assert not valid[2, 2]
        assert not valid[4, 4]


def test_identity_follows_the_content() -> None:
    values = numbers()
    one = open_scene(array_on(GRID, values), bands=NAMES).source.identity()
    same = open_scene(array_on(GRID, values.copy()), bands=NAMES).source.identity()
    values[2, 29, 39] += 1
    other = open_scene(array_on(GRID, values), bands=NAMES).source.identity()
    assert one == same
    assert one != other
    lazy = dask.array.from_array(values, chunks=10)
    named = open_scene(array_on(GRID, lazy), bands=NAMES).source.identity()
    assert list(named.values()) == [f"dask:{lazy.name}"]
    assert named != open_scene(array_on(GRID, lazy + 1), bands=NAMES).source.identity()


def test_attributes_become_scaling_and_nodata() -> None:
    attrs = {"scale_factor": 1e-4, "add_offset": -0.1, "_FillValue": 0}
    values = numbers()
    values[0, 0, 0] = 0
    scene = open_scene(array_on(GRID, values, attrs=attrs), bands=NAMES)
    assert scene.bands[0] == Band(name="red", dtype="uint16", scaling=Scaling(scale=1e-4, offset=-0.1), nodata=0.0)
    assert not scene.source.read(whole(GRID))[1][0, 0]
    by_hand = open_scene(array_on(GRID, values, attrs=attrs), bands=["red"], scale=2.0, offset=1.0, nodata=7)
    assert by_hand.bands[0].scaling == Scaling(scale=2.0, offset=1.0)
    assert by_hand.bands[0].nodata == 7
    assert open_scene(array_on(GRID, values, attrs={"scale_factor": 1.0}), bands=["red"]).bands[0].scaling is None


def test_bands_are_found_by_name_never_by_position() -> None:
    values = numbers()
    attrs = {"long_name": ("B04 red", "B03 green", "B08 nir")}
    described = array_on(GRID, values, None, attrs).assign_coords(band=[1, 2, 3])
    scene = open_scene(described, bands=["nir"])
    np.testing.assert_array_equal(scene.source.read(whole(GRID))[0][0], values[2])
    counted = array_on(GRID, values, None).assign_coords(band=[1, 2, 3])
    with pytest.raises(BandError, match="'red'"):
        open_scene(counted, bands=["red"])
    by_number = open_scene(counted, bands=["red"], band_map={"red": "3"})
    np.testing.assert_array_equal(by_number.source.read(whole(GRID))[0][0], values[2])
    with pytest.raises(BandError, match=r"red=B04\.tif"):
        open_scene(counted, bands=["red"], band_map={"red": "B04.tif"})
    with pytest.raises(BandError, match="bands 1 to 3"):
        open_scene(counted, bands=["red"], band_map={"red": 4})


def test_dims_of_length_one_drop_out_and_time_is_kept() -> None:
    moment = np.datetime64("2024-06-01T10:20:30.5")
    array = array_on(GRID, numbers()).expand_dims(time=[moment])
    scene = open_scene(array.transpose("y", "x", "time", "band"), bands=["red"], scene_id="T33/../x y")
    assert scene.datetime == datetime(2024, 6, 1, 10, 20, 30, 500000, tzinfo=UTC)
    assert scene.datetime_source == "coordinate"
    assert scene.id == "T33_.._x_y"
    single = array_on(GRID, numbers()).isel(band=0, drop=True)
    assert inspect_array(single).bands[0].description == "scene"


def test_what_is_no_scene_is_refused() -> None:
    array = array_on(GRID, numbers())
    with pytest.raises(GridError, match="band, y, x"):
        open_scene(xr.concat([array, array], dim="time"), bands=["red"])
    with pytest.raises(GridError, match="no y and x"):
        open_scene(xr.DataArray(np.zeros((3, 4)), dims=("a", "b")), bands=["red"])
    bare = xr.DataArray(numbers(), dims=("band", "y", "x"), coords={"band": list(NAMES)})
    with pytest.raises(GridError, match="regular grid"):
        open_scene(bare, bands=["red"])
    placed = bare.assign_coords(y=5300000 - 10.0 * np.arange(30), x=500000 + 10.0 * np.arange(40))
    with pytest.raises(GridError, match="no CRS"):
        open_scene(placed, bands=["red"])
    assert open_scene(placed, bands=["red"], assume_crs="EPSG:32633").geobox.crs == GRID.crs
    with pytest.raises(ConfigError, match="to_array"):
        open_scene(array.to_dataset(name="pixels"), bands=["red"])


def test_usable_judges_every_band() -> None:
    pixels = np.array([[[1.0, np.nan, 3.0, -9.0]], [[1.0, 1.0, np.inf, 1.0]]])
    bands = [Band(name="a", dtype="float64", nodata=-9.0), Band(name="b", dtype="float64", nodata=float("nan"))]
    assert usable(pixels, bands).tolist() == [[True, False, False, False]]


@pytest.mark.parametrize("chunks", [None, {"band": 1, "y": 64, "x": 64}])
def test_a_real_scene_from_rioxarray_equals_rasterio(shared: Path, chunks: dict[str, int] | None) -> None:
    rioxarray = pytest.importorskip("rioxarray")
    path = shared / "data" / "s2_scenes" / "eolearn_slovenia_l1c_3.tif"
    with rioxarray.open_rasterio(path, chunks=chunks) as array:
        scene = open_scene(array, bands=["nir", "blue"])
        assert scene.bands[0].scaling == Scaling(scale=1e-4)
        pixels, _ = scene.source.read(Window(row_off=20, col_off=30, height=50, width=40))
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(pixels, dataset.read([8, 2], window=((20, 70), (30, 70))))
        assert scene.geobox.transform == pytest.approx(dataset.transform)
