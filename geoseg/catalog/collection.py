"""A static STAC catalog of many runs: what was mapped where, when and by which model, in files that anybody can read.

::

    catalog.json                 the root: links to collections
    items.parquet                every item with a place, as one table (stac-geoparquet)
    maps/collection.json         one collection for each kind of thing
    maps/S2A-cover/S2A-cover.json

Items are copies of those that runs leave beside their files; their hrefs lead to these files, their link ``canonical``
to the original. The JSON files are the truth, the table follows from them. Titles, descriptions, licences and whatever
else a person writes into the root or a collection stay; links and extents are written anew.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

from geoseg.catalog.table import table_bytes, table_of
from geoseg.catalog.tree import (
    GEOJSON,
    JSON,
    ROOT,
    TABLE,
    Document,
    collection_document,
    document_bytes,
    moved,
    root_document,
)
from geoseg.errors import ConfigError, SinkError
from geoseg.store import Place, Store, open_store
from geoseg.store.lock import Lease, holder_of, locked

__all__ = ["Entry", "Listing", "add_entries", "add_runs", "entries_of", "read_listing", "remove_items"]

PATIENCE = 60.0
"""Seconds that one waits for others who add to the same catalog."""
_AT_ONCE = 16
_STRUCTURE = frozenset({"self", "root", "parent", "collection", "canonical"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An item on its way into a catalog."""

    kind: str
    """The collection: one of `geoseg.catalog.tree.KINDS`."""
    item: Mapping[str, Any]
    """As JSON values."""
    home: Place
    """Folder, or URL of a prefix, that its relative hrefs count from."""
    file: str = ""
    """Name of the file in `home` that it was read from; empty: it was made for the catalog."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a catalog lists."""

    root: Mapping[str, Any]
    """The document of the root."""
    collections: Mapping[str, Mapping[str, Any]]
    """Documents by the collections' ids."""
    items: dict[tuple[str, str], Document]
    """Documents by collection and folder."""


def add_runs(catalog: Place, runs: Iterable[Place]) -> list[Place]:
    """Puts finished runs into a catalog and returns where their items stand in it, in order; again changes nothing.

    Args:
        catalog: Folder or ``s3://BUCKET/PREFIX``; made if its parent exists.
        runs: Directories of runs, of model packages, or of the many runs that one call left with its ``catalog.json``.

    Raises:
        ConfigError: One is none of these, or `catalog` holds something else.
        SinkError: The catalog cannot be written, or others are at work on it for long.
    """
    return add_entries(catalog, [entry for run in runs for entry in entries_of(run)])


def entries_of(place: Place) -> list[Entry]:
    """The items of a run, of several runs in one folder, or of a model package.

    Raises:
        ConfigError: It is none of these.
    """
    store = open_store(place)
    names = store.entries()
    if {"item.json", "run.json"} <= names.keys():
        item = _item(store, "item.json")
        kind = "changes" if "change" in item["assets"] else "maps"
        return [Entry(kind=kind, item=item, home=store.href(), file="item.json")]
    if "model.json" in names:
        return [Entry(kind="models", item=_item(store, "model.json"), home=store.href(), file="model.json")]
    links = _read(store, ROOT)["links"] if ROOT in names else []
    hrefs = [str(link.get("href")) for link in links if link.get("rel") == "item"]
    if hrefs:
        folders = [href.removeprefix("./").removesuffix("/item.json") for href in hrefs]
        return [entry for folder in folders for entry in entries_of(store.below(folder).href())]
    raise ConfigError(
        f"{store}: holds no finished run (item.json and run.json) and no model package (model.json); "
        "name the directory that --out named"
    )


def add_entries(catalog: Place, entries: Sequence[Entry]) -> list[Place]:
    """Puts items into a catalog, in place of those from the same files, and returns where they stand in it.

    An item made for the catalog takes the place of that of its name; of others with one id, the second's ends in -2.

    Raises:
        ConfigError: The catalog is in a bucket and a file is not, or `catalog` holds something else.
        SinkError: The catalog cannot be written, or others are at work on it for long.
    """
    table_of([])  # before anything is written
    store = open_store(catalog)
    with _alone(store) as lease:
        listing = read_listing(store)
        places, fresh = [], []
        for entry in entries:
            key, item = _placed(entry, store, listing)
            if listing.items.get(key) != item:
                listing.items[key] = item
                fresh.append(key)
            places.append(store.below(key[0]).below(key[1]).href(f"{key[1]}.json"))
        _write(store, listing, fresh, lease)
    return places


def remove_items(catalog: Place, names: Sequence[str]) -> list[Place]:
    """Takes items out of a catalog by their ids and returns where they stood; the runs' own files stay.

    Raises:
        ConfigError: There is none of an id.
        SinkError: The catalog cannot be written, or others are at work on it for long.
    """
    store = open_store(catalog)
    with _alone(store) as lease:
        listing = read_listing(store)
        known = {item["id"] for item in listing.items.values()}
        if unknown := sorted(set(names) - known):
            raise ConfigError(f"{store}: lists no {', '.join(unknown)}; geoseg catalog search shows what there is")
        gone = [key for key, item in listing.items.items() if item["id"] in names]
        for key in gone:
            del listing.items[key]
        _write(store, listing, (), lease)
        for kind, name in gone:
            empty = all(each != kind for each, _ in listing.items)
            (store.below(kind) if empty else store.below(kind).below(name)).clear()
    return [store.below(kind).below(name).href(f"{name}.json") for kind, name in gone]


@contextmanager
def _alone(store: Store) -> Iterator[Lease]:
    """Holds the catalog's lock within the block; waits for others who do."""
    with ExitStack() as stack:
        stack.enter_context(store.made())
        since, unseen = time.monotonic(), 0
        while True:
            try:
                lease = stack.enter_context(locked(store))
                break
            except SinkError as error:
                unseen = 0 if holder_of(store) is not None else unseen + 1
                if unseen > 5:  # one that cannot be written is held by nobody
                    raise
                if time.monotonic() - since > PATIENCE:
                    raise SinkError(f"{store}: others are at work on this catalog; try again later") from error
                time.sleep(0.1)
        yield lease


def read_listing(store: Store) -> Listing:
    """What the catalog in `store` lists; nothing where there is none yet.

    Raises:
        ConfigError: Something else stands there, or a document is damaged.
    """
    if ROOT not in store.entries():
        return Listing(root={}, collections={}, items={})
    root = _read(store, ROOT)
    kinds = [_folder(store, link["href"], "collection.json") for link in root["links"] if link.get("rel") == "child"]
    if any(link.get("rel") == "item" for link in root["links"]):
        raise ConfigError(f"{store}: holds the catalog of one call of geoseg; choose another --catalog")
    collections = {kind: _read(store.below(kind), "collection.json") for kind in kinds}
    keys = []
    for kind, document in collections.items():
        hrefs = [link["href"] for link in document["links"] if link.get("rel") == "item"]
        keys += [(kind, _folder(store.below(kind), href, None)) for href in hrefs]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = pool.map(lambda key: _read(store.below(key[0]).below(key[1]), f"{key[1]}.json"), keys)
        return Listing(root=root, collections=collections, items=dict(zip(keys, found, strict=True)))


def _folder(store: Store, href: str, file: str | None) -> str:
    """The folder of a link ``./FOLDER/FILE``."""
    words = href.removeprefix("./").split("/")
    if len(words) != 2 or words[1] != (file or f"{words[0]}.json") or ".." in words:
        raise ConfigError(f"{store}: is no catalog of geoseg's making (it links to {href}); choose another --catalog")
    return words[0]


def _read(store: Store, name: str) -> Document:
    try:
        with store.open(name) as file:
            document = json.load(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{store.href(name)}: cannot be read ({error}); write it anew") from error
    if not isinstance(document, dict) or not isinstance(document.get("links"), list):
        raise ConfigError(f"{store.href(name)}: is no STAC document (no list of links)")
    return document


def _item(store: Store, name: str) -> Document:
    item = _read(store, name)
    if not (isinstance(item.get("assets"), dict) and isinstance(item.get("properties"), dict) and item.get("id")):
        raise ConfigError(f"{store.href(name)}: is no STAC item (no id, properties or assets)")
    return item


def _placed(entry: Entry, store: Store, listing: Listing) -> tuple[tuple[str, str], Document]:
    """Collection and folder of an entry, and its item as it reads from there."""
    plain = re.sub(r"[^\w.-]+", "_", str(entry.item["id"])).lstrip(".") or "item"
    for number in count(1):
        ending = "" if number == 1 else f"-{number}"
        name = plain + ending
        folder = store.below(entry.kind).below(name)
        canonical = moved(entry.file, entry.home, folder.href()) if entry.file else ""
        there = listing.items.get((entry.kind, name))
        if there is None or not canonical or _canonical(there) == canonical:
            break

    def seen(linked: Mapping[str, Any]) -> Document:
        return {**linked, "href": moved(linked["href"], entry.home, folder.href())}

    item = {**entry.item, "id": f"{entry.item['id']}{ending}", "collection": entry.kind}
    item["links"] = [
        {"rel": "root", "href": f"../../{ROOT}", "type": JSON},
        *({"rel": rel, "href": "../collection.json", "type": JSON} for rel in ("parent", "collection")),
        *([{"rel": "canonical", "href": canonical, "type": GEOJSON}] if canonical else []),
        *(seen(link) for link in entry.item.get("links", ()) if link.get("rel") not in _STRUCTURE),
    ]
    item["assets"] = {key: seen(asset) for key, asset in entry.item["assets"].items()}
    return (entry.kind, name), item


def _canonical(item: Mapping[str, Any]) -> str:
    return next((str(link["href"]) for link in item["links"] if link.get("rel") == "canonical"), "")


def _write(store: Store, listing: Listing, fresh: Iterable[tuple[str, str]], lease: Lease) -> None:
    """Writes the items `fresh`, then of all that links to items what has changed."""
    for kind, name in fresh:
        _put(store.below(kind).below(name), f"{name}.json", document_bytes(listing.items[kind, name]), lease)
    listed, kinds = [], sorted({kind for kind, _ in listing.items})
    for kind in kinds:
        items = {name: item for (each, name), item in sorted(listing.items.items()) if each == kind}
        document = collection_document(kind, items, listing.collections.get(kind, {}))
        _put(store.below(kind), "collection.json", document_bytes(document), lease)
        links = [{"rel": "self", "href": f"./{kind}/{name}/{name}.json", "type": GEOJSON} for name in items]
        listed += [{**item, "links": [link, *item["links"]]} for link, item in zip(links, items.values(), strict=True)]
    table = table_of(listed)
    if table is None:
        store.remove(TABLE)
    else:
        _put(store, TABLE, table_bytes(table), lease)
    _put(store, ROOT, document_bytes(root_document(listing.root, kinds, has_table=table is not None)), lease)


def _put(store: Store, name: str, content: bytes, lease: Lease) -> None:
    """Writes a file unless it is there with these bytes."""
    with suppress(FileNotFoundError), store.open(name) as file:
        if file.read() == content:
            return
    lease.demand()
    store.workspace()
    store.put(name, content)
