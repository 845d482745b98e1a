"""The whole line through the public function: real formats on disk, an oracle for every pixel."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rio_cogeo.cogeo import cog_validate

import geoseg
from geoseg.errors import BandError, ConfigError, GridError, SourceError
from geoseg.events import Event, StageStarted, Warned
from geoseg.journal import RunDirectory
from geoseg.pipeline import plan_segment
from geoseg.result import RunResult
from geoseg.testing import LinearModel
from geoseg.types import Pixels

NAMES = ("nir", "blue", "red", "green")
"""The file's order is not the model's."""
WEIGHTS = np.array([[8.0, 0, 0, 0], [0, 9.0, 0, -3.0], [0, 0, 4.0, 3.0]])
EVERYTHING_BUT_TIMES = {"labels.tif", "confidence.tif", "polygons.geojson", "polygons.parquet", "preview.png"}


def write_tiff(path: Path, pixels: Pixels, names: tuple[str, ...] = NAMES, **profile: Any) -> Path:
    """A GeoTIFF in UTM with named bands and Sentinel-2's scale."""
    count, height, width = pixels.shape
    profile = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6), "nodata": 0} | profile
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=pixels.dtype, **profile
    ) as file:
        file.write(pixels)
        file.descriptions = names
        file.scales = [1e-4] * count
        file.update_tags(TIFFTAG_DATETIME="2025:06:01 10:20:30")
    return path


@pytest.fixture
def pixels() -> Pixels:
    random = np.random.default_rng(3)
    rows, cols = np.mgrid[:333, :257]
    smooth = np.stack([np.sin(rows / a) * np.cos(cols / b) for a, b in ((30, 20), (50, 25), (20, 60), (40, 40))])
    stored = (2500 + 2000 * smooth + random.integers(0, 300, smooth.shape)).astype(np.uint16)
    stored[:, :60, :40] = 0
    stored[2, 200, 100] = 0  # one band of one pixel is enough
    return stored


@pytest.fixture
def scene(tmp_path: Path, pixels: Pixels) -> Path:
    return write_tiff(tmp_path / "scene.tif", pixels)


def segment(scene: Path, out: Path, **options: Any) -> RunResult:
    model = options.pop("model", LinearModel(WEIGHTS))
    return geoseg.segment(scene, model=model, out=out, **options)


def expected(pixels: Pixels) -> tuple[Pixels, Pixels, Pixels]:
    """Labels, confidence and clarity (distance between the best two) of the fake model, in closed form."""
    order = [NAMES.index(name) for name in ("blue", "green", "red", "nir")]
    probs = LinearModel(WEIGHTS).expected_probs((pixels[order] * np.float32(1e-4)).astype(np.float32))
    ranked = np.sort(probs, axis=0)
    return probs.argmax(axis=0), ranked[-1], ranked[-1] - ranked[-2]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tile": 32, "overlap": 0, "chunk": 50},
        {"tile": 64, "overlap": 32, "blend": "gaussian", "chunk": 1},
        {"tile": 80, "overlap": 16, "blend": "crop", "batch_size": 3},
        {"tile": 96, "blend": "linear", "workers": 2, "chunk": 100},
    ],
)
def test_every_pixel_equals_the_closed_form(
    scene: Path, pixels: Pixels, tmp_path: Path, options: dict[str, Any]
) -> None:
    result = segment(scene, tmp_path / "out", **options)
    labels, confidence, clear = expected(pixels)
    valid = (pixels != 0).all(axis=0)
    with rasterio.open(result.labels) as file:
        found = file.read(1)
        assert (file.crs, file.transform) == (
            rasterio.crs.CRS.from_epsg(32633),
            rasterio.Affine(10, 0, 5e5, 0, -10, 5e6),
        )
        assert file.nodata == 255
    assert result.confidence is not None
    with rasterio.open(result.confidence) as file:
        stored, scale = file.read(1), file.scales[0]
    assert (found[~valid] == 255).all()
    assert (stored[~valid] == 255).all()
    assert (found == labels)[valid & (clear > 1e-5)].all()
    assert np.abs(stored * scale - confidence)[valid].max() <= 1 / 250
    for area in result.areas:
        assert area.pixels == (found == area.value).sum()
        assert area.km2 == pytest.approx(area.pixels * 1e-4, rel=2e-3)  # UTM is within 0.1 % of the ellipsoid
    assert result.counts["pixels"] == valid.size


def test_the_directory_holds_what_the_contract_names(scene: Path, tmp_path: Path) -> None:
    result = segment(scene, tmp_path / "out", probabilities=True)
    names = {path.name for path in Path(result.out).iterdir()}
    assert names == EVERYTHING_BUT_TIMES | {
        ".run",
        "labels.tif.aux.xml",
        "labels.qml",
        "probabilities.tif",
        "item.json",
        "run.json",
    }
    for raster in ("labels", "confidence", "probabilities"):
        valid, errors, warnings = cog_validate(Path(result.out) / f"{raster}.tif", strict=True)
        assert (valid, errors, warnings) == (True, [], [])
    report = json.loads(Path(result.report).read_text())
    assert report["counts"]["forward_passes"] == report["counts"]["tiles"] - report["counts"]["skipped_tiles"]
    assert set(report["timings"]) >= {"seconds", "read", "wait", "compute", "write"}
    item = json.loads(Path(result.item).read_text())
    assert item["properties"]["datetime"] == "2025-06-01T10:20:30Z"
    assert item["properties"]["geoseg:datetime_source"] == "tiff"
    assert not (Path(result.out) / ".run" / "parts").exists()


def test_the_same_bytes_again(scene: Path, tmp_path: Path) -> None:
    runs = [segment(scene, tmp_path / "one"), segment(scene, tmp_path / "two", chunk=64)]
    for name in EVERYTHING_BUT_TIMES | {"item.json"}:
        first, second = (hashlib.sha256((Path(run.out) / name).read_bytes()).hexdigest() for run in runs)
        assert first == second, name


def test_polygons_tile_the_valid_area_without_cuts(scene: Path, tmp_path: Path) -> None:
    import geopandas
    from rasterio.features import shapes

    result = segment(scene, tmp_path / "out", tile=32, chunk=40)
    with rasterio.open(result.labels) as file:
        labels, transform = file.read(1), file.transform
    frame = geopandas.read_parquet(next(path for path in map(Path, result.polygons) if path.suffix == ".parquet"))
    oracle = [value for _, value in shapes(labels, labels != 255, connectivity=4, transform=transform)]
    assert len(frame) == len(oracle)
    assert frame.area.sum() == pytest.approx((labels != 255).sum() * 100)
    assert frame.is_valid.all()
    assert set(frame["scene"]) == {"scene"}


def test_results_open_as_a_dataset(scene: Path, tmp_path: Path) -> None:
    result = segment(scene, tmp_path / "out", probabilities=True)
    dataset = result.open()
    with rasterio.open(result.labels) as file:
        np.testing.assert_array_equal(dataset["labels"].values, file.read(1))
    total = dataset["probabilities"].sum("class", skipna=False)
    usable = dataset["labels"] != dataset["labels"].attrs["_FillValue"]
    assert np.abs(total.values[usable.values] - 1).max() <= 0.007
    assert bool(dataset["confidence"].isnull().where(usable, False).sum() == 0)
    assert dataset.odc.geobox.crs.epsg == 32633


def test_a_box_crops_what_is_written_and_moves_nothing(scene: Path, tmp_path: Path) -> None:
    whole = segment(scene, tmp_path / "whole")
    with rasterio.open(whole.labels) as file:
        west, south, east, north = rasterio.warp.transform_bounds(
            file.crs, "EPSG:4326", 5.005e5, 4.9985e6, 5.015e5, 4.9995e6
        )
        labels = file.read(1)
    part = segment(scene, tmp_path / "part", bbox=(west, south, east, north))
    with rasterio.open(part.labels) as file:
        row, col = (5e6 - file.transform.f) / 10, (file.transform.c - 5e5) / 10
        assert row == int(row)
        assert 0 < file.height < 333
        inner = np.s_[int(row) : int(row) + file.height, int(col) : int(col) + file.width]
        np.testing.assert_array_equal(file.read(1), labels[inner])
    assert part.counts["tiles"] < whole.counts["tiles"]
    with pytest.raises(GridError, match="holds no pixel of the scene"):
        segment(scene, tmp_path / "nowhere", bbox=(0, 0, 1, 1))
    assert not (tmp_path / "nowhere").exists()


def test_finished_output_stays_unless_overwritten(scene: Path, tmp_path: Path) -> None:
    segment(scene, tmp_path / "out", probabilities=True)
    with pytest.raises(ConfigError, match="--overwrite"):
        segment(scene, tmp_path / "out")
    segment(scene, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "probabilities.tif").exists()


def test_a_finished_run_of_the_same_request_is_taken_as_it_stands_on_demand(scene: Path, tmp_path: Path) -> None:
    first = segment(scene, tmp_path / "out")
    written = Path(first.labels).stat().st_mtime_ns
    assert segment(scene, tmp_path / "out", skip_finished=True, workers=2) == first
    assert Path(first.labels).stat().st_mtime_ns == written
    with pytest.raises(ConfigError, match="--overwrite"):
        segment(scene, tmp_path / "out", skip_finished=True, blend="crop")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda out: (out / "labels.tif").unlink(), "labels.tif is gone"),
        (lambda out: (out / "polygons.parquet").unlink(), "polygons.parquet is gone"),
        (lambda out: os.truncate(out / "run.json", 100), "run.json is gone or torn"),
        (lambda out: (out / "run.json").unlink(), "run.json is gone or torn"),
        (lambda out: os.truncate(out / "item.json", 100), "item.json is gone or torn"),
        (lambda out: os.truncate(out / ".run" / "finished.json", 10), "finished.json is torn"),
    ],
    ids=["gone", "polygons", "report", "no report", "item", "record"],
)
def test_a_finished_run_whose_files_are_damaged_is_made_anew(
    damage: Callable[[Path], object], says: str, scene: Path, tmp_path: Path
) -> None:
    first = segment(scene, tmp_path / "out")
    whole = Path(first.labels).read_bytes()
    damage(tmp_path / "out")
    events: list[Event] = []
    again = segment(scene, tmp_path / "out", skip_finished=True, on_event=events.append)
    told = [event.message for event in events if isinstance(event, Warned)]
    assert [message for message in told if says in message and "made anew" in message], told
    assert Path(again.labels).read_bytes() == whole
    assert RunDirectory(tmp_path / "out").damage() == ""
    assert segment(scene, tmp_path / "out", skip_finished=True) == again


def test_what_was_changed_in_a_finished_run_is_not_lost(scene: Path, tmp_path: Path) -> None:
    segment(scene, tmp_path / "out")
    labels, polygons = (tmp_path / "out" / name for name in ("labels.tif", "polygons.geojson"))
    polygons.write_text(polygons.read_text() + "\n\n")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"polygons.geojson has \d+ bytes, not \d+: it was changed or cut short"):
            segment(scene, tmp_path / "out", skip_finished=True)
        labels.unlink(missing_ok=True)
    polygons.unlink()
    segment(scene, tmp_path / "out", skip_finished=True)
    assert labels.exists()
    assert polygons.exists()


def test_a_style_that_was_changed_is_not_lost_with_a_map_that_is_gone(scene: Path, tmp_path: Path) -> None:
    segment(scene, tmp_path / "out")
    (tmp_path / "out" / "labels.qml").write_text("mine")
    (tmp_path / "out" / "labels.tif").unlink()
    with pytest.raises(ConfigError, match=r"labels.qml has 4 bytes"):
        segment(scene, tmp_path / "out", skip_finished=True)
    assert (tmp_path / "out" / "labels.qml").read_text() == "mine"


def test_what_other_programs_write_into_is_no_damage(scene: Path, tmp_path: Path) -> None:
    """QGIS keeps statistics beside a raster, styles in a GeoPackage, and a person a style."""
    segment(scene, tmp_path / "out", vector=("gpkg",))
    for name in ("labels.tif.aux.xml", "labels.qml", "polygons.gpkg"):
        with (tmp_path / "out" / name).open("ab") as file:
            file.write(b"more")
    assert RunDirectory(tmp_path / "out").damage() == ""


def test_a_changed_source_is_not_resumed(scene: Path, pixels: Pixels, tmp_path: Path) -> None:
    class Dying(LinearModel):
        def predict(self, batch: Any) -> Any:
            if len(self.batches) > 9:
                raise SystemError("killed")
            return super().predict(batch)

    with pytest.raises(geoseg.GeosegError, match="killed"):
        segment(scene, tmp_path / "out", model=Dying(WEIGHTS), chunk=64)
    events: list[Event] = []
    write_tiff(scene, pixels[:, ::-1])
    with pytest.raises(SourceError, match=r"scene\.tif.*became.*--restart"):
        segment(scene, tmp_path / "out", chunk=64, on_event=events.append)
    assert StageStarted(stage="resume") in events
    with pytest.raises(ConfigError, match=r"options\.blend"):
        segment(scene, tmp_path / "out", chunk=64, blend="crop")
    segment(scene, tmp_path / "out", restart=True)
    assert RunDirectory(tmp_path / "out").is_finished


def test_the_output_may_not_be_the_input(pixels: Pixels, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    scene = write_tiff(tmp_path / "run" / "labels.tif", pixels)
    before = scene.read_bytes()
    with pytest.raises(ConfigError, match="is the input"):
        segment(scene, tmp_path / "run", overwrite=True)
    assert scene.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "options"),
    [("polygons.geojson", {"aoi": "{}"}), ("probabilities.tif", {"stats": ("{}:mean",)})],
    ids=["aoi", "stats"],
)
def test_no_other_file_that_goes_in_is_overwritten(
    name: str, options: dict[str, Any], scene: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if name.endswith(".tif"):
        pytest.importorskip("exactextract", reason="--stats is an optional extra: pip install 'geoseg[stats]'")
        shutil.copy(scene, out / name)
    else:
        square = [[14.999, 45.13], [15.02, 45.13], [15.02, 45.15], [14.999, 45.15], [14.999, 45.13]]
        (out / name).write_text(json.dumps({"type": "Polygon", "coordinates": [square]}))
    before = (out / name).read_bytes()
    roundabout = f"{tmp_path}/./out/{name}"
    filled = {
        key: value.format(roundabout) if isinstance(value, str) else tuple(text.format(roundabout) for text in value)
        for key, value in options.items()
    }
    with pytest.raises(ConfigError, match=f"{name}: is .* and would be overwritten; choose another --out"):
        segment(scene, out, overwrite=True, **filled)
    assert (out / name).read_bytes() == before


def test_areas_that_do_not_meet_say_so(scene: Path, tmp_path: Path) -> None:
    square = [[15.001, 45.13], [15.01, 45.13], [15.01, 45.15], [15.001, 45.15], [15.001, 45.13]]
    aoi = tmp_path / "west.geojson"
    aoi.write_text(json.dumps({"type": "Polygon", "coordinates": [square]}))
    with pytest.raises(GridError, match="--aoi and --bbox do not overlap"):
        segment(scene, tmp_path / "out", aoi=aoi, bbox=(15.02, 45.13, 15.03, 45.15))
    assert not (tmp_path / "out" / "labels.tif").exists()


def test_missing_bands_name_those_that_are_there(pixels: Pixels, tmp_path: Path) -> None:
    scene = write_tiff(tmp_path / "scene.tif", pixels[:3], NAMES[:3])
    with pytest.raises(BandError, match="green"):
        segment(scene, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (64, 64), (65, 65), (3, 200)])
def test_any_size_keeps_its_size(tmp_path: Path, shape: tuple[int, int]) -> None:
    stored = np.random.default_rng(0).integers(1, 9999, (4, *shape), dtype=np.uint16)
    result = segment(write_tiff(tmp_path / "scene.tif", stored), tmp_path / "out")
    labels, _, clear = expected(stored)
    with rasterio.open(result.labels) as file:
        assert file.shape == shape
        assert (file.read(1) == labels)[clear > 1e-5].all()


def test_a_scene_without_a_usable_pixel_gives_empty_outputs_of_every_kind(tmp_path: Path) -> None:
    scene = write_tiff(tmp_path / "scene.tif", np.zeros((4, 90, 90), np.uint16))
    result = segment(scene, tmp_path / "out", vector=("geojson", "parquet", "fgb", "gpkg"))
    assert result.counts["forward_passes"] == 0
    assert json.loads((tmp_path / "out" / "polygons.geojson").read_text())["features"] == []
    assert len(result.polygons) == 4
    assert Path(result.preview).stat().st_size > 0


def test_a_plan_reads_headers_only(scene: Path, tmp_path: Path) -> None:
    model = LinearModel(WEIGHTS)
    plan = plan_segment(scene, model=model, out=tmp_path / "out", chunk=64)
    assert (plan.tiles, model.tiles_run) == (len(plan.grid), 0)
    assert plan.exactness.startswith("exact")
    assert not (tmp_path / "out").exists()


def test_arrays_go_in_and_come_out_as_datasets(pixels: Pixels, scene: Path, tmp_path: Path) -> None:
    result = segment(scene, tmp_path / "out")
    dataset = geoseg.segment_array(pixels, model=LinearModel(WEIGHTS), bands=NAMES, scale=1e-4, nodata=0)
    with rasterio.open(result.labels) as file:
        np.testing.assert_array_equal(dataset["labels"].values, file.read(1))
    with pytest.raises(BandError, match="needs nir"):
        geoseg.segment_array(pixels[:3], model=LinearModel(WEIGHTS), bands=["blue", "green", "red"])
    with pytest.raises(BandError, match="name the 4 bands"):
        geoseg.segment_array(pixels, model=LinearModel(WEIGHTS))
