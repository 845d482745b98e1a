"""What a run on two dates leaves beside its rasters: polygons of what changed, pictures, and who became what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.assembly import Tally
from geoseg.decide import PROBABILITY_SCALE
from geoseg.scene import Scene
from geoseg.source.open import read_window
from geoseg.source.pair import PairSource
from geoseg.spec import ModelSpec
from geoseg.window import GeoBox, Window

if TYPE_CHECKING:
    import geopandas

__all__ = ["change_features", "change_pictures", "from_to_table"]

_SIDE = 1600
"""Longest side of the pictures of both dates, in pixels."""


def change_features(
    scene: Scene[Any], spec: ModelSpec, crop: Window, geobox: GeoBox, staging: Path, ndvi: Scene[PairSource] | None
) -> geopandas.GeoDataFrame:
    """The regions of ``change.tif`` in `staging`, with the mean NDVI of both dates where `ndvi` gives red and nir.

    Raises:
        SourceError: A raster or a date cannot be read.
    """
    from geoseg.sink.vector import make_change_features
    from geoseg.zonal import index_means

    probability = staging / "change_probability.tif"
    return make_change_features(
        read_window(staging / "change.tif", bands=[1])[0],
        geobox=geobox,
        spec=spec,
        probability=read_window(probability, bands=[1])[0] if probability.exists() else None,
        probability_scale=PROBABILITY_SCALE,
        pair=scene,
        more=lambda regions: (
            {} if ndvi is None else index_means(ndvi.source, crop, regions, assumed=spec.assume_scaling)
        ),
    )


def change_pictures(
    view: Scene[PairSource], spec: ModelSpec, crop: Window, tally: Tally, staging: Path, *, title: str
) -> list[Path]:
    """``preview.png`` and ``compare.html`` beside ``change.tif`` in `staging`.

    Raises:
        SourceError: The change raster cannot be read.
        SinkError: They cannot be written.
    """
    from geoseg.compare import write_compare
    from geoseg.look import write_change_preview
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
