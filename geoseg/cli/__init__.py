"""The command line. Nothing here is imported before its command is called, so that ``geoseg --help`` is quick."""

from __future__ import annotations

import sys

from geoseg.cli.root import run

__all__ = ["main", "run"]


def main() -> None:
    """The program ``geoseg``."""
    sys.exit(run(sys.argv[1:]))
