"""What a run on two dates leaves beside its rasters: polygons of what changed, pictures, and who became what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.assembly import Tally
from geoseg.planes import KNOWN, STEP
from geoseg.scene import Scaling, Scene
from geoseg.source.labels import RasterLabels
from geoseg.source.pair import PairSource
from geoseg.spec import ModelSpec
from geoseg.vectors import Drawing, change_features
from geoseg.window import Window
from geoseg.zonal import PairIndex

if TYPE_CHECKING:
    import geopandas

__all__ = ["change_frames_of", "change_pictures", "from_to_table"]

_SIDE = 1600
"""Longest side of the pictures of both dates, in pixels."""


def change_frames_of(
    scene: Scene[Any],
    spec: ModelSpec,
    crop: Window,
    staging: Path,
    ndvi: Scene[PairSource] | None,
    drawing: Drawing,
) -> Iterator[geopandas.GeoDataFrame]:
    """The regions of ``change.tif`` in `staging`, with the mean NDVI of both dates where `ndvi` gives red and nir.

    Raises:
        SourceError: A raster or a date cannot be read.
    """
    from geoseg.sink.features import Mean

    probability = staging / "change_probability.tif"
    index = None if ndvi is None else PairIndex(pair=ndvi.source, crop=crop, assumed=spec.assume_scaling)
    columns = [] if index is None else index.columns
    return change_features(
        RasterLabels(staging / "change.tif"),
        drawing=drawing,
        spec=spec,
        pair=scene,
        probability=probability if probability.exists() else None,
        means=[Mean(column=name, of=name, scaling=Scaling(scale=STEP), counted=KNOWN) for name in columns],
        rasters={} if index is None else index.rasters(),
    )


def change_pictures(
    view: Scene[PairSource], spec: ModelSpec, crop: Window, tally: Tally, staging: Path, *, title: str
) -> list[Path]:
    """``preview.png`` and ``compare.html`` beside ``change.tif`` in `staging`.

    Raises:
        SourceError: The change raster cannot be read.
        SinkError: They cannot be written.
    """
    from geoseg.look import write_change_preview
    from geoseg.pages.compare import write_compare
    from geoseg.picture import picture_dates

    written, areas = spec.written, tally.areas()
    dates = picture_dates(view, side=_SIDE, window=crop, assumed=spec.assume_scaling)
    total = max(1, sum(area.pixels for area in areas))
    change = staging / "change.tif"
    preview = write_change_preview(
        staging / "preview.png",
        change,
        written.classes,
        written.label_nodata,
        dates,
        title=title,
        shares={area.value: area.pixels / total for area in areas},
    )
    nodata = written.label_nodata
    page = write_compare(staging / "compare.html", change, dates, areas, nodata, title=title, model=spec.name)
    return [preview, page]


def from_to_table(spec: ModelSpec, tally: Tally) -> Sequence[dict[str, Any]]:
    """Pixels and area of each transition from one class to another; empty for a model of one map."""
    transitions = spec.transitions
    return [
        {"from": transitions[area.value][0].name, "to": transitions[area.value][1].name}
        | {key: value for key, value in asdict(area).items() if key in {"value", "pixels", "km2"}}
        for area in tally.areas()
        if area.value in transitions
    ]
