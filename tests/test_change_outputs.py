"""What a run on two dates leaves: rasters, polygons with what changed into what, pictures, a valid item, a report."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pystac
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.features import rasterize, shapes
from rio_cogeo.cogeo import cog_validate

import geoseg
from geoseg.events import Event, Warned
from geoseg.models import save_package
from geoseg.result import RunResult
from geoseg.scene import DATES
from geoseg.source.info import inspect
from geoseg.spec import Channel, ClassInfo
from geoseg.store import open_store
from geoseg.testing import LinearModel
from geoseg.window import GeoBox, Window
from tests.buckets import Bucket
from tests.catalog.test_item import _validator
from tests.pairs import BANDS, GRID, UNSIGNED, Date, landscape, read, save_ndvi_loss, write_date, write_pair
from tests.source.sources import write_raster

CLASSES = (
    ClassInfo(value=4, name="water", title="Open water", color="2b6cb0"),
    ClassInfo(value=1, name="bare", color="aa8855"),
    ClassInfo(value=9, name="field", title="Field", color="33aa33"),
)
"""Their values are not their places."""
COVERS = LinearModel([[9.0, 0, 0, 0], [0, 9.0, 0, -2.0], [0, -3.0, 4.0, 3.0]])
COVERS.spec = replace(COVERS.spec, name="covers", classes=CLASSES)
ALWAYS = {"change.tif", "change.tif.aux.xml", "change.qml", "preview.png", "compare.html", "item.json", "run.json"}
BECAME = {1 + 3 * one + other: (was, is_now) for one, was in enumerate(CLASSES) for other, is_now in enumerate(CLASSES)}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Date]:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def result(pair: list[Date], tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """With every output, probabilities included."""
    return detect(pair, tmp_path_factory.mktemp("run") / "out", probabilities=True)


def detect(pair: list[Date], out: Path, **options: Any) -> RunResult:
    before, after = (date.path for date in pair)
    return geoseg.detect_change(before, after, out=out, **{"model": COVERS, **options})


def names_in(result: RunResult) -> set[str]:
    return {path.name for path in Path(result.out).iterdir()} - {".run"}


def test_the_directory_holds_what_was_asked_for(result: RunResult, pair: list[Date], tmp_path: Path) -> None:
    polygons = {"polygons.geojson", "polygons.parquet"}
    assert names_in(result) == ALWAYS | polygons | {"change_probability.tif", "probabilities.tif"}
    bare = detect(pair, tmp_path / "bare", vector=(), confidence=False)
    assert names_in(bare) == ALWAYS
    assert (bare.confidence, bare.polygons) == (None, ())
    np.testing.assert_array_equal(read(bare.labels), read(result.labels))
    unsure = detect(pair, tmp_path / "unsure", vector=("parquet",), confidence=False)
    frame = geopandas.read_parquet(unsure.polygons[0])
    assert len(frame) > 10
    assert frame["probability_mean"].isna().all()


def test_rasters_are_cogs_that_tell_their_bands(result: RunResult) -> None:
    names = tuple(f"{date}.{info.name}" for date in DATES for info in CLASSES)
    for raster, bands in {
        "change": ("change",),
        "change_probability": ("change_probability",),
        "probabilities": names,
    }.items():
        path = Path(result.out) / f"{raster}.tif"
        assert cog_validate(path, strict=True) == (True, [], [])
        with rasterio.open(path) as file:
            assert file.descriptions == bands
            assert (file.nodata, set(file.dtypes)) == (255, {"uint8"})
            assert (file.crs, file.transform, file.shape) == (GRID.crs, GRID.transform, GRID.shape)
    with rasterio.open(result.labels) as file:
        colors = file.colormap(1)
    assert {value: bytes(colors[value][:3]).hex() for value in (2, 6, 8)} == {2: "aa8855", 6: "33aa33", 8: "aa8855"}


def test_a_region_is_of_one_change_and_bears_the_means_of_its_pixels(result: RunResult, pair: list[Date]) -> None:
    change, probability = read(result.labels), read(result.confidence) * 0.004
    frame = geopandas.read_parquet(Path(result.out) / "polygons.parquet")
    assert list(frame.columns) == [
        "id", "class_id", "class_name", "from_class", "to_class", "area_m2", "perimeter_m", "probability_mean",
        "before", "after", "ndvi_before", "ndvi_after", "scene", "model", "geometry",
    ]  # fmt: skip
    has_changed = (change != 0) & (change != 255)
    regions = [value for _, value in shapes(change, has_changed, connectivity=4, transform=GRID.transform)]
    assert sorted(frame["class_id"]) == sorted(regions)
    assert {"0", "unchanged"}.isdisjoint(frame["class_name"])
    covered = np.zeros(GRID.shape, int)
    for row in frame.itertuples():
        inside = rasterize([row.geometry], GRID.shape, transform=GRID.transform).astype(bool)
        covered += inside
        assert (change[inside] == row.class_id).all()
        was, is_now = BECAME[row.class_id]
        assert (row.from_class, row.to_class) == (was.name, is_now.name)
        assert row.class_name == f"{was.name}-to-{is_now.name}"
        assert row.area_m2 == pytest.approx(100 * inside.sum(), rel=2e-3)
        assert row.probability_mean == pytest.approx(probability[inside].mean(), abs=2e-5)
        for found, date in zip((row.ndvi_before, row.ndvi_after), pair, strict=True):
            assert found == pytest.approx(date.ndvi[inside].mean(), abs=2e-5)
    np.testing.assert_array_equal(covered, has_changed)


def test_geojson_is_rfc_7946_and_tells_both_times(result: RunResult) -> None:
    document = json.loads((Path(result.out) / "polygons.geojson").read_text())
    assert set(document) == {"type", "features"}
    frame = geopandas.read_parquet(Path(result.out) / "polygons.parquet")
    assert len(document["features"]) == len(frame) > 10
    west, south, east, north = GRID.extent.to_crs("EPSG:4326").boundingbox
    for feature in document["features"]:
        polygon = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert polygon.exterior.is_ccw
        assert not any(ring.is_ccw for ring in polygon.interiors)
        assert shapely.box(west, south, east, north).buffer(1e-6).contains(polygon)
        properties = feature["properties"]
        assert [properties[date] for date in DATES] == ["2024-06-01T10:20:30Z", "2024-06-21T10:20:30Z"]
        assert (properties["scene"], properties["model"]) == ("before--after", "covers")


def test_the_item_is_valid_and_leads_back_to_both_dates(
    result: RunResult, pair: list[Date], shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(result.out))
    item = json.loads(Path("item.json").read_text())
    validator = _validator(shared)
    validator.validate_core(item, pystac.STACObjectType.ITEM, "1.1.0")
    for schema in item["stac_extensions"]:
        validator.validate_extension(item, pystac.STACObjectType.ITEM, "1.1.0", schema)
    properties = item["properties"]
    assert (properties["start_datetime"], properties["end_datetime"]) == (
        "2024-06-01T10:20:30Z",
        "2024-06-21T10:20:30Z",
    )
    assert properties["datetime"] == "2024-06-21T10:20:30Z"
    assert (properties["geoseg:before"], properties["geoseg:after"]) == ("before", "after")
    sources = [link["href"] for link in item["links"] if link["rel"] == "derived_from"]
    assert [Path(href).resolve() for href in sources] == [date.path for date in pair]
    (band,) = item["assets"]["change"]["bands"]
    written = [(info["value"], info["name"], info["color_hint"]) for info in band["classification:classes"]]
    assert written[0][:2] == (0, "unchanged")
    assert written[1:] == [
        (value, f"{was.name}-to-{is_now.name}", is_now.color.upper())
        for value, (was, is_now) in BECAME.items()
        if was is not is_now
    ]
    assert [each["name"] for each in item["assets"]["probabilities"]["bands"]][:2] == ["before.water", "before.bare"]
    assert item["assets"]["change_probability"]["bands"][0]["raster:scale"] == 0.004
    for key, roles in {
        "change": ["data"],
        "change_probability": ["data"],
        "preview": ["overview"],
        "compare": ["overview"],
    }.items():
        asset = item["assets"][key]
        assert asset["roles"] == roles
        assert asset["file:checksum"] == "1220" + hashlib.sha256(Path(asset["href"]).read_bytes()).hexdigest()


def test_the_report_says_what_was_found(result: RunResult) -> None:
    report = json.loads(Path(result.report).read_text())
    assert set(report["outputs"]) == names_in(result) - {"run.json"}
    assert {"differences", "shift", "registered"} <= report["pair"].keys()
    assert {area["value"]: area["pixels"] for area in report["areas"]} == {
        value: int((read(result.labels) == value).sum()) for value in (0, 2, 3, 4, 6, 7, 8)
    }
    for row in report["from_to"]:
        was, is_now = BECAME[row["value"]]
        assert (row["from"], row["to"]) == (was.name, is_now.name)
        assert row["km2"] == pytest.approx(row["pixels"] * 1e-4, rel=2e-3, abs=1e-6)
    assert result.is_change
    dataset = result.open()
    assert set(dataset.data_vars) == {"change", "change_probability", "probabilities"}
    np.testing.assert_array_equal(dataset["change"].values, read(result.labels))


def test_a_box_crops_map_polygons_and_statistics(result: RunResult, pair: list[Date], tmp_path: Path) -> None:
    corners = shapely.transform(
        np.array([shapely.box(5.003e5, 4.9988e6, 5.014e5, 4.9996e6)], object),
        rasterio_lonlat,
    )
    part = detect(pair, tmp_path / "part", bbox=tuple(float(side) for side in corners[0].bounds))
    geobox = inspect(str(part.labels)).geobox
    col, row = (round(number) for number in ~GRID.transform @ (geobox.transform.c, geobox.transform.f))
    assert min(row, col) > 0
    crop = Window(row_off=row, col_off=col, height=geobox.shape[0], width=geobox.shape[1])
    np.testing.assert_array_equal(read(part.labels), read(result.labels)[crop.slices])
    frame = geopandas.read_parquet(Path(part.out) / "polygons.parquet")
    assert len(frame) > 3
    for region in frame.itertuples():
        inside = rasterize([region.geometry], geobox.shape, transform=geobox.transform).astype(bool)
        assert region.ndvi_after == pytest.approx(pair[1].ndvi[crop.slices][inside].mean(), abs=2e-5)


def rasterio_lonlat(points: Any) -> Any:
    from rasterio.warp import transform

    return np.column_stack(transform(GRID.crs, "EPSG:4326", *points.T))


def test_one_map_of_change_names_no_classes_it_came_from(pair: list[Date], tmp_path: Path) -> None:
    package = save_ndvi_loss(tmp_path / "package")
    result = detect(pair, tmp_path / "out", model=package, vector=("parquet", "gpkg", "fgb", "geojson"))
    files = [path for path in result.polygons if not str(path).endswith(("parquet", "json"))]
    frames = [geopandas.read_file(path, layer="polygons") for path in files]
    frames.append(geopandas.read_parquet(tmp_path / "out" / "polygons.parquet"))
    for frame in frames:
        assert set(frame["class_name"]) == {"loss"}
        assert "from_class" not in frame.columns
        assert (frame["ndvi_before"] - frame["ndvi_after"] > 0.15).all()
    assert "from_to" not in json.loads(Path(result.report).read_text())
    card = next(link for link in json.loads(Path(result.item).read_text())["links"] if link.get("mlm:name"))
    assert (tmp_path / "out" / card["href"]).resolve() == package / "model.json"


def test_a_net_that_maps_each_date_itself_is_as_good(result: RunResult, pair: list[Date], tmp_path: Path) -> None:
    """Two maps of one net, or one map of two calls of it: the same bytes."""
    import torch

    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.covers = torch.nn.Conv2d(4, 3, 1)
            with torch.no_grad():
                self.covers.weight.copy_(torch.from_numpy(COVERS.weights)[:, :, None, None])
                self.covers.bias.zero_()  # type: ignore[union-attr]

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.covers(date) for date in batch.unbind(1)], 1)

    bands = list(COVERS.spec.bands)
    package = save_package(
        Both(), tmp_path / "package", name="both", bands=bands, classes=CLASSES, format="onnx", tile=64, multiple_of=1,
        dates=2, maps=2, task="change-detection",
    )  # fmt: skip
    found = detect(pair, tmp_path / "out", model=package, vector=(), probabilities=True)
    assert (read(found.labels) != read(result.labels)).sum() <= 2
    for raster in ("confidence", "probabilities"):
        steps = np.abs(read(getattr(found, raster)).astype(int) - read(getattr(result, raster)))
        assert steps.max() <= 1
        assert (steps > 0).mean() < 1e-3


def test_scenes_that_tell_little_are_compared_all_the_same(tmp_path: Path) -> None:
    """Without red and near infrared there is no NDVI; without times the item bears the run's, and a warning says so."""
    storage = replace(UNSIGNED, order=("green", "blue"))
    dates = [write_date(tmp_path / f"{at}.tif", landscape(at), storage=storage, day=None) for at in range(2)]
    events: list[Event] = []
    result = detect(dates, tmp_path / "out", model=LinearModel([[9.0, 0], [0, 7.0]]), on_event=events.append)
    frame = geopandas.read_parquet(Path(result.out) / "polygons.parquet")
    assert len(frame) > 3
    assert {"ndvi_before", "ndvi_after"}.isdisjoint(frame.columns)
    assert frame[["before", "after"]].isna().all(axis=None)
    first = json.loads((Path(result.out) / "polygons.geojson").read_text())["features"][0]
    assert [first["properties"][date] for date in DATES] == [None, None]
    properties = json.loads(Path(result.item).read_text())["properties"]
    assert properties["geoseg:datetime_source"] == "run"
    assert "start_datetime" not in properties
    assert any("no time of acquisition" in event.message for event in events if isinstance(event, Warned))


def test_statistics_lie_where_the_map_lies(tmp_path: Path) -> None:
    """Red and near infrared have smaller pixels than what the model sees."""
    coarse = GeoBox((75, 95), Affine(20, 0, 5e5, 0, -20, 5e6), GRID.crs)
    grounds = [landscape(seed, coarse) for seed in (0, 1)]
    places = []
    for at, ground in enumerate(grounds):
        files = {
            "swir16": tmp_path / f"swir16_{at}.tif",
            "red": tmp_path / f"red_{at}.tif",
            "nir": tmp_path / f"nir_{at}.tif",
        }
        write_raster(files["swir16"], ground[:1].astype("float32"), coarse)
        for name, band in (("red", 2), ("nir", 3)):
            write_raster(files[name], np.kron(ground[band], np.ones((2, 2)))[None].astype("float32"), GRID)
        places.append({name: str(path) for name, path in files.items()})
    spec = replace(COVERS.spec, bands=("swir16",), channels=(Channel(name="swir16"),), classes=CLASSES[:2])
    model = LinearModel([[30.0], [0.0]], [-3.0, 0.0], spec=spec)
    result = geoseg.detect_change(
        None, None, bands_before=places[0], bands_after=places[1], model=model, out=tmp_path / "out"
    )
    ndvi = [(ground[3] - ground[2]) / (ground[3] + ground[2]) for ground in grounds]
    frame = geopandas.read_parquet(Path(result.out) / "polygons.parquet")
    assert len(frame) > 10
    for row in frame.itertuples():
        inside = rasterize([row.geometry], coarse.shape, transform=coarse.transform).astype(bool)
        means = [each[inside].mean() for each in ndvi]
        assert [row.ndvi_before, row.ndvi_after] == pytest.approx(means, abs=0.02)


def test_items_lead_to_items_and_need_only_the_files_that_the_model_reads(pair: list[Date], tmp_path: Path) -> None:
    """The files of blue, which only pictures would show, are not there."""
    for date, name, day in zip(pair, DATES, (3, 4), strict=True):
        assets: dict[str, Any] = {"blue": {"href": "nowhere.tif", "eo:bands": [{"name": "B02", "common_name": "blue"}]}}
        for band in ("green", "red", "nir"):
            place = tmp_path / f"{name}_{band}.tif"
            stored = np.where(date.valid, date.reflectance[BANDS.index(band)], np.nan).astype("float32")
            write_raster(place, stored[None], GRID, nodata=float("nan"))
            assets[band] = {"href": place.name, "eo:bands": [{"name": band, "common_name": band}]}
        document: dict[str, Any] = {
            "type": "Feature", "stac_version": "1.0.0", "id": f"S2_{name}", "geometry": None, "links": [],
            "properties": {"datetime": f"2024-07-0{day}T00:00:00Z"}, "assets": assets,
        }  # fmt: skip
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    before, after = (tmp_path / f"{name}.json" for name in DATES)
    result = geoseg.detect_change(before, after, model=save_ndvi_loss(tmp_path / "model"), out=tmp_path / "out")
    item = json.loads(Path(result.item).read_text())
    assert (item["id"], item["properties"]["datetime"]) == ("S2_before--S2_after-ndvi-loss", "2024-07-04T00:00:00Z")
    sources = [link["href"] for link in item["links"] if link["rel"] == "derived_from"]
    assert sources[:2] == ["../before.json", "../after.json"]
    frame = geopandas.read_parquet(Path(result.out) / "polygons.parquet")
    assert (frame["ndvi_before"] > frame["ndvi_after"]).all()


def test_a_bucket_holds_what_a_folder_does(result: RunResult, pair: list[Date], bucket: Bucket) -> None:
    before, after = (date.path for date in pair)
    there = geoseg.detect_change(before, after, model=COVERS, out=bucket.url, probabilities=True)
    store = open_store(bucket.url)
    assert set(store.entries()) - {".run"} == names_in(result)
    for name in names_in(result) - {"item.json", "run.json"}:
        with store.open(name) as file:
            assert file.read() == (Path(result.out) / name).read_bytes(), name
    assert there.areas == result.areas
