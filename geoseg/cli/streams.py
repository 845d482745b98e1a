"""Standard output and standard error where nobody takes them: closed, a reader that is gone, a full disk."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

__all__ = ["drop", "stand_in"]


def stand_in() -> None:
    """Gives standard output and standard error somewhere to go where whoever called closed them."""
    nowhere = Path(os.devnull)
    sys.stdout = sys.stdout or nowhere.open("w", encoding="utf-8")
    sys.stderr = sys.stderr or nowhere.open("w", encoding="utf-8")


def drop(stream: TextIO) -> None:
    """Sends what is still on its way nowhere, and all that follows: the interpreter would fail of it at its end."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
