"""Scenes that jobs may use by name: the items of the service's catalog."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from geoseg.errors import ConfigError, SourceError
from geoseg.source.document import read_document
from geoseg.source.items import ListedItem, list_items
from geoseg.source.location import parse_location
from geoseg.source.stac import parse_item

__all__ = ["CataloguedScene", "Scenes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CataloguedScene:
    """One item of the catalog."""

    id: str
    """The item's id."""
    href: str
    """Path or URL of the item: for the service, never for clients."""
    listed: ListedItem
    """For `geoseg.source.open_scene`."""
    bands: tuple[str, ...]
    """Names of its bands, sorted."""
    footprint: Mapping[str, Any]
    """GeoJSON geometry, in degrees."""
    bbox: tuple[float, float, float, float]
    """West, south, east, north in degrees."""
    datetime: datetime | None
    """Time of acquisition, if the item tells."""

    def feature(self) -> dict[str, Any]:
        """What clients see of it, as a GeoJSON feature."""
        when = self.datetime.isoformat().replace("+00:00", "Z") if self.datetime else None
        told = {"datetime": when, "bands": list(self.bands)}
        shape, box = dict(self.footprint), list(self.bbox)
        return {"type": "Feature", "id": self.id, "geometry": shape, "bbox": box, "properties": told}


class Scenes:
    """The scenes of a catalog, read when they are first asked for and again when ``catalog.json`` changes."""

    def __init__(self, catalog: Path | None) -> None:
        """Takes the catalog: its file, or the folder of its ``catalog.json``; None: no scenes."""
        self._file = catalog / "catalog.json" if catalog is not None and catalog.is_dir() else catalog
        self._lock = threading.Lock()
        self._read_at = 0
        self._scenes: dict[str, CataloguedScene] = {}

    def list(self) -> list[CataloguedScene]:
        """All of them, by id.

        Raises:
            SourceError: The catalog cannot be read.
            ConfigError: Two items have one id.
        """
        return list(self._current().values())

    def find(self, scene_id: str) -> CataloguedScene | None:
        """The scene of that id; None where there is none."""
        return self._current().get(scene_id)

    def _current(self) -> dict[str, CataloguedScene]:
        if self._file is None:
            return {}
        with self._lock:
            try:
                changed = self._file.stat().st_mtime_ns
            except OSError as error:
                raise SourceError(f"{self._file}: the catalog of scenes cannot be read ({error.strerror})") from error
            if changed != self._read_at:
                self._scenes, self._read_at = _read(self._file), changed
            return self._scenes


def _read(file: Path) -> dict[str, CataloguedScene]:
    scenes: dict[str, CataloguedScene] = {}
    for listed in list_items(str(file)):
        scene = _scene(listed)
        if scene.id in scenes:
            raise ConfigError(f"{file}: two items have the id {scene.id}; give each scene an id of its own")
        scenes[scene.id] = scene
    return dict(sorted(scenes.items()))


def _scene(listed: ListedItem) -> CataloguedScene:
    document = listed.document if listed.document is not None else read_document(listed.location)
    item = parse_item(document, listed.location)
    if document.get("geometry") is None or len(document.get("bbox") or ()) != 4:
        raise SourceError(f"{listed.location}: has no geometry with a bbox of four numbers; write both into the item")
    west, south, east, north = map(float, document["bbox"])
    return CataloguedScene(
        id=item.id,
        href=parse_location(listed.href or str(listed.location)).display,
        listed=ListedItem(location=listed.location, label=item.id, document=document, href=listed.href),
        bands=tuple(sorted({name for band in item.bands for name in band.names})),
        footprint=document["geometry"],
        bbox=(west, south, east, north),
        datetime=item.datetime,
    )
