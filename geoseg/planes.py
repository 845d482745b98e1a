"""Rasters of whole numbers that are read together, so that sums over regions are the same in whatever order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import local
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from geoseg.protocols import LabelReader
from geoseg.window import Window

__all__ = ["KNOWN", "STEP", "Planes", "planes"]

STEP = 1e-6
"""Of the whole numbers that stand for others."""
KNOWN = "known"
"""Name of the plane that counts the pixels of which the others tell something."""

Planes: TypeAlias = Mapping[str, npt.NDArray[np.int32]]
"""(row, col) of each name."""


def planes(shape: tuple[int, int], names: Sequence[str], read: Callable[[Window], Planes]) -> Mapping[str, LabelReader]:
    """A reader for each name; a thread that asks for the same window of one after the other reads once.

    Args:
        shape: (rows, cols).
        names: Of the planes.
        read: Gives all of them in a window, from any thread.
    """
    last = _Last(read=read)
    return {name: _Plane(shape=shape, name=name, last=last) for name in names}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Last:
    """What each thread read last."""

    read: Callable[[Window], Planes]
    kept: local = field(default_factory=local, repr=False)

    def at(self, window: Window) -> Planes:
        found: tuple[Window, Planes] | None = getattr(self.kept, "planes", None)
        if found is None or found[0] != window:
            found = (window, self.read(window))
            self.kept.planes = found
        return found[1]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plane:
    """One of the planes, as a label reader."""

    shape: tuple[int, int]
    name: str
    last: _Last

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.int32)

    @property
    def nodata(self) -> None:
        return None

    def read(self, window: Window) -> npt.NDArray[Any]:
        return self.last.at(window)[self.name]


_: type[LabelReader] = _Plane
