"""How command line, environment and file become one configuration, and where each of its values came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from geoseg.config import ChangeConfig, RunConfig
from geoseg.errors import ConfigError
from geoseg.polygon_config import PolygonConfig, VectorizeConfig
from geoseg.yaml_file import plain_key, read_yaml

__all__ = ["PREFIX", "Resolved", "key_of", "meant", "read_options", "resolve", "show_config"]

PREFIX = "GEOSEG_"
"""What the names of environment variables begin with."""

_KINDS: tuple[type[PolygonConfig], ...] = (RunConfig, ChangeConfig, VectorizeConfig)
_NO_OPTIONS = {"GEOSEG_AUTHENTICATION", "GEOSEG_CACHE", "GEOSEG_CATALOG", "GEOSEG_SCENES", "GEOSEG_URL"}
"""Variables with the prefix that other parts of geoseg read: commands without `RunConfig`, compose.yaml, QGIS."""


Config = TypeVar("Config", bound=PolygonConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved(Generic[Config]):
    """A configuration and where each of its values came from."""

    config: Config
    """Every value."""
    origins: Mapping[str, str]
    """Key -> ``command line``, a variable, a file, or ``default``."""


def key_of(name: str, field: FieldInfo) -> str:
    """The key of a field in files and, in capitals, in the environment.

    >>> key_of("json_output", RunConfig.model_fields["json_output"])
    'json'
    """
    return field.alias or name


def _keys(kind: type[PolygonConfig]) -> dict[str, FieldInfo]:
    return {key_of(name, field): field for name, field in kind.model_fields.items()}


def meant(word: str, words: Iterable[str]) -> str:
    """``; did you mean tile?`` where one of `words` is like `word`, else nothing."""
    close = get_close_matches(word, list(words), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _from_environment(environ: Mapping[str, str], kind: type[PolygonConfig]) -> dict[str, tuple[object, str]]:
    found: dict[str, tuple[object, str]] = {}
    known = {PREFIX + key.upper(): key for key in _keys(kind)}
    elsewhere = _NO_OPTIONS | {PREFIX + key.upper() for other in _KINDS for key in _keys(other)} - known.keys()
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in elsewhere or not environ[variable].strip():
            continue
        if variable not in known:
            raise ConfigError(f"environment: {variable} is no option of geoseg{meant(variable, known)}")
        found[known[variable]] = (environ[variable], variable)
    return found


def _from_file(path: Path, kind: type[PolygonConfig]) -> dict[str, tuple[object, str]]:
    content = read_yaml(path, "the configuration", alike=plain_key)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: should hold lines like 'tile: 512', not a {type(content).__name__}")
    return _known(content, str(path), kind)


def _known(content: Mapping[Any, object], origin: str, kind: type[PolygonConfig]) -> dict[str, tuple[object, str]]:
    found: dict[str, tuple[object, str]] = {}
    known = _keys(kind)
    for given, value in content.items():
        key = plain_key(given)
        if key not in known:
            raise ConfigError(f"{origin}: {given}: no such option{meant(key, known)}")
        if key in found:
            raise ConfigError(f"{origin}: {given} stands there twice, with - and with _; keep one of them")
        found[key] = (value, origin)
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


@overload
def resolve(
    command_line: Mapping[str, object], *, file: Path | None = None, environ: Mapping[str, str] | None = None
) -> Resolved[RunConfig]: ...


@overload
def resolve(
    command_line: Mapping[str, object],
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    kind: type[Config],
) -> Resolved[Config]: ...


def resolve(
    command_line: Mapping[str, object],
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    kind: type[Any] = RunConfig,
) -> Resolved[Any]:
    """The options of a call: command line over environment over file over default.

    Args:
        command_line: Key -> value as typed, only what was given.
        file: YAML with the same keys.
        environ: Variables; those with the prefix ``GEOSEG_`` count, those of other commands' options do not.
        kind: Whose options.

    Raises:
        ConfigError: A key is unknown or a value wrong; names the option, the variable, or the file and its key.

    >>> resolved = resolve({"tile": "512"}, environ={"GEOSEG_OVERLAP": "64"})
    >>> resolved.config.tile, resolved.config.overlap, resolved.origins["overlap"]
    (512, 64, 'GEOSEG_OVERLAP')
    """
    merged = _from_file(file, kind) if file is not None else {}
    merged |= _from_environment(environ or {}, kind)
    merged |= {key: (value, "command line") for key, value in command_line.items()}
    config = _validated(merged, kind)
    origins = {key: merged[key][1] if key in merged else "default" for key in _keys(kind)}
    return Resolved(config=config, origins=origins)


def _validated(merged: Mapping[str, tuple[object, str]], kind: type[Config]) -> Config:
    try:
        return kind.model_validate({key: value for key, (value, _) in merged.items()})
    except ValidationError as error:
        raise _explain(error, merged) from error


def read_options(content: Mapping[Any, object], *, origin: str, kind: type[Config]) -> Config:
    """The options that stand in a part of a file, as `resolve` reads those of a whole one; nothing else counts.

    Raises:
        ConfigError: A key is unknown or a value wrong; names `origin` and the key.

    >>> read_options({"tile": "512"}, origin="a.yaml: step cover", kind=RunConfig).tile
    512
    """
    return _validated(_known(content, origin, kind), kind)


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return list(value) if isinstance(value, tuple) else value


def _yaml(value: object) -> str:
    text = yaml.safe_dump(_plain(value), default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").strip()


def show_config(resolved: Resolved[Any]) -> str:
    """YAML of every option, each line with where its value came from; it can be given back with ``-c``.

    >>> [line for line in show_config(resolve({"tile": "512"})).splitlines() if line.startswith("tile")]
    ['tile: 512  # command line']
    """
    values = {
        key_of(name, field): getattr(resolved.config, name)
        for name, field in type(resolved.config).model_fields.items()
    }
    return "".join(f"{key}: {_yaml(value)}  # {resolved.origins[key]}\n" for key, value in values.items())
