"""The map of one window: the tiles of the scene's own lattice that touch it, blended and decided as in any run.

The lattice is that of the whole scene, so a window shows the very pixels of the map that a run with the same settings
makes of the scene: nothing is lost at its rim, and two windows agree where they overlap.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geoseg.assembly import cog_sink
from geoseg.blend import axis_weights
from geoseg.decide import Layers, layers_of
from geoseg.grid import Axis, Chunk, ChunkGrid, TileGrid
from geoseg.options import SegmentOptions
from geoseg.picture import color_classes, encode_png, north_up
from geoseg.plan import tiling_for
from geoseg.protocols import Source
from geoseg.scene import Scene
from geoseg.serve.batching import Turn
from geoseg.serve.nets import ModelInTurn, Net
from geoseg.sink.vector import write_features
from geoseg.source.labels import RasterLabels
from geoseg.spec import ModelSpec
from geoseg.stream import stream_chunk
from geoseg.types import Pixels
from geoseg.vectors import Drawing, map_features
from geoseg.window import GeoBox, Window, crop_geobox, whole

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FILES", "WindowMap", "chunk_of", "map_window"]

_BLEND = SegmentOptions().blend
_LANES = 16
"""Tiles of one window that are in the queue at once, at most."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WindowMap:
    """What was made of a window."""

    scene: Scene[Source]
    """The scene."""
    spec: ModelSpec
    """The model's card."""
    geobox: GeoBox
    """Where the window lies."""
    layers: Layers
    """How the numbers are to be read."""
    rasters: Mapping[str, Pixels]
    """Raster name -> (band, row, col)."""


def chunk_of(scene: Scene[Source], spec: ModelSpec, window: Window) -> Chunk:
    """The tiles that a window needs, all of them in one chunk.

    Raises:
        GridError: The scene has no pixels to tile.
    """
    tile, overlap = tiling_for(spec, None, None)
    extent = whole(scene.geobox)
    grid = TileGrid(height=extent.height, width=extent.width, tile=tile, overlap=overlap)
    chunk = ChunkGrid(grid=grid, crop=window, rows_per_chunk=len(grid), cols_per_chunk=len(grid))[0]
    rows = _weighty(grid.rows, window.row_off, window.row_stop)
    cols = _weighty(grid.cols, window.col_off, window.col_stop)
    return replace(chunk, tile_rows=rows, tile_cols=cols)


def _weighty(axis: Axis, start: int, stop: int) -> tuple[int, int]:
    """First and stop of the tiles that have a say in pixels [start, stop): at a tile's rim a taper may weigh nothing.

    >>> axis = Axis(length=1000, tile=512, overlap=128)
    >>> _weighty(axis, 450, 512), _weighty(axis, 470, 512)
    ((0, 2), (1, 2))
    """
    touching = axis.covering(start, stop)

    def has_say(index: int) -> bool:
        first = index * axis.stride
        weights = axis_weights(axis, index, _BLEND)[max(0, start - first) : stop - first]
        return bool(weights.any())

    said = [index for index in touching if has_say(index)]
    return said[0], said[-1] + 1


def map_window(
    scene: Scene[Source], chunk: Chunk, net: Net, turn: Turn[Tensor, Tensor], *, confidence: bool
) -> WindowMap:
    """Labels of the chunk's crop, and on request the probability of each pixel's label.

    Args:
        scene: What is mapped.
        chunk: From `chunk_of`.
        net: The model.
        turn: The request's place in the model's queue, for as many tiles as the chunk has.
        confidence: Whether that raster is made.

    Raises:
        SourceError: The source cannot be read.
        ModelError: The net gave something that is no score.
        CancelledError: The turn ended.
    """
    layers, window = layers_of(net.spec, confidence=confidence), chunk.crop
    rasters = {name: np.empty((count, *window.shape), layers.dtype(name)) for name, count in layers.counts.items()}

    def write(part: Window, decided: Mapping[str, Pixels]) -> None:
        for name, bands in decided.items():
            rasters[name][:, *part.within(window).slices] = bands

    columns = chunk.tile_cols[1] - chunk.tile_cols[0]
    stream_chunk(
        chunk,
        source=scene.source,
        model=ModelInTurn(net.spec, turn),
        blend=_BLEND,
        layers=layers,
        settings=replace(net.settings, batch=1, lanes=min(2 * columns, _LANES)),  # lanes only wait for the queue
        write=write,
    )
    geobox = crop_geobox(scene.geobox, window)
    return WindowMap(scene=scene, spec=net.spec, geobox=geobox, layers=layers, rasters=rasters)


def _tiff(made: WindowMap) -> bytes:
    """The labels as a run's ``labels.tif``, of this window."""
    with tempfile.TemporaryDirectory(prefix="geoseg-window-") as folder:
        return _written(made, made.layers.label, Path(folder)).read_bytes()


def _written(made: WindowMap, raster: str, folder: Path) -> Path:
    pixels = made.rasters[raster]
    sink = cog_sink(made.layers, made.spec, made.geobox, raster, folder)
    (path,) = sink.pull(lambda window: pixels[:, *window.slices])
    return path


def _png(made: WindowMap) -> bytes:
    """The labels in the colours of their classes, one pixel each, north up; transparent where there is none."""
    colors = [(info.value, info.color) for info in made.spec.classes]
    (labels,) = made.rasters[made.layers.label]
    picture = color_classes(labels, colors, {made.layers.label_nodata})
    return encode_png(north_up(picture, made.geobox.transform))


def _geojson(made: WindowMap) -> bytes:
    """Polygons as a run's ``polygons.geojson``, of this window; those that its rim cuts end there."""
    with tempfile.TemporaryDirectory(prefix="geoseg-window-") as name:
        folder = Path(name)
        labels, confidence = (_written(made, raster, folder) for raster in made.layers.counts)
        frames = map_features(
            RasterLabels(labels),
            drawing=Drawing(scratch=folder, threads=1),
            classes=made.spec.classes,
            confidence=confidence,
            scene=made.scene.id,
            datetime=made.scene.datetime,
            model=made.spec.name,
        )
        (path,) = write_features(frames, folder, ("geojson",))
        return path.read_bytes()


FILES: Mapping[str, Callable[[WindowMap], bytes]] = {
    "image/tiff": _tiff,
    "image/png": _png,
    "application/geo+json": _geojson,
}
"""What makes a file of a window's map, by media type."""
