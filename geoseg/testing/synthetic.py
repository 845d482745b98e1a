"""A Sentinel-2-like scene of any size, made from a seed: what demo, tests and benchmarks run on.

Every pixel follows from its absolute position alone, so a window is the same however the scene is cut, and scenes far
larger than memory can be written block by block.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from geoseg.errors import BandError, GridError
from geoseg.protocols import Source
from geoseg.scene import Band, BandSet, Scaling
from geoseg.testing.fakes import geobox_of
from geoseg.testing.landscape import Ground, Site, survey
from geoseg.testing.noise import Floats, bell, smooth
from geoseg.testing.spectra import BANDS, CLOUD_SPECTRUM, COVER_OF_KIND, FIRST_END, SPAN, Cover
from geoseg.types import Pixels, Valid
from geoseg.window import GeoBox, Window, whole

__all__ = ["SyntheticScene", "write_scene", "write_truth"]

SCALE = 1e-4
NODATA = 0
BLOCK = 512
PIECE = 512  # pixels: what is computed at once; small enough to stay in the processor's cache
MARGIN = 3  # pixels around a piece that blur and slopes look at
SHADOW = np.array([0.42, 0.50, 0.56, 0.64, 0.68, 0.70], dtype=np.float32)  # skylight still fills the blue


@dataclass(frozen=True, slots=True)
class SyntheticScene:
    """A Source of one synthetic acquisition: six bands of reflectance as uint16, scale 1e-4, 0 = nodata.

    Farmland with a river, a lake, a town and villages, woods, mountains with snow in the lower right corner, one cloud
    with small ones around it and their shadows, and the slanted edge of a swath across the upper left corner.

    >>> scene = SyntheticScene(300, 400, seed=7)
    >>> pixels, valid = scene.read(Window(row_off=100, col_off=200, height=2, width=3))
    >>> pixels.shape, str(pixels.dtype), bool(valid.all())
    ((6, 2, 3), 'uint16', True)
    """

    height: int
    """Rows."""
    width: int
    """Columns."""
    seed: int = 0
    """Which of all scenes."""
    names: tuple[str, ...] = field(default=BANDS, kw_only=True)
    """Bands to read, in this order; some of blue, green, red, nir, swir16, swir22."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise GridError(f"a scene of {self.height} x {self.width} pixels cannot be made")
        unknown = set(self.names) - set(BANDS)
        if unknown or not self.names:
            raise BandError(
                f"no synthetic band {', '.join(sorted(unknown)) or 'named'}; choose from {', '.join(BANDS)}"
            )

    @property
    def geobox(self) -> GeoBox:
        """UTM zone 32 north, 10 m."""
        return geobox_of(self.height, self.width)

    @property
    def bands(self) -> BandSet:
        """What `read` returns along its first axis."""
        scaling = Scaling(scale=SCALE)
        return BandSet(tuple(Band(name=n, dtype="uint16", scaling=scaling, nodata=NODATA) for n in self.names))

    @property
    def block(self) -> tuple[int, int]:
        """(rows, cols) that are convenient to read."""
        return BLOCK, BLOCK

    def read(self, window: Window) -> tuple[Pixels, Valid]:
        """Stored numbers (band, row, col) and usable pixels (row, col); see `geoseg.protocols.Source.read`."""
        pixels = np.full((len(self.names), *window.shape), NODATA, dtype=np.uint16)
        chosen = [BANDS.index(name) for name in self.names]
        for piece in (window & whole(self.geobox)).pieces(PIECE, PIECE):
            pixels[:, *piece.within(window).slices] = self._observe(piece, chosen)
        valid: Valid = pixels[0] != NODATA
        return pixels, valid

    def truth(self, window: Window) -> npt.NDArray[np.uint8]:
        """`Cover` of each pixel (row, col): what lies there, a cloud before the ground below it, 255 without data."""
        covers = np.full(window.shape, Cover.NODATA, dtype=np.uint8)
        for piece in (window & whole(self.geobox)).pieces(PIECE, PIECE):
            site = self._site(piece)
            ground = _inner(COVER_OF_KIND[survey(site).kind])
            ground[_inner(_clouds(site)) > np.float32(0.3)] = Cover.CLOUD
            ground[self._beyond_swath(piece)] = Cover.NODATA
            covers[piece.within(window).slices] = ground
        return covers

    def identity(self) -> Mapping[str, str]:
        """Its arguments: they are all that it depends on."""
        return {f"synthetic:{self.height}x{self.width}": f"seed {self.seed}, bands {','.join(self.names)}"}

    def _site(self, piece: Window) -> Site:
        grown = Window.from_bounds(
            piece.row_off - MARGIN, piece.col_off - MARGIN, piece.row_stop + MARGIN, piece.col_stop + MARGIN
        )
        return Site.of(grown, self.height, self.width, self.seed)

    def _beyond_swath(self, piece: Window) -> npt.NDArray[np.bool_]:
        rows, cols = np.arange(piece.row_off, piece.row_stop), np.arange(piece.col_off, piece.col_stop)
        beyond: npt.NDArray[np.bool_] = 100 * cols[None, :] + 22 * rows[:, None] < 9 * self.width - 100
        return beyond

    def _observe(self, piece: Window, chosen: list[int]) -> npt.NDArray[np.uint16]:
        """What the sensor stores for a piece (band, row, col): ground, clouds, optics, noise."""
        site = self._site(piece)
        ground = survey(site)
        cloud, shadow = _clouds(site), _clouds(site, shadow=True)
        brightness = np.float32(0.55) + np.float32(0.75) * site.noise(53, 34, 5) if cloud.any() else np.float32(1)
        rows, cols = site.rows[MARGIN:-MARGIN, None], site.cols[None, MARGIN:-MARGIN]
        stored = np.empty((len(chosen), *piece.shape), dtype=np.uint16)
        for place, band in enumerate(chosen):
            light = _reflect(ground, band)
            light *= np.float32(1) - SHADOW[band] * shadow
            light += cloud * (CLOUD_SPECTRUM[band] * brightness - light)
            light = _blur(light, 2 if band >= 4 else 1)
            light += (np.float32(0.0009) + np.float32(0.006) * light) * bell(rows, cols, site.key(60 + band))
            stored[place] = np.clip(np.rint(light * np.float32(1 / SCALE)), 1, 20_000).astype(np.uint16)
        stored[:, self._beyond_swath(piece)] = NODATA
        return stored


def _inner(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    return array[MARGIN:-MARGIN, MARGIN:-MARGIN]


def _reflect(ground: Ground, band: int) -> Floats:
    """Reflectance of the ground in one band, under its light."""
    light: Floats = SPAN[:, band][ground.kind]
    light *= np.clip(ground.blend, np.float32(0), np.float32(1))
    light += FIRST_END[:, band][ground.kind]
    light *= ground.light
    return light


def _blur(light: Floats, times: int) -> Floats:
    """Optics: a binomial kernel of 3 x 3, once for the 10 m bands, twice for the 20 m bands; the margin goes."""
    for _ in range(times):
        light = (light[:-2] + light[2:]) * np.float32(0.25) + light[1:-1] * np.float32(0.5)
        light = (light[:, :-2] + light[:, 2:]) * np.float32(0.25) + light[:, 1:-1] * np.float32(0.5)
    rim = MARGIN - times
    return light[rim:-rim, rim:-rim]


def _clouds(site: Site, *, shadow: bool = False) -> Floats:
    """Opacity of the clouds in [0, 1]; with `shadow`, of those that stand between the pixel and the sun."""
    side = site.side
    if shadow:
        site = Site(
            rows=site.rows + max(1, min(70, side // 40)),
            cols=site.cols + max(1, min(52, side // 54)),
            height=site.height,
            width=site.width,
            seed=site.seed,
        )
    bump = site.bump(0.235 * site.height, 0.275 * site.width, 0.075 * side, 0.095 * side)
    for row, col, size in ((0.36, 0.20, 0.022), (0.17, 0.40, 0.028), (0.33, 0.37, 0.020), (0.12, 0.22, 0.016)):
        small = site.bump(row * site.height, col * site.width, size * side, 1.3 * size * side)
        np.maximum(bump, small, out=bump)
    if bump.max() < -0.6:
        return np.zeros_like(bump)
    bump += np.float32(1.9) * (site.noise(52, 0.05 * side, 6) - np.float32(0.5))
    return smooth((bump - np.float32(0.35)) * np.float32(1.7))


def write_scene(
    path: str | os.PathLike[str],
    height: int,
    width: int,
    seed: int = 0,
    *,
    names: Sequence[str] = BANDS,
    datetime: str = "2024:06:14 10:20:31",
) -> Path:
    """Writes a `SyntheticScene` as a cloud-optimised GeoTIFF, block by block, and returns its path.

    512 x 512 blocks, DEFLATE with predictor 2, averaged overviews, band names as descriptions, scale tags, nodata 0.
    Needs rasterio, and for a while room for a second, hardly compressed copy beside `path`.
    """
    import rasterio
    from rasterio.shutil import copy
    from rasterio.windows import Window as RasterWindow

    scene = SyntheticScene(height, width, seed, names=tuple(names))
    target = Path(path)
    draft = target.with_name(f".{target.name}.draft.tif")
    ready = target.with_name(f".{target.name}.ready.tif")
    profile = {"driver": "GTiff", "dtype": "uint16", "count": len(names), "height": height, "width": width}
    layout = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "zstd", "zstd_level": 1}
    place = {"crs": str(scene.geobox.crs), "transform": scene.geobox.transform, "nodata": NODATA}
    with rasterio.Env(GDAL_CACHEMAX=256):  # MB: what keeps memory flat, whatever the scene's size
        with rasterio.open(draft, "w", **profile, **layout, **place, bigtiff="if_safer") as raster:
            raster.descriptions = tuple(names)
            raster.scales = (SCALE,) * len(names)
            raster.update_tags(TIFFTAG_DATETIME=datetime)
            for window in whole(scene.geobox).pieces(BLOCK, BLOCK):
                area = RasterWindow(window.col_off, window.row_off, window.width, window.height)
                raster.write(scene.read(window)[0], window=area)
        options = {
            "blocksize": BLOCK,
            "compress": "deflate",
            "predictor": 2,
            "bigtiff": "if_safer",
            "num_threads": "all_cpus",
        }
        copy(draft, ready, driver="COG", overview_resampling="average", **options)
    draft.unlink()
    return ready.replace(target)


def write_truth(path: str | os.PathLike[str], height: int, width: int, seed: int = 0) -> Path:
    """Writes what `SyntheticScene.truth` says as a GeoTIFF of `Cover`, block by block, and returns its path.

    Needs rasterio.
    """
    import rasterio
    from rasterio.windows import Window as RasterWindow

    scene = SyntheticScene(height, width, seed)
    target = Path(path)
    draft = target.with_name(f".{target.name}.draft.tif")
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "height": height, "width": width}
    layout = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "deflate"}
    place = {"crs": str(scene.geobox.crs), "transform": scene.geobox.transform, "nodata": int(Cover.NODATA)}
    with rasterio.open(draft, "w", **profile, **layout, **place) as raster:
        for window in whole(scene.geobox).pieces(BLOCK, BLOCK):
            area = RasterWindow(window.col_off, window.row_off, window.width, window.height)
            raster.write(scene.truth(window), 1, window=area)
    return draft.replace(target)


_: type[Source] = SyntheticScene
