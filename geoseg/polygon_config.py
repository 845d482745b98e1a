"""The options of polygons, which every command that makes some has, and those of ``geoseg vectorize``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from geoseg.option_values import Count, Crs, Instant, Locations, Neighbours, Paths, Statistics
from geoseg.polygon_options import PolygonOptions

__all__ = ["PolygonConfig", "VectorizeConfig", "option"]


def option(default: Any, description: str, *, metavar: str = "", short: str = "", off: str = "", group: str) -> Any:
    """A field that is also an option: `off` is the flag that turns a switch off."""
    extra: JsonDict = {"metavar": metavar, "short": short, "off": off, "group": group}
    return Field(default, description=description, json_schema_extra=extra)


class PolygonConfig(BaseModel):
    """What the polygons of a map shall be like, and what is said meanwhile; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)

    connectivity: Neighbours = option(
        4, "Pixels of one polygon meet at edges (4), or at corners too (8).", metavar="4|8", group="Polygons"
    )
    min_area: Annotated[float, Field(ge=0, allow_inf_nan=False)] = option(
        0.0, "Smaller regions go to the neighbour with the longest common border.", metavar="M2", group="Polygons"
    )
    simplify: Annotated[float, Field(ge=0, allow_inf_nan=False)] = option(
        0.0, "Fewer corners, at most about so far off; neighbours stay neighbours.", metavar="METRES", group="Polygons"
    )
    smooth: bool = option(False, "Round corners.", off="--no-smooth", group="Polygons")
    max_vertices: Annotated[int, Field(ge=4)] | None = option(
        None, "Cut regions with more vertices into squares, which the column part numbers.", metavar="N",
        group="Polygons",
    )  # fmt: skip
    stats: Statistics = option(
        (), "Statistics of rasters over each polygon, several with semicolons between; needs exactextract.",
        metavar="RASTER:mean,max", group="Polygons",
    )  # fmt: skip
    to: str | None = option(
        None, "Also put the polygons into PostGIS, in place of those of the same map: postgresql://HOST/DB?table=NAME.",
        metavar="URL", group="Polygons",
    )  # fmt: skip
    json_output: bool = Field(
        False,
        alias="json",
        description="Write one JSON document to standard output.",
        json_schema_extra={"group": "Messages"},
    )
    log_json: bool = option(False, "Messages as JSON, one object per line, and no progress bar.", group="Messages")
    quiet: bool = option(False, "Only errors.", short="-q", group="Messages")
    verbose: bool = option(False, "More about what happens.", short="-v", group="Messages")
    debug: bool = option(False, "Tracebacks and library messages.", group="Messages")

    @field_validator("*", mode="before")
    @classmethod
    def _switches_only_for_switches(cls, value: object, info: ValidationInfo) -> object:
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, bool) and field.annotation is not bool:
            raise PydanticCustomError("switch", "should be a value")
        return value

    @model_validator(mode="after")
    def _one_loudness(self) -> PolygonConfig:
        if self.quiet and self.verbose:
            raise ValueError("--quiet and --verbose exclude each other")
        return self

    def for_polygons(self) -> dict[str, Any]:
        """The fields of `geoseg.options.PolygonOptions` but the formats, as keyword arguments."""
        names = ("connectivity", "min_area", "simplify", "smooth", "max_vertices", "stats", "to")
        return {name: getattr(self, name) for name in names}

    def for_messages(self) -> dict[str, bool]:
        """The keyword arguments of `geoseg.cli.messages.set_up_messages`."""
        return {"debug": self.debug, "verbose": self.verbose, "quiet": self.quiet, "as_json": self.log_json}


class VectorizeConfig(PolygonConfig):
    """The options of one call of ``geoseg vectorize``."""

    inputs: Locations = option((), "A raster of class values, or the directory of a run.", group="Map")
    out: Paths = Field(
        (),
        description="File of polygons: .geojson, .geojsonl, .parquet, .fgb, .gpkg or .pmtiles; may be given again.",
        json_schema_extra={"metavar": "FILE", "short": "-o", "group": "Result", "several": "yes"},
    )
    names: str = option("", "Names of classes; else those of the run.", metavar="VALUE=NAME,...", group="Map")
    confidence: str | None = option(
        None, "Probability of the class, averaged over each polygon; else that of the run.", metavar="RASTER",
        group="Map",
    )  # fmt: skip
    nodata: int | None = option(
        None, "Value that belongs to no polygon. Default: the raster's own.", metavar="N", group="Map"
    )
    assume_crs: Crs | None = option(None, "CRS of a raster that names none.", metavar="CRS", group="Map")
    scene: str = option("", "Scene's id, for its column. Default: the run's, or the file's stem.", group="Map")
    datetime: Instant = option(None, "Time of acquisition, ISO 8601. Default: the run's.", metavar="TIME", group="Map")
    chunk: Count = option(2048, "Side of the pieces of work, in pixels.", metavar="PIXELS", group="Run")
    threads: Count | None = option(None, "Pieces at work at once. Default: one per core.", metavar="N", group="Run")
    overwrite: bool = option(False, "Replace FILE.", off="--no-overwrite", group="Run")

    def options(self) -> PolygonOptions:
        """How the polygons are made; the formats follow from the files."""
        return PolygonOptions(formats=(), **self.for_polygons())
