"""What maps and dates look like in few pixels: classes in their colours, bands as red, green and blue.

Pictures are north up. Of rasters only an overview is read, so the largest scene costs no more than a small one.
"""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyproj
from affine import Affine
from PIL import Image

from geoseg.scene import Scaling, Scene
from geoseg.source.glance import Glance, glance
from geoseg.source.open import open_raster
from geoseg.source.pair import PairSource
from geoseg.store import Place
from geoseg.types import Labels
from geoseg.window import Window

__all__ = [
    "DatePicture",
    "Rgba",
    "checkerboard",
    "color_classes",
    "encode",
    "encode_png",
    "in_one_stretch",
    "north_up",
    "overview",
    "picture_dates",
    "picture_scene",
    "resized",
    "shown_bands",
]

LARGEST = 800
"""Longest side of the map in the picture, in its pixels."""
TINY = 320
"""What a scene smaller than this is enlarged to, by whole factors, its pixels kept square."""
THINNEST = 12
"""Shortest side of the map: a scene of one row is still seen."""
CHECKS = ((250, 250, 250), (232, 232, 232))
UNKNOWN = (128, 128, 128, 255)

Rgba: TypeAlias = npt.NDArray[np.uint8]
"""(row, col, 4): red, green, blue and opacity, 0 to 255."""

_NATURAL = ("red", "green", "blue")
_SHOWN = (
    _NATURAL,
    ("swir16", "nir", "red"),
    ("swir16", "nir", "green"),
    ("swir22", "nir", "red"),
    ("swir22", "nir", "green"),
    ("nir", "red", "green"),
)
"""Bands to show as red, green, blue; the first of which all are there."""
_STRETCH = (2, 98)
"""Per cent of the values of both dates that are shown as black and as full colour."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DatePicture:
    """A scene in colours; one of two dates in colours that compare with those of the other."""

    name: str
    """``before``, ``after`` or ``scene``."""
    scene_id: str
    """Which scene it shows."""
    datetime: datetime | None
    """Time of acquisition."""
    bands: tuple[str, ...]
    """What is shown as red, green and blue; one band is shown in grey."""
    rgba: Rgba
    """North up; opacity 0 where the date is not usable."""

    @property
    def moment(self) -> str:
        """The time for people; empty where nothing tells it."""
        return self.datetime.strftime("%Y-%m-%d %H:%M %Z") if self.datetime else ""

    @property
    def colors(self) -> str:
        """What the colours mean."""
        kind = "true colour" if self.bands == _NATURAL else "false colour" if len(self.bands) > 1 else "grey"
        return f"{kind}: {', '.join(self.bands)}"


def picture_dates(
    scene: Scene[PairSource], *, side: int, window: Window | None = None, assumed: Scaling | None = None
) -> tuple[DatePicture, DatePicture]:
    """Before and after in one stretch of reflectance, so that equal ground has equal colours.

    What cannot be read is transparent: a picture is no reason to fail.

    Args:
        scene: A pair.
        side: Pixels along the longer side, at most.
        window: The part to show; None: all.
        assumed: Scaling of integer bands that declare none, as the model's card has it.
    """
    seen = [glance(source, side, window) for source in (scene.source.before, scene.source.after)]
    bands = shown_bands(scene.source.before.bands.names)
    pictures = in_one_stretch([_reflectance(each, bands, assumed) for each in seen], [each.valid for each in seen])
    dates = scene.dates or (scene, scene)
    before, after = (
        DatePicture(
            name=name,
            scene_id=date.id,
            datetime=date.datetime,
            bands=bands,
            rgba=north_up(rgba, each.geobox.transform),
        )
        for name, date, rgba, each in zip(("before", "after"), dates, pictures, seen, strict=True)
    )
    return before, after


def picture_scene(scene: Scene[Any], *, side: int, window: Window | None = None) -> DatePicture:
    """One scene, as `picture_dates` shows two; stored numbers do, for a stretch undoes whatever scaling."""
    seen, bands = glance(scene.source, side, window), shown_bands(scene.bands.names)
    layers = seen.pixels[[scene.bands.names.index(name) for name in bands]].astype(np.float32)
    (rgba,) = in_one_stretch([layers], [seen.valid])
    return DatePicture(
        name="scene",
        scene_id=scene.id,
        datetime=scene.datetime,
        bands=bands,
        rgba=north_up(rgba, seen.geobox.transform),
    )


def shown_bands(names: Sequence[str]) -> tuple[str, ...]:
    """Bands to show as red, green, blue: three, or the only one.

    >>> shown_bands(("green", "nir", "swir16")), shown_bands(("blue", "green", "red", "nir"))
    (('swir16', 'nir', 'green'), ('red', 'green', 'blue'))
    >>> shown_bands(("vv", "vh")), shown_bands(("vv",))
    (('vv', 'vh', 'vh'), ('vv',))
    """
    for wanted in _SHOWN:
        if set(wanted) <= set(names):
            return wanted
    return tuple(names[:3]) if len(names) != 2 else (names[0], names[1], names[1])


def _reflectance(seen: Glance, bands: Sequence[str], assumed: Scaling | None) -> npt.NDArray[np.float32]:
    """(band, row, col) of `bands`; 0 where nothing is usable."""
    from geoseg.prepare import scaling_of

    layers = []
    for name in bands:
        index = seen.bands.names.index(name)
        scaling = scaling_of(seen.bands[index], assumed)
        stored = np.where(seen.valid, seen.pixels[index], 0).astype(np.float32)
        layers.append(stored * np.float32(scaling.scale) + np.float32(scaling.offset))
    return np.stack(layers)


def in_one_stretch(dates: Sequence[npt.NDArray[np.float32]], valid: Sequence[npt.NDArray[np.bool_]]) -> list[Rgba]:
    """Each date (band, row, col) in colours, band by band from black to full between the same two values."""
    pictures = [np.zeros((*usable.shape, 4), np.uint8) for usable in valid]
    for picture, usable in zip(pictures, valid, strict=True):
        picture[..., 3] = np.where(usable, 255, 0)
    known = [date[:, usable] for date, usable in zip(dates, valid, strict=True)]
    for index in range(len(dates[0])):
        values = np.concatenate([each[index] for each in known])
        low, high = np.percentile(values, _STRETCH) if values.size else (0.0, 1.0)
        for picture, date in zip(pictures, dates, strict=True):
            bright = (date[index] - low) / max(high - low, 1e-9)
            # One band is all three colours.
            picture[..., index : index + 1 if len(date) > 1 else 3] = np.clip(bright * 255, 0, 255).round()[..., None]
    return pictures


def north_up(picture: npt.NDArray[Any], transform: Affine) -> npt.NDArray[Any]:
    """A picture (row, col, ...) with the row in the north first, and the column in the west."""
    rows, cols = (-1 if turned else 1 for turned in (transform.e > 0, transform.a < 0))
    return picture[::rows, ::cols]


def overview(path: Place, side: int = LARGEST) -> tuple[Labels, tuple[int, int], float]:
    """Labels from the coarsest overview that is fine enough, north up; the raster's shape; metres per column.

    Fine enough is one with `side` pixels along the longer side, and none is read with more than twice as many.

    Raises:
        SourceError: The raster cannot be read.
    """
    with open_raster(path) as dataset:
        height, width = dataset.shape
        enough = [factor for factor in dataset.overviews(1) if max(height, width) >= side * factor]
        # A raster without overviews is thinned, so that no more than twice the picture is held.
        factor = max(enough, default=1)
        shape = tuple(min(-(-length // factor), 2 * side) for length in (height, width))
        labels = dataset.read(1, out_shape=shape)
        metres = metres_per_column(dataset.transform, dataset.crs, (height, width))
        return north_up(labels, dataset.transform), (height, width), metres


def metres_per_column(transform: Affine, crs: Any, shape: tuple[int, int]) -> float:
    """Ground distance between neighbouring columns in the middle of the raster; 0 where nothing tells."""
    if not crs:
        return 0.0
    row, col = shape[0] / 2, shape[1] / 2
    xs, ys = zip(transform * (col - 0.5, row), transform * (col + 0.5, row), strict=True)
    try:
        known = pyproj.CRS.from_wkt(crs.to_wkt())
        lon, lat = pyproj.Transformer.from_crs(known, known.geodetic_crs, always_xy=True).transform(xs, ys)
        geod = known.get_geod()
        metres = geod.inv(lon[0], lat[0], lon[1], lat[1])[2] if geod else 0.0
    except pyproj.exceptions.ProjError:  # a drawing's or an engine's CRS has no place on the Earth
        return 0.0
    return metres if math.isfinite(metres) else 0.0


def color_classes(labels: Labels, colors: Sequence[tuple[int, str]], transparent: Collection[int]) -> Rgba:
    """Labels in the colours (value, RRGGBB) of their classes; `transparent` values show nothing, unknown ones grey."""
    palette = np.full((np.iinfo(labels.dtype).max + 1, 4), UNKNOWN, np.uint8)
    for value, color in colors:
        palette[value, :3] = tuple(bytes.fromhex(color))
    palette[list(transparent)] = 0
    return palette[labels]


def resized(picture: Rgba, shape: tuple[int, int], largest: int = LARGEST) -> Image.Image:
    """A picture of a scene of `shape` in its final size, on a checkerboard.

    >>> resized(np.zeros((5, 9, 4), np.uint8), (1000, 2000)).size
    (800, 400)
    """
    longest = max(shape)
    scale = max(1, TINY // longest) if longest < largest else largest / longest
    height, width = (max(THINNEST, round(side * scale)) for side in shape)
    way = Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
    colored = Image.fromarray(picture, "RGBA").resize((width, height), way)
    ground = checkerboard(width, height)
    ground.paste(colored, mask=colored)
    return ground


def checkerboard(width: int, height: int, square: int = 8) -> Image.Image:
    """What stands for no data."""
    rows, cols = (np.arange(side) // square for side in (height, width))
    return Image.fromarray(np.array(CHECKS, np.uint8)[(rows[:, None] + cols) % 2], "RGB")


def encode(picture: Rgba, side: int, *, lossless: bool) -> bytes:
    """A WebP file with at most `side` pixels along the longer side; without loss no new colours come up."""
    image = Image.fromarray(np.ascontiguousarray(picture), "RGBA")
    factor = side / max(image.size)
    if factor < 1:
        way = Image.Resampling.NEAREST if lossless else Image.Resampling.BOX
        image = image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))), way)
    file = io.BytesIO()
    image.save(file, format="WEBP", lossless=lossless, quality=80)
    return file.getvalue()


def encode_png(picture: Rgba) -> bytes:
    """A PNG file of a picture, pixel by pixel."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture), "RGBA").save(file, format="PNG")
    return file.getvalue()
