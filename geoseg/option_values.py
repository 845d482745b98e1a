"""How the values of options are read, as they come from a command line, the environment or a YAML file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field

__all__ = [
    "Auto",
    "Bands",
    "Box",
    "Count",
    "Crs",
    "Destination",
    "Finite",
    "Instant",
    "Locations",
    "Neighbours",
    "Paths",
    "Positive",
    "Statistics",
    "VectorFormat",
    "VectorFormats",
]

VectorFormat = Literal["geojson", "geojsonl", "parquet", "fgb", "gpkg", "pmtiles"]
_VECTOR_FORMATS: tuple[str, ...] = get_args(VectorFormat)


def _auto_or_count(value: object) -> object:
    if isinstance(value, int) and value > 0:
        return value
    text = str(value).strip().lower()
    if text == "auto":
        return text
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise ValueError("should be auto or a whole number above 0")


def _band_map(value: object) -> object:
    if value is None or isinstance(value, Mapping):
        pairs = list((value or {}).items())
    else:
        parts = re.split(r",(?=\s*[\w.-]+\s*=)", str(value))
        if not all("=" in part for part in parts):
            raise ValueError("should name bands by index or file, like red=3,nir=4 or red=B04.tif,nir=B08.tif")
        pairs = [tuple(part.split("=", 1)) for part in parts]
    bands: dict[str, str | int] = {}
    for key, item in pairs:
        name, place = str(key).strip().lower(), str(item).strip()
        if not name or not place or place == "0" or name in bands:
            raise ValueError("should name each band once, by an index from 1 up or by a file")
        bands[name] = int(place) if place.isdecimal() else place
    return bands


def _box(value: object) -> object:
    parts = value.split(",") if isinstance(value, str) else value
    try:
        west, south, east, north = (float(part) for part in parts)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise ValueError("should be four numbers W,S,E,N in degrees") from None
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south < north <= 90):
        raise ValueError("should be W,S,E,N in degrees, with S below N")
    return west, south, east, north


def _formats(value: object) -> object:
    parts = [part.strip().lower() for part in value.split(",")] if isinstance(value, str) else value or []
    if parts == ["none"]:
        return ()
    if not isinstance(parts, Iterable):
        return parts
    wrong = [str(part) for part in parts if part not in _VECTOR_FORMATS]
    if wrong:
        raise ValueError(f"should be none, or a list of {', '.join(_VECTOR_FORMATS)}")
    return tuple(dict.fromkeys(parts))


def _statistics(value: object) -> object:
    parts = value.split(";") if isinstance(value, str) else value or ()
    if not isinstance(parts, Iterable) or not all(isinstance(part, str) and part.rpartition(":")[0] for part in parts):
        raise ValueError("should be RASTER:mean,max, several with semicolons between")
    return tuple(part.strip() for part in parts)


def _neighbours(value: object) -> object:
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


def _instant(value: object) -> object:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError("should be a date or time like 2024-05-17 or 2024-05-17T10:20:31Z") from None
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return value


def _epsg(value: object) -> object:
    return f"EPSG:{value}" if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()) else value


def _inputs(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _destination(value: object) -> object:
    if isinstance(value, str) and not value.strip():
        raise ValueError("is empty, where a directory should be named (. is the current one)")
    return Path(value) if isinstance(value, str) and "://" not in value else value


Count = Annotated[int, Field(gt=0)]
Auto = Annotated[Literal["auto"] | int, BeforeValidator(_auto_or_count)]
Destination = Annotated[Path | str, BeforeValidator(_destination)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Crs = Annotated[str, BeforeValidator(_epsg)]
Instant = Annotated[datetime | None, BeforeValidator(_instant)]
Box = Annotated[tuple[float, float, float, float], BeforeValidator(_box)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Bands = Annotated[dict[str, int | str], BeforeValidator(_band_map)]
Statistics = Annotated[tuple[str, ...], BeforeValidator(_statistics)]
Neighbours = Annotated[Literal[4, 8], BeforeValidator(_neighbours)]
VectorFormats = Annotated[tuple[VectorFormat, ...], BeforeValidator(_formats)]
Paths = Annotated[tuple[Path, ...], BeforeValidator(_inputs)]
Locations = Annotated[tuple[str, ...], BeforeValidator(_inputs)]
