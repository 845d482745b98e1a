"""Bands are found by name in any order, by hand where told, and never by position."""

from __future__ import annotations

from pathlib import Path

import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp

from geoseg.errors import BandError, SourceError
from geoseg.scene import Scaling
from geoseg.source.bands import COMMON_NAMES, declare_band, find_bands, name_bands
from geoseg.source.info import inspect
from tests.source.rasters import ramp, write

S2 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")


@settings(max_examples=15, deadline=None)
@given(st.permutations(["blue", "green", "red", "nir"]), st.sampled_from([str.lower, str.upper, str.title]))
def test_any_order_and_case(tmp_path_factory: pytest.TempPathFactory, order: list[str], case: type[str]) -> None:
    path = write(
        tmp_path_factory.mktemp("order") / "a.tif", ramp(), names=tuple(case(f"{name} band") for name in order)
    )
    found = find_bands(inspect(path), ["red", "nir"])
    assert found == {"red": order.index("red") + 1, "nir": order.index("nir") + 1}


@pytest.mark.parametrize(
    ("names", "wanted", "place"),
    [
        (S2, "nir", 8),
        (S2, "nir08", 9),
        (S2, "swir16", 12),
        (S2, "rededge071", 5),
        (("B04 red", "B03 green", "B02 blue", "B08 nir"), "nir", 4),
        (("VV", "VH"), "vh", 2),
        (("NIR (842 nm)", "Red, 665 nm"), "red", 2),
    ],
)
def test_names(tmp_path: Path, names: tuple[str, ...], wanted: str, place: int) -> None:
    info = inspect(write(tmp_path / "a.tif", ramp(len(names)), names=names))
    assert find_bands(info, [wanted]) == {wanted: place}


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("B04", "B03", "B02", "B08"),  # numbers of an unknown satellite
        ("vegetation red edge", "not red", "infrared", "B05 red edge"),
        ("Band 1", "Band 2", "Band 3", "Band 4"),
    ],
)
def test_what_nothing_names_is_refused_with_a_list(tmp_path: Path, names: tuple[str, ...]) -> None:
    info = inspect(write(tmp_path / "a.tif", ramp(), names=names, photometric="minisblack"))
    with pytest.raises(BandError, match="--bands red=N") as caught:
        find_bands(info, ["red"])
    assert (names[0] if names else "4 bands without names") in str(caught.value)


@pytest.mark.parametrize(
    ("platform", "wanted"), [("Sentinel-2B", "red"), ("LANDSAT_8", "red"), ("LANDSAT_5", "nir08"), ("Terra", None)]
)
def test_numbers_count_where_the_platform_is_known(tmp_path: Path, platform: str, wanted: str | None) -> None:
    path = write(tmp_path / "a.tif", ramp(1), names=("SR_B4",))
    with rasterio.open(path, "r+") as file:
        file.update_tags(SPACECRAFT_ID=platform)
    assert (name_bands(inspect(path))[0] & COMMON_NAMES) == ({wanted} if wanted else set())


def test_tags_and_colours(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", ramp(5))
    with rasterio.open(path, "r+") as file:
        file.update_tags(1, common_name="swir22")
        file.colorinterp = [ColorInterp.gray, ColorInterp.red, ColorInterp.nir, ColorInterp.swir, ColorInterp.undefined]
    assert [sorted(names) for names in name_bands(inspect(path))] == [["swir22"], ["red"], ["nir"], [], []]


def test_a_description_outweighs_a_colour(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", ramp(3, dtype="uint8"), names=("nir", "red", "green"), photometric="rgb")
    assert find_bands(inspect(path), ["nir", "red", "green"]) == {"nir": 1, "red": 2, "green": 3}
    with pytest.raises(BandError, match="1 nir, 2 red, 3 green"):
        find_bands(inspect(path), ["blue"])


def test_two_of_one_name_are_told_apart_by_hand(tmp_path: Path) -> None:
    info = inspect(write(tmp_path / "a.tif", ramp(3), names=("red", "red", "nir")))
    with pytest.raises(BandError, match="bands 1, 2 are all named 'red'"):
        find_bands(info, ["red"])
    assert find_bands(info, ["red", "nir"], {"RED": 2}) == {"red": 2, "nir": 3}


@pytest.mark.parametrize("number", [0, -1, 5])
def test_numbers_count_from_1(tmp_path: Path, number: int) -> None:
    info = inspect(write(tmp_path / "a.tif", ramp(4)))
    with pytest.raises(BandError, match="bands 1 to 4"):
        find_bands(info, ["red"], {"red": number})


def test_scale_offset_nodata_from_tags_and_by_hand(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", ramp(2), nodata=7)
    assert declare_band(inspect(path), 1, "red").scaling is None
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (1e-4, 2e-4), (-0.1, 0.0)
    info = inspect(path)
    assert declare_band(info, 1, "red").scaling == Scaling(scale=1e-4, offset=-0.1)
    assert declare_band(info, 2, "red").scaling == Scaling(scale=2e-4, offset=0.0)
    by_hand = declare_band(info, 1, "red", scale=1.0, offset=0.0, nodata=9)
    assert (by_hand.scaling, by_hand.nodata) == (Scaling(), 9)
    assert declare_band(info, 1, "red").nodata == 7


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused(tmp_path: Path, scale: float) -> None:
    info = inspect(write(tmp_path / "a.tif", ramp(1)))
    with pytest.raises(SourceError, match="--scale"):
        declare_band(info, 1, "red", scale=scale)


def test_real_scenes(shared: Path) -> None:
    scenes = shared / "data" / "s2_scenes"
    assert find_bands(inspect(scenes / "spain_segura_l1c_13band.tif"), ["swir22", "red"]) == {"swir22": 13, "red": 4}
    assert find_bands(inspect(scenes / "ftw_austria_window_a.tif"), ["blue", "nir"]) == {"blue": 3, "nir": 4}
    naip = shared / "data" / "naip_north_dakota" / "m_4709963_se_14_1_20200831.tif"
    with pytest.raises(BandError, match="4 bands without names"):
        find_bands(inspect(naip), ["nir"])
