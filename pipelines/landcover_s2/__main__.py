"""Makes scenes, trains landcover-s2 on them, writes its package: ``python -m pipelines.landcover_s2 OUT``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from geoseg.models.package import CARD
from geoseg.testing.spectra import BANDS
from pipelines.landcover_s2.scenes import CLASSES, SIDE, make_sheets
from pipelines.recipe import Recipe

__all__ = ["main"]

RECIPE = Recipe(config=Path(__file__).with_name("train.yaml"), bands=BANDS, classes=CLASSES, size=SIDE)
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the recipe; one that was stopped goes on from its last epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="where scenes, chips, training and package go")
    parser.add_argument("--scenes", type=int, default=400, help="how many are made (default 400)")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes (default 0)")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="see train.md")
    asked = parser.parse_args(arguments)
    scenes = asked.out / "scenes"
    scenes.mkdir(parents=True, exist_ok=True)
    counts = {split: max(1, round(share * asked.scenes)) for split, share in SHARES.items()}
    package = RECIPE.carry_out(make_sheets(scenes, counts, asked.seed), asked.out, asked.settings)
    told = json.loads((package / CARD).read_text("utf-8"))["properties"]["geoseg:provenance"]
    print(json.dumps(told["metrics"], indent=2))
    print(f"package: {package}")


if __name__ == "__main__":
    main()
