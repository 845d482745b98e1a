"""What a finished run can show: labels, confidence, scene and polygons, all small enough for a page.

Of rasters only overviews are read, of polygons one row group at a time: the largest run costs no more than a small one.
What cannot be shown any more, such as a scene that is gone, is left out, and a note says so.
"""

from __future__ import annotations

import base64
import html
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
from affine import Affine

from geoseg.earth import crs_of
from geoseg.errors import GeosegError, without_secrets
from geoseg.pages.packing import PackedPolygons, pack_polygons
from geoseg.picture import encode, overview, picture_scene
from geoseg.result import RunResult
from geoseg.scene import Scene
from geoseg.source import bands_in, open_scene
from geoseg.source.info import inspect
from geoseg.store import open_store
from geoseg.types import Labels
from geoseg.window import GeoBox, Window

__all__ = ["RunLayers", "ScenePicture", "read_layers"]

SIDE = 1400
"""Labels are shown with this many pixels along the longer side, and no more than twice as many."""
BINS = 25
"""Of the histogram: a stored confidence counts from 0 to 250."""
NODES = 33
"""Of the table of places, along each side."""
_SHARE = 0.6
"""Of the page, for pictures; the rest is for polygons."""
_LOOKED_FOR = ("red", "green", "blue", "nir", "swir16", "swir22", "pan", "vv", "vh")
_DATE = re.compile(r'<img src="data:image/webp;base64,([A-Za-z0-9+/=]+)" alt="(Before|After): ([^"]*)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenePicture:
    """What the run has looked at."""

    name: str
    """``scene``; of two dates ``before`` and ``after``."""
    text: str
    """Which scene, when, in which colours."""
    webp: str
    """Base64 of a picture of the whole map, north up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLayers:
    """All layers of a run, north up."""

    geobox: GeoBox
    """The grid of the map, turned north up."""
    labels: Labels
    """(row, col) of an overview: 0 where there is no label, else 1 + place in the run's list of classes."""
    confidence: str
    """Base64 of a grey picture; empty where the run has no confidence."""
    bins: npt.NDArray[np.int64] | None
    """(class, bin) pixels of the overview by class and confidence."""
    thinned: int
    """How many rows of the map one of that overview stands for."""
    scenes: Sequence[ScenePicture]
    """The scene, or both dates; may be empty."""
    polygons: PackedPolygons | None
    """None where the run has none."""
    places: Sequence[float] | None
    """(node, node, xyz) flat: where on the unit sphere the lattice of `NODES` x `NODES` points lies that spans the map.
    Between them all three are linear, across the antimeridian and at the poles too."""
    notes: Sequence[str]
    """What is not shown, and why."""

    @property
    def deflated_labels(self) -> bytes:
        """The labels row by row, little-endian, deflated."""
        return zlib.compress(self.labels.astype(self.labels.dtype.newbyteorder("<")).tobytes(), 6)


@dataclass(slots=True, kw_only=True)
class _Reading:
    """One run that is being read, and the bytes that are left."""

    result: RunResult
    report: Mapping[str, Any]
    room: float
    geobox: GeoBox
    notes: list[str] = field(default_factory=list)

    def pictures(self, labels: Labels, stored: Labels | None) -> tuple[Labels, str, list[ScenePicture]]:
        """Labels, confidence and scenes, thinned until they fit."""
        scenes = found = self._dates() if self.result.is_change else self._scene(max(labels.shape))
        for factor in (1, 2, 4, 8):
            thin = labels[::factor, ::factor]
            grey = "" if stored is None else _grey(stored, max(thin.shape))
            if factor > 1:
                scenes = [] if self.result.is_change else self._scene(max(thin.shape))
            size = len(zlib.compress(thin.tobytes(), 6)) * 4 / 3 + len(grey) + sum(len(each.webp) for each in scenes)
            if size <= _SHARE * self.room:
                break
        if found and not scenes:
            self.notes.append("The pictures of both dates do not fit; a larger --max-size has room for them.")
        self.room -= size
        return thin, grey, scenes

    def _dates(self) -> list[ScenePicture]:
        """Before and after as the run's own page shows them: whatever became of the scenes."""
        if self.result.compare is None:
            self.notes.append("The run has no compare.html, from which the pictures of both dates are taken.")
            return []
        with open_store(self.result.out).open("compare.html") as file:
            found = _DATE.findall(file.read().decode("utf-8"))
        dates = [ScenePicture(name=name.lower(), text=html.unescape(text), webp=webp) for webp, name, text in found]
        return sorted(dates, key=lambda date: date.name, reverse=True)

    def _scene(self, side: int) -> list[ScenePicture]:
        """The scene as it is now, if it is still what the run has read."""
        try:
            scene, window = self._opened()
            picture = picture_scene(scene, side=side, window=window)
        except (GeosegError, OSError, LookupError, ValueError) as error:
            note = f"The scene is not shown: {without_secrets(str(error)).rstrip('.')}."
            self.notes += [note] if note not in self.notes else []
            return []
        text = ", ".join(part for part in (picture.scene_id, picture.moment, picture.colors) if part)
        webp = base64.b64encode(encode(picture.rgba, side, lossless=False)).decode()
        return [ScenePicture(name="scene", text=text, webp=webp)]

    def _opened(self) -> tuple[Scene[Any], Window]:
        """The run's scene, opened anew with the run's options, and the part that is mapped.

        Raises:
            GeosegError: It cannot be opened.
            ValueError: It has changed, or has no file.
        """
        if "scenes" in self.report:
            raise ValueError(f"this map is of {len(self.report['scenes'])} scenes")
        asked = self.report["request"]["asked"]
        told = asked["options"]
        band_map = {name: int(at) if at.isdigit() else at for name, at in told["bands"].items()}
        files = [at for at in band_map.values() if isinstance(at, str)]
        inputs = None if files and len(files) == len(band_map) else self._href()
        options = {name: told[name] for name in ("scale", "offset", "resolution", "crs", "assume_crs")}
        options |= {"nodata": None if told["nodata"] == "None" else float(told["nodata"]), "band_map": band_map}
        names = bands_in(inputs, [*_LOOKED_FOR, *sorted(set(band_map) - set(_LOOKED_FOR))], **options)
        if not names:
            raise ValueError("none of its bands is known by a name")
        scene = open_scene(inputs, bands=names, **options)
        for place, now in scene.source.identity().items():
            if asked["inputs"].get(place, now) != now:
                raise ValueError(f"{place} has changed since the run")
        return scene, _window_of(self.geobox, scene.geobox)

    def _href(self) -> str:
        """Where the scene is: a path may be told from the run directory on."""
        with open_store(self.result.out).open("item.json") as file:
            links = json.load(file)["links"]
        found = [link["href"] for link in links if link["rel"] == "derived_from" and "mlm:name" not in link]
        if not found:
            raise ValueError("the run has read it from memory")
        away = "://" in found[0] or found[0].startswith("/")
        return found[0] if away else str(open_store(self.result.out).href(found[0]))

    def polygons(self) -> PackedPolygons | None:
        """As many as there is room for, the largest first."""
        if not any(str(place).endswith("polygons.parquet") for place in self.result.polygons):
            self.notes.append("The run has no polygons.parquet, so no polygons are shown; --vector parquet writes it.")
            return None
        with open_store(self.result.out).open("polygons.parquet") as file:
            packed = pack_polygons(file, self.geobox.transform, int(self.room * 3 / 4))
        if left := packed.total - packed.count:
            self.notes.append(
                f"{left:,} of {packed.total:,} polygons are left out to keep this file small: those below "
                f"{packed.smallest:,.0f} m². The map shows their pixels; a larger --max-size has room for more."
            )
        if packed.eased:
            self.notes.append(f"{packed.eased:,} outlines with very many vertices are drawn with fewer.")
        return packed


def read_layers(result: RunResult, report: Mapping[str, Any], largest: float) -> RunLayers:
    """The layers of a finished run in about `largest` bytes of text.

    Args:
        result: The run.
        report: Its ``run.json``.
        largest: Bytes.

    Raises:
        SourceError: An output of the run cannot be read.
    """
    reading = _Reading(result=result, report=report, room=largest, geobox=_north_up(inspect(result.labels).geobox))
    values, shape, _ = overview(result.labels, SIDE)
    labels = _places_in_list(values, [area.value for area in result.areas])
    stored = None if result.confidence is None else overview(result.confidence, SIDE)[0]
    thin, confidence, scenes = reading.pictures(labels, stored)
    return RunLayers(
        geobox=reading.geobox,
        labels=thin,
        confidence=confidence,
        bins=_bins(labels, stored, len(result.areas)),
        thinned=round(shape[0] / labels.shape[0]),
        scenes=scenes,
        polygons=reading.polygons(),
        places=_places(reading.geobox),
        notes=reading.notes,
    )


def _north_up(geobox: GeoBox) -> GeoBox:
    """The same pixels, rows from north to south and columns from west to east, as pictures show them."""
    height, width = geobox.shape
    transform = geobox.transform
    if transform.a < 0:
        transform = transform @ Affine(-1, 0, width, 0, 1, 0)
    if transform.e > 0:
        transform = transform @ Affine(1, 0, 0, 0, -1, height)
    return GeoBox((height, width), transform, geobox.crs)


def _window_of(part: GeoBox, grid: GeoBox) -> Window:
    """Where `part` lies on another grid of the same CRS, whose pixels may be larger or smaller.

    Raises:
        ValueError: The CRS is another one.
    """
    if part.crs != grid.crs:
        raise ValueError("its bands of colour lie in another CRS than the map")
    height, width = part.shape
    to_grid = ~grid.transform @ part.transform
    cols, rows = zip(to_grid @ (0, 0), to_grid @ (width, height), strict=True)
    return Window.from_bounds(*(round(each) for each in (min(rows), min(cols), max(rows), max(cols))))


def _places_in_list(values: Labels, listed: Sequence[int]) -> Labels:
    """Class values as 1 + place in the list, 0 for others.

    >>> _places_in_list(np.array([[7, 255, 3]], np.uint8), [3, 7]).tolist()
    [[2, 0, 1]]
    """
    count = np.iinfo(values.dtype).max + 1
    table: Labels = np.zeros(count, np.uint8) if len(listed) < 255 else np.zeros(count, np.uint16)
    table[list(listed)] = np.arange(1, len(listed) + 1)
    return table[values]


def _bins(labels: Labels, stored: Labels | None, classes: int) -> npt.NDArray[np.int64] | None:
    """(class, bin) pixels with a label and a confidence."""
    if stored is None or stored.shape != labels.shape:
        return None
    known = (labels > 0) & (stored <= 250)
    places = (labels[known] - 1).astype(np.int64) * BINS + np.minimum(stored[known] // (250 // BINS), BINS - 1)
    return np.bincount(places, minlength=classes * BINS).reshape(classes, BINS)


def _grey(stored: Labels, side: int) -> str:
    """Stored confidence from black to white, transparent where there is none."""
    rgba = np.repeat(np.minimum(stored, 250)[..., None], 4, axis=2)
    rgba = (rgba * np.float32(255 / 250)).astype(np.uint8)
    rgba[..., 3] = np.where(stored <= 250, 255, 0)
    return base64.b64encode(encode(rgba, side, lossless=False)).decode()


def _places(geobox: GeoBox) -> list[float] | None:
    """See `RunLayers.places`; None where the CRS has no longitude and latitude there."""
    height, width = geobox.shape
    cols, rows = np.meshgrid(np.linspace(0, width, NODES), np.linspace(0, height, NODES))
    a, b, c, d, e, f = geobox.transform[:6]
    to_lonlat = pyproj.Transformer.from_crs(crs_of(geobox), "EPSG:4326", always_xy=True)
    lon, lat = np.radians(to_lonlat.transform(a * cols + b * rows + c, d * cols + e * rows + f))
    if not np.isfinite(lon + lat).all():
        return None
    xyz = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    return [float(value) for value in np.round(xyz, 10).ravel()]
