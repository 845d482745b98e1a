"""The kinds of array that travel through geoseg, by name.

Numpy arrays live at the edges (reading, writing); torch tensors of the same axes live on the model's device.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Labels", "Pixels", "Probs", "Scores", "Valid"]

Pixels: TypeAlias = npt.NDArray[Any]
"""Stored numbers of the bands: (band, row, col), the file's own dtype."""

Valid: TypeAlias = npt.NDArray[np.bool_]
"""(row, col), True = usable."""

Scores: TypeAlias = npt.NDArray[np.float32]
"""Raw output of a model per class: (class, row, col) or (n, class, row, col)."""

Probs: TypeAlias = npt.NDArray[np.float32]
"""Scores after softmax or sigmoid, in [0, 1]: (class, row, col)."""

Labels: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""Class values as the model's card lists them: (row, col)."""
