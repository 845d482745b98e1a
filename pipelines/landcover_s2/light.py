"""What lies between the ground and the numbers in a file: season, soil, sun, air, clouds, sensor. All of it is drawn.

A net that learns from generated scenes must not learn how the generator sees the world, so every scene gets spectra,
light and air of its own (domain randomisation: Tobin et al. 2017, doi:10.1109/IROS.2017.8202133). The spans are wider
than those of real scenes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geoseg.testing.noise import Floats
from geoseg.testing.spectra import BANDS, CLOUD_SPECTRUM, COVER_OF_KIND, FIRST_END, SPAN, Cover, Kind

__all__ = ["Conditions"]

_MICROMETRES = np.array([0.49, 0.56, 0.665, 0.84, 1.61, 2.19], np.float32)
"""Middle of each band of `BANDS`."""
_DRY = np.array([0.070, 0.098, 0.130, 0.225, 0.300, 0.215], np.float32)
"""Grass and crops that have withered."""
_BARE_TREES = np.array([0.040, 0.052, 0.062, 0.160, 0.190, 0.120], np.float32)
"""Broadleaved trees without leaves."""
_GREEN = [kind for kind in Kind if COVER_OF_KIND[kind] == Cover.VEGETATION]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conditions:
    """Under which one scene is seen."""

    spectra: Floats
    """Reflectance (end, kind, band) of the two ends of each kind's spectrum."""
    sun: float
    """Factor on all that the ground reflects."""
    relief: float
    """Exponent on the landscape's own light: how much relief and the texture of trees and roofs show."""
    passed: Floats
    """Part of the ground's light that reaches the sensor (band)."""
    added: Floats
    """Reflectance that air adds (band)."""
    cloud: Floats
    """Reflectance of a thick cloud (band)."""
    shadow: Floats
    """Part of the light that a thick cloud takes from the ground behind it (band)."""
    noise: tuple[float, float]
    """Standard deviation of what the sensor adds: of every pixel, and per reflectance."""
    blurs: tuple[int, int]
    """How often the optics of the 10 m and of the 20 m bands spread a pixel over its neighbours."""

    @classmethod
    def drawn(cls, random: np.random.Generator) -> Conditions:
        """Those of one scene."""
        depth = random.uniform(0, 0.25) if random.random() < 0.5 else random.uniform(0.25, 1.0)
        added = depth * random.uniform(0.06, 0.13) * (_MICROMETRES / 0.49) ** -random.uniform(1.3, 3.5)
        gain = np.exp(random.normal(0, 0.04, len(BANDS)))
        passed = gain * (1 - 0.28 * depth * (_MICROMETRES / 0.49) ** -1.3)
        return cls(
            spectra=_spectra(random),
            sun=float(np.exp(random.normal(0, 0.18))),
            relief=float(random.uniform(0.1, 1.2)),
            passed=passed.astype(np.float32),
            added=(added + random.normal(0, 0.002, len(BANDS))).astype(np.float32),
            cloud=(CLOUD_SPECTRUM * random.uniform(0.5, 1.5) * _bent(random, 0.08)).astype(np.float32),
            shadow=np.clip(_SHADOW * random.uniform(0.5, 1.25), 0, 0.92).astype(np.float32),
            noise=(float(random.uniform(0.0004, 0.004)), float(random.uniform(0.002, 0.03))),
            blurs=(int(random.integers(0, 3)), int(random.integers(1, 4))),
        )


_SHADOW = np.array([0.42, 0.50, 0.56, 0.64, 0.68, 0.70], np.float32)


def _bent(random: np.random.Generator, spread: float, *shape: int) -> npt.NDArray[np.float64]:
    """Factors (*shape, band) that run smoothly over the bands, and a little noise on each."""
    place = np.log(_MICROMETRES / 1.0)
    level, slope = (random.normal(0, spread, (*shape, 1)) for _ in range(2))
    noise = random.normal(0, 0.35 * spread, (*shape, len(BANDS)))
    factors: npt.NDArray[np.float64] = np.exp(level + slope * place + noise)
    return factors


def _spectra(random: np.random.Generator) -> Floats:
    """Spectra of a place and a season (end, kind, band)."""
    ends = np.stack([FIRST_END, FIRST_END + SPAN]).astype(np.float64)
    ends *= _bent(random, 0.15, 1, len(Kind)) * _bent(random, 0.08, 2, len(Kind))
    water = [Kind.LAKE, Kind.RIVER]
    ends[:, water] *= _bent(random, 0.35, 1, 2)
    ends[:, water] += random.exponential(0.008)  # glint, and air above dark water
    withered = np.clip(random.normal(0.1, 0.25), 0, 0.75)
    ends[:, _GREEN] += (withered * random.uniform(0.4, 1, (len(_GREEN), 1))) * (_DRY - ends[:, _GREEN])
    leafless = np.clip(random.normal(0.0, 0.4), 0, 1)
    ends[:, Kind.DECIDUOUS] += leafless * (_BARE_TREES - ends[:, Kind.DECIDUOUS])
    soils = [Kind.SOIL, Kind.STUBBLE, Kind.TRACK, Kind.ROCK, Kind.GRAVEL]
    ends[:, soils] *= _bent(random, 0.15, 1, 1)  # one geology
    return np.clip(ends, 0.001, 1.3).astype(np.float32)
