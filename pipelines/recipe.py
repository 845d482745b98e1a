"""What recipes have in common: chips of labelled scenes, training, temperature, halo, and a card that tells of them.

Splits differ by use. Nets learn from ``train``; ``val`` decides which epoch is kept and how sure the net may be;
``test`` is looked at once, in the end, and decides nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from geoseg.events import Event, Warned
from geoseg.models.halo import measure_halo
from geoseg.models.package import CARD, open_package
from geoseg.models.writing import amend_card
from geoseg.source import open_scene
from geoseg.train.chips import ChipOptions, LabelFile, LabelOptions, cut_chips
from geoseg.train.temperature import Calibration, calibrate
from geoseg.train.training import EpochDone, TrainBegan, train
from geoseg.train_config import resolve_training

__all__ = ["Labelled", "Recipe"]

_DATETIME = "2026-01-01T00:00:00Z"
"""On every card, so that a recipe carried out again gives the same bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A scene, and what people or a generator say of its pixels."""

    scene: Path
    """Raster."""
    labels: Path
    """Raster of class values on the same grid."""
    split: str
    """``train``, ``val`` or ``test``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How labelled scenes become one package."""

    config: Path
    """YAML of `geoseg train`."""
    bands: tuple[str, ...]
    """Of a chip, in order."""
    classes: Mapping[str, int]
    """Values on the labels."""
    size: int
    """Side of a chip in pixels."""

    def carry_out(self, labelled: Sequence[Labelled], out: Path, settings: Sequence[str] = ()) -> Path:
        """Makes the package in `out` and returns its folder; what an earlier call left there is gone on with.

        Args:
            labelled: Of all three splits.
            out: Folder of chips, training and package.
            settings: ``key=value`` each, over the configuration.
        """
        out.mkdir(parents=True, exist_ok=True)
        options = resolve_training(self.config, (*settings, f"data.chips={json.dumps(str(out / 'chips'))}")).options
        target = out / options.package.name
        if (target / CARD).exists():
            return target
        self._cut(labelled, out / "chips")
        with _one_thread():
            made = train(options, out / "training", on_event=_tell)
            return self._finished(made.package, labelled, target)

    def _cut(self, labelled: Sequence[Labelled], chips: Path) -> None:
        scenes = [open_scene(str(each.scene), bands=self.bands) for each in labelled]
        files = [LabelFile(path=str(each.labels), split=each.split) for each in labelled]
        options, reading = ChipOptions(size=self.size, split="file"), LabelOptions(classes=self.classes)
        cut_chips(scenes, files, chips, options=options, labels=reading, on_event=_tell)

    def _finished(self, trained: Path, labelled: Sequence[Labelled], target: Path) -> Path:
        """A copy of the trained package that is as sure as it is right, and says how far it sees."""
        package = open_package(trained)
        held, halo = self._calibration(trained, labelled, "val"), measure_halo(package).radius
        facts = {**asdict(held), "scenes": [each.scene.stem for each in labelled if each.split == "val"]}
        calm = {"geoseg:temperature": held.temperature, "geoseg:calibration": facts, "geoseg:halo": halo}
        with TemporaryDirectory(dir=target.parent) as folder:
            draft = amend_card(package, {**calm, "datetime": _DATETIME}, Path(folder) / "package")
            before, after = (self._calibration(each, labelled, "test").error[0] for each in (trained, draft))
            told = _provenance(draft)
            told["metrics"]["test"]["calibration_error"] = {"before": round(before, 4), "after": round(after, 4)}
            return amend_card(open_package(draft), {"geoseg:provenance": told}, target)

    def _calibration(self, package: Path, labelled: Sequence[Labelled], split: str) -> Calibration:
        """What the pixels of a split say of the temperature on a card."""
        chosen = [each for each in labelled if each.split == split]
        scenes = [open_scene(str(each.scene), bands=self.bands) for each in chosen]
        return calibrate(package, scenes, [LabelFile(path=str(each.labels)) for each in chosen])


def _provenance(package: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((package / CARD).read_text("utf-8"))["properties"]["geoseg:provenance"]
    return told


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order, whatever the machine; chips are made ready on another core meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tell(event: Event | TrainBegan | EpochDone) -> None:
    """A line of progress on stderr."""
    if isinstance(event, Warned):
        print(event.message, file=sys.stderr, flush=True)
    elif isinstance(event, EpochDone):
        row = event.row
        told = f"epoch {row['epoch']:g} of {event.epochs}: loss {row['loss']:.4f}, val mean IoU {row['val_miou']:.4f}"
        print(told + (", the best so far" if event.is_best else ""), file=sys.stderr, flush=True)
