"""Every error that geoseg raises on purpose.

    GeosegError
    |-- SourceError      (OSError)      a raster cannot be opened or read
    |-- BandError        (KeyError)     a band is not in the scene
    |-- GridError        (ValueError)   scene, tile and overlap disagree; dates do not overlap
    |-- ModelError                      weights, digest or specification mismatch
    |-- PlanError                       the run will not fit: by how much, and which knob
    |-- ChunkError                      one chunk failed on a worker
    |-- ClusterError     (OSError)      a cluster cannot be reached, or its workers lack what a run needs
    |-- SinkError        (OSError)      an output cannot be written
    |-- ConfigError      (ValueError)   an option or a configuration file is wrong
    `-- MissingExtraError (ImportError) an optional package is not installed

Each class also inherits from the builtin that people already catch. Constructor arguments are positional and
reach ``super().__init__`` unchanged, so every error survives pickle on its way back from a worker.
"""

from __future__ import annotations

import os
import re

__all__ = [
    "BandError",
    "ChunkError",
    "ClusterError",
    "ConfigError",
    "GeosegError",
    "GridError",
    "MissingExtraError",
    "ModelError",
    "PlanError",
    "SinkError",
    "SourceError",
    "without_secrets",
]

_SIGNATURE = re.compile(r"""(\w+://[^\s?]+)\?\S*?(?=['"]?[])}:,;.]*(?:\s|$))""")
_LOGIN = re.compile(r"(\w+://)[^\s/@'\"]+@")
_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|CREDENTIAL", re.IGNORECASE)
_SHORTEST_SECRET = 8  # characters: what is shorter may be any word of a message


class GeosegError(Exception):
    """Root of every error that geoseg raises on purpose; the text says what, where, the numbers, what to do."""


class SourceError(GeosegError, OSError):
    """A raster, item or location cannot be opened or read."""

    def __init__(self, message: str) -> None:
        super().__init__(message)

    def __str__(self) -> str:
        return str(self.args[0])


class BandError(GeosegError, KeyError):
    """A band that the model needs is not in the scene; the text names those that are."""

    def __str__(self) -> str:  # KeyError would show the repr
        return str(self.args[0])


class GridError(GeosegError, ValueError):
    """Scene, tile and overlap disagree, or two grids do not match."""


class ModelError(GeosegError):
    """A model package is damaged, does not match its card, or produced something that is no score."""


class PlanError(GeosegError):
    """The run cannot fit; the text says by how much and which option to change."""


class ChunkError(GeosegError):
    """One chunk failed; carries the scene's id and the chunk's window as text, the cause is chained."""

    def __init__(self, message: str, scene: str = "", window: str = "") -> None:
        super().__init__(message, scene, window)

    def __str__(self) -> str:
        return str(self.args[0])

    @property
    def scene(self) -> str:
        """Id of the scene."""
        return str(self.args[1])

    @property
    def window(self) -> str:
        """The chunk's window, as text."""
        return str(self.args[2])


class ClusterError(GeosegError, OSError):
    """A cluster cannot be reached, or its workers lack what the run needs."""

    def __init__(self, message: str) -> None:
        super().__init__(message)

    def __str__(self) -> str:
        return str(self.args[0])


class SinkError(GeosegError, OSError):
    """An output cannot be written."""

    def __init__(self, message: str) -> None:
        super().__init__(message)

    def __str__(self) -> str:
        return str(self.args[0])


class ConfigError(GeosegError, ValueError):
    """An option, an environment variable or a configuration file is wrong."""


class MissingExtraError(GeosegError, ImportError):
    """An optional package is missing; the text holds the exact line that installs it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


def without_secrets(text: str) -> str:
    """Text without the query and the login of any URL, and without any secret of this process's environment.

    >>> without_secrets("https://me:word@host/a.tif?key=secret: is gone")
    'https://host/a.tif: is gone'
    """
    text = _LOGIN.sub(r"\1", _SIGNATURE.sub(r"\1", text))
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, "***")
    return text
