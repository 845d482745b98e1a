"""TensorBoard, where it is installed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geoseg.picture import Rgba

__all__ = ["Board"]


class Board:
    """Takes figures and pictures of epochs; without TensorBoard it does nothing with them."""

    def __init__(self, folder: Path, *, wanted: bool, after: int) -> None:
        """Takes where events go, and how many epochs are done: what was told of later ones counts no more."""
        self._writer: Any = None
        if not wanted:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(folder), purge_step=after + 1)

    def add(self, row: Mapping[str, float], sheet: Rgba | None) -> None:
        """An epoch's row of the history, and its picture."""
        if self._writer is None:
            return
        epoch = int(row["epoch"])
        for name, value in row.items():
            if name != "epoch" and not math.isnan(value):
                self._writer.add_scalar(name.replace("val_", "val/"), value, epoch)
        if sheet is not None:
            self._writer.add_image("val/predictions", sheet[..., :3], epoch, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        if self._writer is not None:
            self._writer.close()
