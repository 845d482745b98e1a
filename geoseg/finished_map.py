"""A map that is finished: its raster of class values, and what the run that made it says of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from geoseg.errors import SourceError
from geoseg.spec import ClassInfo
from geoseg.store import Place, Store, open_store

__all__ = ["FinishedMap", "find_map"]

_RASTERS = {".tif", ".tiff", ".jp2", ".j2k"}
_MAPS = {"labels": "confidence", "change": "change_probability"}
"""Rasters of class values that a run leaves -> what says how certain they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedMap:
    """A raster of class values; what no run tells is empty."""

    place: Place
    """The raster."""
    classes: tuple[ClassInfo, ...] = ()
    """Names and colours of its values."""
    confidence: Place | None = None
    """Raster of the probability of the chosen class; of two dates, of change."""
    is_change: bool = False
    """Whether the map is one of change: value 0 is then what did not change."""
    id: str = ""
    """Of the run's STAC item."""
    scene: str = ""
    """The scene's id."""
    datetime: datetime | None = None
    """When the scene was taken, if that is known."""
    model: str = ""
    """The model's name."""

    @property
    def names(self) -> dict[int, str]:
        """Class names by value."""
        return {each.value: each.name for each in self.classes}


def find_map(place: Place) -> FinishedMap:
    """The map that is meant by the directory of a run, by the raster in it, or by any other raster.

    Raises:
        SourceError: The directory holds no finished run.
    """
    store = _run_of(place)
    if store is None:
        return FinishedMap(place=place)
    try:
        with store.open("item.json") as file:
            item = json.loads(file.read())
        assets, properties = item["assets"], item.get("properties", {})
        raster = next(name for name in _MAPS if name in assets)
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise SourceError(
            f"{place}: holds no finished map (an item.json that names labels.tif or change.tif); "
            "name a raster, or the directory of a finished run"
        ) from error
    bands: list[dict[str, Any]] = assets[raster].get("bands") or [{}]
    return FinishedMap(
        place=store.href(f"{raster}.tif"),
        classes=tuple(_class(each) for each in bands[0].get("classification:classes", ())),
        confidence=store.href(f"{_MAPS[raster]}.tif") if _MAPS[raster] in assets else None,
        is_change=raster == "change",
        id=str(item.get("id", "")),
        scene=str(properties.get("geoseg:scene", "")),
        datetime=_time(properties),
        model=str(properties.get("geoseg:model", "")),
    )


def _class(entry: Mapping[str, Any]) -> ClassInfo:
    name = str(entry["name"])
    return ClassInfo(
        value=int(entry["value"]),
        name=name,
        title=str(entry.get("title") or name),
        description=str(entry.get("description") or ""),
        color=str(entry.get("color_hint") or "808080"),
    )


def _time(properties: Mapping[str, Any]) -> datetime | None:
    """The item's time, unless it is that of the run."""
    if properties.get("geoseg:datetime_source") == "run" or not properties.get("datetime"):
        return None
    return datetime.fromisoformat(str(properties["datetime"]))


def _run_of(place: Place) -> Store | None:
    """The run directory that is meant, or that its raster of class values lies in; None for any other raster."""
    text = str(place)
    scheme, remote, _ = text.partition("://")
    if remote:
        return open_store(text) if scheme == "s3" and PurePosixPath(text).suffix.lower() not in _RASTERS else None
    path = Path(place)
    if path.is_dir():
        return open_store(path)
    in_run = path.stem in _MAPS and path.suffix == ".tif" and (path.parent / "item.json").is_file()
    return open_store(path.parent) if in_run else None
