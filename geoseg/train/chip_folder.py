"""A folder of chips: whose it is, the files of each chip, and what tells about all of them."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geoseg.errors import SinkError
from geoseg.protocols import Source
from geoseg.scene import Scene
from geoseg.sink.chip import write_chip, write_chip_labels
from geoseg.sink.parts import durable
from geoseg.source.open import read_window
from geoseg.train import IGNORE
from geoseg.train.ground import Geometries, Ground
from geoseg.train.labels import LabelsOn
from geoseg.train.split import SPLITS, Splits, closest
from geoseg.train.split_files import write_split_features, write_split_picture
from geoseg.train.survey import Division, Survey
from geoseg.window import crop_geobox

__all__ = ["ChipSet", "Cut", "claim"]

_FOLDERS = ("images", "labels")
_TOLD = "chips.json"
_AT_ONCE = 8
"""Chips that are read and written at the same time: most of it is waiting, for a server or for a disk."""
_BATCH = 64
"""Chips whose labels are held at once."""
_FILES = ("chips.csv", "split.geojson", "split.png", _TOLD)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipSet:
    """What a folder of chips holds."""

    folder: Path
    """Where they are."""
    classes: tuple[str, ...]
    """Names, in the order of the numbers on chips."""
    chips: Mapping[str, int]
    """Split -> chips."""
    pixels: Mapping[str, Mapping[str, int]]
    """Split -> class -> labelled pixels."""
    dropped: Mapping[str, int]
    """Reason (`geoseg.train.survey.DROPPED`) -> chips that were not written."""
    metres_between: Mapping[str, float]
    """``train-val`` and so on -> least distance between their chips, in metres."""


def claim(out: Path, asked: Mapping[str, Any], *, overwrite: bool) -> None:
    """Makes the folder that of one request, whose chips may be there in part.

    Raises:
        SinkError: It holds something else.
    """
    told = out / _TOLD
    if told.exists():
        if json.loads(told.read_text())["asked"] == json.loads(json.dumps(asked)):
            return
        if not overwrite:
            raise SinkError(f"{out}: holds chips of another request; choose another --out, or --overwrite them")
        for name in _FOLDERS:
            shutil.rmtree(out / name, ignore_errors=True)
        for name in _FILES:
            (out / name).unlink(missing_ok=True)
    elif foreign := sorted(path.name for path in out.iterdir() if not path.name.startswith((".", "lock"))):
        raise SinkError(f"{out}: holds {foreign[0]}, which is no chip; choose another --out")
    _write_json(told, {"asked": asked})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with durable(path) as draft:
        draft.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """All that is known before the first pixel of a scene is read."""

    scenes: Sequence[Scene[Source]]
    """What chips are cut from."""
    labels: Sequence[LabelsOn]
    """On the grid of each scene."""
    surveyed: Survey
    """Every chip (n,) that there could be."""
    division: Division
    """The split of each."""
    chosen: npt.NDArray[np.bool_]
    """(n,) whether it is wanted."""
    footprints: Geometries
    """(n,) where it lies on `ground`."""
    ground: Ground
    """Where distances are measured."""

    def write(self, out: Path, asked: Mapping[str, Any]) -> ChipSet:
        """Writes every chip that is not there yet, then what tells about all of them.

        Raises:
            SourceError: A scene or labels cannot be read.
            SinkError: There is no space.
        """
        for name in _FOLDERS:
            (out / name).mkdir(exist_ok=True)
        names = self._names()
        splits = np.where(self.chosen, self.division.splits, -1)
        pixels = np.zeros_like(self.surveyed.pixels)
        wanted = np.flatnonzero(self.chosen).tolist()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for start in range(0, len(wanted), _BATCH):
                batch = wanted[start : start + _BATCH]
                # Here, one by one: rasterio burns polygons in one thread only.
                labels = [self._labels_of(out / "labels" / f"{names[chip]}.tif", chip) for chip in batch]
                written = pool.map(self._written, [out] * len(batch), [names[chip] for chip in batch], batch, labels)
                pixels[batch] = list(written)
        unusable = self.chosen & ~pixels.any(axis=1)
        splits[unusable] = -1
        left_out = {"not_chosen": (self.division.splits >= 0) & ~self.chosen, "unusable": unusable}
        dropped = Counter(self.division.dropped) + Counter({why: int(chips.sum()) for why, chips in left_out.items()})
        made = self._told(out, splits, pixels, dropped)
        self._write_index(out / "chips.csv", names, splits, pixels)
        self._write_split(out, splits)
        facts = {name: value for name, value in asdict(made).items() if name not in {"folder", "classes"}}
        classes = [asdict(each) for each in self.surveyed.classes]
        _write_json(out / _TOLD, {"asked": asked, "classes": classes, "ignore_index": IGNORE, **facts})
        return made

    def _names(self) -> list[str]:
        """A name for each chip, which tells its scene and its place; scenes of one id are told apart."""
        taken: set[str] = set()
        stems = []
        for scene in self.scenes:
            safe = re.sub(r"[^\w.-]+", "_", scene.id).lstrip(".") or "scene"
            names = (safe if number == 1 else f"{safe}-{number}" for number in count(1))
            stems.append(next(name for name in names if name not in taken))
            taken.add(stems[-1])
        places = zip(self.surveyed.scenes.tolist(), self.surveyed.windows, strict=True)
        return [f"{stems[scene]}_r{window.row_off:06d}_c{window.col_off:06d}" for scene, window in places]

    def _labels_of(self, file: Path, chip: int) -> npt.NDArray[np.uint8]:
        """Numbers of classes (row, col) of a chip: those on disk, which know what is usable, else all there are."""
        if file.exists():
            known: npt.NDArray[np.uint8] = read_window(file)[0]
            return known
        codes, _ = self.labels[int(self.surveyed.scenes[chip])].read(self.surveyed.windows[chip])
        labels = np.full(codes.shape, IGNORE, np.uint8)
        for number, each in enumerate(self.surveyed.classes):
            labels[codes == each.value] = number
        return labels

    def _written(self, out: Path, name: str, chip: int, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """Labelled pixels by class of a chip, which is written now if it is not there; the labels come last."""
        image, file = (out / folder / f"{name}.tif" for folder in _FOLDERS)
        if file.exists():
            return self._count(labels)
        source, window = self.scenes[int(self.surveyed.scenes[chip])].source, self.surveyed.windows[chip]
        pixels, valid = source.read(window)
        usable = np.where(valid, labels, np.uint8(IGNORE))
        if (counted := self._count(usable)).any():
            geobox = crop_geobox(source.geobox, window)
            write_chip(image, pixels, valid, geobox=geobox, bands=source.bands)
            write_chip_labels(file, usable, geobox=geobox, nodata=IGNORE)
        return counted

    def _count(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        counted: npt.NDArray[np.int64] = np.bincount(labels.ravel(), minlength=IGNORE + 1).astype(np.int64)
        return counted[: len(self.surveyed.classes)]

    def _told(self, out: Path, splits: Splits, pixels: npt.NDArray[np.int64], dropped: Mapping[str, int]) -> ChipSet:
        classes = tuple(each.name for each in self.surveyed.classes)
        held = {name: splits == number for number, name in enumerate(SPLITS) if (splits == number).any()}
        totals = {name: pixels[chips].sum(axis=0).tolist() for name, chips in held.items()}
        between = closest(self.footprints, splits)
        return ChipSet(
            folder=out,
            classes=classes,
            chips={name: int(chips.sum()) for name, chips in held.items()},
            pixels={name: dict(zip(classes, total, strict=True)) for name, total in totals.items()},
            dropped={why: number for why, number in sorted(dropped.items()) if number},
            metres_between={
                f"{one}-{other}": round(metres / self.ground.stretch, 2) for (one, other), metres in between.items()
            },
        )

    def _write_index(self, path: Path, names: Sequence[str], splits: Splits, pixels: npt.NDArray[np.int64]) -> None:
        """A row per chip, in the order of scenes and places."""
        classes = [f"pixels_{each.name}" for each in self.surveyed.classes]
        head = ["image", "labels", "split", "scene", "row_off", "col_off", "height", "width", "group", *classes]
        with durable(path) as draft, draft.open("w", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(head)
            for chip in np.flatnonzero(splits >= 0).tolist():
                window = self.surveyed.windows[chip]
                files = [f"{folder}/{names[chip]}.tif" for folder in _FOLDERS]
                scene = self.scenes[int(self.surveyed.scenes[chip])].id
                place = [window.row_off, window.col_off, window.height, window.width, self.division.groups[chip]]
                table.writerow([*files, SPLITS[splits[chip]], scene, *place, *pixels[chip].tolist()])

    def _write_split(self, out: Path, splits: Splits) -> None:
        kept = np.flatnonzero(splits >= 0)
        groups = [self.division.groups[chip] for chip in kept]
        write_split_features(out / "split.geojson", self.footprints[kept], splits[kept], groups, self.ground.crs)
        weights = self.surveyed.pixels.sum(axis=1)
        write_split_picture(
            out / "split.png", self.footprints, splits, weights, self.ground, f"{len(kept)} chips, by labelled pixels"
        )
