"""A label raster to features, however large it is: regions are sieved, split, traced and redrawn, batch by batch.

::

    labels  = sieve(labels, min_area)                          # small regions go to their neighbours
    labels  = split(labels, max_vertices)                      # huge ones are cut along a fixed lattice
    redraw  = partial(simplify, corners=map_corners(labels))   # every shared line by one rule
    regions = trace_regions(labels, redraw=redraw)             # boundaries are walked once, chunk by chunk
    frames  = region_frames(regions)                           # a table with what is known of each
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geoseg.earth import PixelAreas, longest_line
from geoseg.errors import ConfigError, GridError
from geoseg.planes import KNOWN, STEP
from geoseg.polygon_options import PolygonOptions
from geoseg.protocols import LabelReader
from geoseg.scene import Scaling, Scene
from geoseg.source.confidence import confidence_rasters
from geoseg.source.info import inspect
from geoseg.source.labels import RasterLabels
from geoseg.source.statistics import ZonalStatistics, demand_names_apart, parse_statistics
from geoseg.spec import ClassInfo, ModelSpec
from geoseg.tracing.arcs import simplify
from geoseg.tracing.chunks import CHUNK
from geoseg.tracing.corners import Corners, map_corners
from geoseg.tracing.pieces import SplitLabels, split
from geoseg.tracing.regions import RegionBatch, trace_regions
from geoseg.tracing.sieve import sieve
from geoseg.tuning import usable_cores
from geoseg.window import GeoBox

if TYPE_CHECKING:
    import geopandas

    from geoseg.sink.features import Mean
    from geoseg.sink.layer import Layer

__all__ = ["Drawing", "also_into", "change_features", "check_polygons", "map_features", "vectorize"]

_TAKEN = {"confidence_mean", "probability_mean"}
"""Columns of polygons whose names a statistic could bear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """How polygons are made, and with what."""

    options: PolygonOptions = field(default_factory=PolygonOptions)
    """What they shall be like."""
    scratch: Path | None = None
    """Folder for what memory cannot hold; None: where the system keeps temporary files."""
    chunk: int = CHUNK
    """Side of the pieces of work, in pixels; decides nothing else."""
    threads: int | None = None
    """Pieces at work at once; None: one per core."""

    def regions(
        self,
        labels: LabelReader,
        geobox: GeoBox,
        *,
        rasters: Mapping[str, LabelReader],
        hidden: int | None = None,
    ) -> Iterator[RegionBatch]:
        """The regions of `labels` with their polygons in place; those of the class `hidden` are only neighbours.

        Raises:
            GridError: A raster differs from the labels in shape, or the options do not fit the grid.
            SourceError: A raster cannot be read.
            SinkError: There is no room in the scratch folder.
        """
        options, areas = self.options, PixelAreas(geobox)
        work: Any = {"chunk": self.chunk, "workers": self.threads or usable_cores()}
        if options.min_area:
            labels = sieve(
                labels,
                options.min_area,
                areas=areas,
                connectivity=options.connectivity,
                directory=self.scratch,
                **work,
            )
        cut = None
        if options.max_vertices is not None:
            cut = split(labels, options.max_vertices, connectivity=options.connectivity, directory=self.scratch, **work)
            labels = cut
        redraw = self._redraw(labels, geobox, areas, work) if options.simplify or options.smooth else None
        for batch in trace_regions(
            labels,
            connectivity=options.connectivity,
            areas=areas,
            rasters=rasters,
            shown=None if hidden is None else partial(_differ, hidden, cut),
            redraw=redraw,
            **({"joints": 0} if redraw else {"joints": longest_line(geobox), "transform": geobox.transform[:6]}),
            **work,
        ):
            if cut is None:
                yield batch
            else:
                values, parts = cut.decode(batch.values)
                yield replace(batch, values=values, parts=parts)

    def _redraw(
        self, labels: LabelReader, geobox: GeoBox, areas: PixelAreas, work: Mapping[str, Any]
    ) -> Callable[[npt.NDArray[np.object_]], npt.NDArray[np.object_]]:
        """What makes polygons in pixels simpler, and puts them in their place."""
        corners: Corners = map_corners(labels, directory=self.scratch, **work)
        rows = areas.of_rows(labels.shape[0])
        if not np.isfinite(rows).all():
            raise GridError("--simplify is in metres, and a raster without a CRS has none: --assume-crs names one")
        return partial(
            simplify,
            corners=corners,
            tolerance=self.options.simplify,
            pixel_area=rows,
            smooth=self.options.smooth,
            transform=geobox.transform[:6],
        )

    def columns(
        self, opened: ExitStack, geobox: GeoBox
    ) -> Callable[[geopandas.GeoDataFrame, RegionBatch], dict[str, npt.NDArray[Any]]]:
        """What gives the columns of pieces and of statistics, as long as `opened` is."""
        statistics = [
            opened.enter_context(ZonalStatistics(*parse_statistics(text), geobox)) for text in self.options.stats
        ]

        def more(frame: geopandas.GeoDataFrame, batch: RegionBatch) -> dict[str, npt.NDArray[Any]]:
            found: dict[str, npt.NDArray[Any]] = {}
            if self.options.max_vertices is not None:
                found["part"] = np.zeros(len(batch), np.int32) if batch.parts is None else batch.parts.astype(np.int32)
            for each in statistics:
                found |= each.over(np.asarray(frame.geometry.array))
            return found

        return more


def _differ(value: int, cut: SplitLabels | None, labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which of `labels` (n,) are of another class."""
    values = labels if cut is None else cut.decode(labels)[0]
    differ: npt.NDArray[np.bool_] = values != value
    return differ


def check_polygons(options: PolygonOptions) -> None:
    """Refuses what cannot be done before any work: unknown statistics, rasters that are not there, a bad address.

    Raises:
        ConfigError: A text makes no sense, or two columns would bear one name.
        SourceError: A raster of statistics cannot be opened.
        MissingExtraError: A library is not installed.
    """
    demand_names_apart(options.stats, _TAKEN)
    for text in options.stats:
        inspect(parse_statistics(text)[0])
    if options.to is not None:
        from geoseg.sink.postgis import parse_destination

        parse_destination(options.to)


def also_into(options: PolygonOptions, run: str) -> Callable[[Layer], object] | None:
    """What puts a layer into the database that the options name; None where they name none."""
    if options.to is None:
        return None
    from geoseg.sink.postgis import parse_destination, write_postgis

    return partial(write_postgis, to=parse_destination(options.to), run=run)


def map_features(
    labels: RasterLabels,
    *,
    drawing: Drawing,
    classes: Sequence[ClassInfo],
    confidence: str | Path | None = None,
    hidden: int | None = None,
    scene: str = "",
    datetime: datetime | None = None,
    model: str = "",
) -> Iterator[geopandas.GeoDataFrame]:
    """Frames as `geoseg.sink.features.region_frames` makes them, with a column ``confidence_mean``.

    Args:
        labels: The map.
        drawing: How polygons are made.
        classes: Names of the values.
        confidence: Raster of the probability of the chosen class on the same grid; where it has none it does not count.
        hidden: Class of which no polygons are wanted.
        scene: The scene's id.
        datetime: Time of acquisition, with a time zone.
        model: The model's name.

    Raises:
        SourceError: A raster cannot be read, or the confidence is no probability.
        GridError: It lies on another grid.
    """
    from geoseg.sink.features import Mean, region_frames

    geobox, column = labels.geobox, "confidence_mean"
    rasters = {} if confidence is None else confidence_rasters(confidence, column, geobox)
    means = [Mean(column=column, of=column, scaling=Scaling(scale=STEP), counted=KNOWN)] if rasters else []
    with ExitStack() as opened:
        columns = drawing.columns(opened, geobox)

        def more(frame: geopandas.GeoDataFrame, batch: RegionBatch) -> Mapping[str, npt.NDArray[Any]]:
            unsure = {} if rasters else {column: np.full(len(batch), np.nan)}
            return unsure | columns(frame, batch)

        yield from region_frames(
            drawing.regions(labels, geobox, rasters=rasters, hidden=hidden),
            geobox=geobox,
            classes=classes,
            means=means,
            more=more,
            scene=scene,
            datetime=datetime,
            model=model,
        )


def change_features(
    change: RasterLabels,
    *,
    drawing: Drawing,
    spec: ModelSpec,
    pair: Scene[Any],
    probability: Path | None,
    means: Sequence[Mean] = (),
    rasters: Mapping[str, LabelReader] | None = None,
) -> Iterator[geopandas.GeoDataFrame]:
    """Frames as `geoseg.sink.features.change_frames` makes them, of what changed.

    Args:
        change: The change map; value 0 is unchanged.
        drawing: How polygons are made.
        spec: The model's card.
        pair: Both dates.
        probability: Raster of the probability of change on the same grid.
        means: Further columns of means of `rasters`.
        rasters: Rasters of integers on the same grid.

    Raises:
        SourceError: A raster cannot be read.
        GridError: The rasters differ in shape.
    """
    from geoseg.sink.features import change_frames

    geobox, summed = change.geobox, dict(rasters or {})
    if probability is not None:
        summed["probability_mean"] = RasterLabels(probability)
    with ExitStack() as opened:
        yield from change_frames(
            drawing.regions(change, geobox, rasters=summed, hidden=0),
            geobox=geobox,
            spec=spec,
            pair=pair,
            probability=None if probability is None else _mean("probability_mean", probability),
            means=means,
            more=drawing.columns(opened, geobox),
        )


def _mean(column: str, raster: str | Path) -> Mean:
    """A column of means of the first band of a raster, which bears the column's name among the sums."""
    from geoseg.sink.features import Mean

    band = inspect(str(raster)).bands[0]
    return Mean(column=column, of=column, scaling=Scaling(scale=band.scale, offset=band.offset))


def vectorize(
    labels: str | Path,
    *,
    classes: Sequence[ClassInfo] = (),
    confidence: str | Path | None = None,
    scene: str = "",
    datetime: datetime | None = None,
    model: str = "",
    **options: Any,
) -> geopandas.GeoDataFrame:
    """One row per connected region of a label raster, without a trace of any tile or chunk.

    Columns: id (from 1, in the row-major order of the regions' first pixels), class_id, class_name, area_m2 and
    perimeter_m (on the ellipsoid), confidence_mean, part (with `max_vertices`), statistics, scene, datetime, model,
    geometry in the raster's CRS. The table is in memory; `geoseg vectorize` writes files of any size.

    Args:
        labels: Class values in the first band; the raster's nodata belongs to no region.
        classes: Names of the values, as in `ModelSpec.classes`.
        confidence: Probability of the chosen class on the same grid, as `segment` writes it.
        scene: The scene's id.
        datetime: Time of acquisition, with a time zone.
        model: The model's name.
        options: As in `geoseg.options.PolygonOptions`: connectivity, min_area, simplify, smooth, max_vertices, stats.

    Raises:
        ConfigError: An option makes no sense.
        SourceError: A raster cannot be read.
        GridError: The rasters differ in shape.
    """
    from geoseg.sink.features import joined_frames

    unknown = sorted(options.keys() - {"connectivity", "min_area", "simplify", "smooth", "max_vertices", "stats"})
    if unknown:
        raise ConfigError(f"vectorize has no option {', '.join(unknown)}")
    drawing = Drawing(options=PolygonOptions(formats=(), **options))
    demand_names_apart(drawing.options.stats, _TAKEN)
    frames = map_features(
        RasterLabels(labels),
        drawing=drawing,
        classes=classes,
        confidence=confidence,
        scene=scene,
        datetime=datetime,
        model=model,
    )
    return joined_frames(frames)
