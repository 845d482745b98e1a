"""`RasterSource` reads what rasterio reads, on every window, thread and layout; and says which pixels are usable."""

from __future__ import annotations

import os
import pickle
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from affine import Affine
from dask.base import tokenize
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp

from geoseg.errors import GridError, SourceError
from geoseg.protocols import Source
from geoseg.source import reader
from geoseg.source.bands import declare_band
from geoseg.source.info import inspect
from geoseg.source.open import open_raster
from geoseg.source.raster import RasterSource, join_rasters
from geoseg.testing.conformance import SourceConformance
from geoseg.window import Window, whole
from tests.source.rasters import PLACE, ramp, source_of, whole_source, write

ODD = [
    "imagetiff/BigTIFF.tif",
    "imagetiff/BigTIFFMotorola.tif",
    "imagetiff/cmyk-4c-8b.tiff",
    "imagetiff/predictor-3-rgb-f32.tif",
    "imagetiff/random-fp16-pred2.tiff",
    "imagetiff/random-fp16-pred3.tiff",
    "imagetiff/single-black-fp16.tiff",
    "imagetiff/usda_naip_256_webp_z3.tif",
    "imagetiff/white-fp16.tiff",
    "rasterio/RGBA.uint16.tif",
    "rasterio/all-nodata.tif",
    "rasterio/alpha.tif",
    "rasterio/float_nan.tif",
    "rasterio/float_raster_with_nodata.tif",
    "rasterio/goes.tif",
    "rasterio/rgb1_fake_nir_epsg3857.tif",
    "rasterio/rotated.tif",
    "rasterio/test_esri_wkt.tif",
    "rasterio/world.rgb.tif",
    "riocogeo/cog_band_tags.tif",
    "riocogeo/cog_no_offest.tif",
    "riocogeo/image_external.tif",
    "riocogeo/image_geos.tif",
    "riocogeo/image_rgba_nodata.tif",
    "riocogeo/image_webp.tif",
    "riocogeo/image_with_offsets.tif",
    "riotiler/201404_13SED190110_201404_0x1500m_CL_1_extmask.tif",
    "riotiler/cog_dateline.tif",
    "riotiler/cog_nodata_nan.tif",
    "riotiler/cog_rgb_mask.tif",
    "riotiler/cog_scale.tif",
    "riotiler/cog_uint8_rgba.tif",
    "riotiler/inverted_lat.tif",
]


@pytest.fixture(scope="session")
def fixtures(shared: Path) -> Path:
    return shared / "data" / "raster_fixtures"


@lru_cache(maxsize=4)
def expected(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_], Any]:
    """Pixels, validity and transform as rasterio reads the whole file: every mask and every nodata value counts."""
    with warnings.catch_warnings(action="ignore", category=UserWarning), rasterio.open(path) as file:
        bands = [i for i in file.indexes if file.colorinterp[i - 1] != ColorInterp.alpha]
        pixels, alpha = file.read(bands), [i for i in file.indexes if i not in bands]
        valid = (file.read_masks(bands) != 0).all(axis=0)
        for index in alpha:
            valid &= file.read(index) != 0
        if file.nodata is not None and not np.isnan(file.nodata):
            valid &= (pixels != np.asarray(file.nodata).astype(pixels.dtype)).all(axis=0)
        if pixels.dtype.kind == "f":
            valid &= np.isfinite(pixels).all(axis=0)
        return pixels, valid, file.transform


@pytest.mark.parametrize("name", ODD)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_reads_what_rasterio_reads(fixtures: Path, name: str, data: st.DataObject) -> None:
    path = fixtures / name
    pixels, valid, transform = expected(path)
    source = source_of(path, assume_crs="EPSG:32633")
    assert isinstance(source, Source)
    assert source.geobox.transform == transform
    _, height, width = pixels.shape
    row, col = data.draw(st.integers(-9, height + 5)), data.draw(st.integers(-9, width + 5))
    window = Window(
        row_off=row, col_off=col, height=data.draw(st.integers(0, 300)), width=data.draw(st.integers(0, 300))
    )
    got, usable = source.read(window)
    assert got.shape[1:] == usable.shape == window.shape
    assert (got.dtype, usable.dtype) == (pixels.dtype, np.dtype(bool))
    inside = window & whole(source.geobox)
    rows, cols = inside.slices
    there = np.zeros(window.shape, bool)
    if inside:
        there[inside.within(window).slices] = True
        at = inside.within(window).slices
        np.testing.assert_array_equal(got[:, at[0], at[1]], pixels[:, rows, cols])
        np.testing.assert_array_equal(usable[at], valid[rows, cols])
    assert not usable[~there].any()
    source.close()


LAYOUTS: dict[str, dict[str, Any]] = {
    "pixel": {"interleave": "pixel", "compress": "deflate", "predictor": 2},
    "planar": {"interleave": "band", "compress": "lzw"},
    "strips": {"tiled": False, "blockxsize": None, "blockysize": 7},
    "big-endian": {"endianness": "BIG"},
    "bigtiff": {"bigtiff": "YES", "compress": "zstd"},
    "south-up": {"transform": Affine(10, 0, 5e5, 0, 10, 5.3e6)},
    "rotated": {"transform": Affine(7, 7, 5e5, 7, -7, 5.3e6)},
}


@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64", "int8", "uint64"]
)
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_layouts_and_dtypes(tmp_path: Path, layout: str, dtype: str) -> None:
    pixels = ramp(dtype=dtype)
    source = source_of(write(tmp_path / "a.tif", pixels, photometric="minisblack", **LAYOUTS[layout]))
    for window in (whole(source.geobox), Window(row_off=11, col_off=13, height=20, width=33)):
        got, valid = source.read(window)
        np.testing.assert_array_equal(got, pixels[:, window.slices[0], window.slices[1]])
        assert got.dtype == dtype
        assert valid.all()
    source.close()


@pytest.mark.parametrize("predictor", [2, 3])
def test_float_predictors(tmp_path: Path, predictor: int) -> None:
    pixels = np.random.default_rng(0).normal(size=(2, 40, 40)).astype("float32")
    source = source_of(write(tmp_path / "a.tif", pixels, compress="deflate", predictor=predictor))
    assert (source.read(whole(source.geobox))[0] == pixels).all()


def test_sparse_blocks_read_as_nodata(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=64, width=64, count=2, dtype="uint16", tiled=True, blockxsize=16,
        blockysize=16, sparse_ok=True, nodata=9, crs="EPSG:32633", transform=PLACE,
    ) as file:  # fmt: skip
        file.write(np.full((2, 16, 16), 5, "uint16"), window=((16, 32), (32, 48)))
    pixels, valid = source_of(path).read(Window(row_off=0, col_off=0, height=64, width=64))
    assert valid.sum() == 256
    assert valid[16:32, 32:48].all()
    assert (pixels[:, ~valid] == 9).all()


@settings(max_examples=25, deadline=None)
@given(nodata=st.sampled_from([0, 7, 65535, -1, 7.5, float("nan"), 1e30]), data=st.data())
def test_nodata_is_judged_on_stored_numbers(
    tmp_path_factory: pytest.TempPathFactory, nodata: float, data: st.DataObject
) -> None:
    dtype = data.draw(st.sampled_from(["uint16", "float32"]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    pixels = rng.choice(np.array([0, 7, 7.5, 9, 65535, 1e30, np.nan, np.inf, -np.inf]), (3, 20, 20))
    if dtype == "uint16":
        pixels = np.nan_to_num(pixels, nan=3, posinf=4, neginf=5).clip(0, 65535)
    pixels = pixels.astype(dtype)
    info = inspect(write(tmp_path_factory.mktemp("nodata") / "a.tif", pixels))
    source = join_rasters([(info, i, declare_band(info, i, str(i), nodata=nodata)) for i in (1, 2, 3)])
    usable = np.isfinite(pixels) & (pixels.astype("float64") != float(np.float32(nodata)))
    np.testing.assert_array_equal(source.read(whole(source.geobox))[1], usable.all(axis=0))


def test_each_band_has_its_own_nodata(tmp_path: Path) -> None:
    one, other = ramp(1) * 0 + 1, ramp(1) * 0 + 1
    one[0, 0, 0], other[0, 0, 1] = 5, 6
    infos = [inspect(write(tmp_path / f"{i}.tif", each, nodata=5 + i)) for i, each in enumerate((one, other))]
    source = join_rasters([(info, 1, declare_band(info, 1, str(i))) for i, info in enumerate(infos)])
    valid = source.read(whole(source.geobox))[1]
    assert not valid[0, :2].any()
    assert valid.sum() == valid.size - 2


@pytest.mark.parametrize("kind", ["internal", "external"])
def test_masks(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "a.tif", ramp())
    mask = np.full((50, 70), 255, "uint8")
    mask[10:20, 30:40] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "internal"), rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    assert Path(f"{path}.msk").exists() == (kind == "external")
    source = source_of(path)
    assert len(source.identity()) == (2 if kind == "external" else 1)
    np.testing.assert_array_equal(source.read(whole(source.geobox))[1], mask != 0)
    np.testing.assert_array_equal(
        source.read(Window(row_off=15, col_off=20, height=9, width=30))[1], mask[15:24, 20:50] != 0
    )


def test_a_transparency_band_counts_unless_it_is_data(tmp_path: Path) -> None:
    pixels = ramp(4, dtype="uint8")
    pixels[3] = np.where(np.arange(70) < 5, 0, 200)
    path = write(tmp_path / "a.tif", pixels)  # GDAL takes four bands of bytes for a picture
    info = inspect(path)
    assert [band.color for band in info.bands] == ["red", "green", "blue", "alpha"]
    assert whole_source(info).read(whole(info.geobox))[1].sum() == 50 * 65
    with_it = join_rasters([(info, i, declare_band(info, i, str(i))) for i in (1, 4)])
    assert with_it.read(whole(info.geobox))[1].all()
    with rasterio.open(path, "r+") as file:
        file.set_band_description(4, "nir")
    assert inspect(path).file.alpha is None


def test_files_on_one_grid_are_joined_in_any_order(tmp_path: Path) -> None:
    pixels = ramp(6)
    first = inspect(write(tmp_path / "a.tif", pixels[:3]))
    second = inspect(write(tmp_path / "b.tif", pixels[3:].astype("int16"), blockxsize=32, blockysize=32))
    order = [(first, 3), (second, 1), (first, 1), (first, 2), (second, 3)]
    choices = [(info, i, declare_band(info, i, f"{n}")) for n, (info, i) in enumerate(order)]
    source = join_rasters(choices)
    got, valid = source.read(Window(row_off=5, col_off=5, height=30, width=30))
    assert got.dtype == "int32"  # holds uint16 and int16
    np.testing.assert_array_equal(got, pixels[[2, 3, 0, 1, 5], 5:35, 5:35])
    assert valid.all()
    assert source.block == (32, 32)
    assert set(source.identity()) == {str(tmp_path / "a.tif"), str(tmp_path / "b.tif")}


@pytest.mark.parametrize(
    "change",
    [{"transform": PLACE @ Affine.translation(0.5, 0)}, {"transform": PLACE @ Affine.scale(2)}, {"crs": "EPSG:32634"}],
)
def test_files_on_two_grids_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    infos = [inspect(write(tmp_path / "a.tif", ramp(1))), inspect(write(tmp_path / "b.tif", ramp(1), **change))]
    with pytest.raises(GridError, match=r"b\.tif.* does not lie on the grid of .*a\.tif"):
        join_rasters([(info, 1, declare_band(info, 1, str(n))) for n, info in enumerate(infos)])


def test_opens_late_and_no_more_than_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(write(tmp_path / "a.tif", ramp()))
    opened: list[int] = []

    def counting(*args: Any, **kwargs: Any) -> Any:
        opened.append(threading.get_ident())
        return open_raster(*args, **kwargs)

    monkeypatch.setattr(reader, "open_raster", counting)
    assert not opened
    source = pickle.loads(pickle.dumps(source))
    windows = list(whole(source.geobox).pieces(16, 16)) * 8
    with ThreadPoolExecutor(3) as pool:
        for window, (got, _) in zip(windows, pool.map(source.read, windows), strict=True):
            np.testing.assert_array_equal(got, ramp()[:, window.slices[0], window.slices[1]])
    assert 1 <= len(opened) <= 3
    source.close()
    assert (source.read(whole(source.geobox))[0] == ramp()).all()


def test_threads_that_follow_one_another_share_a_handle(tmp_path: Path) -> None:
    source = source_of(write(tmp_path / "a.tif", ramp()))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(5):
        thread = threading.Thread(target=source.read, args=[whole(source.geobox)])
        thread.start()
        thread.join()
    assert len(os.listdir("/proc/self/fd")) == before + 1  # noqa: PTH208
    source.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_travels(tmp_path: Path) -> None:
    source, other = source_of(write(tmp_path / "a.tif", ramp())), source_of(write(tmp_path / "b.tif", ramp()))
    again = pickle.loads(pickle.dumps(source))
    assert again == source != other
    assert hash(again) == hash(source)
    assert tokenize(again) == tokenize(source) != tokenize(other)
    assert len(pickle.dumps(source)) < 2000


def damaged(path: Path) -> Path:
    """Block 1, 2 of a file overwritten with noise."""
    with rasterio.open(path) as file:
        offset, size = (int(file.get_tag_item(f"BLOCK_{what}_2_1", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE"))
    content = bytearray(path.read_bytes())
    content[offset : offset + size] = bytes(range(7, 7 + 50)) * (size // 50) + b"x" * (size % 50)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_a_bad_block_is_named_or_filled(tmp_path: Path, interleave: str) -> None:
    path = damaged(write(tmp_path / "a.tif", ramp(), compress="deflate", nodata=0, interleave=interleave))
    source = source_of(path)
    assert source.read(Window(row_off=0, col_off=0, height=16, width=70))[1].all()
    with pytest.raises(SourceError, match=r"a\.tif: block 1, 2 \(rows 16:32, columns 32:48\)"):
        source.read(whole(source.geobox))
    source = source_of(path, on_bad_block="nodata")
    for window in [whole(source.geobox), Window(row_off=-5, col_off=20, height=30, width=70)]:
        bad = np.zeros((50, 70), bool)
        bad[16:32, 32:48] = True
        got, valid = source.read(window)
        inside = window & whole(source.geobox)
        rows, cols = inside.within(window).slices
        np.testing.assert_array_equal(valid[rows, cols], ~bad[inside.slices])
        np.testing.assert_array_equal(
            got[:, rows, cols], np.where(bad, 0, ramp())[:, inside.slices[0], inside.slices[1]]
        )
    assert source.bad_blocks == 1


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", ramp())
    source = source_of(path)
    before = source.identity()
    write(path, ramp() + 1)
    assert source.identity() != before
    with pytest.raises(SourceError, match="changed since"):
        source.read(whole(source.geobox))
    path.unlink()
    with pytest.raises(SourceError, match="No such file"):
        source.identity()


def test_one_pixel(tmp_path: Path) -> None:
    for height, width in [(1, 1), (1, 40), (40, 1)]:
        pixels = ramp(2, height, width)
        source: RasterSource = source_of(write(tmp_path / f"{height}x{width}.tif", pixels))
        got, valid = source.read(Window(row_off=-1, col_off=-1, height=height + 2, width=width + 2))
        assert (got[:, 1:-1, 1:-1] == pixels).all()
        assert valid.sum() == height * width


class TestRaster(SourceConformance):
    """A GeoTIFF with a hole."""

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        pixels = ramp()
        pixels[:, 5:9, 60:] = 0
        self.path = write(tmp_path / "scene.tif", pixels, nodata=0)

    def make(self) -> Source:
        return source_of(self.path)
