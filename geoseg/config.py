"""Every option of a run in one place.

`RunConfig`, and `ChangeConfig` for two dates, are the only lists of options: the command line, the ``GEOSEG_*``
variables and the keys of a YAML file all come from their fields (`geoseg.resolved`), and all values go through the same
validation. The core of geoseg never sees them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from geoseg.option_values import (
    Auto,
    Bands,
    Box,
    Count,
    Crs,
    Destination,
    Finite,
    Instant,
    Locations,
    Positive,
    VectorFormats,
)
from geoseg.polygon_config import PolygonConfig, option
from geoseg.settings import ClusterOptions, MosaicRule

__all__ = ["ChangeConfig", "RunConfig"]


class RunConfig(PolygonConfig):
    """The options of one call of ``geoseg segment`` or ``geoseg plan``; unknown keys are refused."""

    inputs: Locations = option(
        (), "Scenes: GeoTIFF, COG or JP2, path or URL (http, https, s3), or a STAC item.", group="Scene"
    )
    items: str | None = option(
        None, "More scenes: a STAC catalog, a saved search or a stac-geoparquet file.", metavar="FILE", group="Scene"
    )
    out: Destination | None = option(
        None,
        "Directory of the results, or s3://BUCKET/PREFIX; with several inputs, of one folder per scene.",
        metavar="DIR",
        short="-o",
        group="Result",
    )
    model: str = option("spectral-baseline", "Name or directory of a model package.", metavar="MODEL", group="Model")
    tile: Count | None = option(
        None, "Side of the square that the net sees. Default: the model's own.", metavar="PIXELS", group="Model"
    )
    overlap: Annotated[int, Field(ge=0)] | None = option(
        None, "Pixels that neighbouring tiles share, at most half a tile. Default: the model's own, or a quarter "
        "of the tile.", metavar="PIXELS", group="Model",
    )  # fmt: skip
    blend: Literal["ramp", "linear", "gaussian", "crop"] = option(
        "ramp", "How neighbouring tiles are blended.", group="Model"
    )
    batch_size: Auto = option("auto", "Tiles per forward pass.", metavar="N|auto", group="Model")
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = option(
        "auto", "Where the net runs.", metavar="auto|cpu|cuda[:N]", group="Model"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option("auto", "Arithmetic of the net.", group="Model")
    backend: Literal["auto", "torch", "onnxruntime", "openvino"] = option(
        "auto", "Library that runs the net; auto: the fastest that agrees.", group="Model"
    )
    bands: Bands = option(
        {},
        "Where bands are: by index in the input, from 1 (red=3,nir=4), or by file (red=B04.tif,nir=B08.tif).",
        metavar="NAME=PLACE,...",
        group="Scene",
    )
    scale: Finite | None = option(
        None, "Reflectance per stored unit. Default: the scene's own.", metavar="NUMBER", group="Scene"
    )
    offset: Finite | None = option(
        None, "Reflectance of a stored 0. Default: the scene's own.", metavar="NUMBER", group="Scene"
    )
    nodata: float | None = option(
        None, "Stored number that means no observation. Default: the scene's own.", metavar="NUMBER", group="Scene"
    )
    bbox: Box | None = option(None, "Only this box, in degrees.", metavar="W,S,E,N", group="Scene")
    aoi: str | None = option(
        None, "Only within the polygons of this GeoJSON, GeoPackage or GeoParquet.", metavar="FILE", group="Scene"
    )
    mask: str | None = option(
        None,
        "Raster whose non-zero pixels are left out; FILE:3,8,9 leaves out these values only.",
        metavar="FILE[:N,N]",
        group="Scene",
    )
    resolution: Positive | None = option(
        None, "Pixel size to read the scene at, in units of its CRS.", metavar="NUMBER", group="Scene"
    )
    crs: Crs | None = option(None, "CRS to read the scene in.", metavar="CRS", group="Scene")
    assume_crs: Crs | None = option(None, "CRS of a scene that names none.", metavar="CRS", group="Scene")
    datetime: Instant = option(
        None, "Time of acquisition, ISO 8601. Default: the scene's own.", metavar="TIME", group="Scene"
    )
    on_bad_block: Literal["fail", "nodata"] = option(
        "fail", "What to do where the file is damaged: stop, or leave a hole.", group="Scene"
    )
    aws_no_sign_request: bool = option(
        False, "Read s3:// without credentials.", off="--aws-sign-request", group="Scene"
    )
    chunk: Count | None = option(
        None, "Side of the pieces of work, in pixels. Default: planned.", metavar="PIXELS", group="Run"
    )
    workers: Count | None = option(
        None, "Processes on this machine that share the work. Default: 1.", metavar="N", group="Run"
    )
    scheduler: str | None = option(
        None, "Address of the scheduler of a Dask cluster. Default: $DASK_SCHEDULER_ADDRESS.",
        metavar="ADDRESS", group="Run",
    )  # fmt: skip
    scheduler_file: Path | None = option(
        None, "File that a Dask scheduler wrote its address to.", metavar="FILE", group="Run"
    )
    cluster: Path | None = option(
        None, "Description of a Dask cluster to start for this call.", metavar="FILE.yaml", group="Run"
    )
    worker_timeout: Positive = option(
        600.0, "How long to wait for workers that are started on demand.", metavar="SECONDS", group="Run"
    )
    probabilities: bool = option(
        False, "Also write probabilities.tif, one band per class.", off="--no-probabilities", group="Result"
    )
    confidence: bool = option(
        True, "Write the probability of the chosen class, or of change.", off="--no-confidence", group="Result"
    )
    mosaic: MosaicRule | None = option(
        None, "Also make one map of all scenes, each pixel of one of them.",
        metavar="newest|cloudless|first", group="Result",
    )  # fmt: skip
    vector: VectorFormats = option(
        ("geojson", "parquet"), "Polygons to write: geojson, geojsonl, parquet, fgb, gpkg, pmtiles, or none.",
        metavar="LIST|none", group="Result",
    )  # fmt: skip
    overwrite: bool = option(False, "Replace the finished results in DIR.", off="--no-overwrite", group="Run")
    restart: bool = option(False, "Drop what an interrupted run left in DIR.", off="--no-restart", group="Run")
    dry_run: bool = option(False, "Say what would be done (as geoseg plan does), and stop.", group="Run")
    report: Path | None = option(
        None, "Page with Dask's performance report; needs bokeh.", metavar="FILE.html", group="Messages"
    )

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if self.scale == 0:
            raise ValueError("--scale 0 would make every pixel the same: give the reflectance per stored unit")
        self.for_cluster()
        return self

    def for_scene(self) -> dict[str, Any]:
        """The keyword arguments of `geoseg.source.open_scene` that do not depend on the model."""
        names = ("scale", "offset", "nodata", "mask", "resolution", "crs", "assume_crs", "datetime", "on_bad_block")
        rest = {"band_map": self.bands, "aws_no_sign_request": self.aws_no_sign_request}
        return {name: getattr(self, name) for name in names} | rest

    def for_cluster(self) -> ClusterOptions:
        """Where the work is done; scenes of one call share it."""
        return ClusterOptions(
            workers=self.workers,
            scheduler=self.scheduler,
            scheduler_file=self.scheduler_file,
            cluster=self.cluster,
            worker_timeout=self.worker_timeout,
            dashboard=self.verbose,
            report=self.report,
        )

    def for_pipeline(self) -> dict[str, Any]:
        """The model and the fields of `geoseg.options.SegmentOptions`, as keyword arguments."""
        door = {"inputs", "out", "overwrite", "restart", "dry_run", "json_output", "log_json", "quiet"}
        door |= {
            "items",
            "mosaic",
            "verbose",
            "debug",
            "workers",
            "scheduler",
            "scheduler_file",
            "cluster",
            "worker_timeout",
            "report",
        }
        arguments = {name: getattr(self, name) for name in RunConfig.model_fields if name not in door}
        return arguments | {"bands": self.bands or None}


class ChangeConfig(RunConfig):
    """The options of one call of ``geoseg change``: those of a run on two scenes, and what concerns each of them."""

    inputs: Locations = option((), "Two scenes, the earlier one first.", group="Scene")
    model: str = option(
        "flood-s2", "Name or directory of a model package; index-change compares indices; a model for one date maps "
        "both.", metavar="MODEL", group="Model",
    )  # fmt: skip
    align: str | None = Field(
        None,
        description="Read both dates on one grid: before's (also without a value), after's, or that of a raster.",
        json_schema_extra={"metavar": "before|after|GRID", "group": "Scene", "bare": "before"},
    )
    register_dates: bool = Field(
        False,
        alias="register",
        description="Remove the shift between the dates that is found by phase correlation.",
        json_schema_extra={"group": "Scene", "off": "--no-register"},
    )
    mask_before: str | None = option(
        None, "Mask of the earlier date, in place of --mask.", metavar="FILE[:3,8,9]", group="Scene"
    )
    mask_after: str | None = option(
        None, "Mask of the later date, in place of --mask.", metavar="FILE[:3,8,9]", group="Scene"
    )
    bands_before: Bands = option(
        {}, "Where bands of the earlier date are, in place of --bands.", metavar="NAME=PLACE,...", group="Scene"
    )
    bands_after: Bands = option(
        {}, "Where bands of the later date are, in place of --bands.", metavar="NAME=PLACE,...", group="Scene"
    )
    datetime_before: Instant = option(
        None, "Time of the earlier date. Default: the scene's own.", metavar="TIME", group="Scene"
    )
    datetime_after: Instant = option(
        None, "Time of the later date, as --datetime. Default: the scene's own.", metavar="TIME", group="Scene"
    )

    @model_validator(mode="after")
    def _two_scenes(self) -> ChangeConfig:
        if self.items is not None or self.mosaic is not None:
            raise ValueError("--items and --mosaic are for geoseg segment: change compares two scenes")
        files = [place for place in self.bands.values() if isinstance(place, str)]
        if files:
            raise ValueError(f"--bands {files[0]} would be both dates: use --bands-before and --bands-after for files")
        return self

    def for_dates(self) -> dict[str, Any]:
        """The fields of `geoseg.options.ChangeOptions`, as keyword arguments."""
        names = ("align", "mask_before", "mask_after", "bands_before", "bands_after", "datetime_before")
        later = self.datetime_after or self.datetime
        return {name: getattr(self, name) for name in names} | {
            "register": self.register_dates,
            "datetime_after": later,
        }
