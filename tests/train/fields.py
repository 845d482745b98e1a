"""Small folders of chips, as `geoseg chips` leaves them, of ground that a small net can learn in a few steps."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from affine import Affine

from geoseg.scene import DATES, Band, BandSet, Scaling
from geoseg.sink.chip import write_chip, write_chip_labels
from geoseg.train import IGNORE
from geoseg.train.options import Augmentation, DataOptions, FitOptions, NetOptions, PackageOptions, TrainOptions
from geoseg.window import GeoBox

SIDE = 32
NAMES = ("dry", "wet")
REFLECTANCE = Scaling(scale=1e-4)
SPLITS = {"train": 4, "val": 2, "test": 1}


def make_chips(folder: Path, *, dates: int = 1, size: int = SIDE, scaling: Scaling | None = REFLECTANCE) -> Path:
    """Chips of red and nir; wet is where nir is low, of pairs only after; the first rows of each are not usable."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    random = np.random.default_rng(0)
    names = ("red", "nir") if dates == 1 else tuple(f"{date}.{name}" for date in DATES for name in ("red", "nir"))
    bands = BandSet(tuple(Band(name=name, dtype="uint16", scaling=scaling) for name in names))
    rows: list[dict[str, object]] = []
    for split, count in SPLITS.items():
        for number in range(count):
            stem = f"{split}{number}"
            geobox = GeoBox((size, size), Affine(10, 0, 6e5 + 400 * len(rows), 0, -10, 5.4e6), "EPSG:32632")
            wet = np.kron(random.random((size // 8, size // 8)) < 0.5, np.ones((8, 8), bool))
            pixels = random.integers(2500, 3000, (len(names), size, size)).astype(np.uint16)
            pixels[-1][wet] //= 4
            valid = np.ones((size, size), bool)
            valid[:3] = False
            labels = np.where(valid, wet, IGNORE).astype(np.uint8)
            write_chip(folder / "images" / f"{stem}.tif", pixels, valid, geobox=geobox, bands=bands)
            write_chip_labels(folder / "labels" / f"{stem}.tif", labels, geobox=geobox, nodata=IGNORE)
            counts = {f"pixels_{name}": int((labels == value).sum()) for value, name in enumerate(NAMES)}
            files = {"image": f"images/{stem}.tif", "labels": f"labels/{stem}.tif"}
            rows.append({**files, "split": split, "height": size, "width": size, **counts})
    with (folder / "chips.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    told = {"classes": [{"name": name, "value": value} for value, name in enumerate(NAMES)], "chips": SPLITS}
    (folder / "chips.json").write_text(json.dumps(told))
    return folder


PLAIN = Augmentation(flips=False, brightness=0, contrast=0, gamma=0, noise=0)
"""Nothing is changed."""
TINY = {"encoder_name": "tu-mobilenetv3_small_050", "encoder_depth": 2, "decoder_channels": [8, 4]}


def options_for(chips: Path, *, pairs: bool = False, **fit: object) -> TrainOptions:
    """A training of seconds."""
    return TrainOptions(
        data=DataOptions(chips=str(chips), channels=("red", "nir", "NDVI")),
        net=NetOptions(architecture="SiameseUnet" if pairs else "Unet", arguments=TINY),
        fit=FitOptions(**{"epochs": 2, "batch": 2, "device": "cpu", **fit}),  # type: ignore[arg-type]
        package=PackageOptions(name="tiny", tile=64, license="CC0-1.0"),
        pictures=1,
        tensorboard=False,
    )
