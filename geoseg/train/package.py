"""The model package that a training ends with: its card says what it was made of, how, and how good it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from geoseg.models.save import save_package
from geoseg.train.fit import Judgement, Progress
from geoseg.train.options import plain
from geoseg.train.setting import Setting

__all__ = ["write_trained"]


def write_trained(
    net: nn.Module, setting: Setting, found: Mapping[str, Judgement], progress: Progress, folder: Path
) -> Path:
    """Writes the package into `folder`, whole or not at all, and returns it.

    Args:
        net: With the weights to keep.
        setting: What it was trained with.
        found: Split -> how good it is there.
        progress: Of the finished training.
        folder: It appears now.

    Raises:
        ModelError: The net cannot be stored so that it reads back the same.
    """
    options, view, recipe = setting.options.package, setting.view, setting.recipe
    channels = [one if isinstance(one, str) else {"format": "rio-tiler", **one} for one in view.channels]
    return save_package(
        net,
        folder,
        name=options.name,
        description=options.description,
        bands=channels,
        classes=setting.classes,
        architecture=recipe.architecture,
        arguments=recipe.arguments,
        tile=options.tile,
        overlap=options.overlap,
        multiple_of=recipe.stride,
        fill=view.spec.fill,
        value_scaling=view.scaling,
        assume_scaling=view.spec.assume_scaling,
        dates=view.spec.dates,
        task="change-detection" if view.spec.dates > 1 else "segmentation",
        training_statistics=setting.statistics.values,
        properties={
            "license": options.license,
            "geoseg:provenance": {
                **plain(options.provenance),
                "chips": _chips(setting),
                "metrics": {split: _figures(each, setting) for split, each in found.items()},
                "training": {
                    "epochs": progress.epoch,
                    "best_epoch": progress.best + 1 if progress.best >= 0 else progress.epoch,
                    "config": plain(asdict(replace(setting.options, out=None))),
                    "identity": dict(setting.identity),
                },
            },
        },
    )


def _chips(setting: Setting) -> dict[str, Any]:
    """Where the chips come from and how they are parted; no path of this machine."""
    told = setting.chips.told
    asked = told.get("asked", {})
    rules = asked.get("options", {})
    found: dict[str, Any] = {"scenes": [each["id"] for each in asked.get("scenes", ())]}
    found |= {name: rules[name] for name in ("split", "buffer", "seed", "size") if name in rules}
    return found | {name: told[name] for name in ("chips", "pixels", "metres_between") if name in told}


def _figures(found: Judgement, setting: Setting) -> dict[str, Any]:
    names = [each.name for each in setting.classes]
    return {
        "miou": _rounded(found.miou),
        "accuracy": _rounded(found.accuracy),
        "loss": _rounded(found.loss),
        "iou": dict(zip(names, map(_rounded, found.ious), strict=True)),
        "pixels": int(found.matrix.sum()),
    }


def _rounded(value: float) -> float | None:
    """For a card; None for what is not defined."""
    return None if math.isnan(value) else round(value, 4)
