"""DuckDB queries a run's GeoParquet as it is, without an extension, and reads only the part that a box needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import pytest

from tests.gis.tables import assert_all_there, features
from tests.test_house import CHECKOUT, blocks

duckdb = pytest.importorskip("duckdb", reason="an extra: pip install 'geoseg[catalog]'")

FILE = "polygons.parquet"
WEST, SOUTH, EAST, NORTH = 500_500, 4_998_000, 500_820, 4_998_300
"""One part in a hundred of the extent of the noise."""
BOX = f"bbox.xmin <= {EAST} AND bbox.xmax >= {WEST} AND bbox.ymin <= {NORTH} AND bbox.ymax >= {SOUTH}"


def rows(sql: str) -> list[tuple[Any, ...]]:
    """What a query returns."""
    with duckdb.connect() as connection:
        found: list[tuple[Any, ...]] = connection.sql(sql).fetchall()
        return found


def test_areas_by_class_are_those_of_the_report(any_run: Path) -> None:
    sql = "SELECT class_name, count(*), sum(area_m2) FROM '{}' GROUP BY ALL"
    found = rows(sql.format(any_run / FILE))
    assert_all_there({name: (count, area) for name, count, area in found}, any_run)


def test_columns_are_typed(any_run: Path) -> None:
    types = {name: kind for name, kind, *_ in rows(f"DESCRIBE SELECT * FROM '{any_run / FILE}'")}
    assert types["class_id"] == "INTEGER"
    assert types["class_name"] == types["scene"] == types["model"] == "VARCHAR"
    assert types["area_m2"] == "DOUBLE"
    times = ("before", "after") if "before" in types else ("datetime",)
    assert {types[name] for name in times} == {"TIMESTAMP WITH TIME ZONE"}
    assert types["bbox"].startswith("STRUCT(xmin DOUBLE, ymin DOUBLE")


def test_a_box_finds_what_touches_it(noise: Path) -> None:
    ((count, area),) = rows(f"SELECT count(*), sum(area_m2) FROM '{noise / FILE}' WHERE {BOX}")
    expected = geopandas.read_parquet(noise / FILE, bbox=(WEST, SOUTH, EAST, NORTH))
    assert 500 < count == len(expected)
    assert area == pytest.approx(expected["area_m2"].sum(), rel=1e-12)


def test_a_box_prunes_row_groups(noise: Path) -> None:
    ((_, told),) = rows(f"EXPLAIN (ANALYZE, FORMAT JSON) SELECT sum(area_m2) FROM '{noise / FILE}' WHERE {BOX}")
    (scan,) = [node for node in nodes(json.loads(told)) if "row_groups_scanned" in node]
    assert scan["total_row_groups_to_scan"] > 10
    assert 0 < scan["row_groups_scanned"] <= scan["total_row_groups_to_scan"] / 3


def test_the_queries_of_the_page_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    areas, counted = (rows(query) for query in blocks(CHECKOUT / "docs" / "how-to" / "outputs.md", "sql"))
    assert {name: (count, km2 * 1e6) for name, km2, count in areas} == {
        name: (count, pytest.approx(area)) for name, (count, area) in features(run).items()
    }
    assert 0 < counted[0][0] < sum(count for *_, count in areas)


def nodes(plan: Any) -> list[dict[str, Any]]:
    """Every object in a JSON document."""
    if isinstance(plan, list):
        return [node for part in plan for node in nodes(part)]
    return [plan, *nodes(list(plan.values()))] if isinstance(plan, dict) else []
