"""A QGIS project beside the files of a run: its map, polygons and confidence, in the colours of the classes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pyproj
import pyproj.exceptions

from geoseg.errors import SourceError
from geoseg.sink.markup import add
from geoseg.sink.parts import durable
from geoseg.sink.style import QGIS_DOCTYPE, QGIS_VERSION, add_palette, add_polygon_renderer
from geoseg.spec import ClassInfo

__all__ = ["PROJECT", "write_project"]

PROJECT = "run.qgs"
"""Name of the project in the run's directory."""

_VECTORS = ("polygons.gpkg", "polygons.fgb", "polygons.geojson")
"""Files of polygons, the best first; not GeoParquet, which few builds of QGIS read."""

_MAPS = {"labels": "confidence", "change": "change_probability"}
"""Raster of classes -> how probable they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What the project shows of a run."""

    title: str
    """What was made of what."""
    map: str
    """Asset of the raster of classes."""
    classes: tuple[ClassInfo, ...]
    """Its classes."""
    files: frozenset[str]
    """Names of all files."""
    crs: pyproj.CRS
    """Of the rasters."""
    extent: tuple[float, ...]
    """x and y of the lower left corner, then of the upper right one."""


def write_project(directory: str | Path) -> Path:
    """Writes ``run.qgs`` into the directory of a finished run, and returns its path.

    Its layers, from the top: the confidence in grey, switched off; the polygons (GeoPackage, else FlatGeobuf, else
    GeoJSON) and the label raster, both in the colours of the classes. Of a run on two dates: the probability of change,
    the polygons of what changed, and the map of it. CRS and extent are those of the map; paths are relative, so that
    the directory can be moved.

    Raises:
        SourceError: No finished run stands in `directory`.
        SinkError: The project cannot be written.
    """
    path = Path(directory) / PROJECT
    content = QGIS_DOCTYPE + ET.tostring(_project(_read_run(Path(directory) / "item.json")))
    with durable(path, len(content)) as unfinished:
        unfinished.write_bytes(content)
    return path


def _read_run(path: Path) -> _Run:
    """What the STAC item at `path` says.

    Raises:
        SourceError: There is none, or it describes no run.
    """
    try:
        item = json.loads(path.read_text(encoding="utf-8"))
        assets, properties = item["assets"], item["properties"]
        (name,) = _MAPS.keys() & assets.keys()
        (band,) = assets[name]["bands"]
        return _Run(
            title=properties["title"],
            map=name,
            classes=tuple(_class(entry) for entry in band["classification:classes"]),
            files=frozenset(Path(asset["href"]).name for asset in assets.values()),
            crs=pyproj.CRS(properties["proj:code"] or properties["proj:wkt2"]),
            extent=tuple(float(number) for number in properties["proj:bbox"]),
        )
    except (OSError, ValueError, LookupError, TypeError, pyproj.exceptions.ProjError) as error:
        raise SourceError(f"{path}: not the item of a finished run ({error!r}); name the directory of one") from error


def _class(entry: Mapping[str, Any]) -> ClassInfo:
    return ClassInfo(value=entry["value"], name=entry["name"], title=entry["title"], color=entry["color_hint"])


def _project(run: _Run) -> ET.Element:
    """The document, made of nothing but what QGIS cannot do without."""
    root = ET.Element("qgis", version=QGIS_VERSION)
    add(root, "title", run.title)
    _add_crs(add(root, "projectCrs"), run.crs)
    tree = add(root, "layer-tree-group")
    canvas = add(root, "mapcanvas", name="theMapCanvas")
    extent = add(canvas, "extent")
    for side, number in zip(("xmin", "ymin", "xmax", "ymax"), run.extent, strict=True):
        add(extent, side, repr(number))
    _add_crs(add(canvas, "destinationsrs"), run.crs)
    layers = add(root, "projectlayers")
    for layer, shown in _layers(run):
        layers.append(layer)
        names = {"id": layer.findtext("id", ""), "name": layer.findtext("layername", "")}
        add(tree, "layer-tree-layer", **names, checked="Qt::Checked" if shown else "Qt::Unchecked", expanded=int(shown))
    properties = add(root, "properties")
    add(add(properties, "SpatialRefSys"), "ProjectionsEnabled", "1", type="int")
    add(add(properties, "Paths"), "Absolute", "false", type="bool")
    ET.indent(root)
    return root


def _layers(run: _Run) -> Iterator[tuple[ET.Element, bool]]:
    """The layers from the top, each with whether it is switched on."""
    is_change = run.map == "change"
    probability = f"{_MAPS[run.map]}.tif"
    if probability in run.files:
        layer = _layer(probability, "Probability of change" if is_change else "Confidence", run.crs)
        _add_greys(add(layer, "pipe"))
        yield layer, False
    for file in [name for name in _VECTORS if name in run.files][:1]:
        layer = _layer(file, "Polygons", pyproj.CRS("EPSG:4326") if file.endswith("json") else run.crs)
        add_polygon_renderer(layer, [info for info in run.classes if info.value or not is_change])
        yield layer, True
    layer = _layer(f"{run.map}.tif", "Change" if is_change else "Classes", run.crs)
    add_palette(add(layer, "pipe"), run.classes)
    yield layer, True


def _layer(file: str, title: str, crs: pyproj.CRS) -> ET.Element:
    """A layer that is not yet told how to draw itself."""
    is_raster = file.endswith(".tif")
    layer = ET.Element("maplayer", {"type": "raster"} if is_raster else {"type": "vector", "geometry": "Polygon"})
    add(layer, "id", f"geoseg_{Path(file).stem}")  # QGIS takes no id of ten letters or less
    add(layer, "datasource", f"./{file}" + ("|layername=polygons" if file.endswith(".gpkg") else ""))
    add(layer, "layername", title)
    _add_crs(add(layer, "srs"), crs)
    add(layer, "provider", "gdal" if is_raster else "ogr", encoding="UTF-8")
    return layer


def _add_greys(pipe: ET.Element) -> None:
    """From black at 0 to white at 1, whatever the values that occur."""
    renderer = add(
        pipe,
        "rasterrenderer",
        type="singlebandgray",
        grayBand=1,
        gradient="BlackToWhite",
        opacity=1,
        alphaBand=-1,
        nodataColor="",
    )
    stretch = add(renderer, "contrastEnhancement")
    add(stretch, "minValue", "0")
    add(stretch, "maxValue", "1")
    add(stretch, "algorithm", "StretchToMinimumMaximum")


def _add_crs(parent: ET.Element, crs: pyproj.CRS) -> None:
    system = add(parent, "spatialrefsys")
    add(system, "wkt", crs.to_wkt())
    if authority := crs.to_authority(min_confidence=100):
        add(system, "authid", ":".join(authority))
