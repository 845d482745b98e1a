"""``geoseg calibrate``: makes a model as sure as it is right, on scenes that people labelled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.options import debug_option, json_option
from geoseg.cli.outcome import DONE
from geoseg.cli.text import count_text, table
from geoseg.errors import ConfigError

if TYPE_CHECKING:
    from geoseg.protocols import Source
    from geoseg.scene import Scene
    from geoseg.spec import ModelSpec
    from geoseg.train.temperature import Calibration

__all__ = ["calibrate"]


@click.command()
@click.argument("model")
@click.argument("scenes", nargs=-1, required=True, metavar="SCENE...")
@click.option(
    "--truth",
    multiple=True,
    required=True,
    metavar="FILE",
    help="Raster of class values, or polygons; may be repeated.",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Write a calibrated copy.")
@click.option("--write", is_flag=True, help="Write the temperature into MODEL itself.")
@click.option("--class-column", metavar="NAME", help="Column of polygons with class values or names.")
@click.option("--class-value", type=int, metavar="N", help="Class of every polygon, where no column tells it.")
@click.option("--background", type=int, metavar="N", help="Class of what no polygon covers; else not known there.")
@click.option("--all-touched", is_flag=True, help="Polygons take every pixel that they touch.")
@click.option("--ignore", default="", metavar="VALUES", help="Values of rasters that are no label, like 0,255.")
@click.option(
    "--pixels",
    type=click.IntRange(min=1),
    default=1_000_000,
    show_default=True,
    metavar="N",
    help="Labelled pixels that are used, at most.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Draws them.")
@click.option("--align", metavar="before|after|FILE", help="Grid of pairs whose dates lie on different ones.")
@click.option("--mask", metavar="FILE[:VALUES]", help="Where it is not 0 (or has these values), pixels are not used.")
@click.option("--resolution", type=float, metavar="SIZE", help="Pixel size to read at.")
@click.option("--crs", metavar="EPSG:N", help="CRS to read in.")
@click.option("--scale", type=float, help="Reflectance per stored unit, where scenes declare none or a wrong one.")
@click.option("--offset", type=float, help="Reflectance of a stored 0.")
@click.option("--nodata", type=float, help='Stored number that means "no observation".')
@json_option
@debug_option
def calibrate(
    model: str,
    scenes: tuple[str, ...],
    *,
    truth: tuple[str, ...],
    out: Path | None,
    write: bool,
    ignore: str,
    pixels: int,
    seed: int,
    align: str | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Find the temperature at which MODEL is as sure as it is right, on labelled SCENEs that it was not trained on.

    A model that compares dates takes SCENEs two by two, before and after. The temperature divides the scores before
    they become probabilities: labels stay as they are, confidence changes.
    """
    from geoseg.models.package import open_package
    from geoseg.models.writing import amend_card, demand_own
    from geoseg.train.labels import LabelFile, LabelOptions
    from geoseg.train.temperature import calibrate as found_by

    package = open_package(model)
    if write or out is not None:
        demand_own(package, out)
    reading = LabelOptions(
        ignore=_values(ignore),
        **{name: given.pop(name) for name in ("class_column", "class_value", "background", "all_touched")},
    )
    opened = _opened(package.spec, scenes, align, given)
    files = [LabelFile(path=path) for path in truth]
    found = found_by(model, opened, files, reading=reading, pixels=pixels, seed=seed)
    path = None
    if write or out is not None:
        facts = {**asdict(found), "scenes": [scene.id for scene in opened]}
        path = amend_card(package, {"geoseg:temperature": found.temperature, "geoseg:calibration": facts}, out)
    if as_json:
        click.echo(json.dumps({"model": model, **asdict(found), "written": path and str(path)}, indent=2))
    else:
        click.echo(_told(found))
        if path is not None:
            click.echo(str(path))
    return DONE


def _opened(
    spec: ModelSpec, places: Sequence[str], align: str | None, options: dict[str, Any]
) -> list[Scene[Source]] | list[Scene[Any]]:
    """Each scene, or every two of them as one."""
    from geoseg.source import open_scene
    from geoseg.source.pair import pair_of

    opened = [open_scene(place, bands=spec.bands, **options) for place in places]
    if spec.dates == 1:
        return opened
    if spec.dates != 2 or len(opened) % 2:
        raise ConfigError(
            f"model {spec.name!r} compares {spec.dates} dates: name scenes two by two, before and after, "
            f"not {len(opened)}"
        )
    return [pair_of(before, after, align=align) for before, after in zip(opened[::2], opened[1::2], strict=True)]


def _values(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.lstrip("-").isdecimal() for part in parts):
        raise ConfigError(f"--ignore {text}: write whole numbers, like 0,255")
    return tuple(map(int, parts))


def _told(found: Calibration) -> str:
    (error, then), (loss, least) = found.error, found.loss
    rows = [
        (f"{count_text(found.pixels)} pixels, {100 * found.accuracy:.1f} % right", "before", "after"),
        ("temperature", f"{found.was:.4g}", f"{found.temperature:.4g}"),
        ("expected calibration error", f"{error:.4f}", f"{then:.4f}"),
        ("negative log likelihood", f"{loss:.4f}", f"{least:.4f}"),
    ]
    return table(rows, right=frozenset({1, 2}))
