"""What becomes of errors, signals and the messages of libraries: one line on standard error, and an exit code."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
import traceback
import warnings

import click

from geoseg.cli.signals import Interrupted
from geoseg.errors import ConfigError, GeosegError, MissingExtraError, ModelError, PlanError

__all__ = [
    "CHECK_FAILED",
    "DONE",
    "FAILED",
    "REFUSED",
    "USAGE",
    "error_text",
    "exit_code",
    "printable",
    "quiet_libraries",
    "say_error",
]

DONE = 0
FAILED = 1
"""The run failed after work began; the same command resumes."""
USAGE = 2
"""Wrong usage, or bad input found before work began."""
REFUSED = 3
"""The plan cannot fit."""
CHECK_FAILED = 4

_QUERY = re.compile(r"(https?://[^\s?]+)\?\S*?(?=[:,;.)]*(?:\s|$))")
_WRONG_PATH = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}


def exit_code(error: BaseException, *, began: bool) -> int:
    """The exit code that an error means, given whether work had begun.

    >>> exit_code(PlanError("too large"), began=False), exit_code(PlanError("too large"), began=True)
    (3, 1)
    """
    if isinstance(error, KeyboardInterrupt):
        return error.code if isinstance(error, Interrupted) else 130
    if began:
        return FAILED
    if isinstance(error, PlanError):
        return REFUSED
    if isinstance(error, GeosegError):
        return USAGE
    return USAGE if isinstance(error, OSError) and error.errno in _WRONG_PATH else FAILED


def error_text(error: BaseException) -> str:
    r"""One line about an error: its own text if geoseg raised it, else what happened; no query of any URL.

    >>> error_text(ValueError("signed http://host/a.tif?key=secret\nis gone"))
    'unexpected ValueError: signed http://host/a.tif is gone. --debug shows where'
    """
    if isinstance(error, GeosegError):
        text = str(error)
    elif isinstance(error, MemoryError):
        text = f"out of memory ({str(error) or 'no details'}). Choose a smaller --tile or --chunk, or fewer --workers"
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = f"unexpected {type(error).__name__}: {error}. --debug shows where"
    return printable(_QUERY.sub(r"\1", " ".join(text.split())))


def printable(text: str) -> str:
    r"""Text on one line: every control character, which could also steer a terminal, is a question mark.

    >>> printable("a\nb.tif")
    'a?b.tif'
    """
    return "".join(char if char.isprintable() else "?" for char in text)


def say_error(error: BaseException, *, debug: bool, about: str = "", advice: str = "") -> str:
    """Writes ``geoseg: error: <about>: <text>. <advice>`` to standard error, and returns ``<about>: <text>``.

    `about` is left out where the text names it already; with `debug` the traceback comes first.
    """
    if debug:
        traceback.print_exception(error)
    text, about = error_text(error).rstrip("."), printable(about)
    if about and _known_by(about) not in text and not isinstance(error, (ConfigError, MissingExtraError, ModelError)):
        text = f"{about}: {text}"
    click.echo(f"geoseg: error: {text}. {advice}".rstrip(". ") + ("." if advice else ""), err=True)
    return text


def _known_by(location: str) -> str:
    return location.partition("?")[0].rstrip("/").rpartition("/")[2]


def quiet_libraries(*, debug: bool, verbose: bool) -> None:
    """Keeps warnings and logs of Python, GDAL and other libraries off standard error, unless they are wanted."""
    level = logging.DEBUG if debug else logging.WARNING
    logging.basicConfig(level=level, format="%(name)s: %(message)s", stream=sys.stderr, force=True)
    logging.root.handlers[0].setLevel(level)  # dask's loggers have levels of their own and reach the root's handler
    logging.disable(logging.NOTSET if debug or verbose else logging.CRITICAL)
    if debug:
        return
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    os.environ.setdefault("CPL_LOG", os.devnull)  # GDAL's own handler, where rasterio has not put one
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # workers are processes of their own
