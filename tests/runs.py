"""Finished runs that no net has made: labels that a test chooses, with every file that a run leaves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine

from geoseg.catalog.item import describe_run, write_item
from geoseg.scene import Band, BandSet, Scene
from geoseg.sink.vector import write_features
from geoseg.spec import Channel, ClassInfo, ModelSpec
from geoseg.window import GeoBox
from tests.sink.layers import make_features
from tests.source.sources import write_raster

NAMES = ("water", "forest", "town")
SPEC = ModelSpec(
    name="cover",
    bands=("red",),
    channels=(Channel(name="red"),),
    classes=tuple(ClassInfo(value=value, name=name) for value, name in enumerate(NAMES)),
    digest="ab" * 32,
)
ZONE_32 = GeoBox((30, 40), Affine(10, 0, 600_000, 0, -10, 5_400_000), "EPSG:32632")
ZONE_33 = GeoBox((30, 40), Affine(10, 0, 159_000, 0, -10, 5_409_500), "EPSG:32633")
"""About the same place in the neighbouring zone."""
FIRST = datetime(2024, 5, 3, 10, 20, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Made:
    """A run and what is in it."""

    folder: Path
    labels: npt.NDArray[np.uint8]
    geobox: GeoBox
    frame: Any
    """Its polygons, in its CRS."""


def make_run(
    folder: Path,
    *,
    scene: str | None = None,
    geobox: GeoBox = ZONE_32,
    when: datetime | None = FIRST,
    seed: int = 0,
    vector: Sequence[str] = ("parquet",),
) -> Made:
    """Labels in patches of random classes, with a hole."""
    random = np.random.default_rng(seed)
    height, width = geobox.shape
    coarse = random.integers(0, len(NAMES), (-(-height // 5), -(-width // 5)), dtype=np.uint8)
    labels = coarse.repeat(5, 0).repeat(5, 1)[:height, :width]
    labels[3:6, 2:9] = 255
    folder.mkdir(parents=True)
    paths = [write_raster(folder / "labels.tif", labels[None], geobox, nodata=255)]
    told = Scene(
        id=scene or folder.name,
        source=None,
        geobox=geobox,
        bands=BandSet((Band(name="red", dtype="uint16"),)),
        datetime=when,
        datetime_source="item",
        href=str(folder.parent / "scene.tif"),
    )
    frame = make_features(
        labels, geobox=geobox, nodata=255, classes=SPEC.classes, scene=told.id, datetime=when, model=SPEC.name
    )
    paths += write_features(frame, folder, vector)
    started = datetime(2026, 1, 1, tzinfo=UTC)
    item = describe_run(told, SPEC, paths, geobox=geobox, started=started, software={"geoseg": "0"}, home=folder)
    write_item(item, folder / "item.json")
    (folder / "run.json").write_text(json.dumps({"outputs": sorted(path.name for path in paths)}))
    return Made(folder=folder, labels=labels, geobox=geobox, frame=frame)
