"""What is in a scene: bands, how their stored numbers become reflectance, and one acquisition on one pixel grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar, overload

from geoseg.errors import BandError
from geoseg.window import GeoBox

__all__ = ["DATES", "Band", "BandSet", "Scaling", "Scene"]

DATES = ("before", "after")
"""What the two dates of a change are called, in the order of time; their bands are ``before.red``, ``after.red``."""


SourceT_co = TypeVar("SourceT_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Stored numbers to reflectance: ``reflectance = stored * scale + offset``."""

    scale: float = 1.0
    """Reflectance per stored unit."""
    offset: float = 0.0
    """Reflectance of a stored 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """One named spectral layer of a scene."""

    name: str
    """STAC `eo` common name (``red``, ``nir``, ``swir16``, ...) in lower case, or the provider's own name."""
    dtype: str
    """Numpy dtype of the stored numbers."""
    scaling: Scaling | None = None
    """As the scene declares it (GDAL tags, ``raster:scale``); None where it declares nothing."""
    nodata: float | None = None
    """Stored number that means "no observation"; may be NaN."""


@dataclass(frozen=True, slots=True)
class BandSet(Sequence[Band]):
    """The bands of a source, in the order in which it reads them.

    >>> BandSet((Band(name="red", dtype="uint16"), Band(name="nir", dtype="uint16"))).names
    ('red', 'nir')
    """

    bands: tuple[Band, ...]
    """In reading order; names are unique."""

    def __post_init__(self) -> None:
        names = [band.name for band in self.bands]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise BandError(f"bands named twice: {', '.join(twice)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names, in reading order."""
        return tuple(band.name for band in self.bands)

    @overload
    def __getitem__(self, index: int) -> Band: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Band, ...]: ...
    def __getitem__(self, index: int | slice) -> Band | tuple[Band, ...]:
        return self.bands[index]

    def __len__(self) -> int:
        return len(self.bands)

    def __iter__(self) -> Iterator[Band]:
        return iter(self.bands)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene(Generic[SourceT_co]):
    """One acquisition on one pixel grid."""

    id: str
    """The file's stem or the STAC item's id; never an href."""
    source: SourceT_co
    """Where its pixels come from: a `geoseg.protocols.Source`."""
    geobox: GeoBox
    """Shape, transform and CRS."""
    bands: BandSet
    """What `source` reads, in its order."""
    datetime: datetime | None = None
    """Time of acquisition, with a time zone; None where nothing declares it."""
    datetime_source: str = "none"
    """Where `datetime` comes from: ``option``, ``item``, ``tiff``, ``coordinate`` (of an array) or ``none``."""
    href: str = ""
    """Where it was opened from, without a URL's query."""
    item_href: str | None = None
    """The STAC item that it was opened from, if any."""
    dates: tuple[Scene[Any], ...] = ()
    """The scenes that it joins on one grid, in the order of time; empty for one acquisition."""
