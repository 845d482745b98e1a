"""The scenes of one call: opened one by one, each with a folder for its results."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from geoseg.config import RunConfig
from geoseg.errors import ConfigError, SinkError

if TYPE_CHECKING:
    from geoseg.protocols import Source
    from geoseg.scene import Scene

__all__ = ["Input", "OutputFolders", "inputs_of", "open_input"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One INPUT of a call."""

    location: str | None
    """As given; None where the bands name their files."""
    label: str
    """What messages call it: without a URL's query, which may hold a signature."""


def inputs_of(config: RunConfig) -> tuple[Input, ...]:
    """The inputs of a call, in order.

    Raises:
        ConfigError: There is none.
    """
    if config.inputs:
        return tuple(Input(location=location, label=_label(location)) for location in config.inputs)
    files = [place for place in config.bands.values() if isinstance(place, str)]
    if not files or len(files) < len(config.bands):
        raise ConfigError("INPUT is missing: name a scene, or the file of every band with --bands red=FILE,nir=FILE")
    return (Input(location=None, label=_label(files[0])),)


def _label(location: str) -> str:
    return location.partition("?")[0] if "://" in location else location


def open_input(given: Input, bands: Sequence[str], config: RunConfig) -> Scene[Source]:
    """The scene, of which only headers are read; torch is not loaded for a file that cannot be used."""
    from geoseg.source import open_scene

    return open_scene(given.location, bands=bands, **config.for_scene())


@dataclass(slots=True, kw_only=True)
class OutputFolders:
    """Where each scene of a call puts its results: DIR itself for one, a folder below it for each of several."""

    out: Path
    """DIR."""
    several: bool
    """Whether there is more than one scene."""
    _taken: dict[str, str] = field(default_factory=dict)

    def of(self, scene_id: str, label: str) -> Path:
        """The folder of a scene, named after its id.

        Raises:
            ConfigError: An earlier scene of this call has the same id.
        """
        if not self.several:
            return self.out
        name = re.sub(r"[^\w.-]+", "_", scene_id).lstrip(".") or "scene"
        if name in self._taken:
            raise ConfigError(
                f"{label}: its results would go to {self.out / name}, where those of {self._taken[name]} are; "
                "give it in a call of its own with another --out"
            )
        self._taken[name] = label
        return self.out / name

    @contextmanager
    def made(self) -> Iterator[None]:
        """Makes the folder that several scenes share; it goes again if nothing was put into it.

        Raises:
            SinkError: It cannot be made.
        """
        if not self.several:
            yield
            return
        try:
            self.out.mkdir(exist_ok=True)
        except FileNotFoundError as error:
            raise SinkError(
                f"{self.out}: its parent directory does not exist; create {self.out.parent} first"
            ) from error
        except OSError as error:
            raise SinkError(f"{self.out}: cannot be made ({error.strerror}); choose another --out") from error
        try:
            yield
        finally:
            with suppress(OSError):
                self.out.rmdir()
