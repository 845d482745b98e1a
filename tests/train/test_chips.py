"""Chips are what scene and labels say, only labelled windows are read, and a cut is the same however it went."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from rasterio.features import rasterize

from geoseg.errors import ConfigError, GeosegError, GridError, SinkError
from geoseg.events import Event, Warned
from geoseg.protocols import Source
from geoseg.scene import Scene
from geoseg.source import open_scene
from geoseg.store import disk
from geoseg.testing.fakes import ArraySource, geobox_of, scene_of
from geoseg.train import IGNORE
from geoseg.train.chips import ChipOptions, LabelFile, LabelOptions, cut_chips
from geoseg.train.survey import choose
from geoseg.types import Pixels, Valid
from geoseg.window import GeoBox, Window
from tests.source.rasters import write

HEIGHT, WIDTH, SIZE = 150, 120, 10
GRID = geobox_of(HEIGHT, WIDTH)
BLOCKS = ChipOptions(size=SIZE, split="blocks:300", buffer=50)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """That files are forced onto it is tested elsewhere."""
    monkeypatch.setattr(disk, "sync", lambda path: None)


def source(valid: Valid | None = None, *, grid: GeoBox = GRID, seed: int = 0) -> ArraySource:
    pixels = np.random.default_rng(seed).integers(1, 10_000, (2, *grid.shape)).astype(np.uint16)
    return ArraySource(pixels, valid, names=("red", "nir"), geobox=grid)


def raster(path: Path, values: npt.NDArray[Any], grid: GeoBox = GRID, nodata: int | None = 0) -> LabelFile:
    write(path, values[None], crs=str(grid.crs), transform=grid.transform, nodata=nodata)
    return LabelFile(path=str(path))


def land(seed: int = 0) -> npt.NDArray[np.uint8]:
    """Classes 1 and 2 in large patches, a little of 9; 0 in the lower half."""
    coarse = np.random.default_rng(seed).integers(1, 3, (HEIGHT // 10, WIDTH // 10)).astype(np.uint8)
    values = np.kron(coarse, np.ones((10, 10), np.uint8))
    values[3:6, 33:36] = 9
    values[HEIGHT // 2 :] = 0
    return values


def polygons(path: Path, shapes: Sequence[Any], crs: str = "EPSG:32632", **columns: Sequence[Any]) -> LabelFile:
    frame = geopandas.GeoDataFrame(columns, geometry=list(shapes), crs="EPSG:32632").to_crs(crs)
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_file(path)
    return LabelFile(path=str(path))


def box(row: float, col: float, height: float, width: float, grid: GeoBox = GRID) -> Any:
    """A rectangle of pixels on the ground."""
    corners = [grid.transform * at for at in ((col, row), (col + width, row + height))]
    return shapely.box(*np.sort(corners, axis=0).ravel())


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "chips.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def window_of(row: dict[str, str]) -> Window:
    return Window(**{name: int(row[name]) for name in ("row_off", "col_off", "height", "width")})


def labels_in(out: Path, row: dict[str, str]) -> npt.NDArray[Any]:
    with rasterio.open(out / row["labels"]) as file:
        assert (file.dtypes, file.nodata) == (("uint8",), IGNORE)
        return np.asarray(file.read(1))


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# --- what a chip holds ---


def test_chips_hold_the_pixels_and_the_labels_of_their_window(tmp_path: Path) -> None:
    values, seen = land(), source()
    made = cut_chips([scene_of(seen)], [raster(tmp_path / "land.tif", values)], tmp_path / "out", options=BLOCKS)
    assert made.classes == ("class_1", "class_2", "class_9")
    rows = rows_of(made.folder)
    assert len(rows) == sum(made.chips.values()) > 20
    for row in rows:
        window = window_of(row)
        expected = np.full(window.shape, IGNORE)
        for number, value in enumerate((1, 2, 9)):
            expected[values[window.slices] == value] = number
        np.testing.assert_array_equal(labels_in(made.folder, row), expected)
        counted = [int(row[f"pixels_{name}"]) for name in made.classes]
        assert counted == [(expected == number).sum() for number in range(3)]
        with rasterio.open(made.folder / row["image"]) as file:
            np.testing.assert_array_equal(file.read(), seen.pixels[:, *window.slices])
            assert file.transform * (0, 0) == GRID.transform * (window.col_off, window.row_off)
            assert str(file.crs) == str(GRID.crs)
    totals = {split: dict.fromkeys(made.classes, 0) for split in made.chips}
    for row in rows:
        for name in made.classes:
            totals[row["split"]][name] += int(row[f"pixels_{name}"])
    assert totals == made.pixels


def test_a_chip_opens_as_the_scene_it_was_cut_from(tmp_path: Path) -> None:
    """Names, dtype, scaling, georeference, and which pixels are usable."""
    valid = np.random.default_rng(1).random((HEIGHT, WIDTH)) > 0.1
    seen = source(valid)
    scene = scene_of(seen)
    made = cut_chips([scene], [raster(tmp_path / "land.tif", land())], tmp_path / "out", options=BLOCKS)
    for row in rows_of(made.folder)[:5]:
        chip = open_scene(made.folder / row["image"], bands=("red", "nir"))
        pixels, usable = chip.source.read(Window(row_off=0, col_off=0, height=SIZE, width=SIZE))
        window = window_of(row)
        np.testing.assert_array_equal(usable, valid[window.slices])
        np.testing.assert_array_equal(pixels[:, usable], seen.pixels[:, *window.slices][:, usable])
        assert [band.scaling for band in chip.bands] == [band.scaling for band in scene.bands]
        assert (labels_in(made.folder, row)[~usable] == IGNORE).all()


def test_a_chip_without_a_usable_label_is_not_written(tmp_path: Path) -> None:
    valid = np.ones((HEIGHT, WIDTH), bool)
    valid[:20] = False
    made = cut_chips(
        [scene_of(source(valid))], [raster(tmp_path / "land.tif", land())], tmp_path / "out", options=BLOCKS
    )
    assert made.dropped["unusable"] > 0
    assert min(window_of(row).row_off for row in rows_of(made.folder)) == 20
    assert len(list((made.folder / "images").iterdir())) == sum(made.chips.values())


def test_only_windows_of_written_chips_are_read_and_each_once(tmp_path: Path) -> None:
    seen = source()
    options = ChipOptions(size=SIZE, split="blocks:300", per_class=4)
    made = cut_chips([scene_of(seen)], [raster(tmp_path / "land.tif", land())], tmp_path / "out", options=options)
    assert sorted(map(str, seen.reads)) == sorted(str(window_of(row)) for row in rows_of(made.folder))
    assert made.dropped["not_chosen"] > 0


@pytest.mark.parametrize("all_touched", [False, True])
@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".parquet"])
def test_polygons_become_labels_as_gdal_burns_them_on_the_whole_scene(
    tmp_path: Path, suffix: str, all_touched: bool
) -> None:
    random = np.random.default_rng(5)
    shapes = [
        shapely.affinity.rotate(box(*random.uniform(0, 120, 2), *random.uniform(3, 20, 2)), random.uniform(0, 90))
        for _ in range(25)
    ]
    classes = [["water", "ice", None][number % 3] for number in range(25)]
    crs = "EPSG:4326" if suffix == ".geojson" else "EPSG:32632"
    file = polygons(tmp_path / f"land{suffix}", shapes, crs, kind=classes)
    reading = LabelOptions(class_column="kind", all_touched=all_touched)
    made = cut_chips([scene_of(source())], [file], tmp_path / "out", options=BLOCKS, labels=reading)
    assert made.classes == ("ice", "water")
    burnt = [(shape, made.classes.index(name)) for shape, name in zip(shapes, classes, strict=True) if name]
    expected = rasterize(
        burnt, GRID.shape, fill=IGNORE, transform=GRID.transform, all_touched=all_touched, dtype="uint8"
    )
    differing = sum(
        (labels_in(made.folder, row) != expected[window_of(row).slices]).sum() for row in rows_of(made.folder)
    )
    assert differing <= (3 if suffix == ".geojson" else 0), "degrees in a GeoJSON are rounded"


def test_labels_on_another_grid_are_the_nearest(tmp_path: Path) -> None:
    coarse = GeoBox((50, 50), GRID.transform @ Affine.scale(3, 3), GRID.crs)
    values = np.random.default_rng(2).integers(1, 5, (50, 50)).astype(np.uint8)
    made = cut_chips(
        [scene_of(source())], [raster(tmp_path / "l.tif", values, coarse)], tmp_path / "out", options=BLOCKS
    )
    rows, cols = np.arange(HEIGHT) // 3, np.arange(WIDTH) // 3
    expected = values[np.ix_(rows, cols)] - 1
    for row in rows_of(made.folder):
        np.testing.assert_array_equal(labels_in(made.folder, row), expected[window_of(row).slices])


def test_later_files_are_painted_over_earlier_ones_and_background_fills_chips_with_polygons(tmp_path: Path) -> None:
    under = polygons(tmp_path / "under.gpkg", [box(0, 0, 75, 130)], kind=[1])
    over = polygons(tmp_path / "over.gpkg", [box(5, 5, 40, 40)], kind=[2])
    ponds = polygons(
        tmp_path / "ponds.gpkg", [box(r, c, 4, 4) for r in (3, 53, 103) for c in (3, 53, 103)], kind=[7] * 9
    )
    reading = LabelOptions(class_column="kind")
    made = cut_chips([scene_of(source())], [under, over], tmp_path / "one", options=BLOCKS, labels=reading)
    expected = np.full((HEIGHT, WIDTH), IGNORE)
    expected[:75], expected[5:45, 5:45] = 0, 1
    for row in rows_of(made.folder):
        np.testing.assert_array_equal(labels_in(made.folder, row), expected[window_of(row).slices])
    reading = LabelOptions(class_column="kind", background=0, classes={"land": 0, "pond": 7})
    made = cut_chips([scene_of(source())], [ponds], tmp_path / "two", options=BLOCKS, labels=reading)
    assert made.classes == ("land", "pond")
    assert len(rows_of(made.folder)) == 9
    for row in rows_of(made.folder):
        assert (int(row["pixels_land"]), int(row["pixels_pond"])) == (84, 16)


def test_values_that_are_ignored_or_not_listed_are_no_labels(tmp_path: Path) -> None:
    file = raster(tmp_path / "land.tif", land())
    ignoring = LabelOptions(ignore=(2,))
    made = cut_chips([scene_of(source())], [file], tmp_path / "one", options=BLOCKS, labels=ignoring)
    assert made.classes == ("class_1", "class_9")
    listed = LabelOptions(classes={"field": 2, "lake": 5})
    made = cut_chips([scene_of(source())], [file], tmp_path / "two", options=BLOCKS, labels=listed)
    assert made.classes == ("field", "lake")
    assert all(int(row["pixels_lake"]) == 0 < int(row["pixels_field"]) for row in rows_of(made.folder))


# --- splits ---


def distances(out: Path) -> dict[tuple[str, str], float]:
    """The least distance between chips of every two splits, by brute force."""
    found: dict[tuple[str, str], float] = {}
    chips = [
        (row["split"], box(window.row_off, window.col_off, window.height, window.width))
        for row in rows_of(out)
        for window in [window_of(row)]
    ]
    for (one, here), (other, there) in combinations(chips, 2):
        if one != other:
            pair = (min(one, other), max(one, other))
            found[pair] = min(found.get(pair, np.inf), here.distance(there))
    return found


@pytest.mark.parametrize("buffer", [0.0, 120.0, 250.0])
def test_chips_of_different_splits_keep_the_buffer_and_it_is_told(tmp_path: Path, buffer: float) -> None:
    options = ChipOptions(size=SIZE, split="blocks:400", buffer=buffer, seed=2)
    made = cut_chips([scene_of(source())], [raster(tmp_path / "l.tif", land())], tmp_path / "out", options=options)
    found = distances(made.folder)
    assert found
    assert min(found.values()) > buffer
    for (one, other), metres in found.items():
        told = {frozenset(pair.split("-")): least for pair, least in made.metres_between.items()}
        assert told[frozenset((one, other))] == pytest.approx(metres, rel=1e-3)
    assert made.dropped["too_close"] > 0
    assert made.pixels["train"]["class_9"] == 9


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_splits(tmp_path: Path) -> None:
    file = raster(tmp_path / "l.tif", land())
    options = [ChipOptions(size=SIZE, split="blocks:300", per_class=5, seed=seed) for seed in (1, 1, 2)]
    one, same, other = (
        contents(cut_chips([scene_of(source())], [file], tmp_path / str(number), options=each).folder)
        for number, each in enumerate(options)
    )
    assert one == same
    assert one["split.geojson"] != other["split.geojson"]


def test_splits_by_column_that_names_them(tmp_path: Path) -> None:
    shapes = [box(0, 0, 40, 40), box(0, 60, 40, 40), box(80, 0, 30, 30)]
    file = polygons(tmp_path / "l.gpkg", shapes, kind=[1, 1, 2], part=["train", "val", None])
    reading = LabelOptions(class_column="kind")
    options = ChipOptions(size=SIZE, split="column:part", buffer=100)
    made = cut_chips([scene_of(source())], [file], tmp_path / "out", options=options, labels=reading)
    assert made.chips == {"train": 16, "val": 16}
    assert made.dropped == {"no_split": 9}
    near = ChipOptions(size=SIZE, split="column:part", buffer=201)
    with pytest.raises(
        ConfigError, match=r"polygon 1 of .*l.gpkg \(train\) and polygon 2 .* lie 200.0 m apart, where 201 m"
    ):
        cut_chips([scene_of(source())], [file], tmp_path / "none", options=near, labels=reading)
    assert not (tmp_path / "none").exists()


def test_what_a_column_gives_to_no_split_is_left_out(tmp_path: Path) -> None:
    """Not dealt anew, and of no account where it lies beside the others or on the far side of the Earth."""
    far = box(900_000, 30_000, 40, 40)
    shapes = [box(0, 0, 40, 40), box(0, 60, 40, 40), box(0, 40, 40, 20), far]
    file = polygons(tmp_path / "l.gpkg", shapes, kind=[1] * 4, part=["train", "test", "reserve", "val"])
    options, reading = ChipOptions(size=SIZE, split="column:part"), LabelOptions(class_column="kind")
    made = cut_chips([scene_of(source())], [file], tmp_path / "out", options=options, labels=reading)
    assert made.chips == {"train": 16, "test": 16}
    assert made.dropped == {"no_split": 8}


def test_a_split_of_another_place_is_refused(tmp_path: Path) -> None:
    areas = polygons(tmp_path / "areas.geojson", [box(900, 900, 10, 10)], "EPSG:4326", split=["train"])
    options = ChipOptions(size=SIZE, split=f"areas:{areas.path}")
    with pytest.raises(ConfigError, match="labelled chips lies in a split: is the split of this place"):
        cut_chips([scene_of(source())], [raster(tmp_path / "l.tif", land())], tmp_path / "out", options=options)
    wrong = polygons(tmp_path / "wrong.geojson", [box(0, 0, 10, 10)], "EPSG:4326", split=["dev"])
    options = ChipOptions(size=SIZE, split=f"areas:{wrong.path}")
    with pytest.raises(ConfigError, match="split 'dev' is none of train, val, test"):
        cut_chips([scene_of(source())], [raster(tmp_path / "l.tif", land())], tmp_path / "out", options=options)


def test_groups_of_a_column_go_to_splits_as_a_whole(tmp_path: Path) -> None:
    shapes = [box(row, col, 10, 10) for row in range(0, 140, 20) for col in range(0, 120, 20)]
    regions = [f"region {number // 4}" for number in range(len(shapes))]
    file = polygons(tmp_path / "l.gpkg", shapes, kind=[1] * len(shapes), region=regions)
    options = ChipOptions(size=SIZE, split="column:region", fractions={"train": 0.5, "val": 0.5})
    made = cut_chips(
        [scene_of(source())], [file], tmp_path / "out", options=options, labels=LabelOptions(class_column="kind")
    )
    split_of: dict[str, set[str]] = {}
    for row in rows_of(made.folder):
        split_of.setdefault(row["group"], set()).add(row["split"])
    assert len(split_of) > 8
    assert all(len(splits) == 1 for splits in split_of.values())
    assert set(made.chips) == {"train", "val"}


def test_splits_by_file(tmp_path: Path) -> None:
    west = polygons(tmp_path / "west.gpkg", [box(0, 0, 100, 40)])
    east = polygons(tmp_path / "east.gpkg", [box(0, 60, 100, 40)])
    given_to = [LabelFile(path=west.path, split="val"), LabelFile(path=east.path, split="train")]
    reading, by_file = LabelOptions(class_value=3), ChipOptions(size=SIZE, split="file")
    made = cut_chips([scene_of(source())], given_to, tmp_path / "hand", options=by_file, labels=reading)
    assert {(row["split"], int(row["col_off"]) < 50) for row in rows_of(made.folder)} == {
        ("val", True),
        ("train", False),
    }
    parts = ChipOptions(size=SIZE, split="file", fractions={"train": 0.5, "val": 0.5})
    made = cut_chips([scene_of(source())], [west, east], tmp_path / "parts", options=parts, labels=reading)
    assert {row["group"] for row in rows_of(made.folder)} == {"west", "east"}
    touching = polygons(tmp_path / "touching.gpkg", [box(0, 40, 100, 10)])
    near = [*given_to, LabelFile(path=touching.path, split="test")]
    with pytest.raises(ConfigError, match=r"west.gpkg \(val\) and polygon 1 of .*touching.gpkg \(test\) touch"):
        cut_chips([scene_of(source())], near, tmp_path / "near", options=by_file, labels=reading)


def test_a_split_that_was_written_can_be_given_again(tmp_path: Path) -> None:
    file = raster(tmp_path / "l.tif", land())
    first = cut_chips([scene_of(source())], [file], tmp_path / "one", options=BLOCKS)
    again = ChipOptions(size=SIZE, split=f"areas:{tmp_path / 'one' / 'split.geojson'}", buffer=BLOCKS.buffer)
    second = cut_chips([scene_of(source())], [file], tmp_path / "two", options=again)
    assert [(row["image"], row["split"]) for row in rows_of(first.folder)] == [
        (row["image"], row["split"]) for row in rows_of(second.folder)
    ]
    wide = ChipOptions(size=SIZE, split=again.split, buffer=150)
    with pytest.raises(ConfigError, match=r"split.geojson \(\w+\) and polygon .* lie 100.0 m apart, where 150 m"):
        cut_chips([scene_of(source())], [file], tmp_path / "three", options=wide)


def test_the_split_is_written_as_polygons_and_as_a_picture(tmp_path: Path) -> None:
    made = cut_chips([scene_of(source())], [raster(tmp_path / "l.tif", land())], tmp_path / "out", options=BLOCKS)
    document = json.loads((made.folder / "split.geojson").read_text())
    assert "crs" not in document
    frame = geopandas.read_file(made.folder / "split.geojson").to_crs("EPSG:32632")
    for split, chips in made.chips.items():
        area = frame[frame.split == split].area.sum()
        assert area == pytest.approx(chips * (10 * SIZE) ** 2, rel=1e-3)
    assert all(
        shapely.is_ccw(shapely.get_exterior_ring(each))
        for each in geopandas.read_file(made.folder / "split.geojson").geometry
    )
    with Image.open(made.folder / "split.png") as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20) or []}
    assert {(0x44, 0x77, 0xAA), (0xCC, 0xBB, 0x44), (0xEE, 0x66, 0x77), (0xBB, 0xBB, 0xBB)} <= colors


def test_scenes_of_two_zones_and_of_one_name_share_a_split(tmp_path: Path) -> None:
    """Far from each other, and once more in another zone, where the same ground must go to the same split."""
    east = GeoBox((60, 60), Affine(10, 0, 160_000, 0, -10, 5_400_000), "EPSG:32633")
    file = raster(tmp_path / "l.tif", land())
    other = raster(tmp_path / "m.tif", np.full((60, 60), 2, np.uint8), east)
    scenes: list[Scene[Any]] = [scene_of(source()), scene_of(source(grid=east)), scene_of(source(seed=3))]
    made = cut_chips(scenes, [file, other], tmp_path / "out", options=BLOCKS)
    rows = rows_of(made.folder)
    stems = {row["image"].rpartition("_r")[0] for row in rows}
    assert len(stems) == 3
    split_at: dict[Window, set[str]] = {}
    for row in rows:
        if not row["image"].startswith(f"images/{scenes[0].id}-2_"):
            split_at.setdefault(window_of(row), set()).add(row["split"])
    assert all(len(splits) == 1 for splits in split_at.values())


# --- classes ---


@given(
    pixels=hnp.arrays(
        np.int64, st.tuples(st.integers(1, 30), st.integers(1, 4)), elements=st.sampled_from([0, 0, 1, 50])
    ),
    per_class=st.integers(1, 8),
    seed=st.integers(0, 50),
)
def test_every_class_is_on_as_many_chips_as_were_asked_for(
    pixels: npt.NDArray[np.int64], per_class: int, seed: int
) -> None:
    splits = np.random.default_rng(seed).integers(-1, 3, len(pixels))
    chosen = choose(splits, pixels, per_class, seed)
    np.testing.assert_array_equal(chosen, choose(splits, pixels, per_class, seed))
    assert chosen[splits > 0].all()
    assert not chosen[splits < 0].any()
    train = splits == 0
    for held in pixels.T > 0:
        assert (chosen & train & held).sum() >= min(per_class, (train & held).sum())
    assert (chosen & train).sum() <= per_class * pixels.shape[1]


# --- a folder is one request's ---


class _Flaky:
    """A source that fails after so many reads."""

    def __init__(self, inner: ArraySource, reads: int) -> None:
        self._inner, self._left, self._lock = inner, reads, threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def read(self, window: Window) -> tuple[Pixels, Valid]:
        with self._lock:
            if self._left == 0:
                raise GeosegError("the line was cut")
            self._left -= 1
        return self._inner.read(window)


def flaky(reads: int) -> Scene[Source]:
    return scene_of(_Flaky(source(), reads))


@pytest.mark.parametrize("reads", [0, 7])
def test_a_cut_that_broke_off_goes_on_and_ends_as_if_it_had_not(tmp_path: Path, reads: int) -> None:
    file = raster(tmp_path / "l.tif", land())
    with pytest.raises(GeosegError, match="the line was cut"):
        cut_chips([flaky(reads)], [file], tmp_path / "out", options=BLOCKS)
    assert not (tmp_path / "out" / "chips.csv").exists()
    seen = source()
    made = cut_chips([scene_of(seen)], [file], tmp_path / "out", options=BLOCKS)
    assert len(seen.reads) == sum(made.chips.values()) - reads
    whole = cut_chips([scene_of(source())], [file], tmp_path / "whole", options=BLOCKS)
    assert contents(made.folder) == contents(whole.folder)
    cut_chips([flaky(0)], [file], tmp_path / "out", options=BLOCKS)  # nothing is left to read


def test_chips_of_another_request_are_kept_unless_they_may_go(tmp_path: Path) -> None:
    file = raster(tmp_path / "l.tif", land())
    cut_chips([scene_of(source())], [file], tmp_path / "out", options=BLOCKS)
    before = contents(tmp_path / "out")
    other = ChipOptions(size=20, split="blocks:300")
    with pytest.raises(SinkError, match="chips of another request; choose another --out, or --overwrite"):
        cut_chips([scene_of(source())], [file], tmp_path / "out", options=other)
    assert contents(tmp_path / "out") == before
    raster(tmp_path / "l.tif", land(seed=1))
    with pytest.raises(SinkError, match="another request"):  # other labels are another request
        cut_chips([scene_of(source())], [file], tmp_path / "out", options=BLOCKS)
    cut_chips([scene_of(source())], [file], tmp_path / "out", options=other, overwrite=True)
    fresh = cut_chips([scene_of(source())], [file], tmp_path / "fresh", options=other)
    assert contents(tmp_path / "out") == contents(fresh.folder)


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    file = raster(tmp_path / "l.tif", land())
    with pytest.raises(SinkError, match=r"holds thesis.txt, which is no chip"):
        cut_chips([scene_of(source())], [file], tmp_path / "out", options=BLOCKS, overwrite=True)
    assert list(contents(tmp_path / "out")) == ["thesis.txt"]


def test_what_a_person_should_know_is_told(tmp_path: Path) -> None:
    told: list[Event] = []
    bare = scene_of(source(grid=GeoBox((60, 60), Affine(10, 0, 700_000, 0, -10, 5_400_000), "EPSG:32632")))
    bare = Scene(id="bare", source=bare.source, geobox=bare.geobox, bands=bare.bands)
    file = raster(tmp_path / "l.tif", land())
    cut_chips([scene_of(source()), bare], [file], tmp_path / "out", options=BLOCKS, on_event=told.append)
    warned = [event.message for event in told if isinstance(event, Warned)]
    assert "no labels lie on bare" in warned
    assert "val has no pixel of class_9" in warned


# --- what cannot be ---


@pytest.mark.parametrize(
    ("options", "labels", "error", "message"),
    [
        ({"size": 500}, {}, GridError, "500 x 500 pixels fits"),
        ({"split": "column:x"}, {}, ConfigError, "a raster has no column 'x'"),
        ({"split": "blocks:1e6"}, {}, ConfigError, "1 groups of labelled chips leave nothing for val and test"),
        ({}, {"classes": {"a": 77}}, GridError, "no label lies on a scene"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], labels: dict[str, Any], error: type[GeosegError], message: str
) -> None:
    file = raster(tmp_path / "l.tif", land())
    with pytest.raises(error, match=message):
        cut_chips(
            [scene_of(source())],
            [file],
            tmp_path / "out",
            options=ChipOptions(**{"size": SIZE, **options}),
            labels=LabelOptions(**labels),
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("classes", "reading", "message"),
    [
        ([1.5], {"class_column": "kind"}, "class 1.5 is no whole number"),
        (["a"], {"class_column": "kinds"}, "no column is named 'kinds'; it has .*kind"),
        (["a"], {}, "either by --class-column or by --class-value"),
        (["a"], {"class_column": "kind", "classes": {"b": 1}}, "none of 1 polygons has one of the classes"),
        (["a"], {"class_column": "kind", "background": "b", "classes": {"a": 1}}, "background 'b' is none of"),
    ],
)
def test_classes_that_cannot_be_told_are_refused(
    tmp_path: Path, classes: list[Any], reading: dict[str, Any], message: str
) -> None:
    file = polygons(tmp_path / "l.gpkg", [box(0, 0, 30, 30)], kind=classes)
    with pytest.raises(ConfigError, match=message):
        cut_chips([scene_of(source())], [file], tmp_path / "out", options=BLOCKS, labels=LabelOptions(**reading))


def test_names_and_values_are_not_mixed_by_guess(tmp_path: Path) -> None:
    named = polygons(tmp_path / "l.gpkg", [box(0, 0, 30, 30)], kind=["ice"])
    files = [raster(tmp_path / "l.tif", land()), named]
    with pytest.raises(ConfigError, match=r"names \(ice\) and values: say which is which with --classes ice=1"):
        cut_chips(
            [scene_of(source())], files, tmp_path / "out", options=BLOCKS, labels=LabelOptions(class_column="kind")
        )
    reading = LabelOptions(class_column="kind", classes={"ice": 9, "one": 1, "two": 2})
    made = cut_chips([scene_of(source())], files, tmp_path / "out", options=BLOCKS, labels=reading)
    assert made.classes == ("one", "two", "ice")
    assert sum(pixels["ice"] for pixels in made.pixels.values()) > 9


def test_labels_that_are_no_whole_numbers_are_refused(tmp_path: Path) -> None:
    file = raster(tmp_path / "l.tif", land().astype(np.float32))
    with pytest.raises(ConfigError, match="it holds float32; convert it to uint8"):
        cut_chips([scene_of(source())], [file], tmp_path / "out", options=BLOCKS)


def test_splits_of_files_need_the_rule(tmp_path: Path) -> None:
    file = raster(tmp_path / "l.tif", land())
    given_to = LabelFile(path=file.path, split="val")
    for files, options, message in (
        ([given_to], BLOCKS, "needs --split file"),
        ([given_to, file], ChipOptions(size=SIZE, split="file"), "write SPLIT=FILE for each"),
        ([], BLOCKS, "1 scenes, 0 files of labels"),
    ):
        with pytest.raises(ConfigError, match=message):
            cut_chips([scene_of(source())], files, tmp_path / "out", options=options)


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"buffer": -1}, {"buffer": float("nan")}, {"per_class": 0}, {"seed": -1}]
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ChipOptions(**options)
