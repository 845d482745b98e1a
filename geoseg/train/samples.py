"""Chips on disk as what nets are trained with: reflectance of each date, labels, and what is usable."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geoseg.errors import ConfigError, SourceError
from geoseg.prepare import Recipe, prepare, recipes_for
from geoseg.scene import DATES, BandSet, Scaling
from geoseg.source.bands import declare_band
from geoseg.source.info import inspect
from geoseg.source.open import read_window
from geoseg.source.raster import join_rasters
from geoseg.spec import Channel, ClassInfo, ModelSpec
from geoseg.train import IGNORE
from geoseg.types import Pixels, Valid
from geoseg.window import whole

__all__ = ["Chip", "ChipReader", "Sample", "open_chips"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """One row of ``chips.csv``."""

    image: Path
    """Stored numbers."""
    labels: Path
    """Class numbers."""
    split: str
    """``train``, ``val`` or ``test``."""
    shape: tuple[int, int]
    """Rows and columns."""
    pixels: tuple[int, ...]
    """Labelled pixels of each class."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """What is on one chip."""

    bands: Tensor
    """float32 (date, band, row, col): reflectance, 0 where not usable."""
    labels: Tensor
    """uint8 (row, col): class numbers; `IGNORE` where nobody labelled, or where not usable."""
    valid: Tensor
    """bool (row, col): usable, on all dates."""


class ChipReader:
    """The chips of a folder; what was read is kept, as stored, as long as there is room."""

    def __init__(self, folder: Path, told: dict[str, Any], chips: Sequence[Chip], digest: str) -> None:
        """Takes what ``chips.json`` and ``chips.csv`` say; `open_chips` reads them."""
        self.folder, self.told, self.digest = folder, told, digest
        self.classes: tuple[tuple[int, str], ...] = tuple((each["value"], each["name"]) for each in told["classes"])
        self.chips = tuple(chips)
        self.stored_bands = _source_of(self.chips[0].image).bands.names
        self.dates, self.bands = _dates_and_bands(self.stored_bands, folder)
        self.assumed: Scaling | None = None
        """Scaling of integers that declare none."""
        self._room = 0.0
        self._kept: dict[Path, tuple[Pixels, Valid, BandSet, Pixels]] = {}

    def keep(self, size: float) -> None:
        """Gives what was read `size` bytes of room."""
        self._room = size

    def of(self, split: str) -> tuple[Chip, ...]:
        """The chips of a split, in the order of the table."""
        return tuple(chip for chip in self.chips if chip.split == split)

    def read(self, chip: Chip) -> Sample:
        """What is on a chip.

        Raises:
            SourceError: It cannot be read, or is not like the others.
        """
        pixels, usable, bands, numbers = self._stored(chip)
        valid = torch.from_numpy(usable)
        reflectance = prepare(torch.from_numpy(pixels), valid, _plain_recipe(bands, self.assumed))
        labels = torch.from_numpy(np.where(usable, numbers, np.uint8(IGNORE)))
        return Sample(bands=reflectance.reshape(self.dates, len(self.bands), *valid.shape), labels=labels, valid=valid)

    def _stored(self, chip: Chip) -> tuple[Pixels, Valid, BandSet, Pixels]:
        if chip.image in self._kept:
            return self._kept[chip.image]
        source = _source_of(chip.image)
        if source.bands.names != self.stored_bands:
            raise SourceError(f"{chip.image}: holds {_list(source.bands.names)}, others {_list(self.stored_bands)}")
        pixels, valid = source.read(whole(source.geobox))
        numbers = read_window(chip.labels)
        labels, known = numbers[0], numbers[numbers != IGNORE]
        if (
            numbers.shape != (1, *valid.shape)
            or labels.dtype != np.uint8
            or (known.size and known.max() >= len(self.classes))
        ):
            raise SourceError(
                f"{chip.labels}: is no uint8 of {valid.shape} with class numbers below {len(self.classes)}"
            )
        entry = pixels, valid, source.bands, labels
        size = pixels.nbytes + valid.nbytes + labels.nbytes
        if size <= self._room:
            self._room -= size
            self._kept[chip.image] = entry
        return entry


def open_chips(folder: str | Path) -> ChipReader:
    """The chips that `geoseg chips` wrote into `folder`; only tables are read, and one header.

    Raises:
        ConfigError: It holds none, or their cut is not finished.
        SourceError: They cannot be read.
    """
    place = Path(folder)
    try:
        content, table = (place / "chips.json").read_bytes(), (place / "chips.csv").read_bytes()
    except OSError as error:
        raise ConfigError(
            f"data.chips {place}: holds no {Path(error.filename).name}; cut chips with geoseg chips"
        ) from None
    told = json.loads(content)
    if "classes" not in told:
        raise ConfigError(f"data.chips {place}: the cut is not finished; the same geoseg chips goes on with it")
    names = [each["name"] for each in told["classes"]]
    chips = [_chip(place, row, names) for row in csv.DictReader(table.decode().splitlines())]
    if not any(chip.split == "train" for chip in chips):
        raise ConfigError(f"data.chips {place}: no chip is there to train on")
    return ChipReader(place, told, chips, hashlib.sha256(content + table).hexdigest())


def _chip(folder: Path, row: dict[str, str], names: Sequence[str]) -> Chip:
    return Chip(
        image=folder / row["image"],
        labels=folder / row["labels"],
        split=row["split"],
        shape=(int(row["height"]), int(row["width"])),
        pixels=tuple(int(row[f"pixels_{name}"]) for name in names),
    )


def _source_of(image: Path) -> Any:
    info = inspect(image)
    named = [(info, band.index, declare_band(info, band.index, band.description)) for band in info.bands]
    return join_rasters(named)


def _dates_and_bands(names: tuple[str, ...], folder: Path) -> tuple[int, tuple[str, ...]]:
    """How many dates a chip holds, and the bands of each.

    >>> _dates_and_bands(("before.red", "before.nir", "after.red", "after.nir"), Path())
    (2, ('red', 'nir'))
    """
    dated = [name.partition(".") for name in names]
    if not any(date in DATES and dot for date, dot, _ in dated):
        return 1, names
    before, after = (tuple(name for date, _, name in dated if date == wanted) for wanted in DATES)
    if before != after or names[: len(before)] != tuple(f"before.{name}" for name in before):
        raise ConfigError(f"data.chips {folder}: bands {_list(names)} are not the same of both dates")
    return 2, before


@lru_cache(maxsize=64)
def _plain_recipe(bands: BandSet, assumed: Scaling | None) -> Recipe:
    """Every stored band as reflectance."""
    channels = tuple(Channel(name=name) for name in bands.names)
    spec = ModelSpec(
        name="chip",
        bands=bands.names,
        channels=channels,
        classes=(ClassInfo(value=0, name="any"),),
        assume_scaling=assumed,
    )
    return recipes_for(spec, bands)[0]


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
