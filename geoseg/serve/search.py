"""Which finished runs a client means: STAC's item search, page by page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import shapely
from pydantic import BaseModel, ConfigDict, Field, model_validator

from geoseg.serve.extents import BBOX, INTERVAL, Interval, parse_bbox, parse_interval
from geoseg.serve.problems import Problem
from geoseg.serve.runs import FinishedRun

__all__ = [
    "COLLECTIONS",
    "LARGEST_PAGE",
    "ItemsQuery",
    "Kind",
    "Page",
    "SearchBody",
    "SearchQuery",
    "collection_of",
    "find_runs",
]

LARGEST_PAGE = 1000
"""Items of a page; who asks for more gets so many."""
Kind = Literal["maps", "changes"]
"""Id of a collection."""
COLLECTIONS: Mapping[str, Kind] = {"segment": "maps", "change": "changes"}
"""Kind of run -> id of the collection that lists it."""

_Limit = Annotated[int, Field(ge=1, le=10**6)]
_Word = Annotated[str, Field(max_length=200)]
_Number = Annotated[float, Field(ge=-1e9, le=1e9)]
_Interval = Annotated[str, Field(max_length=100, json_schema_extra={"pattern": INTERVAL})]


class ItemsQuery(BaseModel):
    """Which items of one collection."""

    model_config = ConfigDict(extra="forbid")

    bbox: Annotated[str | None, Field(max_length=200, pattern=BBOX)] = None
    datetime: _Interval | None = None
    collections: _Word | None = None
    limit: _Limit = 10
    token: _Word | None = None

    def body(self) -> SearchBody:
        """The same, as it would be posted."""
        told = self.model_dump(exclude_none=True, include=set(ItemsQuery.model_fields))
        told |= {name: told[name].split(",") for name in ("bbox", "collections") if name in told}
        return SearchBody(**told)


class SearchQuery(ItemsQuery):
    """Which items of all collections."""

    ids: Annotated[str | None, Field(max_length=10_000)] = None
    intersects: Annotated[str | None, Field(max_length=10_000)] = None

    def body(self) -> SearchBody:
        """The same, as it would be posted.

        Raises:
            Problem: `intersects` is no JSON object.
        """
        told = ItemsQuery.body(self).model_dump()
        if self.ids is not None:
            told["ids"] = self.ids.split(",")
        if self.intersects is not None:
            try:
                told["intersects"] = json.loads(self.intersects)
            except ValueError:
                raise Problem(400, "Bad Request", "intersects: a GeoJSON geometry") from None
        return SearchBody(**told)


class SearchBody(BaseModel):
    """Which items of all collections, as it is posted."""

    model_config = ConfigDict(extra="forbid")

    bbox: Annotated[list[_Number] | None, Field(min_length=4, max_length=6)] = None
    datetime: _Interval | None = None
    ids: Annotated[list[_Word] | None, Field(max_length=1000)] = None
    collections: Annotated[list[_Word] | None, Field(max_length=100)] = None
    intersects: dict[str, Any] | None = None
    limit: _Limit = 10
    token: _Word | None = None

    @model_validator(mode="after")
    def _one_area(self) -> SearchBody:
        if self.bbox is not None and self.intersects is not None:
            raise ValueError("bbox and intersects exclude each other")
        return self

    def area(self) -> Any:
        """What items have to touch, in longitude and latitude; None: anything.

        Raises:
            Problem: It is no area.
        """
        if self.bbox is not None:
            return parse_bbox(self.bbox)
        if self.intersects is None:
            return None
        try:
            shape = shapely.from_geojson(json.dumps(self.intersects))
        except (shapely.errors.ShapelyError, ValueError):
            shape = None
        if shape is None or shape.is_empty or not shape.is_valid:
            raise Problem(400, "Bad Request", "intersects: a valid GeoJSON geometry")
        return shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some of the runs that were meant."""

    runs: Sequence[FinishedRun]
    """The latest first."""
    matched: int
    """On all pages together."""
    token: str | None
    """Of the next page; None: this was the last."""


def find_runs(runs: Iterable[FinishedRun], body: SearchBody) -> Page:
    """The runs that a search means, by time, the latest first, then by id.

    A page begins behind a run, whether or not that one is still there: runs that come and go meanwhile make nobody miss
    another.

    Raises:
        Problem: The search makes no sense.
    """
    area, asked = body.area(), parse_interval(body.datetime or "")
    meant = [
        (_place(run), run)
        for run in runs
        if (body.collections is None or collection_of(run) in body.collections)
        and (body.ids is None or run.id in body.ids)
        and (asked is None or _overlaps(_times(run), asked))
        and (area is None or _touches(run, area))
    ]
    meant.sort(key=lambda pair: pair[0], reverse=True)
    after = _parsed(body.token)
    rest = meant if after is None else [pair for pair in meant if pair[0] < after]
    page = rest[: min(body.limit, LARGEST_PAGE)]
    token = f"{page[-1][0][0].isoformat()},{page[-1][0][1]}" if len(page) < len(rest) else None
    return Page(runs=[run for _, run in page], matched=len(meant), token=token)


def collection_of(run: FinishedRun) -> Kind:
    """Id of the collection that a run belongs to."""
    return COLLECTIONS[run.kind]


def _parsed(token: str | None) -> tuple[datetime, str] | None:
    if token is None:
        return None
    moment, _, run_id = token.partition(",")
    try:
        parsed = datetime.fromisoformat(moment)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)), run_id
    except ValueError:
        raise Problem(400, "Bad Request", "token: take it from the link to the next page") from None


def _place(run: FinishedRun) -> tuple[datetime, str]:
    return _times(run)[0], run.id


def _times(run: FinishedRun) -> Interval:
    """First and last moment of what the item shows."""
    told = run.item["properties"]
    first, last = (told.get(f"{end}_datetime") or told["datetime"] for end in ("start", "end"))
    return datetime.fromisoformat(first), datetime.fromisoformat(last)


def _overlaps(one: Interval, other: Interval) -> bool:
    return one[0] <= other[1] and one[1] >= other[0]


def _touches(run: FinishedRun, area: Any) -> bool:
    shape = run.item.get("geometry")
    return shape is not None and bool(shapely.intersects(shapely.geometry.shape(shape), area))
