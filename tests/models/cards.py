"""Cards and packages that the tests of models start from."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geoseg.models import save_package
from geoseg.models.package import Format


class Mixer(nn.Module):
    """A net that sees one pixel beyond: enough to notice a wrong size, a wrong order and a wrong batch."""

    def __init__(self, channels: int = 3, classes: int = 2, *, dates: int = 1) -> None:
        super().__init__()
        self.dates = dates
        self.first = nn.Conv2d(channels * dates, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, classes, 1)

    def forward(self, batch: Tensor) -> Tensor:
        """Scores (n, class, row, col)."""
        flat = batch.flatten(1, 2) if self.dates > 1 else batch
        scores: Tensor = self.last(torch.relu(self.norm(self.first(flat))))
        return scores


def mixer(channels: int = 3, classes: int = 2, *, dates: int = 1, seed: int = 0) -> Mixer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Mixer(channels, classes, dates=dates).eval()
        nn.init.uniform_(net.norm.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
    return net


def saved_mixer(path: Path, *, kind: Format = "onnx", dates: int = 1, seed: int = 0, **fields: Any) -> Path:
    bands: Sequence[str] = ("green", "red", "nir")
    net = mixer(dates=dates, seed=seed)
    options: dict[str, Any] = {"multiple_of": 1, "tile": 64, "dates": dates} | fields
    return save_package(net, path, name="mixer", bands=bands, classes=("no", "yes"), format=kind, **options)


def card_of(package: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((package / "model.json").read_text("utf-8"))
    return card


def rewrite(package: Path, **properties: Any) -> dict[str, Any]:
    """Changes properties of a package's card; None removes one."""
    card = card_of(package)
    for key, value in properties.items():
        name = key.replace("__", ":")
        if value is None:
            card["properties"].pop(name, None)
        else:
            card["properties"][name] = value
    (package / "model.json").write_text(json.dumps(card), "utf-8")
    return card


PLAIN: dict[str, Any] = {
    "type": "Feature",
    "stac_version": "1.1.0",
    "id": "plain",
    "geometry": None,
    "stac_extensions": ["https://stac-extensions.github.io/mlm/v1.5.2/schema.json"],
    "properties": {
        "datetime": "2026-01-01T00:00:00Z",
        "description": "a card for tests",
        "mlm:name": "plain",
        "mlm:architecture": "none",
        "mlm:tasks": ["semantic-segmentation"],
        "bands": [{"name": "B04", "eo:common_name": "red"}, {"name": "nir", "eo:common_name": "nir"}],
        "mlm:input": [
            {
                "name": "reflectance",
                "bands": ["B04", "nir"],
                "input": {
                    "shape": [-1, 2, 128, 128],
                    "dim_order": ["batch", "bands", "height", "width"],
                    "data_type": "float32",
                },
            }
        ],
        "mlm:output": [
            {
                "name": "scores",
                "tasks": ["semantic-segmentation"],
                "result": {
                    "shape": [-1, 2, 128, 128],
                    "dim_order": ["batch", "classes", "height", "width"],
                    "data_type": "float32",
                },
                "classification:classes": [
                    {"value": 3, "name": "low", "color_hint": "00ff00"},
                    {"value": 7, "name": "high", "title": "High"},
                ],
            }
        ],
    },
    "links": [],
    "assets": {},
}


def plain_card() -> dict[str, Any]:
    return copy.deepcopy(PLAIN)
