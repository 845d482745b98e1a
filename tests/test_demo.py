"""The demo does what it says, on a small scene."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import rasterio

from geoseg.testing import write_scene
from pipelines import demo

SIZE = 600


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_scene(folder / f"scene-{SIZE}.tif", SIZE, SIZE)
    return folder


def test_the_demo_maps_its_scene_and_says_what_came_out(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo.main(["--size", str(SIZE), "--out", str(place)])
    printed = capsys.readouterr()
    assert "the scene is there already" in printed.err
    table, places = printed.out.split("\ntime"), dict(re.findall(r"^(\w+) +(/\S.*)$", printed.out, re.MULTILINE))
    pixels = [int(count.replace(",", "")) for count in re.findall(r" ([\d,]+) +[\d.]+%", table[0])]
    assert sum(pixels) == SIZE * SIZE
    assert sum(count > 0 for count in pixels) >= 5
    for name in ("map", "preview", "item"):
        assert Path(places[name]).is_file()
    assert all(Path(path).is_file() for path in places["polygons"].split(" "))
    assert all(word in table[1] for word in ("Mpx/s", "MB at most", "forward passes"))
    with rasterio.open(places["map"]) as labels:
        assert labels.shape == (SIZE, SIZE)


def test_a_scene_is_made_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made = demo.make_scene(tmp_path / "scene.tif", 64)
    before = made.stat().st_mtime_ns
    assert demo.make_scene(made, 64).stat().st_mtime_ns == before
    assert "made in" in capsys.readouterr().err
