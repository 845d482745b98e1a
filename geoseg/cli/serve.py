"""``geoseg serve``: the engine behind HTTP."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml
from pydantic import ValidationError

from geoseg.cli.messages import say, set_up_messages
from geoseg.cli.options import debug_option
from geoseg.cli.outcome import DONE
from geoseg.errors import ConfigError, MissingExtraError
from geoseg.serve.settings import ServiceSettings

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["serve"]


def _service_options(command: Callable[..., int]) -> Callable[..., int]:
    """Gives a command an option for each field of `ServiceSettings`."""
    for name, field in reversed(ServiceSettings.model_fields.items()):
        extra = field.json_schema_extra
        metavar = str(extra["metavar"]) if isinstance(extra, dict) else None
        shown = field.default
        told = "" if field.is_required() or shown in (None, ()) else f" Default: {_text(shown)}."
        flag = f"--{name.replace('_', '-')}"
        command = click.option(flag, name, metavar=metavar or None, help=f"{field.description}{told}")(command)
    return command


def _text(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)


@click.command()
@_service_options
@click.option("-c", "--config", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.yaml", help="Options.")
@click.option("--log-text", is_flag=True, help="The log as sentences, not as JSON.")
@debug_option
def serve(config: Path | None, log_text: bool, **given: Any) -> int:
    """Answer requests over HTTP: jobs, maps, tiles, features, until SIGTERM or Ctrl-C.

    Prints the address once it listens. Without --tokens it listens on this machine only. Jobs that are at work when it
    ends, in whatever way, go on when it is started again with the same --root.
    """
    debug = logging.getLogger("geoseg.cli").level == logging.DEBUG
    set_up_messages(as_json=not log_text, verbose=log_text, debug=debug)
    settings = _settings(config, {name: value for name, value in given.items() if value is not None})
    try:
        from geoseg.serve.running import run_service
    except ImportError as error:
        raise MissingExtraError(f"the service needs {error.name}: pip install 'geoseg[serve]'") from error
    listening = _listening(settings.host, settings.port)
    host, port = listening.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    with listening:
        run_service(settings, listening, on_ready=lambda: click.echo(url))
    say("ended", event="ended")
    return DONE


def _settings(file: Path | None, given: dict[str, Any]) -> ServiceSettings:
    """The options of a call: the command line over the file.

    Raises:
        ConfigError: One is missing, unknown or wrong.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            found = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{file}: cannot be read as YAML ({' '.join(str(error).split())})") from error
        if not isinstance(found, dict):
            raise ConfigError(f"{file}: should hold lines like 'port: 8080'")
        values = {str(key).replace("-", "_"): value for key, value in found.items()}
    try:
        return ServiceSettings.model_validate(values | given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        place = f"--{name.replace('_', '-')}" if name in given or name not in values else f"{file}: {name}"
        if first["type"] == "missing":
            raise ConfigError(f"{place} is missing: name the folder of jobs and results") from None
        raise ConfigError(f"{place}: {first['msg']}, not {first['input']!r}") from None


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ConfigError: The address is not of this machine, or the port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: cannot listen there ({error.strerror or error})") from error
