"""The scenes of one call: opened one by one, each with a folder for its results."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from geoseg.config import ChangeConfig, RunConfig
from geoseg.errors import ConfigError, without_secrets
from geoseg.store import Place, open_store

if TYPE_CHECKING:
    from geoseg.events import OnEvent
    from geoseg.protocols import Source
    from geoseg.scene import Scene
    from geoseg.source.items import ListedItem

__all__ = ["MOSAIC", "Input", "OutputFolders", "PairInput", "inputs_of", "pair_of_inputs"]


MOSAIC = "mosaic"
"""Name of the folder of the map of all scenes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One scene of a call."""

    location: str | ListedItem | None
    """As given, or as a list of items has it; None where the bands name their files."""
    label: str
    """What messages call it: without a URL's query, which may hold a signature."""

    def opened(self, config: RunConfig, on_event: OnEvent) -> tuple[Scene[Source], dict[str, Any]]:  # noqa: ARG002 - a pair needs it
        """The scene, of which only headers are read, and what it adds to the arguments of `geoseg.pipeline.predicted`.

        Torch is not loaded for a file that cannot be used.
        """
        from geoseg.models import read_spec
        from geoseg.source import open_scene

        return open_scene(self.location, bands=read_spec(config.model).bands, **config.for_scene()), {}


@dataclass(frozen=True, slots=True, kw_only=True)
class PairInput:
    """The two scenes of a call that compares them."""

    before: str | None
    """The earlier one, as given."""
    after: str | None
    """The later one."""
    label: str
    """What messages call them."""

    def opened(self, config: RunConfig, on_event: OnEvent) -> tuple[Scene[Source], dict[str, Any]]:
        """Both as one scene, and what they add to the arguments of `geoseg.pipeline.predicted`."""
        from geoseg.change import compare
        from geoseg.options import ChangeOptions

        found = compare(
            self.before,
            self.after,
            model=config.model,
            options=ChangeOptions(**cast("ChangeConfig", config).for_dates()),
            for_scene=config.for_scene(),
            on_event=on_event,
        )
        return found.scene, {"model": found.model, "comparison": found.comparison}


def inputs_of(config: RunConfig) -> tuple[Input, ...]:
    """The scenes of a call, in order, each once: first those that are named, then those of the list of items.

    Raises:
        ConfigError: There is none.
        SourceError: The list of items cannot be read.
    """
    named = [Input(location=location, label=_label(location)) for location in config.inputs]
    if config.items is not None:
        from geoseg.source.items import list_items

        listed = list_items(config.items, unsigned=config.aws_no_sign_request)
        named += [Input(location=item, label=item.label) for item in listed]
    if named:
        once: dict[object, Input] = {}
        for given in named:
            once.setdefault(_identity(given.location), given)
        return tuple(once.values())
    files = [place for place in config.bands.values() if isinstance(place, str)]
    if not files or len(files) < len(config.bands):
        raise ConfigError("INPUT is missing: name a scene, or the file of every band with --bands red=FILE,nir=FILE")
    return (Input(location=None, label=_label(files[0])),)


def _identity(location: str | ListedItem | None) -> object:
    """The same for every way to write one local path, links included."""
    if isinstance(location, str) and "://" not in location:
        with suppress(OSError, ValueError, RuntimeError):  # no path of a file: said when it is opened
            return Path(location).resolve()
    return location


def _label(location: str) -> str:
    return without_secrets(location) if "://" in location else location


def pair_of_inputs(config: ChangeConfig) -> PairInput:
    """The two scenes of a call.

    Raises:
        ConfigError: There are not two, or bands of a date that is not named.
    """
    by_file = [
        bool(bands) and all(isinstance(place, str) for place in bands.values())
        for bands in (config.bands_before, config.bands_after)
    ]
    named = list(config.inputs)
    if len(named) + sum(by_file) != 2:
        if len(named) + sum(by_file) == 1 and config.align not in {None, "before", "after"}:
            raise ConfigError(f"AFTER is missing: --align took {config.align} for its grid: write --align before")
        raise ConfigError(
            f"change compares two scenes, BEFORE and AFTER, not {len(named)}: name both, or the files of a date's "
            "bands with --bands-before or --bands-after"
        )
    before = None if by_file[0] else named.pop(0)
    after = None if by_file[1] else named.pop(0)
    first, second = (
        _label(str(next(iter(bands.values()))) if place is None else place).rstrip("/").rpartition("/")[2]
        for place, bands in ((before, config.bands_before), (after, config.bands_after))
    )
    return PairInput(before=before, after=after, label=f"{first} -> {second}")


@dataclass(slots=True, kw_only=True)
class OutputFolders:
    """Where each scene of a call puts its results: DIR itself for one, a folder below it for each of several."""

    out: Place
    """DIR."""
    several: bool
    """Whether each scene gets a folder of its own."""
    keep_finished: bool = False
    """Whether a finished run of the same request is taken as it stands."""
    _taken: set[str] = field(default_factory=lambda: {MOSAIC})

    def of(self, scene: Scene[Source]) -> Place:
        """The folder of a scene, named after its id; of several with that id, the second's name ends in ``-2``.

        A folder that a run of the same input stands in already is that scene's, in whatever order they come.
        """
        if not self.several:
            return self.out
        name = re.sub(r"[^\w.-]+", "_", scene.id).lstrip(".") or "scene"
        names = (name if number == 1 else f"{name}-{number}" for number in count(1))
        store = open_store(self.out)
        free = next(name for name in names if name not in self._taken and self._is_for(scene, store.href(name)))
        self._taken.add(free)
        return store.href(free)

    @property
    def mosaic(self) -> Place:
        """The folder of the map of all scenes."""
        return open_store(self.out).href(MOSAIC)

    def _is_for(self, scene: Scene[Source], folder: Place) -> bool:
        """Whether no run of another input stands there."""
        from geoseg.journal import RunDirectory

        directory = RunDirectory(folder)
        request = directory.stored_request() or directory.last_request()
        return request is None or not scene.href or scene.href in request["asked"]["inputs"]

    @contextmanager
    def made(self) -> Iterator[None]:
        """Makes the folder that several scenes share; it goes again if nothing was put into it.

        Raises:
            SinkError: It cannot be made.
        """
        if not self.several:
            yield
            return
        with open_store(self.out).made():
            yield
