"""JSON documents at any location: STAC items, catalogs, answers of a search."""

from __future__ import annotations

import json
from typing import Any

from geoseg.errors import SourceError
from geoseg.source import remote
from geoseg.source.location import Location, regular_file

__all__ = ["parse_document", "read_bytes", "read_document"]

_MAX_BYTES = 64 * 2**20


def read_bytes(location: Location, *, unsigned: bool = False) -> bytes:
    """The whole of a small file.

    Raises:
        SourceError: It cannot be fetched, or is too large.
    """
    if location.kind != "path":
        return remote.fetch(location, _MAX_BYTES, unsigned=unsigned)
    if regular_file(location).st_size > _MAX_BYTES:
        raise SourceError(f"{location}: too large for STAC; at most {_MAX_BYTES >> 20} MB are read")
    return location.path.read_bytes()


def read_document(location: Location, *, unsigned: bool = False) -> Any:
    """The JSON value at `location`.

    Raises:
        SourceError: It cannot be fetched, is too large, or no JSON.
    """
    return parse_document(read_bytes(location, unsigned=unsigned), location)


def parse_document(text: bytes, location: Location) -> Any:
    """The JSON value that `text`, read from `location`, holds.

    Raises:
        SourceError: It is no JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{location}: is no JSON ({' '.join(str(error).split())[:100]}); fetch it again") from error
