"""What the person who starts a service decides, with every default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from geoseg.errors import ConfigError
from geoseg.yaml_file import plain_key, read_yaml

__all__ = ["ServiceSettings", "read_settings"]

_Count = Annotated[int, Field(gt=0)]


def _words(value: object) -> object:
    """Words with commas between, as a command line has them."""
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


_Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _setting(default: Any, description: str, metavar: str = "") -> Any:
    return Field(default, description=description, json_schema_extra={"metavar": metavar})


class ServiceSettings(BaseModel):
    """The options of one service; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: Path = Field(description="Folder of the jobs and their results.", json_schema_extra={"metavar": "DIR"})
    catalog: Path | None = _setting(
        None, "STAC catalog (catalog.json, or its folder) of scenes that jobs may use by their ids.", "PATH"
    )
    models: _Words = _setting(
        ("spectral-baseline",), "Names or directories of the model packages that jobs may use.", "NAME,..."
    )
    host: str = _setting("127.0.0.1", "Address to listen on; others than this machine's own need --tokens.", "ADDRESS")
    port: Annotated[int, Field(ge=0, le=65535)] = _setting(8080, "Port to listen on; 0: a free one.", "N")
    url: str | None = _setting(None, "Where clients find the service, if a proxy stands before it.", "URL")
    tokens: Path | None = _setting(None, "File of those who may use the service.", "FILE.yaml")
    hosts: _Words = _setting(
        (), "Hosts that scenes may be read from: names, HOST:PORT, or s3://BUCKET. Default: none.", "HOST,..."
    )
    queue: _Count = _setting(100, "Jobs that may wait.", "N")
    jobs: _Count = _setting(1, "Jobs at work at once.", "N")
    patience: _Seconds = _setting(60.0, "How long a synchronous request waits for its job.", "SECONDS")
    window_side: _Count = _setting(1024, "Largest side of a window that is answered at once.", "PIXELS")
    rate: Annotated[float, Field(gt=0)] = _setting(50.0, "Requests per second of one client, in the long run.", "N")
    burst: _Count = _setting(200, "Requests that one client may make at once.", "N")
    body: _Count = _setting(1 << 20, "Largest body of a request.", "BYTES")
    connections: _Count = _setting(256, "Connections at once.", "N")
    slowness: _Seconds = _setting(
        20.0, "How long a client may take for a request, or leave an answer lying.", "SECONDS"
    )
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = _setting(
        "auto", "Where nets run.", "auto|cpu|cuda[:N]"
    )
    workers: _Count | None = _setting(None, "Processes that share the work of each job. Default: 1.", "N")
    scheduler: str | None = _setting(None, "Address of the scheduler of a Dask cluster that does the work.", "ADDRESS")
    features: Annotated[str | None, Field(repr=False)] = _setting(
        None,
        "PostGIS in which polygons are looked up that runs have put there with --to: postgresql://HOST/DB?table=NAME.",
        "URL",
    )
    cluster: Path | None = _setting(None, "Description of a Dask cluster to start for each job.", "FILE.yaml")


def read_settings(file: Path | None, given: Mapping[str, Any]) -> ServiceSettings:
    """The settings of a call: the command line over the file over the defaults.

    Args:
        file: YAML with the same keys.
        given: What stands on the command line.

    Raises:
        ConfigError: One is missing, unknown or wrong; names the option, or the file and its key.
    """
    values = {} if file is None else _from_file(file)
    try:
        return ServiceSettings.model_validate(values | dict(given))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])
    place = f"{file}: {name}" if name in values and name not in given else f"--{name.replace('_', '-')}"
    if first["type"] == "missing":
        raise ConfigError(f"{place} is missing: {ServiceSettings.model_fields[name].description}")
    what = {"extra_forbidden": "no such option"}.get(first["type"], f"{first['msg']}, not {first['input']!r}")
    raise ConfigError(f"{place}: {what}")


def _from_file(file: Path) -> dict[str, Any]:
    found = read_yaml(file, "the settings", alike=plain_key) or {}
    if not isinstance(found, dict):
        raise ConfigError(f"{file}: should hold lines like 'port: 8080', not a {type(found).__name__}")
    return {plain_key(key): value for key, value in found.items()}
