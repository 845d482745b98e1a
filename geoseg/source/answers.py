"""What servers answer to a range request: the bytes and what identifies them, a clear no, or a plea for patience."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from geoseg.errors import SourceError
from geoseg.source.location import Location

__all__ = ["Answer", "BusyError", "RefusedError", "refusal", "whole_size"]

CONNECT_SECONDS = 8
STALL_SECONDS = 8
"""A transfer slower than STALL_BYTES per second for so long is given up."""
STALL_BYTES = 1000
RETRY_AFTER_SECONDS = 10.0
"""A server that asks for more patience is asked again after so long all the same."""
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


class RefusedError(SourceError):
    """A server's clear no: asking again will not help."""


class BusyError(Exception):
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


def whole_size(location: Location, content_range: str, body: bytes, wanted: tuple[int, int]) -> int:
    """Size of the object, if the server sent the bytes [offset, offset + length) of it that were wanted."""
    offset, length = wanted
    sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", content_range)
    if sent is None or int(sent[1]) != offset:
        raise RefusedError(
            f"{location}: the server sends other bytes than were asked for (status 206, {content_range!r} for a range "
            f"from {offset}); download the file first"
        )
    size = int(sent[2])
    expected = min(length, size - offset)
    if len(body) != expected:
        raise BusyError(f"{len(body)} of {expected} bytes came")
    return size


def refusal(
    location: Location, code: int, words: str, wait: str | None = None, *, about_keys: bool = False
) -> Exception:
    """What to raise for a status: busy servers are asked again."""
    words = words.splitlines()[0] if words else ""
    if code in TRANSIENT:
        return BusyError(f"the server answers {code} {words}", _seconds(wait))
    if code in {301, 302, 303, 307, 308}:
        return RefusedError(f"{location}: the server redirects in circles (status {code}); check the URL")
    if code == 416:
        return RefusedError(f"{location}: the object is empty, or shorter than its header says (status 416)")
    if about_keys:
        return RefusedError(f"{location}: the server answers {code} {words}; renew the AWS credentials")
    hint = {401: "give credentials", 403: "check permissions, or whether a signature ran out", 404: "check the URL"}
    return RefusedError(f"{location}: the server answers {code} {words}; {hint.get(code, 'check the URL')}")


def _seconds(wait: str | None) -> float:
    """What ``Retry-After`` asks for, in seconds or by a date, `RETRY_AFTER_SECONDS` at most; 0 where it makes no sense.

    >>> _seconds("3"), _seconds("Thu, 01 Jan 1970 00:00:00 GMT"), _seconds("3600"), _seconds("soon")
    (3.0, 0.0, 10.0, 0.0)
    """
    try:
        seconds = float(wait) if wait and wait.strip().isdigit() else _seconds_until(wait or "")
    except (ValueError, TypeError):  # no date, or one without a zone
        return 0.0
    return min(max(seconds, 0.0), RETRY_AFTER_SECONDS)


def _seconds_until(date: str) -> float:
    return (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds()
