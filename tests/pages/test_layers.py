"""The layers of a run: in their places, from overviews only, and where one is missing a note says so."""

from __future__ import annotations

import base64
import io
import json
import shutil
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import pytest
import rasterio
from affine import Affine
from PIL import Image
from rasterio.features import rasterize

import geoseg
from geoseg.pages import layers as run_layers
from geoseg.pages.layers import BINS, NODES, RunLayers, read_layers
from geoseg.result import RunResult, read_result
from geoseg.spec import Channel, ClassInfo, ModelSpec
from geoseg.testing import LinearModel
from geoseg.window import GeoBox
from tests.pages.test_packing import attributes_of, unpacked
from tests.pairs import COVERS, write_pair

BANDS = ("blue", "green", "red", "nir")
COLORS = ("2040c0", "20a040", "c03020")
HOSTILE = "<script>alert(1)</script> & $policy \"'"
SPEC = ModelSpec(
    name="net",
    bands=BANDS,
    channels=tuple(Channel(name=name) for name in BANDS),
    classes=tuple(
        ClassInfo(value=value, name=f"class-{value}", title=title, color=color)
        for value, title, color in zip((1, 2, 7), ("Water", "Forest", HOSTILE), COLORS, strict=True)
    ),
    halo=0,
)
BRIGHTEST = LinearModel([[9.0, 0, 0, 0], [0, 9.0, 0, 0], [0, 0, 9.0, 0]], spec=SPEC)
"""Blue is water, green is forest, red is the third."""


def painted(height: int = 90, width: int = 120) -> npt.NDArray[np.uint8]:
    """(row, col) place of the class, 255 for none: three stripes, an island in the first, none in a corner."""
    classes = np.repeat(np.arange(3, dtype=np.uint8), width // 3)[None].repeat(height, axis=0)
    classes[20:40, 10:30] = 2
    classes[25:30, 15:20] = 0
    classes[-15:, -25:] = 255
    return classes


def write_painted(path: Path, classes: npt.NDArray[np.uint8], **profile: Any) -> Path:
    """A scene in which the band of the class is the brightest."""
    count, (height, width) = len(BANDS), classes.shape
    pixels = np.full((count, height, width), 1000, np.uint16)
    for band in range(3):
        pixels[band][classes == band] = 5000 + 100 * band
    pixels[:, classes == 255] = 0
    place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 5e5, 0, -10, 5e6), "nodata": 0} | profile
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype="uint16", **place
    ) as file:
        file.write(pixels)
        file.descriptions = BANDS
        file.scales = [1e-4] * count
        file.update_tags(TIFFTAG_DATETIME="2024:06:14 10:20:31")
    return path


def map_of(folder: Path, classes: npt.NDArray[np.uint8] | None = None, out: str = "out", **profile: Any) -> RunResult:
    scene = write_painted(folder / "scene.tif", painted() if classes is None else classes, **profile)
    return geoseg.segment(scene, model=BRIGHTEST, out=folder / out, vector=("parquet",))


def layers_of(result: RunResult, largest: float = 5e6) -> RunLayers:
    return read_layers(result, json.loads(Path(result.report).read_text()), largest)


def picture_of(webp: str) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(base64.b64decode(webp))) as image:
        return np.asarray(image.convert("RGBA"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return map_of(tmp_path_factory.mktemp("run"))


@pytest.fixture
def copied(run: RunResult, tmp_path: Path) -> RunResult:
    """The same run, to be tampered with; its scene beside it as before."""
    shutil.copytree(Path(run.out).parent, tmp_path / "copy")
    return read_result(tmp_path / "copy" / "out")


def test_labels_confidence_and_scene_are_those_of_the_run(run: RunResult) -> None:
    layers, classes = layers_of(run), painted()
    np.testing.assert_array_equal(layers.labels, np.where(classes == 255, 0, classes + 1))
    assert zlib.decompress(layers.deflated_labels) == layers.labels.tobytes()
    with rasterio.open(run.confidence) as file:
        stored = file.read(1)
    grey = picture_of(layers.confidence)
    np.testing.assert_array_equal(grey[..., 3] == 0, classes == 255)
    inside = classes != 255
    assert np.abs(grey[inside][:, 0] - stored[inside] * (255 / 250)).max() < 25, "lossy, but close"
    (scene,) = layers.scenes
    assert scene.name == "scene"
    assert scene.text == "scene, 2024-06-14 10:20 UTC, true colour: red, green, blue"
    colors = picture_of(scene.webp)
    for place, band in ((0, 2), (1, 1), (2, 0)):  # blue, green, red
        assert colors[classes == place].mean(axis=0)[:3].argmax() == band
    assert layers.notes == []


def test_the_histogram_counts_every_pixel_of_a_small_map(run: RunResult) -> None:
    layers, classes = layers_of(run), painted()
    assert layers.bins is not None
    assert layers.thinned == 1
    np.testing.assert_array_equal(layers.bins.sum(axis=1), [(classes == place).sum() for place in range(3)])
    with rasterio.open(run.confidence) as file:
        stored = file.read(1)
    at = np.minimum(stored[classes == 1] // 10, BINS - 1)
    np.testing.assert_array_equal(layers.bins[1], np.bincount(at, minlength=BINS))


@pytest.mark.parametrize(
    "transform",
    [
        Affine(10, 0, 5e5, 0, -10, 5e6),
        Affine(10, 0, 5e5, 0, 10, 5e6),  # south up
        Affine(-10, 0, 5e5, 0, -10, 5e6),  # east to the left
    ],
    ids=["north up", "south up", "mirrored"],
)
def test_polygons_lie_where_the_labels_do(transform: Affine, tmp_path: Path) -> None:
    layers = layers_of(map_of(tmp_path, transform=transform))
    assert layers.polygons is not None
    assert layers.polygons.count == layers.polygons.total == 5
    place = {info.value: at + 1 for at, info in enumerate(SPEC.classes)}
    values = [place[value] for value in attributes_of(layers.polygons)["class_id"]]
    drawn = rasterize(
        list(zip(unpacked(layers.polygons), values, strict=True)), layers.labels.shape, transform=Affine.identity()
    )
    np.testing.assert_array_equal(drawn, layers.labels)
    assert (layers.geobox.transform.a, layers.geobox.transform.e) == (10, -10)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32633", Affine(10, 0, 4e5, 0, -10, 5.3e6)),
        ("EPSG:4326", Affine(2e-4, 0, 179.5, 0, -2e-4, 10)),  # across the antimeridian
        ("EPSG:3413", Affine(30, 0, -1.5e5, 0, -30, 1.5e5)),  # the pole is in it
    ],
)
def test_places_between_the_nodes_are_right_to_a_fraction_of_a_pixel(crs: str, transform: Affine) -> None:
    geobox = GeoBox((10_000, 10_000), transform, crs)
    found = run_layers._places(geobox)
    assert found is not None
    nodes = np.reshape(found, (NODES, NODES, 3))
    col, row = np.random.default_rng(0).uniform(0, 10_000, (2, 500))
    x, y = (each / 10_000 * (NODES - 1) for each in (col, row))
    left, top = (np.minimum(each.astype(int), NODES - 2) for each in (x, y))
    u, v = (x - left)[:, None], (y - top)[:, None]
    spot = (1 - v) * ((1 - u) * nodes[top, left] + u * nodes[top, left + 1])
    spot += v * ((1 - u) * nodes[top + 1, left] + u * nodes[top + 1, left + 1])
    lon = np.degrees(np.arctan2(spot[:, 1], spot[:, 0]))
    lat = np.degrees(np.arctan2(spot[:, 2], np.hypot(spot[:, 0], spot[:, 1])))
    xs, ys = transform.a * col + transform.c, transform.e * row + transform.f
    true_lon, true_lat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(xs, ys)
    away = pyproj.Geod(ellps="WGS84").inv(lon, lat, true_lon, true_lat)[2]
    assert np.max(away) < 0.5 * 10


def test_only_overviews_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large the map, no array of more than twice the side of the picture comes into being."""
    result = map_of(tmp_path, np.kron(painted(), np.ones((16, 16), np.uint8)))
    (tmp_path / "scene.tif").unlink()
    monkeypatch.setattr(run_layers, "SIDE", 300)
    asked: list[tuple[int, ...]] = []
    opened = rasterio.open

    class Watched:
        def __init__(self, dataset: Any) -> None:
            self.dataset = dataset

        def __getattr__(self, name: str) -> Any:
            return getattr(self.dataset, name)

        def read(self, *bands: Any, **options: Any) -> Any:
            asked.append(options["out_shape"])
            return self.dataset.read(*bands, **options)

    @contextmanager
    def watched(path: Any) -> Iterator[Watched]:
        with opened(path) as dataset:
            yield Watched(dataset)

    monkeypatch.setattr("geoseg.picture.open_raster", watched)
    tracemalloc.start()
    layers = layers_of(result)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(asked) == 2
    assert max(map(max, asked)) == 480
    assert peak < 2**24 + 1440 * 1920 / 2, "less than one byte of each pixel; a sidecar may take 16 MiB"
    assert layers.thinned == 4
    expected = np.where(painted() == 255, 0, painted() + 1)
    np.testing.assert_array_equal(layers.labels, np.kron(expected, np.ones((4, 4))))


def test_a_page_that_may_hold_little_holds_thinner_layers(run: RunResult) -> None:
    rich, poor = layers_of(run), layers_of(run, 1500)
    assert poor.labels.size < rich.labels.size
    factor = rich.labels.shape[1] // poor.labels.shape[1]
    np.testing.assert_array_equal(poor.labels, rich.labels[::factor, ::factor])
    assert max(picture_of(poor.scenes[0].webp).shape) < 120


def test_a_scene_that_is_gone_is_told(copied: RunResult) -> None:
    (Path(copied.out).parent / "scene.tif").unlink()
    layers = layers_of(copied)
    assert layers.scenes == []
    (note,) = layers.notes
    assert note.startswith("The scene is not shown: ")
    assert "scene.tif" in note


def test_a_scene_that_has_changed_is_not_shown(tmp_path: Path) -> None:
    result = map_of(tmp_path)
    write_painted(tmp_path / "scene.tif", painted()[::-1])
    layers = layers_of(result)
    assert layers.scenes == []
    assert "has changed since the run" in layers.notes[0]


def test_a_map_of_several_scenes_has_no_picture_of_one(run: RunResult) -> None:
    report = json.loads(Path(run.report).read_text()) | {"scenes": [{}, {}]}
    assert read_layers(run, report, 5e6).notes == ["The scene is not shown: this map is of 2 scenes."]


def test_a_part_of_a_scene_is_shown_under_its_map(tmp_path: Path) -> None:
    classes = painted()
    scene = write_painted(tmp_path / "scene.tif", classes)
    to_lonlat = pyproj.Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    west, south, east, north = to_lonlat.transform_bounds(500_200, 4_999_300, 500_900, 4_999_900)
    result = geoseg.segment(scene, model=BRIGHTEST, out=tmp_path / "out", bbox=(west, south, east, north))
    layers = layers_of(result)
    colors = picture_of(layers.scenes[0].webp)
    assert colors.shape[:2] == layers.labels.shape
    for place, band in ((1, 2), (2, 1), (3, 0)):
        assert colors[layers.labels == place].mean(axis=0)[:3].argmax() == band


def test_a_run_without_polygons_or_confidence(tmp_path: Path) -> None:
    scene = write_painted(tmp_path / "scene.tif", painted())
    result = geoseg.segment(scene, model=BRIGHTEST, out=tmp_path / "out", vector=("geojson",), confidence=False)
    layers = layers_of(result)
    assert (layers.polygons, layers.bins, layers.confidence) == (None, None, "")
    assert layers.notes == [
        "The run has no polygons.parquet, so no polygons are shown; --vector parquet writes it.",
    ]


def test_both_dates_of_a_change_are_shown(tmp_path: Path) -> None:
    before, after = write_pair(tmp_path)
    result = geoseg.detect_change(before.path, after.path, model=COVERS, out=tmp_path / "out")
    for date in (before, after):
        date.path.unlink()  # the pictures are the run's own
    layers = layers_of(result)
    assert [scene.name for scene in layers.scenes] == ["before", "after"]
    assert all(
        scene.text.startswith(date.path.stem) for scene, date in zip(layers.scenes, (before, after), strict=True)
    )
    assert layers.bins is not None
    assert layers.bins.shape == (len(result.areas), BINS)
    small = layers_of(result, 8000)
    assert small.scenes == []
    assert any("both dates do not fit" in note for note in small.notes)
