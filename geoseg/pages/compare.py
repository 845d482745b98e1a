"""A page that compares two dates under their change: ``compare.html``, one file that opens from disk.

The pictures are inside it, and it asks nobody for anything: its own Content-Security-Policy forbids every request, and
every script and style but its own.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from geoseg.pages.document import filled_page
from geoseg.picture import DatePicture, Rgba, color_classes, encode, overview
from geoseg.result import ClassArea
from geoseg.sink.parts import durable

__all__ = ["UNCHANGED", "area_text", "write_compare"]

UNCHANGED = 0
"""The value that is not drawn over the dates."""
SIDES = (1600, 1100, 750)
"""Longest side of the pictures; the first at which the page is small enough."""
LARGEST = 6_000_000
"""Bytes of a page."""
_COARSE = 600
"""Pictures with a longer side below that are shown with square pixels."""
_LISTED = 8
"""Of more classes only those that occur have a line in the legend."""


def write_compare(
    path: Path,
    change_path: Path,
    dates: Sequence[DatePicture],
    areas: Sequence[ClassArea],
    nodata: int,
    *,
    title: str = "",
    model: str = "",
) -> Path:
    """Writes the page; returns `path`.

    Args:
        path: The HTML file to write.
        change_path: The finished change raster.
        dates: Before and after, as `geoseg.picture.picture_dates` makes them of the same area.
        areas: Names, colours and areas of the raster's values; `UNCHANGED` is listed but not drawn.
        nodata: Value without a label.
        title: What is compared.
        model: What found the change.

    Raises:
        SourceError: The change raster cannot be read.
        SinkError: The page cannot be written.
    """
    labels, shape, _ = overview(Path(change_path))
    change = color_classes(labels, [(area.value, area.color) for area in areas], [UNCHANGED, nodata])
    before, after = dates
    page = filled_page(
        Path(__file__).with_suffix(".html"),
        title=html.escape(title),
        model=html.escape(model),
        height=str(shape[0]),
        width=str(shape[1]),
        coarse=" coarse" if max(shape) < _COARSE else "",
        colored=html.escape(before.colors),
        colors=_class_colors(areas),
        legend=_legend(areas),
        **_texts(before),
        **_texts(after),
        **_pictures(before.rgba, after.rgba, change),
    )
    with durable(Path(path)) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    return Path(path)


def _class_colors(areas: Sequence[ClassArea]) -> str:
    drawn = (area for area in areas if area.value != UNCHANGED)
    return "\n".join(f".class{area.value} {{ background: #{bytes.fromhex(area.color).hex()}; }}" for area in drawn)


def _texts(date: DatePicture) -> dict[str, str]:
    described = ", ".join(part for part in (date.scene_id, date.moment, date.colors) if part)
    texts = {"id": date.scene_id, "moment": date.moment, "text": described}
    return {f"{date.name}_{key}": html.escape(text) for key, text in texts.items()}


def _pictures(before: Rgba, after: Rgba, change: Rgba) -> dict[str, str]:
    """Data URLs of the three, no larger together than a page may be."""
    urls: dict[str, str] = {}
    for side in SIDES:
        files = {
            "before": encode(before, side, lossless=False),
            "after": encode(after, side, lossless=False),
            "change": encode(change, side, lossless=True),
        }
        urls = {name: f"data:image/webp;base64,{base64.b64encode(file).decode()}" for name, file in files.items()}
        if sum(map(len, urls.values())) < 0.95 * LARGEST:
            break
    return urls


def _legend(areas: Sequence[ClassArea]) -> str:
    """Rows of the table: class, area, share."""
    total = max(1, sum(area.pixels for area in areas))
    listed = [area for area in areas if area.pixels or len(areas) <= _LISTED]
    return "\n".join(
        f'<tr><td><span class="swatch class{area.value}"></span>{html.escape(area.title or area.name)}</td>'
        f"<td>{area_text(area.km2)}</td><td>{100 * area.pixels / total:.1f} %</td></tr>"
        for area in listed
    )


def area_text(km2: float) -> str:
    """An area for people.

    >>> [area_text(km2) for km2 in (0, 0.00042, 0.0321, 1.5, 12345.6)]
    ['0', '420 m²', '3.21 ha', '1.50 km²', '12,346 km²']
    """
    if km2 == 0:
        return "0"
    if km2 < 0.01:
        return f"{km2 * 1e6:.0f} m²"
    if km2 < 1:
        return f"{km2 * 100:.2f} ha"
    return f"{km2:.2f} km²" if km2 < 100 else f"{km2:,.0f} km²"
