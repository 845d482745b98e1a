"""The scores of a map as one page: tables, the confusion matrix and the reliability curve as pictures.

The page opens from disk and asks nobody for anything; pictures are SVG in the page itself.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from geoseg.evaluation.calibration import ReliabilityBin
from geoseg.evaluation.confusion import Matrix, ratio
from geoseg.evaluation.scores import CLASS_TITLES, TITLES, Scores
from geoseg.evaluation.stratified import Z95
from geoseg.pages.document import filled_page
from geoseg.sink.parts import durable

__all__ = ["write_score_page"]

_CELL = 46
_LETTER = 6.5
"""Width of a letter, about."""
_MOST_CLASSES = 60
"""Of more classes the matrix is not drawn; the document in JSON has it."""
_MOST_REGIONS = 500
_LETTERS = 22
_SIDE = 300
"""Of the reliability curve."""


def write_score_page(path: Path, scores: Scores) -> Path:
    """Writes the page; returns `path`.

    Raises:
        SinkError: It cannot be written.
    """
    names = [each.name for each in scores.classes]
    sections = [_overall(scores), _classes(scores)]
    if len(names) <= _MOST_CLASSES:
        sections.append(_section("Confusion matrix", _MATRIX_TEXT, _matrix(scores.confusion, names)))
    if scores.reliability:
        sections.append(_section("Reliability", _CURVE_TEXT, _curve(scores.reliability)))
    sections.append(_estimates(scores))
    sections += [_regions(scores)] if scores.regions else []
    sections += [_section("Notes", *(f"<p>{html.escape(note)}</p>" for note in scores.notes))] if scores.notes else []
    page = filled_page(
        Path(__file__).with_suffix(".html"),
        title=f"Scores of {html.escape(Path(scores.predicted).name)}",
        predicted=html.escape(scores.predicted),
        truth=html.escape(scores.truth),
        pixels=f"{scores.pixels:,}",
        matrix_width=f"{_beside(names) + _CELL * len(names):.0f}",
        sections="\n".join(sections),
    )
    with durable(Path(path)) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    return Path(path)


_MATRIX_TEXT = "<p>Rows: the truth; columns: the map. Each cell is the share of its row in per cent.</p>"
_CURVE_TEXT = (
    "<p>How often pixels of a confidence are right. Bars on the dashed line: the confidence can be taken at its word. "
    "Orange: the mean confidence of the bin.</p>"
)


def _section(title: str, *parts: str) -> str:
    return f"<h2>{html.escape(title)}</h2>\n" + "\n".join(parts)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts, which are escaped here."""
    top = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    body = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _text(value: float, form: str = ".3f") -> str:
    return "-" if math.isnan(value) else format(value, form)


def _overall(scores: Scores) -> str:
    head = ["score", "value"] + (["95 % interval"] if scores.intervals else [])
    rows = []
    for key, value in scores.overall.items():
        interval = scores.intervals.get(key)
        row = [TITLES[key], _text(value)]
        row += [f"{_text(interval.low)} to {_text(interval.high)}" if interval else ""] if scores.intervals else []
        rows.append(row)
    text = (
        f"<p>Intervals are those of {len(scores.regions)} regions drawn again and again.</p>"
        if scores.intervals
        else ""
    )
    return _section("All classes", text, _table(head, rows))


def _classes(scores: Scores) -> str:
    keys = ["iou", "dice", "precision", "recall"] + (["boundary_iou", "boundary_f1"] if scores.boundary_width else [])
    head = ["class", "value", "truth pixels", "mapped pixels", *(CLASS_TITLES[key] for key in keys)]
    rows = [
        [
            each.name,
            str(each.value),
            f"{each.truth_pixels:,}",
            f"{each.predicted_pixels:,}",
            *(_text(getattr(each, key)) for key in keys),
        ]
        for each in scores.classes
    ]
    border = f"<p>Borders: a band of {scores.boundary_width} pixels.</p>" if scores.boundary_width else ""
    return _section("Classes", border, _table(head, rows))


def _estimates(scores: Scores) -> str:
    found = scores.estimates
    rows = [
        [
            each.name,
            _text(float(found.mapped[at]), ".4g"),
            with_error(found.area[at], found.area_error[at], ".4g"),
            with_error(found.users[at], found.users_error[at]),
            with_error(found.producers[at], found.producers_error[at]),
        ]
        for at, each in enumerate(scores.classes)
    ]
    text = (
        f"<p>Overall accuracy {with_error(found.accuracy, found.accuracy_error)}. Estimates for the whole map with "
        "95 % intervals (Olofsson et al. 2014); they hold for a truth drawn at random within each mapped class, pixel "
        "by pixel, and are too narrow where whole regions were labelled.</p>"
    )
    head = ["class", "mapped km²", "estimated km²", "user's accuracy", "producer's accuracy"]
    return _section("Areas", text, _table(head, rows))


def with_error(value: float, error: float, form: str = ".3f") -> str:
    """An estimate and half its 95 % interval.

    >>> with_error(0.5, 0.1), with_error(0.5, float("nan"))
    ('0.500 ± 0.196', '0.500 ± -')
    """
    return "-" if math.isnan(value) else f"{value:{form}} ± {_text(Z95 * error, form)}"


def _regions(scores: Scores) -> str:
    order = sorted(scores.regions, key=lambda each: (math.isnan(each.overall["miou"]), each.overall["miou"]))
    rows = [
        [
            each.name,
            f"{each.pixels:,}",
            *(_text(each.overall[key]) for key in ("miou", "accuracy")),
            *map(_text, each.iou.values()),
        ]
        for each in order[:_MOST_REGIONS]
    ]
    head = ["region", "pixels", "mean IoU", "accuracy", *(f"IoU {each.name}" for each in scores.classes)]
    some = f"; {_MOST_REGIONS} are shown" if len(order) > _MOST_REGIONS else ""
    return _section("Regions", f"<p>{len(order)} regions, the worst first{some}.</p>", _table(head, rows))


def _matrix(confusion: Matrix, names: Sequence[str]) -> str:
    """The confusion matrix as SVG: the fuller a cell, the larger its share of the row."""
    share = ratio(confusion, confusion.sum(axis=1, keepdims=True))
    left = _beside(names)
    side = left + _CELL * len(names)
    parts = [f'<svg class="matrix" viewBox="0 0 {side} {side}" role="img" aria-label="Confusion matrix">']
    for at, name in enumerate(names):
        place, text = left + _CELL * at, html.escape(_short(name))
        middle = place + _CELL / 2
        parts.append(f'<text class="ink end" x="{left - 8}" y="{middle + 4}">{text}</text>')
        parts.append(f'<text class="ink" transform="translate({middle + 4} {left - 8}) rotate(-60)">{text}</text>')
        for column in range(len(names)):
            x = left + _CELL * column
            shown = share[at, column]
            full = 0.0 if np.isnan(shown) else float(shown)
            title = f"{name} mapped as {names[column]}: {int(confusion[at, column]):,} pixels"
            parts.append(
                f'<g><title>{html.escape(title)}</title><rect class="cell" x="{x}" y="{place}" width="{_CELL}" '
                f'height="{_CELL}" fill-opacity="{0.75 * full:.3f}"/><text class="ink middle" x="{x + _CELL / 2}" '
                f'y="{middle + 4}">{_text(100 * shown, ".1f")}</text></g>'
            )
    return "\n".join([*parts, "</svg>"])


def _beside(names: Sequence[str]) -> int:
    """Pixels beside and above the matrix for the names of classes."""
    return 20 + round(_LETTER * max(len(_short(name)) for name in names))


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else name[: _LETTERS - 1] + "…"


def _curve(bins: Sequence[ReliabilityBin]) -> str:
    """The reliability curve as SVG."""
    left, top, size = 46, 10, _SIDE
    parts = [f'<svg class="curve" viewBox="0 0 {size + 60} {size + 56}" role="img" aria-label="Reliability curve">']
    for each in bins:
        if each.pixels:
            x, width = left + size * each.low, size * (each.high - each.low)
            told = top + size * (1 - each.confidence)
            title = (
                f"confidence {each.low:.2f} to {each.high:.2f}: {each.pixels:,} pixels, mean {each.confidence:.3f}, "
                f"right {each.accuracy:.3f}"
            )
            parts.append(
                f'<g><title>{title}</title><rect class="bar" x="{x:.1f}" y="{top + size * (1 - each.accuracy):.1f}" '
                f'width="{width - 1:.1f}" height="{size * each.accuracy:.1f}"/>'
                f'<line class="gap" x1="{x:.1f}" x2="{x + width - 1:.1f}" y1="{told:.1f}" y2="{told:.1f}"/></g>'
            )
    parts.append(f'<rect class="box" x="{left}" y="{top}" width="{size}" height="{size}"/>')
    parts.append(f'<line class="even" x1="{left}" y1="{top + size}" x2="{left + size}" y2="{top}"/>')
    for tick in (0.0, 0.5, 1.0):
        parts.append(f'<text class="faint middle" x="{left + size * tick}" y="{top + size + 16}">{tick:g}</text>')
        parts.append(f'<text class="faint end" x="{left - 6}" y="{top + size * (1 - tick) + 4}">{tick:g}</text>')
    parts.append(f'<text class="ink middle" x="{left + size / 2}" y="{top + size + 34}">confidence</text>')
    parts.append(f'<text class="ink middle" transform="translate(14 {top + size / 2}) rotate(-90)">right</text>')
    return "\n".join([*parts, "</svg>"])
