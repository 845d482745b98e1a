"""An index of both dates of a pair as rasters of whole numbers, which can be added up over regions chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from geoseg.indices import named, parse
from geoseg.planes import KNOWN, STEP, Planes, planes
from geoseg.prepare import evaluated, scaling_of
from geoseg.protocols import LabelReader, Source
from geoseg.scene import DATES, Scaling
from geoseg.window import Window

__all__ = ["PairIndex"]

_HIGHEST = 100.0
"""What lies beyond is cut there: an index of next to no light, which could be anything."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairIndex:
    """A spectral index of two dates, in steps of `STEP`, and where it is known."""

    pair: Source
    """Reads the bands of the index of both dates, as a `geoseg.source.pair.PairSource`."""
    crop: Window
    """Where the rasters lie in it."""
    index: str = "NDVI"
    """Name of a spectral index."""
    assumed: Scaling | None = None
    """Scaling of integer bands that declare none."""

    @property
    def columns(self) -> Sequence[str]:
        """``ndvi_before`` and ``ndvi_after``."""
        return [f"{self.index.lower()}_{date}" for date in DATES]

    def rasters(self) -> Mapping[str, LabelReader]:
        """Of each of `columns` its values in steps of `STEP`, 0 where they are not known; `KNOWN` is 1 where they are.

        Reading them raises a SourceError where the dates cannot be read.
        """
        return planes(self.crop.shape, [*self.columns, KNOWN], self._read)

    def _read(self, window: Window) -> Planes:
        formula = parse(named(self.index))
        place = Window(
            row_off=window.row_off + self.crop.row_off,
            col_off=window.col_off + self.crop.col_off,
            height=window.height,
            width=window.width,
        )
        pixels, valid = self.pair.read(place)
        numbers = {name: at for at, name in enumerate(self.pair.bands.names)}
        found = {KNOWN: valid.astype(np.int32)}
        for date, column in zip(DATES, self.columns, strict=True):
            bands = {name: numbers[f"{date}.{name}"] for name in formula.names}
            stored = {name: (pixels[at], scaling_of(self.pair.bands[at], self.assumed)) for name, at in bands.items()}
            values = np.where(valid, evaluated(formula, stored), 0.0)
            found[column] = np.rint(np.clip(values, -_HIGHEST, _HIGHEST) / STEP).astype(np.int32)
        return found
