"""COGs against rasterio, rio-cogeo and numpy."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rio_cogeo.cogeo import cog_validate

from geoseg.errors import SinkError
from geoseg.sink import cog
from geoseg.sink.cog import CogSink
from geoseg.sink.pyramid import halve_average, halve_mode
from geoseg.sink.tiff import read_tags
from geoseg.testing.conformance import SinkConformance
from geoseg.testing.fakes import geobox_of
from geoseg.types import Pixels
from geoseg.window import GeoBox, Window, whole

NORTH_UP = Affine(10, 0, 500_000, 0, -10, 5_000_000)
UTM = "EPSG:32632"


def make(directory: Path, geobox: GeoBox, **options: Any) -> CogSink:
    workdir = directory / "work"
    workdir.mkdir(exist_ok=True)
    options = {"dtype": "uint8", "nodata": 255, **options}
    return CogSink(directory / "out.tif", geobox=geobox, workdir=workdir, **options)


def patches(shape: tuple[int, ...], seed: int = 0, classes: int = 5) -> npt.NDArray[np.uint8]:
    """Labels (..., row, col) with regions of all sizes, and nodata."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (*shape[:-2], *(-(-side // 7) for side in shape[-2:])))
    labels = np.repeat(np.repeat(coarse, 7, -2), 7, -1)[..., : shape[-2], : shape[-1]]
    labels = np.where(rng.random(shape) < 0.1, rng.integers(0, classes, shape), labels)
    return np.where(rng.random(shape) < 0.05, 255, labels).astype(np.uint8)


def levels(path: Path) -> list[Pixels]:
    """The raster and its overviews, finest first."""
    with rasterio.open(path) as file:
        count, found = len(file.overviews(1)), [file.read()]
    for level in range(count):
        with rasterio.open(path, overview_level=level) as file:
            found.append(file.read())
    return found


class TestCogSink(SinkConformance):
    def make(self, directory: Path, geobox: GeoBox) -> CogSink:
        return make(directory, geobox)

    def raster(self, paths: list[Path]) -> Pixels:
        with rasterio.open(paths[0]) as file:
            return np.asarray(file.read())


class TestProbabilities(TestCogSink):
    count, dtype = 3, "uint16"

    def make(self, directory: Path, geobox: GeoBox) -> CogSink:
        return make(
            directory, geobox, dtype="uint16", nodata=65535, count=3, names=("a", "b", "c"), resampling="average"
        )


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_same_bytes_for_any_cut_order_repetition_and_threads(data: st.DataObject) -> None:
    labels = patches((1, 530, 640))
    geobox = GeoBox((530, 640), NORTH_UP, UTM)
    digests = set()
    for threads in (1, 2):
        size = data.draw(st.tuples(st.integers(90, 700), st.integers(90, 700)))
        pieces = list(whole(geobox).pieces(*size))
        order = data.draw(st.permutations(pieces + pieces[:2]))
        with TemporaryDirectory() as folder:
            sink = make(Path(folder), geobox, threads=threads, colors={0: "0000FF"})
            for piece in order:
                sink.write(piece, labels[:, *piece.slices])
            digests.add(hashlib.sha256(sink.close()[0].read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("shape", "transform", "crs"),
    [
        ((1, 1), NORTH_UP, UTM),
        ((1, 1300), NORTH_UP, UTM),
        ((2, 1300), NORTH_UP, UTM),
        ((1300, 2), NORTH_UP, UTM),
        ((511, 512), NORTH_UP, UTM),
        ((513, 1025), NORTH_UP, UTM),
        ((600, 700), Affine(10, 0, 500_000, 0, 10, 5_000_000), UTM),
        ((600, 700), Affine.translation(5e5, 5e6) * Affine.rotation(30) * Affine.scale(10, -10), UTM),
        ((600, 700), Affine(1 / 3, 0, -180.1, 0, -1 / 7, 89.9), "EPSG:4326"),
        ((600, 700), NORTH_UP, "+proj=laea +lat_0=12.5 +lon_0=3.25 +R=6370000 +units=m"),
        ((600, 700), NORTH_UP, None),
        ((600, 700), Affine.identity(), None),
    ],
)
def test_any_shape_and_place_is_kept_exactly_in_a_strictly_valid_cog(
    tmp_path: Path, shape: tuple[int, int], transform: Affine, crs: str | None
) -> None:
    geobox, labels = GeoBox(shape, transform, crs), patches((1, *shape))
    sink = make(tmp_path, geobox)
    sink.write(whole(geobox), labels)
    (path,) = sink.close()
    assert cog_validate(path, strict=True) == (True, [], [])
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(), labels)
        assert file.transform == transform
        expected = None if geobox.crs is None else rasterio.CRS.from_wkt(geobox.crs.to_wkt())
        assert file.crs == expected
        assert file.block_shapes == [(512, 512)]
        assert file.nodata == 255
        assert file.files == [str(path)]
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "work"]
    assert not list((tmp_path / "work").iterdir())


def test_one_column_has_no_overview_to_be_misread(tmp_path: Path) -> None:
    geobox = GeoBox((1300, 1), NORTH_UP, UTM)
    sink = make(tmp_path, geobox)
    sink.write(whole(geobox), patches((1, 1300, 1)))
    valid, errors, _ = cog_validate(sink.close()[0], quiet=True)
    assert (valid, errors) == (True, [])


@pytest.mark.parametrize("resampling", ["mode", "average"])
def test_overviews_are_halved_one_from_the_other(tmp_path: Path, resampling: Literal["mode", "average"]) -> None:
    geobox, labels = GeoBox((2100, 1030), NORTH_UP, UTM), patches((1, 2100, 1030))
    labels[:, :700, :700] = 255
    sink = make(tmp_path, geobox, resampling=resampling)
    for piece in whole(geobox).pieces(384, 700):
        sink.write(piece, labels[:, *piece.slices])
    found = levels(sink.close()[0])
    assert [level.shape for level in found] == [(1, 2100, 1030), (1, 1050, 515), (1, 525, 258), (1, 263, 129)]
    halve = halve_mode if resampling == "mode" else halve_average
    for finer, coarser in pairwise(found):
        np.testing.assert_array_equal(coarser, halve(finer, 255))
    if resampling == "mode":
        assert all(set(np.unique(level)) <= {0, 1, 2, 3, 4, 255} for level in found)


@pytest.mark.parametrize("count", [1, 3])
def test_pieces_of_any_size_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    geobox, values = GeoBox((2100, 5300), NORTH_UP, UTM), patches((count, 2100, 5300))
    contents = []
    for piece in (1, 1 << 20, 1 << 22):
        monkeypatch.setattr(cog, "_PIECE_BYTES", piece)
        sink = make(tmp_path, geobox, count=count, names=tuple("abc"[:count]), resampling="average", threads=2)
        contents.append(sink.pull(lambda window: values[:, *window.slices])[0].read_bytes())
    assert contents[0] == contents[1] == contents[2]
    assert not list((tmp_path / "work").iterdir())


def test_every_pixel_is_pulled_once(tmp_path: Path) -> None:
    reads: list[Window] = []

    def read(window: Window) -> Pixels:
        reads.append(window)
        return np.zeros((1, *window.shape), np.uint8)

    make(tmp_path, GeoBox((2100, 5300), NORTH_UP, UTM)).pull(read)
    seen = np.zeros((2100, 5300), np.uint8)
    for window in reads:
        seen[window.slices] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("resampling", ["mode", "average"])
def test_blocks_and_tags_are_those_of_gdals_own_cog_driver(
    tmp_path: Path, resampling: Literal["mode", "average"]
) -> None:
    geobox, labels = GeoBox((1024, 1536), NORTH_UP, UTM), patches((1, 1024, 1536))
    options = {"colors": {1: "1F78B4"}} if resampling == "mode" else {"scale": 0.004, "offset": 0.0}
    (path,) = make(tmp_path, geobox, resampling=resampling, **options).pull(lambda window: labels[:, *window.slices])
    settings = {"mode": {"LEVEL": 6, "PREDICTOR": "NO"}, "average": {"LEVEL": 1, "PREDICTOR": "YES"}}[resampling]
    theirs = tmp_path / "gdal.tif"
    with rasterio.Env(GDAL_PAM_ENABLED=False):
        rasterio.shutil.copy(
            path, theirs, driver="COG", BLOCKSIZE=512, COMPRESS="DEFLATE", OVERVIEWS="FORCE_USE_EXISTING", **settings
        )
    contents = path.read_bytes(), theirs.read_bytes()
    found, expected = (read_tags(content) for content in contents)
    assert found.keys() == expected.keys()
    places = {324, 325}
    different = {key for key in found if key not in places and bytes(found[key].data) != bytes(expected[key].data)}
    assert not {key for key in different if found[key].numbers.tolist() != expected[key].numbers.tolist()}
    blocks = [
        [content[at : at + size] for at, size in zip(*(tags[key].numbers.tolist() for key in (324, 325)), strict=True)]
        for content, tags in zip(contents, (found, expected), strict=True)
    ]
    assert blocks[0] == blocks[1]


def test_a_long_file_is_a_bigtiff_and_the_same_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    geobox, labels = GeoBox((1300, 700), NORTH_UP, UTM), patches((1, 1300, 700))
    (path,) = make(tmp_path, geobox, colors={0: "0000FF"}).pull(lambda window: labels[:, *window.slices])
    classic = levels(path)
    monkeypatch.setattr(cog, "_LONGEST_CLASSIC", 100_000)
    (path,) = make(tmp_path, geobox, colors={0: "0000FF"}).pull(lambda window: labels[:, *window.slices])
    assert path.read_bytes()[:4] == b"II\x2b\0"
    assert cog_validate(path, strict=True) == (True, [], [])
    for before, after in zip(classic, levels(path), strict=True):
        np.testing.assert_array_equal(before, after)


def test_what_cannot_be_read_ends_the_file(tmp_path: Path) -> None:
    def read(window: Window) -> Pixels:
        if window.col_off:
            raise SinkError("a part is gone")
        return np.zeros((1, *window.shape), np.uint8)

    (tmp_path / "out.tif").write_bytes(b"older")
    with pytest.raises(SinkError, match="a part is gone"):
        make(tmp_path, GeoBox((600, 9000), NORTH_UP, UTM), threads=2).pull(read)
    assert_untouched(tmp_path)


def test_what_the_file_declares(tmp_path: Path) -> None:
    geobox = GeoBox((20, 30), NORTH_UP, UTM)
    sink = make(
        tmp_path,
        geobox,
        count=2,
        names=("water", "<b>&\x00 land"),
        resampling="average",
        scale=0.004,
        offset=0.5,
        tags={"b": "2 < 3", "a": "1"},
    )
    with rasterio.open(sink.close()[0]) as file:
        assert file.descriptions == ("water", "<b>&\ufffd land")
        assert (file.scales, file.offsets) == ((0.004,) * 2, (0.5,) * 2)
        assert file.tags() == {"AREA_OR_POINT": "Area", "a": "1", "b": "2 < 3"}
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert (file.read() == 255).all()


@pytest.mark.parametrize(("dtype", "nodata", "last"), [("uint8", 255, 7), ("uint16", 65535, 300)])
def test_colours(tmp_path: Path, dtype: str, nodata: int, last: int) -> None:
    sink = make(tmp_path, geobox_of(9, 9), dtype=dtype, nodata=nodata, colors={1: "1F78B4", last: "00ff80"})
    with rasterio.open(sink.close()[0]) as file:
        table = file.colormap(1)
        assert table[1] == (0x1F, 0x78, 0xB4, 255)
        assert table[last] == (0, 255, 128, 255)
        assert table[2][:3] == (0, 0, 0)
        assert table[nodata][3] == 0


def test_floats_keep_nan(tmp_path: Path) -> None:
    geobox = GeoBox((600, 600), NORTH_UP, UTM)
    sink = make(tmp_path, geobox, dtype="float32", nodata=float("nan"), resampling="average")
    values = np.random.default_rng(0).random((1, 100, 600), np.float32)
    sink.write(Window(row_off=0, col_off=0, height=100, width=600), values)
    with rasterio.open(sink.close()[0]) as file:
        np.testing.assert_array_equal(file.read()[:, :100], values)
        assert np.isnan(file.read()[:, 100:]).all()
        assert np.isnan(file.nodata)


def test_probabilities_are_no_picture(tmp_path: Path) -> None:
    names = ("red", "green", "blue", "alpha")
    sink = make(tmp_path, geobox_of(20, 20), count=4, names=names, resampling="average")
    with rasterio.open(sink.close()[0]) as file:
        assert not {"red", "green", "blue", "alpha"} & {band.name for band in file.colorinterp}


def test_odd_names_of_folders(tmp_path: Path) -> None:
    folder = tmp_path / "zip+file!a b%20:ü,'\"&<>"
    folder.mkdir()
    geobox, labels = GeoBox((700, 600), NORTH_UP, UTM), patches((1, 700, 600))
    sink = make(folder, geobox)
    sink.write(whole(geobox), labels)
    np.testing.assert_array_equal(levels(sink.close()[0])[0], labels)


def test_travels_as_its_arguments(tmp_path: Path) -> None:
    geobox, labels = GeoBox((30, 40), NORTH_UP, UTM), patches((1, 30, 40))
    sink = pickle.loads(pickle.dumps(make(tmp_path, geobox, colors={1: "FF0000"}, tags={"a": "b"})))
    sink.write(whole(geobox), labels)
    np.testing.assert_array_equal(levels(sink.close()[0])[0], labels)


@pytest.mark.parametrize(
    ("window", "array", "problem"),
    [
        (Window(row_off=0, col_off=0, height=5, width=5), np.zeros((1, 5, 4), np.uint8), "got uint8 (1, 5, 4)"),
        (Window(row_off=0, col_off=0, height=5, width=5), np.zeros((2, 5, 5), np.uint8), "need uint8 (1, 5, 5)"),
        (Window(row_off=0, col_off=0, height=5, width=5), np.zeros((1, 5, 5), np.uint16), "got uint16"),
        (Window(row_off=6, col_off=0, height=5, width=5), np.zeros((1, 5, 5), np.uint8), "lies outside"),
        (Window(row_off=-1, col_off=0, height=5, width=5), np.zeros((1, 5, 5), np.uint8), "lies outside"),
    ],
)
def test_refuses_what_does_not_fit(tmp_path: Path, window: Window, array: Pixels, problem: str) -> None:
    sink = make(tmp_path, geobox_of(10, 10))
    with pytest.raises(SinkError) as caught:
        sink.write(window, array)
    assert problem in str(caught.value)
    sink.discard()


def test_refuses_odd_orders(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="cannot write int64"):
        make(tmp_path, geobox_of(10, 10), dtype="int64")
    with pytest.raises(SinkError, match="1 band names for 2 bands"):
        make(tmp_path, geobox_of(10, 10), count=2)


def test_a_finished_sink_takes_nothing_more(tmp_path: Path) -> None:
    sink = make(tmp_path, geobox_of(10, 10))
    sink.write(Window(row_off=0, col_off=0, height=10, width=10), np.ones((1, 10, 10), np.uint8))
    (path,) = sink.close()
    for again in (
        sink.close,
        lambda: sink.write(Window(row_off=0, col_off=0, height=1, width=1), np.ones((1, 1, 1), "u1")),
    ):
        with pytest.raises(SinkError, match="finished or given up"):
            again()
    assert (levels(path)[0] == 1).all()


def test_giving_up_leaves_nothing(tmp_path: Path) -> None:
    sink = make(tmp_path, geobox_of(10, 10))
    sink.write(Window(row_off=0, col_off=0, height=1, width=1), np.ones((1, 1, 1), np.uint8))
    assert list((tmp_path / "work").iterdir())
    sink.discard()
    assert not list((tmp_path / "work").iterdir())
    assert not (tmp_path / "out.tif").exists()


def filled(directory: Path) -> CogSink:
    """A sink of 1.4 MB of noise over an older file, just before `close`."""
    (directory / "out.tif").write_bytes(b"older")
    geobox = geobox_of(1200, 1200)
    sink = make(directory, geobox, threads=2)
    sink.write(whole(geobox), np.random.default_rng(0).integers(0, 255, (1, 1200, 1200)).astype(np.uint8))
    return sink


def name_of(file: int) -> str:
    """The name of an open file."""
    return Path(f"/proc/self/fd/{file}").readlink().name


def assert_untouched(directory: Path) -> None:
    assert (directory / "out.tif").read_bytes() == b"older"
    assert not list((directory / "work").iterdir())


@pytest.mark.parametrize("suffix", [".blocks", ".tif"])
def test_a_full_disk_is_told_with_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    sink, pwrite = filled(tmp_path), os.pwrite

    def on_a_full_disk(file: int, data: bytes, at: int) -> int:
        if name_of(file).endswith(suffix) and at > 100_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(file, bytes(data[:50_000]), at)  # a disk may take less than it is given

    monkeypatch.setattr(os, "pwrite", on_a_full_disk)
    with pytest.raises(SinkError, match=r"no space left on .*work: out\.tif needs up to 6 MB") as caught:
        sink.close()
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert_untouched(tmp_path)


def test_a_spool_that_was_cut_short_gives_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink, copy_out = filled(tmp_path), CogSink._copy_out

    def after_an_accident(self: CogSink, spool: Any, target: Path) -> None:
        os.truncate(tmp_path / "work" / "out.unfinished.blocks", 1000)
        copy_out(self, spool, target)

    monkeypatch.setattr(CogSink, "_copy_out", after_an_accident)
    with pytest.raises(SinkError, match=r"out\.tif cannot be written: .* was cut short"):
        sink.close()
    assert_untouched(tmp_path)


def test_the_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink, synced, fsync = filled(tmp_path), [], os.fsync

    def note(file: int) -> None:
        name = Path(f"/proc/self/fd/{file}").readlink().name
        synced.append((name, (tmp_path / "out.tif").read_bytes() == b"older"))
        fsync(file)

    monkeypatch.setattr(os, "fsync", note)
    sink.close()
    assert synced == [("out.unfinished.tif", True), (tmp_path.name, False)]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    sink = filled(tmp_path)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(SinkError, match=r"out\.tif cannot be written"):
            sink.close()
    finally:
        tmp_path.chmod(0o700)
    assert_untouched(tmp_path)


def test_a_missing_folder(tmp_path: Path) -> None:
    sink = make(tmp_path, geobox_of(10, 10))
    (tmp_path / "work").rmdir()
    with pytest.raises(SinkError, match=r"out\.tif cannot be written"):
        sink.write(Window(row_off=0, col_off=0, height=1, width=1), np.ones((1, 1, 1), np.uint8))


_PEAK = """
import sys
from pathlib import Path
import numpy as np
from affine import Affine
from geoseg.sink import cog
from geoseg.sink.cog import CogSink
from geoseg.window import GeoBox, whole
width, folder = int(sys.argv[1]), Path(sys.argv[2])
geobox = GeoBox((2048, width), Affine(10, 0, 0, 0, -10, 0), "EPSG:32632")
patches = np.random.default_rng(0).integers(0, 3, (1, 128, 256)).astype(np.uint8).repeat(16, 1).repeat(16, 2)
sink = CogSink(folder / "out.tif", geobox=geobox, dtype="uint8", nodata=255, workdir=folder, threads=2)
sink.pull(lambda window: patches[:, : window.height, : window.width].copy())
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line[:5] == "VmHWM"))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_memory_does_not_grow_with_the_raster(tmp_path: Path) -> None:
    """A raster of 126 MB more may cost a few pieces more."""
    small, large = (
        int(subprocess.run([sys.executable, "-c", _PEAK, side, tmp_path], check=True, capture_output=True).stdout)
        for side in ("8192", "65536")
    )
    assert large - small < 16 * 1024
