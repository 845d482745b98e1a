"""An index of both dates of a pair as rasters of whole numbers, which can be added up over regions chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import local
from typing import Any

import numpy as np
import numpy.typing as npt

from geoseg.indices import named, parse
from geoseg.prepare import evaluated, scaling_of
from geoseg.protocols import LabelReader, Source
from geoseg.scene import DATES, Scaling
from geoseg.window import Window

__all__ = ["KNOWN", "STEP", "PairIndex"]

STEP = 1e-6
"""Of the whole numbers: a sum is then the same in whatever order it is formed."""
KNOWN = "known"
"""Name of the raster that counts the pixels of which the index is known."""
_HIGHEST = 100.0
"""What lies beyond is cut there: an index of next to no light, which could be anything."""

Planes = Mapping[str, npt.NDArray[np.int64]]


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
    _last: local = field(default_factory=local, repr=False)

    @property
    def columns(self) -> Sequence[str]:
        """``ndvi_before`` and ``ndvi_after``."""
        return [f"{self.index.lower()}_{date}" for date in DATES]

    def rasters(self) -> Mapping[str, LabelReader]:
        """By name: of each of `columns` its values, 0 where they are not known; `KNOWN` is 1 where they are."""
        return {name: _Plane(of=self, name=name) for name in [*self.columns, KNOWN]}

    def planes(self, window: Window) -> Planes:
        """(row, col) of each raster, int64; a thread that asks for the next of them does not read again.

        Raises:
            SourceError: The window cannot be read.
        """
        last: tuple[Window, Planes] | None = getattr(self._last, "planes", None)
        if last is None or last[0] != window:
            last = (window, self._read(window))
            self._last.planes = last
        return last[1]

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
        planes = {KNOWN: valid.astype(np.int64)}
        for date, column in zip(DATES, self.columns, strict=True):
            bands = {name: numbers[f"{date}.{name}"] for name in formula.names}
            stored = {name: (pixels[at], scaling_of(self.pair.bands[at], self.assumed)) for name, at in bands.items()}
            values = np.where(valid, evaluated(formula, stored), 0.0)
            planes[column] = np.rint(np.clip(values, -_HIGHEST, _HIGHEST) / STEP).astype(np.int64)
        return planes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plane:
    """One raster of a `PairIndex`."""

    of: PairIndex
    name: str

    @property
    def shape(self) -> tuple[int, int]:
        return self.of.crop.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.int64)

    @property
    def nodata(self) -> None:
        return None

    def read(self, window: Window) -> npt.NDArray[Any]:
        return self.of.planes(window)[self.name]
