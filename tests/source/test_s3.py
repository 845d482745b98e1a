"""Rasters in buckets: the bytes of a local file, one clear line where a service says no, one version or none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from geoseg.endpoint import s3_endpoint
from geoseg.errors import SourceError
from geoseg.source import remote
from geoseg.source.info import inspect
from geoseg.testing.server import Fault, range_server
from geoseg.window import Window, whole
from tests.source.buckets import SECRET, s3_service
from tests.source.rasters import source_of, whole_source, write


@pytest.fixture(scope="module")
def pixels() -> np.ndarray[Any, Any]:
    return np.random.default_rng(6).integers(1, 60_000, (2, 200, 220)).astype("uint16")


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray[Any, Any]) -> bytes:
    path = tmp_path_factory.mktemp("bucket") / "a.tif"
    return write(path, pixels, compress="deflate", blockxsize=64, blockysize=64).read_bytes()


@pytest.fixture(scope="module")
def bucket(content: bytes) -> Iterator[Any]:
    """`x/a b.tif` is private, `public.tif` is not."""
    with s3_service() as (client, _):
        client.create_bucket(Bucket="scenes")
        client.put_object(Bucket="scenes", Key="x/a b.tif", Body=content)
        client.put_object(Bucket="scenes", Key="public.tif", Body=content, ACL="public-read")
        yield client


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BACKOFF_SECONDS", 0.05)
    monkeypatch.setitem(remote._COMMON, "GDAL_HTTP_RETRY_DELAY", "0.05")


@pytest.mark.parametrize(("key", "unsigned"), [("x/a b.tif", False), ("public.tif", True), ("public.tif", False)])
def test_the_pixels_of_a_local_file(bucket: Any, key: str, unsigned: bool, pixels: np.ndarray[Any, Any]) -> None:
    info = inspect(f"s3://scenes/{key}", unsigned=unsigned)
    source = whole_source(info)
    got, valid = source.read(whole(source.geobox))
    source.close()
    assert (got == pixels).all()
    assert valid.all()
    assert list(source.identity()) == [f"s3://scenes/{key}"]
    assert source.identity()[f"s3://scenes/{key}"] == f"etag {bucket.head_object(Bucket='scenes', Key=key)['ETag']}"


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    ("url", "unsigned", "words"),
    [
        ("s3://scenes/x/a b.tif", True, "403"),
        ("s3://scenes/none.tif", False, "404"),
        ("s3://none/none.tif", False, "404"),
    ],
    ids=["denied", "no such key", "no such bucket"],
)
def test_a_clear_no(url: str, unsigned: bool, words: str) -> None:
    with pytest.raises(SourceError, match=words) as caught:
        inspect(url, unsigned=unsigned)
    assert str(caught.value).startswith(url)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("bucket")
def test_no_credentials_at_all_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(SourceError, match=r"s3://scenes/public\.tif: .*credentials.*--aws-no-sign-request"):
        inspect("s3://scenes/public.tif")


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    ("variables", "gone"),
    [
        ({"AWS_ENDPOINT_URL": "{}"}, ("AWS_S3_ENDPOINT", "AWS_HTTPS")),
        ({"AWS_ENDPOINT_URL_S3": "{}"}, ("AWS_S3_ENDPOINT", "AWS_HTTPS")),
        ({"AWS_S3_ENDPOINT": "{}"}, ("AWS_HTTPS",)),
        ({"AWS_REGION": "eu-central-1", "AWS_REQUEST_PAYER": "requester"}, ()),
    ],
    ids=["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "a URL for GDAL's variable", "region and payer"],
)
def test_the_environment_says_where_and_who(
    variables: dict[str, str], gone: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, pixels: np.ndarray[Any, Any]
) -> None:
    endpoint = s3_endpoint()
    for name in gone:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(endpoint))
    source = source_of("s3://scenes/x/a b.tif")
    assert (source.read(whole(source.geobox))[0] == pixels).all()
    source.close()


def test_an_object_that_changes_is_noticed(bucket: Any, content: bytes) -> None:
    """Before the first read, and between two: every request bears the version that is wanted."""
    for reads_before in (0, 1):
        bucket.put_object(Bucket="scenes", Key="turn.tif", Body=content)
        source = source_of("s3://scenes/turn.tif")
        before = source.identity()["s3://scenes/turn.tif"]
        for _ in range(reads_before):
            source.read(Window(row_off=0, col_off=0, height=10, width=10))
        bucket.put_object(Bucket="scenes", Key="turn.tif", Body=content + b"more")
        after = f"etag {bucket.head_object(Bucket='scenes', Key='turn.tif')['ETag']}"
        with pytest.raises(SourceError, match="changed since") as caught:
            source.read(whole(source.geobox))
        assert before in str(caught.value)
        assert after in str(caught.value)
        source.close()


@pytest.mark.usefixtures("bucket")
def test_credentials_never_reach_a_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="rasterio"), caplog.at_level(logging.DEBUG, logger="geoseg"):
        source = source_of("s3://scenes/x/a b.tif")
        source.read(whole(source.geobox))
        source.close()
    assert SECRET not in caplog.text


NO = "<?xml version='1.0'?><Error><Code>{}</Code><Message>{}</Message></Error>"


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("later", [False, True], ids=["at once", "while reading"])
@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, "ExpiredToken", "The provided token has expired."),
        (403, "InvalidAccessKeyId", "The key does not exist."),
        (403, "SignatureDoesNotMatch", "The signature does not match."),
    ],
)
def test_keys_that_ran_out_or_are_wrong_are_told_from_a_wrong_url(
    content: bytes, status: int, code: str, message: str, later: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = Fault(status=status, body=NO.format(code, message).encode())
    with range_server({"/scenes/a.tif": content}) as server:
        monkeypatch.setenv("AWS_S3_ENDPOINT", server.url)
        server.fault = lambda asked: refusal if asked.number >= 5 * later else None
        with pytest.raises(SourceError, match=f"answers {status} {message}; renew the AWS credentials"):
            _read_all("s3://scenes/a.tif")


def _read_all(url: str) -> None:
    source = source_of(url)
    source.read(whole(source.geobox))
