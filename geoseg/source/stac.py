"""STAC items: which asset holds which band, and how its numbers are scaled.

Items of STAC 0.9 to 1.1 are read (``eo:bands`` and ``raster:bands``, or the one list ``bands``). Only the item comes
from here: pixels are read through the one function that opens rasters, and every href is parsed like a location that a
user typed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

import pystac

from geoseg.errors import BandError, SourceError
from geoseg.source.bands import platform_bands
from geoseg.source.document import read_document
from geoseg.source.location import Location, parse_location

__all__ = ["Item", "ItemBand", "parse_item", "read_item"]

_TIFF, _UNTOLD, _JP2 = 0, 1, 2
_NO_PIXELS = frozenset({"thumbnail", "overview", "metadata", "mlm:model", "mlm:source_code"})
_PICTURES = frozenset({"visual", "tci", "preview", "true_color"})
_RED_EDGES = {"rededge071": 0.705, "rededge075": 0.740, "rededge078": 0.783}
"""Micrometres; catalogues that call all three just ``rededge`` tell them apart by wavelength."""
_OFFSET_APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
"""Where these are true, the offset that the bands still declare is in the pixels already."""
_ONE_ITEM = "give one item (type Feature, with assets)"
_ADVICE = dict.fromkeys(("Catalog", "Collection", "FeatureCollection"), "--items reads all items of it")


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemBand:
    """One band of one asset, as the item declares it."""

    asset: str
    """The asset's key."""
    href: str
    """As it stands in the item."""
    index: int | None
    """Where it lies in the asset, counted from 1; None: the item does not say, the file must."""
    listed: int
    """How many bands the item lists for the asset; 0: none."""
    names: frozenset[str]
    """Every name that it goes by, in lower case."""
    rank: tuple[float, ...]
    """Lower is the better source of a band: reflectance before pictures, GeoTIFF before JPEG 2000, fine pixels."""
    scale: float | None = None
    """Reflectance per stored unit; None: not declared."""
    offset: float | None = None
    """Reflectance of a stored 0; None: not declared."""
    nodata: float | None = None
    """Stored number that means "no observation"; None: not declared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What geoseg needs of a STAC item."""

    id: str
    """The item's id."""
    location: Location
    """Where it was read from."""
    datetime: datetime | None
    """Its datetime, or the start of its range; with a time zone."""
    bands: tuple[ItemBand, ...]
    """Bands of every asset that may hold pixels, in the item's order."""

    def locate(self, band: ItemBand) -> Location:
        """Where the band's file is; a relative href counts from where the item was read.

        Raises:
            SourceError: The href is no location, or a remote item names a file of this machine.
        """
        try:
            if self.location.kind == "path":
                return self.location.relative(band.href)
            place = parse_location(_absolute(self.location, band.href))
        except SourceError as error:
            raise SourceError(f"{self.location}: asset {band.asset!r}: {error}") from error
        if place.kind == "path":
            raise SourceError(
                f"{self.location}: asset {band.asset!r} names a file of this machine; download the item first"
            )
        return place

    def has(self, asset: str) -> bool:
        """Whether an asset of that key may hold pixels."""
        return any(band.asset == asset for band in self.bands)

    def find(self, name: str, asset: str | None = None) -> ItemBand:
        """The best source of the band `name`, in `asset` if that is given.

        Raises:
            BandError: No asset holds it, or several do and none is better; the message lists what there is.
        """
        wanted = name.lower()
        if asset is not None:
            return self._in_asset(wanted, asset)
        named = sorted(
            (band for band in self.bands if wanted in band.names), key=lambda band: self._order(band, wanted)
        )
        if not named:
            return self._unlisted(name)
        best = named[0]
        equal = [band for band in named if self._order(band, wanted) == self._order(best, wanted)]
        if len({(band.href, band.index) for band in equal}) > 1:
            keys = ", ".join(band.asset for band in equal)
            raise BandError(f"{self.location}: assets {keys} all hold {name!r}; choose with --bands {name}=ASSET")
        return best

    def _order(self, band: ItemBand, wanted: str) -> tuple[float, ...]:
        return (*band.rank, float(band.asset.lower() != wanted))

    def _in_asset(self, wanted: str, asset: str) -> ItemBand:
        inside = [band for band in self.bands if band.asset == asset]
        named = [band for band in inside if wanted in band.names]
        if len(inside) == 1:
            return inside[0]
        if len(named) == 1:
            return named[0]
        if not inside:
            raise BandError(f"{self.location}: has no asset {asset!r} with pixels; it has {self._inventory()}")
        raise BandError(
            f"{self.location}: asset {asset!r} holds {len(inside)} bands, and {wanted!r} is not one of them"
        )

    def _unlisted(self, name: str) -> ItemBand:
        """The one asset whose bands the item does not name, if there is just one: its file may name them."""
        open_ones = [band for band in self.bands if band.index is None or not band.names]
        best = [band for band in open_ones if band.rank[0] == min(other.rank[0] for other in open_ones)]
        if len({band.href for band in best}) != 1:
            have = self._inventory()
            raise BandError(
                f"{self.location}: no asset holds {name!r}; it has {have}: choose with --bands {name}=ASSET"
            )
        return replace(best[0], index=None, listed=0, names=frozenset())

    def _inventory(self) -> str:
        shown = [f"{band.asset} ({'/'.join(sorted(band.names)) or 'unnamed'})" for band in self.bands]
        return ", ".join(shown[:30]) or "no assets with pixels"


def read_item(location: Location, *, unsigned: bool = False) -> Item:
    """The STAC item at `location`.

    Raises:
        SourceError: It cannot be fetched, is no JSON, or no STAC item.
    """
    return parse_item(read_document(location, unsigned=unsigned), location)


def parse_item(document: Any, location: Location) -> Item:
    """The STAC item that `document` holds, whose relative hrefs count from `location`.

    Raises:
        SourceError: It is no STAC item.
    """
    kind = document.get("type") if isinstance(document, dict) else type(document).__name__
    if kind != "Feature" or "assets" not in document:
        raise SourceError(f"{location}: is no STAC item but {kind!r}; {_ADVICE.get(str(kind), _ONE_ITEM)}")
    try:
        item = pystac.Item.from_dict(document)
        return Item(id=item.id, location=location, datetime=_moment(item), bands=tuple(_item_bands(item)))
    except (pystac.STACError, pystac.STACTypeError, KeyError, TypeError, ValueError, AttributeError) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise SourceError(
            f"{location}: a STAC item that cannot be read ({what}); validate it with stac-check"
        ) from error


def _absolute(item: Location, href: str) -> str:
    """`href` of a remote item, whose own query is none of its assets'."""
    if urlsplit(href).scheme:
        return href
    scheme, _, rest = item.display.partition("://")
    return f"{scheme}:{urljoin(f'http://{rest}', href).removeprefix('http:')}"  # urljoin does not know s3


def _moment(item: pystac.Item) -> datetime | None:
    moment = item.datetime or item.common_metadata.start_datetime
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)


def _item_bands(item: pystac.Item) -> Iterator[ItemBand]:
    """The bands of every asset that may hold pixels."""
    properties = item.properties
    codes = platform_bands(str(properties.get("platform", ""))) or platform_bands(
        str(properties.get("constellation", ""))
    )
    applied = any(properties.get(key) is True for key in _OFFSET_APPLIED)
    for key, asset in item.assets.items():
        roles = frozenset(asset.roles or ())
        format_rank = _format_rank(asset)
        if format_rank is None or roles & _NO_PIXELS:
            continue
        records = _records(asset.extra_fields)
        for number, record in enumerate(records or [{}], 1):
            single = key if len(records) <= 1 else ""
            yield ItemBand(
                asset=key,
                href=asset.href,
                index=number if records else None,
                listed=len(records),
                names=_names(record, single, codes),
                rank=(_role_rank(key, roles), format_rank, _pixel_size(record, asset.extra_fields)),
                **_numbers({**asset.extra_fields, **record}, applied=applied),
            )


def _format_rank(asset: pystac.Asset) -> float | None:
    """None for what geoseg cannot read as a raster."""
    kind = (asset.media_type or "").lower()
    end = asset.href.partition("?")[0].lower()
    if kind.startswith("image/tiff") or (not kind and end.endswith((".tif", ".tiff"))):
        return _TIFF
    if kind.startswith(("image/jp2", "image/jpx")) or (not kind and end.endswith((".jp2", ".j2k"))):
        return _JP2
    return None if kind or end.endswith((".json", ".xml", ".png", ".jpg", ".jpeg", ".txt", ".html")) else _UNTOLD


def _role_rank(key: str, roles: frozenset[str]) -> float:
    if "reflectance" in roles:
        return 0.0
    if key.lower() in _PICTURES or "visual" in roles:
        return 3.0
    return 1.0 if "data" in roles or not roles else 2.0


def _records(fields: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """One record for each band: of STAC 1.1's `bands`, or of `eo:bands` and `raster:bands` put together."""
    if isinstance(fields.get("bands"), list):
        return list(fields["bands"])
    names = [record for record in fields.get("eo:bands") or [] if isinstance(record, Mapping)]
    numbers = [record for record in fields.get("raster:bands") or [] if isinstance(record, Mapping)]
    if names and numbers and len(names) != len(numbers):
        return numbers  # some bands are named, but nothing says which of them: names by position would be guesses
    rows = max(len(names), len(numbers))
    return [{**(numbers[i] if numbers else {}), **(names[i] if names else {})} for i in range(rows)]


def _names(record: Mapping[str, Any], key: str, codes: Mapping[str, str]) -> frozenset[str]:
    common = record.get("eo:common_name") or record.get("common_name")
    told = [str(name) for name in (common, record.get("name"), key) if name]
    names = {name.lower() for name in told} | {codes[name.upper()] for name in told if name.upper() in codes}
    wavelength = record.get("eo:center_wavelength") or record.get("center_wavelength") or 0.0
    names |= {name for name, middle in _RED_EDGES.items() if common == "rededge" and abs(wavelength - middle) < 0.015}
    return frozenset(names)


def _pixel_size(record: Mapping[str, Any], fields: Mapping[str, Any]) -> float:
    """Metres or degrees, whichever the item declares; only compared between assets of one item."""
    told: list[Any] = [
        record.get("raster:spatial_resolution", record.get("spatial_resolution")),
        fields.get("raster:spatial_resolution"),
        record.get("gsd", fields.get("gsd")),
        next(iter(fields.get("proj:transform") or []), None),
    ]
    sizes: Sequence[Any] = [value[0] if isinstance(value, list) else value for value in told if value]
    return abs(float(sizes[0])) if sizes else float("inf")


def _numbers(fields: Mapping[str, Any], *, applied: bool) -> dict[str, float | None]:
    def number(*keys: str) -> float | None:
        found = next((fields[key] for key in keys if fields.get(key) is not None), None)
        return None if found is None else float(found)

    scale, offset = number("raster:scale", "scale"), number("raster:offset", "offset")
    if scale is not None or offset is not None:
        scale, offset = 1.0 if scale is None else scale, 0.0 if offset is None or applied else offset
    return {"scale": scale, "offset": offset, "nodata": number("nodata", "raster:nodata")}
