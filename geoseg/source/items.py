"""Many scenes in one file: the items of a STAC catalog, of a search's answer, of a stac-geoparquet table.

Only what is needed to open each item later is kept, so that one broken item spoils none of the others.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from geoseg.errors import SourceError
from geoseg.source.document import parse_document, read_bytes, read_document
from geoseg.source.location import Location, parse_location

__all__ = ["ListedItem", "list_items"]

_MAX_ITEMS = 100_000
_OF_AN_ITEM = frozenset({"type", "stac_version", "stac_extensions", "id", "geometry", "bbox", "links", "collection"})
"""Columns of stac-geoparquet that are members of the item; all but these and `assets` are its properties."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedItem:
    """One item of a list: where it stands, or the item itself."""

    location: Location
    """Where it stands; of an embedded item, what its relative hrefs count from."""
    label: str
    """What messages call it."""
    document: Mapping[str, Any] | None = field(default=None, hash=False, repr=False)
    """The item itself, where the list holds it."""
    href: str = ""
    """Where an embedded item says that it stands, or where the list stands; without a query."""


def list_items(place: str, *, unsigned: bool = False) -> tuple[ListedItem, ...]:
    """The items that a file lists, in its order, each once.

    Args:
        place: A STAC catalog or collection, an ItemCollection or FeatureCollection, one item, or a stac-geoparquet
            file: path or URL. Links to child catalogs and to further pages are followed.
        unsigned: Whether S3 is asked without credentials.

    Raises:
        SourceError: It cannot be read, is none of these, lists no items, or is one page of an answer whose other pages
            cannot be asked for.
    """
    listing = _Listing(unsigned=unsigned)
    start = parse_location(place)
    body = read_bytes(start, unsigned=unsigned)
    if body.startswith(b"PAR1"):
        found = tuple(_embedded(document, start) for document in _table(body, start))
    else:
        found = tuple(listing.walk(parse_document(body, start), start))
    if not found:
        raise SourceError(f"{start}: lists no STAC items; give a catalog, a saved search or a stac-geoparquet file")
    return found


class _Listing:
    """A walk through documents, none of which is read twice."""

    def __init__(self, *, unsigned: bool) -> None:
        self._unsigned = unsigned
        self._seen: set[str] = set()
        self._count = 0

    def walk(self, document: Any, place: Location) -> Iterator[ListedItem]:
        """The items of a document and of all that it links to."""
        waiting: list[tuple[Any, Location]] = [(document, place)]
        self._seen.add(place.href)
        while waiting:
            document, place = waiting.pop()
            here, below = self._look(_read(document, place, unsigned=self._unsigned), place)
            for item in here:
                self._count += 1
                if self._count > _MAX_ITEMS:
                    raise SourceError(f"{place}: more than {_MAX_ITEMS} items; narrow the search")
                yield item
            waiting += [(None, each) for each in reversed(below)]

    def _look(self, document: Mapping[str, Any], place: Location) -> tuple[list[ListedItem], list[Location]]:
        """The items of one document, and the documents that it links to."""
        kind = document.get("type")
        if kind == "Feature":
            return [ListedItem(location=place, label=str(place))], []
        if kind in {"Catalog", "Collection"} or (kind is None and "links" in document):
            items = [ListedItem(location=each, label=str(each)) for each in self._links(document, place, "item")]
            return items, self._links(document, place, "child")
        if kind != "FeatureCollection":
            raise SourceError(f"{place}: lists no STAC items (its type is {kind!r}); give a catalog or a saved search")
        features = [_embedded(each, place) for each in document.get("features") or [] if isinstance(each, Mapping)]
        return features, self._next_page(document, place)

    def _links(self, document: Mapping[str, Any], place: Location, relation: str) -> list[Location]:
        """Where the links of one kind lead that were not followed before."""
        targets = [_target(place, link) for link in _links(document) if link.get("rel") == relation]
        return [target for target in dict.fromkeys(targets) if self._is_new(target)]

    def _is_new(self, target: Location) -> bool:
        seen = target.href in self._seen
        self._seen.add(target.href)
        return not seen

    def _next_page(self, document: Mapping[str, Any], place: Location) -> list[Location]:
        pages = [link for link in _links(document) if link.get("rel") == "next"]
        if pages and (str(pages[0].get("method", "GET")).upper() != "GET" or pages[0].get("body")):
            raise SourceError(
                f"{place}: is one page of a longer answer, whose next page is no plain address; save all pages "
                "together, as pystac-client's item_collection does"
            )
        return self._links(document, place, "next")


def _read(document: Any, place: Location, *, unsigned: bool) -> Mapping[str, Any]:
    found = read_document(place, unsigned=unsigned) if document is None else document
    if not isinstance(found, Mapping):
        raise SourceError(f"{place}: lists no STAC items; give a catalog or a saved search")
    return found


def _links(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    links = document.get("links")
    return [link for link in links if isinstance(link, Mapping)] if isinstance(links, list) else []


def _target(place: Location, link: Mapping[str, Any]) -> Location:
    """Where a link of a document leads.

    Raises:
        SourceError: Nowhere, or from a server to a file of this machine.
    """
    target = place.relative(str(link.get("href") or ""))
    if target.kind == "path" != place.kind:
        raise SourceError(f"{place}: links to a file of this machine ({target}); download the catalog first")
    return target


def _embedded(document: Mapping[str, Any], place: Location) -> ListedItem:
    """An item that stands in a list at `place`."""
    own = next((str(link["href"]) for link in _links(document) if link.get("rel") == "self" and link.get("href")), None)
    try:
        stands = place if own is None else place.relative(own)
    except SourceError:
        stands = place
    # What is trusted with files of this machine is the list that a person gave, not where its items come from.
    remote_claim = place.kind == "path" != stands.kind
    location = stands if stands.kind == place.kind or (remote_claim and _has_relative_href(document)) else place
    label = str(document.get("id") or place)
    return ListedItem(location=location, label=label, document=document, href=stands.display)


def _has_relative_href(document: Mapping[str, Any]) -> bool:
    assets = document.get("assets")
    hrefs = [str(asset.get("href", "")) for asset in assets.values()] if isinstance(assets, Mapping) else []
    return any("://" not in href and not href.startswith("/") for href in hrefs)


def _table(body: bytes, place: Location) -> Iterator[Mapping[str, Any]]:
    """The rows of a stac-geoparquet file as items; geometries are left out, for nothing here asks for them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(io.BytesIO(body))
        if not {"id", "assets"} <= set(table.schema_arrow.names):
            raise SourceError(f"{place}: is no stac-geoparquet: it has no columns id and assets")
        for batch in table.iter_batches(batch_size=256):
            yield from map(_item_of, batch.to_pylist())
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        what = " ".join(str(error).split())[:200]
        raise SourceError(f"{place}: a Parquet file that cannot be read ({what}); write it again") from error


def _item_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """An item from its row: what is null was not there.

    >>> _item_of({"id": "a", "eo:cloud_cover": 3, "gsd": None, "assets": {"red": {"href": "r.tif"}, "nir": None}})
    {'type': 'Feature', 'stac_version': '1.0.0', 'geometry': None, 'links': [], 'id': 'a',
     'assets': {'red': {'href': 'r.tif'}}, 'properties': {'eo:cloud_cover': 3}}
    """
    told = {name: value for name, value in ((name, _there(value)) for name, value in row.items()) if value is not None}
    assets = told.pop("assets", {})
    told.pop("geometry", None)
    told.pop("bbox", None)
    item: dict[str, Any] = {"type": "Feature", "stac_version": "1.0.0", "geometry": None, "links": []}
    item |= {name: value for name, value in told.items() if name in _OF_AN_ITEM}
    item["assets"] = json.loads(assets) if isinstance(assets, str) else assets
    item["properties"] = {name: value for name, value in told.items() if name not in _OF_AN_ITEM}
    return item


def _there(value: Any) -> Any:
    """A value as JSON has it, without the nulls that a table needs for what an item does not have."""
    if isinstance(value, Mapping):
        kept = {name: _there(each) for name, each in value.items()}
        return {name: each for name, each in kept.items() if each is not None}
    if isinstance(value, list):
        return [_there(each) for each in value]
    if isinstance(value, bytes):
        return None
    return value.isoformat() if isinstance(value, datetime) else value
