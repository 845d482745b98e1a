"""A window of a scene that lies in memory in pieces: blocks of a lazy array, as a task of a Dask graph gets them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from geoseg.scene import BandSet
from geoseg.source.array import usable
from geoseg.types import Pixels, Valid
from geoseg.window import GeoBox, Window

if TYPE_CHECKING:
    from geoseg.protocols import Source

__all__ = ["PiecesSource"]

Pieces = Sequence[Sequence[Sequence[Pixels]]]
"""Blocks of (band, row, col), nested by band, row and column of blocks, without gaps."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PiecesSource:
    """Part of a scene, as a `geoseg.protocols.Source`; only what is asked for is copied."""

    pieces: Pieces
    """The stored numbers."""
    window: Window
    """Where they lie in the scene; what lies beyond is not usable."""
    bands: BandSet
    """What `read` returns along its first axis."""
    geobox: GeoBox
    """Shape, transform and CRS of the whole scene."""

    @property
    def block(self) -> tuple[int, int]:
        """(rows, cols) of the first piece."""
        rows, cols = self.pieces[0][0][0].shape[1:]
        return int(rows), int(cols)

    def read(self, window: Window) -> tuple[Pixels, Valid]:
        """Stored numbers (band, row, col) and usable pixels (row, col) of `window`."""
        pixels = np.zeros((len(self.bands), *window.shape), self.pieces[0][0][0].dtype)
        valid = np.zeros(window.shape, bool)
        first_band = 0
        for slab in self.pieces:
            last_band = first_band + len(slab[0][0])
            for place, piece in self._placed(slab):
                if part := place & window:
                    inner = part.within(place).slices
                    pixels[first_band:last_band, *part.within(window).slices] = piece[:, *inner]
            first_band = last_band
        if known := self.window & window:
            inner = known.within(window).slices
            valid[inner] = usable(pixels[:, *inner], self.bands)
        return pixels, valid

    def identity(self) -> Mapping[str, str]:
        """A hash of what the pieces hold, and where."""
        digest = hashlib.sha256(f"{self.window} {self.bands}".encode())
        for slab in self.pieces:
            for place, piece in self._placed(slab):
                digest.update(f"{place} {piece.dtype.str}".encode() + piece.tobytes())
        return {"pieces": f"sha256:{digest.hexdigest()}"}

    def _placed(self, slab: Sequence[Sequence[Pixels]]) -> list[tuple[Window, Pixels]]:
        """The pieces of some bands, each with its window in the scene."""
        rows = accumulate((row[0].shape[1] for row in slab), initial=self.window.row_off)
        cols = list(accumulate((piece.shape[2] for piece in slab[0]), initial=self.window.col_off))
        return [
            (Window(row_off=top, col_off=left, height=piece.shape[1], width=piece.shape[2]), piece)
            for top, row in zip(rows, slab, strict=False)  # one more start than there are pieces: the end
            for left, piece in zip(cols, row, strict=False)
        ]


if TYPE_CHECKING:
    _: type[Source] = PiecesSource
