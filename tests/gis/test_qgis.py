"""The project of a run, opened by Debian's QGIS: its layers, its legends and every pixel that it draws."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from affine import Affine
from PIL import Image

import geoseg
from geoseg.sink.qgis import write_project
from geoseg.sink.vector import write_features
from geoseg.spec import ClassInfo
from geoseg.testing import write_scene
from tests.debian import ask, call_desktop
from tests.pairs import read

pytestmark = pytest.mark.system

STEP = 6
"""Screen pixels per pixel of the map, so that outlines leave the middle of each as it is."""

Picture = npt.NDArray[np.uint8]

_OPEN = """
import json, os, sys
from qgis.core import QgsApplication, QgsMapRendererParallelJob, QgsMapSettings, QgsProject, QgsRasterLayer
from qgis.PyQt.QtCore import QSize, Qt

def describe(node):
    layer = node.layer()
    facts = {"name": node.name(), "shown": node.isVisible(), "valid": layer.isValid(), "source": layer.source()}
    if isinstance(layer, QgsRasterLayer):
        entries = [(label, color.name()) for label, color in layer.renderer().legendSymbologyItems()]
    else:
        entries = [(entry.label(), entry.symbol().color().name()) for entry in layer.renderer().legendSymbolItems()]
    return {**facts, "crs": name_of(layer.crs()), "renderer": layer.renderer().type(), "legend": entries}

def name_of(crs):
    return crs.authid() or crs.toProj()

def draw(layers, path):
    settings = QgsMapSettings()
    settings.setDestinationCrs(project.crs())
    settings.setLayers(layers)
    settings.setExtent(grid.extent())
    settings.setOutputSize(QSize(grid.width() * step, grid.height() * step))
    settings.setBackgroundColor(Qt.transparent)
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    told.extend(error.message for error in job.errors())
    job.renderedImage().save(path)

application = QgsApplication([], False)
application.initQgis()
told, step = [], int(sys.argv[3])
application.messageLog().messageReceived.connect(lambda text, tag, level: level and told.append(f"{tag}: {text}"))
project = QgsProject.instance()
project.read(sys.argv[1])
nodes = project.layerTreeRoot().findLayers()
grid = nodes[-1].layer()
draw([node.layer() for node in nodes if node.isVisible()], f"{sys.argv[2]}/map.png")
for node in nodes:
    draw([node.layer()], f"{sys.argv[2]}/{node.name()}.png")
facts = {"title": project.title(), "crs": name_of(project.crs()), "layers": [describe(node) for node in nodes]}
print(json.dumps({**facts, "told": told}), flush=True)
os._exit(0)
"""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A run as QGIS shows it."""

    run: Path
    item: dict[str, Any]
    facts: dict[str, Any]
    folder: Path

    @property
    def kind(self) -> str:
        """Asset of the classes."""
        return "change" if "change" in self.item["assets"] else "labels"

    @property
    def classes(self) -> list[dict[str, Any]]:
        """As the item lists them."""
        listed: list[dict[str, Any]] = self.item["assets"][self.kind]["bands"][0]["classification:classes"]
        return listed

    @property
    def legend(self) -> list[list[str]]:
        """As people shall see it."""
        return [[entry["title"], f"#{entry['color_hint'].lower()}"] for entry in self.classes]

    def picture(self, name: str) -> Picture:
        """(row, col, RGBA) of one layer, or of the ``map``."""
        with Image.open(self.folder / f"{name}.png") as file:
            return np.asarray(file.convert("RGBA"))

    def colors(self) -> Picture:
        """(row, col, RGBA) that the pixels of the label raster shall have; nothing where there is no class."""
        colors = np.zeros((256, 4), np.uint8)
        for entry in self.classes:
            colors[entry["value"]] = [*bytes.fromhex(entry["color_hint"]), 255]
        return np.asarray(colors[read(self.run / f"{self.kind}.tif")])


def show(run: Path, folder: Path) -> Shown:
    """Opens the project in `run` and draws it into `folder`."""
    facts = ask(_OPEN, run / "run.qgs", folder, STEP, module="qgis.core")
    return Shown(run=run, item=json.loads((run / "item.json").read_text()), facts=facts, folder=folder)


@pytest.fixture(scope="module", params=["run", "change_run"])
def shown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """Both runs, each in another folder than it was made in."""
    folder = tmp_path_factory.mktemp("qgis")
    run = shutil.copytree(request.getfixturevalue(request.param), folder / "moved é & b")
    return show(run, folder)


def middles(picture: Picture) -> Picture:
    """The middle of each pixel of the map."""
    return picture[STEP // 2 :: STEP, STEP // 2 :: STEP]


def test_layers_are_valid_in_order_and_beside_the_project(shown: Shown) -> None:
    assert (shown.facts["title"], shown.facts["told"]) == (shown.item["properties"]["title"], [])
    is_change = shown.kind == "change"
    files = [("change_probability" if is_change else "confidence") + ".tif"]
    files += ["polygons.geojson" if is_change else "polygons.gpkg|layername=polygons", f"{shown.kind}.tif"]
    found = shown.facts["layers"]
    assert [Path(layer["source"]) for layer in found] == [shown.run / file for file in files]
    assert all(layer["valid"] for layer in found)
    assert [layer["shown"] for layer in found] == [False, True, True]
    with rasterio.open(shown.run / files[-1]) as raster:
        code = raster.crs.to_string()
    assert shown.facts["crs"] == code
    assert [layer["crs"] for layer in found] == [code, "EPSG:4326" if is_change else code, code]


def test_legends_are_exactly_the_classes(shown: Shown) -> None:
    probability, polygons, labels = shown.facts["layers"]
    assert (labels["renderer"], labels["legend"]) == ("paletted", shown.legend)
    assert polygons["renderer"] == "categorizedSymbol"
    assert polygons["legend"] == shown.legend[shown.kind == "change" :]  # what did not change has no polygon
    assert (probability["renderer"], probability["legend"]) == ("singlebandgray", [["0", "#000000"], ["1", "#ffffff"]])


def test_every_pixel_has_the_color_of_its_class(shown: Shown) -> None:
    colors = shown.colors()
    labels = shown.picture(shown.facts["layers"][-1]["name"])
    np.testing.assert_array_equal(labels, colors.repeat(STEP, axis=0).repeat(STEP, axis=1))
    np.testing.assert_array_equal(middles(shown.picture("map")), colors)
    if shown.kind == "change":
        colors[read(shown.run / "change.tif") == 0] = 0
    np.testing.assert_array_equal(middles(shown.picture("Polygons")), colors)


def test_outlines_stand_where_classes_meet_and_nowhere_else(shown: Shown) -> None:
    labels, drawn = read(shown.run / f"{shown.kind}.tif"), shown.picture("map")[STEP // 2 :: STEP, :, :3].astype(int)
    left, right = (drawn[:, STEP - 1 + side : -1 : STEP][:, : labels.shape[1] - 1] for side in (0, 1))
    fill = shown.colors()[:, :, :3].astype(int)
    darker = (left - fill[:, :-1]).sum(axis=2) + (right - fill[:, 1:]).sum(axis=2)
    drawable = labels != 255
    both = drawable[:, :-1] & drawable[:, 1:]
    meet = labels[:, :-1] != labels[:, 1:]
    assert (both & meet).sum() > 500
    assert (darker[both & meet] < 0).all()
    assert (darker[both & ~meet] == 0).all()


def test_the_probability_is_grey_from_0_to_1(shown: Shown) -> None:
    name = shown.facts["layers"][0]["name"]
    stored = read(shown.run / ("change_probability.tif" if shown.kind == "change" else "confidence.tif"))
    drawn = middles(shown.picture(name)).astype(float)
    usable = stored != 255
    assert 0.2 < usable.mean() < 1
    np.testing.assert_array_equal(drawn[~usable], 0)
    np.testing.assert_allclose(drawn[usable][:, 0], stored[usable] * 0.004 * 255, atol=1)
    np.testing.assert_array_equal(drawn[usable][:, :3], drawn[usable][:, :1].repeat(3, axis=1))


def test_a_look_leaves_the_files_as_they_are(shown: Shown, request: pytest.FixtureRequest) -> None:
    made = request.getfixturevalue("run" if shown.kind == "labels" else "change_run")
    for folder in (made, shown.run):
        assert {path.name for path in folder.iterdir()} - {".run"} == {
            *(Path(asset["href"]).name for asset in shown.item["assets"].values()), "item.json", "run.json", "run.qgs"
        }  # fmt: skip
    for asset in shown.item["assets"].values():
        content = (shown.run / asset["href"]).read_bytes()
        assert asset["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("vector", [("fgb", "geojson"), ()])
def test_what_a_run_has_is_what_a_project_shows(vector: tuple[str, ...], tmp_path: Path) -> None:
    """On a grid in a CRS that no authority has numbered."""
    scene = tmp_path / "scene.tif"
    write_scene(scene, 48, 60)
    with rasterio.open(scene, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.crs = "+proj=laea +lat_0=47.3 +lon_0=10.7 +x_0=1000 +y_0=0 +datum=WGS84 +units=m +no_defs"
        file.transform = Affine(10, 0, 700, 0, -10, 400)
    geoseg.segment(scene, out=tmp_path / "map", vector=vector, confidence=False)
    write_project(tmp_path / "map")
    shown = show(tmp_path / "map", tmp_path)
    expected = ["polygons.fgb", "labels.tif"] if vector else ["labels.tif"]
    assert [Path(layer["source"]).name for layer in shown.facts["layers"]] == expected
    for system in [shown.facts["crs"], *(layer["crs"] for layer in shown.facts["layers"])]:
        assert "+proj=laea +lat_0=47.3 +lon_0=10.7 +x_0=1000" in system
    np.testing.assert_array_equal(middles(shown.picture("map")), shown.colors())


_OPEN_ALONE = """
import json, os, sys
from qgis.core import QgsApplication, QgsVectorLayer
application = QgsApplication([], False)
application.initQgis()
layer = QgsVectorLayer(sys.argv[1], "polygons")
entries = [(entry.label(), entry.symbol().color().name()) for entry in layer.renderer().legendSymbolItems()]
matched = sum(layer.renderer().categoryIndexForValue(each["class_id"]) >= 0 for each in layer.getFeatures())
print(json.dumps({"valid": layer.isValid(), "legend": entries, "matched": matched}), flush=True)
os._exit(0)
"""


def test_a_geopackage_brings_its_style(run: Path, tmp_path: Path) -> None:
    frame = geopandas.read_parquet(run / "polygons.parquet").drop(columns=["id", "bbox"], errors="ignore")
    classes = [
        ClassInfo(value=value, name=str(value), title=f"<{value}> &", color=f"{value}0{value}0ff")
        for value in range(1, 6)
    ]
    (path,) = write_features(frame, tmp_path, ["gpkg"], classes=classes)
    before = path.read_bytes()
    found = ask(_OPEN_ALONE, path, module="qgis.core")
    assert found["valid"]
    assert found["legend"] == [[info.title, f"#{info.color}"] for info in classes]
    assert found["matched"] == len(frame)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_desktop_opens_the_project_where_the_map_is(run: Path, tmp_path: Path) -> None:
    labels = read(run / "labels.tif")
    picture, (height, width) = tmp_path / "desktop.png", (4 * side for side in labels.shape)
    said = call_desktop(
        [
            "xvfb-run", "--auto-servernum", "--server-args=-screen 0 1600x1200x24", "qgis", "--nologo", "--noplugins",
            "--snapshot", picture, "--width", str(width), "--height", str(height), "--project", run / "run.qgs",
        ],
        tmp_path,
    )  # fmt: skip
    assert picture.exists(), said
    with Image.open(picture) as file:
        drawn = np.asarray(file.convert("RGB"))
    item = json.loads((run / "item.json").read_text())
    colors = Shown(run=run, item=item, facts={}, folder=tmp_path).colors()[:, :, :3]
    assert drawn.shape == (height, width, 3)
    is_map = (drawn != 255).any(axis=2)
    for side in (
        is_map[:4],
        is_map[-4:],
        is_map[:, :4],
        is_map[:, -4:],
    ):  # the map fills the window, to one pixel of it
        assert side.any()
    assert (drawn[2::4, 2::4] == colors).all(axis=2)[labels != 255].mean() > 0.9
