"""One map of many, against an oracle that asks PROJ for every pixel; finished runs are made without a net."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pystac
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer

import geoseg.mosaic
import geoseg.patches
from geoseg.cluster import Cluster, ClusterOptions
from geoseg.errors import ConfigError, GridError, SourceError
from geoseg.events import ChunkDone, Event, StageStarted, Warned
from geoseg.models import read_spec
from geoseg.mosaic import make_mosaic
from geoseg.polygon_options import PolygonOptions
from geoseg.result import RunResult
from geoseg.source.maps import on_grid
from geoseg.source.raster import RasterSource

MODEL = "spectral-baseline"
CLOUD, NODATA, NOWHERE = 5, 255, 65535
HERE = Affine(10, 0, 600_000, 0, -10, 5_400_000)
ZONE_33 = Affine(10, 0, 159_000, 0, -10, 5_413_000)
"""About the same place in the neighbouring zone."""
RASTERS = ("labels", "confidence", "scene")

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Mapped:
    """A finished run and what is in it."""

    folder: Path
    labels: Array
    confidence: Array
    transform: Affine
    crs: str
    when: datetime | None


def mapped(
    folder: Path,
    shape: tuple[int, int] = (90, 120),
    *,
    seed: int = 0,
    transform: Affine = HERE,
    crs: str = "EPSG:32632",
    day: int | None = 1,
    holes: float = 0.2,
    digest: str | None = None,
) -> Mapped:
    """Writes what `read_scene` looks at: two rasters of patches of random classes, with holes, and an item."""
    random = np.random.default_rng(seed)

    def patches(values: Sequence[int]) -> Array:
        coarse = random.choice(values, (-(-shape[0] // 7), -(-shape[1] // 7)))
        return coarse.repeat(7, 0).repeat(7, 1)[: shape[0], : shape[1]].astype(np.uint8)

    labels, confidence = patches([1, 2, 3, 4, CLOUD]), random.integers(0, 251, shape).astype(np.uint8)
    hole = patches([0] * round(10 - 10 * holes) + [1] * round(10 * holes)).astype(bool)
    labels[hole], confidence[hole] = NODATA, 255
    folder.mkdir(parents=True, exist_ok=True)
    assets = {}
    for name, pixels in (("labels", labels), ("confidence", confidence)):
        path = folder / f"{name}.tif"
        profile = {"driver": "GTiff", "height": shape[0], "width": shape[1], "count": 1, "dtype": "uint8"}
        with rasterio.open(path, "w", **profile, crs=crs, transform=transform, nodata=255) as file:
            file.write(pixels, 1)
        assets[name] = {"href": f"./{name}.tif", "file:checksum": hashlib.sha256(path.read_bytes()).hexdigest()}
    when = None if day is None else datetime(2024, 5, day, tzinfo=UTC)
    facts = {
        "geoseg:scene": folder.name,
        "geoseg:model_digest": read_spec(MODEL).digest if digest is None else digest,
        "geoseg:datetime_source": "run" if when is None else "item",
        "datetime": (when or datetime(2030, 1, 1, tzinfo=UTC)).isoformat(),
    }
    (folder / "item.json").write_text(json.dumps({"properties": facts, "assets": assets}))
    return Mapped(folder, labels, confidence, transform, crs, when)


NONE = PolygonOptions(formats=())


def make(scenes: Sequence[Mapped], out: Path, rule: Any = "first", **options: Any) -> RunResult:
    return make_mosaic(
        [scene.folder for scene in scenes], out=out, rule=rule, model=MODEL, **{"polygons": NONE} | options
    )


@dataclass(frozen=True)
class Opened:
    """The rasters of a mosaic, and where its pixels are."""

    rasters: dict[str, Array]
    transform: Affine
    crs: str

    @property
    def centres(self) -> tuple[Array, Array]:
        rows, cols = np.indices(self.rasters["labels"].shape) + 0.5
        x, y = self.transform @ (cols, rows)
        return np.asarray(x), np.asarray(y)


def read(result: RunResult) -> Opened:
    rasters = {}
    for name in RASTERS:
        with rasterio.open(Path(result.out) / f"{name}.tif") as file:
            rasters[name], transform, crs = file.read(1), file.transform, file.crs.to_string()
    return Opened(rasters, transform, crs)


def seen_from(mosaic: Opened, scene: Mapped) -> tuple[Array, Array, Array]:
    """Labels and confidence of a scene where the centres of the mosaic's pixels lie, and how far from a pixel edge."""
    x, y = Transformer.from_crs(mosaic.crs, scene.crs, always_xy=True).transform(*mosaic.centres)
    cols, rows = ~scene.transform @ (np.asarray(x), np.asarray(y))
    doubt = np.minimum(np.abs(rows - np.rint(rows)), np.abs(cols - np.rint(cols)))
    rows, cols = np.floor(rows + 1e-9).astype(int), np.floor(cols + 1e-9).astype(int)
    height, width = scene.labels.shape
    inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    labels = np.where(inside, scene.labels[rows.clip(0, height - 1), cols.clip(0, width - 1)], NODATA)
    confidence = np.where(inside, scene.confidence[rows.clip(0, height - 1), cols.clip(0, width - 1)], 255)
    return labels, confidence, doubt


def expected(mosaic: Opened, scenes: Sequence[Mapped], rule: str) -> tuple[dict[str, Array], Array]:
    """Every raster by the words of the rule, and where a rounding error could decide otherwise."""
    shape = mosaic.rasters["labels"].shape
    order = list(range(len(scenes)))
    if rule != "first":
        order.sort(key=lambda at: -(scenes[at].when or datetime(1, 1, 1, tzinfo=UTC)).toordinal())
    seen = [seen_from(mosaic, scene) for scene in scenes]
    rasters = {"labels": np.full(shape, NODATA), "confidence": np.full(shape, 255), "scene": np.full(shape, NOWHERE)}
    best = np.full(shape, -1)
    for at in order:
        labels, confidence, _ = seen[at]
        worth = np.where(labels == NODATA, -1, 0)
        if rule == "cloudless":
            worth = np.where((labels != NODATA) & (labels != CLOUD), 1 + confidence.astype(int), worth)
        wins = worth > best
        best[wins] = worth[wins]
        for name, values in (("labels", labels), ("confidence", confidence), ("scene", np.full(shape, at))):
            rasters[name][wins] = values[wins]
    return rasters, np.minimum.reduce([doubt for _, _, doubt in seen]) < 1e-3


def check(result: RunResult, scenes: Sequence[Mapped], rule: str, *, exact: bool = True) -> Opened:
    """The mosaic is the oracle's; its areas are those of the union."""
    mosaic = read(result)
    rasters, doubtful = expected(mosaic, scenes, rule)
    for name in RASTERS:
        differs = rasters[name] != mosaic.rasters[name]
        assert not (differs if exact else differs & ~doubtful).any(), name
    covered = int((rasters["labels"] != NODATA).sum())
    if exact:
        assert sum(area.pixels for area in result.areas) == covered
    assert sum(area.pixels for area in result.areas) == int((mosaic.rasters["labels"] != NODATA).sum())
    return mosaic


def shifted(rows: float, cols: float, by: Affine = HERE) -> Affine:
    return by @ Affine.translation(cols, rows)


@pytest.mark.parametrize("rule", ["first", "newest", "cloudless"])
def test_overlapping_scenes_on_one_grid(tmp_path: Path, rule: str) -> None:
    scenes = [
        mapped(tmp_path / "a", seed=1, day=3),
        mapped(tmp_path / "b", seed=2, day=7, transform=shifted(40, -30)),
        mapped(tmp_path / "c", seed=3, day=None, transform=shifted(-20, 50)),
        mapped(tmp_path / "d", seed=4, day=7, transform=shifted(10, 10), holes=0.0),
    ]
    result = make(scenes, tmp_path / "mosaic", rule)
    mosaic = check(result, scenes, rule)
    assert mosaic.rasters["labels"].shape == (150, 200)
    assert mosaic.transform == shifted(-20, -30)
    assert {0, 1, 2, 3, NOWHERE} >= set(np.unique(mosaic.rasters["scene"]))
    assert len(set(np.unique(mosaic.rasters["scene"]))) >= 4


@pytest.mark.parametrize("shift", [(0.5, 0.5), (0.25, -0.4), (-33.5, 12.5), (7.75, 0.0)])
def test_a_scene_between_the_pixels_gives_its_nearest(tmp_path: Path, shift: tuple[float, float]) -> None:
    scenes = [
        mapped(tmp_path / "a", seed=1, holes=0.5),
        mapped(tmp_path / "b", seed=2, transform=shifted(*shift)),
    ]
    check(make(scenes, tmp_path / "mosaic"), scenes, "first")


@pytest.mark.parametrize(
    "other",
    [
        {"crs": "EPSG:32633", "transform": Affine(10, 0, 159_800, 0, -10, 5_412_200)},  # the neighbouring zone
        {"crs": "EPSG:32632", "transform": Affine(7, 0, 600_300, 0, -7, 5_399_900)},  # another pixel size
        {"crs": "EPSG:32632", "transform": HERE @ Affine.rotation(20)},
        {"crs": "EPSG:32632", "transform": Affine(10, 0, 600_203, 0, 10, 5_399_000)},  # south up
        {"crs": "EPSG:4326", "transform": Affine(1e-4, 0, 10.3665, 0, -1e-4, 48.7405)},
    ],
    ids=["zone", "size", "rotated", "south-up", "degrees"],
)
@pytest.mark.parametrize("rule", ["first", "cloudless"])
def test_a_scene_on_another_grid_gives_its_nearest(tmp_path: Path, other: dict[str, Any], rule: str) -> None:
    scenes = [
        mapped(tmp_path / "a", seed=1, holes=0.5),
        mapped(tmp_path / "b", seed=2, day=2, **other),
    ]
    mosaic = check(make(scenes, tmp_path / "mosaic", rule), scenes, rule, exact=False)
    assert set(np.unique(mosaic.rasters["scene"])) >= {0, 1}, "they overlap"
    assert mosaic.crs == "EPSG:32632"


def test_whatever_the_pieces_and_the_workers_the_bytes_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = [
        mapped(tmp_path / "a", (700, 600), seed=1, holes=0.5),
        mapped(tmp_path / "b", (700, 600), seed=2, day=2, crs="EPSG:32633", transform=ZONE_33),
    ]

    def bytes_of(out: Path, **options: Any) -> dict[str, str]:
        result = make(scenes, out, "cloudless", polygons=PolygonOptions(formats=("geojson",)), **options)
        names = [f"{name}.tif" for name in RASTERS] + ["polygons.geojson"]
        return {name: hashlib.sha256((Path(result.out) / name).read_bytes()).hexdigest() for name in names}

    whole = bytes_of(tmp_path / "whole")
    monkeypatch.setattr(geoseg.mosaic, "SIDE", 512)
    with Cluster(ClusterOptions(workers=2)) as cluster:
        assert bytes_of(tmp_path / "shared", cluster=cluster) == whole
    monkeypatch.setattr(geoseg.mosaic, "SIDE", 300)
    monkeypatch.setattr(geoseg.patches, "_ROWS", 77)
    assert bytes_of(tmp_path / "odd") == whole


def test_an_interrupted_mosaic_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geoseg.mosaic, "SIDE", 64)
    scenes = [mapped(tmp_path / "a", seed=1), mapped(tmp_path / "b", seed=2, transform=shifted(30, 30))]
    done: list[str] = []

    def stop(event: Event) -> None:
        if isinstance(event, ChunkDone):
            done.append(event.chunk)
            if len(done) == 4:
                raise KeyboardInterrupt

    out = tmp_path / "mosaic"
    with pytest.raises(KeyboardInterrupt):
        make(scenes, out, on_event=stop)
    assert sorted(path.name for path in out.iterdir()) == [".run"]
    check(make(scenes, out, on_event=stop), scenes, "first")
    assert len(done) == len(set(done)) == 2 * 3


def test_only_what_changed_is_made_anew(tmp_path: Path) -> None:
    scenes = [mapped(tmp_path / "a", seed=1), mapped(tmp_path / "b", seed=2, transform=shifted(30, 30))]
    out, stages = tmp_path / "mosaic", list[str]()

    def note(event: Event) -> None:
        if isinstance(event, StageStarted):
            stages.append(event.stage)

    first = make(scenes, out, on_event=note)
    assert stages == ["mosaic", "assemble", "describe"]
    assert make(scenes, out, on_event=note) == first
    assert len(stages) == 3, "nothing to do"
    for change in ("scene", "rule", "order", "fewer", "forced"):
        stages.clear()
        if change == "scene":
            scenes[0] = mapped(tmp_path / "a", seed=9)
        elif change == "order":
            scenes.reverse()
        elif change == "fewer":
            scenes.pop()
        rule = "newest" if change == "rule" else "first"
        check(make(scenes, out, rule, on_event=note, overwrite=change == "forced"), scenes, rule)
        assert stages == ["mosaic", "assemble", "describe"], change


def test_the_item_and_the_report_tell_where_pixels_come_from(tmp_path: Path) -> None:
    scenes = [
        mapped(tmp_path / "a", seed=1, day=3),
        mapped(tmp_path / "b", seed=2, day=7, transform=shifted(40, -30)),
    ]
    result = make(scenes, tmp_path / "mosaic", "newest")
    item = pystac.Item.from_file(str(result.item))
    links = [link.href for link in item.links if link.rel == "derived_from"]
    assert links[-2:] == ["../a/item.json", "../b/item.json"]
    properties = item.properties
    assert (properties["start_datetime"], properties["end_datetime"]) == (
        "2024-05-03T00:00:00Z",
        "2024-05-07T00:00:00Z",
    )
    assert properties["geoseg:datetime_source"] == "scenes"
    assert item.datetime == datetime(2024, 5, 7, tzinfo=UTC)
    [band] = item.assets["scene"].to_dict()["bands"]
    assert [entry["name"] for entry in band["classification:classes"]] == ["a", "b"]
    report = json.loads(Path(result.report).read_text())["scenes"]
    numbers = read(result).rasters["scene"]
    assert [(entry["value"], entry["scene"]) for entry in report] == [(0, "a"), (1, "b")]
    assert [entry["item"] for entry in report] == links[-2:]
    assert [entry["pixels"] for entry in report] == [int((numbers == at).sum()) for at in (0, 1)]


def test_scenes_far_from_each_other_are_refused(tmp_path: Path) -> None:
    beyond = Affine(1e-4, 0, 99.0, 0, -1e-4, 0.001)  # a quarter of the Earth away, a zone's plane has no place for it
    scenes = [mapped(tmp_path / "a"), mapped(tmp_path / "b", transform=beyond, crs="EPSG:4326")]
    with pytest.raises(GridError, match=r"has no place in WGS 84 / UTM zone 32N; name a --crs"):
        make(scenes, tmp_path / "mosaic")
    far = Affine(10, 0, 600_000 + 10 * 1_500_000, 0, -10, 5_400_000 - 10 * 1_500_000)
    scenes[1] = mapped(tmp_path / "b", transform=far)
    with pytest.raises(GridError, match=r"1500\d\d\d x 1500\d\d\d pixels; choose a coarser --resolution"):
        make(scenes, tmp_path / "mosaic")
    assert not (tmp_path / "mosaic").exists()


def test_what_is_no_finished_run_of_this_model_is_refused(tmp_path: Path) -> None:
    fine = mapped(tmp_path / "a")
    other = mapped(tmp_path / "b", digest="0" * 64)
    with pytest.raises(ConfigError, match=r"b: was made by another model than spectral-baseline"):
        make([fine, other], tmp_path / "mosaic")
    (tmp_path / "c").mkdir()
    with pytest.raises(ConfigError, match=r"c: holds no finished run"):
        make_mosaic([fine.folder, tmp_path / "c"], out=tmp_path / "mosaic", rule="first")
    (fine.folder / "labels.tif").write_bytes(b"II*\0")
    with pytest.raises(SourceError, match=r"a/labels\.tif"):
        make([fine], tmp_path / "mosaic")
    assert not (tmp_path / "mosaic").exists()


def test_the_map_of_a_scene_is_not_replaced(tmp_path: Path) -> None:
    scenes = [mapped(tmp_path / "a")]
    (tmp_path / "mosaic" / ".run").mkdir(parents=True)
    (tmp_path / "mosaic" / ".run" / "finished.json").write_text(json.dumps({"asked": {"options": {"tile": 512}}}))
    (tmp_path / "mosaic" / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="mosaic: holds the map of one scene"):
        make(scenes, tmp_path / "mosaic", overwrite=True)


def test_scenes_without_a_time_or_a_cloud_class_are_warned_about(tmp_path: Path) -> None:
    scenes = [mapped(tmp_path / "a", day=None), mapped(tmp_path / "b", day=2)]
    said: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, Warned):
            said.append(event.message)

    make(scenes, tmp_path / "first", "first", on_event=note)
    assert not said
    make(scenes, tmp_path / "newest", "newest", on_event=note)
    assert said == ["a: no time of acquisition is known, so counted as the oldest"]


def test_few_of_many_scenes_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = [mapped(tmp_path / f"s{at}", (20, 20), seed=at, transform=shifted(at, at)) for at in range(12)]
    opened: set[int] = set()
    most = 0
    plain_grid, plain_close = on_grid, RasterSource.close

    def counting_grid(source: Any, grid: Any) -> Any:
        nonlocal most
        opened.add(id(source))
        most = max(most, len(opened))
        return plain_grid(source, grid)

    def counting_close(source: Any) -> None:
        opened.discard(id(source))
        plain_close(source)

    monkeypatch.setattr(geoseg.patches, "on_grid", counting_grid)
    monkeypatch.setattr(RasterSource, "close", counting_close)
    check(make(scenes, tmp_path / "mosaic", "cloudless"), scenes, "cloudless")
    assert not opened
    assert 1 < most <= 4
