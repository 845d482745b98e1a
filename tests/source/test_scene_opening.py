"""`open_scene`: bands by name from files, separate files and items, on one grid, with id, time and scaling."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from affine import Affine
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from geoseg.errors import BandError, ConfigError, GridError, SourceError
from geoseg.protocols import Source
from geoseg.scene import Scaling
from geoseg.source import bands_in, open_scene
from geoseg.source.grids import target_grid
from geoseg.source.raster import RasterSource
from geoseg.testing.server import range_server
from geoseg.window import GeoBox, Window, whole
from tests.source.sources import write_raster
from tests.source.test_stac import TIFF, item_of


def grid(pixel: float, size: int = 120) -> GeoBox:
    return GeoBox((size, size), Affine(pixel, 0, 399960, 0, -pixel, 5300040), "EPSG:32633")


def noise(size: int, bands: int = 1, seed: int = 0) -> npt.NDArray[np.uint16]:
    values: npt.NDArray[np.uint16] = np.random.default_rng(seed).integers(1, 9999, (bands, size, size)).astype("uint16")
    return values


@pytest.fixture
def scene_path(tmp_path: Path) -> Path:
    return write_raster(
        tmp_path / "S2_scene.tif",
        noise(120, 3),
        grid(10),
        descriptions=("blue", "red", "nir"),
        scales=(1e-4,) * 3,
        offsets=(-0.1,) * 3,
        nodata=0,
    )


@pytest.fixture
def item_path(tmp_path: Path) -> Path:
    """An item with bands at 10, 20 and 60 m, each in its own file, as Sentinel-2 products have them."""
    assets: dict[str, Any] = {}
    for name, key, pixel, size in (
        ("red", "B04", 10, 120),
        ("nir", "B08", 10, 120),
        ("swir16", "B11", 20, 60),
        ("coastal", "B01", 60, 20),
    ):
        write_raster(tmp_path / f"{key}.tif", noise(size, seed=size + len(name)), grid(pixel, size))
        band = {"name": key, "eo:common_name": name, "raster:scale": 1e-4, "raster:offset": -0.1, "nodata": 0}
        assets[key] = {"href": f"./{key}.tif", "type": TIFF, "roles": ["data"], "bands": [band]}
    path = tmp_path / "item.json"
    path.write_text(json.dumps(item_of(assets)))
    return path


def read_whole(path: Path, index: int = 1) -> npt.NDArray[Any]:
    with rasterio.open(path) as dataset:
        values: npt.NDArray[Any] = dataset.read(index)
    return values


def test_bands_come_in_the_order_asked_for(scene_path: Path) -> None:
    scene = open_scene(scene_path, bands=["nir", "blue"])
    assert scene.bands.names == ("nir", "blue")
    assert scene.bands == scene.source.bands
    assert scene.geobox == scene.source.geobox == grid(10)
    assert isinstance(scene.source, RasterSource)
    assert isinstance(scene.source, Source)
    pixels, valid = scene.source.read(whole(scene.geobox))
    np.testing.assert_array_equal(pixels, noise(120, 3)[[2, 0]])
    assert valid.all()
    assert scene.bands[0].scaling == Scaling(scale=1e-4, offset=-0.1)
    assert (scene.id, scene.href, scene.item_href) == ("S2_scene", str(scene_path), None)
    assert (scene.datetime, scene.datetime_source) == (None, "none")


def test_by_hand_counts_more_than_what_is_declared(scene_path: Path) -> None:
    scene = open_scene(
        str(scene_path),
        bands=["red", "green"],
        band_map={"GREEN": 1, "red": "3"},
        scale=0.5,
        offset=0.25,
        nodata=int(noise(120, 3)[2, 5, 6]),
        datetime="2024-06-01T12:00",
        scene_id="mine",
    )
    pixels, valid = scene.source.read(whole(scene.geobox))
    np.testing.assert_array_equal(pixels, noise(120, 3)[[2, 0]])
    assert not valid[5, 6]
    assert scene.bands[0].scaling == Scaling(scale=0.5, offset=0.25)
    assert scene.id == "mine"
    assert (scene.datetime, scene.datetime_source) == (datetime(2024, 6, 1, 12, tzinfo=UTC), "option")


def test_a_slip_in_a_name_by_hand_is_no_silent_nothing(scene_path: Path) -> None:
    with pytest.raises(BandError, match=r"--bands nri: no band .* did you mean nir\?; read are red, nir"):
        open_scene(scene_path, bands=["red", "nir"], band_map={"nri": 1})
    with pytest.raises(BandError, match=r"--bands vv: no band of that name is read; read are red"):
        open_scene(scene_path, bands=["red"], band_map={"vv": "vv.tif"})
    spare = open_scene(scene_path, bands=["red"], band_map={"swir16": 3, "Red": 1})
    np.testing.assert_array_equal(spare.source.read(whole(grid(10)))[0][0], noise(120, 3)[0])


def test_names_by_hand_do_not_hide_what_else_a_scene_has(scene_path: Path) -> None:
    by_hand = {"vv": 1, "vh": 2}
    assert bands_in(scene_path, ["red", "swir16"], band_map=by_hand) == ("red",)
    assert bands_in(scene_path, ["swir16", "vv", "vh"], band_map=by_hand) == ("vv", "vh")


@pytest.mark.parametrize("nodata", [-9999, 65536, 0.5, float("nan"), float("inf")])
def test_a_nodata_by_hand_that_no_pixel_can_have_is_refused(scene_path: Path, nodata: float) -> None:
    """It would replace the 0 that the file declares, and pixels without data would get labels."""
    with pytest.raises(ConfigError, match=r"--nodata .*: band red is uint16 .* from 0 to 65535"):
        open_scene(scene_path, bands=["red"], nodata=nodata)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("nodata", [-9999, 0.5, float("nan")])
def test_floats_hold_any_nodata(tmp_path: Path, nodata: float, dtype: str) -> None:
    path = write_raster(tmp_path / "real.tif", noise(40).astype(dtype), grid(10, 40), descriptions=("red",))
    assert open_scene(path, bands=["red"], nodata=nodata).bands[0].nodata == pytest.approx(nodata, nan_ok=True)


def test_a_nodata_by_hand_must_suit_every_band(tmp_path: Path) -> None:
    real = write_raster(tmp_path / "red.tif", noise(40).astype("int16"), grid(10, 40))
    whole_numbers = write_raster(tmp_path / "nir.tif", noise(40), grid(10, 40))
    with pytest.raises(ConfigError, match=r"nir\.tif: --nodata -9999: band nir is uint16"):
        open_scene(None, bands=["red", "nir"], band_map={"red": str(real), "nir": str(whole_numbers)}, nodata=-9999)


def test_files_join_to_one_scene(tmp_path: Path, scene_path: Path) -> None:
    swir = write_raster(tmp_path / "S2_B11.tif", noise(60, 2, seed=5), grid(20, 60))
    green = write_raster(tmp_path / "S2_B03.tif", noise(120, seed=6), grid(10))
    scene = open_scene(
        scene_path, bands=["swir16", "red", "green"], band_map={"swir16": str(swir), "green": str(green)}
    )
    pixels, _ = scene.source.read(whole(scene.geobox))
    np.testing.assert_array_equal(pixels[1], noise(120, 3)[1])
    np.testing.assert_array_equal(pixels[2], noise(120, seed=6)[0])
    assert set(scene.source.identity()) == {str(scene_path), str(swir), str(green)}
    alone = open_scene(None, bands=["swir16", "green"], band_map={"swir16": str(swir), "green": str(green)})
    assert alone.id == "S2"
    np.testing.assert_array_equal(alone.source.read(whole(alone.geobox))[0][0], pixels[0])
    with pytest.raises(BandError, match="red"):
        open_scene(None, bands=["swir16", "red"], band_map={"swir16": str(swir)})
    with pytest.raises(BandError, match="red=2"):
        open_scene(None, bands=["red"], band_map={"red": 2})


def test_an_item_at_three_resolutions_is_one_scene(item_path: Path) -> None:
    scene = open_scene(item_path, bands=["coastal", "red", "swir16", "nir"])
    assert scene.geobox == grid(10)
    assert scene.id == "scene-1"
    assert scene.item_href == str(item_path)
    assert (scene.datetime, scene.datetime_source) == (datetime(2024, 6, 1, 10, 20, 30, tzinfo=UTC), "item")
    assert all(band.scaling == Scaling(scale=1e-4, offset=-0.1) and band.nodata == 0 for band in scene.bands)
    pixels, valid = scene.source.read(whole(scene.geobox))
    assert valid.all()
    np.testing.assert_array_equal(pixels[1], read_whole(item_path.parent / "B04.tif"))
    np.testing.assert_array_equal(pixels[3], read_whole(item_path.parent / "B08.tif"))
    for layer, key in ((0, "B01"), (2, "B11")):
        with (
            rasterio.open(item_path.parent / f"{key}.tif") as dataset,
            WarpedVRT(
                dataset,
                crs=dataset.crs,
                transform=grid(10).transform,
                height=120,
                width=120,
                resampling=Resampling.bilinear,
            ) as vrt,
        ):
            assert np.abs(vrt.read(1).astype(int) - pixels[layer].astype(int)).max() <= 1
    copy: Source = pickle.loads(pickle.dumps(scene.source))
    window = Window(row_off=30, col_off=40, height=50, width=60)
    np.testing.assert_array_equal(copy.read(window)[0], pixels[:, *window.slices])
    assert copy.identity() == scene.source.identity()


def test_an_asset_or_a_file_may_be_named_by_hand(item_path: Path, tmp_path: Path) -> None:
    other = write_raster(tmp_path / "other.tif", noise(120, seed=9), grid(10))
    scene = open_scene(item_path, bands=["red", "green"], band_map={"red": "B08", "green": str(other)})
    pixels, _ = scene.source.read(whole(scene.geobox))
    np.testing.assert_array_equal(pixels[0], read_whole(item_path.parent / "B08.tif"))
    np.testing.assert_array_equal(pixels[1], noise(120, seed=9)[0])
    with pytest.raises(BandError, match="no band numbers"):
        open_scene(item_path, bands=["red"], band_map={"red": 1})
    with pytest.raises(BandError, match="B04"):
        open_scene(item_path, bands=["green"])


def test_an_item_that_miscounts_is_not_believed(tmp_path: Path, scene_path: Path) -> None:
    assets = {"all": {"href": scene_path.name, "type": TIFF, "bands": [{"eo:common_name": "red"}, {"name": "x"}]}}
    path = tmp_path / "item.json"
    path.write_text(json.dumps(item_of(assets)))
    with pytest.raises(BandError, match=r"lists 2 bands.*holds 3"):
        open_scene(path, bands=["red"])


def test_a_file_names_its_bands_where_the_item_does_not(tmp_path: Path, scene_path: Path) -> None:
    path = tmp_path / "item.json"
    path.write_text(json.dumps(item_of({"scene": {"href": scene_path.name, "type": TIFF}})))
    scene = open_scene(path, bands=["nir"])
    np.testing.assert_array_equal(scene.source.read(whole(scene.geobox))[0][0], noise(120, 3)[2])
    assert scene.bands[0].scaling == Scaling(scale=1e-4, offset=-0.1)


def test_items_and_assets_over_http(item_path: Path) -> None:
    files = {f"/s2/{path.name}": path.read_bytes() for path in item_path.parent.iterdir()}
    local = open_scene(item_path, bands=["red", "swir16"])
    with range_server(files) as server:
        scene = open_scene(f"{server.url}/s2/item.json", bands=["red", "swir16"])
        assert scene.item_href == f"{server.url}/s2/item.json"
        np.testing.assert_array_equal(
            scene.source.read(whole(scene.geobox))[0], local.source.read(whole(local.geobox))[0]
        )
        assert set(scene.source.identity()) == {f"{server.url}/s2/B04.tif", f"{server.url}/s2/B11.tif"}


def test_another_grid_on_request(item_path: Path) -> None:
    scene = open_scene(item_path, bands=["red", "swir16"], resolution=20)
    assert scene.geobox == target_grid(grid(10), resolution=20)
    polar = open_scene(item_path, bands=["red", "swir16"], crs="EPSG:3035", resolution=15)
    assert str(polar.geobox.crs) == "EPSG:3035"
    assert polar.geobox.resolution.x == 15
    _, valid = polar.source.read(whole(polar.geobox))
    assert 0.5 < valid.mean() < 1
    with pytest.raises(GridError, match="resolution"):
        open_scene(item_path, bands=["red"], resolution=-3)
    with pytest.raises(GridError, match="NOPE"):
        open_scene(item_path, bands=["red"], crs="NOPE:1")


def test_band_files_of_two_places_are_refused(tmp_path: Path, scene_path: Path) -> None:
    far = GeoBox((60, 60), Affine(20, 0, 799960, 0, -20, 5300040), "EPSG:32633")
    path = write_raster(tmp_path / "far.tif", noise(60), far)
    with pytest.raises(GridError, match=r"799960.*399960"):
        open_scene(scene_path, bands=["red", "swir16"], band_map={"swir16": str(path)})


def test_nearly_the_same_grid_is_the_same(tmp_path: Path, scene_path: Path) -> None:
    nearly = GeoBox((120, 120), Affine(10, 0, 399960.001, 0, -10, 5300040), "EPSG:32633")
    path = write_raster(tmp_path / "nearly.tif", noise(120, seed=3), nearly)
    scene = open_scene(scene_path, bands=["red", "green"], band_map={"green": str(path)})
    assert isinstance(scene.source, RasterSource)
    np.testing.assert_array_equal(scene.source.read(whole(scene.geobox))[0][1], noise(120, seed=3)[0])


def test_the_crs_can_be_assumed(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "bare.tif", noise(120), GeoBox((120, 120), grid(10).transform, None))
    with pytest.raises(GridError, match="assume-crs"):
        open_scene(path, bands=["red"], band_map={"red": 1})
    scene = open_scene(path, bands=["red"], band_map={"red": 1}, assume_crs="EPSG:32633")
    assert scene.geobox == grid(10)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"TIFFTAG_DATETIME": "2021:03:04 05:06:07"}, datetime(2021, 3, 4, 5, 6, 7, tzinfo=UTC)),
        ({"ACQUISITIONDATETIME": "2021-03-04T05:06:07+02:00"}, datetime(2021, 3, 4, 3, 6, 7, tzinfo=UTC)),
        ({"TIFFTAG_DATETIME": "long ago"}, None),
    ],
)
def test_the_time_comes_from_tags(tmp_path: Path, tags: dict[str, str], expected: datetime | None) -> None:
    path = write_raster(tmp_path / "s.tif", noise(120), grid(10), tags=tags)
    scene = open_scene(path, bands=["red"], band_map={"red": 1})
    assert scene.datetime == expected
    assert scene.datetime_source == ("tiff" if expected else "none")


def test_what_makes_no_sense_is_refused(scene_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ISO 8601"):
        open_scene(scene_path, bands=["red"], datetime="last summer")
    with pytest.raises(ConfigError, match="no bands"):
        open_scene(scene_path, bands=[])
    with pytest.raises(ConfigError, match="DataArray"):
        open_scene(3, bands=["red"])  # type: ignore[arg-type]
    with pytest.raises(SourceError, match=r"missing\.tif"):
        open_scene(tmp_path / "missing.tif", bands=["red"])
    with pytest.raises(SourceError, match="directory"):
        open_scene(tmp_path, bands=["red"])
    with pytest.raises(BandError, match="'green'"):
        open_scene(scene_path, bands=["green"])


@pytest.mark.parametrize(
    ("asked", "expected"), [("../../x", "_.._x"), ("a/b c", "a_b_c"), ("..", "scene"), ("Ä-1_b", "Ä-1_b")]
)
def test_an_id_is_fit_to_name_a_folder(scene_path: Path, asked: str, expected: str) -> None:
    assert open_scene(scene_path, bands=["red"], scene_id=asked).id == expected


def test_importing_the_package_loads_no_raster_library() -> None:
    heavy = {"rasterio", "torch", "pystac", "xarray", "pyarrow"}
    code = f"import sys, geoseg.source; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "bands", "indices", "options"),
    [
        ("ftw_austria_window_a.tif", ["nir", "red"], [4, 1], {}),
        ("eolearn_slovenia_l1c_2.tif", ["blue", "nir08", "swir22"], [2, 9, 13], {}),
        ("spain_segura_l1c_13band.tif", ["green", "swir16"], [3, 12], {}),
    ],
)
def test_real_scenes_equal_rasterio(
    shared: Path, name: str, bands: list[str], indices: list[int], options: dict[str, Any]
) -> None:
    path = shared / "data" / "s2_scenes" / name
    scene = open_scene(path, bands=bands, **options)
    window = Window(row_off=11, col_off=7, height=60, width=80)
    pixels, valid = scene.source.read(window)
    with rasterio.open(path) as dataset:
        place = ((11, 71), (7, 87))
        np.testing.assert_array_equal(pixels, dataset.read(indices, window=place))
        np.testing.assert_array_equal(valid, dataset.read_masks(indices, window=place).all(axis=0))
        assert scene.geobox.transform == dataset.transform


def test_a_scene_with_corners_in_space_has_no_grid_elsewhere(shared: Path) -> None:
    path = shared / "data" / "raster_fixtures" / "rasterio" / "goes.tif"
    with pytest.raises(GridError, match="another CRS"):
        open_scene(path, bands=["a"], band_map={"a": 1}, crs="EPSG:3857")


def test_a_real_scene_in_another_crs(shared: Path) -> None:
    """Warped reflectance keeps its mean, and red stays below near infrared over fields."""
    path = shared / "data" / "s2_scenes" / "ftw_austria_window_a.tif"
    plain, other = open_scene(path, bands=["red", "nir"]), open_scene(path, bands=["red", "nir"], crs="EPSG:3035")
    before, _ = plain.source.read(whole(plain.geobox))
    after, valid = other.source.read(whole(other.geobox))
    for layer in range(2):
        assert after[layer][valid].mean() == pytest.approx(before[layer].mean(), rel=0.01)
    size = plain.geobox.shape[0] * plain.geobox.shape[1]
    assert valid.sum() == pytest.approx(size, rel=0.01)
