"""Rasters behind HTTP and S3: GDAL's one tuned environment, what identifies an object, and patience with servers.

GDAL alone neither notices that an object changed while it was read, nor gives up on a body that stalls, nor retries one
cut short. So the first bytes are fetched here, with plain requests whose status and headers can be told to a person;
GDAL then reads with the object's identity as a condition (``If-Match``), and every read may be repeated.
"""

from __future__ import annotations

import os
import random
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException, HTTPMessage
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import HTTPSHandler, OpenerDirector, ProxyHandler, Request, build_opener

from rasterio.errors import RasterioError

from geoseg.errors import SourceError
from geoseg.source.location import Location

__all__ = ["Answer", "RefusedError", "ask", "condition", "fetch", "gdal_options", "gdal_session", "patiently"]

T = TypeVar("T")

HEAD_BYTES = 1 << 15
"""Bytes of the first request: the header of most COGs."""
CONNECT_SECONDS = 8
STALL_SECONDS = 8
"""A transfer slower than STALL_BYTES per second for so long is given up."""
STALL_BYTES = 1000
TOTAL_SECONDS = 300
"""No single request takes longer, however steadily it trickles."""
DEADLINE_SECONDS = 25
"""After so long no further attempt begins: what stalls has failed within a minute, all told."""
ATTEMPTS = 4
BACKOFF_SECONDS = 0.4
"""Before the second attempt; twice as long before each further one."""
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})

# Regions of a file are cached by URL for the whole process; NON_CACHED drops them with the handle that read them, so
# that a handle opened again sees what the server has now.
_COMMON = {
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/",
    "CPL_VSIL_CURL_CHUNK_SIZE": str(1 << 15),
    "CPL_VSIL_CURL_CACHE_SIZE": str(1 << 26),
    "GDAL_INGESTED_BYTES_AT_OPEN": str(HEAD_BYTES),
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_HTTP_VERSION": "2TLS",
    "GDAL_HTTP_MAX_RETRY": "2",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_RETRY_CODES": ",".join(str(code) for code in sorted(TRANSIENT)),
    "GDAL_HTTP_CONNECTTIMEOUT": str(CONNECT_SECONDS),
    "GDAL_HTTP_TIMEOUT": str(TOTAL_SECONDS),
    "GDAL_HTTP_LOW_SPEED_TIME": str(STALL_SECONDS),
    "GDAL_HTTP_LOW_SPEED_LIMIT": str(STALL_BYTES),
}


class RefusedError(SourceError):
    """A server's clear no: asking again will not help."""


class _BusyError(Exception):
    """A server's answer that may be another one in a moment."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason, wait)
        self.reason, self.wait = reason, wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A server's answer to a range request."""

    body: bytes
    """What was asked for; less at the end of the object."""
    etag: str
    """The object's entity tag, quotes included; empty where the server gives none."""
    modified: str
    """``Last-Modified`` as the server writes it, or empty."""
    size: int
    """Bytes of the whole object."""

    @property
    def fingerprint(self) -> str:
        """What changes when the object does."""
        return f"etag {self.etag}" if self.etag else f"size {self.size}, modified {self.modified or 'unknown'}"


def ask(
    location: Location, offset: int = 0, length: int = HEAD_BYTES, *, unsigned: bool = False, attempts: int = ATTEMPTS
) -> Answer:
    """A range of the object's bytes, with what identifies it; passing trouble is waited out.

    Raises:
        RefusedError: The server says no (403, 404, a redirect loop, no ranges); the message holds the status.
        SourceError: It does not answer, or stays busy.
    """
    if location.kind == "s3":
        return _persist(location, lambda: _ask_s3(location, offset, length, unsigned=unsigned), attempts)
    return _persist(location, lambda: _ask_http(location, offset, length), attempts)


def fetch(location: Location, limit: int, *, unsigned: bool = False) -> bytes:
    """The whole of a small document (a STAC item), which a service may make up on the spot: no ranges, no tag.

    Raises:
        RefusedError: The server says no, or the document is larger than `limit` bytes.
        SourceError: It does not answer, or stays busy.
    """
    if location.kind == "s3":
        body = ask(location, 0, limit + 1, unsigned=unsigned).body
    else:
        body = _persist(location, lambda: _fetch_http(location, limit + 1), ATTEMPTS)
    if len(body) > limit:
        raise RefusedError(f"{location}: larger than {limit >> 20} MB; that is no STAC item")
    return body


def _fetch_http(location: Location, length: int) -> bytes:
    headers = {"User-Agent": "geoseg", "Accept": "application/geo+json, application/json", **_own_headers()}
    try:
        request = Request(location.href, headers=headers)  # noqa: S310  (parsed: http only)
        with _opener().open(request, timeout=STALL_SECONDS) as reply:
            body: bytes = reply.read(length)
            expected = min(int(reply.headers.get("Content-Length", len(body))), length)
    except HTTPError as error:
        error.close()
        raise _no(location, error.code, str(error.reason), error.headers.get("Retry-After")) from None
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise _BusyError(_why(error)) from None
    if len(body) < expected:
        raise _BusyError(f"{len(body)} of {expected} bytes came")
    return body


def _persist(location: Location, attempt: Callable[[], T], attempts: int) -> T:
    for number, wait in enumerate(_waits(attempts), 1):
        try:
            return attempt()
        except _BusyError as busy:
            reason, tried = busy.reason, number
            time.sleep(max(wait, busy.wait))
    raise SourceError(f"{location}: {reason} ({tried} attempts); try again later")


def _waits(attempts: int = ATTEMPTS) -> Iterator[float]:
    """Seconds to wait after each attempt: doubling, with jitter; none begins beyond the deadline."""
    end = time.monotonic() + DEADLINE_SECONDS
    for attempt in range(attempts):
        if attempt and time.monotonic() > end:
            return
        yield BACKOFF_SECONDS * 2**attempt * random.uniform(0.7, 1.3) if attempt < attempts - 1 else 0.0  # noqa: S311  (jitter)


def _ask_http(location: Location, offset: int, length: int) -> Answer:
    headers = {"Range": f"bytes={offset}-{offset + length - 1}", "Accept-Encoding": "identity", **_own_headers()}
    try:
        request = Request(location.href, headers={"User-Agent": "geoseg", **headers})  # noqa: S310  (parsed: http only)
        with _opener().open(request, timeout=STALL_SECONDS) as reply:
            return _answer(location, reply.status, reply.headers, reply.read(length), offset)
    except HTTPError as error:
        error.close()
        raise _no(location, error.code, str(error.reason), error.headers.get("Retry-After")) from None
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise _BusyError(_why(error)) from None


def _answer(location: Location, status: int, headers: HTTPMessage, body: bytes, offset: int) -> Answer:
    total = re.fullmatch(r"bytes \d+-\d+/(\d+)", headers.get("Content-Range", ""))
    kind = headers.get_content_type()
    if status != 206 or total is None:
        if kind == "text/html" or body.lstrip()[:1] == b"<":
            raise RefusedError(f"{location}: the server answers {status} with a page ({kind}), not with a raster")
        raise RefusedError(f"{location}: the server gives no byte ranges (status {status}); download the file first")
    expected = min(int(headers.get("Content-Length", len(body))), int(total[1]) - offset)
    if len(body) < expected:
        raise _BusyError(f"{len(body)} of {expected} bytes came")
    etag, modified = headers.get("ETag", ""), headers.get("Last-Modified", "")
    return Answer(body=body, etag=etag, modified=modified, size=int(total[1]))


def _no(location: Location, code: int, words: str, wait: str | None = None) -> Exception:
    """What to raise for a status: busy servers are asked again."""
    words = words.splitlines()[0] if words else ""
    if code in TRANSIENT:
        return _BusyError(f"the server answers {code} {words}", _seconds(wait))
    if code in {301, 302, 303, 307, 308}:
        return RefusedError(f"{location}: the server redirects in circles (status {code}); check the URL")
    if code == 416:
        return RefusedError(f"{location}: the object is empty, or shorter than its header says (status 416)")
    hint = {401: "give credentials", 403: "check permissions, or whether a signature ran out", 404: "check the URL"}
    return RefusedError(f"{location}: the server answers {code} {words}; {hint.get(code, 'check the URL')}")


def _seconds(wait: str | None) -> float:
    """What ``Retry-After`` asks for, 10 s at most; 0 where it names a date, or nothing."""
    return min(float(wait), 10.0) if wait is not None and wait.strip().isdigit() else 0.0


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, TimeoutError):
        return f"the server sent nothing for {STALL_SECONDS} s"
    return f"no connection ({str(reason).splitlines()[0] if str(reason) else type(reason).__name__})"


@lru_cache(maxsize=1)
def _opener() -> OpenerDirector:
    import certifi

    trust = ssl.create_default_context(cafile=os.environ.get("CURL_CA_BUNDLE") or certifi.where())
    return build_opener(ProxyHandler(), HTTPSHandler(context=trust))


def _own_headers() -> dict[str, str]:
    """Headers that the user set for GDAL (tokens, mostly); they count for our own requests too."""
    pairs = (pair.partition(":") for pair in re.split(r"[\r\n,]+", os.environ.get("GDAL_HTTP_HEADERS", "")))
    return {name.strip(): value.strip().strip('"') for name, colon, value in pairs if colon}


def _ask_s3(location: Location, offset: int, length: int, *, unsigned: bool) -> Answer:
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, key = location.bucket_key
    payer = {"RequestPayer": "requester"} if os.environ.get("AWS_REQUEST_PAYER") else {}
    try:
        client = _s3_client(unsigned=unsigned, endpoint=_s3_endpoint())
        reply = client.get_object(Bucket=bucket, Key=key, Range=f"bytes={offset}-{offset + length - 1}", **payer)
        body = reply["Body"].read()
    except ClientError as error:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        raise _no(location, status, str(error.response.get("Error", {}).get("Message", ""))) from None
    except BotoCoreError as error:
        text = str(error).splitlines()[0]
        if "credentials" in text.lower():
            raise RefusedError(f"{location}: {text}; set AWS credentials, or --aws-no-sign-request") from None
        raise _BusyError(text) from None
    size = int(reply["ContentRange"].rpartition("/")[2])
    return Answer(body=body, etag=reply.get("ETag", ""), modified=str(reply.get("LastModified", "")), size=size)


def _s3_endpoint() -> str | None:
    """The endpoint that the environment names, in GDAL's or in AWS's way, as a URL."""
    named = os.environ.get("AWS_S3_ENDPOINT")
    if not named:
        return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    if "://" in named:
        return named
    secure = os.environ.get("AWS_HTTPS", "YES").upper() not in {"NO", "FALSE", "OFF"}
    return f"{'https' if secure else 'http'}://{named}"


@lru_cache(maxsize=1)
def _aws_session() -> Any:
    import boto3

    return boto3.Session(region_name=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None)


@lru_cache(maxsize=4)
def _s3_client(*, unsigned: bool, endpoint: str | None) -> Any:
    from botocore import UNSIGNED
    from botocore.config import Config

    addressing = "path" if endpoint else "auto"
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=STALL_SECONDS,
        retries={"total_max_attempts": 2, "mode": "standard"},
        s3={"addressing_style": addressing},
        **({"signature_version": UNSIGNED} if unsigned else {}),
    )
    return _aws_session().client("s3", endpoint_url=endpoint, config=config)


def gdal_options(location: Location, conditions: Mapping[str, str]) -> dict[str, str]:
    """GDAL's configuration for reading an object, with the headers `conditions` on every request."""
    if location.kind == "path":
        return {}
    options = dict(_COMMON)
    if "?" in location.href:
        options["CPL_VSIL_CURL_USE_HEAD"] = "NO"  # a signature is good for GET only
    headers = {**_own_headers(), **conditions}
    # Quotes within a value are kept only where the whole pair is quoted and they are escaped.
    options["GDAL_HTTP_HEADERS"] = ",".join('"' + f"{k}: {v}".replace('"', '\\"') + '"' for k, v in headers.items())
    return options | (_s3_options() if location.kind == "s3" else {})


def condition(fingerprint: str) -> dict[str, str]:
    """The header that makes a server refuse another version; weak tags never match, by the letter of HTTP."""
    kind, _, value = fingerprint.partition(" ")
    if kind == "etag" and not value.startswith("W/"):
        return {"If-Match": value}
    return {}


def _s3_options() -> dict[str, str]:
    endpoint = _s3_endpoint()
    if endpoint is None:
        return {}
    scheme, _, host = endpoint.rstrip("/").partition("://")
    return {"AWS_S3_ENDPOINT": host, "AWS_HTTPS": "NO" if scheme == "http" else "YES", "AWS_VIRTUAL_HOSTING": "FALSE"}


def gdal_session(location: Location, *, unsigned: bool) -> Any:
    """Who GDAL is to S3: whom boto3 finds (profiles, single sign-on, roles); nobody elsewhere."""
    from rasterio.session import AWSSession, DummySession

    if location.kind != "s3":
        return DummySession()
    payer = bool(os.environ.get("AWS_REQUEST_PAYER"))
    return AWSSession(_aws_session(), aws_unsigned=unsigned, requester_pays=payer)


def patiently(read: Callable[[], T], recover: Callable[[], None]) -> T:
    """What `read` returns, tried again after passing trouble.

    `recover` is called after each failure; it drops what is cached, asks the server what is wrong, and raises where
    trying again cannot help.

    Raises:
        RasterioError: What the last attempt raised.
    """
    for wait in _waits():
        try:
            return read()
        except RasterioError as error:
            last = error
            time.sleep(wait)
            recover()
    raise last
