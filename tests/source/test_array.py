"""An `xarray.DataArray` as a scene: what its attributes say, and that only the window is computed."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
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
from hypothesis import assume, given
from hypothesis import strategies as st
from odc.geo.xr import xr_coords

from geoseg.errors import BandError, ConfigError, GridError, SourceError
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


def _degrees(step: float = 0.05, rows: int = 300) -> xr.DataArray:
    grid = GeoBox((rows, 40), Affine(step, 0, 10, 0, -step, 60), "EPSG:4326")
    return array_on(grid, numbers(grid=grid))


UNEVEN = {
    "a row dropped": lambda array: array.isel(latitude=[*range(9), *range(10, 30)]),
    "the last row dropped but one": lambda array: array.isel(latitude=[*range(28), 29]),
    "two parts": lambda array: xr.concat(
        [array.isel(longitude=slice(0, 5)), array.isel(longitude=slice(9, 40))], "longitude"
    ),
    "rows picked": lambda array: array.isel(latitude=[0, 1, 5, 9]),
    "rows dropped by a condition": lambda array: array.where(abs(array.latitude - 59) > 0.2, drop=True),
    "steps that grow": lambda array: array.assign_coords(latitude=60 - np.cumsum(np.linspace(0.05, 0.06, 300))),
    "shuffled": lambda array: array.isel(longitude=[0, 1, 3, 2, 4]),
    "one place": lambda array: array.isel(longitude=[3, 3, 3]),
    "not a number": lambda array: array.assign_coords(longitude=[*np.arange(39.0), np.nan]),
}


@pytest.mark.parametrize("change", UNEVEN.values(), ids=UNEVEN.keys())
@pytest.mark.parametrize("stored", ["float64", "float32"])
def test_uneven_coordinates_are_no_grid(change: Callable[[xr.DataArray], xr.DataArray], stored: str) -> None:
    array = change(_degrees())
    array = array.assign_coords({dim: array[dim].astype(stored) for dim in ("latitude", "longitude")})
    with pytest.raises(GridError, match=r"(latitude|longitude) is uneven: .*reindex"):
        open_scene(array, bands=["red"])


def test_the_first_uneven_step_is_named() -> None:
    array = array_on(GRID, numbers())
    with pytest.raises(GridError, match=r"y is uneven: from 5299905 \(9\) to 5299875 \(10\), else -10 apart"):
        open_scene(array.isel(y=[*range(10), *range(12, 30)]), bands=["red"])


def test_turned_grids_have_even_steps_too() -> None:
    turned = array_on(GeoBox((30, 40), Affine(8, 6, 500000, 6, -8, 5300000), "EPSG:32633"), numbers())
    with pytest.raises(GridError, match="uneven"):
        open_scene(turned.isel(y=[0, 1, 5, 9]), bands=["red"])
    assert open_scene(turned.isel(y=slice(2, 30, 3)), bands=["red"]).geobox.shape == (10, 40)


@pytest.mark.parametrize("step", [0.05, 1 / 120, 0.0001])
def test_rounded_coordinates_keep_their_place_to_the_far_edge(step: float) -> None:
    """Of float32 coordinates the first step alone is off by enough to move the last row by pixels."""
    array = _degrees(step, rows=3000)
    exact = open_scene(array, bands=["red"]).geobox
    rounded = array.assign_coords({dim: array[dim].astype("float32") for dim in ("latitude", "longitude")})
    for version in (rounded, rounded.assign_coords(latitude=rounded["latitude"].astype("float64"))):
        box = open_scene(version, bands=["red"]).geobox
        drift = np.abs(np.array(box.boundingbox.bbox) - np.array(exact.boundingbox.bbox))
        assert drift.max() <= 0.01 * step + np.spacing(np.float32(60))


@given(
    step=st.floats(1e-4, 1e4), start=st.floats(-1e6, 1e6), rows=st.integers(2, 400), down=st.booleans(),
    wobble=st.floats(0, 0.3), seed=st.integers(0, 9),
)  # fmt: skip
def test_a_grid_is_refused_exactly_where_a_coordinate_is_off(
    step: float, start: float, rows: int, down: bool, wobble: float, seed: int
) -> None:
    grid = GeoBox((rows, 3), Affine(step, 0, 0, 0, -step if down else step, start), "EPSG:32633")
    array = array_on(grid, np.zeros((3, *grid.shape), np.uint8))
    moved = np.zeros(rows)
    moved[1:-1] = np.random.default_rng(seed).uniform(-1, 1, max(rows - 2, 0)) * wobble * step
    array = array.assign_coords(y=array["y"] + moved)
    off = np.abs(moved).max() / step
    assume(abs(off - 0.01) > 1e-3)
    if off > 0.01:
        with pytest.raises(GridError, match="uneven"):
            open_scene(array, bands=["red"])
    else:
        box = open_scene(array, bands=["red"]).geobox.boundingbox
        np.testing.assert_allclose(box.bbox, grid.boundingbox.bbox, atol=0.02 * step)


@pytest.mark.parametrize("dtype", [">u2", ">i4", ">f4", ">f8"])
@pytest.mark.parametrize("lazy", [False, True])
def test_the_order_of_bytes_does_not_matter(dtype: str, lazy: bool) -> None:
    values = numbers().astype(dtype)
    array = array_on(GRID, dask.array.from_array(values, chunks=(1, 7, 11)) if lazy else values)
    scene = open_scene(array, bands=["nir"])
    pixels, _ = scene.source.read(whole(GRID))
    assert pixels.dtype.isnative
    assert scene.bands[0].dtype == np.dtype(dtype).name
    np.testing.assert_array_equal(pixels[0], values[2])


@pytest.mark.parametrize("dtype", ["complex64", "object", "longdouble", "<U3", "datetime64[ns]"])
def test_numbers_of_other_kinds_are_refused(dtype: str) -> None:
    kind = np.dtype(dtype)
    with pytest.raises(SourceError, match=rf"scene: {re.escape(kind.name)} is no dtype of pixels.* float32 or float64"):
        open_scene(array_on(GRID, np.zeros((3, *GRID.shape), kind)), bands=["red"])


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
