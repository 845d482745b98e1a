"""``geoseg vectorize``: a raster of class values in, polygons out."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.messages import printable, say, set_up_messages
from geoseg.cli.options import EPILOG, GroupedCommand, run_options
from geoseg.cli.outcome import DONE
from geoseg.cli.pairs import names_of
from geoseg.cli.text import count_text, table
from geoseg.errors import ConfigError
from geoseg.polygon_config import VectorizeConfig
from geoseg.resolved import Resolved

if TYPE_CHECKING:
    import geopandas

    from geoseg.finished_map import FinishedMap
    from geoseg.spec import ClassInfo

__all__ = ["draw", "vectorize"]


@dataclass(slots=True)
class _Count:
    """What went by, per class name."""

    features: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    square_metres: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def passing(self, frames: Iterable[geopandas.GeoDataFrame]) -> Iterator[geopandas.GeoDataFrame]:
        """The frames, one after the other."""
        for frame in frames:
            for name, rows in frame.groupby("class_name", sort=True)["area_m2"]:
                self.features[str(name)] += len(rows)
                self.square_metres[str(name)] += float(rows.sum())
            yield frame


@click.command(cls=GroupedCommand, epilog=EPILOG)
@run_options(VectorizeConfig, metavar="MAP")
def vectorize(resolved: Resolved[VectorizeConfig]) -> int:
    """Turn MAP, a raster of class values or the directory of a run, into polygons: one per connected region.

    MAP may be of any size: it is read piece by piece, and no piece leaves a trace in the polygons. The extension of
    FILE decides its format. Prints the paths of the files.
    """
    set_up_messages(**resolved.config.for_messages())
    return draw(resolved.config)


def draw(config: VectorizeConfig) -> int:
    """Writes the polygons of a map and says how many there are; returns the exit code.

    Raises:
        ConfigError: The map or the files are not what they have to be.
        SourceError: The map cannot be read.
        SinkError: The files cannot be written.
    """
    if len(config.inputs) != 1:
        raise ConfigError(f"{len(config.inputs)} maps were given: name one, a raster or the directory of a run")
    groups = _groups(config)
    count, files = _written(config, groups)
    areas = {name: count.square_metres[name] / 1e6 for name in sorted(count.features)}
    if config.json_output:
        classes = [{"name": name, "features": count.features[name], "km2": areas[name]} for name in areas]
        click.echo(json.dumps({"files": list(map(str, files)), "classes": classes}, indent=2))
        return DONE
    if not config.quiet:
        rows = [(printable(name), count_text(count.features[name]), f"{areas[name]:,.3f}") for name in areas]
        click.echo(table([("class", "polygons", "km2"), *rows], right=frozenset({1, 2})), err=True)
    for path in files:
        click.echo(path)
    return DONE


def _groups(config: VectorizeConfig) -> Mapping[tuple[Path, str], Sequence[str]]:
    """Formats by the folder and the name that files share."""
    from geoseg.sink.vector import FORMATS

    groups: dict[tuple[Path, str], list[str]] = defaultdict(list)
    for given in config.out:
        kind = given.suffix.lower().removeprefix(".")
        if kind not in FORMATS:
            raise ConfigError(f"{given}: polygons are written to .{', .'.join(FORMATS)}; choose one of these")
        path = given.with_suffix(f".{kind}")  # as it will be written
        if not path.parent.is_dir():
            raise ConfigError(f"{path}: the folder {path.parent} does not exist")
        if path.exists() and not config.overwrite:
            raise ConfigError(f"{path}: is there already; --overwrite replaces it")
        groups[path.parent, path.stem].append(kind)
    if not groups and config.to is None:
        raise ConfigError("--out is missing: name a file of polygons, or a database with --to")
    return groups


def _written(config: VectorizeConfig, groups: Mapping[tuple[Path, str], Sequence[str]]) -> tuple[_Count, list[Path]]:
    from geoseg.finished_map import find_map
    from geoseg.sink.vector import write_features
    from geoseg.vectors import also_into, check_polygons

    found, count = find_map(config.inputs[0]), _Count()
    files: list[Path] = []
    check_polygons(config.options())
    scene = config.scene or found.scene or Path(str(found.place)).stem
    also = also_into(config.options(), found.id or scene)
    for (folder, stem), formats in (groups or {(Path.cwd(), scene): ()}).items():
        with tempfile.TemporaryDirectory(prefix=".geoseg-", dir=folder if formats else None) as scratch:
            count = _Count()
            files += write_features(
                count.passing(_frames(config, found, scene, Path(scratch))),
                folder,
                formats,
                classes=_classes(config, found),
                stem=stem,
                also=also,
                workdir=Path(scratch),
                on_event=lambda event: say(str(getattr(event, "message", event)), event="warning"),
            )
        also = None  # once is enough
    return count, files


def _classes(config: VectorizeConfig, found: FinishedMap) -> Sequence[ClassInfo]:
    from geoseg.spec import ClassInfo

    known = {each.value: each for each in found.classes}
    for value, name in names_of(config.names).items():
        known[value] = replace(known.get(value, ClassInfo(value=value, name=name)), name=name, title=name)
    return tuple(known.values())


def _frames(config: VectorizeConfig, found: FinishedMap, scene: str, scratch: Path) -> Iterator[Any]:
    from geoseg.source.labels import RasterLabels
    from geoseg.vectors import Drawing, map_features

    labels = RasterLabels(found.place, nodata=config.nodata, assume_crs=config.assume_crs)
    confidence = config.confidence or found.confidence
    return map_features(
        labels,
        drawing=Drawing(options=config.options(), scratch=scratch, chunk=config.chunk, threads=config.threads),
        classes=_classes(config, found),
        confidence=None if confidence is None else str(confidence),
        hidden=0 if found.is_change else None,
        scene=scene,
        datetime=config.datetime or found.datetime,
        model=found.model,
    )
