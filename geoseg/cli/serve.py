"""``geoseg serve``: the engine behind HTTP."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.messages import say, set_up_messages
from geoseg.cli.options import debug_option
from geoseg.cli.outcome import DONE
from geoseg.errors import ConfigError, MissingExtraError
from geoseg.serve.settings import ServiceSettings, read_settings

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
    settings = read_settings(config, {name: value for name, value in given.items() if value is not None})
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


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ConfigError: The address is not of this machine, or the port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: cannot listen there ({error.strerror or error})") from error
    # asyncio does this for sockets of its own only. Head and body of an answer are two packets, and else the second one
    # waits until the client confirms the first, which clients put off for 40 ms.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
