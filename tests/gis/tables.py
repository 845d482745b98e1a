"""What every program that opens the polygons of a run has to find in them."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import pytest

Classes = dict[str, tuple[int, float]]


def features(run: Path) -> Classes:
    """Number of polygons of each class and their area in square metres, as geopandas reads them."""
    frame = geopandas.read_parquet(run / "polygons.parquet", columns=["class_name", "area_m2", "geometry"])
    groups = {str(name): group for name, group in frame.groupby("class_name")["area_m2"]}
    return {name: (len(group), float(group.sum())) for name, group in groups.items()}


def assert_all_there(found: Classes, run: Path) -> None:
    """`found` is what geopandas finds, and the areas are those of the report, which has them to a square metre."""
    report = json.loads((run / "run.json").read_text())
    is_change = "change.tif" in report["outputs"]
    reported = {
        area["name"]: pytest.approx(area["km2"] * 1e6, abs=1)
        for area in report["areas"]
        if area["pixels"] and (area["value"] or not is_change)
    }
    expected = features(run)
    assert {name: count for name, (count, _) in found.items()} == {name: count for name, (count, _) in expected.items()}
    assert {name: area for name, (_, area) in found.items()} == {
        name: pytest.approx(area, rel=1e-9) for name, (_, area) in expected.items()
    }
    assert {name: area for name, (_, area) in found.items()} == reported
