"""What desktop programs read beside a run's files: class names for GDAL, names and colours for QGIS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from geoseg.sink.markup import add
from geoseg.sink.parts import durable
from geoseg.spec import ClassInfo

__all__ = [
    "QGIS_DOCTYPE",
    "QGIS_VERSION",
    "add_palette",
    "add_polygon_renderer",
    "polygon_style",
    "write_label_sidecars",
]

QGIS_VERSION = "3.22.0"
"""What the styles are written for; later ones read them."""

QGIS_DOCTYPE = b"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
"""First line of every style and project."""

_OUTLINE = 0.1
"""Width of a polygon's outline, in millimetres."""

_SHADE = 0.6
"""Brightness of the outline, as a part of the fill's."""


def write_label_sidecars(labels_path: Path, classes: Sequence[ClassInfo], nodata: int) -> list[Path]:
    """Writes ``labels.tif.aux.xml`` (category names) and ``labels.qml`` (legend) beside `labels_path`; returns both.

    The legend holds exactly `classes`, in their order; `nodata` has no entry in either file.

    Raises:
        SinkError: A file cannot be written.
    """
    labels_path = Path(labels_path)
    listed = [info for info in classes if info.value != nodata]
    legend = _style()
    add_palette(add(legend, "pipe"), listed)
    files = {
        labels_path.with_name(labels_path.name + ".aux.xml"): ET.tostring(_categories(listed)),
        labels_path.with_suffix(".qml"): _document(legend),
    }
    for path, content in files.items():
        with durable(path, len(content)) as unfinished:
            unfinished.write_bytes(content)
    return list(files)


def polygon_style(classes: Sequence[ClassInfo]) -> str:
    """A QGIS layer style (QML) for polygons with a column ``class_id``: the legend holds exactly `classes`."""
    style = _style()
    add_polygon_renderer(style, classes)
    return _document(style).decode("ascii")


def add_palette(pipe: ET.Element, classes: Sequence[ClassInfo]) -> None:
    """Adds a renderer to the `pipe` of a raster layer: one colour per value of the first band."""
    renderer = add(pipe, "rasterrenderer", type="paletted", band=1, opacity=1, alphaBand=-1, nodataColor="")
    palette = add(renderer, "colorPalette")
    for info in classes:
        color = f"#{info.color.lower()}"
        add(palette, "paletteEntry", value=info.value, color=color, alpha=255, label=info.title or info.name)


def add_polygon_renderer(layer: ET.Element, classes: Sequence[ClassInfo]) -> None:
    """Adds a renderer to a vector `layer`: filled by ``class_id``, with a thin outline in a darker shade.

    The number decides and not the name, because a name may hold what XML cannot.
    """
    renderer = add(layer, "renderer-v2", type="categorizedSymbol", attr="class_id", symbollevels=0, forceraster=0)
    categories, symbols = add(renderer, "categories"), add(renderer, "symbols")
    for place, info in enumerate(classes):
        label = info.title or info.name
        add(categories, "category", value=info.value, type="long", symbol=place, label=label, render="true")
        _add_fill(add(symbols, "symbol", type="fill", name=place, alpha=1, clip_to_extent=1), info.color)


def _add_fill(symbol: ET.Element, color: str) -> None:
    red, green, blue = bytes.fromhex(color)
    shade = [round(_SHADE * part) for part in (red, green, blue)]
    options = {
        "style": "solid",
        "color": f"{red},{green},{blue},255",
        "outline_style": "solid",
        "outline_color": "{},{},{},255".format(*shade),
        "outline_width": str(_OUTLINE),
        "outline_width_unit": "MM",
        "joinstyle": "bevel",
    }
    values = add(add(symbol, "layer", **{"class": "SimpleFill"}, enabled=1, locked=0), "Option", type="Map")
    for name, value in options.items():
        add(values, "Option", type="QString", name=name, value=value)


def _style() -> ET.Element:
    """An empty QGIS layer style."""
    return ET.Element("qgis", version=QGIS_VERSION, styleCategories="Symbology")


def _document(root: ET.Element) -> bytes:
    """A QGIS style as the bytes of its file."""
    ET.indent(root)
    return QGIS_DOCTYPE + ET.tostring(root)


def _categories(classes: Sequence[ClassInfo]) -> ET.Element:
    """GDAL's auxiliary metadata: one name for each value from 0 on, empty where there is no class."""
    root = ET.Element("PAMDataset")
    names = add(add(root, "PAMRasterBand", band=1), "CategoryNames")
    titles = {info.value: info.title or info.name for info in classes}
    for value in range(max(titles, default=-1) + 1):
        add(names, "Category", titles.get(value, ""))
    ET.indent(root)
    return root
