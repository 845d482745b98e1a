"""Rasters over HTTP and S3: the same pixels through passing trouble, one clear error where there is no way."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from geoseg.errors import SourceError
from geoseg.source import remote
from geoseg.source.info import inspect
from geoseg.source.location import parse_location
from geoseg.source.open import open_raster
from geoseg.window import Window, whole
from tests.servers import Asked, Fault, RangeServer, range_server, range_server_process
from tests.source.rasters import source_of, whole_source, write

STALL_SECONDS = remote.STALL_SECONDS
FAR = remote.HEAD_BYTES
"""What is fetched to open a file."""


@pytest.fixture(scope="module")
def pixels() -> np.ndarray[Any, Any]:
    return np.random.default_rng(5).integers(1, 60_000, (2, 200, 220)).astype("uint16")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray[Any, Any]) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("served")
    return {
        "/deflate.tif": write(folder / "d.tif", pixels, compress="deflate", blockxsize=64, blockysize=64).read_bytes(),
        "/raw.tif": write(folder / "r.tif", pixels, blockxsize=64, blockysize=64).read_bytes(),
    }


@pytest.fixture
def server(files: dict[str, bytes]) -> Iterator[RangeServer]:
    with range_server(dict(files)) as running:
        yield running


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same patience, in less time."""
    monkeypatch.setattr(remote, "STALL_SECONDS", 1)
    monkeypatch.setattr(remote, "BACKOFF_SECONDS", 0.05)
    monkeypatch.setitem(remote._COMMON, "GDAL_HTTP_LOW_SPEED_TIME", "1")
    monkeypatch.setitem(remote._COMMON, "GDAL_HTTP_RETRY_DELAY", "0.05")


def read_all(url: str) -> np.ndarray[Any, Any]:
    source = source_of(url)
    try:
        return source.read(whole(source.geobox))[0]
    finally:
        source.close()


@pytest.mark.parametrize("name", ["/deflate.tif", "/raw.tif"])
def test_the_same_pixels_in_few_requests(server: RangeServer, name: str, pixels: np.ndarray[Any, Any]) -> None:
    assert (read_all(server.url + name) == pixels).all()
    paths = {asked.path for asked in server.asked}
    assert paths == {name, f"{name}.msk", f"{name}.ovr", f"{name}.aux.xml"}
    assert sum(asked.path == name for asked in server.asked) <= 10
    conditions = {
        asked.headers.get("if-match") for asked in server.asked if asked.headers.get("user-agent") != "geoseg"
    }
    assert conditions == {server.etag(name)}


Answer = Callable[[Asked], Fault | None]


def every(n: int, fault: Fault) -> Answer:
    return lambda asked: fault if asked.number % n == 1 else None


def sometimes(seed: int, fault: Fault) -> Answer:
    dice = random.Random(seed)
    return lambda _: fault if dice.random() < 0.12 else None


@pytest.mark.parametrize("name", ["/deflate.tif", "/raw.tif"])
@pytest.mark.parametrize(
    "answer",
    [
        every(3, Fault(status=503)),
        every(4, Fault(status=429, headers={"Retry-After": "0"})),
        every(5, Fault(status=500)),
        every(5, Fault(reset=True)),
        sometimes(3, Fault(short=True)),
        sometimes(4, Fault(short=True)),
        lambda asked: Fault(stall=True) if asked.number == 5 else None,
        lambda asked: Fault(delay=0.5) if asked.number % 4 == 2 else None,
    ],
    ids=["503", "429", "500", "reset", "short", "short too", "stall once", "slow"],
)
def test_passing_trouble_changes_no_pixel(
    server: RangeServer, name: str, answer: Answer, pixels: np.ndarray[Any, Any]
) -> None:
    server.fault = answer
    assert (read_all(f"{server.url}{name}?sig=SECRET") == pixels).all()


def test_trouble_at_most_doubles_the_requests(server: RangeServer) -> None:
    url = f"{server.url}/deflate.tif?sig=1"
    read_all(url)
    clean = len(server.asked)
    server.fault = lambda asked: Fault(status=503) if asked.number % 3 == 1 else None
    read_all(url)
    assert len(server.asked) - clean <= 2 * clean


def far(fault: Fault) -> Answer:
    """Opens well, then fails."""
    return lambda asked: fault if (asked.stop or 0) > FAR else None


@pytest.mark.parametrize("later", [False, True], ids=["at once", "while reading"])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(status=403), "403"),
        (Fault(status=404), "404"),
        (Fault(status=410), "410"),
        (Fault(status=503), "503"),
        (Fault(status=302, headers={"Location": "/deflate.tif"}), "circles"),
        (Fault(page=True), "page"),
        (Fault(no_ranges=True), "ranges"),
        (Fault(reset=True), "no connection"),
        (Fault(short=True), "bytes came"),
        (Fault(stall=True), "sent nothing"),
    ],
    ids=["403", "404", "410", "503", "loop", "page", "no ranges", "reset", "short", "stall"],
)
def test_one_clear_error_in_bounded_time(server: RangeServer, fault: Fault, words: str, later: bool) -> None:
    url = f"{server.url}/deflate.tif"
    server.fault = far(fault) if later else lambda _: fault
    begun = time.monotonic()
    with pytest.raises(SourceError, match=words) as caught:
        read_all(f"{url}?sig=SECRET")
    # A hang is what is looked for: each wait is cut to a second here, and there are at most ten.
    assert time.monotonic() - begun < 30
    text = str(caught.value)
    assert text.startswith(url)
    assert "SECRET" not in text
    assert "\n" not in text


def test_waits_add_up_to_less_than_a_minute() -> None:
    """Attempts of a read, then one block, then two requests that ask why, each stalling to its end."""
    assert remote.DEADLINE_SECONDS + 4 * STALL_SECONDS + 1 < 60


@pytest.mark.parametrize("etags", [True, False])
@pytest.mark.parametrize("name", ["/deflate.tif", "/raw.tif"])
def test_an_object_that_changes_is_noticed(server: RangeServer, name: str, etags: bool) -> None:
    server.etags = etags
    source = source_of(server.url + name)
    before = source.identity()
    assert source.read(Window(row_off=0, col_off=0, height=20, width=20))[1].all()
    server.files[name] = server.files[name] + b"more"
    assert source.identity() != before
    with pytest.raises(SourceError, match="changed since"):
        source.read(whole(source.geobox))
    source.close()


def test_a_new_version_is_read_anew(server: RangeServer, files: dict[str, bytes], pixels: np.ndarray[Any, Any]) -> None:
    url = f"{server.url}/raw.tif"
    assert (read_all(url) == pixels).all()
    server.files["/raw.tif"] = files["/raw.tif"][:90_000] + bytes(9) + files["/raw.tif"][90_009:]
    assert not (read_all(url) == pixels).all()


def test_a_corrupt_block_is_no_network_trouble(server: RangeServer, pixels: np.ndarray[Any, Any]) -> None:
    content = bytearray(server.files["/deflate.tif"])
    with open_raster(f"{server.url}/deflate.tif") as dataset:
        offset = int(dataset.get_tag_item("BLOCK_OFFSET_2_1", "TIFF", bidx=1))
    content[offset : offset + 600] = b"x" * 600
    server.files["/deflate.tif"] = bytes(content)
    info = inspect(f"{server.url}/deflate.tif")
    with pytest.raises(SourceError, match=r"block 1, 2 .*--on-bad-block"):
        whole_source(info).read(whole(info.geobox))
    source = whole_source(info, "nodata")
    got, valid = source.read(whole(info.geobox))
    assert source.bad_blocks == 1
    assert (~valid).sum() == 64 * 64
    assert (got[:, valid] == pixels[:, valid]).all()
    server.fault = far(Fault(status=503))
    with pytest.raises(SourceError, match="503"):  # trouble is never taken for a bad block
        whole_source(info, "nodata").read(whole(info.geobox))


def test_a_mask_beside_is_found_and_belongs_to_the_identity(
    files: dict[str, bytes], tmp_path: Path, pixels: np.ndarray[Any, Any]
) -> None:
    mask = np.full((200, 220), 255, "uint8")
    mask[:50] = 0
    path = tmp_path / "raw.tif"
    path.write_bytes(files["/raw.tif"])
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="NO"), rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    served = {f"/{each.name}": each.read_bytes() for each in tmp_path.iterdir()}
    assert set(served) == {"/raw.tif", "/raw.tif.msk"}
    with range_server_process(served, tmp_path) as url:
        source = source_of(f"{url}/raw.tif")
        assert set(source.identity()) == {f"{url}/raw.tif", f"{url}/raw.tif.msk"}
        got, valid = source.read(whole(source.geobox))
        source.close()
    np.testing.assert_array_equal(valid, mask != 0)
    assert (got == pixels).all()


def test_own_headers_are_sent_and_weak_tags_are_no_condition(
    server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDAL_HTTP_HEADERS", "Authorization: Bearer abc,X-Mine: 1")
    monkeypatch.setattr(server, "etag", lambda _: 'W/"weak"')
    read_all(f"{server.url}/raw.tif?sig=1")
    assert {asked.headers.get("authorization") for asked in server.asked} == {"Bearer abc"}
    assert {asked.headers.get("x-mine") for asked in server.asked} == {"1"}
    assert {asked.headers.get("if-match") for asked in server.asked} == {None}


def test_nobody_listens() -> None:
    with pytest.raises(SourceError, match=r"http://127\.0\.0\.1:9/a\.tif: no connection"):
        inspect("http://127.0.0.1:9/a.tif?sig=SECRET")


@pytest.fixture(scope="module")
def bucket(files: dict[str, bytes]) -> Iterator[Any]:
    """A bucket on loopback; `a b.tif` is private, `public.tif` is not."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_S3_ENDPOINT": f"{host}:{port}",
            "AWS_HTTPS": "NO",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        remote._aws_session.cache_clear()
        remote._s3_client.cache_clear()
        client = remote._s3_client(unsigned=False, endpoint=f"http://{host}:{port}")
        client.create_bucket(Bucket="scenes")
        client.put_object(Bucket="scenes", Key="x/a b.tif", Body=files["/deflate.tif"])
        client.put_object(Bucket="scenes", Key="public.tif", Body=files["/raw.tif"], ACL="public-read")
        yield client
        remote._aws_session.cache_clear()
        remote._s3_client.cache_clear()
    running.stop()


@pytest.mark.parametrize(("key", "unsigned"), [("x/a b.tif", False), ("public.tif", True), ("public.tif", False)])
def test_s3(bucket: Any, key: str, unsigned: bool, pixels: np.ndarray[Any, Any]) -> None:
    info = inspect(f"s3://scenes/{key}", unsigned=unsigned)
    source = whole_source(info)
    got, valid = source.read(whole(source.geobox))
    source.close()
    assert (got == pixels).all()
    assert valid.all()
    assert list(source.identity()) == [f"s3://scenes/{key}"]
    assert source.identity()[f"s3://scenes/{key}"] == f"etag {bucket.head_object(Bucket='scenes', Key=key)['ETag']}"


@pytest.mark.usefixtures("bucket")
def test_s3_says_no() -> None:
    for url, unsigned, words in [
        ("s3://scenes/x/a b.tif", True, "403"),
        ("s3://scenes/none.tif", False, "404"),
        ("s3://none/none.tif", False, "404"),
    ]:
        with pytest.raises(SourceError, match=words) as caught:
            inspect(url, unsigned=unsigned)
        assert str(caught.value).startswith(url)


def test_s3_object_that_changes(bucket: Any, files: dict[str, bytes]) -> None:
    bucket.put_object(Bucket="scenes", Key="turn.tif", Body=files["/raw.tif"])
    source = source_of("s3://scenes/turn.tif")
    bucket.put_object(Bucket="scenes", Key="turn.tif", Body=files["/deflate.tif"])
    with pytest.raises(SourceError, match="changed since"):
        source.read(whole(source.geobox))
    source.close()


def test_gdal_is_never_asked_to_list_and_every_wait_is_bounded() -> None:
    options = remote.gdal_options(parse_location("https://example.org/a.tif?sig=x"), remote.condition('etag "1"'))
    for name in ("CONNECTTIMEOUT", "TIMEOUT", "LOW_SPEED_TIME", "LOW_SPEED_LIMIT", "MAX_RETRY"):
        assert int(options[f"GDAL_HTTP_{name}"]) > 0
    assert options["GDAL_HTTP_HEADERS"] == '"If-Match: \\"1\\""'
    assert "404" not in options["GDAL_HTTP_RETRY_CODES"]
    assert remote.gdal_options(parse_location("/data/a.tif"), {}) == {}
