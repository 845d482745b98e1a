"""``geoseg evaluate``: tables, JSON, a page, and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Call
from tests.source.rasters import write


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A map and its truth: 3 of 4 pixels are right."""
    truth = np.zeros((1, 40, 40), np.uint8)
    truth[:, 20:] = 1
    predicted = truth.copy()
    predicted[:, 10:20] = 1
    return write(tmp_path / "map.tif", predicted), write(tmp_path / "truth.tif", truth)


def test_a_table_for_people(call: Call, pair: tuple[Path, Path]) -> None:
    ended = call("evaluate", *pair, "--names", "0=land,1=water", "--by", 200)
    assert (ended.code, ended.err) == (0, "")
    lines = [line.split() for line in ended.out.splitlines()]
    assert lines[1][:2] == ["accuracy", "0.750"]
    assert next(line[:7] for line in lines if line[:1] == ["land"]) == [
        "land",
        "800",
        "400",
        "0.500",
        "0.667",
        "1.000",
        "0.500",
    ]
    assert any(line.startswith("row 0, column 1") for line in ended.out.splitlines())
    assert "note: intervals from 4 regions" in ended.out


def test_json_holds_everything_and_nothing_else_is_printed(call: Call, pair: tuple[Path, Path]) -> None:
    ended = call("evaluate", *pair, "--json", "--boundary", 0)
    document = json.loads(ended.out)
    assert (ended.code, ended.err) == (0, "")
    assert document["overall"]["accuracy"] == 0.75
    assert document["confusion"]["pixels"] == [[400, 400], [0, 800]]
    assert document["classes"][0]["boundary_iou"] is None
    assert document["estimates"]["classes"][1]["mapped_km2"] == pytest.approx(0.12, rel=1e-2)


@pytest.mark.parametrize(
    ("least", "code", "said"),
    [
        ("miou=0.5", 0, ""),
        ("miou=0.6,f1.water=0.5", 4, "miou is 0.5833, and must be 0.6 at least"),
        ("f1.water=0.9", 4, "f1.water is 0.8000, and must be 0.9 at least"),
        ("iou.snow=0.1", 4, "iou.snow is not defined, and must be 0.1 at least"),
        ("iou.lava=0.1", 2, "the classes are land, water, snow"),
        ("quality=0.1", 2, "the scores are accuracy, miou"),
    ],
)
def test_a_score_below_what_it_must_be_is_4(
    least: str, code: int, said: str, call: Call, pair: tuple[Path, Path]
) -> None:
    ended = call("evaluate", *pair, "--names", "0=land,1=water,2=snow", "--fail-under", least)
    assert ended.code == code
    assert said in ended.err
    assert len(ended.error_lines) == (1 if code else 0)
    assert "accuracy" in ended.out, "the scores are told in any case"


def test_classes_are_joined_and_left_out(call: Call, pair: tuple[Path, Path], tmp_path: Path) -> None:
    truth = np.full((1, 40, 40), 7, np.uint8)
    truth[:, :10] = 255
    other = write(tmp_path / "other.tif", truth)
    ended = call("evaluate", pair[0], other, "--map", "7=water", "--names", "water=1", "--ignore", "255", "--json")
    document = json.loads(ended.out)
    assert document["pixels"] == 1200
    assert document["overall"]["accuracy"] == 1


def test_a_page_is_written(call: Call, pair: tuple[Path, Path], tmp_path: Path) -> None:
    ended = call("evaluate", *pair, "--html", tmp_path / "scores.html")
    assert ended.code == 0
    assert "<svg" in (tmp_path / "scores.html").read_text()
    assert call("evaluate", *pair, "--html", tmp_path / "no" / "scores.html").code == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--fail-under", "miou"), "--fail-under miou: write NAME=VALUE"),
        (("--fail-under", "miou=high"), "'high' is no number"),
        (("--map", "3"), "--map 3: write NAME=VALUE"),
        (("--names", "a=b"), "write VALUE=NAME"),
        (("--names", "1=a,1=b"), "--names 1=a,1=b: the value 1 stands there twice"),
        (("--names", "1=a,b=1"), "--names 1=a,b=1: the value 1 stands there twice"),
        (("--names", "1=a,2=a"), "--names 1=a,2=a: the name a stands there twice"),
        (("--map", "3=1,3=2"), "--map 3=1,3=2: 3 stands there twice"),
        (("--fail-under", "miou=0.1,miou=0.2"), "miou stands there twice"),
        (("--ignore", "cloud"), "'cloud'"),
        (("--ignore", "--5"), "'--5'"),
        (("--class-column", "kind"), "leave --class-column out"),
        (("--by", "districts"), "FILE:COLUMN"),
        (("--boundary", "-1"), "--boundary"),
    ],
)
def test_wrong_options_are_2_with_one_line(
    options: tuple[str, str], said: str, call: Call, pair: tuple[Path, Path]
) -> None:
    ended = call("evaluate", *pair, *options)
    assert (ended.code, ended.out) == (2, "")
    assert len(ended.err.splitlines()) == 1
    assert said in ended.err


def test_a_missing_file_is_2(call: Call, pair: tuple[Path, Path], tmp_path: Path) -> None:
    for words in ((pair[0], tmp_path / "none.tif"), (tmp_path / "none.tif", pair[1]), (pair[0], tmp_path / "n.gpkg")):
        ended = call("evaluate", *words)
        assert (ended.code, ended.out) == (2, "")
        assert len(ended.error_lines) == len(ended.err.splitlines()) == 1
        assert "No such file" in ended.err


@pytest.mark.parametrize("kind", ["fgb", "shp", "kml", "geojsonl"])
def test_a_truth_of_polygons_that_is_missing_is_no_raster(
    kind: str, call: Call, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    ended = call("evaluate", pair[0], tmp_path / f"none.{kind}", "--class-column", "class_id")
    assert (ended.code, ended.out) == (2, "")
    assert "No such file" in ended.err


@pytest.mark.parametrize("options", [("--class-column", "class_id"), ()])
def test_polygons_of_another_format_are_called_that(
    options: tuple[str, ...], call: Call, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    assert call("vectorize", pair[1], "-o", tmp_path / "truth.fgb", "-q").code == 0
    ended = call("evaluate", pair[0], tmp_path / "truth.fgb", *options)
    assert (ended.code, ended.out) == (2, "")
    assert len(ended.error_lines) == len(ended.err.splitlines()) == 1
    assert "truth.fgb: polygons are read from" in ended.err


def test_features_by_lines_are_a_truth(call: Call, pair: tuple[Path, Path], tmp_path: Path) -> None:
    for kind in ("geojson", "geojsonl"):
        assert call("vectorize", pair[1], "-o", tmp_path / f"truth.{kind}", "-q").code == 0
    scores = [
        json.loads(call("evaluate", pair[0], tmp_path / f"truth.{kind}", "--class-column", "class_id", "--json").out)
        for kind in ("geojson", "geojsonl")
    ]
    assert scores[1]["overall"]["accuracy"] == 0.75
    assert [score["confusion"] for score in scores] == [scores[0]["confusion"]] * 2
