"""By how much the later date of a pair lies off the earlier one, and the pair without that shift.

Windows spread evenly over the scene are correlated by phase, all bands together: each band's gradients are whitened, so
neither gain nor offset nor the contrast of one band counts, and frequencies near the sampling limit, where noise and
aliasing live, are damped. Ground that changed gives no clear peak; such windows say nothing, and the rest must agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from affine import Affine
from skimage.registration import phase_cross_correlation

from geoseg.scene import Scene
from geoseg.source.maps import ShiftedSource
from geoseg.source.pair import PairSource, in_order, seen_on
from geoseg.types import Pixels, Valid
from geoseg.window import GeoBox, Window

__all__ = ["Shift", "estimate_shift", "registered"]

_Plane: TypeAlias = npt.NDArray[np.float64]
_Spectrum: TypeAlias = npt.NDArray[np.complex128]

_SIDES = (256, 128, 64, 32)
"""Sides of a window, pixels: the largest that goes into the scene twice."""
_FARTHEST = 4.0
"""Pixels: a larger shift is no matter of registration, and repeated pixels of a coarser band correlate beyond it."""
_CLEAR = 8.0
"""Height of a clear peak, in units of what random phases give. Of the windows of four real pairs that agreed, 98 in 100
had a higher one; so had a fifth of windows of different places, but 1 in 100 of these within `_FARTHEST`."""
_AGREE = 0.5
"""Pixels by which windows may differ and still agree: terrain and turbulence bend real scenes."""
_FEWEST, _SHARE = 3, 1 / 3
"""How many of the clear windows must agree."""
_SMOOTHING = 1.0
"""Pixels of the Gaussian that damps high frequencies: with 1, aliasing moves the peak by 0.03 pixel at most."""
_RAMP = 6
"""Pixels over which weights rise beside a hole; more gains no more (measured with a third of the pixels missing)."""
_STEPS = 50
"""Steps of a pixel to which a window's shift is found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """Where the later date's content lies, counted from where the earlier one has it."""

    rows: float
    """Pixels downwards."""
    cols: float
    """Pixels to the right."""
    spread: float
    """Pixels by which half of the agreeing windows differ from it at most."""
    windows: int
    """Windows that agree."""
    clear: int
    """Windows in which both dates have something in common, the agreeing ones included."""

    @property
    def pixels(self) -> float:
        """Its length."""
        return float(np.hypot(self.rows, self.cols))


def estimate_shift(pair: PairSource, *, windows: int = 32) -> Shift | None:
    """The shift of after against before; None where too few windows are valid, textured and of one mind.

    Whole-pixel and sub-pixel part come from upsampled phase correlation (Guizar-Sicairos, Thurman and Fienup 2008,
    doi:10.1364/OL.33.000156); the median of the windows that agree best counts. At most `windows` windows are read.

    Raises:
        SourceError: One of the dates cannot be read.
    """
    found = [_of_window(*pair.read(window)) for window in _spread(pair.geobox, pair.block, windows)]
    clear = np.array([place for place in found if place is not None and np.abs(place).max() <= _FARTHEST])
    if len(clear) < _FEWEST:
        return None
    apart = np.hypot(*np.moveaxis(clear[:, None] - clear[None], -1, 0))
    members = clear[apart[(apart <= _AGREE).sum(axis=1).argmax()] <= _AGREE]
    if len(members) < max(_FEWEST, _SHARE * len(clear)):
        return None
    rows, cols = np.median(members, axis=0)
    spread = float(np.median(np.hypot(*(members - [rows, cols]).T)))
    return Shift(
        rows=round(float(rows), 3),
        cols=round(float(cols), 3),
        spread=round(spread, 3),
        windows=len(members),
        clear=len(clear),
    )


def registered(scene: Scene[PairSource], shift: Shift) -> Scene[PairSource]:
    """A scene of `geoseg.source.pair.pair_of` with after read where its content lies, warped once from its own pixels.

    The shift counts from where the opened scene says that it lies: a second one takes the first one's place.
    """
    after = scene.dates[1]
    grid = scene.geobox
    moved = GeoBox(grid.shape, grid.transform @ Affine.translation(shift.cols, shift.rows), grid.crs)
    content = ShiftedSource(source=seen_on(after.source, moved), geobox=grid, rows=0, cols=0)
    before = scene.source.before
    return replace(scene, source=PairSource(before, in_order(content, before.bands.names)))


def _spread(geobox: GeoBox, block: tuple[int, int], count: int) -> Iterable[Window]:
    """At most `count` windows, evenly over the scene, that overlap by half at most; none if it is too small."""
    height, width = geobox.shape
    side = next((side for side in _SIDES if min(height, width) >= 2 * side), None)
    if side is None:
        return []
    most_rows, most_cols = 2 * height // side - 1, 2 * width // side - 1
    cols = min(max(1, round((count * width / height) ** 0.5)), most_cols, count)
    rows = min(count // cols, most_rows)
    cols = min(count // rows, most_cols)
    return [
        Window(row_off=row, col_off=col, height=side, width=side)
        for row in _offsets(height, side, rows, block[0])
        for col in _offsets(width, side, cols, block[1])
    ]


def _offsets(length: int, side: int, count: int, block: int) -> list[int]:
    """Where windows begin along one axis; within one block each, where blocks are large and windows far apart."""
    middle = (length - side) / 2
    offsets = [int(offset) for offset in (np.linspace(0, length - side, count) if count > 1 else [middle])]
    if side <= block <= length // count:
        return [offset - max(0, offset % block + side - block) for offset in offsets]
    return offsets


def _of_window(pixels: Pixels, valid: Valid) -> npt.NDArray[np.float64] | None:
    """(rows, cols) of after against before in one window; None where they have nothing clear in common."""
    if valid.mean() < 0.5:
        return None
    taper = _taper(valid)
    cross = np.zeros(valid.shape, np.complex128)
    for before, after in zip(*np.split(pixels, 2), strict=True):
        product = _spectrum(before, taper) * _spectrum(after, taper).conj()
        size = np.abs(product)
        if size.any():
            cross += product / np.maximum(size, 1e-12 * size.max())
    if not cross.any():
        return None
    return _peak(cross * _damping(valid.shape))


def _taper(valid: Valid) -> _Plane:
    """Weights that fall to 0 towards the rim and unusable pixels, and are 0 where a gradient would touch one.

    Both dates have the same holes, and sharp ones would pull the peak towards no shift at all.
    """
    near, ramp = valid, np.zeros(valid.shape)
    for _ in range(_RAMP):
        wide = np.pad(near, 1)
        near = near & wide[2:, 1:-1] & wide[:-2, 1:-1] & wide[1:-1, 2:] & wide[1:-1, :-2]
        ramp += near / _RAMP
    rows, cols = (np.hanning(length + 2)[1:-1] for length in valid.shape)
    weights: _Plane = rows[:, None] * cols * ramp
    return weights


def _spectrum(layer: npt.NDArray[Any], taper: _Plane) -> _Spectrum:
    """Fourier transform of the tapered gradients, columns as the real part."""
    with np.errstate(invalid="ignore"):  # unusable pixels may be infinite
        rows, cols = np.gradient(layer.astype(np.float64))
    return np.fft.fft2(np.where(taper > 0, cols + 1j * rows, 0) * taper)


def _damping(shape: tuple[int, ...]) -> _Plane:
    """What the Gaussian leaves of each frequency of both dates together."""
    rows, cols = (np.fft.fftfreq(length) for length in shape)
    weights: _Plane = np.exp(-2 * (np.pi * _SMOOTHING) ** 2 * (rows[:, None] ** 2 + cols**2))
    return weights


def _peak(cross: _Spectrum) -> npt.NDArray[np.float64] | None:
    """(rows, cols) of the correlation's peak, None where that is no clear one."""
    to_before, error, _ = phase_cross_correlation(
        cross, np.ones_like(cross), space="fourier", normalization=None, upsample_factor=_STEPS
    )
    height = np.sqrt(max(0.0, 1 - error**2) * cross.size)
    return -np.asarray(to_before, np.float64) if height >= _CLEAR else None
