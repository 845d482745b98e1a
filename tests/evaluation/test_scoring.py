"""Scores of a map against the truth: windows do not matter, and every way to give a truth gives the same truth."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import shapes
from scipy import ndimage
from torchmetrics.functional import classification as other

import geoseg
from geoseg.earth import PixelAreas
from geoseg.errors import ConfigError, GridError, SourceError
from geoseg.evaluation.boundary import boundary_f1, boundary_iou, count_boundaries
from geoseg.evaluation.calibration import expected_calibration_error, reliability
from geoseg.evaluation.confusion import OVERALL, count_confusion
from geoseg.evaluation.scores import Scores, failures
from geoseg.window import GeoBox, whole
from tests.source.rasters import PLACE, write

HEIGHT, WIDTH, CLASSES = 60, 75, 4
GRID = GeoBox((HEIGHT, WIDTH), PLACE, "EPSG:32633")

Labels = npt.NDArray[np.uint8]


def two_maps(seed: int) -> tuple[Labels, Labels, Labels]:
    """Truth, map and confidence as bytes; 255 where there is none."""
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.normal(size=(CLASSES, HEIGHT, WIDTH)), (0, 3, 3))
    truth = fields.argmax(axis=0).astype(np.uint8)
    noise = ndimage.gaussian_filter(rng.normal(size=fields.shape), (0, 2, 2))
    predicted = (fields + 0.5 * noise).argmax(axis=0).astype(np.uint8)
    confidence = rng.integers(80, 251, truth.shape).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.05] = 255
    predicted[:9, :11] = confidence[:9, :11] = 255
    return truth, predicted, confidence


def write_confidence(path: Path, confidence: npt.NDArray[Any], scale: float = 0.004) -> Path:
    write(path, confidence[None], nodata=255)
    with rasterio.open(path, "r+") as file:
        file.scales = [scale]
    return path


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Files of truth, map and confidence, and their arrays."""
    folder = tmp_path_factory.mktemp("maps")
    truth, predicted, confidence = two_maps(1)
    return {
        "truth": write(folder / "truth.tif", truth[None], nodata=255),
        "predicted": write(folder / "predicted.tif", predicted[None], nodata=255),
        "confidence": write_confidence(folder / "confidence.tif", confidence),
        "arrays": (truth, predicted, confidence),
    }


def same(one: Any, another: Any) -> bool:
    """Whether two documents are equal, numbers to 1e-12."""
    if isinstance(one, dict):
        return one.keys() == another.keys() and all(same(one[key], another[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(another) and all(same(*pair) for pair in zip(one, another, strict=True))
    return bool(one == another or (isinstance(one, float) and one == pytest.approx(another, rel=1e-12, abs=1e-12)))


def test_every_score_is_that_of_the_arrays_in_memory(maps: dict[str, Any]) -> None:
    truth, predicted, confidence = maps["arrays"]
    found = geoseg.evaluate(maps["predicted"], maps["truth"], confidence=maps["confidence"], boundary=2, window=16)
    known = (truth != 255) & (predicted != 255)
    matrix = count_confusion(truth[known], predicted[known], CLASSES)
    np.testing.assert_array_equal(found.confusion, matrix)
    for name, score in OVERALL.items():
        assert found.overall[name] == pytest.approx(float(score(matrix)), abs=1e-12)
    pair = torch.from_numpy(predicted[known].astype(int)), torch.from_numpy(truth[known].astype(int))
    assert found.overall["miou"] == pytest.approx(float(other.multiclass_jaccard_index(*pair, CLASSES)), abs=1e-6)
    borders = count_boundaries(
        np.where(known, truth, 0).astype(np.int16),
        np.where(known, predicted, 0).astype(np.int16),
        known,
        whole(GRID),
        width=2,
        classes=CLASSES,
    )
    assert [each.boundary_iou for each in found.classes] == pytest.approx(boundary_iou(borders), abs=1e-12)
    assert [each.boundary_f1 for each in found.classes] == pytest.approx(boundary_f1(borders), abs=1e-12)
    right = (truth == predicted)[known].astype(int)
    curve = reliability(confidence[known] * 0.004, np.ones(right.size, int), right)
    assert found.overall["ece"] == pytest.approx(expected_calibration_error(curve), abs=1e-12)
    assert found.unmapped_pixels == ((truth != 255) & (predicted == 255)).sum()
    areas = PixelAreas(GRID).read(whole(GRID))
    mapped = [areas[predicted == value].sum() / 1e6 for value in range(CLASSES)]
    assert found.estimates.mapped == pytest.approx(mapped, rel=1e-12), "of all of the map, not of what has a truth"


@settings(max_examples=15)
@given(window=st.integers(8, 80), boundary=st.integers(0, 6), side=st.integers(90, 900))
def test_the_window_does_not_matter(window: int, boundary: int, side: int, maps: dict[str, Any]) -> None:
    options: dict[str, Any] = {"confidence": maps["confidence"], "boundary": boundary, "by": side, "draws": 20}
    parts = geoseg.evaluate(maps["predicted"], maps["truth"], window=window, **options)
    at_once = geoseg.evaluate(maps["predicted"], maps["truth"], window=500, **options)
    assert same(parts.as_dict(), at_once.as_dict())


def test_regions_are_scored_by_themselves_and_add_up(maps: dict[str, Any]) -> None:
    truth, predicted, _ = maps["arrays"]
    found = geoseg.evaluate(maps["predicted"], maps["truth"], by=300, window=16)
    assert len(found.regions) == 2 * 3
    assert sum(each.pixels for each in found.regions) == found.pixels
    part = (slice(30, 60), slice(0, 30))
    known = (truth[part] != 255) & (predicted[part] != 255)
    [region] = [each for each in found.regions if each.name == "row 1, column 0"]
    assert region.overall["accuracy"] == pytest.approx((truth[part] == predicted[part])[known].mean(), abs=1e-12)
    interval = found.intervals["miou"]
    assert interval.low < found.overall["miou"] < interval.high
    assert "iou.2" in found.intervals
    assert any("6 regions are no more than a hint" in note for note in found.notes)


def test_a_seed_decides_the_intervals(maps: dict[str, Any]) -> None:
    one, again, another = (
        geoseg.evaluate(maps["predicted"], maps["truth"], by=200, boundary=0, seed=seed).intervals for seed in (1, 1, 2)
    )
    assert one == again != another
    assert not geoseg.evaluate(maps["predicted"], maps["truth"], by=200, boundary=0, draws=0).intervals


def test_ignored_values_count_for_nothing_and_joined_ones_for_others(tmp_path: Path) -> None:
    truth = np.array([[0, 1, 3, 4, 9, 1]], np.uint8)
    predicted = np.array([[0, 1, 1, 0, 1, 0]], np.uint8)
    files = [write(tmp_path / f"{name}.tif", each[None]) for name, each in (("p", predicted), ("t", truth))]
    found = geoseg.evaluate(*files, ignore=[9], join={"3": "1", "4": "1"}, boundary=0)
    assert found.confusion.tolist() == [[1, 0], [2, 2]]
    assert [each.value for each in found.classes] == [0, 1]
    # 3 becomes 4 and 4 becomes 3, and nothing becomes both.
    swapped = geoseg.evaluate(*files, ignore=[9, 0, 1], join={3: 4, 4: 3}, boundary=0)
    assert {each.value: each.truth_pixels for each in swapped.classes if each.truth_pixels} == {3: 1, 4: 1}
    assert any(note.startswith("in the truth only: 3, 4") for note in swapped.notes)


def test_values_of_any_integer_or_whole_float_are_classes(tmp_path: Path, maps: dict[str, Any]) -> None:
    truth, _, _ = maps["arrays"]
    expected = geoseg.evaluate(maps["predicted"], maps["truth"], boundary=0).as_dict()
    for dtype, nodata in (("int16", -1), ("int32", -9), ("float32", np.nan), ("uint16", 65535)):
        stored = np.where(truth == 255, np.array(nodata, dtype), truth.astype(dtype))
        path = write(tmp_path / "truth.tif", stored[None], nodata=nodata)
        found = geoseg.evaluate(maps["predicted"], path, boundary=0).as_dict()
        assert same({**found, "truth": ""}, {**expected, "truth": ""})
    unmarked = write(tmp_path / "unmarked.tif", np.where(truth == 255, np.int16(-1), truth.astype(np.int16))[None])
    found = geoseg.evaluate(maps["predicted"], unmarked, ignore=[-1], boundary=0).as_dict()
    assert same({**found, "truth": ""}, {**expected, "truth": ""})
    with pytest.raises(SourceError, match=r"value -1.*--ignore"):
        geoseg.evaluate(maps["predicted"], unmarked)


@pytest.mark.parametrize("suffix", ["geojson", "gpkg", "parquet"])
@pytest.mark.parametrize("column", ["code", "kind"])
def test_polygons_are_the_truth_that_they_were_traced_from(
    suffix: str, column: str, tmp_path: Path, maps: dict[str, Any]
) -> None:
    truth, _, _ = maps["arrays"]
    polygons, codes = zip(
        *((shapely.geometry.shape(shape), int(value)) for shape, value in shapes(truth, truth != 255, transform=PLACE)),
        strict=True,
    )
    names = {0: "water", 1: "wood", 2: "field", 3: "town"}
    frame = geopandas.GeoDataFrame(
        {"code": codes, "kind": [names[code].title() for code in codes]}, geometry=list(polygons), crs="EPSG:32633"
    )
    path = tmp_path / f"truth.{suffix}"
    frame.to_parquet(path) if suffix == "parquet" else frame.to_file(path)
    found = geoseg.evaluate(maps["predicted"], path, class_column=column, names=names, window=32)
    expected = geoseg.evaluate(maps["predicted"], maps["truth"], names=names)
    if suffix == "geojson":  # degrees to 7 decimals: a vertex moves by millimetres, and no centre changes sides
        assert found.pixels == expected.pixels
    assert same({**found.as_dict(), "truth": ""}, {**expected.as_dict(), "truth": ""})


def test_footprints_need_a_class_and_may_have_a_background(tmp_path: Path) -> None:
    predicted = np.zeros((1, 20, 20), np.uint8)
    predicted[0, :, 10:] = 1
    map_file = write(tmp_path / "p.tif", predicted)
    path = tmp_path / "houses.geojson"
    x, y = PLACE.c, PLACE.f
    frame = geopandas.GeoDataFrame(geometry=[shapely.box(x + 97, y - 200, x + 200, y)], crs="EPSG:32633")
    frame.to_file(path)
    inside = geoseg.evaluate(map_file, path, class_value=1, boundary=0)
    assert inside.pixels == inside.classes[1].truth_pixels == 20 * 10
    both = geoseg.evaluate(map_file, path, class_value=1, background=0, boundary=0)
    assert (both.pixels, both.classes[1].truth_pixels) == (400, 200)
    touched = geoseg.evaluate(map_file, path, class_value=1, background=0, all_touched=True, boundary=0)
    assert touched.classes[1].truth_pixels >= 20 * 11
    with pytest.raises(ConfigError, match="--class-column"):
        geoseg.evaluate(map_file, path)


def test_names_that_the_map_has_not_are_named_with_those_that_it_has(tmp_path: Path, maps: dict[str, Any]) -> None:
    x, y = PLACE.c, PLACE.f
    frame = geopandas.GeoDataFrame(
        {"kind": ["lake", None]}, geometry=[shapely.box(x, y - 300, x + 300, y)] * 2, crs="EPSG:32633"
    )
    frame.to_file(tmp_path / "t.gpkg")
    options: dict[str, Any] = {"class_column": "kind", "boundary": 0}
    with pytest.raises(ConfigError, match=r"'lake'; it has water"):
        geoseg.evaluate(maps["predicted"], tmp_path / "t.gpkg", names={1: "water"}, **options)
    joined = {"Lake": "water"}
    found = geoseg.evaluate(maps["predicted"], tmp_path / "t.gpkg", names={1: "water"}, join=joined, **options)
    assert {each.value for each in found.classes if each.truth_pixels} == {1}
    assert any("1 polygons without a class" in note for note in found.notes)


def test_a_truth_on_another_grid_is_read_at_the_nearest_pixel_and_that_is_said(
    tmp_path: Path, maps: dict[str, Any]
) -> None:
    truth, _, _ = maps["arrays"]
    fine = truth.repeat(2, 0).repeat(2, 1)
    path = write(tmp_path / "fine.tif", fine[None], nodata=255, transform=PLACE @ Affine.scale(0.5))
    found = geoseg.evaluate(maps["predicted"], path)
    expected = geoseg.evaluate(maps["predicted"], maps["truth"])
    np.testing.assert_array_equal(found.confusion, expected.confusion)
    assert "another grid" in found.notes[0]
    part = write(tmp_path / "part.tif", truth[None, 10:, 20:], nodata=255, transform=PLACE @ Affine.translation(20, 10))
    cut = geoseg.evaluate(maps["predicted"], part)
    assert cut.pixels == ((truth != 255) & (maps["arrays"][1] != 255))[10:, 20:].sum()
    far = write(tmp_path / "far.tif", truth[None], nodata=255, transform=PLACE @ Affine.translation(500, 0))
    with pytest.raises(GridError, match="does not touch"):
        geoseg.evaluate(maps["predicted"], far)


def run_directory(folder: Path, labels: Labels, confidence: Labels, kind: str = "labels") -> Path:
    """What a run leaves, as far as scores need it."""
    folder.mkdir()
    certainty = {"labels": "confidence", "change": "change_probability"}[kind]
    write(folder / f"{kind}.tif", labels[None], nodata=255)
    write_confidence(folder / f"{certainty}.tif", confidence)
    classes = [{"value": value, "name": name} for value, name in enumerate(["water", "wood", "field", "town", "snow"])]
    assets = {kind: {"bands": [{"classification:classes": classes}]}, certainty: {}}
    (folder / "item.json").write_text(json.dumps({"assets": assets}))
    return folder


def test_a_run_brings_its_names_and_its_confidence(tmp_path: Path, maps: dict[str, Any]) -> None:
    _, predicted, confidence = maps["arrays"]
    run = run_directory(tmp_path / "run", predicted, confidence)
    found = geoseg.evaluate(run, maps["truth"])
    assert [each.name for each in found.classes] == ["water", "wood", "field", "town", "snow"]
    assert found.value("ece") == geoseg.evaluate(maps["predicted"], maps["truth"], confidence=maps["confidence"]).value(
        "ece"
    )
    assert found.value("f1.WATER") == found.classes[0].dice == found.value("dice.0")
    assert np.isnan(found.classes[4].iou)
    assert any(note.startswith("in neither map nor truth: snow;") for note in found.notes)
    assert found.value("miou") == pytest.approx(np.mean([each.iou for each in found.classes[:4]]))
    assert geoseg.evaluate(run / "labels.tif", maps["truth"]).as_dict()["classes"] == found.as_dict()["classes"]
    (run / "item.json").unlink()
    with pytest.raises(SourceError, match="holds no finished map"):
        geoseg.evaluate(run, maps["truth"])


def test_of_change_the_probability_is_that_of_change(tmp_path: Path) -> None:
    truth = np.array([[0, 0, 1, 2, 1, 0]], np.uint8)
    change = np.array([[0, 1, 1, 1, 0, 0]], np.uint8)
    probability = np.array([[25, 150, 225, 200, 50, 0]], np.uint8)
    run = run_directory(tmp_path / "run", change, probability, "change")
    found = geoseg.evaluate(run, write(tmp_path / "t.tif", truth[None]), boundary=0)
    sure = np.array([0.9, 0.6, 0.9, 0.8, 0.8, 1.0])
    right = np.array([1, 0, 1, 1, 0, 1])  # a change of another kind is a change
    curve = reliability(sure, np.ones(6, int), right)
    assert found.overall["ece"] == pytest.approx(expected_calibration_error(curve), abs=1e-12)


def test_a_confidence_of_floats_is_told_apart_finely_and_one_of_percent_is_refused(
    tmp_path: Path, maps: dict[str, Any]
) -> None:
    truth, predicted, _ = maps["arrays"]
    sure = np.random.default_rng(0).uniform(0, 1, truth.shape).astype(np.float32)
    path = write(tmp_path / "sure.tif", sure[None])
    found = geoseg.evaluate(maps["predicted"], maps["truth"], confidence=path, boundary=0, window=20)
    known = (truth != 255) & (predicted != 255)
    right = (truth == predicted)[known].astype(int)
    curve = reliability(sure[known].astype(float), np.ones(right.size, int), right)
    assert found.overall["ece"] == pytest.approx(expected_calibration_error(curve), abs=2e-3)
    percent = write(tmp_path / "percent.tif", (100 * sure).astype(np.uint8)[None])
    with pytest.raises(SourceError, match="no probability"):
        geoseg.evaluate(maps["predicted"], maps["truth"], confidence=percent)
    shifted = write(tmp_path / "shifted.tif", sure[None], transform=PLACE @ Affine.translation(1, 0))
    with pytest.raises(GridError, match="grid of the map"):
        geoseg.evaluate(maps["predicted"], maps["truth"], confidence=shifted)


def test_what_is_no_map_of_classes_is_refused(tmp_path: Path, maps: dict[str, Any]) -> None:
    three = write(tmp_path / "rgb.tif", np.zeros((3, HEIGHT, WIDTH), np.uint8))
    with pytest.raises(SourceError, match="holds 3 bands"):
        geoseg.evaluate(maps["predicted"], three)
    halves = write(tmp_path / "halves.tif", np.full((1, HEIGHT, WIDTH), 0.5, np.float32))
    with pytest.raises(SourceError, match="whole numbers"):
        geoseg.evaluate(maps["predicted"], halves)
    many = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(1, HEIGHT, WIDTH)
    with pytest.raises(SourceError, match="more than 1024"):
        geoseg.evaluate(maps["predicted"], write(tmp_path / "many.tif", many))
    with pytest.raises(SourceError, match="nothing is known"):
        geoseg.evaluate(maps["predicted"], maps["truth"], ignore=range(CLASSES))


def test_wrong_arguments_are_refused(maps: dict[str, Any]) -> None:
    pair = maps["predicted"], maps["truth"]
    with pytest.raises(ConfigError, match="boundary -1"):
        geoseg.evaluate(*pair, boundary=-1)
    with pytest.raises(ConfigError, match="is a raster"):
        geoseg.evaluate(*pair, class_column="kind")
    with pytest.raises(ConfigError, match="65535"):
        geoseg.evaluate(*pair, join={1: 70_000})


def test_scores_by_name(maps: dict[str, Any]) -> None:
    found: Scores = geoseg.evaluate(maps["predicted"], maps["truth"], boundary=0)
    assert found.value("mIoU") == found.overall["miou"]
    assert failures(found, {"miou": 0.0, "iou.1": found.classes[1].iou}) == []
    assert failures(found, {"accuracy": 1.0, "boundary_iou.1": 0.1}) == [
        f"accuracy is {found.overall['accuracy']:.4f}, and must be 1 at least",
        "boundary_iou.1 is not defined, and must be 0.1 at least",
    ]
    for name in ("iuo", "iou.7", "ece"):
        with pytest.raises(ConfigError, match=name):
            found.value(name)
    json.dumps(found.as_dict(), allow_nan=False)


PEAK = """
import sys
import geoseg.evaluation.scoring
geoseg.evaluation.scoring._CACHE = 0  # the least: GDAL keeps decoded blocks up to its limit, and the small map is less
geoseg.evaluate(sys.argv[1], sys.argv[2], confidence=sys.argv[3], by=20000, draws=10, window=512)
line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(int(line.split()[1]))
"""


def test_sixteen_times_the_pixels_take_no_more_memory(tmp_path: Path) -> None:
    peaks = []
    for side in (1024, 4096):
        rng = np.random.default_rng(0)
        files = []
        for name in ("predicted", "truth", "confidence"):
            tile = rng.integers(0, 4, (1, 256, 256), dtype=np.uint8)
            path = tmp_path / f"{name}-{side}.tif"
            write(path, np.tile(tile, (1, side // 256, side // 256)), nodata=255, blockxsize=256, blockysize=256)
            if name == "confidence":
                with rasterio.open(path, "r+") as file:
                    file.scales = [0.25]
            files.append(str(path))
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PEAK, *files],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout))
    assert peaks[1] <= peaks[0] + 26_000, peaks  # kB: the cache's 16 MB; the rasters have 50 MB


def test_rows_of_a_strip_are_read_together(tmp_path: Path) -> None:
    """A raster whose blocks are whole rows is read in wide windows: each strip is decoded for few of them."""
    labels = np.random.default_rng(0).integers(0, 3, (1, 300, 900), dtype=np.uint8)
    files = [write(tmp_path / f"{name}.tif", labels, tiled=False, blockxsize=None, blockysize=1) for name in "pt"]
    seen: list[int] = []
    geoseg.evaluate(*files, window=100, on_pixels=lambda done, total: seen.append(done))
    assert seen == [64 * 900, 128 * 900, 192 * 900, 256 * 900, 300 * 900]
