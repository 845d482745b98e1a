"""``geoseg evaluate``: how well a map agrees with the truth."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.messages import log_is_json, printable, say
from geoseg.cli.options import debug_option, json_option
from geoseg.cli.outcome import CHECK_FAILED, DONE
from geoseg.cli.pairs import names_of, pairs_of
from geoseg.cli.text import count_text, table
from geoseg.errors import ConfigError
from geoseg.evaluation.scores import TITLES
from geoseg.evaluation.stratified import Z95

if TYPE_CHECKING:
    from geoseg.evaluation.scores import Interval, Scores

__all__ = ["evaluate"]

_WORST = 20
"""Regions that the table lists."""


def _numbers(found: dict[str, str], option: str) -> dict[str, float]:
    for key, value in found.items():
        try:
            float(value)
        except ValueError:
            raise ConfigError(f"{option} {key}={value}: {value!r} is no number") from None
    return {key: float(value) for key, value in found.items()}


@click.command()
@click.argument("pred")
@click.argument("truth")
@click.option("--class-column", metavar="NAME", help="Column of TRUTH's polygons with class values or names.")
@click.option("--class-value", type=int, metavar="N", help="Class of all of TRUTH's polygons.")
@click.option("--background", type=int, metavar="N", help="Class of what no polygon covers; else not known there.")
@click.option("--all-touched", is_flag=True, help="Polygons take every pixel that they touch.")
@click.option("--ignore", default="", metavar="VALUES", help="Values of TRUTH that mean not known: 0,255.")
@click.option("--map", "join", default="", metavar="OLD=NEW", help="Classes of TRUTH that count as others: 3=1,4=1.")
@click.option("--names", default="", metavar="VALUE=NAME", help="Names of classes: 1=water,2=land.")
@click.option("--confidence", metavar="RASTER", help="Probability of PRED's class; else that of the run.")
@click.option(
    "--boundary",
    type=click.IntRange(min=0),
    default=3,
    metavar="PIXELS",
    help="Width of the band along borders (3); 0: none.",
)
@click.option("--by", metavar="REGIONS", help="Scores per region: METRES of a grid, or FILE:COLUMN.")
@click.option(
    "--draws",
    type=click.IntRange(min=0),
    default=1000,
    metavar="N",
    help="Bootstrap samples of the regions (1000); 0: no intervals.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, metavar="N", help="Seed of the bootstrap (0).")
@click.option("--fail-under", default="", metavar="SCORE=LEAST", help="miou=0.6,f1.water=0.5: exit code 4 below that.")
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write a page with pictures."
)
@json_option
@debug_option
def evaluate(
    pred: str,
    truth: str,
    *,
    ignore: str,
    join: str,
    names: str,
    fail_under: str,
    html: Path | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Compare the map PRED with TRUTH, pixel by pixel on PRED's grid.

    PRED is a raster of class values, or the directory of a run, which brings names and confidence with it. TRUTH is a
    raster of class values, or polygons (GeoJSON, GeoPackage, GeoParquet). Both are read window by window, so neither
    has to fit into memory. Exit code 4 if a score is below --fail-under.
    """
    from geoseg.evaluation.scores import failures
    from geoseg.evaluation.scoring import evaluate as score

    least = _numbers(pairs_of(fail_under, "--fail-under"), "--fail-under")
    with _bar(pred) as on_pixels:
        found = score(
            pred,
            truth,
            ignore=[word for word in (part.strip() for part in ignore.split(",")) if word],
            join=pairs_of(join, "--map"),
            names=names_of(names),
            on_pixels=on_pixels,
            **options,
        )
    click.echo(json.dumps(found.as_dict(), indent=2) if as_json else scores_text(found))
    if html is not None:
        from geoseg.pages.scores import write_score_page

        write_score_page(html, found)
    failed = failures(found, least)
    for line in failed:
        say(line, level=logging.ERROR, event="error", error="CheckFailed")
    return CHECK_FAILED if failed else DONE


@contextmanager
def _bar(label: str) -> Iterator[Callable[[int, int], None] | None]:
    """What shows how far the reading is, on a terminal."""
    if not sys.stderr.isatty() or log_is_json():
        yield None
        return
    with click.progressbar(length=1000, label=printable(label), file=sys.stderr) as bar:
        yield lambda done, total: bar.update(1000 * done // total - bar.pos)


def scores_text(scores: Scores) -> str:
    """All tables, and what has to be known to read them."""
    parts = [_overall(scores), _classes(scores), _estimates(scores)]
    parts += [_regions(scores)] if scores.regions else []
    parts += ["\n".join(f"note: {note}" for note in scores.notes)] if scores.notes else []
    return printable_lines("\n\n".join(parts))


def printable_lines(text: str) -> str:
    """Text in which no name from a file steers the terminal."""
    return "\n".join(map(printable, text.split("\n")))


def score_text(value: float) -> str:
    """A score for people.

    >>> score_text(0.61234), score_text(float("nan"))
    ('0.612', '-')
    """
    return "-" if math.isnan(value) else f"{value:.3f}"


def _within(interval: Interval | None) -> str:
    return f"{score_text(interval.low)} to {score_text(interval.high)}" if interval else ""


def _overall(scores: Scores) -> str:
    rows = [
        (TITLES[key], score_text(value), _within(scores.intervals.get(key))) for key, value in scores.overall.items()
    ]
    head = ("pixels", count_text(scores.pixels), "95 % of draws of regions" if scores.intervals else "")
    return table([head, *rows], right=frozenset({1}))


def _classes(scores: Scores) -> str:
    has_borders = scores.boundary_width > 0
    head = ["class", "truth px", "mapped px", "IoU", "Dice", "precision", "recall"]
    head += ["boundary IoU", "boundary F1"] if has_borders else []
    rows = [
        [
            each.name,
            count_text(each.truth_pixels),
            count_text(each.predicted_pixels),
            *map(score_text, (each.iou, each.dice, each.precision, each.recall)),
            *(map(score_text, (each.boundary_iou, each.boundary_f1)) if has_borders else ()),
        ]
        for each in scores.classes
    ]
    return table([head, *rows], right=frozenset(range(1, len(head))))


def _estimates(scores: Scores) -> str:
    found = scores.estimates
    rows = [("class", "mapped km2", "estimated km2", "user's", "producer's")]
    for at, each in enumerate(scores.classes):
        rows.append(
            (
                each.name,
                f"{found.mapped[at]:.4g}",
                with_error(found.area[at], found.area_error[at], ".4g"),
                with_error(found.users[at], found.users_error[at]),
                with_error(found.producers[at], found.producers_error[at]),
            )
        )
    rows.append(("overall", "", "", with_error(found.accuracy, found.accuracy_error), ""))
    return "area-adjusted, +- 95 %\n" + table(rows, right=frozenset({1, 2, 3, 4}))


def with_error(value: float, error: float, form: str = ".3f") -> str:
    """An estimate and half its 95 % interval.

    >>> with_error(0.5, 0.1), with_error(0.5, float("nan"))
    ('0.500 +- 0.196', '0.500 +- -')
    """
    if math.isnan(value):
        return "-"
    return f"{value:{form}} +- {'-' if math.isnan(error) else format(Z95 * error, form)}"


def _regions(scores: Scores) -> str:
    """The regions, the worst first; of many only those."""
    order = sorted(scores.regions, key=lambda each: (math.isnan(each.overall["miou"]), each.overall["miou"]))
    rows = [("region", "pixels", "mean IoU", "accuracy")]
    rows += [
        (each.name, count_text(each.pixels), score_text(each.overall["miou"]), score_text(each.overall["accuracy"]))
        for each in order[:_WORST]
    ]
    rest = len(order) - _WORST
    return table(rows, right=frozenset({1, 2, 3})) + (f"\nand {rest} better ones (--json has all)" if rest > 0 else "")
