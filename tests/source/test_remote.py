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
from geoseg.source.answers import RETRY_AFTER_SECONDS, STALL_SECONDS
from geoseg.source.info import inspect
from geoseg.source.location import parse_location
from geoseg.source.open import open_raster
from geoseg.testing.server import Asked, Fault, RangeServer, range_server, range_server_process
from geoseg.window import Window, whole
from tests.source.rasters import source_of, whole_source, write

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
    """As a run does: the header, what identifies it, the pixels."""
    source = source_of(url)
    try:
        assert list(source.identity())
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


TOO_LONG = Fault(headers={"Content-Length": "9" * 8})
RECOVERABLE = {
    "500": every(3, Fault(status=500)),
    "502": every(3, Fault(status=502)),
    "503": every(3, Fault(status=503)),
    "503, Retry-After": every(4, Fault(status=503, headers={"Retry-After": "0"})),
    "429, Retry-After": every(4, Fault(status=429, headers={"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"})),
    "reset": every(5, Fault(reset=True)),
    "short": sometimes(3, Fault(short=True)),
    "short, again": sometimes(4, Fault(short=True)),
    "stalled once": lambda asked: Fault(stall=True) if asked.number == 5 else None,
    "slow": lambda _: Fault(rate=200_000),
    "late": every(4, Fault(delay=0.5)),
    "whole once": lambda asked: Fault(whole=True) if (asked.stop or 0) > FAR and asked.number < 9 else None,
    "too short a Content-Length": every(6, Fault(headers={"Content-Length": "1000"})),
    "too long a Content-Length": lambda asked: (
        Fault(headers={"Content-Length": "9" * 8}) if asked.number == 5 else None
    ),
}
"""What passes when one asks again."""


@pytest.mark.parametrize("name", ["/deflate.tif", "/raw.tif"])
@pytest.mark.parametrize("fault", RECOVERABLE)
def test_passing_trouble_changes_no_pixel_and_at_most_doubles_the_requests(
    server: RangeServer, name: str, fault: str, pixels: np.ndarray[Any, Any]
) -> None:
    url = f"{server.url}{name}?sig=SECRET"
    read_all(url)
    clean = len(server.asked)
    answer = RECOVERABLE[fault]
    server.asked.clear()
    server.fault = answer
    assert (read_all(url) == pixels).all()
    assert len(server.asked) <= 2 * clean


def far(fault: Fault) -> Answer:
    """Opens well, then fails."""
    return lambda asked: fault if (asked.stop or 0) > FAR else None


FATAL = {
    "401": (Fault(status=401), "answers 401"),
    "403": (Fault(status=403), "answers 403"),
    "404": (Fault(status=404), "answers 404"),
    "410": (Fault(status=410), "answers 410"),
    "416": (Fault(status=416), "status 416"),
    "500": (Fault(status=500), "answers 500"),
    "503": (Fault(status=503), "answers 503"),
    "redirect loop": (Fault(status=302, headers={"Location": "/deflate.tif"}), "circles .status 302"),
    "page": (Fault(page=True), "answers 200 with a page"),
    "no ranges": (Fault(whole=True), "no byte ranges .status 200"),
    "reset": (Fault(reset=True), "no connection"),
    "short": (Fault(short=True), "bytes came"),
    "stalled": (Fault(stall=True), "stalled for"),
    "trickle": (Fault(rate=600), "stalled for"),
    "other range": (Fault(shift=-1), "other bytes than were asked for .status 206"),
    "nonsense for a range": (Fault(headers={"Content-Range": "bytes *"}), "other bytes than were asked for"),
    "too short a Content-Length": (Fault(headers={"Content-Length": "100"}), "100 of .* bytes came"),
}
"""What does not pass, and what is said about it."""
_ALSO_LATER = set(FATAL) - {"nonsense for a range", "trickle", "other range"}
"""GDAL looks at no Content-Range; and what trickles is over before it has read enough of it to be patient with."""


@pytest.mark.parametrize(
    ("kind", "later"), [(kind, False) for kind in FATAL] + [(kind, True) for kind in sorted(_ALSO_LATER)]
)
def test_one_clear_error_in_bounded_time(server: RangeServer, kind: str, later: bool) -> None:
    fault, words = FATAL[kind]
    url = f"{server.url}/deflate.tif"
    if kind == "other range":  # to the first request there is nothing before the object's first byte
        server.fault = lambda asked: fault if asked.start else None
    else:
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


@pytest.mark.parametrize("asked_for", ["3", "3600"])
def test_retry_after_is_honoured_within_bounds(
    server: RangeServer, asked_for: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    busy = Fault(status=429, headers={"Retry-After": asked_for})
    server.fault = lambda asked: busy if asked.number < 2 else None
    remote.ask(parse_location(f"{server.url}/raw.tif"))
    assert slept == [min(float(asked_for), RETRY_AFTER_SECONDS)] * 2


def test_waits_grow_with_jitter() -> None:
    waits = [list(remote._waits()) for _ in range(50)]
    assert all(len(each) == remote.ATTEMPTS for each in waits)
    assert len({each[0] for each in waits}) > 10, "clients that fail together must not come back together"
    for each in waits:
        assert each[-1] == 0, "nobody waits after the last attempt"
        for number, wait in enumerate(each[:-1]):
            assert 0.7 <= wait / (remote.BACKOFF_SECONDS * 2**number) <= 1.3


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
    with range_server_process(tmp_path) as url:
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


def test_gdal_is_never_asked_to_list_and_every_wait_is_bounded() -> None:
    options = remote.gdal_options(parse_location("https://example.org/a.tif?sig=x"), remote.condition('etag "1"'))
    for name in ("CONNECTTIMEOUT", "TIMEOUT", "LOW_SPEED_TIME", "LOW_SPEED_LIMIT", "MAX_RETRY"):
        assert int(options[f"GDAL_HTTP_{name}"]) > 0
    assert options["GDAL_HTTP_HEADERS"] == '"If-Match: \\"1\\""'
    assert "404" not in options["GDAL_HTTP_RETRY_CODES"]
    assert remote.gdal_options(parse_location("/data/a.tif"), {}) == {}
