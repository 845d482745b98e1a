"""The pages on QGIS and PostGIS: every command and every query on them is run, in their order."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from geoseg.testing import write_scene
from tests.databases import Server
from tests.debian import call_desktop
from tests.test_house import CHECKOUT

pytestmark = pytest.mark.system

TABLES = ("polygons", "loaded")
"""Of the page on PostGIS: filled by geoseg, and by GDAL."""

BLOCK = re.compile(r"^```(console|sql|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def steps(page: str) -> list[tuple[str, str]]:
    """Language and text of each block of a page, console blocks line by line."""
    found = []
    for language, text in BLOCK.findall((CHECKOUT / "docs" / "how-to" / page).read_text()):
        lines = [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]
        found += [(language, line) for line in lines] if language == "console" else [(language, text)]
    return found


def needs(*programs: str) -> None:
    """Skips where a program is missing."""
    missing = [name for name in programs if not shutil.which(name)]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not installed; make test-all installs what is missing")


def call(words: list[str], folder: Path, **environment: str) -> str:
    """What a program prints."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        words,
        cwd=folder,
        env=os.environ | {"PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working directory with a scene."""
    write_scene(tmp_path / "scene.tif", 96, 80)
    return tmp_path


def test_the_page_on_postgis(place: Path, server: Server) -> None:
    needs("ogr2ogr", "createdb")
    answers = []
    try:
        for language, text in steps("postgis.md"):
            if language == "console":
                call(shlex.split(text), place, **server.environment())
            else:
                answers.append(server.psql(text, "maps"))
        one, other = (server.psql(f"SELECT count(*), round(sum(area_m2)) FROM {table}", "maps") for table in TABLES)
    finally:
        server.psql("DROP DATABASE IF EXISTS maps WITH (FORCE)")
    assert one == other
    areas, ratios, inside_box, inside_circle, borders = answers
    assert areas[0][0] == "vegetation"
    assert all(abs(float(ratio) - 1) < 1e-5 for _, ratio in ratios)
    assert 0 < sum(int(count) for _, count in inside_box) < sum(int(count) for _, count, _ in areas)
    assert sum(float(area) for _, area in inside_circle) == pytest.approx(3.14159 * 200**2, rel=0.01)
    assert all(float(length) > 0 for *_, length in borders)


def test_the_page_on_qgis(place: Path) -> None:
    for language, text in steps("qgis.md"):
        words = shlex.split(text)
        assert language == "console"
        if words[0] == "xvfb-run":
            said = call_desktop(words, place)
            assert (place / "map.png").exists(), said
        elif words[0] == "qgis":  # what opens a window is looked at by the snapshot
            assert (place / words[1]).exists()
        else:
            call(words, place)
    with Image.open(place / "map.png") as file:
        assert file.size == (1200, 1000)
