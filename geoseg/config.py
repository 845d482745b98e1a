"""Every option of a run in one place, and how command line, environment and file are merged.

`RunConfig` is the only list of options: the command line, the ``GEOSEG_*`` variables and the keys of a YAML file all
come from its fields, and all values go through the same validation. The core of geoseg never sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from geoseg.errors import ConfigError
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
from geoseg.settings import ClusterOptions, MosaicRule

__all__ = ["PREFIX", "Resolved", "RunConfig", "key_of", "resolve", "show_config"]

PREFIX = "GEOSEG_"
"""What the names of environment variables begin with."""

_NO_OPTIONS = {"GEOSEG_CACHE"}
"""Variables with the prefix that other parts of geoseg read."""


def _option(default: Any, description: str, *, metavar: str = "", short: str = "", off: str = "", group: str) -> Any:
    """A field that is also an option: `off` is the flag that turns a switch off."""
    extra: JsonDict = {"metavar": metavar, "short": short, "off": off, "group": group}
    return Field(default, description=description, json_schema_extra=extra)


class RunConfig(BaseModel):
    """The options of one call of ``geoseg segment`` or ``geoseg plan``; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)

    inputs: Locations = _option(
        (), "Scenes: GeoTIFF, COG or JP2, path or URL (http, https, s3), or a STAC item.", group="Scene"
    )
    items: str | None = _option(
        None, "More scenes: a STAC catalog, a saved search or a stac-geoparquet file.", metavar="FILE", group="Scene"
    )
    out: Destination | None = _option(
        None,
        "Directory of the results, or s3://BUCKET/PREFIX; with several inputs, of one folder per scene.",
        metavar="DIR",
        short="-o",
        group="Result",
    )
    model: str = _option("spectral-baseline", "Name or directory of a model package.", metavar="MODEL", group="Model")
    tile: Count | None = _option(
        None, "Side of the square that the net sees. Default: the model's own.", metavar="PIXELS", group="Model"
    )
    overlap: Annotated[int, Field(ge=0)] | None = _option(
        None, "Pixels that neighbouring tiles share, at most half a tile. Default: the model's own, or a quarter "
        "of the tile.", metavar="PIXELS", group="Model",
    )  # fmt: skip
    blend: Literal["ramp", "linear", "gaussian", "crop"] = _option(
        "ramp", "How neighbouring tiles are blended.", group="Model"
    )
    batch_size: Auto = _option("auto", "Tiles per forward pass.", metavar="N|auto", group="Model")
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = _option(
        "auto", "Where the net runs.", metavar="auto|cpu|cuda[:N]", group="Model"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _option("auto", "Arithmetic of the net.", group="Model")
    backend: Literal["auto", "torch", "onnxruntime", "openvino"] = _option(
        "auto", "Library that runs the net; auto: the fastest that agrees.", group="Model"
    )
    bands: Bands = _option(
        {},
        "Where bands are: by index in the input, from 1 (red=3,nir=4), or by file (red=B04.tif,nir=B08.tif).",
        metavar="NAME=PLACE,...",
        group="Scene",
    )
    scale: Finite | None = _option(
        None, "Reflectance per stored unit. Default: the scene's own.", metavar="NUMBER", group="Scene"
    )
    offset: Finite | None = _option(
        None, "Reflectance of a stored 0. Default: the scene's own.", metavar="NUMBER", group="Scene"
    )
    nodata: float | None = _option(
        None, "Stored number that means no observation. Default: the scene's own.", metavar="NUMBER", group="Scene"
    )
    bbox: Box | None = _option(None, "Only this box, in degrees.", metavar="W,S,E,N", group="Scene")
    aoi: str | None = _option(
        None, "Only within the polygons of this GeoJSON, GeoPackage or GeoParquet.", metavar="FILE", group="Scene"
    )
    mask: str | None = _option(None, "Raster whose non-zero pixels are left out.", metavar="FILE", group="Scene")
    resolution: Positive | None = _option(
        None, "Pixel size to read the scene at, in units of its CRS.", metavar="NUMBER", group="Scene"
    )
    crs: Crs | None = _option(None, "CRS to read the scene in.", metavar="CRS", group="Scene")
    assume_crs: Crs | None = _option(None, "CRS of a scene that names none.", metavar="CRS", group="Scene")
    datetime: Instant = _option(
        None, "Time of acquisition, ISO 8601. Default: the scene's own.", metavar="TIME", group="Scene"
    )
    on_bad_block: Literal["fail", "nodata"] = _option(
        "fail", "What to do where the file is damaged: stop, or leave a hole.", group="Scene"
    )
    aws_no_sign_request: bool = _option(
        False, "Read s3:// without credentials.", off="--aws-sign-request", group="Scene"
    )
    chunk: Count | None = _option(
        None, "Side of the pieces of work, in pixels. Default: planned.", metavar="PIXELS", group="Run"
    )
    workers: Count | None = _option(
        None, "Processes on this machine that share the work. Default: 1.", metavar="N", group="Run"
    )
    scheduler: str | None = _option(
        None, "Address of the scheduler of a Dask cluster. Default: $DASK_SCHEDULER_ADDRESS.",
        metavar="ADDRESS", group="Run",
    )  # fmt: skip
    scheduler_file: Path | None = _option(
        None, "File that a Dask scheduler wrote its address to.", metavar="FILE", group="Run"
    )
    cluster: Path | None = _option(
        None, "Description of a Dask cluster to start for this call.", metavar="FILE.yaml", group="Run"
    )
    worker_timeout: Positive = _option(
        600.0, "How long to wait for workers that are started on demand.", metavar="SECONDS", group="Run"
    )
    probabilities: bool = _option(
        False, "Also write probabilities.tif, one band per class.", off="--no-probabilities", group="Result"
    )
    confidence: bool = _option(
        True, "Write confidence.tif, the probability of the chosen class.", off="--no-confidence", group="Result"
    )
    mosaic: MosaicRule | None = _option(
        None, "Also make one map of all scenes, each pixel of one of them.",
        metavar="newest|cloudless|first", group="Result",
    )  # fmt: skip
    vector: VectorFormats = _option(
        ("geojson", "parquet"), "Polygons to write: geojson, parquet, fgb, gpkg, pmtiles, or none.",
        metavar="LIST|none", group="Result",
    )  # fmt: skip
    overwrite: bool = _option(False, "Replace the finished results in DIR.", off="--no-overwrite", group="Run")
    restart: bool = _option(False, "Drop what an interrupted run left in DIR.", off="--no-restart", group="Run")
    dry_run: bool = _option(False, "Say what would be done (as geoseg plan does), and stop.", group="Run")
    json_output: bool = Field(
        False,
        alias="json",
        description="Write one JSON document to standard output.",
        json_schema_extra={"group": "Messages"},
    )
    log_json: bool = _option(False, "Messages as JSON, one object per line, and no progress bar.", group="Messages")
    report: Path | None = _option(
        None, "Page with Dask's performance report; needs bokeh.", metavar="FILE.html", group="Messages"
    )
    quiet: bool = _option(False, "Only errors.", short="-q", group="Messages")
    verbose: bool = _option(False, "More about what happens.", short="-v", group="Messages")
    debug: bool = _option(False, "Tracebacks and library messages.", group="Messages")

    @field_validator("*", mode="before")
    @classmethod
    def _switches_only_for_switches(cls, value: object, info: ValidationInfo) -> object:
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, bool) and field.annotation is not bool:
            raise PydanticCustomError("switch", "should be a value")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if self.quiet and self.verbose:
            raise ValueError("--quiet and --verbose exclude each other")
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

    def for_messages(self) -> dict[str, bool]:
        """The keyword arguments of `geoseg.cli.messages.set_up_messages`."""
        return {"debug": self.debug, "verbose": self.verbose, "quiet": self.quiet, "as_json": self.log_json}

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
        arguments = {name: getattr(self, name) for name in type(self).model_fields if name not in door}
        return arguments | {"bands": self.bands or None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A configuration and where each of its values came from."""

    config: RunConfig
    """Every value."""
    origins: Mapping[str, str]
    """Key -> ``command line``, a variable, a file, or ``default``."""


def key_of(name: str, field: FieldInfo) -> str:
    """The key of a field in files and, in capitals, in the environment.

    >>> key_of("json_output", RunConfig.model_fields["json_output"])
    'json'
    """
    return field.alias or name


def _keys() -> dict[str, FieldInfo]:
    return {key_of(name, field): field for name, field in RunConfig.model_fields.items()}


def _meant(word: str, words: Iterable[str]) -> str:
    close = get_close_matches(word, list(words), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[object, str]]:
    found: dict[str, tuple[object, str]] = {}
    known = {PREFIX + key.upper(): key for key in _keys()}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in _NO_OPTIONS or not environ[variable].strip():
            continue
        if variable not in known:
            raise ConfigError(f"environment: {variable} is no option of geoseg{_meant(variable, known)}")
        found[known[variable]] = (environ[variable], variable)
    return found


def _from_file(path: Path) -> dict[str, tuple[object, str]]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: should hold lines like 'tile: 512', not a {type(content).__name__}")
    found: dict[str, tuple[object, str]] = {}
    known = _keys()
    for given, value in content.items():
        key = str(given).replace("-", "_")
        if key not in known:
            raise ConfigError(f"{path}: {given}: no such option{_meant(key, known)}")
        found[key] = (value, str(path))
    return found


def _what(error: Mapping[str, Any]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] in ("int_parsing", "int_type", "int_from_float"):
        return "should be a whole number"
    if error["type"] in ("float_parsing", "float_type"):
        return "should be a number"
    if error["type"] in ("bool_parsing", "bool_type"):
        return "should be true or false"
    if error["type"] == "string_pattern_mismatch":
        return "should be auto, cpu, cuda or cuda:N"
    return message.replace("'", "")


def _explain(error: ValidationError, merged: Mapping[str, tuple[object, str]]) -> ConfigError:
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return ConfigError(_what(first))
    key = str(first["loc"][0])
    value, origin = merged.get(key, (first["input"], "default"))
    named = {"command line": f"--{key.replace('_', '-')}"}.get(origin, origin)
    place = named if named != origin or origin.startswith(PREFIX) else f"{origin}: {key}"
    return ConfigError(f"{place}: {_what(first)}, not {value!r}" if value is not None else f"{place}: {_what(first)}")


def resolve(
    command_line: Mapping[str, object], *, file: Path | None = None, environ: Mapping[str, str] | None = None
) -> Resolved:
    """The options of a call: command line over environment over file over default.

    Args:
        command_line: Key -> value as typed, only what was given.
        file: YAML with the same keys.
        environ: Variables; those with the prefix ``GEOSEG_`` count.

    Raises:
        ConfigError: A key is unknown or a value wrong; names the option, the variable, or the file and its key.

    >>> resolved = resolve({"tile": "512"}, environ={"GEOSEG_OVERLAP": "64"})
    >>> resolved.config.tile, resolved.config.overlap, resolved.origins["overlap"]
    (512, 64, 'GEOSEG_OVERLAP')
    """
    merged = _from_file(file) if file is not None else {}
    merged |= _from_environment(environ or {})
    merged |= {key: (value, "command line") for key, value in command_line.items()}
    try:
        config = RunConfig.model_validate({key: value for key, (value, _) in merged.items()})
    except ValidationError as error:
        raise _explain(error, merged) from error
    origins = {key: merged[key][1] if key in merged else "default" for key in _keys()}
    return Resolved(config=config, origins=origins)


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return list(value) if isinstance(value, tuple) else value


def _yaml(value: object) -> str:
    text = yaml.safe_dump(_plain(value), default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").strip()


def show_config(resolved: Resolved) -> str:
    """YAML of every option, each line with where its value came from; it can be given back with ``-c``.

    >>> [line for line in show_config(resolve({"tile": "512"})).splitlines() if line.startswith("tile")]
    ['tile: 512  # command line']
    """
    values = {key_of(name, field): getattr(resolved.config, name) for name, field in RunConfig.model_fields.items()}
    return "".join(f"{key}: {_yaml(value)}  # {resolved.origins[key]}\n" for key, value in values.items())
