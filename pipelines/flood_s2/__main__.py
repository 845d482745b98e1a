"""Trains flood-s2, measures it, writes its package: ``python -m pipelines.flood_s2 DATA OUT``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from pipelines.flood_s2.chips import read_chips
from pipelines.flood_s2.measure import counts_per_pair
from pipelines.flood_s2.package import figures_of, write_package
from pipelines.flood_s2.training import Training, train

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the recipe; a run that was stopped goes on from its last checkpoint."""
    usual = Training()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with pairs.csv, train, val and test_public")
    parser.add_argument("out", type=Path, help="where checkpoint, figures and package go")
    parser.add_argument("--steps", type=int, default=usual.steps, help=f"batches (default {usual.steps})")
    parser.add_argument("--seed", type=int, default=usual.seed, help=f"of every draw (default {usual.seed})")
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # sums then have one order, and small tiles leave a second core little to do
    plan = Training(steps=asked.steps, seed=asked.seed)
    splits = {split: read_chips(asked.data, split) for split in ("train", "val", "test_public")}
    net = train(plan, splits["train"], asked.out / "checkpoint.pt", check=splits["val"])
    figures = {
        split: figures_of(splits[split], counts_per_pair(net, splits[split])) for split in ("val", "test_public")
    }
    (asked.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    package = write_package(net, asked.out / "flood-s2", splits["train"], figures, asdict(plan))
    for split, found in figures.items():
        print(f"{split}: IoU {found['iou']:.3f}, precision {found['precision']:.3f}, recall {found['recall']:.3f}")
    print(f"package: {package}")


if __name__ == "__main__":
    main()
