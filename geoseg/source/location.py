"""Where a user says that something is: a path, an http(s) URL or an s3 URL, and nothing else.

GDAL accepts far more than that (``/vsi...`` chains, XML in place of a name, connection strings of databases and
services). Every location, also every href of a STAC item, is parsed here first; GDAL's own paths are built here only.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from geoseg.errors import SourceError
from geoseg.source.credentials import query_behind, ticket_for

__all__ = ["Location", "parse_location"]

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+._-]*):")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a fifo",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """One parsed location.

    >>> parse_location("HTTPS://example.org/a%20b.tif?sig=secret").display
    'https://example.org/a%20b.tif'
    """

    kind: Literal["path", "http", "s3"]
    """What it is; ``http`` stands for https as well."""
    display: str
    """Absolute path, or URL without its query, which may hold a signature: for people, messages and journals."""
    ticket: str = ""
    """Stands for the URL's query, which this process must know (`geoseg.source.credentials`); empty: there is none."""

    @property
    def href(self) -> str:
        """Absolute path, or URL with its query: for requests only.

        Raises:
            SourceError: The query did not reach this process.
        """
        return f"{self.display}?{query_behind(self.ticket)}" if self.ticket else self.display

    @property
    def path(self) -> Path:
        """The path of a local location.

        Raises:
            SourceError: The location is a URL.
        """
        if self.kind != "path":
            raise SourceError(f"{self.display}: not a local path")
        return Path(self.display)

    @property
    def stem(self) -> str:
        """Name of the file without its folder and its last suffix."""
        return PurePosixPath(unquote(self.display)).stem

    @property
    def bucket_key(self) -> tuple[str, str]:
        """Bucket and key of an s3 location."""
        bucket, _, key = self.href.removeprefix("s3://").partition("/")
        return bucket, key

    @property
    def gdal(self) -> str:
        """The name by which GDAL opens it."""
        if self.kind == "path":
            return self.href
        return f"/vsicurl/{self.href}" if self.kind == "http" else f"/vsis3/{'/'.join(self.bucket_key)}"

    def beside(self, suffix: str) -> Location | None:
        """The sidecar with `suffix` after the whole name; None where a query hides what its name would be."""
        return None if self.ticket else replace(self, display=self.display + suffix)

    def relative(self, href: str) -> Location:
        """`href` as it reads from inside this document: absolute, or relative to this one's folder.

        Raises:
            SourceError: `href` is no location.
        """
        if _SCHEME.match(href):
            return parse_location(href)
        if self.kind == "path":
            return parse_location(str(self.path.parent / href))
        scheme, _, rest = self.display.partition(":")
        joined = urljoin(f"http:{rest}", href)  # urljoin resolves no ".." in schemes that it does not know
        return parse_location(f"{scheme}:{joined.removeprefix('http:')}")

    def __str__(self) -> str:
        return self.display


def parse_location(text: str | os.PathLike[str]) -> Location:
    """The location that a user means.

    Raises:
        SourceError: It is empty, holds control characters, is XML, a ``/vsi`` path or a connection string, or has a
            scheme other than http, https, s3 and file.

    >>> parse_location("s3://bucket/scenes/a.tif").gdal
    '/vsis3/bucket/scenes/a.tif'
    """
    href = os.fspath(text)
    shown = _CONTROL.sub("?", href)[:200]
    if not href.strip():
        raise SourceError("an input location is empty: give a path, an http(s) URL or an s3 URL")
    if _CONTROL.search(href):
        raise SourceError(f"{shown}: holds control characters; give a plain path or URL")
    if href.lstrip().startswith("<"):
        raise SourceError(f"{shown}: looks like XML, not like a location; give the path of a file or a URL")
    if isinstance(text, os.PathLike):
        return _local(href)
    scheme = _SCHEME.match(href)
    return _local(href) if scheme is None else _with_scheme(scheme.group(1).lower(), href, shown)


def _with_scheme(scheme: str, href: str, shown: str) -> Location:
    """A location whose text begins like a URL."""
    rest = href[len(scheme) + 1 :]
    if scheme in {"http", "https"} and rest.startswith("//"):
        return _http(f"{scheme}:{rest}", shown)
    if scheme == "s3" and rest.startswith("//"):
        location = _remote("s3", f"s3:{rest}")
        if not all(location.bucket_key):
            raise SourceError(f"{shown}: an s3 URL reads s3://BUCKET/KEY")
        return location
    if scheme == "file":
        parts = urlsplit(href)
        if parts.netloc not in {"", "localhost"}:
            raise SourceError(f"{shown}: a file URL names no host; write file:///path")
        return _local(unquote(parts.path))
    if Path(href).exists():
        return _local(href)
    raise SourceError(f"{shown}: neither a path nor an http(s) or s3 URL ({scheme}: is not read)")


def _http(href: str, shown: str) -> Location:
    parts = urlsplit(href)
    if not parts.hostname:
        raise SourceError(f"{shown.partition('?')[0]}: the URL names no host")
    if parts.username is not None or parts.password is not None:
        raise SourceError(
            f"{parts.scheme}://{parts.hostname}{parts.path}: user names and passwords are not read from URLs; "
            "set GDAL_HTTP_HEADERS='Authorization: ...'"
        )
    path = quote(parts.path, safe="/%:@!$&'()*+,;=~-._")
    return _remote("http", urlunsplit((parts.scheme, parts.netloc, path, parts.query, "")))


def _remote(kind: Literal["http", "s3"], url: str) -> Location:
    shown, _, query = url.partition("?")
    return Location(kind=kind, display=shown, ticket=ticket_for(query))


def _local(href: str) -> Location:
    path = os.path.abspath(os.path.expanduser(href))  # noqa: PTH100, PTH111  (links stay; "~x" may be a name)
    if href.startswith("/vsi") or path.startswith("/vsi"):
        raise SourceError(f"{href}: GDAL's virtual paths are not read; give a path, an http(s) URL or an s3 URL")
    return Location(kind="path", display=path)


def regular_file(location: Location) -> os.stat_result:
    """The status of a local regular file; nothing else can be read by window.

    Raises:
        SourceError: It is missing, may not be read, or is a directory, a fifo, a socket or a device.
    """
    try:
        status = location.path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(f"{location}: {reason}; check the path") from error
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no regular file")
        raise SourceError(f"{location}: is {kind}; give a raster file")
    return status
