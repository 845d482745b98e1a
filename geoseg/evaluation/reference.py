"""A map and the truth about it, on the map's grid: what `geoseg.evaluation.scoring` reads window by window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from geoseg.errors import ConfigError, GridError
from geoseg.finished_map import find_map
from geoseg.protocols import Source
from geoseg.source.burned import burn
from geoseg.source.grids import bounds_text, overlaps, same_grid
from geoseg.source.maps import on_grid
from geoseg.source.outline import is_vector, read_features
from geoseg.source.raster import one_band
from geoseg.store import Place
from geoseg.window import GeoBox

__all__ = ["Comparison", "Join", "TruthOptions", "compared", "value_of"]

Join: TypeAlias = Mapping[int, int | str] | Mapping[str, int | str]
"""Class of the truth -> class of the map that it counts as; values, or names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A map, its truth, and what the map says about itself; all on one grid."""

    predicted: Source
    """One band of class values."""
    truth: Source
    """One band of class values, on the grid of `predicted`."""
    confidence: Source | None
    """One band of probabilities, on that grid."""
    names: Mapping[int, str]
    """Class names by value, as far as they are known."""
    join: Mapping[int, int]
    """Value of the truth -> value of the map that it counts as, where they differ."""
    is_change: bool
    """Whether the map is one of change: `confidence` is then the probability that value 0 is wrong."""
    notes: tuple[str, ...]
    """What a reader of the scores has to know about how both were brought together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthOptions:
    """How the truth is read."""

    class_column: str | None = None
    """Column of polygons that holds class values, or names of the map's classes."""
    class_value: int | None = None
    """Class of every polygon, where no column tells it."""
    background: int | None = None
    """Class of what no polygon covers; None: nothing is known there."""
    all_touched: bool = False
    """Whether a pixel belongs to every polygon that touches it, or to the one that holds its centre."""
    join: Join | None = None
    """Class of the truth -> class of the map that it counts as; values, or names."""


def compared(
    predicted: Place,
    truth: Place,
    *,
    options: TruthOptions,
    confidence: Place | None = None,
    names: Mapping[int, str] | None = None,
) -> Comparison:
    """A map and its truth on the map's grid; only headers and polygons are read.

    Args:
        predicted: A raster of class values, or the directory of a run.
        truth: A raster of class values on any grid, or polygons (GeoJSON, GeoPackage, GeoParquet).
        options: How the truth is read.
        confidence: A raster of probabilities on the map's grid; None: that of the run, if there is one.
        names: Class names by value; None: those of the run.

    Raises:
        SourceError: One of them cannot be read.
        GridError: They do not meet, or the confidence lies on another grid.
        ConfigError: The truth's classes cannot be told.
    """
    found = find_map(predicted)
    known = {**found.names, **(names or {})}
    mapped = one_band(found.place, "predicted")
    burned = is_vector(truth)
    true, notes = _polygons(Path(truth), mapped.geobox, known, options) if burned else _raster(truth, mapped, options)
    place = found.confidence if confidence is None else confidence
    return Comparison(
        predicted=mapped,
        truth=true,
        confidence=None if place is None else _confidence(place, mapped.geobox),
        names=known,
        join={} if burned else _joined(options, known),
        is_change=found.is_change,
        notes=tuple(notes),
    )


def value_of(word: int | str, names: Mapping[int, str]) -> int:
    """The class value that a person means by a number or a name.

    Raises:
        ConfigError: There is no class of that name.

    >>> value_of("3", {}), value_of("Water", {1: "water"})
    (3, 1)
    """
    text = str(word).strip()
    if text.removeprefix("-").isdecimal():
        return int(text)
    values = [value for value, name in names.items() if name.casefold() == text.casefold()]
    if not values:
        raise ConfigError(
            f"no class of the map is named {text!r}; it has {', '.join(names.values()) or 'no names'}: "
            "write values, name the map's classes with --names 1=water, or join classes with --map"
        )
    return values[0]


def _joined(options: TruthOptions, names: Mapping[int, str]) -> dict[int, int]:
    return {value_of(old, names): value_of(new, names) for old, new in (options.join or {}).items()}


def _raster(truth: Place, mapped: Source, options: TruthOptions) -> tuple[Source, list[str]]:
    source = one_band(truth, "truth")
    for option, given in (("--class-column", options.class_column), ("--class-value", options.class_value)):
        if given is not None:
            raise ConfigError(f"{truth}: is a raster, which has its classes in its pixels; leave {option} out")
    if source.geobox == mapped.geobox or same_grid(source.geobox, mapped.geobox):
        return source, []
    if not overlaps(source.geobox, mapped.geobox):
        raise GridError(
            f"{truth} ({bounds_text(source.geobox)}) does not touch the map ({bounds_text(mapped.geobox)}): "
            "are they of one place?"
        )
    note = f"the truth lies on another grid: of {Path(str(truth)).name} the pixel counts that holds the map's centre"
    return on_grid(source, mapped.geobox), [note]


def _polygons(path: Path, grid: GeoBox, names: Mapping[int, str], options: TruthOptions) -> tuple[Source, list[str]]:
    features = read_features(path, options.class_column)
    if (options.class_column is None) == (options.class_value is None):
        raise ConfigError(
            f"{path}: say which class its polygons are of: with --class-column NAME, or with --class-value N for all"
        )
    join = {str(key).casefold(): value for key, value in (options.join or {}).items()}
    told: list[Any] = [options.class_value if options.class_column is None else value for value in features.values]
    kept = [number for number, value in enumerate(told) if value is not None]
    if not kept:
        raise ConfigError(f"{path}: column {options.class_column!r} is empty")
    texts = {number: _text(told[number]) for number in kept}
    values = {text: value_of(join.get(text.casefold(), text), names) for text in set(texts.values())}
    notes = [] if len(kept) == len(told) else [f"{len(told) - len(kept)} polygons without a class were left out"]
    source = burn(
        features.only(kept),
        [values[texts[number]] for number in kept],
        grid,
        all_touched=options.all_touched,
        background=options.background,
    )
    return source, notes


def _text(value: Any) -> str:
    """A class as text: 3.0 is 3.

    >>> _text(3.0), _text(True), _text("Water ")
    ('3', '1', 'Water')
    """
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    return str(value).strip()


def _confidence(place: Place, grid: GeoBox) -> Source:
    source = one_band(place, "confidence")
    if source.geobox != grid and not same_grid(source.geobox, grid):
        raise GridError(f"{place} ({bounds_text(source.geobox)}) does not lie on the grid of the map")
    return source
