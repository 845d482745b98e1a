"""Where pixels come from: files, URLs, STAC items and arrays, each as one `geoseg.scene.Scene`.

Importing this package loads no raster library; that waits until something is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

from geoseg.errors import BandError
from geoseg.protocols import Source
from geoseg.scene import Scene

if TYPE_CHECKING:
    import datetime as dt

    import xarray as xr

    from geoseg.source.items import ListedItem

__all__ = ["bands_in", "given_for", "open_scene"]


def open_scene(
    inputs: str | PathLike[str] | ListedItem | xr.DataArray | None,
    *,
    bands: Sequence[str],
    band_map: Mapping[str, str | int] | None = None,
    scale: float | None = None,
    offset: float | None = None,
    nodata: float | None = None,
    mask: str | PathLike[str] | None = None,
    resolution: float | None = None,
    crs: str | None = None,
    assume_crs: str | None = None,
    datetime: str | dt.datetime | None = None,
    on_bad_block: Literal["fail", "nodata"] = "fail",
    aws_no_sign_request: bool = False,
    scene_id: str | None = None,
) -> Scene[Source]:
    """A scene whose source reads exactly `bands`, in that order, on one grid; only headers are read.

    Args:
        inputs: A GeoTIFF, COG or JPEG 2000, or a STAC item: path, http(s) or s3 URL; an item of
            `geoseg.source.items.list_items`; or an `xarray.DataArray` with dims band, y, x. May be None where
            `band_map` names a file for every band.
        bands: Names to find, STAC common names mostly: a model's `spec.bands`. None is ever guessed by position.
        band_map: By hand: band -> its number in `inputs` (from 1), an asset of the item, or a file (its first band).
        scale: Reflectance per stored unit, of all bands; overrides what files and item declare, like the next two.
        offset: Reflectance of a stored 0.
        nodata: Stored number that means "no observation".
        mask: A raster on any grid; where it is not zero, pixels are excluded. Text that ends in ``:3,8`` excludes these
            values only.
        resolution: Pixel size to read at, in units of the CRS; None: the finest of the bands'.
        crs: CRS to read in; None: the bands' own.
        assume_crs: CRS of inputs that declare none.
        datetime: Time of acquisition; None: the item's, or what the file's tags say. Without a zone it is UTC.
        on_bad_block: Whether a block that cannot be decoded fails the read, or counts as invalid.
        aws_no_sign_request: Whether S3 is asked without credentials.
        scene_id: The scene's id; None: the item's, or the file's stem.

    Raises:
        SourceError: An input cannot be opened.
        BandError: A band is not there, or cannot be told from another (the message names those that are); or
            `band_map` has a name that is neither asked for nor a common one.
        GridError: An input has no place on the Earth, or grids cannot be brought together.
        ConfigError: An argument makes no sense.
    """
    from geoseg.source.opening import Opening

    return Opening(
        bands=tuple(bands),
        band_map={name.lower(): place for name, place in (band_map or {}).items()},
        scale=scale,
        offset=offset,
        nodata=nodata,
        mask=mask,
        resolution=resolution,
        crs=crs,
        assume_crs=assume_crs,
        datetime=datetime,
        on_bad_block=on_bad_block,
        unsigned=aws_no_sign_request,
        scene_id=scene_id,
    ).open(inputs)


def bands_in(
    inputs: str | PathLike[str] | ListedItem | xr.DataArray | None,
    names: Sequence[str],
    **options: Any,
) -> tuple[str, ...]:
    """Those of `names` that a scene has; `options` are those of `open_scene`, and only headers are read.

    What is given by hand for other names is not looked at.

    Raises:
        SourceError: An input cannot be opened.
        GridError: An input has no place on the Earth.
        ConfigError: An argument makes no sense.
    """
    options = given_for(names, options)
    with suppress(BandError):  # mostly all are there, and headers of files far away take time
        open_scene(inputs, bands=names, **options)
        return tuple(names)
    found: list[str] = []
    for name in names if len(names) > 1 else ():
        with suppress(BandError):
            open_scene(inputs, bands=(name,), **given_for((name,), options))
            found.append(name)
    return tuple(found)


def given_for(names: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` of `open_scene` to read `names` alone, with what is given by hand for these.

    >>> given_for(["red"], {"band_map": {"RED": 3, "vv": 1}, "nodata": 0})
    {'band_map': {'red': 3}, 'nodata': 0}
    """
    wanted = {name.lower() for name in names}
    by_hand = {name.lower(): place for name, place in (options.get("band_map") or {}).items()}
    return {**options, "band_map": {name: place for name, place in by_hand.items() if name in wanted}}
