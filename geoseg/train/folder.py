"""The folder of a training: whose it is, what is known of its data, its history.

::

    config.yaml         every option, but for the folder itself
    data.json           which chips and weights these are, statistics, scaling
    checkpoints/        last.pt: where the training stands; best.pt: the weights of the best epoch
    history.csv         a row per epoch
    pictures/           what is seen, truth, prediction, after each epoch
    tensorboard/        the same figures and pictures, where TensorBoard is installed
    package/            the model package; it appears when everything is done
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from geoseg.errors import SinkError
from geoseg.store.disk import durable
from geoseg.train.options import TrainOptions, plain

__all__ = ["TrainFolder"]

_CONFIG, _DATA = "config.yaml", "data.json"
_FILES = (_CONFIG, _DATA, "history.csv")
_FOLDERS = ("checkpoints", "pictures", "tensorboard", "package")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainFolder:
    """Where a training puts what it makes."""

    path: Path
    """The folder."""

    @property
    def package(self) -> Path:
        """The model package, once everything is done."""
        return self.path / "package"

    @property
    def history(self) -> Path:
        """Table of all epochs."""
        return self.path / "history.csv"

    @property
    def checkpoints(self) -> Path:
        """Folder of weights."""
        return self.path / "checkpoints"

    @property
    def pictures(self) -> Path:
        """Folder of pictures."""
        return self.path / "pictures"

    @property
    def events(self) -> Path:
        """TensorBoard's folder."""
        return self.path / "tensorboard"

    def claim(self, options: TrainOptions, *, overwrite: bool) -> None:
        """Makes the folder that of one training, which may have begun already.

        Raises:
            SinkError: It holds something else.
        """
        wanted = yaml.safe_dump(plain(asdict(replace(options, out=None))), sort_keys=False, allow_unicode=True)
        config = self.path / _CONFIG
        if config.exists() and overwrite:
            for name in _FOLDERS:
                shutil.rmtree(self.path / name, ignore_errors=True)
            for name in _FILES:
                (self.path / name).unlink(missing_ok=True)
        elif config.exists() and (differs := _difference(config.read_text("utf-8"), wanted)):
            raise SinkError(
                f"{self.path}: holds a training with another {differs}; choose another --out, or --overwrite it"
            )
        elif not config.exists() and (foreign := self._foreign()):
            raise SinkError(f"{self.path}: holds {foreign}, which is of no training; choose another --out")
        with durable(config) as draft:
            draft.write_text(wanted, "utf-8")
        for folder in (self.checkpoints, self.pictures):
            folder.mkdir(exist_ok=True)

    def _foreign(self) -> str:
        names = sorted(path.name for path in self.path.iterdir() if not path.name.startswith((".", "lock")))
        return names[0] if names else ""

    def known(self, identity: Mapping[str, str]) -> dict[str, Any] | None:
        """What was found out about the data; None where nothing was.

        Args:
            identity: Name -> checksum of each input.

        Raises:
            SinkError: An input is no longer what it was.
        """
        path = self.path / _DATA
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if changed := sorted(name for name, mark in identity.items() if found["identity"].get(name) != mark):
            raise SinkError(f"{self.path}: {changed[0]} changed since this training began; start anew with --overwrite")
        return found

    def tell(self, identity: Mapping[str, str], found: Mapping[str, Any]) -> dict[str, Any]:
        """Puts down what was found out about the data, and returns it with the identity."""
        content = {"identity": dict(identity), **found}
        with durable(self.path / _DATA) as draft:
            draft.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        return content

    def write_history(self, rows: Sequence[Mapping[str, float]], classes: Sequence[str]) -> None:
        """A row per epoch; numbers are written so that they are read back exactly."""
        renamed = {f"val_iou_{number}": f"val_iou_{name}" for number, name in enumerate(classes)}
        with durable(self.history) as draft, draft.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            if rows:
                table.writerow([renamed.get(key, key) for key in rows[0]])
            table.writerows([list(row.values()) for row in rows])


def _difference(held: str, wanted: str) -> str:
    """The first option that differs, dotted; empty where none does."""
    return _first_difference(yaml.safe_load(held), yaml.safe_load(wanted), "")


def _first_difference(held: Any, wanted: Any, key: str) -> str:
    if isinstance(held, dict) and isinstance(wanted, dict):
        parts = (_first_difference(held.get(name), wanted.get(name), f"{key}.{name}") for name in held | wanted)
        return next(filter(None, parts), "")
    return "" if held == wanted else key.removeprefix(".")
