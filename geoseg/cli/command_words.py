"""Commands without a configuration, called by the options that a step of a pipeline names."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

import click

from geoseg.cli.outcome import DONE
from geoseg.errors import ConfigError
from geoseg.resolved import meant
from geoseg.workflow import Step

__all__ = ["captured", "parsed", "switch", "with_switches", "words_of"]


def switch(value: Any) -> Any:
    """A switch that a variable gave as text; anything else as it is.

    >>> switch("True"), switch(False), switch("perhaps")
    (True, False, 'perhaps')
    """
    return {"true": True, "false": False}.get(value.strip().lower(), value) if isinstance(value, str) else value


def with_switches(command: click.Command, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a command with its switches as they are meant."""
    flags = {_key(param) for param in command.params if _is_flag(param)}
    return {key: switch(value) if key in flags else value for key, value in options.items()}


def words_of(step: Step, command: click.Command, options: Mapping[str, Any]) -> list[str]:
    """The words of a command line that mean these options, by the command's own names.

    Raises:
        ConfigError: There is no such option, or its value is none.
    """
    words, arguments = [], []
    known = {_key(param): param for param in command.params}
    for key, value in options.items():
        param = known.get(key)
        if param is None:
            raise ConfigError(f"{step.origin}: {key}: no such option{meant(key, known)}")
        flag = _is_flag(param)
        if flag and not isinstance(value, bool):
            raise ConfigError(f"{step.origin}: {key}: should be true or false, not {value!r}")
        if isinstance(param, click.Argument):
            arguments.append((command.params.index(param), str(value)))
        elif flag:
            words += [param.opts[-1]] if value else []
        elif param.multiple:
            words += [f"{param.opts[-1]}={each}" for each in (value if isinstance(value, list) else [value])]
        else:
            words.append(f"{param.opts[-1]}={_text(value)}")
    return [*words, "--", *(text for _, text in sorted(arguments))]


def _is_flag(param: click.Parameter) -> bool:
    return isinstance(param, click.Option) and param.is_flag


def _key(param: click.Parameter) -> str:
    """The name of a parameter in files: that of its long option."""
    longest = max(param.opts, key=len).removeprefix("--")
    return longest.replace("-", "_")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}={each}" for key, each in value.items())
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def parsed(step: Step, command: click.Command, words: list[str]) -> click.Context:
    """A command with its values read, to be done later.

    Raises:
        ConfigError: A value is wrong, or one is missing.
    """
    try:
        return command.make_context(step.verb, words)
    except click.ClickException as error:
        raise ConfigError(f"{step.origin}: {error.format_message()}") from error


def captured(context: click.Context) -> tuple[int, Any]:
    """The exit code of a command and the JSON document that it prints."""
    with redirect_stdout(io.StringIO()) as printed, context:
        code = context.command.invoke(context)
    return int(code or DONE), json.loads(printed.getvalue())
