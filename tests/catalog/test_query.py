"""SQL over the polygons of all runs, against geopandas and numpy."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pyproj
import pytest
import shapely
from affine import Affine

from geoseg.catalog import query as query_module
from geoseg.catalog import sql
from geoseg.catalog.collection import add_runs
from geoseg.catalog.functions import ellipsoid_area
from geoseg.catalog.query import ask, bounds_near, box_shape, outline_of
from geoseg.earth import pixel_areas
from geoseg.errors import ConfigError, GridError, SourceError
from geoseg.window import GeoBox
from tests.buckets import Bucket
from tests.runs import FIRST, NAMES, SPEC, ZONE_33, Made, make_run

JUNE = datetime(2024, 6, 3, tzinfo=UTC)
FARM = shapely.Polygon([(10.3617, 48.7424), (10.3639, 48.7429), (10.3633, 48.7444), (10.3611, 48.7439)])
"""Within the first run; the second covers a part of it."""
CATALOG = "catalog"


def asked(folder: Path, query: str, **options: Any) -> list[dict[str, Any]]:
    with ask(folder / CATALOG, query, **options) as answer:
        rows: list[dict[str, Any]] = answer.read_all().to_pylist()
        return rows


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Made]:
    """One of May, one of June in the zone beside, one of both dates at once."""
    folder = tmp_path_factory.mktemp("runs")
    made = [make_run(folder / "may"), make_run(folder / "june", geobox=ZONE_33, when=JUNE, seed=1)]
    change = make_run(folder / "change", seed=2)
    path = change.folder / "polygons.parquet"
    frame = geopandas.read_parquet(path).drop(columns="datetime")
    frame["before"], frame["after"] = pd.Timestamp(FIRST), pd.Timestamp(JUNE)
    frame.to_parquet(path, write_covering_bbox=True, schema_version="1.1.0")
    item = json.loads((change.folder / "item.json").read_text())
    item["assets"]["change"] = item["assets"].pop("labels")
    (change.folder / "item.json").write_text(json.dumps(item))
    add_runs(folder / CATALOG, [folder / name for name in ("may", "june", "change")])
    return [*made, change]


@pytest.fixture
def folder(runs: list[Made]) -> Path:
    return runs[0].folder.parent


def test_every_polygon_of_every_run_is_there_once(folder: Path, runs: list[Made]) -> None:
    found = asked(folder, "SELECT item, run, collection, count(*) AS n, sum(area_m2) AS m2 FROM polygons GROUP BY ALL")
    by_item = {row["item"]: row for row in found}
    assert set(by_item) == {f"{made.folder.name}-{SPEC.name}" for made in runs}
    for made in runs:
        row = by_item[f"{made.folder.name}-{SPEC.name}"]
        assert (row["n"], row["run"]) == (len(made.frame), str(made.folder))
        assert row["m2"] == pytest.approx(made.frame["area_m2"].sum(), rel=1e-12)
        assert row["collection"] == ("changes" if made.folder.name == "change" else "maps")


def test_what_a_run_does_not_have_is_null(folder: Path) -> None:
    query = "SELECT item, min(datetime) AS time, min(before) AS before, min(after) AS after FROM polygons GROUP BY item"
    rows = {row["item"]: row for row in asked(folder, query)}
    assert rows["may-cover"]["time"] == FIRST
    assert rows["may-cover"]["before"] is None
    assert (rows["change-cover"]["before"], rows["change-cover"]["after"]) == (FIRST, JUNE)
    assert rows["change-cover"]["time"] == JUNE


def test_geometries_are_longitude_and_latitude(folder: Path, runs: list[Made]) -> None:
    for made in runs[:2]:
        query = f"SELECT ST_AsWKB(geometry) AS wkb FROM polygons WHERE item = '{made.folder.name}-cover'"
        found = shapely.from_wkb([row["wkb"] for row in asked(folder, query)])
        expected = made.frame.to_crs(4326).geometry.to_numpy()
        assert shapely.is_valid(found).all()
        whole = shapely.union_all(found)
        assert whole.symmetric_difference(shapely.union_all(expected)).area < 1e-4 * whole.area


def test_area_of_each_class_per_month_inside_a_polygon(folder: Path, runs: list[Made]) -> None:
    """The one line of the documentation, against a sum over pixels that are cut by the outline one by one."""
    query = (
        "SELECT strftime(datetime, '%Y-%m') AS month, class_name, sum(inside_m2) AS m2 FROM polygons "
        "WHERE collection = 'maps' GROUP BY ALL ORDER BY ALL"
    )
    found = {(row["month"], row["class_name"]): row["m2"] for row in asked(folder, query, area=FARM)}
    expected = {}
    for made, month in zip(runs[:2], ("2024-05", "2024-06"), strict=True):
        inside = geopandas.GeoSeries([FARM], crs=4326).to_crs(str(made.geobox.crs))[0]
        rows, cols = np.indices(made.labels.shape)
        a, _, c, _, e, f = made.geobox.transform[:6]
        pixels = shapely.box(a * cols + c, e * rows + f, a * (cols + 1) + c, e * (rows + 1) + f)
        m2 = np.concatenate([area for _, area in pixel_areas(made.geobox)])
        part = shapely.area(shapely.intersection(pixels, inside)) / 100 * m2
        for value, name in enumerate(NAMES):
            if total := part[made.labels == value].sum():
                expected[month, name] = total
    assert found.keys() == expected.keys()
    for key, total in expected.items():
        assert found[key] == pytest.approx(total, rel=2e-3)


def test_an_area_leaves_only_what_touches_it(folder: Path, runs: list[Made]) -> None:
    found = asked(folder, "SELECT item, area_m2, inside_m2 FROM polygons", area=FARM)
    for made in runs:
        inside = geopandas.GeoSeries([FARM], crs=4326).to_crs(made.frame.crs)[0]
        touching = made.frame[made.frame.intersects(inside)]
        areas = [row["area_m2"] for row in found if row["item"] == f"{made.folder.name}-cover"]
        assert sorted(areas) == pytest.approx(sorted(touching["area_m2"]))
        assert 0 < len(areas) < len(made.frame)
    assert all(row["inside_m2"] <= row["area_m2"] * (1 + 1e-3) for row in found)


def test_an_area_of_text_gives_what_an_area_of_an_option_gives(folder: Path) -> None:
    text = f"SELECT sum(area_inside(geometry, '{FARM.wkt}')) AS m2 FROM polygons"
    (one,), (two,) = asked(folder, text), asked(folder, "SELECT sum(inside_m2) AS m2 FROM polygons", area=FARM)
    assert one["m2"] == pytest.approx(two["m2"], rel=1e-9)
    (three,) = asked(folder, "SELECT sum(area_inside(geometry, $area)) AS m2 FROM polygons", area=FARM)
    assert three["m2"] == two["m2"]


def test_an_area_elsewhere_holds_nothing(folder: Path) -> None:
    assert asked(folder, "SELECT * FROM polygons", area=box_shape(-60, -10, -59, -9)) == []
    assert asked(folder, "SELECT count(*) AS n FROM items", area=box_shape(-60, -10, -59, -9)) == [{"n": 3}]


def test_only_row_groups_near_the_area_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a large run lies outside: its row groups are gone before a query begins."""
    made = make_run(tmp_path / "run", geobox=GeoBox((300, 400), ZONE_33.transform, ZONE_33.crs), seed=5)
    path = made.folder / "polygons.parquet"
    frame = geopandas.read_parquet(path)
    frame = frame.iloc[np.argsort(frame.geometry.centroid.x.to_numpy())]
    frame.to_parquet(path, row_group_size=50, write_covering_bbox=True, schema_version="1.1.0")
    add_runs(tmp_path / CATALOG, [made.folder])
    seen = []

    def watched(tables: Any, *rest: Any) -> Any:
        seen.append(tables)
        return sql.database(tables, *rest, spatial=False)

    monkeypatch.setattr(query_module, "database", lambda tables, views, spatial: watched(tables, views))
    corner = made.frame.to_crs(4326).total_bounds
    box = box_shape(corner[0], corner[1], corner[0] + 0.0005, corner[3])
    (found,) = asked(tmp_path, "SELECT count(*) AS n FROM polygons", area=box)
    (fragment,) = seen[0]["_polygons"].get_fragments()
    groups = pq.ParquetFile(path).num_row_groups
    assert 0 < len(fragment.row_groups) < groups / 3
    inside = geopandas.GeoSeries([box], crs=4326).segmentize(1e-4).to_crs(made.frame.crs)[0]
    assert found["n"] == made.frame.intersects(inside).sum()


def test_runs_across_the_antimeridian_and_around_a_pole(tmp_path: Path) -> None:
    make_run(tmp_path / "dateline", geobox=GeoBox((30, 40), Affine(1e3, 0, 320e3, 0, -1e3, 7e6), "EPSG:32601"))
    make_run(tmp_path / "pole", geobox=GeoBox((30, 40), Affine(1e4, 0, -2e5, 0, -1e4, 15e4), "EPSG:3413"), seed=1)
    add_runs(tmp_path / CATALOG, [tmp_path / "dateline", tmp_path / "pole"])
    query = "SELECT item, sum(area_m2) AS m2, sum(area_on_ellipsoid(geometry)) AS turned FROM polygons GROUP BY item"
    for row in asked(tmp_path, query):
        assert row["turned"] == pytest.approx(row["m2"], rel=1e-3), row["item"]
    for box in (box_shape(179.5, -90, -179.5, 90), box_shape(-180, 89, 180, 90)):
        rows = asked(tmp_path, "SELECT sum(inside_m2) AS m2 FROM polygons", area=box)
        plain = asked(tmp_path, f"SELECT sum(area_inside(geometry, '{box.wkt}')) AS m2 FROM polygons")
        assert rows[0]["m2"] == pytest.approx(plain[0]["m2"], rel=1e-9)
        assert 0 < rows[0]["m2"] < ellipsoid_area(np.array([box], object))[0]


def test_items_can_be_asked_and_joined(folder: Path) -> None:
    query = (
        "SELECT i.scene, count(*) AS n FROM polygons p JOIN items i ON p.item = i.id AND p.collection = i.collection "
        "WHERE i.model = 'cover' AND ST_Intersects(i.geometry, $area) GROUP BY ALL ORDER BY ALL"
    )
    assert [row["scene"] for row in asked(folder, query, area=FARM)] == ["change", "june", "may"]


def test_a_catalog_without_polygons_answers(tmp_path: Path) -> None:
    make_run(tmp_path / "run", vector=())
    add_runs(tmp_path / CATALOG, [tmp_path / "run"])
    assert asked(tmp_path, "SELECT class_name, sum(area_m2) FROM polygons GROUP BY ALL") == []


def test_a_file_that_is_gone_is_no_silent_zero(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    add_runs(tmp_path / CATALOG, [tmp_path / "run"])
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(SourceError, match=r"run/polygons\.parquet: is gone; geoseg catalog validate"):
        asked(tmp_path, "SELECT count(*) FROM polygons")
    with pytest.raises(SourceError, match=r"nowhere/items\.parquet: is missing"), ask(tmp_path / "nowhere", "SELECT 1"):
        pass


def test_runs_in_a_bucket_are_compared_on_their_way(tmp_path: Path, bucket: Bucket) -> None:
    made = make_run(tmp_path / "run")
    for path in made.folder.iterdir():
        bucket.put(f"maps/run/{path.name}", path.read_bytes())
    add_runs(tmp_path / CATALOG, [f"s3://{bucket.name}/maps/run"])
    query = "SELECT run, sum(area_m2) AS m2 FROM polygons GROUP BY run"
    (row,) = asked(tmp_path, query)
    assert row["run"] == f"s3://{bucket.name}/maps/run"
    assert row["m2"] == pytest.approx(made.frame["area_m2"].sum())


def test_a_select_of_files_is_no_way_around(folder: Path, runs: list[Made]) -> None:
    path = runs[0].folder / "polygons.parquet"
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="disabled by configuration"):
        asked(folder, f"SELECT * FROM '{path}'")
    with pytest.raises(ConfigError, match="must be one SELECT"):
        asked(folder, f"COPY polygons TO '{path}'")
    assert path.read_bytes() == before


def test_areas_from_files(tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame(geometry=[FARM], crs=4326)
    frame.to_file(tmp_path / "farm.geojson")
    frame.to_crs(32632).to_parquet(tmp_path / "farm.parquet")
    for name in ("farm.geojson", "farm.parquet"):
        found = outline_of(tmp_path / name)
        assert found.symmetric_difference(FARM).area < 1e-3 * FARM.area


@pytest.mark.parametrize("box", [(0, 1, 1, 0), (0, 0, 0, 1), (0, -91, 1, 1), (200, 0, 210, 1), (0, float("nan"), 1, 1)])
def test_what_is_no_box_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(GridError, match="is no box"):
        box_shape(*box)


def test_bounds_of_a_point_and_of_what_lies_elsewhere() -> None:
    footprint = shapely.box(10, 48, 11, 49)
    x, y = pyproj.Transformer.from_crs(4326, 32632, always_xy=True).transform(10.5, 48.5)
    assert bounds_near(footprint, shapely.box(10.5, 48.5, 10.5, 48.5), "EPSG:32632") == pytest.approx((x, y, x, y))
    left, bottom, right, top = bounds_near(footprint, shapely.box(10.5, 48.5, 10.5, 48.5), "EPSG:4326")
    assert (bottom, top) == pytest.approx((48.5, 48.5))
    assert (left, right) == (-1080, 1080)  # a file may count its longitudes beyond 180 degrees
    left, bottom, right, top = bounds_near(footprint, shapely.box(20, 48, 21, 49), "EPSG:4326")
    assert left > right
    assert bottom > top


@pytest.mark.parametrize(
    ("west", "box"),
    [
        (200, (-161, 49, -159, 51)),
        (200, (-180, -90, 180, 90)),
        (179.99805, (-180, 49, -179, 51)),
        (179.99805, (179, 49, 180, 51)),
    ],
)
def test_longitudes_beyond_180_degrees_are_found(
    west: float, box: tuple[float, float, float, float], tmp_path: Path
) -> None:
    made = make_run(tmp_path / "far", geobox=GeoBox((30, 40), Affine(1e-4, 0, west, 0, -1e-4, 50), "EPSG:4326"))
    add_runs(tmp_path / CATALOG, [made.folder])
    query = "select count(*) as n from polygons"
    (found,) = asked(tmp_path, query, area=box_shape(*box))
    xmin = made.frame.bounds["minx"] - (360 if box[0] < 0 else 0)
    xmax = made.frame.bounds["maxx"] - (360 if box[0] < 0 else 0)
    whole = box[2] - box[0] == 360
    assert 0 < found["n"] == (len(made.frame) if whole else int(((xmax >= box[0]) & (xmin <= box[2])).sum()))
