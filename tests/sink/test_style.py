"""The files beside ``labels.tif``: read as XML here, and by QGIS and GDAL themselves where Debian's packages are."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from affine import Affine

from geoseg.errors import SinkError
from geoseg.sink.cog import CogSink
from geoseg.sink.style import write_label_sidecars
from geoseg.spec import ClassInfo
from geoseg.window import GeoBox, whole
from tests.debian import ask

CLASSES = (
    ClassInfo(value=4, name="bare", title="Bare <soil> & rock", color="B15928"),
    ClassInfo(value=1, name="water", title="Wasserfläche 水", color="1F78B4"),
    ClassInfo(value=2, name="plants", color="33a02c"),
)
LEGEND = [(4, "Bare <soil> & rock", "#b15928"), (1, "Wasserfläche 水", "#1f78b4"), (2, "plants", "#33a02c")]
CATEGORIES = ["", "Wasserfläche 水", "plants", "", "Bare <soil> & rock"]


def test_the_legend_is_exactly_the_classes(tmp_path: Path) -> None:
    aux, qml = write_label_sidecars(tmp_path / "labels.tif", CLASSES, 255)
    assert (aux.name, qml.name) == ("labels.tif.aux.xml", "labels.qml")
    assert sorted(tmp_path.iterdir()) == [qml, aux]
    entries = ET.parse(qml).findall("./pipe/rasterrenderer[@type='paletted']/colorPalette/paletteEntry")
    assert [(int(e.attrib["value"]), e.attrib["label"], e.attrib["color"]) for e in entries] == LEGEND
    assert [e.text or "" for e in ET.parse(aux).iterfind("./PAMRasterBand[@band='1']/CategoryNames/")] == CATEGORIES


def test_nodata_is_no_class(tmp_path: Path) -> None:
    aux, qml = write_label_sidecars(tmp_path / "labels.tif", [*CLASSES, ClassInfo(value=255, name="none")], 255)
    assert "255" not in re.findall(r'value="(\d+)"', qml.read_text())
    assert len(ET.parse(aux).findall(".//Category")) == len(CATEGORIES)


def test_letters_that_xml_cannot_hold(tmp_path: Path) -> None:
    aux, qml = write_label_sidecars(tmp_path / "labels.tif", [ClassInfo(value=0, name="a\x00b\x1bc\ud800d")], 255)
    assert [e.text for e in ET.parse(aux).iter("Category")] == ["a\ufffdb\ufffdc\ufffdd"]
    assert [e.attrib["label"] for e in ET.parse(qml).iter("paletteEntry")] == ["a\ufffdb\ufffdc\ufffdd"]


def test_same_bytes_again(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_label_sidecars(tmp_path / "labels.tif", CLASSES, 255)]
    assert [path.read_bytes() for path in write_label_sidecars(tmp_path / "labels.tif", CLASSES, 255)] == first


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"labels\.tif\.aux\.xml"):
        write_label_sidecars(tmp_path / "missing" / "labels.tif", CLASSES, 255)


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished label raster with its sidecars: one row per value, nodata last."""
    folder = tmp_path_factory.mktemp("labels")
    geobox = GeoBox((4, 8), Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32632")
    colors = {info.value: info.color for info in CLASSES}
    sink = CogSink(folder / "labels.tif", geobox=geobox, dtype="uint8", nodata=255, colors=colors, workdir=folder)
    sink.write(whole(geobox), np.repeat(np.array([1, 2, 4, 255], np.uint8), 8).reshape(1, 4, 8))
    (path,) = sink.close()
    write_label_sidecars(path, CLASSES, 255)
    return path


_QGIS = """
import json, os, sys
from qgis.core import QgsApplication, QgsRasterLayer
application = QgsApplication([], False)
application.initQgis()
layer = QgsRasterLayer(sys.argv[1], "labels")
renderer = layer.renderer()
image = renderer.block(1, layer.extent(), 8, 4)
print(json.dumps({
    "type": renderer.type(),
    "classes": [(c.value, c.label, c.color.name()) for c in renderer.classes()],
    "legend": [(label, color.name()) for label, color in renderer.legendSymbologyItems()],
    "rows": [image.color(row, 3) for row in range(4)],
}), flush=True)
os._exit(0)
"""


@pytest.mark.system
def test_qgis_shows_the_classes_and_nothing_else(labels: Path) -> None:
    shown = ask(_QGIS, labels, module="qgis.core")
    assert shown["type"] == "paletted"
    assert [(int(value), label, color) for value, label, color in shown["classes"]] == LEGEND
    assert [tuple(entry) for entry in shown["legend"]] == [entry[1:] for entry in LEGEND]
    assert shown["rows"] == [0xFF1F78B4, 0xFF33A02C, 0xFFB15928, 0]


_GDAL = """
import json, sys
from osgeo import gdal
gdal.UseExceptions()
dataset = gdal.Open(sys.argv[1])
dataset.GetFileList()
print(json.dumps(dataset.GetRasterBand(1).GetCategoryNames()))
"""


@pytest.mark.system
def test_gdal_knows_the_names(labels: Path) -> None:
    assert ask(_GDAL, labels, module="osgeo.gdal") == CATEGORIES
