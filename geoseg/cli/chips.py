"""``geoseg chips``: scenes and labels in, training samples in honest splits out."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.messages import say
from geoseg.cli.options import json_option
from geoseg.cli.outcome import DONE, exit_code, say_error
from geoseg.cli.pairs import named_once
from geoseg.cli.text import count_text, table
from geoseg.errors import ConfigError, GeosegError
from geoseg.events import Event, Warned

if TYPE_CHECKING:
    from geoseg.protocols import Source
    from geoseg.scene import Scene
    from geoseg.train.chips import ChipSet

__all__ = ["chips"]


@click.command()
@click.argument("scenes", nargs=-1, required=True, metavar="SCENE...")
@click.option(
    "--labels",
    "labels",
    multiple=True,
    required=True,
    metavar="[SPLIT=]FILE",
    help="Raster, GeoJSON, GeoPackage or GeoParquet; may be repeated, later files are painted over earlier ones.",
)
@click.option(
    "--bands",
    required=True,
    metavar="red,nir=4,...",
    help="Bands of a chip, in order: names, or NAME=NUMBER, NAME=FILE.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Where chips go."
)
@click.option("--size", default=256, show_default=True, metavar="PIXELS", help="Side of a chip.")
@click.option("--class-column", metavar="NAME", help="Column of polygons that holds their class.")
@click.option("--class-value", type=int, metavar="N", help="Class of every polygon, where no column tells it.")
@click.option(
    "--classes", metavar="water=1,...", help="Names and values of classes; others are no labels. Default: those found."
)
@click.option("--background", metavar="CLASS", help="Class of what no polygon covers, in chips that hold one.")
@click.option("--ignore", metavar="VALUES", help="Values of rasters that are no label, like 0,255.")
@click.option("--all-touched", is_flag=True, help="A pixel belongs to every polygon that touches it.")
@click.option(
    "--split",
    default="blocks",
    show_default=True,
    metavar="RULE",
    help="What stays together: blocks[:METRES], column:NAME, file, or areas:FILE.",
)
@click.option(
    "--fractions",
    default="0.7,0.15,0.15",
    show_default=True,
    metavar="TRAIN,VAL[,TEST]",
    help="Part of the labelled pixels for each split.",
)
@click.option(
    "--buffer",
    default=0.0,
    show_default=True,
    metavar="METRES",
    help="Least distance between chips of different splits.",
)
@click.option(
    "--per-class",
    type=int,
    metavar="N",
    help="Chips of each class to train on; rare classes choose first. Default: all.",
)
@click.option("--seed", default=0, show_default=True, metavar="N", help="Decides what is left to chance.")
@click.option("--pairs", is_flag=True, help="SCENEs are pairs of dates, before and after in turn: chips hold both.")
@click.option("--align", metavar="before|after|FILE", help="Grid of pairs whose dates lie on different ones.")
@click.option("--mask", metavar="FILE[:VALUES]", help="Where it is not 0 (or has these values), pixels are not used.")
@click.option("--resolution", type=float, metavar="SIZE", help="Pixel size to read at.")
@click.option("--crs", metavar="EPSG:N", help="CRS to read in.")
@click.option("--assume-crs", metavar="EPSG:N", help="CRS of scenes that declare none.")
@click.option("--scale", type=float, help="Reflectance per stored unit, where scenes declare none or a wrong one.")
@click.option("--offset", type=float, help="Reflectance of a stored 0.")
@click.option("--nodata", type=float, help='Stored number that means "no observation".')
@click.option("--aws-no-sign-request", is_flag=True, help="Ask S3 without credentials.")
@click.option("--overwrite", is_flag=True, help="Replace chips of another request in DIR.")
@json_option
@click.option("--debug", is_flag=True, help="Tracebacks and library messages.")
def chips(
    *,
    scenes: tuple[str, ...],
    labels: tuple[str, ...],
    bands: str,
    out: Path,
    fractions: str,
    pairs: bool,
    align: str | None,
    overwrite: bool,
    as_json: bool,
    debug: bool,
    **given: Any,
) -> int:
    """Cut training chips from SCENEs where there are labels, in splits that lie apart on the ground.

    Only labelled windows are read. Writes images, labels, chips.csv, chips.json, split.geojson and split.png into DIR;
    the same command goes on where it was interrupted.
    """
    from geoseg.source import open_scene
    from geoseg.train.chips import ChipOptions, LabelFile, LabelOptions, cut_chips

    names, band_map = _bands(bands)
    chosen = ChipOptions(
        fractions=_fractions(fractions),
        **{name: given.pop(name) for name in ("size", "split", "buffer", "per_class", "seed")},
    )
    reading = LabelOptions(
        classes=_classes(given.pop("classes")),
        ignore=_values(given.pop("ignore")),
        background=_background(given.pop("background")),
        **{name: given.pop(name) for name in ("class_column", "class_value", "all_touched")},
    )
    told = _Teller()
    try:
        opened = [open_scene(scene, bands=names, band_map=band_map, **given) for scene in scenes]
        made = cut_chips(
            _paired(opened, align) if pairs else opened,
            [LabelFile(path=path, split=split) for split, path in map(_label_file, labels)],
            out,
            options=chosen,
            labels=reading,
            overwrite=overwrite,
            on_event=told,
        )
    except GeosegError as error:
        if not told.began:
            raise
        say_error(error, debug=debug, advice="The same command goes on where this one ended")
        return exit_code(error, began=True)
    click.echo(json.dumps({**asdict(made), "folder": str(out)}, indent=2) if as_json else _told(made))
    return DONE


def _paired(scenes: Sequence[Scene[Source]], align: str | None) -> list[Scene[Any]]:
    """Every two scenes as one."""
    from geoseg.source.pair import pair_of

    if len(scenes) % 2:
        raise ConfigError(f"--pairs takes scenes two by two, before and after; there are {len(scenes)}")
    return [pair_of(before, after, align=align) for before, after in zip(scenes[::2], scenes[1::2], strict=True)]


class _Teller:
    """Says warnings, and remembers whether anything was written."""

    began = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, Warned):
            say(event.message, level=logging.WARNING, event="warning")
        else:
            self.began = True


def _bands(text: str) -> tuple[tuple[str, ...], dict[str, str | int]]:
    """Names in order, and where those are that are placed by hand.

    >>> _bands("red,nir=4")
    (('red', 'nir'), {'nir': 4})
    """
    pairs = [part.strip().partition("=") for part in text.split(",")]
    names = tuple(name.strip().lower() for name, _, _ in pairs)
    if not all(names) or len(set(names)) < len(names) or any(equals and not place for _, equals, place in pairs):
        raise ConfigError(f"--bands {text}: name each band once, like red,green,nir=4")
    places = {name: place.strip() for name, (_, _, place) in zip(names, pairs, strict=True) if place}
    return names, {name: int(place) if place.isdecimal() else place for name, place in places.items()}


def _fractions(text: str) -> dict[str, float]:
    from geoseg.train.split import SPLITS

    try:
        parts = [float(part) for part in text.split(",")]
        return dict(zip(SPLITS[: len(parts)], parts, strict=True))
    except ValueError:
        raise ConfigError(f"--fractions {text}: give two or three numbers, like 0.7,0.15,0.15") from None


def _classes(text: str | None) -> dict[str, int]:
    """Names with their values.

    >>> _classes("water=1, ice=7")
    {'water': 1, 'ice': 7}
    """
    pairs = [part.rpartition("=") for part in text.split(",")] if text else []
    if not all(name.strip() and value.strip().isdecimal() for name, _, value in pairs):
        raise ConfigError(f"--classes {text}: write names with their values, like water=1,forest=2")
    named = named_once(((int(value), name.strip()) for name, _, value in pairs), f"--classes {text}")
    return {name: value for value, name in named.items()}


def _values(text: str | None) -> tuple[int, ...]:
    parts = text.split(",") if text else []
    if not all(part.strip().removeprefix("-").isdecimal() for part in parts):
        raise ConfigError(f"--ignore {text}: write whole numbers, like 0,255")
    return tuple(int(part) for part in parts)


def _background(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def _label_file(text: str) -> tuple[str, str]:
    """Split (empty where none is named) and path.

    >>> _label_file("val=north.gpkg"), _label_file("a=b.tif")
    (('val', 'north.gpkg'), ('', 'a=b.tif'))
    """
    from geoseg.train.split import SPLITS

    split, equals, path = text.partition("=")
    return (split, path) if equals and split in SPLITS else ("", text)


def _told(made: ChipSet) -> str:
    from geoseg.train.survey import DROPPED

    total = sum(sum(pixels.values()) for pixels in made.pixels.values())
    rows = [("split", "chips", "labelled", *made.classes)]
    for split, pixels in made.pixels.items():
        share = f"{100 * sum(pixels.values()) / total:.1f} %"
        rows.append((split, count_text(made.chips[split]), share, *(count_text(pixels[name]) for name in made.classes)))
    lines = [table(rows, right=frozenset(range(1, len(rows[0])))) if total else "no chip is left"]
    lines += [f"{count_text(number)} chips {DROPPED[why]}" for why, number in made.dropped.items()]
    lines += [f"{pair.replace('-', ' and ')} lie {metres:,.0f} m apart" for pair, metres in made.metres_between.items()]
    return "\n".join([*lines, str(made.folder / "chips.csv")])
