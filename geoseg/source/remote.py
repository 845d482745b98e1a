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
from functools import lru_cache
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import HTTPSHandler, OpenerDirector, ProxyHandler, Request, build_opener

from rasterio.errors import RasterioError

from geoseg.errors import SourceError
from geoseg.source.answers import (
    CONNECT_SECONDS,
    STALL_BYTES,
    STALL_SECONDS,
    TRANSIENT,
    Answer,
    BusyError,
    RefusedError,
    refusal,
    whole_size,
)
from geoseg.source.location import Location
from geoseg.source.s3 import ask_s3, gdal_session, s3_options

__all__ = ["Answer", "RefusedError", "ask", "condition", "fetch", "gdal_options", "gdal_session", "patiently"]

T = TypeVar("T")

HEAD_BYTES = 1 << 15
"""Bytes of the first request: the header of most COGs."""
TOTAL_SECONDS = 300
"""No single request takes longer, however steadily it trickles."""
DEADLINE_SECONDS = 25
"""After so long no further attempt begins: what stalls has failed within a minute, all told."""
ATTEMPTS = 4
BACKOFF_SECONDS = 0.4
"""Before the second attempt; twice as long before each further one."""

# Regions of a file are cached by URL for the whole process; NON_CACHED drops them with the handle that read them, so
# that a handle opened again sees what the server has now. Regions are small, for GDAL rounds to whole ones, and reads
# ahead: a request that goes on where the last one ended is as long as that, or twice if that was below 128 regions.
_COMMON = {
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/",
    "CPL_VSIL_CURL_CHUNK_SIZE": str(1 << 12),
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


def ask(
    location: Location, offset: int = 0, length: int = HEAD_BYTES, *, unsigned: bool = False, attempts: int = ATTEMPTS
) -> Answer:
    """A range of the object's bytes, with what identifies it; passing trouble is waited out.

    Raises:
        RefusedError: The server says no (403, 404, a redirect loop, no ranges); the message holds the status.
        SourceError: It does not answer, or stays busy.
    """
    if location.kind == "s3":
        return _persist(location, lambda: ask_s3(location, offset, length, unsigned=unsigned), attempts)
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
            body = _body(reply, length)
            expected = min(int(reply.headers.get("Content-Length", len(body))), length)
    except HTTPError as error:
        error.close()
        raise refusal(location, error.code, str(error.reason), error.headers.get("Retry-After")) from None
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise BusyError(_why(error)) from None
    if len(body) < expected:
        raise BusyError(f"{len(body)} of {expected} bytes came")
    return body


def _persist(location: Location, attempt: Callable[[], T], attempts: int) -> T:
    for number, wait in enumerate(_waits(attempts), 1):
        try:
            return attempt()
        except BusyError as busy:
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
            return _answer(location, reply.status, reply.headers, _body(reply, length), (offset, length))
    except HTTPError as error:
        error.close()
        raise refusal(location, error.code, str(error.reason), error.headers.get("Retry-After")) from None
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise BusyError(_why(error)) from None


def _body(reply: HTTPResponse, length: int) -> bytes:
    """At most `length` bytes; a body that trickles is given up like one that stalls.

    Raises:
        TimeoutError: It is slower than GDAL would stand, too.
    """
    body, seen, since = bytearray(), 0, time.monotonic()
    while len(body) < length and (piece := reply.read1(length - len(body))):
        body += piece
        spent = time.monotonic() - since
        if spent > STALL_SECONDS:
            if len(body) - seen < STALL_BYTES * spent:
                raise TimeoutError
            seen, since = len(body), time.monotonic()
    return bytes(body)


def _answer(location: Location, status: int, headers: HTTPMessage, body: bytes, wanted: tuple[int, int]) -> Answer:
    kind, content_range = headers.get_content_type(), headers.get("Content-Range", "")
    if status != 206 or not content_range:
        if kind == "text/html" or body.lstrip()[:1] == b"<":
            raise RefusedError(f"{location}: the server answers {status} with a page ({kind}), not with a raster")
        raise RefusedError(f"{location}: the server gives no byte ranges (status {status}); download the file first")
    size = whole_size(location, content_range, body, wanted)
    return Answer(body=body, etag=headers.get("ETag", ""), modified=headers.get("Last-Modified", ""), size=size)


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, TimeoutError):
        return f"the server stalled for {STALL_SECONDS} s"
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


def gdal_options(location: Location, conditions: Mapping[str, str]) -> dict[str, str]:
    """GDAL's configuration for reading an object, with the headers `conditions` on every request."""
    if location.kind == "path":
        return {}
    options = dict(_COMMON)
    if location.ticket:
        options["CPL_VSIL_CURL_USE_HEAD"] = "NO"  # a signature is good for GET only
    headers = {**_own_headers(), **conditions}
    # Quotes within a value are kept only where the whole pair is quoted and they are escaped.
    options["GDAL_HTTP_HEADERS"] = ",".join('"' + f"{k}: {v}".replace('"', '\\"') + '"' for k, v in headers.items())
    return options | (s3_options() if location.kind == "s3" else {})


def condition(fingerprint: str) -> dict[str, str]:
    """The header that makes a server refuse another version; weak tags never match, by the letter of HTTP."""
    kind, _, value = fingerprint.partition(" ")
    if kind == "etag" and not value.startswith("W/"):
        return {"If-Match": value}
    return {}


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
