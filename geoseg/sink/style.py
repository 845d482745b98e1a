"""What desktop programs read beside ``labels.tif``: class names for GDAL, names and colours for QGIS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from geoseg.sink.markup import add
from geoseg.sink.parts import durable
from geoseg.spec import ClassInfo

__all__ = ["write_label_sidecars"]


def write_label_sidecars(labels_path: Path, classes: Sequence[ClassInfo], nodata: int) -> list[Path]:
    """Writes ``labels.tif.aux.xml`` (category names) and ``labels.qml`` (legend) beside `labels_path`; returns both.

    The legend holds exactly `classes`, in their order; `nodata` has no entry in either file.

    Raises:
        SinkError: A file cannot be written.
    """
    labels_path = Path(labels_path)
    listed = [info for info in classes if info.value != nodata]
    files = {
        labels_path.with_name(labels_path.name + ".aux.xml"): ET.tostring(_categories(listed)),
        labels_path.with_suffix(".qml"): _QML_DOCTYPE + ET.tostring(_legend(listed)),
    }
    for path, content in files.items():
        with durable(path, len(content)) as unfinished:
            unfinished.write_bytes(content)
    return list(files)


_QML_DOCTYPE = b"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"


def _categories(classes: Sequence[ClassInfo]) -> ET.Element:
    """GDAL's auxiliary metadata: one name for each value from 0 on, empty where there is no class."""
    root = ET.Element("PAMDataset")
    names = add(add(root, "PAMRasterBand", band=1), "CategoryNames")
    titles = {info.value: info.title or info.name for info in classes}
    for value in range(max(titles, default=-1) + 1):
        add(names, "Category", titles.get(value, ""))
    ET.indent(root)
    return root


def _legend(classes: Sequence[ClassInfo]) -> ET.Element:
    """A QGIS layer style: paletted renderer of band 1."""
    root = ET.Element("qgis", version="3.22.0", styleCategories="Symbology")
    renderer = add(
        add(root, "pipe"), "rasterrenderer", type="paletted", band=1, opacity=1, alphaBand=-1, nodataColor=""
    )
    palette = add(renderer, "colorPalette")
    for info in classes:
        color = f"#{info.color.lower()}"
        add(palette, "paletteEntry", value=info.value, color=color, alpha=255, label=info.title or info.name)
    ET.indent(root)
    return root
