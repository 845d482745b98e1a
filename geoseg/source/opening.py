"""What `geoseg.source.open_scene` does: finds the bands, brings them onto one grid, and names the scene."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from itertools import takewhile
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from geoseg.errors import BandError, ConfigError
from geoseg.protocols import Source
from geoseg.scene import Band, BandSet, Scene
from geoseg.source.bands import COMMON_NAMES, Described, declare_band, find_bands
from geoseg.source.grids import same_grid
from geoseg.source.info import RasterInfo, inspect
from geoseg.source.items import ListedItem
from geoseg.source.location import Location, parse_location, regular_file
from geoseg.source.mask import masked, parse_mask
from geoseg.source.raster import OnBadBlock, join_rasters
from geoseg.source.reader import stored
from geoseg.source.warp import bring_together

if TYPE_CHECKING:
    from geoseg.source.stac import Item, ItemBand

__all__ = ["Opening"]

_RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".j2k")
_UNSAFE = re.compile(r"[^\w.+=@,-]+")

_Choice: TypeAlias = tuple[RasterInfo, int, Band]
"""A raster, the number of a band in it (from 1), and that band as it will be called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What an input turned out to be."""

    sources: tuple[Source, ...]
    """One for each grid; together they hold every band that is wanted."""
    id: str
    href: str
    datetime: datetime | None
    datetime_source: str
    item_href: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How to open a scene: the arguments of `geoseg.source.open_scene`, which explains them."""

    bands: tuple[str, ...]
    band_map: Mapping[str, str | int]
    scale: float | None
    offset: float | None
    nodata: float | None
    mask: str | os.PathLike[str] | None
    resolution: float | None
    crs: str | None
    assume_crs: str | None
    datetime: str | datetime | None
    on_bad_block: OnBadBlock
    unsigned: bool
    scene_id: str | None

    def open(self, inputs: Any) -> Scene[Source]:
        """The scene.

        Raises:
            SourceError: An input cannot be opened.
            BandError: A band is not there, or cannot be told from another.
            GridError: An input has no place on the Earth, or grids cannot be brought together.
            ConfigError: An argument makes no sense.
        """
        if not self.bands:
            raise ConfigError("no bands are asked for: name those that the model needs")
        self._demand_known()
        moment = parse_datetime(self.datetime) if self.datetime is not None else None
        found = self._found(inputs)
        source = bring_together(found.sources, self.bands, self.resolution, self.crs)
        if self.mask is not None:
            source = self._masked(source, self.mask)
        return Scene(
            id=_safe_id(self.scene_id or found.id),
            source=source,
            geobox=source.geobox,
            bands=source.bands,
            datetime=moment or found.datetime,
            datetime_source="option" if moment else found.datetime_source,
            href=found.href,
            item_href=found.item_href,
        )

    def _demand_known(self) -> None:
        """A name by hand that nothing reads is a slip, unless it is a common one, which other models read."""
        names = [name.lower() for name in self.bands]
        for name in self.band_map:
            if name not in names and name not in COMMON_NAMES:
                close = get_close_matches(name, names, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise BandError(f"--bands {name}: no band of that name is read{hint}; read are {', '.join(names)}")

    def _found(self, inputs: Any) -> _Found:
        if isinstance(inputs, ListedItem):
            return self._listed(inputs)
        return self._files(inputs) if _is_location(inputs) else self._array(inputs)

    def _array(self, array: Any) -> _Found:
        from geoseg.source.array import XarraySource, inspect_array

        files = [f"{name}={where}" for name, where in self.band_map.items() if not str(where).isdigit()]
        if files:
            raise BandError(f"{files[0]}: an array takes no bands from files; put them into the array")
        info = inspect_array(array, assume_crs=self.assume_crs)
        places = find_bands(info, self.bands, self._numbers("an array"))
        declared = tuple(self._declared(info, places[name], name) for name in self.bands)
        source = XarraySource(
            array=info.array,
            indices=tuple(places[name] - 1 for name in self.bands),
            bands=BandSet(declared),
            geobox=info.geobox,
        )
        return _Found(
            sources=(source,),
            id=info.location,
            href="",
            datetime=info.datetime,
            datetime_source="none" if info.datetime is None else "coordinate",
        )

    def _files(self, inputs: str | os.PathLike[str] | None) -> _Found:
        place = None if inputs is None else parse_location(inputs)
        if place is not None and _is_item(place):
            return self._item(place)
        shelf = _Shelf(self)
        numbers = self._numbers(None if place is None else str(place))
        by_file = {name: str(where) for name, where in self.band_map.items() if name not in numbers}
        inside = [name for name in self.bands if name.lower() not in by_file]
        if inside and place is None:
            raise BandError(f"no file is named for {', '.join(inside)}: give an input, or --bands {inside[0]}=FILE")
        places = find_bands(shelf.info(place), inside, numbers) if inside and place is not None else {}
        choices = []
        for name in self.bands:
            info = shelf.info(place if name in places and place else parse_location(by_file[name.lower()]))
            index = places.get(name, 1)
            choices.append((info, index, self._declared(info, index, name)))
        main = shelf.info(place) if place is not None else choices[0][0]
        return _Found(
            sources=self._by_grid(choices),
            id=place.stem if place is not None else _common_stem([info.location.stem for info, _, _ in choices]),
            href=str(main.location),
            datetime=main.datetime,
            datetime_source="none" if main.datetime is None else "tiff",
        )

    def _listed(self, listed: ListedItem) -> _Found:
        from geoseg.source.stac import parse_item

        if listed.document is None:
            return self._item(listed.location)
        return self._of_item(parse_item(listed.document, listed.location), listed.href)

    def _item(self, place: Location) -> _Found:
        from geoseg.source.stac import read_item

        return self._of_item(read_item(place, unsigned=self.unsigned), str(place))

    def _of_item(self, item: Item, item_href: str) -> _Found:
        shelf = _Shelf(self)
        choices = [self._item_choice(item, shelf, name) for name in self.bands]
        first = choices[0][0]
        by_file = "none" if first.datetime is None else "tiff"
        return _Found(
            sources=self._by_grid(choices),
            id=item.id,
            href=str(first.location),
            datetime=item.datetime or first.datetime,
            datetime_source=by_file if item.datetime is None else "item",
            item_href=item_href,
        )

    def _item_choice(self, item: Item, shelf: _Shelf, name: str) -> _Choice:
        by_hand = self.band_map.get(name.lower())
        if by_hand is not None and not item.has(str(by_hand)):
            if str(by_hand).isdigit():
                raise BandError(
                    f"{item.location}: {name}={by_hand}, but an item has no band numbers; give an asset's key"
                )
            info = shelf.info(parse_location(str(by_hand)))
            return info, 1, self._declared(info, 1, name)
        asset = item.find(name, None if by_hand is None else str(by_hand))
        info = shelf.info(item.locate(asset))
        index = _place_in_file(item, asset, info, name)
        return info, index, self._declared(info, index, name, asset)

    def _declared(self, info: Described, index: int, name: str, item: ItemBand | None = None) -> Band:
        """By hand before the item, the item before the file."""
        dtype = np.dtype(info.bands[index - 1].dtype)
        if dtype.kind in "iu" and self.nodata is not None and stored(self.nodata, dtype.name) is None:
            limits = np.iinfo(dtype)
            raise ConfigError(
                f"{info.location}: --nodata {self.nodata:.10g}: band {name} is {dtype} and holds whole numbers from "
                f"{limits.min} to {limits.max}; give one of them, or leave it out for what the scene declares"
            )
        told = (None, None, None) if item is None else (item.scale, item.offset, item.nodata)
        by_hand = (self.scale, self.offset, self.nodata)
        scale, offset, nodata = (mine if mine is not None else its for mine, its in zip(by_hand, told, strict=True))
        return declare_band(info, index, name, scale=scale, offset=offset, nodata=nodata)

    def _numbers(self, what: str | None) -> dict[str, int]:
        """The bands of `band_map` that are given by number."""
        numbers = {name: int(where) for name, where in self.band_map.items() if str(where).isdigit()}
        if numbers and what is None:
            name, number = next(iter(numbers.items()))
            raise BandError(
                f"{name}={number} counts the bands of an input, but there is none; give one, or {name}=FILE"
            )
        return numbers

    def _by_grid(self, choices: Sequence[_Choice]) -> tuple[Source, ...]:
        """One source for each grid; grids that differ by less than a hundredth of a pixel are one."""
        grids: list[list[_Choice]] = []
        for info, index, band in choices:
            for group in grids:
                if same_grid(info.geobox, group[0][0].geobox):
                    group.append((replace(info, geobox=group[0][0].geobox), index, band))
                    break
            else:
                grids.append([(info, index, band)])
        return tuple(join_rasters(group, on_bad_block=self.on_bad_block) for group in grids)

    def _masked(self, source: Source, mask: str | os.PathLike[str]) -> Source:
        place, classes = parse_mask(mask) if isinstance(mask, str) else (mask, ())
        info = inspect(place, assume_crs=str(source.geobox.crs), unsigned=self.unsigned)
        band = declare_band(info, 1, "mask")
        if classes:  # a class may be the number that the file calls nodata
            band = replace(band, nodata=None)
        return masked(source, join_rasters([(info, 1, band)], on_bad_block=self.on_bad_block), classes)


class _Shelf:
    """Headers that were read already: an item may name one file for many bands."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._infos: dict[Location, RasterInfo] = {}

    def info(self, place: Location) -> RasterInfo:
        if place not in self._infos:
            self._infos[place] = inspect(place, assume_crs=self._opening.assume_crs, unsigned=self._opening.unsigned)
        return self._infos[place]


def parse_datetime(moment: str | datetime) -> datetime:
    """A time with a zone; without one it is UTC.

    Raises:
        ConfigError: It is no ISO 8601 date or time.

    >>> parse_datetime("2024-06-01T10:30:00+02:00").isoformat(), parse_datetime("2024-06-01").isoformat()
    ('2024-06-01T10:30:00+02:00', '2024-06-01T00:00:00+00:00')
    """
    try:
        parsed = moment if isinstance(moment, datetime) else datetime.fromisoformat(moment.strip())
    except ValueError as error:
        raise ConfigError(f"datetime {moment!r} is no ISO 8601 time: write 2024-06-01T10:30:00Z") from error
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _is_location(inputs: Any) -> bool:
    return inputs is None or isinstance(inputs, (str, os.PathLike))


def _is_item(place: Location) -> bool:
    """Whether to read it as a STAC item: a local file that is JSON, a URL that looks like one."""
    if place.kind == "path":
        regular_file(place)
        with place.path.open("rb") as file:
            return file.read(256).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    name = place.display.lower()
    return name.endswith((".json", ".geojson")) or ("/items/" in name and not name.endswith(_RASTER_SUFFIXES))


def _place_in_file(item: Item, asset: ItemBand, info: RasterInfo, name: str) -> int:
    """Where the item's band lies in its file; the file itself decides where the item lists none.

    Raises:
        BandError: The item lists more or fewer bands than there are.
    """
    stored = len(info.bands) - (info.file.alpha is not None)
    if asset.index is None:
        return 1 if stored == 1 and asset.names else find_bands(info, [name])[name]
    if asset.listed != stored:
        raise BandError(
            f"{item.location}: lists {asset.listed} bands of asset {asset.asset!r}, but {info.location} holds "
            f"{stored}; open the file itself with --bands {name}=N"
        )
    return asset.index


def _common_stem(stems: Sequence[str]) -> str:
    """What the names of separate band files have in common, up to a separator; else the first name.

    >>> _common_stem(["T33_20240601_B04", "T33_20240601_B08"]), _common_stem(["red", "nir"])
    ('T33_20240601', 'red')
    """
    words = zip(*(re.split(r"([-_. ])", stem) for stem in stems), strict=False)
    shared = "".join(word[0] for word in takewhile(lambda word: len(set(word)) == 1, words))
    return shared.rstrip("-_. ") or stems[0]


def _safe_id(scene_id: str) -> str:
    """The id, fit to name a folder: what a path could be made of becomes an underscore."""
    return _UNSAFE.sub("_", scene_id).lstrip(".") or "scene"
