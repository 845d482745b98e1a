"""What a command prints on standard output while it works: a reader that goes, or a full disk, stops no work."""

from __future__ import annotations

import logging
import sys

import click

from geoseg.cli.messages import say
from geoseg.cli.outcome import DONE, FAILED
from geoseg.cli.streams import drop

__all__ = ["Answers"]


class Answers:
    """Lines on standard output, until nobody takes them any more."""

    def __init__(self) -> None:
        self._failure: OSError | None = None

    def put(self, text: str) -> None:
        """Prints a text; does nothing once one could not be printed."""
        if self._failure is not None:
            return
        try:
            click.echo(text)
        except OSError as error:
            self._failure = error
            drop(sys.stdout)

    def code(self, code: int) -> int:
        """The exit code of a command that would end with `code`; says what was lost, unless its reader has gone."""
        if self._failure is None or isinstance(self._failure, BrokenPipeError):
            return code
        text = f"standard output: {self._failure.strerror}; what was made stands in its place"
        say(text, level=logging.ERROR, event="error", error=type(self._failure).__name__)
        return FAILED if code == DONE else code
