"""The ground of the synthetic scene: fields in parcels, forests, towns and roads, a river, a lake, mountains.

`survey` walks through the scene as a painter does, from the fields at the bottom to the roads on top. The layout
(river, lake, main town, mountains) follows the scene's size; the grain (parcels, streets, trees) does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geoseg.testing.noise import Floats, Integers, bell, bent_noise, fractal, hashed, smooth, uniform, value_noise
from geoseg.testing.spectra import ROUGHNESS, Kind
from geoseg.window import Window

__all__ = ["Ground", "Site", "survey"]

Mask = npt.NDArray[np.bool_]

DISTRICT = 520  # pixels between the seeds of districts: land whose parcels share one direction
TOWN_SPACING = 1500
SUN = (0.39, 0.52, 0.76)  # towards east, south, up: late morning in June
CROPS = {  # shares of the parcels, in 256ths
    Kind.GRASS: 62, Kind.GREEN_CEREAL: 60, Kind.RIPE_CEREAL: 30, Kind.RAPESEED: 18, Kind.YOUNG_MAIZE: 30,
    Kind.SOIL: 34, Kind.STUBBLE: 14, Kind.DECIDUOUS: 6, Kind.CONIFER: 2,
}  # fmt: skip
CROP_OF_BYTE = np.repeat(np.array(list(CROPS), dtype=np.uint8), list(CROPS.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The pixels to paint, and the scene that they lie in."""

    rows: Integers
    """Absolute rows, ascending by one."""
    cols: Integers
    """Absolute columns, ascending by one."""
    height: int
    """Rows of the scene."""
    width: int
    """Columns of the scene."""
    seed: int
    """Which of all scenes."""

    @classmethod
    def of(cls, window: Window, height: int, width: int, seed: int) -> Site:
        """The site of `window` in a scene of `height` x `width`."""
        rows, cols = np.arange(window.row_off, window.row_stop), np.arange(window.col_off, window.col_stop)
        return cls(rows=rows, cols=cols, height=height, width=width, seed=seed)

    @property
    def side(self) -> int:
        """The shorter side of the scene: what large features measure themselves by."""
        return min(self.height, self.width)

    def key(self, use: int) -> int:
        """Key of the random numbers for one use."""
        return self.seed * 7919 + use * 1009

    def noise(self, use: int, period: float, octaves: int = 1) -> Floats:
        """Fractal noise in [0, 1)."""
        return fractal(self.rows, self.cols, max(1, round(period)), self.key(use), octaves)

    def line(self, use: int, period: float, along: Integers) -> Floats:
        """Noise of one dimension in [-1, 1), along rows or columns."""
        values = value_noise(along, np.zeros(1, dtype=np.int64), max(1, round(period)), self.key(use))
        return np.float32(2) * values[:, 0] - np.float32(1)

    def bump(self, row: float, col: float, high: float, wide: float) -> Floats:
        """A hill of 1 at (row, col), 0 on an ellipse of half axes `high` and `wide`, negative outside."""
        down = (((self.rows - row) / high) ** 2).astype(np.float32)
        along = (((self.cols - col) / wide) ** 2).astype(np.float32)
        return np.float32(1) - down[:, None] - along[None, :]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What lies at each pixel of a site: three arrays (row, col)."""

    kind: npt.NDArray[np.uint8]
    """`Kind`."""
    blend: Floats
    """0 to 1: where between the two ends of the kind's spectrum."""
    light: Floats
    """Factor on the reflectance: relief and texture."""

    def paint(self, where: Mask, kind: Kind, blend: Floats | float) -> None:
        """Puts `kind` over what is there."""
        np.copyto(self.kind, np.uint8(kind), where=where)
        np.copyto(self.blend, np.float32(blend) if isinstance(blend, float) else blend, where=where)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Districts:
    """The nearest district of each pixel, and the axes along which its parcels and streets run."""

    key: npt.NDArray[np.uint32]
    """(row, col) random bits of the district."""
    border: Floats
    """(row, col) distance to the next district, about, in pixels."""
    u: Floats
    """(row, col) pixels along the district's strips."""
    v: Floats
    """(row, col) pixels across them."""
    strip: Floats
    """(row, col) mean width of a strip in pixels."""


def survey(site: Site) -> Ground:
    """The ground at every pixel of `site`."""
    districts = _districts(site)
    ground = _fields(site, districts)
    _forests(site, ground)
    _towns(site, districts, ground)
    _lakes(site, ground)
    _river(site, ground)
    height = _mountains(site, ground)
    _roads(site, districts, height, ground)
    ground.light[:] *= np.float32(1) + ROUGHNESS[ground.kind] * bell(
        site.rows[:, None], site.cols[None, :], site.key(1)
    )
    return ground


def _districts(site: Site) -> _Districts:
    """Voronoi cells around jittered seeds, their borders bent a little."""
    x = site.cols.astype(np.float32) + np.float32(70) * (site.noise(2, 190, 2) - np.float32(0.5))
    y = site.rows.astype(np.float32)[:, None] + np.float32(70) * (site.noise(3, 190, 2) - np.float32(0.5))
    seeds = _seeds(site)
    nearest, second = np.full(x.shape, np.inf, np.float32), np.full(x.shape, np.inf, np.float32)
    owner = np.zeros(x.shape, dtype=np.uint8)
    for number, (row, col) in enumerate(seeds):
        distance = np.square(x - np.float32(col)) + np.square(y - np.float32(row))
        np.copyto(owner, np.uint8(number), where=distance < nearest)
        np.minimum(second, np.maximum(nearest, distance), out=second)
        np.minimum(nearest, distance, out=nearest)
    places = np.array([(int(row), int(col)) for row, col in seeds])
    bits = hashed(places[:, 0], places[:, 1], site.key(4))
    angles = [math.pi * int(number % 64) / 64 for number in bits]
    cosine = np.array([math.cos(angle) for angle in angles], dtype=np.float32)[owner]
    sine = np.array([math.sin(angle) for angle in angles], dtype=np.float32)[owner]
    across, down = site.cols.astype(np.float32), site.rows.astype(np.float32)[:, None]
    return _Districts(
        key=bits[owner],
        border=(np.sqrt(second) - np.sqrt(nearest)) * np.float32(0.5),
        u=across * cosine + down * sine,
        v=down * cosine - across * sine,
        strip=(np.float32(12) + (bits >> np.uint32(6) & np.uint32(15)).astype(np.float32))[owner],
    )


def _seeds(site: Site) -> list[tuple[float, float]]:
    """(row, col) of every seed that can be the nearest or the second nearest of a pixel of the site."""
    reach = 1.7 * DISTRICT + 40  # the second nearest of jittered seeds lies closer than this, bends included
    cells = [
        np.arange((a[0] - reach) // DISTRICT, (a[-1] + reach) // DISTRICT + 1, dtype=int)
        for a in (site.rows, site.cols)
    ]
    near = []
    for i in cells[0]:
        for j in cells[1]:
            shift = [float(uniform(np.array([i]), np.array([j]), site.key(use))[0]) for use in (5, 6)]
            row, col = (i + 0.2 + 0.6 * shift[0]) * DISTRICT, (j + 0.2 + 0.6 * shift[1]) * DISTRICT
            gap = math.hypot(
                max(site.rows[0] - row, row - site.rows[-1], 0), max(site.cols[0] - col, col - site.cols[-1], 0)
            )
            if gap <= reach:
                near.append((row, col))
    return near


def _fields(site: Site, districts: _Districts) -> Ground:
    """Strips cut into parcels; each parcel has one crop at one stage, with the soil showing through."""
    across = districts.v / districts.strip
    strip = np.floor(across)
    strip -= (
        hashed(strip.astype(np.int32), districts.key, site.key(11)) >> np.uint32(30) == 0
    )  # some strips are twice as wide
    strip_bits = hashed(strip.astype(np.int32), districts.key, site.key(7))
    share = (strip_bits & np.uint32(1023)).astype(np.float32) * np.float32(1 / 1023)
    along = districts.u / (districts.strip * (np.float32(1.2) + np.float32(2.4) * share)) + np.float32(9) * share
    parcel = hashed(np.floor(along).astype(np.int32), strip_bits, site.key(8))
    blend = (parcel & np.uint32(0xFFFF)).astype(np.float32) * np.float32(1 / 0xFFFF)
    lanes = uniform(np.floor(districts.v * np.float32(0.8)).astype(np.int32), parcel, site.key(9))  # rows of the drill
    blend += np.float32(0.5) * (site.noise(10, 48, 4) - np.float32(0.5)) + np.float32(0.16) * (lanes - np.float32(0.5))
    kind = CROP_OF_BYTE[parcel >> np.uint32(24)]
    ground = Ground(kind=kind, blend=blend, light=np.ones_like(blend))
    inside = (across - np.floor(across)) * districts.strip
    edge = np.minimum(inside, districts.strip - inside) < np.float32(0.55)
    ground.paint(edge & (strip_bits >> np.uint32(29) < 3), Kind.TRACK, 0.5)
    ground.paint(edge & (strip_bits >> np.uint32(29) == 3), Kind.DECIDUOUS, 0.5)  # hedges
    return ground


def _forests(site: Site, ground: Ground) -> None:
    """Woods with ragged edges, conifers and broadleaves in stands."""
    wood = site.noise(12, 640, 6) + np.float32(0.06) * (site.noise(13, 12, 3) - np.float32(0.5))
    stand = site.noise(14, 110, 4)
    age = site.noise(15, 36, 2)
    inside = wood > np.float32(0.575)
    ground.paint(inside & (stand > np.float32(0.5)), Kind.CONIFER, age)
    ground.paint(inside & (stand <= np.float32(0.5)), Kind.DECIDUOUS, age)


def _towns(site: Site, districts: _Districts, ground: Ground) -> None:
    """Streets, houses and gardens, denser towards the middle; halls and yards at the rim."""
    density = _density(site)
    if density.max() < -0.75:
        return
    density += np.float32(1.5) * (site.noise(16, 90, 5) - np.float32(0.5))
    town = density > 0
    roll = uniform(
        np.floor(districts.u / np.float32(1.9)).astype(np.int32),
        np.floor(districts.v / np.float32(1.6)).astype(np.int32),
        site.key(17),
    )
    tone = uniform(site.rows[:, None] // 2, site.cols[None, :] // 2, site.key(18))
    built = np.float32(0.34) + np.float32(0.5) * density + np.float32(0.5) * (site.noise(33, 22, 2) - np.float32(0.5))
    ground.paint(town, Kind.GARDEN, tone)
    ground.paint(town & (roll < built), Kind.ROOF, tone)
    ground.paint(town & (roll < built * np.float32(0.04)), Kind.HALL, tone)
    works = town & (site.noise(19, 90, 2) > np.float32(0.70))
    block = uniform(
        np.floor(districts.u / np.float32(9)).astype(np.int32),
        np.floor(districts.v / np.float32(6)).astype(np.int32),
        site.key(20),
    )
    ground.paint(works & (block < np.float32(0.6)), Kind.HALL, block)
    ground.paint(works & (block >= np.float32(0.6)), Kind.ASPHALT, tone)
    street = _every(districts.u, 13) | _every(districts.v, 9)
    ground.paint(town & street, Kind.ASPHALT, tone)


def _every(along: Floats, period: float) -> Mask:
    """True over one pixel in each `period` pixels."""
    turns = along * np.float32(1 / period)
    within: Mask = turns - np.floor(turns) < np.float32(1 / period)
    return within


def _density(site: Site) -> Floats:
    """1 in the middle of a town, 0 at its rim, negative outside: the main town, and villages on a jittered grid."""
    radius = min(420.0, max(24.0, 0.085 * site.side))
    density = site.bump(0.64 * site.height, 0.52 * site.width, radius, 1.25 * radius)
    rows = range((int(site.rows[0]) - 300) // TOWN_SPACING, (int(site.rows[-1]) + 300) // TOWN_SPACING + 1)
    cols = range((int(site.cols[0]) - 300) // TOWN_SPACING, (int(site.cols[-1]) + 300) // TOWN_SPACING + 1)
    for cell in ((i, j, n) for i in rows for j in cols for n in range(3)):
        place = np.array(cell[:1]) * 3 + cell[2], np.array(cell[1:2])
        down, along, size = (float(uniform(*place, site.key(use))[0]) for use in (21, 22, 23))
        extent = 22 + 110 * size**3
        village = site.bump((cell[0] + down) * TOWN_SPACING, (cell[1] + along) * TOWN_SPACING, extent, extent)
        np.maximum(density, village, out=density)
    return density


def _lakes(site: Site, ground: Ground) -> None:
    """One lake whose shore is a contour of noise, and ponds."""
    side = site.side
    depth = site.bump(0.27 * site.height, 0.68 * site.width, 0.10 * side, 0.16 * side)
    if depth.max() > -0.8:
        depth += np.float32(1.6) * (site.noise(24, 0.11 * side, 6) - np.float32(0.5))
        ground.paint(depth > np.float32(0.30), Kind.DECIDUOUS, 0.8)
        ground.paint(depth > np.float32(0.32), Kind.LAKE, smooth((depth - np.float32(0.32)) * np.float32(2.5)))
    ground.paint(site.noise(25, 210, 3) > np.float32(0.895), Kind.LAKE, 0.6)


def _river(site: Site, ground: Ground) -> None:
    """A meandering river with gravel bars and a wooded bank."""
    swing = min(150.0, site.width / 9)
    middle = 0.30 * site.width + 0.10 * site.width * site.line(26, 0.31 * site.height, site.rows)
    middle += swing * site.line(27, 1.3 * swing, site.rows) + 0.2 * swing * site.line(28, 0.45 * swing, site.rows)
    bend = site.noise(29, 1.1 * swing)
    across = (site.cols.astype(np.float32) - middle[:, None].astype(np.float32)) + np.float32(0.5 * swing) * bend
    slopes = np.gradient(across)
    steep = np.sqrt(np.square(slopes[0]) + np.square(slopes[1]))
    distance = np.abs(across) / np.maximum(steep, np.float32(0.6))
    half = np.float32(3.4) + np.float32(1.2) * site.line(30, 400, site.rows)[:, None]
    if distance.min() > 40:
        return
    bank = site.noise(31, 30, 3)
    ground.paint(distance < half + np.float32(30) * bank - np.float32(6), Kind.DECIDUOUS, bank)
    ground.paint((distance < half + np.float32(3.2)) & (bank > np.float32(0.6)), Kind.GRAVEL, bank)
    ground.paint(distance < half, Kind.RIVER, bank)


def _mountains(site: Site, ground: Ground) -> Floats:
    """Foothills to snow towards the lower right; sets the light; returns the height, 0 in the plain to about 1."""
    down, along = (site.rows / site.height).astype(np.float32), (site.cols / site.width).astype(np.float32)
    rise = np.float32(0.72) * down[:, None] + np.float32(0.58) * along[None, :]
    if rise.max() < 0.775:
        return np.zeros_like(ground.blend)
    foot = smooth(
        (rise - np.float32(0.88) + np.float32(0.2) * (site.noise(32, 500, 3) - np.float32(0.5))) * np.float32(2.6)
    )
    height = foot * (np.float32(0.22) + np.float32(1.05) * _ridges(site))
    slopes = np.gradient(height * np.float32(240))  # heights in pixels: 1 is 2400 m above the plain
    normal = np.sqrt(np.float32(1) + np.square(slopes[0]) + np.square(slopes[1]))
    facing = (np.float32(SUN[2]) - np.float32(SUN[0]) * slopes[1] - np.float32(SUN[1]) * slopes[0]) / normal
    ground.light[:] = np.clip(facing / np.float32(SUN[2]), np.float32(0.3), np.float32(1.3))
    ragged = height + np.float32(0.16) * (site.noise(34, 60, 5) - np.float32(0.5))
    tone = site.noise(35, 24, 3)
    ground.paint(ragged > np.float32(0.10), Kind.GRASS, tone)
    wooded = (ragged > np.float32(0.13)) & (site.noise(36, 150, 4) + height > np.float32(0.60))
    ground.paint(wooded, Kind.CONIFER, tone)
    ground.paint(ragged > np.float32(0.47), Kind.MEADOW, tone)
    ground.paint((ragged > np.float32(0.55)) & (normal > np.float32(1.12)), Kind.ROCK, tone)
    ground.paint(ragged > np.float32(0.60), Kind.ROCK, tone)
    ground.paint((ragged > np.float32(0.68)) & (normal < np.float32(1.75)), Kind.SNOW, tone)
    return height


def _ridges(site: Site) -> Floats:
    """Noise with sharp crests, in [0, 1]: each scale turned against the one before, and all of them bent."""
    y = site.rows.astype(np.float32)[:, None] + np.float32(130) * site.noise(38, 240, 3)
    x = site.cols.astype(np.float32)[None, :] + np.float32(130) * site.noise(39, 240, 3)
    total = np.zeros_like(y)
    for octave in range(5):
        crest = np.abs(np.float32(2) * bent_noise(y, x, 330 / 2**octave, site.key(40 + octave)) - np.float32(1))
        total += np.square(np.float32(1) - crest) * np.float32(0.5**octave)
        y, x = (
            np.float32(0.8) * y + np.float32(0.6) * x,
            np.float32(0.8) * x - np.float32(0.6) * y,
        )  # turned by 37 degrees
    return total * np.float32(1 / 1.94)


def _roads(site: Site, districts: _Districts, height: Floats, ground: Ground) -> None:
    """Country roads along the borders of districts, and a motorway from west to east."""
    plain = height < np.float32(0.13)
    wet = ground.kind <= Kind.RIVER
    ground.paint((districts.border < np.float32(0.7)) & plain & ~wet, Kind.ASPHALT, 0.7)
    course = 0.47 * site.height + 0.10 * site.height * site.line(37, 0.4 * site.width, site.cols)
    slope = np.gradient(course) if course.size > 1 else np.zeros_like(course)
    distance = np.abs(site.rows[:, None] - course) / np.sqrt(1 + slope**2)
    ground.paint((distance < 1.6) & plain & (ground.kind != Kind.LAKE), Kind.ASPHALT, 0.2)
