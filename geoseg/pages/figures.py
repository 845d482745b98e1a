"""Figures of a run as markup: areas by class, what became what, the histogram of confidence; pictures are SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from geoseg.pages.compare import area_text
from geoseg.pages.layers import BINS, RunLayers
from geoseg.result import ClassArea

__all__ = ["confidence_figure", "legend_row", "pairs_figure", "paragraph"]

_MOST_PAIRS = 16
"""Of more classes there is no table of what became what."""
_CHART = (330, 96)
"""Width and height of the histogram."""


def paragraph(text: str) -> str:
    """A line of small text, which is escaped here."""
    return f'<p class="faint">{html.escape(text)}</p>'


def legend_row(areas: Sequence[ClassArea], place: int, total: int, *, pressed: bool) -> str:
    """A class: a button that shows or hides it, with its area as a bar."""
    area, most = areas[place], max(1, *(each.pixels for each in areas))
    name = html.escape(area.title or area.name)
    return (
        f'<li><button type="button" class="class" data-place="{place}" aria-pressed="{str(pressed).lower()}">'
        f'<span class="swatch class{place}"></span><span class="name">{name}</span>'
        f'<span class="area">{area_text(area.km2)}</span><span class="share">{100 * area.pixels / total:.1f} %</span>'
        f'<svg class="track" role="img" aria-label="{name}: {area.km2:.6g} square kilometres">'
        f'<rect class="fill{place}" width="{100 * area.pixels / most:.3f}%" height="5" rx="2.5"/></svg></button></li>'
    )


def pairs_figure(table: Sequence[Mapping[str, Any]]) -> str:
    """What became what: a row for each class before, a column for each after; shaded by area."""
    names = list(dict.fromkeys(name for row in table if row["pixels"] for name in (row["from"], row["to"])))
    if not 0 < len(names) <= _MOST_PAIRS:
        return ""
    found = {(row["from"], row["to"]): row["km2"] for row in table}
    most = max(found.values()) or 1.0
    head = "".join(f'<th scope="col"><span>{html.escape(name)}</span></th>' for name in names)
    rows = "\n".join(
        f'<tr><th scope="row">{html.escape(before)}</th>'
        + "".join(_pair(before, after, found.get((before, after), 0.0), most) for after in names)
        + "</tr>"
        for before in names
    )
    return (
        '<section aria-labelledby="pairs-title">\n<div class="head"><h2 id="pairs-title">What became what</h2></div>\n'
        '<div class="wide"><table>\n<thead><tr><th scope="col"><span class="hidden">before</span></th>'
        f"{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>\n"
        f"{paragraph('Rows: before; columns: after.')}\n</section>"
    )


def _pair(before: str, after: str, km2: float, most: float) -> str:
    if before == after:
        return '<td class="same">·</td>'
    shade = f' class="shade{math.ceil(8 * km2 / most)}"' if km2 else ""
    return f"<td{shade}>{area_text(km2)}</td>"


def confidence_figure(layers: RunLayers, areas: Sequence[ClassArea], *, is_change: bool) -> str:
    """The histogram: a bar for each bin, in it the classes one upon the other."""
    bins = np.zeros((len(areas), BINS)) if layers.bins is None else layers.bins
    (width, height), total = _CHART, bins.sum()
    top, step, most = np.cumsum(bins, axis=0), width / BINS, bins.sum(axis=0).max()
    shapes = []
    for place in np.flatnonzero(bins.any(axis=1)):
        tall, over = height * bins[place] / most, height * top[place] / most
        path = "".join(
            f"M{at * step:.1f} {height - over[at]:.1f}h{step - 1:.1f}v{tall[at]:.1f}h{1 - step:.1f}z"
            for at in np.flatnonzero(bins[place])
        )
        shapes.append(f'<path class="fill{place}" data-place="{place}" d="{path}"/>')
    ticks = "".join(
        f'<text class="{anchor}" x="{share * width}" y="{height + 15}">{share:g}</text>'
        for share, anchor in ((0.0, ""), (0.5, "middle"), (1.0, "end"))
    )
    name = "Probability of change" if is_change else "Confidence"
    sure = bins[:, -BINS // 5 :].sum() / total
    return (
        f'<section aria-labelledby="sure-title">\n<div class="head"><h2 id="sure-title">{name}</h2></div>\n<figure>\n'
        f'<svg class="chart" viewBox="0 0 {width} {height + 20}" role="img" aria-label="Histogram: '
        f'{100 * sure:.1f} % of the pixels at 0.8 or above">\n{"".join(shapes)}\n'
        f'<path class="axis" d="M0 {height + 0.5}H{width}"/>{ticks}</svg>\n'
        f"<figcaption>{100 * sure:.1f} % of the pixels at 0.8 or above. {_basis(layers, int(total))}</figcaption>\n"
        "</figure>\n</section>"
    )


def _basis(layers: RunLayers, counted: int) -> str:
    """Which pixels a histogram counts."""
    if layers.thinned <= 1:
        return f"All {counted:,} pixels with a label are counted."
    return (
        f"Counted in an overview, of which each pixel is the mean of {layers.thinned}\N{NO-BREAK SPACE}by "
        f"{layers.thinned}: "
        "extremes look a little rarer than they are."
    )
