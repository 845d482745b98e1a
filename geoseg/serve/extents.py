"""Where and when a client wants something: the parameters bbox and datetime of the OGC APIs and of STAC."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import shapely

from geoseg.serve.problems import Problem

__all__ = ["BBOX", "INTERVAL", "Interval", "parse_bbox", "parse_interval", "text_bbox"]

Interval = tuple[datetime, datetime]
"""First and last moment."""

_NUMBER = r"-?\d{1,9}(\.\d{1,17})?"
BBOX = rf"^{_NUMBER}(,{_NUMBER}){{3}}((,{_NUMBER}){{2}})?$"
"""What the parameter bbox looks like in a URL."""
_MOMENT = r"\d{4}-\d\d-\d\d([Tt ]\d\d:\d\d:\d\d([.,]\d{1,9})?([Zz]|[+-]\d\d:\d\d))?"
INTERVAL = rf"^(({_MOMENT})|((\.\.)?|{_MOMENT})/((\.\.)?|{_MOMENT}))$"
"""What the parameter datetime looks like."""
_OPEN = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def text_bbox(text: str) -> Any:
    """The area of a bbox in a URL.

    Raises:
        Problem: It is none.

    >>> text_bbox("170,-10,-170,10").bounds
    (-180.0, -10.0, 180.0, 10.0)
    """
    if not re.fullmatch(BBOX, text, re.ASCII):
        raise Problem(400, "Bad Request", "bbox: four numbers, west,south,east,north")
    return parse_bbox([float(word) for word in text.split(",")])


def parse_bbox(numbers: Sequence[float]) -> Any:
    """The area between four numbers in degrees (of six, heights are left out); two boxes across the antimeridian.

    Raises:
        Problem: They are no west, south, east, north.
    """
    if len(numbers) not in {4, 6} or not all(map(math.isfinite, numbers)):
        raise Problem(400, "Bad Request", "bbox: four numbers, west,south,east,north")
    west, south, east, north = (*numbers[:2], *numbers[-3:-1]) if len(numbers) == 6 else numbers
    if south > north or min(south, west + 90, east + 90) < -90 or max(north, west - 90, east - 90) > 90:
        raise Problem(400, "Bad Request", "bbox: south is at most north, and all lie within -180,-90,180,90")
    if west <= east:
        return _between(west, south, east, north)
    return shapely.union(_between(west, south, 180, north), _between(-180, south, east, north))


def _between(west: float, south: float, east: float, north: float) -> Any:
    """A box; a line or a point where it has no width or height, for such a box is not valid."""
    if west < east and south < north:
        return shapely.box(west, south, east, north)
    if west < east or south < north:
        return shapely.LineString([(west, south), (east, north)])
    return shapely.Point(west, south)


def parse_interval(text: str) -> Interval | None:
    """First and last moment of a time, or of an interval ``START/END`` with ``..`` for an open end; None of nothing.

    A day is all of it.

    Raises:
        Problem: It is neither.

    >>> [str(moment) for moment in parse_interval("2024-05-01T00:00:00Z/..")]
    ['2024-05-01 00:00:00+00:00', '9999-12-31 23:59:59.999999+00:00']
    """
    if not text:
        return None
    words = text.split("/") if "/" in text else [text, text]
    wrong = Problem(400, "Bad Request", "datetime: a time (RFC 3339), or an interval START/END")
    if not re.fullmatch(INTERVAL, text, re.ASCII) or not any(word.strip(".") for word in words):
        raise wrong
    try:
        first, last = (
            default if word in {"", ".."} else _moment(word, late=late)
            for word, default, late in zip(words, _OPEN, (False, True), strict=True)
        )
    except (ValueError, OverflowError):  # a 30th of February; what is before the year 1 in Greenwich
        raise wrong from None
    if first > last:
        raise wrong
    return first, last


def _moment(word: str, *, late: bool) -> datetime:
    if len(word) == len("2024-05-01"):
        word += "T23:59:59.999999Z" if late else "T00:00:00Z"
    return datetime.fromisoformat(word.upper().replace(",", ".")).astimezone(UTC)
