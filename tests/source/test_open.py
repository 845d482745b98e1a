"""One function opens rasters: with the driver that the bytes call for, after the header made sense."""

from __future__ import annotations

import ast
import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

from geoseg.errors import GeosegError, GridError, SourceError
from geoseg.source.header import ReadAt, read_header
from geoseg.source.info import inspect
from geoseg.source.open import examine, limit_cache, now, open_raster, read_window
from geoseg.window import Window
from tests.source.rasters import PLACE, ramp, source_of, write

GEOSEG = Path(__file__).resolve().parents[2] / "geoseg"

OPENERS = {
    "open",
    "MemoryFile",
    "WarpedVRT",
    "BufferedDatasetWriter",
    "DatasetReader",
    "open_rasterio",
    "open_dataset",
    "open_mfdataset",
    "read_file",
    "read_dataframe",
    "read_arrow",
    "open_arrow",
    "Open",
    "OpenEx",
    "stac_load",
}
LIBRARIES = {
    "rasterio",
    "osgeo",
    "gdal",
    "ogr",
    "fiona",
    "geopandas",
    "pyogrio",
    "rioxarray",
    "xarray",
    "odc",
    "gpd",
    "xr",
}
# Foreign bytes are read through source/open.py only; the others open what they have just written themselves.
ALLOWED = {
    "source/open.py": {"rasterio.open"},
    "source/resample.py": {"rasterio.io.MemoryFile", "rasterio.vrt.WarpedVRT"},
    "source/statistics.py": {"rasterio.vrt.WarpedVRT"},
    "sink/blocks.py": {"rasterio.io.MemoryFile"},
    "sink/chip.py": {"rasterio.open"},  # writes
    "sink/cog.py": {"rasterio.io.MemoryFile"},
    "sink/parts.py": {"rasterio.open"},
    "testing/synthetic.py": {"rasterio.open"},
}


def openings(source: str) -> set[str]:
    """Qualified names of everything in a module that could open a raster or a table."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in OPENERS:
            root = ast.unparse(node.value)
            if root.split(".")[0] in LIBRARIES:
                found.add(f"{root}.{node.attr}")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in LIBRARIES:
            found |= {f"{node.module}.{name.name}" for name in node.names if name.name in OPENERS}
    return found


def test_nothing_else_opens_rasters() -> None:
    for path in sorted(GEOSEG.rglob("*.py")):
        name = path.relative_to(GEOSEG).as_posix()
        assert openings(path.read_text()) <= ALLOWED.get(name, set()), name


def test_the_ban_sees_what_it_bans() -> None:
    assert openings("import rasterio\nrasterio.open('x')") == {"rasterio.open"}
    assert openings("from rasterio.vrt import WarpedVRT as W") == {"rasterio.vrt.WarpedVRT"}
    assert openings("import geopandas as gpd\ngpd.read_file('x')") == {"gpd.read_file"}
    assert openings("open('x')\nPath('x').open()\nself.open()") == set()


VRT = (
    '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1">'
    "<SimpleSource><SourceFilename>{}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (VRT.encode(), "XML"),
        (b"<GDAL_WMS><Service/></GDAL_WMS>", "XML"),
        (b"<MRF_META><Raster/></MRF_META>", "XML"),
        (b"\xef\xbb\xbf <html>", "HTML"),
        (b"<!DOCTYPE html><p>sign in", "HTML"),
        (b'{"type": "Feature"}', "JSON"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"PK\x03\x04", "zip"),
        (b"", "empty"),
        (b"II*", "no known raster"),
        (b"II*\0\x08\0\0\0", "cannot be opened"),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "codestream"),
    ],
)
def test_another_format_under_tif_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "scene.tif"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=words) as caught:
        inspect(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


def tiff(tags: dict[int, tuple[int, int]], *, order: str = "<", big: bool = False) -> bytes:
    """A TIFF of one directory: tag -> (type, value), each of count 1."""
    mark = b"II" if order == "<" else b"MM"
    if big:
        head = mark + struct.pack(f"{order}HHHQQ", 43, 8, 0, 16, len(tags))
        body = b"".join(struct.pack(f"{order}HHQQ", tag, 16, 1, value) for tag, (_, value) in sorted(tags.items()))
        return head + body + bytes(8)
    head = mark + struct.pack(f"{order}HIH", 42, 8, len(tags))
    codes = {3: "HH", 4: "I"}
    body = b"".join(
        struct.pack(f"{order}HHI", tag, kind, 1) + struct.pack(order + codes[kind], *([value, 0][: len(codes[kind])]))
        for tag, (kind, value) in sorted(tags.items())
    )
    return head + body + bytes(4)


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True), (">", True)])
@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({256: (4, 2**24), 257: (4, 1)}, "16777216"),
        ({256: (4, 2**23), 257: (4, 2**17)}, r"5e\+11"),
        ({256: (4, 2**31 - 1), 257: (4, 140)}, "2147483647"),
        ({256: (4, 20000), 257: (4, 20000), 258: (3, 16), 322: (4, 16384), 323: (4, 16384)}, "512 MB each"),
        ({256: (4, 20000), 257: (4, 40000), 258: (3, 8), 259: (3, 8), 278: (4, 40000)}, "763 MB each"),
        ({256: (4, 9), 257: (4, 9), 258: (3, 16), 277: (3, 65535), 322: (4, 128), 323: (4, 128)}, "2048 MB each"),
    ],
)
def test_headers_that_ask_for_the_impossible(
    tmp_path: Path, tags: dict[int, tuple[int, int]], words: str, order: str, big: bool
) -> None:
    path = tmp_path / "scene.tif"
    path.write_bytes(tiff(tags, order=order, big=big))
    with pytest.raises(SourceError, match=words):
        examine(path)


def test_a_directory_after_the_first_is_checked_too(tmp_path: Path) -> None:
    first = tiff({256: (4, 9), 257: (4, 9)})
    second = tiff({256: (4, 2**24), 257: (4, 9)})[8:]
    path = tmp_path / "scene.tif"
    path.write_bytes(first[:-4] + struct.pack("<I", len(first)) + second)
    with pytest.raises(SourceError, match="16777216"):
        examine(path)


def test_a_single_uncompressed_strip_may_be_large(tmp_path: Path) -> None:
    path = tmp_path / "strip.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=23_000, width=24_000, count=1, dtype="uint8", blockysize=23_000, tiled=False,
        sparse_ok=True, crs="EPSG:32633", transform=PLACE,
    ) as file:  # fmt: skip
        file.write(np.full((1, 1, 24_000), 7, "uint8"), window=((0, 1), (0, 24_000)))
    source = source_of(path)
    pixels, valid = source.read(Window(row_off=0, col_off=5, height=2, width=3))
    assert pixels.tolist() == [[[7, 7, 7], [0, 0, 0]]]
    assert valid.all()


@pytest.mark.parametrize("bad", ["vrt", "wrong"])
@pytest.mark.parametrize("suffix", [".msk", ".ovr"])
def test_sidecars_must_be_tiffs(tmp_path: Path, suffix: str, bad: str) -> None:
    path = write(tmp_path / "scene.tif", ramp())
    (tmp_path / f"scene.tif{suffix}").write_text(VRT if bad == "vrt" else "hello")
    with pytest.raises(SourceError, match=f"scene.tif{suffix}"):
        inspect(path)


@pytest.mark.parametrize("where", [".aux.xml", "inside"])
def test_metadata_that_names_another_file_is_refused(tmp_path: Path, where: str) -> None:
    path = write(tmp_path / "scene.tif", ramp())
    if where == "inside":
        with rasterio.open(path, "r+") as file:
            file.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(tmp_path / "evil.vrt"))
    else:
        Path(f"{path}.aux.xml").write_text(
            '<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">evil.vrt</MDI></Metadata></PAMDataset>'
        )
    with pytest.raises(SourceError, match="OVERVIEW_FILE"):
        inspect(path)


def test_identity_holds_sidecars_and_follows_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "scene.tif", ramp())
    bare = examine(path)
    assert list(now(bare)) == [str(path)]
    write(tmp_path / "scene.tif.msk", np.full((1, 50, 70), 255, "uint8"))
    known = examine(path)
    assert [name for name, _ in known.identity] == [str(path), f"{path}.msk"]
    assert now(known) == dict(known.identity) == now(bare)
    assert pickle.loads(pickle.dumps(known)) == known
    os.utime(path, ns=(1, 1))
    assert now(known) != dict(known.identity)
    with pytest.raises(SourceError, match="changed since"):
        open_raster(known)


def test_pixels_need_a_size_and_a_place(tmp_path: Path, shared: Path) -> None:
    derived = shared / "data" / "malformed" / "derived"
    for name in ("pixelscale_zero.tif", "pixelscale_nan.tif"):
        with pytest.raises(GridError, match="pixels measure"):
            inspect(derived / name)
    bare = write(tmp_path / "bare.tif", ramp(), crs=None)
    with pytest.raises(GridError, match="--assume-crs"):
        inspect(bare)
    assert inspect(bare, assume_crs="EPSG:32633").geobox.crs == "EPSG:32633"
    for name in ("EPSG:1", "nonsense", 'LOCAL_CS["x"]'):
        with pytest.raises(GridError, match="CRS"):
            inspect(bare, assume_crs=name)
    local = write(tmp_path / "local.tif", ramp(), crs='LOCAL_CS["mine",UNIT["metre",1]]')
    with pytest.raises(GridError, match="--assume-crs"):
        inspect(local)
    with pytest.raises(GridError, match="control points"):
        inspect(shared / "data" / "raster_fixtures" / "riotiler" / "cog_gcps_ovr.tif")


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="complex"):
        inspect(write(tmp_path / "a.tif", np.ones((1, 20, 20), "complex64")))


def test_what_a_header_declares(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", ramp(), nodata=3)
    with rasterio.open(path, "r+") as file:
        file.update_tags(TIFFTAG_DATETIME="2021:07:05 10:11:12")
        file.build_overviews([2, 4])
    info = inspect(path)
    assert (info.block, info.overviews, tuple(info.geobox.shape)) == ((16, 16), (2, 4), (50, 70))
    assert info.datetime is not None
    assert info.datetime.isoformat() == "2021-07-05T10:11:12+00:00"
    with rasterio.open(path, "r+") as file:
        file.update_tags(TIFFTAG_DATETIME="last summer", DATATAKE_1_DATATAKE_SENSING_START="2020-01-02T03:04:05+01:00")
    again = inspect(path).datetime
    assert again is not None
    assert again.isoformat() == "2020-01-02T02:04:05+00:00"
    assert [band.nodata for band in info.bands] == [3] * 4
    assert inspect(path).identity == now(info.file.examined)


def test_jpeg2000_is_read(tmp_path: Path) -> None:
    pixels = ramp(1, 64, 64)
    path = tmp_path / "a.jp2"
    with rasterio.open(
        path, "w", driver="JP2OpenJPEG", height=64, width=64, count=1, dtype="uint16", crs="EPSG:32633",
        transform=PLACE, QUALITY=100, REVERSIBLE="YES",
    ) as file:  # fmt: skip
        file.write(pixels)
    assert (source_of(path).read(Window(row_off=3, col_off=5, height=20, width=30))[0] == pixels[:, 3:23, 5:35]).all()
    damaged = bytearray(path.read_bytes())
    at = damaged.find(b"\xff\x4f\xff\x51")
    damaged[at + 8 : at + 12] = struct.pack(">I", 2**31)
    (tmp_path / "b.jp2").write_bytes(damaged)
    with pytest.raises(SourceError, match="2147483648"):
        examine(tmp_path / "b.jp2")


def test_read_window_of_our_own_files(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", ramp())
    assert (read_window(path) == ramp()).all()
    part = read_window(path, Window(row_off=1, col_off=2, height=3, width=4), bands=[2])
    assert (part == ramp()[1:2, 1:4, 2:6]).all()


def test_the_cache_of_blocks_is_bounded() -> None:
    from rasterio._env import get_gdal_config

    before = get_gdal_config("GDAL_CACHEMAX")
    limit_cache(64 << 20)
    assert get_gdal_config("GDAL_CACHEMAX") == 64 << 20
    limit_cache(before)


def part_of(content: bytes) -> ReadAt:
    return lambda offset, size: content[offset : offset + size]


def test_any_prefix_of_a_file_is_read_or_refused_cleanly(tmp_path: Path) -> None:
    content = write(tmp_path / "a.tif", ramp(1, 16, 16)).read_bytes()
    for length in range(0, len(content), 7):
        part = content[:length]
        if length < 4:
            with pytest.raises(SourceError, match=r"empty|no known raster"):
                read_header("a.tif", part_of(part))
        else:
            assert read_header("a.tif", part_of(part)).driver == "GTiff"


BATCH = """
import json, resource, sys, time
import numpy as np
import rasterio
from geoseg.errors import GeosegError
from geoseg.window import whole
from tests.source.rasters import source_of
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
import warnings; warnings.simplefilter("ignore")
for path in sys.argv[1:]:
    begun = time.monotonic()
    try:
        source = source_of(path, assume_crs="EPSG:32633")
        pixels, valid = source.read(whole(source.geobox))
        with rasterio.open(path, driver="GTiff") as file:
            # Of a block that breaks off without an error, GDAL leaves a pixel undefined.
            same = all((pixels[i] == file.read(int(b.name))).mean() > 0.999 for i, b in enumerate(source.bands))
        outcome = "same" if same else "other"
        source.close()
    except GeosegError as error:
        outcome = f"{type(error).__name__}: {error}"
    own = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))  # not that of its parent
    peak = int(own.split()[1]) >> 10
    print(json.dumps([path, outcome, time.monotonic() - begun, peak]), flush=True)
"""


def test_malformed_files_give_clean_errors_or_right_pixels(shared: Path) -> None:
    files = sorted(str(path) for path in (shared / "data" / "malformed").glob("*/*.tif"))
    command = [sys.executable, "-c", BATCH, *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=GEOSEG.parent, check=False)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [path for path, *_ in results] == files, done.stderr[-2000:]
    for path, outcome, seconds, peak in results:
        assert outcome != "other", path
        assert seconds < 10, path
        assert peak < 1000, path
        assert outcome == "same" or Path(path).name in outcome, outcome
        assert "\n" not in outcome, outcome
    outcomes = {Path(path).name: outcome for path, outcome, *_ in results}
    assert outcomes["_good_reference.tif"] == "same"
    for name in ("trunc_60pct.tif", "one_tile_corrupt.tif", "tile_offsets_past_eof.tif"):
        assert "block" in outcomes[name], outcomes[name]
    assert issubclass(SourceError, GeosegError)
