"""The documents of a static STAC catalog: its root, its collections, and hrefs as they read from another folder."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import shapely

from geoseg.earth import lonlat_bbox
from geoseg.errors import ConfigError
from geoseg.store import Place

__all__ = [
    "GEOJSON",
    "JSON",
    "KINDS",
    "ROOT",
    "TABLE",
    "Document",
    "collection_document",
    "document_bytes",
    "moved",
    "reached",
    "root_document",
]

ROOT = "catalog.json"
"""File name of the root."""
TABLE = "items.parquet"
"""File name of the table of all items, beside the root."""
JSON, GEOJSON, PARQUET = "application/json", "application/geo+json", "application/vnd.apache.parquet"
"""Media types."""
_VERSION = "1.1.0"

KINDS: Mapping[str, tuple[str, str]] = {
    "maps": ("Maps", "Class maps, one item for each run on one scene or mosaic."),
    "changes": ("Changes", "What changed between two dates, one item for each run on a pair of scenes."),
    "scenes": ("Scenes", "Satellite scenes that maps were made from."),
    "labels": ("Labels", "What lies where, as it is known: to train and to check models."),
    "models": ("Models", "Model packages: what they need, what they give, how well they do."),
}
"""Id of a collection -> its title and description."""

Document: TypeAlias = dict[str, Any]


def document_bytes(document: Mapping[str, Any]) -> bytes:
    """A document as it is written."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def moved(href: str, home: Place, folder: Place) -> str:
    """`href`, which counts from `home`, as it reads from `folder`: relative wherever there is a way.

    Raises:
        ConfigError: It leads from a bucket to a file of this machine.

    >>> moved("./labels.tif", "/maps/monday", "/maps/catalog/maps/S2A")
    '../../../monday/labels.tif'
    >>> moved("labels.tif", "s3://here/run", "s3://there/catalog"), moved("a.tif", "s3://b/run", "s3://b/catalog/maps")
    ('s3://here/run/labels.tif', '../../run/a.tif')
    """
    if "://" in href or href.startswith("/"):
        return href
    (home_scheme, home_path), (scheme, path) = _split(home), _split(folder)
    if not home_scheme and scheme:
        raise ConfigError(f"{home}: a catalog in a bucket lists what lies in buckets; copy the run to one first")
    target = posixpath.normpath(posixpath.join(home_path, href))
    if home_scheme == scheme and (not scheme or path.split("/")[0] == target.split("/")[0]):
        return posixpath.relpath(target, path)
    return f"{home_scheme}://{target}"


def reached(href: str, folder: Place) -> Place:
    """Where `href`, read from a document in `folder`, leads.

    >>> str(reached("../map/labels.tif", "/catalog/maps")), reached("../../run/a.tif", "s3://bucket/catalog/maps")
    ('/catalog/map/labels.tif', 's3://bucket/run/a.tif')
    """
    if "://" in href:
        return href
    scheme, path = _split(folder)
    target = posixpath.normpath(posixpath.join(path, href))
    return Path(target) if not scheme or href.startswith("/") else f"{scheme}://{target}"


def _split(place: Place) -> tuple[str, str]:
    """Scheme and path of a place; ``..`` is taken by the letter, as whoever joins hrefs takes it."""
    scheme, found, path = str(place).partition("://")
    return (scheme, path.strip("/")) if found else ("", os.path.abspath(place))  # noqa: PTH100 - so it stays by the letter


def root_document(known: Mapping[str, Any], kinds: Iterable[str], *, has_table: bool) -> Document:
    """The root: what it said before (`known`), with links to the collections `kinds` and to the table."""
    links = [{"rel": "root", "href": f"./{ROOT}", "type": JSON}]
    links += [
        {"rel": "child", "href": f"./{kind}/collection.json", "type": JSON, "title": KINDS.get(kind, (kind,))[0]}
        for kind in kinds
    ]
    if has_table:
        title = "All items with a place, as stac-geoparquet"
        links.append({"rel": "alternate", "href": f"./{TABLE}", "type": PARQUET, "title": title})
    told = {
        "type": "Catalog",
        "stac_version": _VERSION,
        "id": "geoseg",
        "title": "Maps by geoseg",
        "description": "What geoseg mapped, from what and by which models.",
    }
    return {**told, **known, "links": links}


def collection_document(kind: str, items: Mapping[str, Mapping[str, Any]], known: Mapping[str, Any]) -> Document:
    """A collection: what it said before (`known`), with links to `items` (by folder) and their extent."""
    title, description = KINDS.get(kind, (kind, kind))
    links = [{"rel": rel, "href": f"../{ROOT}", "type": JSON} for rel in ("root", "parent")]
    links += [
        {"rel": "item", "href": f"./{name}/{name}.json", "type": GEOJSON, "title": item["id"]}
        for name, item in items.items()
    ]
    told = {
        "type": "Collection",
        "stac_version": _VERSION,
        "id": kind,
        "title": title,
        "description": description,
        "license": "other",
    }
    return {**told, **known, "extent": _extent(list(items.values())), "links": links}


def _extent(items: Sequence[Mapping[str, Any]]) -> Document:
    """Where and from when to when the items are; the whole Earth where none has a place."""
    shapes = [shapely.geometry.shape(item["geometry"]) for item in items if item.get("geometry")]
    parts = shapely.get_parts(shapes)
    bbox = lonlat_bbox(shapely.MultiPolygon(parts.tolist())) if len(parts) else [-180.0, -90.0, 180.0, 90.0]
    facts = [item["properties"] for item in items]
    named = [told.get(name) for told in facts for name in ("datetime", "start_datetime", "end_datetime")]
    times = sorted({str(time) for time in named if time}, key=datetime.fromisoformat)
    interval = [times[0], times[-1]] if times else [None, None]
    return {"spatial": {"bbox": [bbox]}, "temporal": {"interval": [interval]}}
