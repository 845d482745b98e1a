"""Finds bands by name, wherever they are stored; never by their position.

Names are the common names of STAC's `eo` extension (``red``, ``nir``, ``swir16``) or the provider's own (``VV``). A
provider's numbers (``B04``) say nothing by themselves: B4 is red on one satellite and near infrared on another.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from geoseg.errors import BandError, SourceError
from geoseg.scene import Band, Scaling
from geoseg.source.info import BandInfo

__all__ = ["COMMON_NAMES", "Described", "declare_band", "find_bands", "name_bands", "platform_bands"]

# fmt: off
COMMON_NAMES = frozenset({
    "pan", "coastal", "blue", "green", "green05", "yellow", "red", "rededge", "rededge071", "rededge075", "rededge078",
    "nir", "nir08", "nir09", "cirrus", "swir16", "swir22", "lwir", "lwir11", "lwir12",
})
"""Common names of the STAC `eo` extension 1.1."""

_SENTINEL_2 = {
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge071", "B06": "rededge075",
    "B07": "rededge078", "B08": "nir", "B8A": "nir08", "B09": "nir09", "B10": "cirrus", "B11": "swir16",
    "B12": "swir22",
}
_LANDSAT_OLI = {
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "nir08", "B06": "swir16", "B07": "swir22",
    "B08": "pan", "B09": "cirrus", "B10": "lwir11", "B11": "lwir12",
}
_LANDSAT_TM = {
    "B01": "blue", "B02": "green", "B03": "red", "B04": "nir08", "B05": "swir16", "B06": "lwir", "B07": "swir22",
}
_PLATFORM_TAGS = frozenset({
    "platform", "satellite", "satelliteid", "satellite_id", "spacecraft", "spacecraft_id", "spacecraft_name",
    "datatake_1_spacecraft_name", "mission", "mission_id", "constellation", "sensor", "product_uri", "product_id",
    "landsat_product_id",
})
_NAME_TAGS = frozenset({"common_name", "eo:common_name", "band_name", "bandname", "name", "long_name"})
# fmt: on
_PLATFORMS = (
    (re.compile(r"sentinel[-_ ]?2|^s2[abcd]\b", re.IGNORECASE), _SENTINEL_2),
    (re.compile(r"landsat[-_ ]?0?[89]\b|^l[co]0[89]", re.IGNORECASE), _LANDSAT_OLI),
    (re.compile(r"landsat[-_ ]?0?[457]\b|^l[te]0[457]", re.IGNORECASE), _LANDSAT_TM),
)
# Other colours name no band: one "swir" or "rededge" could be any of several.
_COLORS = {"red": "red", "green": "green", "blue": "blue", "nir": "nir", "coastal": "coastal", "pan": "pan"}
_CODE = re.compile(r"^(?:sr_)?b(\d{1,2})(a?)$", re.IGNORECASE)


class Described(Protocol):
    """What finds bands by name: a `RasterInfo`, or what an array declares."""

    @property
    def location(self) -> object:
        """What to call it in a message."""
        ...

    @property
    def bands(self) -> Sequence[BandInfo]:
        """In stored order."""
        ...

    @property
    def tags(self) -> Mapping[str, str]:
        """Of the whole; may name the satellite."""
        ...


def platform_bands(platform: str) -> Mapping[str, str]:
    """Common names of a satellite's numbered bands (``B04`` -> ``red``); empty where it is unknown.

    >>> platform_bands("Sentinel-2A")["B04"], platform_bands("landsat-5")["B04"], platform_bands("terra")
    ('red', 'nir08', {})
    """
    return next((table for pattern, table in _PLATFORMS if pattern.search(platform)), {})


def name_bands(info: Described) -> tuple[frozenset[str], ...]:
    """The names of each band, in lower case: none for a band that nothing names."""
    table = _platform(info)
    return tuple(_names(band, table) for band in info.bands)


def _platform(info: Described) -> Mapping[str, str]:
    """What the numbers of this raster's bands mean: its tags say so, or a B8A, which only Sentinel-2 has."""
    for key, value in info.tags.items():
        if key.lower() in _PLATFORM_TAGS and (table := platform_bands(value)):
            return table
    return _SENTINEL_2 if any("B8A" in (_code(word) for word in _labels(band)) for band in info.bands) else {}


def _labels(band: BandInfo) -> list[str]:
    """First words of what names the band: its description and its tags."""
    tagged = [value for key, value in sorted(band.tags.items()) if key.lower() in _NAME_TAGS]
    return [words[0].strip(",;:()") for text in [band.description, *tagged] if (words := text.split())]


def _code(word: str) -> str | None:
    """``B4``, ``b04``, ``SR_B4`` -> ``B04``; None for what is no number of a band."""
    match = _CODE.match(word)
    if match is None:
        return None
    return f"B{int(match[1])}A" if match[2] else f"B{int(match[1]):02d}"


def _names(band: BandInfo, table: Mapping[str, str]) -> frozenset[str]:
    labels = _labels(band)
    names = {label.lower() for label in labels}
    names |= {table[code] for code in map(_code, labels) if code is not None and code in table}
    words = band.description.lower().split()
    if len(words) == 2 and _code(words[0]) and words[1] in COMMON_NAMES:
        names.add(words[1])  # "B04 red": the number's meaning is written beside it
    if not names and band.color in _COLORS:
        names.add(_COLORS[band.color])
    return frozenset(names)


def find_bands(info: Described, wanted: Sequence[str], numbers: Mapping[str, int] | None = None) -> dict[str, int]:
    """Where each wanted band is stored, counted from 1; `numbers` are given by hand and count first.

    Raises:
        BandError: A band is not there, or named more than once, or a number is beyond the last band.
    """
    given = {name.lower(): number for name, number in (numbers or {}).items()}
    for name, number in given.items():
        if not 1 <= number <= len(info.bands):
            raise BandError(f"{info.location}: {name}={number}, but it has bands 1 to {len(info.bands)}")
    named = name_bands(info)
    return {name: given.get(name.lower()) or _find(info, named, name) for name in wanted}


def _find(info: Described, named: tuple[frozenset[str], ...], name: str) -> int:
    places = [number for number, names in enumerate(named, 1) if name.lower() in names]
    if len(places) == 1:
        return places[0]
    if places:
        raise BandError(
            f"{info.location}: bands {', '.join(map(str, places))} are all named {name!r}; choose with --bands {name}=N"
        )
    raise BandError(
        f"{info.location}: no band is named {name!r}; it has {_inventory(info, named)}: name them with --bands {name}=N"
    )


def _inventory(info: Described, named: tuple[frozenset[str], ...]) -> str:
    """The bands that are there, for the message."""
    if not any(named):
        return f"{len(info.bands)} bands without names"
    shown = [f"{band.index} {_shown(band, names)}" for band, names in zip(info.bands, named, strict=True)]
    return ", ".join(shown[:30]) + (f" and {len(shown) - 30} more" if len(shown) > 30 else "")


def _shown(band: BandInfo, names: frozenset[str]) -> str:
    common = sorted(names & COMMON_NAMES)
    return common[0] if common else band.description[:40] or "/".join(sorted(names)) or "unnamed"


def declare_band(
    info: Described,
    index: int,
    name: str,
    *,
    scale: float | None = None,
    offset: float | None = None,
    nodata: float | None = None,
) -> Band:
    """Band `index` (counted from 1) under the name `name`; what is given by hand counts more than the file's tags.

    Raises:
        SourceError: Its scale is 0, or scale or offset are no finite numbers.
    """
    band = info.bands[index - 1]
    gain, shift = band.scale if scale is None else scale, band.offset if offset is None else offset
    if gain == 0 or not (math.isfinite(gain) and math.isfinite(shift)):
        raise SourceError(
            f"{info.location}: band {index} has scale {gain:g}, offset {shift:g}; give --scale and --offset"
        )
    declared = scale is not None or offset is not None or (gain, shift) != (1.0, 0.0)
    return Band(
        name=name,
        dtype=band.dtype,
        scaling=Scaling(scale=gain, offset=shift) if declared else None,
        nodata=band.nodata if nodata is None else nodata,
    )
