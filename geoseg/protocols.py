"""The sockets of geoseg: what a Source, a Model, a Blender and a Sink must do. Shapes are part of the contract.

A class fits by having these members; nothing is inherited. Constructors do no I/O, and instances pickle as their
constructor's arguments, because they travel to workers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from geoseg.scene import BandSet
from geoseg.spec import ModelSpec
from geoseg.types import Labels, Pixels, Valid
from geoseg.window import GeoBox, Window

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LabelReader", "Model", "Sink", "Source", "Wanted"]

Wanted: TypeAlias = Callable[[Window], Valid]
"""Which pixels of a window are asked for (an area of interest); pickles."""


@runtime_checkable
class Source(Protocol):
    """Where pixels come from. `read` may be called from several threads at once."""

    @property
    def geobox(self) -> GeoBox:
        """Shape, transform and CRS of the scene."""
        ...

    @property
    def bands(self) -> BandSet:
        """What `read` returns along its first axis."""
        ...

    @property
    def block(self) -> tuple[int, int]:
        """(rows, cols) of the storage blocks: reads that follow them decode nothing twice."""
        ...

    def read(self, window: Window) -> tuple[Pixels, Valid]:
        """Stored numbers (band, row, col) and usable pixels (row, col) of `window`.

        Beyond the scene's edge the numbers are anything and Valid is False. A pixel is usable if every band is:
        not nodata, not NaN or infinite, not masked out.

        Raises:
            SourceError: The pixels cannot be read; the message names file and window.
        """
        ...

    def identity(self) -> Mapping[str, str]:
        """What pins the input: location (no query) -> ETag, or size and modification time, or content hash."""
        ...


@runtime_checkable
class LabelReader(Protocol):
    """Where class values come from: a raster of integers in memory, in a file, or made from another when it is read."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) of the raster."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """What `read` returns: integers."""
        ...

    @property
    def nodata(self) -> int | None:
        """Value that belongs to no region; None: every value is a class."""
        ...

    def read(self, window: Window) -> Labels:
        """Class values (row, col) of a window within the raster; not to be written to. Threads may read at once.

        Raises:
            SourceError: The pixels cannot be read.
        """
        ...


@runtime_checkable
class Model(Protocol):
    """What turns a batch of tiles into scores. `predict` may be called from several threads at once."""

    @property
    def spec(self) -> ModelSpec:
        """The card."""
        ...

    def predict(self, batch: Tensor) -> Tensor:
        """Scores float32 (n, class, row, col) of a float32 batch (n, channel, row, col), on the same device.

        For `spec.dates` > 1 the batch is (n, date, channel, row, col).
        """
        ...


@runtime_checkable
class Sink(Protocol):
    """Where rasters go."""

    def write(self, window: Window, array: Pixels) -> None:
        """Takes (band, row, col) for `window`; in any order, and twice is harmless."""
        ...

    def close(self) -> list[Path]:
        """Finishes the files, moves them to their final names in one step, returns them."""
        ...
