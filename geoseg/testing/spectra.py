"""What the ground of the synthetic scene looks like to Sentinel-2, kind by kind.

Reflectances are at the bottom of the atmosphere, in the order blue, green, red, nir, swir16, swir22, and of the size
that spectral libraries and Level-2A products give for each kind; each kind runs between two ends (dull to lush, moist
to dry, shallow to deep).
"""

from __future__ import annotations

from enum import IntEnum, auto

import numpy as np

__all__ = ["BANDS", "CLOUD_SPECTRUM", "COVERS", "COVER_OF_KIND", "FIRST_END", "ROUGHNESS", "SPAN", "Cover", "Kind"]

BANDS = ("blue", "green", "red", "nir", "swir16", "swir22")
CLOUD_SPECTRUM = np.array([0.60, 0.60, 0.61, 0.64, 0.47, 0.36], dtype=np.float32)


class Cover(IntEnum):
    """What `SyntheticScene.truth` tells apart."""

    WATER = 0
    VEGETATION = 1
    FOREST = 2
    BARE = 3
    BUILT = 4
    SNOW = 5
    CLOUD = 6
    NODATA = 255


COVERS: dict[int, str] = {cover.value: cover.name.lower() for cover in Cover}


class Kind(IntEnum):
    """What a pixel's ground is, finer than `Cover`."""

    LAKE = 0
    RIVER = auto()
    GRASS = auto()
    GREEN_CEREAL = auto()
    RIPE_CEREAL = auto()
    RAPESEED = auto()
    YOUNG_MAIZE = auto()
    STUBBLE = auto()
    SOIL = auto()
    DECIDUOUS = auto()
    CONIFER = auto()
    TRACK = auto()
    ASPHALT = auto()
    ROOF = auto()
    HALL = auto()
    GARDEN = auto()
    GRAVEL = auto()
    MEADOW = auto()
    ROCK = auto()
    SNOW = auto()


_TABLE: dict[Kind, tuple[Cover, float, tuple[float, ...], tuple[float, ...]]] = {
    # kind: cover, roughness (relative), one end, the other end
    Kind.LAKE: (Cover.WATER, 0.02, (0.048, 0.062, 0.034, 0.016, 0.008, 0.006), (0.032, 0.030, 0.017, 0.010, 0.006, 0.005)),
    Kind.RIVER: (Cover.WATER, 0.03, (0.052, 0.070, 0.050, 0.024, 0.012, 0.009), (0.058, 0.080, 0.066, 0.032, 0.014, 0.010)),
    Kind.GRASS: (Cover.VEGETATION, 0.05, (0.045, 0.080, 0.068, 0.290, 0.240, 0.150), (0.030, 0.066, 0.038, 0.420, 0.210, 0.105)),
    Kind.GREEN_CEREAL: (Cover.VEGETATION, 0.03, (0.036, 0.066, 0.046, 0.350, 0.190, 0.095), (0.022, 0.048, 0.024, 0.490, 0.165, 0.070)),
    Kind.RIPE_CEREAL: (Cover.VEGETATION, 0.03, (0.058, 0.090, 0.098, 0.290, 0.280, 0.190), (0.048, 0.086, 0.076, 0.330, 0.250, 0.150)),
    Kind.RAPESEED: (Cover.VEGETATION, 0.03, (0.044, 0.120, 0.105, 0.400, 0.210, 0.110), (0.036, 0.105, 0.070, 0.460, 0.190, 0.090)),
    Kind.YOUNG_MAIZE: (Cover.VEGETATION, 0.04, (0.062, 0.088, 0.094, 0.240, 0.250, 0.180), (0.042, 0.074, 0.058, 0.340, 0.220, 0.130)),
    Kind.STUBBLE: (Cover.BARE, 0.04, (0.092, 0.128, 0.170, 0.245, 0.370, 0.290), (0.110, 0.152, 0.200, 0.285, 0.410, 0.330)),
    Kind.SOIL: (Cover.BARE, 0.05, (0.052, 0.070, 0.088, 0.130, 0.210, 0.175), (0.094, 0.128, 0.172, 0.238, 0.345, 0.300)),
    Kind.DECIDUOUS: (Cover.FOREST, 0.17, (0.022, 0.040, 0.026, 0.300, 0.150, 0.066), (0.018, 0.042, 0.020, 0.400, 0.165, 0.068)),
    Kind.CONIFER: (Cover.FOREST, 0.18, (0.018, 0.028, 0.020, 0.190, 0.090, 0.042), (0.016, 0.030, 0.018, 0.260, 0.110, 0.048)),
    Kind.TRACK: (Cover.BARE, 0.08, (0.085, 0.112, 0.135, 0.215, 0.280, 0.235), (0.105, 0.135, 0.165, 0.235, 0.310, 0.270)),
    Kind.ASPHALT: (Cover.BUILT, 0.07, (0.088, 0.098, 0.108, 0.130, 0.155, 0.145), (0.118, 0.130, 0.142, 0.166, 0.195, 0.180)),
    Kind.ROOF: (Cover.BUILT, 0.16, (0.080, 0.098, 0.142, 0.190, 0.240, 0.225), (0.130, 0.142, 0.165, 0.200, 0.235, 0.220)),
    Kind.HALL: (Cover.BUILT, 0.10, (0.170, 0.180, 0.190, 0.215, 0.235, 0.215), (0.300, 0.315, 0.325, 0.345, 0.350, 0.320)),
    Kind.GARDEN: (Cover.VEGETATION, 0.14, (0.048, 0.072, 0.062, 0.270, 0.200, 0.125), (0.034, 0.058, 0.040, 0.340, 0.185, 0.100)),
    Kind.GRAVEL: (Cover.BARE, 0.08, (0.170, 0.200, 0.220, 0.260, 0.300, 0.270), (0.220, 0.250, 0.275, 0.315, 0.350, 0.320)),
    Kind.MEADOW: (Cover.VEGETATION, 0.06, (0.050, 0.084, 0.080, 0.270, 0.250, 0.160), (0.038, 0.076, 0.052, 0.370, 0.220, 0.120)),
    Kind.ROCK: (Cover.BARE, 0.09, (0.110, 0.125, 0.140, 0.175, 0.225, 0.200), (0.170, 0.190, 0.208, 0.245, 0.290, 0.260)),
    Kind.SNOW: (Cover.SNOW, 0.03, (0.660, 0.660, 0.650, 0.600, 0.100, 0.075), (0.860, 0.860, 0.850, 0.780, 0.075, 0.055)),
}  # fmt: skip

COVER_OF_KIND = np.array([_TABLE[kind][0] for kind in Kind], dtype=np.uint8)
ROUGHNESS = np.array([_TABLE[kind][1] for kind in Kind], dtype=np.float32)
FIRST_END = np.array([_TABLE[kind][2] for kind in Kind], dtype=np.float32)  # (kind, band)
SPAN = np.array([_TABLE[kind][3] for kind in Kind], dtype=np.float32) - FIRST_END
