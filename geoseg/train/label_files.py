"""Files of labels, opened: which classes they hold, and under which values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from geoseg.errors import ConfigError
from geoseg.source.maps import FinishedMap, open_map
from geoseg.source.outline import Features, is_vector, read_features
from geoseg.train.labels import UNLABELLED, LabelFile, LabelOptions, LabelPolygons, Labels

__all__ = ["open_labels"]


def open_labels(files: Sequence[LabelFile], options: LabelOptions) -> Labels:
    """The labels in `files`; polygons are read, of rasters only headers.

    Raises:
        SourceError: A file cannot be read.
        ConfigError: Classes cannot be told, or a column is not there.
    """
    vectors = [file for file in files if is_vector(file.path)]
    rasters = [(file, open_map({"labels": file.path})) for file in files if file not in vectors]
    if options.split_column is not None and rasters:
        raise ConfigError(f"{rasters[0][0].path}: a raster has no column {options.split_column!r} to split by")
    for file, raster in rasters:
        _demand_whole_numbers(file, raster)
    read = [(file, *_read_polygons(file, options)) for file in vectors]
    words = sorted({str(value) for _, _, values, _ in read for value in values if isinstance(value, str)})
    codes = _codes_of(words, options, mixed=bool(rasters) or any(isinstance(v, int) for r in read for v in r[2]))
    background = None if options.background is None else _code(options.background, codes)
    return Labels(
        rasters=tuple(rasters),
        polygons=tuple(_coded(*each, codes, options) for each in read),
        order=tuple(files),
        names={value: name for name, value in codes.items()},
        background=background,
        options=options,
    )


def _read_polygons(file: LabelFile, options: LabelOptions) -> tuple[Features, list[Any], list[str]]:
    """Polygons, their class as written (None where they have none), their group."""
    if (options.class_column is None) == (options.class_value is None):
        raise ConfigError(f"{file.path}: say what polygons are, either by --class-column or by --class-value")
    features = read_features(file.path, options.class_column)
    values = [_plain(file, value) for value in features.values]
    if options.class_value is not None:
        values = [options.class_value] * len(values)
    groups = [""] * len(values)
    if options.split_column is not None:
        groups = ["" if name is None else str(name) for name in read_features(file.path, options.split_column).values]
    return features, values, groups


def _plain(file: LabelFile, value: Any) -> int | str | None:
    """A class as a whole number or a name."""
    if value is None or value != value or (isinstance(value, str) and not value.strip()):  # noqa: PLR0124 - NaN
        return None
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        return text
    if not number.is_integer() or number < 0:
        raise ConfigError(f"{file.path}: class {text} is no whole number from 0 up")
    return int(number)


def _codes_of(words: Sequence[str], options: LabelOptions, *, mixed: bool) -> dict[str, int]:
    """Class name -> value."""
    if options.classes or not words:
        return dict(options.classes)
    if mixed:
        raise ConfigError(
            f"labels hold names ({', '.join(words[:5])}) and values: say which is which with --classes {words[0]}=1"
        )
    if isinstance(options.background, str):
        words = [options.background, *(word for word in words if word != options.background)]
    return {word: number for number, word in enumerate(words)}


def _code(value: int | str, codes: Mapping[str, int]) -> int:
    if isinstance(value, int):
        return value
    if value not in codes:
        raise ConfigError(f"background {value!r} is none of the classes {', '.join(codes) or '(all without names)'}")
    return codes[value]


def _coded(
    file: LabelFile,
    features: Features,
    values: Sequence[Any],
    groups: Sequence[str],
    codes: Mapping[str, int],
    options: LabelOptions,
) -> LabelPolygons:
    """Polygons that have a class; the others are left out."""
    listed = set(options.classes.values())
    found = [codes.get(value, UNLABELLED) if isinstance(value, str) else value for value in values]
    kept = [at for at, code in enumerate(found) if code is not None and code >= 0 and (not listed or code in listed)]
    if not kept:
        raise ConfigError(f"{file.path}: none of {len(values)} polygons has one of the classes that are wanted")
    return LabelPolygons(
        file=file,
        features=Features(
            polygons=tuple(features.polygons[at] for at in kept),
            values=tuple(values[at] for at in kept),
            crs=features.crs,
        ),
        codes=tuple(int(found[at]) for at in kept),
        groups=tuple(groups[at] for at in kept),
    )


def _demand_whole_numbers(file: LabelFile, raster: FinishedMap) -> None:
    dtype = np.dtype(raster.open().bands[0].dtype)
    if dtype.kind not in "iu":
        raise ConfigError(f"{file.path}: labels are whole numbers, but it holds {dtype}; convert it to uint8")
