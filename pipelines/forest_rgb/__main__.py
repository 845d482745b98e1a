"""Trains forest-rgb, measures it, writes its package: ``python -m pipelines.forest_rgb DATA OUT``."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from geoseg.models.package import CARD
from pipelines.forest_rgb.rivers import flooded
from pipelines.recipe import Labelled, Recipe

__all__ = ["main", "read_pictures"]

RECIPE = Recipe(
    config=Path(__file__).with_name("train.yaml"),
    bands=("red", "green", "blue"),
    classes={"forest": 1, "non-forest": 2},
    size=512,
)
HELD_OUT = (-57.78, -57.4)
"""Degrees of longitude between which the data's own training chips choose epoch and temperature instead."""
RIVERS = 3
"""Copies with a river in them of every picture of much forest that is learned from."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the recipe; one that was stopped goes on from its last epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with chips.csv, train and val")
    parser.add_argument("out", type=Path, help="where chips, training and package go")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="see train.md")
    asked = parser.parse_args(arguments)
    pictures = read_pictures(asked.data)
    package = RECIPE.carry_out([*pictures, *_with_rivers(pictures, asked.out / "rivers")], asked.out, asked.settings)
    told = json.loads((package / CARD).read_text("utf-8"))["properties"]["geoseg:provenance"]
    print(json.dumps(told["metrics"], indent=2))
    print(f"package: {package}")


def read_pictures(folder: Path) -> list[Labelled]:
    """The pictures that ``chips.csv`` lists: the data's own validation is tested with, the others by longitude."""
    with (folder / "chips.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    return [
        Labelled(
            scene=folder / row["split"] / "image" / f"{row['id']}.tif",
            labels=folder / row["split"] / "mask" / f"{row['id']}.tif",
            split=_use(row["split"], float(row["lon"])),
        )
        for row in rows
    ]


def _with_rivers(pictures: list[Labelled], folder: Path) -> Iterator[Labelled]:
    learned = [each for each in pictures if each.split == "train"]
    for seed, each in enumerate(each for each in learned for _ in range(RIVERS)):
        if (drawn := flooded(each.scene, each.labels, folder, seed)) is not None:
            yield Labelled(scene=drawn[0], labels=drawn[1], split="train")


def _use(split: str, longitude: float) -> str:
    if split == "val":
        return "test"
    return "val" if HELD_OUT[0] < longitude < HELD_OUT[1] else "train"


if __name__ == "__main__":
    main()
