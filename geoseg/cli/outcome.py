"""What becomes of errors, signals and the messages of libraries: one line on standard error, and an exit code."""

from __future__ import annotations

import errno
import logging
import traceback

from geoseg.cli.messages import log_is_json, printable, say
from geoseg.cli.signals import Interrupted
from geoseg.errors import ConfigError, GeosegError, MissingExtraError, ModelError, PlanError, without_secrets

__all__ = [
    "CHECK_FAILED",
    "DONE",
    "FAILED",
    "INTERRUPTED",
    "REFUSED",
    "USAGE",
    "error_text",
    "exit_code",
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
INTERRUPTED = 128
"""Codes above this: a signal ended the run."""

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
    return printable(without_secrets(" ".join(text.split())))


def say_error(error: BaseException, *, debug: bool, about: str = "", advice: str = "") -> str:
    """Writes ``geoseg: error: <about>: <text>. <advice>`` to standard error, and returns ``<about>: <text>``.

    `about` is left out where the text names it already; with `debug` the traceback comes first, or in the JSON object.
    """
    as_field = debug and log_is_json()
    if debug and not as_field:
        traceback.print_exception(error)
    text, about = error_text(error).rstrip("."), printable(about)
    if about and _known_by(about) not in text and not isinstance(error, (ConfigError, MissingExtraError, ModelError)):
        text = f"{about}: {text}"
    message = f"{text}. {advice}".rstrip(". ") + ("." if advice else "")
    facts = {"scene": about, "error": type(error).__name__}
    if as_field:
        facts["traceback"] = "".join(traceback.format_exception(error))
    say(message, level=logging.ERROR, event="error", **facts)
    return text


def _known_by(location: str) -> str:
    return location.partition("?")[0].rstrip("/").rpartition("/")[2]
