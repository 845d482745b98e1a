"""A source of which a mask excludes pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geoseg.errors import GridError
from geoseg.protocols import Source
from geoseg.scene import BandSet
from geoseg.source.grids import bounds_text, overlaps
from geoseg.source.warp import WarpedSource, bad_blocks_of
from geoseg.types import Pixels, Valid
from geoseg.window import GeoBox, Window

__all__ = ["MaskedSource", "masked"]


@dataclass(frozen=True)
class MaskedSource:
    """`source` without the pixels where the first band of `mask` is not zero.

    Where the mask has no data, or does not reach, it excludes nothing.
    """

    source: Source
    """What is read."""
    mask: Source
    """What excludes; on the same grid."""

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
        """Both identities: another mask is another input."""
        return {**self.source.identity(), **{f"mask:{key}": value for key, value in self.mask.identity().items()}}

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
        excluded, known = self.mask.read(window)
        return pixels, valid & ~(known & (excluded[0] != 0))


def masked(source: Source, mask: Source) -> MaskedSource:
    """`source` under `mask`, which may lie on another grid: then each pixel takes the mask's nearest.

    Raises:
        GridError: The mask does not touch the scene.
    """
    if mask.geobox == source.geobox:
        return MaskedSource(source, mask)
    if not overlaps(mask.geobox, source.geobox):
        raise GridError(
            f"the mask ({bounds_text(mask.geobox)}) does not touch the scene ({bounds_text(source.geobox)}): "
            "choose the mask of this scene"
        )
    return MaskedSource(source, WarpedSource(mask, source.geobox, "nearest"))


if TYPE_CHECKING:
    _: type[Source] = MaskedSource
