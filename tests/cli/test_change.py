"""``geoseg change`` at the door and end to end: which words it takes, what it says, what it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import yaml

from geoseg.journal import RunDirectory
from geoseg.source.grids import target_grid
from geoseg.types import Labels
from tests.cli.conftest import Call, Called
from tests.pairs import BANDS, FLOATING, GRID, Date, landscape, read, save_ndvi_loss, write_date, write_pair
from tests.source.sources import write_raster

UTM32 = target_grid(GRID, 10, "EPSG:32632")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ndvi_loss(tmp_path_factory.mktemp("models") / "ndvi-loss")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Date]:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two dates in two zones of UTM."""
    folder = tmp_path_factory.mktemp("apart")
    one = write_date(folder / "one.tif", landscape(0))
    return one.path, write_date(folder / "two.tif", landscape(1, UTM32), grid=UTM32, day=9).path


@pytest.fixture
def change(call: Call, model: Path, tmp_path: Path) -> Call:
    """Calls ``geoseg change`` with a model whose answers are known, without polygons, into ``out``."""

    def _change(*words: object) -> Called:
        return call("change", "--model", model, "--vector", "none", "--out", tmp_path / "out", *words)

    return _change


def change_in(folder: Path) -> Labels:
    return read(folder / "out" / "change.tif")


def refused(ended: Called, *texts: str) -> None:
    """It ended with exit code 2 and one line that holds `texts`."""
    assert (ended.code, ended.out) == (2, "")
    assert len(ended.err.splitlines()) == len(ended.error_lines) == 1, ended.err
    for text in texts:
        assert text in ended.err, ended.err


def test_prints_the_item_and_a_table_of_what_changed(change: Call, pair: list[Date], tmp_path: Path) -> None:
    ended = change(*(date.path for date in pair))
    assert (ended.code, ended.out) == (0, f"{tmp_path}/out/item.json\n")
    lost = int((change_in(tmp_path) == 1).sum())
    assert lost > 1000
    assert any(line.split()[:2] == ["loss", f"{lost:,}"] for line in ended.err.splitlines())
    refused(change(*(date.path for date in pair)), "--overwrite")
    assert change(*(date.path for date in reversed(pair)), "--overwrite").code == 0
    assert int((change_in(tmp_path) == 1).sum()) != lost


def test_json_names_what_a_change_leaves(change: Call, pair: list[Date], tmp_path: Path) -> None:
    ended = change(*(date.path for date in pair), "--json", "--no-confidence")
    document = json.loads(ended.out)
    out = tmp_path / "out"
    assert (document["status"], document["input"]) == ("done", "before.tif -> after.tif")
    places = {key: document[key] for key in ("change", "change_probability", "compare", "preview", "item", "report")}
    assert places == {
        "change": str(out / "change.tif"),
        "change_probability": None,
        "compare": str(out / "compare.html"),
        "preview": str(out / "preview.png"),
        "item": str(out / "item.json"),
        "report": str(out / "run.json"),
    }
    assert {"labels", "confidence"}.isdisjoint(document)
    assert [area["name"] for area in document["areas"]] == ["unchanged", "loss"]


def test_a_plan_does_nothing(change: Call, pair: list[Date], tmp_path: Path) -> None:
    ended = change(*(date.path for date in pair), "--dry-run", "--json")
    plan = json.loads(ended.out)
    assert (plan["status"], plan["scene"], plan["model"]) == ("planned", "before--after", "ndvi-loss")
    assert (plan["height"], plan["width"]) == GRID.shape
    assert plan["seconds"] > 0
    assert change(*(date.path for date in pair), "--model", "index-change", "--dry-run").code == 0
    assert not (tmp_path / "out").exists()


def test_differing_grids_are_refused_with_all_differences(
    change: Call, apart: tuple[Path, Path], tmp_path: Path
) -> None:
    refused(
        change(*apart),
        "CRS: ",
        "zone 33N before",
        "zone 32N after",
        "extent: ",
        "--align before, --align after or --align GRID",
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "shape"),
    [
        (("--align",), GRID.shape),
        (("--align", "before"), GRID.shape),
        (("--align", "after"), UTM32.shape),
        (("--align", "GRID"), (50, 60)),
    ],
    ids=lambda words: words[-1] if isinstance(words[0], str) else "",
)
def test_dates_are_read_on_the_grid_that_is_named(
    change: Call, apart: tuple[Path, Path], tmp_path: Path, words: tuple[str, ...], shape: tuple[int, int]
) -> None:
    grid = tmp_path / "grid.tif"
    write_raster(grid, np.zeros((1, 50, 60), np.uint8), GRID[40:90, 30:90])
    ended = change(*apart, *(str(grid) if word == "GRID" else word for word in words))
    assert ended.code == 0, ended.err
    assert change_in(tmp_path).shape == tuple(shape)
    told = [line for line in ended.err.splitlines() if "warning" in line and "different grids" in line]
    assert len(told) == 1


def test_the_environment_aligns_changes_and_leaves_maps_alone(
    change: Call, call: Call, apart: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOSEG_ALIGN", "after")
    assert change(*apart).code == 0
    assert change_in(tmp_path).shape == tuple(UTM32.shape)
    shown = call("segment", apart[0], "--show-config")
    assert (shown.code, "align" in shown.out) == (0, False)


def test_a_file_of_options_and_what_is_shown_of_them(call: Call, pair: list[Date], model: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "inputs": [str(date.path) for date in pair],
        "model": str(model),
        "align": "before",
        "register": True,
        "datetime_before": "2024-05-01T00:00:00Z",
        "bands-after": "green=1,red=2,nir=3,blue=4",
        "vector": "none",
    }
    file = tmp_path / "change.yaml"
    file.write_text(yaml.safe_dump(options))
    shown = call("change", "-c", file, "--tile", 64, "--show-config")
    held = yaml.safe_load(shown.out)
    assert (held["register"], held["align"], held["tile"], held["mask_after"]) == (True, "before", 64, None)
    assert held["bands_after"] == {"green": 1, "red": 2, "nir": 3, "blue": 4}
    again = tmp_path / "again.yaml"
    again.write_text(shown.out)
    assert yaml.safe_load(call("change", "-c", again, "--show-config").out) == held
    ended = call("change", "-c", again, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    item = json.loads((tmp_path / "out" / "item.json").read_text())
    assert item["properties"]["start_datetime"] == "2024-05-01T00:00:00Z"
    refused(call("segment", "-c", again, "--out", tmp_path / "map"), "no such option")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "change compares two scenes, BEFORE and AFTER, not 0"),
        (("{0}",), "change compares two scenes, BEFORE and AFTER, not 1"),
        (("{0}", "{1}", "{0}"), "change compares two scenes, BEFORE and AFTER, not 3"),
        (("--align", "{0}", "{1}"), "--align took {0} for its grid: write --align before"),
        (("{0}", "{1}", "--items", "{0}"), "No such option"),
        (("{0}", "{1}", "--bands", "red={0}"), "--bands-before and --bands-after"),
        (("{0}", "{1}", "--model", "spectral-baseline"), "swir16"),
        (("{0}", "{1}", "--align", "nowhere.tif"), "nowhere.tif"),
        (("{0}", "{1}", "--mask-after", "{1}:3,,8"), "lists no classes"),
        (("{0}", "missing.tif"), "missing.tif"),
        (("{0}", "{1}", "--datetime-before", "May"), "--datetime-before: should be a date"),
    ],
)
def test_wrong_usage_is_2_and_one_line(
    change: Call, pair: list[Date], words: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    given = [word.format(*(date.path for date in pair)) for word in words]
    refused(change(*given), says.format(*(date.path for date in pair)))
    assert not (tmp_path / "out").exists()


def test_lists_of_scenes_are_refused_in_files_too(change: Call, pair: list[Date], tmp_path: Path) -> None:
    for line in ("items: list.json", "mosaic: newest"):
        (tmp_path / "run.yaml").write_text(line)
        refused(
            change(*(date.path for date in pair), "-c", tmp_path / "run.yaml"),
            "--items and --mosaic are for geoseg segment",
        )


def test_a_model_of_changes_is_no_model_for_one_scene(
    call: Call, pair: list[Date], model: Path, tmp_path: Path
) -> None:
    refused(call("segment", pair[0].path, "--model", model, "--out", tmp_path / "out"), "use geoseg change")
    assert not (tmp_path / "out").exists()


def test_dates_in_the_wrong_order_are_named_and_not_swapped(change: Call, pair: list[Date], tmp_path: Path) -> None:
    before, after = (date.path for date in pair)
    ended = change(before, after)
    assert (ended.code, "later than" in ended.err) == (0, False)
    ended = change(after, before, "--overwrite")
    assert ended.code == 0, ended.err
    told = [line for line in ended.err.splitlines() if "later than" in line]
    assert len(told) == 1
    assert "BEFORE is later than AFTER (2024-06-21T10:20:30+00:00 and 2024-06-01T10:20:30+00:00): swap them" in told[0]
    backwards = change_in(tmp_path)
    assert change(after, before, "--overwrite", "--datetime-before", "2024-05-01").code == 0
    np.testing.assert_array_equal(change_in(tmp_path), backwards)
    assert "later than" not in change(after, after, "--overwrite").err


def test_no_file_of_either_date_is_overwritten(change: Call, pair: list[Date], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    before, after = (date.path for date in pair)
    square = [[14.999, 44.9], [15.02, 44.9], [15.02, 45.3], [14.999, 45.3], [14.999, 44.9]]
    area, grid = tmp_path / "out" / "polygons.geojson", tmp_path / "out" / "scene.tif"
    area.write_text(json.dumps({"type": "Polygon", "coordinates": [square]}))
    grid.write_bytes(before.read_bytes())
    refused(change(before, after, "--aoi", area, "--overwrite"), f"{area}: is the file of --aoi")
    refused(change(before, after, "--align", grid, "--overwrite"), f"{grid}: is the grid of --align")
    refused(change(grid, after, "--overwrite"), f"{grid}: is the input")
    assert area.exists()
    assert grid.read_bytes() == before.read_bytes()


def test_bands_of_a_date_may_be_files(call: Call, change: Call, pair: list[Date], model: Path, tmp_path: Path) -> None:
    """Either date, and both, band by band, give what the whole files give."""
    assert change(*(date.path for date in pair)).code == 0
    whole = change_in(tmp_path)
    files = [by_band(date, tmp_path / name) for name, date in zip(("b", "a"), pair, strict=True)]
    before, after = (date.path for date in pair)
    for number, words in enumerate(
        [
            (after, "--bands-before", files[0]),
            (before, "--bands-after", files[1]),
            ("--bands-before", files[0], "--bands-after", files[1]),
        ]
    ):
        out = tmp_path / str(number)
        ended = call("change", *words, "--model", model, "--vector", "none", "--out", out)
        assert ended.code == 0, ended.err
        np.testing.assert_array_equal(read(out / "change.tif"), whole)
    refused(change(before, after, "--bands-before", files[0], "--overwrite"), "not 2", "--bands-before")


def by_band(date: Date, folder: Path) -> str:
    """A date as one file per band, and what ``--bands-before`` says of them."""
    folder.mkdir()
    places = []
    for name in ("red", "nir"):
        values = np.where(date.valid, date.reflectance[BANDS.index(name)], np.nan).astype("float32")
        write_raster(folder / f"{name}.tif", values[None], GRID, nodata=FLOATING.nodata)
        places.append(f"{name}={folder / name}.tif")
    return ",".join(places)


def test_an_interrupted_change_is_resumed_by_the_same_words_only(
    change: Call, pair: list[Date], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before, after = (date.path for date in pair)
    with monkeypatch.context() as patch:
        patch.setattr("geoseg.look.write_change_preview", interrupt)
        ended = change(before, after, "--register")
    assert ended.code == 130
    assert "the same command resumes" in ended.err
    swapped = change(after, before, "--register", "-q")
    refused(swapped, "pair.dates", "--restart")
    refused(change(before, after, "--register", "--align"), "pair.align", "--restart")
    refused(change(before, after), "pair.register", "--restart")
    ended = change(before, after, "--register", "-v")
    assert (ended.code, "resum" in ended.err) == (0, True), ended.err
    assert RunDirectory(tmp_path / "out").is_finished


def test_a_real_pair_by_indices(call: Call, shared: Path, tmp_path: Path) -> None:
    """Prairie lakes that grew between 2009 and 2020: land became water."""
    paths = sorted((shared / "data" / "naip_north_dakota").glob("*.tif"))
    if len(paths) != 2:
        pytest.skip("the pair of North Dakota is not there")
    bands = "red=1,green=2,blue=3,nir=4"
    words = ("change", *paths, "--model", "index-change", "--bands", bands, "--out", tmp_path / "out")
    refused(call(*words), "grid origin", "extent", "--align")
    ended = call(*words, "--align", "before")
    assert ended.code == 0, ended.err
    report = json.loads((tmp_path / "out" / "run.json").read_text())
    assert report["pair"]["indices"] == ["NDVI", "NDWI"]
    assert report["pair"]["differences"]
    assert report["pair"]["shift"]["windows"] >= 3
    found = change_in(tmp_path)
    with rasterio.open(paths[0]) as file, rasterio.open(tmp_path / "out" / "change.tif") as change:
        assert (change.shape, change.transform, change.crs) == (file.shape, file.transform, file.crs)
    assert 0.05 < (found == 1).sum() / (found != 255).sum() < 0.6
    frame = geopandas.read_parquet(tmp_path / "out" / "polygons.parquet")
    largest = frame.loc[frame["area_m2"].idxmax()]
    assert largest["ndvi_after"] < largest["ndvi_before"], "land became water"
    assert frame["area_m2"].sum() == pytest.approx((found == 1).sum() * 25, rel=2e-3)
