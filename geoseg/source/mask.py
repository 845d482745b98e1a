"""A source of which a mask excludes pixels: those that are not zero, or those of some classes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geoseg.errors import ConfigError, GridError, without_secrets
from geoseg.protocols import Source
from geoseg.scene import BandSet
from geoseg.source.grids import bounds_text, overlaps
from geoseg.source.warp import WarpedSource, bad_blocks_of
from geoseg.types import Pixels, Valid
from geoseg.window import GeoBox, Window

__all__ = ["MaskedSource", "masked", "parse_mask"]

_CLASSES = re.compile(r"(?P<place>.+):(?P<classes>[\d,\s]*)", re.DOTALL)
_HOST = re.compile(r"[a-z0-9+.-]+://[^/]*", re.IGNORECASE)


@dataclass(frozen=True)
class MaskedSource:
    """`source` without the pixels where the first band of `mask` is one of `classes`, or not zero if none is named.

    Where the mask has no data, or does not reach, it excludes nothing.
    """

    source: Source
    """What is read."""
    mask: Source
    """What excludes; on the same grid."""
    classes: tuple[int, ...] = ()
    """Values that exclude; empty: all but zero."""

    @property
    def geobox(self) -> GeoBox:
        """The source's grid."""
        return self.source.geobox

    @property
    def bands(self) -> BandSet:
        """The source's bands."""
        return self.source.bands

    @property
    def block(self) -> tuple[int, int]:
        """The source's blocks."""
        return self.source.block

    def identity(self) -> Mapping[str, str]:
        """Both identities: another mask is another input, and so are other classes of it."""
        chosen = f", classes {', '.join(map(str, self.classes))}" if self.classes else ""
        excludes = {f"mask:{key}": f"{mark}{chosen}" for key, mark in self.mask.identity().items()}
        return {**self.source.identity(), **excludes}

    @property
    def bad_blocks(self) -> int:
        """Storage blocks that were filled because they cannot be decoded, the mask's included."""
        return bad_blocks_of(self.source, self.mask)

    def read(self, window: Window) -> tuple[Pixels, Valid]:
        """The source's numbers, and its usable pixels that the mask leaves.

        Raises:
            SourceError: The source or the mask cannot be read.
        """
        pixels, valid = self.source.read(window)
        (values,), known = self.mask.read(window)
        excluded = np.isin(values, self.classes) if self.classes else values != 0
        return pixels, valid & ~(known & excluded)


def parse_mask(text: str) -> tuple[str, tuple[int, ...]]:
    """Where a mask is, and the classes that exclude: ``FILE:3,8,9`` names them, ``FILE`` alone means all but zero.

    Raises:
        ConfigError: What follows the last colon is no list of whole numbers.

    >>> parse_mask("s3://bucket/scl.tif:3,8"), parse_mask("http://host:80/clouds.tif")
    (('s3://bucket/scl.tif', (3, 8)), ('http://host:80/clouds.tif', ()))
    """
    match = _CLASSES.fullmatch(text)
    if match is None or _HOST.fullmatch(match["place"]):
        return text, ()
    numbers = match["classes"].split(",")
    if not all(number.strip().isdigit() for number in numbers):
        raise ConfigError(
            f"mask {without_secrets(match['place'])}: {match['classes']!r} lists no classes; write FILE:3,8,9"
        )
    return match["place"], tuple(int(number) for number in numbers)


def masked(source: Source, mask: Source, classes: tuple[int, ...] = ()) -> MaskedSource:
    """`source` under `mask`, which may lie on another grid: then each pixel takes the mask's nearest.

    Raises:
        GridError: The mask does not touch the scene.
    """
    if mask.geobox == source.geobox:
        return MaskedSource(source, mask, classes)
    if not overlaps(mask.geobox, source.geobox):
        raise GridError(
            f"the mask ({bounds_text(mask.geobox)}) does not touch the scene ({bounds_text(source.geobox)}): "
            "choose the mask of this scene"
        )
    return MaskedSource(source, WarpedSource(mask, source.geobox, "nearest"), classes)


if TYPE_CHECKING:
    _: type[Source] = MaskedSource
