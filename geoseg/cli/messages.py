"""Every line that the program writes to standard error: for people, or with ``--log-json`` one JSON object each.

What the command line says goes through Python's logging, as what libraries say does: one place decides the form, keeps
secrets out, and never writes into the middle of a progress bar. Only the command line sets logging up.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

import click

from geoseg.cli.streams import drop
from geoseg.errors import without_secrets

__all__ = ["above_bar", "formatted", "log_is_json", "printable", "say", "set_up_messages", "tell"]

_OWN: Final = "geoseg.cli"
_SPEAKERS: Final = (_OWN, "geoseg.serve")
"""Loggers whose records hold an event and facts."""
_PREFIXES: Final = {"warning": "warning: ", "retry": "warning: ", "error": "error: "}
"""Event -> how a line about it begins, after the program's name."""
_ABOUT_SCENE: Final = {"warning", "retry"}
"""Events whose lines name the scene."""


def printable(text: str) -> str:
    r"""Text on one line: every control character, which could also steer a terminal, is a question mark.

    >>> printable("a\nb.tif")
    'a?b.tif'
    """
    return "".join(char if char.isprintable() else "?" for char in text)


def _clean(value: object) -> object:
    """A fact as a JSON value, without secrets."""
    if isinstance(value, bool | int | float) or value is None:
        return value
    if isinstance(value, dict):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return without_secrets(str(value))


class _TextForm(logging.Formatter):
    """``geoseg: warning: scene: text`` for what geoseg says, ``library: text`` for the others."""

    def format(self, record: logging.LogRecord) -> str:
        text = " ".join(record.getMessage().split())
        if record.name in _SPEAKERS:
            event, facts = record.__dict__["event"], record.__dict__["facts"]
            about = f"{facts['scene']}: " if event in _ABOUT_SCENE and facts.get("scene") else ""
            text = f"{_PREFIXES.get(event, '')}{about}{text}"
        return printable(without_secrets(f"{'geoseg' if record.name in _SPEAKERS else record.name}: {text}"))


class _JsonForm(logging.Formatter):
    """One object: time, level, event, message, then the facts."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.__dict__.get("event", "library"),
            "message": without_secrets(" ".join(record.getMessage().split())),
        }
        if record.name not in _SPEAKERS:
            line["library"] = record.name
        if record.exc_info:
            line["traceback"] = without_secrets(self.formatException(record.exc_info))
        facts = {key: _clean(value) for key, value in record.__dict__.get("facts", {}).items()}
        return json.dumps(line | facts, ensure_ascii=False)


class _StandardError(logging.Handler):
    """Writes whole lines to standard error as it is now, or above a progress bar while there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_TextForm())
        self.write: Callable[[str], None] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        if self.write is not None:
            self.write(line)
        else:
            tell(line)


_output = _StandardError()


def set_up_messages(*, debug: bool = False, verbose: bool = False, quiet: bool = False, as_json: bool = False) -> None:
    """Decides the form of messages and which of them are written, libraries' included.

    People see warnings and errors, with `verbose` everything that happens; a JSON log holds everything that happens,
    with `verbose` every tile row too; with `quiet` both hold errors only. Libraries are heard with `verbose` from
    warnings on, with `debug` at every level.
    """
    own = logging.ERROR if quiet else logging.INFO if verbose or as_json else logging.WARNING
    for speaker in _SPEAKERS:
        logging.getLogger(speaker).setLevel(logging.DEBUG if debug or (as_json and verbose) else own)
    libraries = logging.DEBUG if debug else logging.WARNING if verbose else logging.CRITICAL + 1
    _output.setFormatter(_JsonForm() if as_json else _TextForm())
    _output.filters = [lambda record: record.name in _SPEAKERS or record.levelno >= _loudness(record.name, libraries)]
    logging.root.handlers[:] = [_output]
    logging.root.setLevel(logging.DEBUG if debug else logging.WARNING)
    if debug:
        logging.captureWarnings(True)
        return
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    os.environ.setdefault("CPL_LOG", os.devnull)  # GDAL's own handler, where rasterio has not put one
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # workers are processes of their own


def _loudness(library: str, level: int) -> int:
    """From which level on a library is heard; Dask warns of every cluster that ends as it should."""
    return max(level, logging.ERROR) if library.startswith("distributed") and level > logging.DEBUG else level


def log_is_json() -> bool:
    """Whether lines on standard error are JSON objects."""
    return isinstance(_output.formatter, _JsonForm)


def say(message: str, *, level: int = logging.INFO, event: str = "message", **facts: object) -> None:
    """Writes one line.

    Args:
        message: For people.
        level: As in `logging`; `set_up_messages` decides from which level on lines are written.
        event: What kind of thing happened, for programs.
        facts: Fields of the JSON object.
    """
    logging.getLogger(_OWN).log(level, "%s", message, extra={"event": event, "facts": facts})


def tell(text: str) -> None:
    """Writes lines to standard error as they are, if anybody takes them: what is said stops no work."""
    try:
        click.echo(text, err=True)
    except OSError:
        drop(sys.stderr)


def formatted(message: str, *, level: int, event: str) -> str:
    """The line that `say` would write; takes no lock, for threads that must not wait."""
    record = logging.LogRecord(_OWN, level, "", 0, message, None, None)
    record.__dict__.update(event=event, facts={})
    return _output.format(record)


@contextmanager
def above_bar(write: Callable[[str], None]) -> Iterator[None]:
    """While the block lasts, lines are written by `write`."""
    _output.write = write
    try:
        yield
    finally:
        _output.write = None
