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


_TABLE: dict[Kind, tuple[Cover, float, tuple[int, ...], tuple[int, ...]]] = {
    # kind: cover, roughness (relative), one end and the other in thousandths
    Kind.LAKE: (Cover.WATER, 0.02, (48, 62, 34, 16, 8, 6), (32, 30, 17, 10, 6, 5)),
    Kind.RIVER: (Cover.WATER, 0.03, (52, 70, 50, 24, 12, 9), (58, 80, 66, 32, 14, 10)),
    Kind.GRASS: (Cover.VEGETATION, 0.05, (45, 80, 68, 290, 240, 150), (30, 66, 38, 420, 210, 105)),
    Kind.GREEN_CEREAL: (Cover.VEGETATION, 0.03, (36, 66, 46, 350, 190, 95), (22, 48, 24, 490, 165, 70)),
    Kind.RIPE_CEREAL: (Cover.VEGETATION, 0.03, (58, 90, 98, 290, 280, 190), (48, 86, 76, 330, 250, 150)),
    Kind.RAPESEED: (Cover.VEGETATION, 0.03, (44, 120, 105, 400, 210, 110), (36, 105, 70, 460, 190, 90)),
    Kind.YOUNG_MAIZE: (Cover.VEGETATION, 0.04, (62, 88, 94, 240, 250, 180), (42, 74, 58, 340, 220, 130)),
    Kind.STUBBLE: (Cover.BARE, 0.04, (92, 128, 170, 245, 370, 290), (110, 152, 200, 285, 410, 330)),
    Kind.SOIL: (Cover.BARE, 0.05, (52, 70, 88, 130, 210, 175), (94, 128, 172, 238, 345, 300)),
    Kind.DECIDUOUS: (Cover.FOREST, 0.17, (22, 40, 26, 300, 150, 66), (18, 42, 20, 400, 165, 68)),
    Kind.CONIFER: (Cover.FOREST, 0.18, (18, 28, 20, 190, 90, 42), (16, 30, 18, 260, 110, 48)),
    Kind.TRACK: (Cover.BARE, 0.08, (85, 112, 135, 215, 280, 235), (105, 135, 165, 235, 310, 270)),
    Kind.ASPHALT: (Cover.BUILT, 0.07, (88, 98, 108, 130, 155, 145), (118, 130, 142, 166, 195, 180)),
    Kind.ROOF: (Cover.BUILT, 0.16, (80, 98, 142, 190, 240, 225), (130, 142, 165, 200, 235, 220)),
    Kind.HALL: (Cover.BUILT, 0.10, (170, 180, 190, 215, 235, 215), (300, 315, 325, 345, 350, 320)),
    Kind.GARDEN: (Cover.VEGETATION, 0.14, (48, 72, 62, 270, 200, 125), (34, 58, 40, 340, 185, 100)),
    Kind.GRAVEL: (Cover.BARE, 0.08, (170, 200, 220, 260, 300, 270), (220, 250, 275, 315, 350, 320)),
    Kind.MEADOW: (Cover.VEGETATION, 0.06, (50, 84, 80, 270, 250, 160), (38, 76, 52, 370, 220, 120)),
    Kind.ROCK: (Cover.BARE, 0.09, (110, 125, 140, 175, 225, 200), (170, 190, 208, 245, 290, 260)),
    Kind.SNOW: (Cover.SNOW, 0.03, (660, 660, 650, 600, 100, 75), (860, 860, 850, 780, 75, 55)),
}  # fmt: skip

COVER_OF_KIND = np.array([_TABLE[kind][0] for kind in Kind], dtype=np.uint8)
ROUGHNESS = np.array([_TABLE[kind][1] for kind in Kind], dtype=np.float32)
FIRST_END = np.array([_TABLE[kind][2] for kind in Kind], dtype=np.float32) / np.float32(1000)  # (kind, band)
SPAN = np.array([_TABLE[kind][3] for kind in Kind], dtype=np.float32) / np.float32(1000) - FIRST_END
