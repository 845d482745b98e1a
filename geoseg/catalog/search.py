"""Items of a catalog by place, time and whatever else is known of them."""

from __future__ import annotations

import json
import re
from calendar import monthrange
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from geoseg.catalog.sql import database
from geoseg.catalog.table import items_view, read_table, sql_table
from geoseg.catalog.tree import Document, reached
from geoseg.errors import ConfigError, SourceError
from geoseg.store import Place, Store, open_store

__all__ = ["interval_of", "search_catalog"]

_AT_ONCE = 16
_FORM = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ](.+))?)?)?")


def search_catalog(
    catalog: Place,
    *,
    area: Any = None,
    times: str | None = None,
    where: str | None = None,
    collections: Sequence[str] = (),
    limit: int | None = None,
) -> list[Document]:
    """The items that meet every condition, the newest first, as JSON values whose hrefs are absolute.

    Args:
        catalog: A catalog that `geoseg.catalog.collection` made; items without a place are not found.
        area: Polygon or multipolygon in longitude and latitude that they touch.
        times: A moment, day, month or year, or two of them as ``FROM/TO``; see `interval_of`.
        where: An SQL expression over the columns of ``items.parquet``, such as ``model = 'flood-s2'``.
        collections: Ids of collections; empty: all.
        limit: How many at most.

    Raises:
        ConfigError: A condition is wrong.
        SourceError: The catalog has no table, or an item is gone.
        MissingExtraError: DuckDB is not installed.
    """
    store = open_store(catalog)
    table = read_table(store)
    columns = table.schema.names
    since, until = interval_of(times) if times else (None, None)
    conditions = [f"({where}\n)"] if where else []
    if area is not None:
        conditions.append("ST_Intersects(geometry, $area)")
    if since is not None:
        conditions.append(f"{_moment('end_datetime', columns)} >= $since")
    if until is not None:
        conditions.append(f"{_moment('start_datetime', columns)} <= $until")
    if collections:
        conditions.append("list_contains($collections, collection)")
    select = f"SELECT href FROM items WHERE {' AND '.join(conditions) or 'true'} ORDER BY datetime DESC, collection, id"  # noqa: S608 - the database has no doors
    values = {"area": area and area.wkt, "since": since, "until": until, "collections": list(collections)}
    with database({"_items": sql_table(table)}, {"items": items_view(table.schema)}) as opened:
        found = opened.select(f"{select} LIMIT {limit}" if limit is not None else select, values)
        hrefs = found.read_all()["href"].to_pylist()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda href: _item_at(store, href), hrefs))


def _moment(name: str, columns: Sequence[str]) -> str:
    return f"coalesce({name}, datetime)" if name in columns else "datetime"


def _item_at(store: Store, href: str) -> Document:
    place = reached(href, store.href())
    folder, _, name = str(place).rpartition("/")
    try:
        with open_store(folder).open(name) as file:
            item = json.load(file)
    except (OSError, ValueError) as error:
        raise SourceError(f"{place}: cannot be read ({error}); geoseg catalog validate tells what else") from error
    return _absolute(item, place, folder)


def _absolute(item: Document, place: Place, folder: Place) -> Document:
    """The item with hrefs that hold wherever it is saved, and with where it stands."""

    def whole(linked: Mapping[str, Any]) -> Document:
        return {**linked, "href": str(reached(linked["href"], folder))}

    own = {"rel": "self", "href": str(place), "type": "application/geo+json"}
    links = [own, *(whole(link) for link in item["links"] if link["rel"] != "self")]
    return {**item, "links": links, "assets": {key: whole(asset) for key, asset in item["assets"].items()}}


def interval_of(text: str) -> tuple[datetime | None, datetime | None]:
    """First and last moment of ``2024``, ``2024-05``, ``2024-05-17``, a time of day, or of two as ``FROM/TO``; UTC.

    ``..`` or nothing leaves an end open.

    Raises:
        ConfigError: It is none of these.

    >>> [str(moment) for moment in interval_of("2024-02/2024-05-17T10:00:00Z")]
    ['2024-02-01 00:00:00+00:00', '2024-05-17 10:00:00+00:00']
    >>> interval_of("../2023")[1].isoformat()
    '2023-12-31T23:59:59.999999+00:00'
    """
    first, found, last = text.partition("/")
    since, until = (_span(part, text) for part in (first, last if found else first))
    if since[0] and until[1] and since[0] > until[1]:
        raise ConfigError(f"--datetime {text}: ends before it begins")
    return since[0], until[1]


def _span(part: str, text: str) -> tuple[datetime | None, datetime | None]:
    if part in {"", ".."} and "/" in text:
        return None, None
    found = _FORM.fullmatch(part)
    wrong = f"--datetime {text}: write 2024, 2024-05, 2024-05-17, 2024-05-17T10:20:31Z, or two of them as FROM/TO"
    if found is None:
        raise ConfigError(wrong)
    try:
        if found[4]:
            moment = datetime.fromisoformat(part)
            moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
            return moment, moment
        year, month, day = (int(word) if word else None for word in found.groups()[:3])
        last_month = month or 12
        first = datetime(year or 0, month or 1, day or 1, tzinfo=UTC)
        last = datetime(year or 0, last_month, day or monthrange(first.year, last_month)[1], tzinfo=UTC)
        return first, last.replace(hour=23, minute=59, second=59, microsecond=999_999)
    except ValueError as error:
        raise ConfigError(wrong) from error
