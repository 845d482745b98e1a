"""A split for people and for programs: its chips as polygons, and a picture of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine

from geoseg.earth import to_lonlat
from geoseg.look import write_picture
from geoseg.sink.parts import durable
from geoseg.source.burned import UNCOVERED, BurnedSource
from geoseg.spec import ClassInfo
from geoseg.train.ground import Geometries, Ground
from geoseg.train.split import SPLITS, Splits
from geoseg.window import GeoBox, whole

__all__ = ["write_split_features", "write_split_picture"]

_COLORS = {"train": "4477AA", "val": "CCBB44", "test": "EE6677", "not used": "BBBBBB"}
_NOTHING = 255
_SIDE = 800
"""Pixels along the longer side of the picture's map."""


def write_split_features(path: Path, footprints: Geometries, splits: Splits, groups: Sequence[str], crs: Any) -> None:
    """Writes GeoJSON (RFC 7946): the ground of each split's chips, a feature per connected part of a group.

    Args:
        path: The file.
        footprints: (n,) polygons of the chips.
        splits: (n,) index into `SPLITS`.
        groups: (n,) what each belongs to.
        crs: Of the footprints.

    Raises:
        SinkError: It cannot be written.
    """
    members: dict[tuple[int, str], list[Any]] = {}
    for footprint, split, group in zip(footprints, splits.tolist(), groups, strict=True):
        members.setdefault((split, group), []).append(footprint)
    features = []
    for (split, group), polygons in sorted(members.items()):
        parts = shapely.get_parts(shapely.union_all(polygons))
        properties = {"split": SPLITS[split], "group": group}
        features += [
            f'{{"type":"Feature","properties":{json.dumps(properties)},"geometry":{shapely.to_geojson(part)}}}'
            for part in to_lonlat(parts, crs)
        ]
    with durable(path) as draft:
        draft.write_text('{"type":"FeatureCollection","features":[\n' + ",\n".join(features) + "\n]}\n")


def write_split_picture(
    path: Path,
    footprints: Geometries,
    splits: Splits,
    weights: npt.NDArray[np.int64],
    ground: Ground,
    title: str,
) -> None:
    """Draws where the chips of each split lie, and those that were not used.

    Args:
        path: The PNG.
        footprints: (n,) on `ground`.
        splits: (n,) index into `SPLITS`; -1: not used.
        weights: (n,) labelled pixels.
        ground: The plane that is drawn.
        title: Line above the map.

    Raises:
        SinkError: It cannot be written.
    """
    shown = np.where(splits < 0, len(SPLITS), splits)
    west, south, east, north = shapely.total_bounds(footprints)
    metres = max(east - west, north - south) / _SIDE
    shape = int(np.ceil((north - south) / metres)), int(np.ceil((east - west) / metres))
    grid = GeoBox(shape, Affine(metres, 0, west, 0, -metres, north), str(ground.crs))
    order = np.argsort(splits, kind="stable")  # what is not used lies below
    drawn = BurnedSource(
        polygons=tuple(shapely.transform(footprints[order], lambda at: (at - [west, north]) / [metres, -metres])),
        values=tuple(shown[order].tolist()),
        geobox=grid,
        name="split",
        all_touched=True,
    )
    (values,), _ = drawn.read(whole(grid))
    classes = [
        ClassInfo(value=value, name=name, title=name, color=color)
        for value, (name, color) in enumerate(_COLORS.items())
    ]
    write_picture(
        path,
        np.where(values == UNCOVERED, _NOTHING, values).astype(np.uint8),
        [each for each in classes if (shown == each.value).any()],
        _NOTHING,
        title=title,
        shares={each.value: float(weights[shown == each.value].sum() / weights.sum()) for each in classes},
        shape=shape,
        metres=metres,
    )
