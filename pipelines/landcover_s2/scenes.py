"""Generated scenes to train with: the landscape of `geoseg.testing`, each under `Conditions` of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.windows import Window as RasterWindow

from geoseg.testing.landscape import Ground, Site, survey
from geoseg.testing.noise import Floats, smooth
from geoseg.testing.spectra import BANDS, COVER_OF_KIND, Cover
from geoseg.window import Window
from pipelines.landcover_s2.light import Conditions
from pipelines.recipe import Labelled

__all__ = ["CLASSES", "SIDE", "make_sheets", "observe"]

_Number = TypeVar("_Number", bound=np.generic)

CLASSES = {cover.name.lower(): cover.value + 1 for cover in Cover if cover is not Cover.NODATA}
"""Names and values on the labels; 0 is no label."""
SIDE = 256
"""Rows and columns of a scene."""
MARGIN = 4
"""Pixels around it that blur and slopes look at."""
_PLACES = ((0.27, 0.68), (0.64, 0.52), (0.88, 0.85), (0.94, 0.93))
"""Where the landscape has its lake, its town, its foothills and its snow, as parts of its sides."""
_SCALE = 1e-4


def make_sheets(out: Path, counts: dict[str, int], seed: int) -> list[Labelled]:
    """A raster of scenes for each split, and one of their labels, in `out`; those that are there already stay.

    Args:
        out: Folder, which exists.
        counts: Split -> scenes.
        seed: Of all draws.
    """
    made, first = [], 0
    for row, (split, count) in enumerate(counts.items()):
        sheet = Labelled(scene=out / f"{split}.tif", labels=out / f"{split}-labels.tif", split=split)
        if not sheet.labels.exists():
            _write_sheet(sheet, [(seed, first + number) for number in range(count)], north=-row * _APART)
        made.append(sheet)
        first += count
    return made


_APART = 100_000.0
"""Metres from one sheet to the next."""
_ABREAST = 16
"""Scenes beside each other on a sheet."""


def _write_sheet(sheet: Labelled, places: Sequence[tuple[int, int]], north: float) -> None:
    rows = -(-len(places) // _ABREAST)
    shape = {"height": rows * SIDE, "width": _ABREAST * SIDE}
    profile = {"driver": "GTiff", "compress": "deflate", "tiled": True, "crs": "EPSG:32632", **shape}
    place = {"transform": Affine(10, 0, 500_000, 0, -10, 5_400_000 + north), "nodata": 0}
    draft = sheet.labels.with_suffix(".part")
    with (
        rasterio.open(sheet.scene, "w", dtype="uint16", count=len(BANDS), **profile, **place) as scene,
        rasterio.open(draft, "w", dtype="uint8", count=1, **profile, **place) as labels,
    ):
        scene.descriptions, scene.scales = BANDS, (_SCALE,) * len(BANDS)
        for number, (seed, which) in enumerate(places):
            row, col = divmod(number, _ABREAST)
            area = RasterWindow(col * SIDE, row * SIDE, SIDE, SIDE)
            stored, classes = observe(seed, which)
            scene.write(stored, window=area)
            labels.write(classes, 1, window=area)
    draft.replace(sheet.labels)


def observe(seed: int, number: int) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
    """Stored numbers (band, row, col) of one scene, scale 1e-4, and its classes (row, col), 0 where there is doubt."""
    random = np.random.default_rng((seed, number))
    site, conditions = _site(random), Conditions.drawn(random)
    ground = survey(site)
    cloud, shadow = _clouds(site, random)
    light = _reflected(ground, conditions)
    light *= 1 - conditions.shadow[:, None, None] * shadow
    light = light * conditions.passed[:, None, None] + conditions.added[:, None, None]
    bright = conditions.cloud[:, None, None] * (np.float32(0.7) + np.float32(0.6) * site.noise(72, 24, 4))
    light += cloud * (bright - light)
    seen = np.stack([_blurred(band, conditions.blurs[number >= _TEN_METRES]) for number, band in enumerate(light)])
    steady, relative = conditions.noise
    seen += (steady + relative * seen) * random.standard_normal(seen.shape).astype(np.float32)
    covers, opacity = _inner(COVER_OF_KIND[ground.kind]), _inner(cloud)
    classes = np.where(opacity > _HIDES, Cover.CLOUD, covers).astype(np.uint8) + np.uint8(1)
    classes[(opacity > _VEILS) & (opacity <= _HIDES)] = 0
    return np.clip(np.rint(seen / _SCALE), 1, 65_535).astype(np.uint16), classes


_TEN_METRES = 4
"""Bands of `BANDS` that Sentinel-2 has at 10 m; the others are of 20 m."""
_VEILS, _HIDES = 0.12, 0.45
"""Opacity from which a cloud is not nothing, and from which it hides the ground."""


def _site(random: np.random.Generator) -> Site:
    """A square of a landscape of any size, where something is to be seen, or anywhere."""
    side = int(random.integers(500, 4000))
    parts = random.random(2)
    if random.random() < 0.6:
        parts = np.clip(_PLACES[int(random.integers(len(_PLACES)))] + random.normal(0, 0.04, 2), 0, 1)
    top, left = (int(start) for start in parts * (side - SIDE))
    grown = Window(row_off=top - MARGIN, col_off=left - MARGIN, height=SIDE + 2 * MARGIN, width=SIDE + 2 * MARGIN)
    return Site.of(grown, side, side, int(random.integers(2**31)))


def _reflected(ground: Ground, conditions: Conditions) -> Floats:
    """Reflectance (band, row, col) of the ground."""
    blend = np.clip(ground.blend, np.float32(0), np.float32(1))
    first, last = conditions.spectra
    reflected: Floats = first.T[:, ground.kind] + (last - first).T[:, ground.kind] * blend
    return reflected * (ground.light ** np.float32(conditions.relief) * np.float32(conditions.sun))


def _clouds(site: Site, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Opacity of clouds (row, col), and of those that stand between the pixel and the sun; often there are none."""
    nothing = np.zeros((len(site.rows), len(site.cols)), np.float32)
    if random.random() < 0.45:
        return nothing, nothing
    level, period = random.uniform(0.45, 0.75), random.uniform(30, 220)
    steep, most = random.uniform(3, 16), random.uniform(0.6, 1.0)
    away = Site(
        rows=site.rows + int(random.integers(6, 60)),
        cols=site.cols + int(random.integers(-30, 60)),
        height=site.height,
        width=site.width,
        seed=site.seed,
    )
    here, there = (
        np.float32(most) * smooth((place.noise(71, period, 5) - np.float32(level)) * np.float32(steep))
        for place in (site, away)
    )
    return here, there


def _blurred(band: Floats, times: int) -> Floats:
    """A binomial kernel of 3 x 3, so many times; the margin goes."""
    for _ in range(times):
        band = (band[:-2] + band[2:]) * np.float32(0.25) + band[1:-1] * np.float32(0.5)
        band = (band[:, :-2] + band[:, 2:]) * np.float32(0.25) + band[:, 1:-1] * np.float32(0.5)
    rim = MARGIN - times
    return band[rim:-rim, rim:-rim]


def _inner(array: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
    return array[MARGIN:-MARGIN, MARGIN:-MARGIN]
