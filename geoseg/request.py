"""What is asked of a run: scene and model, opened and matched, and what must not change between start and resume."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg import __version__
from geoseg.earth import footprint
from geoseg.errors import GridError, ModelError, without_secrets
from geoseg.models import read_spec
from geoseg.models.package import open_package
from geoseg.models.post_classification import on_both_dates
from geoseg.options import SegmentOptions
from geoseg.plan import tiling_for
from geoseg.protocols import Model, Source, Wanted
from geoseg.scene import Scene
from geoseg.source import open_scene
from geoseg.source.area import area_of_bbox, area_of_file
from geoseg.spec import ModelSpec
from geoseg.window import Window, crop_geobox, whole

if TYPE_CHECKING:
    import xarray as xr

    from geoseg.source.pair import PairSource

    SceneLike = str | Path | xr.DataArray | Scene[Source]

__all__ = ["Comparison", "Request", "open_request"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a run on two dates needs to know beside their scene."""

    asked: Mapping[str, Any]
    """What decides the bytes of the pair, as JSON values."""
    view: Scene[PairSource]
    """The pair with the bands that people look at."""
    ndvi: Scene[PairSource] | None
    """The pair with red and nir alone, where both dates have them."""
    facts: Mapping[str, Any]
    """What was found out about the pair, for the report."""


@dataclass(frozen=True, slots=True)
class Request:
    """One scene and one model, opened and matched."""

    options: SegmentOptions
    scene: Scene[Source]
    model: str | Path | Model
    spec: ModelSpec
    crop: Window
    wanted: Wanted | None
    comparison: Comparison | None

    def asked(self) -> dict[str, Any]:
        """What must not change between start and resume, as JSON values."""
        options, (tile, overlap) = self.options, tiling_for(self.spec, self.options.tile, self.options.overlap)
        fixed = {name: getattr(options, name) for name in _REPEATED}
        return {
            "version": __version__,
            "inputs": dict(self.scene.source.identity()),
            "model": {"name": self.spec.name, "digest": self.spec.digest},
            "options": fixed
            | {
                "tile": tile,
                "overlap": overlap,
                "nodata": str(options.nodata),  # NaN differs from itself
                "bands": {name: without_secrets(str(at)) for name, at in sorted((options.bands or {}).items())},
                "mask": None if options.mask is None else without_secrets(str(options.mask)),
                "crop": str(self.crop),
                "aoi": None if options.aoi is None else hashlib.sha256(Path(options.aoi).read_bytes()).hexdigest(),
                **options.for_polygons().asked(),
                "datetime": None if options.datetime is None else str(options.datetime),
            },
            **(self.comparison.asked if self.comparison else {}),
        }


_REPEATED = (
    "blend",
    "batch_size",
    "device",
    "precision",
    "backend",
    "scale",
    "offset",
    "resolution",
    "crs",
    "chunk",
    "probabilities",
    "confidence",
    "assume_crs",
    "on_bad_block",
    "scene_id",
)
"""Options that decide the bytes of a run as they stand; the others are resolved first or decide nothing."""


def open_request(
    scene: SceneLike | None,
    model: str | Path | Model,
    options: SegmentOptions,
    comparison: Comparison | None = None,
) -> Request:
    """The model's card and the scene's header, matched: bands found, area placed."""
    model = model if isinstance(model, Model) else open_package(model).place
    spec = model.spec if isinstance(model, Model) else read_spec(model)
    opened = scene if isinstance(scene, Scene) else open_scene(scene, bands=spec.bands, **options.for_scene())
    spec = _matched(spec, opened)
    crop, wanted = whole(opened.geobox), None
    if options.bbox is not None:
        crop = area_of_bbox(options.bbox, opened.geobox) & crop
    if options.aoi is not None:
        area = area_of_file(options.aoi, opened.geobox)
        crop, wanted = area.window & crop, area.covers
        if not crop:
            raise GridError("--aoi and --bbox do not overlap: choose areas that share pixels, or give one of them")
    _demand_place(opened, crop)
    return Request(options, opened, model, spec, crop, wanted, comparison)


def _matched(spec: ModelSpec, scene: Scene[Source]) -> ModelSpec:
    """The card for as many dates as there are: a net for one date maps both of a pair."""
    if spec.dates == 1 and scene.dates:
        return on_both_dates(spec)
    if spec.dates != max(1, len(scene.dates)):
        raise ModelError(f"model {spec.name!r} compares {spec.dates} dates, {scene.id} is one scene: use geoseg change")
    return spec


def _demand_place(scene: Scene[Source], crop: Window) -> None:
    """A scene whose rim lies beyond the Earth's is refused now, not after the work: its item would have no place."""
    try:
        footprint(crop_geobox(scene.geobox, crop))
    except GridError as error:
        raise GridError(
            f"{scene.href or scene.id}: its rim has no longitude and latitude in its CRS; "
            "crop it to the Earth with --bbox, or read it in another --crs"
        ) from error
