"""Label rasters as maps have them and as no map has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from scipy import ndimage

from geoseg.protocols import LabelReader
from geoseg.source.labels import ArrayLabels
from geoseg.types import Labels
from geoseg.window import Window

NODATA = 255


@st.composite
def label_readers(draw: st.DrawFn, *, max_side: int = 24) -> ArrayLabels:
    """Noise, blobs, or blobs with noise; few classes, with and without nodata."""
    shape = (draw(st.integers(1, max_side)), draw(st.integers(1, max_side)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    classes = draw(st.integers(1, 5))
    labels = rng.integers(0, classes, shape)
    if draw(st.booleans()):
        labels = blobs(shape, rng, classes, draw(st.sampled_from([1.0, 2.0])))
        speckles = rng.random(shape) < draw(st.sampled_from([0.0, 0.05, 0.2]))
        labels[speckles] = rng.integers(0, classes, int(speckles.sum()))
    if draw(st.booleans()):
        labels[blobs(shape, rng, 4, draw(st.sampled_from([0.0, 2.0]))) == 0] = NODATA
    return ArrayLabels(labels.astype(np.uint8), draw(st.sampled_from([None, NODATA])))


def blobs(shape: tuple[int, int], rng: np.random.Generator, classes: int, reach: float) -> npt.NDArray[np.int64]:
    """Class values (row, col) in patches about as wide as `reach`."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape), reach) if reach else rng.standard_normal(shape)
    return np.digitize(field, np.quantile(field, np.linspace(0, 1, classes + 1)[1:-1]))


def whole_of(labels: LabelReader) -> Window:
    """The window of all pixels."""
    return Window(row_off=0, col_off=0, height=labels.shape[0], width=labels.shape[1])


def read_all(labels: LabelReader) -> Labels:
    """All pixels (row, col)."""
    return labels.read(whole_of(labels))


def components(labels: Labels, nodata: int | None, connectivity: int = 4) -> npt.NDArray[Any]:
    """Number of the region (row, col) that each pixel belongs to, from 1 on, by scipy; 0 for none."""
    numbers, count = np.zeros(labels.shape, np.int64), 0
    structure = ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2)
    for value in np.unique(labels):
        if value != nodata:
            found, more = ndimage.label(labels == value, structure)
            numbers[found > 0] = found[found > 0] + count
            count += more
    return numbers
