"""A small picture of a finished map, or of two dates and their change, with a legend: ``preview.png``.

Only an overview of the raster is read, so the largest scene costs no more than a small one.
"""

from __future__ import annotations

import math
import unicodedata
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from geoseg.picture import LARGEST, DatePicture, Rgba, checkerboard, color_classes, overview, resized
from geoseg.sink.parts import durable
from geoseg.spec import ClassInfo
from geoseg.types import Labels

__all__ = ["write_change_preview", "write_picture", "write_preview"]

PANEL = 520
"""Longest side of one of the pictures of a change."""
NARROWEST = 230
"""Room that the lines below such a picture have at least."""
FEW = 8
"""Of more kinds of change only those that occur are listed: few of all from-to pairs do."""
ROWS = 24
"""Entries in the legend; of more classes those with the largest shares are listed."""

_SPELLED = str.maketrans(
    {
        "ß": "ss",
        "æ": "ae",
        "Æ": "Ae",
        "ø": "o",
        "Ø": "O",
        "ł": "l",
        "Ł": "L",
        "\N{MULTIPLICATION SIGN}": "x",
        "\N{EN DASH}": "-",
    }
)

MARGIN, GAP, SWATCH, LINE = 24, 14, 16, 24
TEXT_WIDTH = 260
INK, FAINT, FRAME = (34, 34, 34), (110, 110, 110), (190, 190, 190)
PAPER = (255, 255, 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A line of the legend."""

    text: str
    share: str = ""
    color: str | None = None
    """RRGGBB; None: the checkerboard of nodata, or no swatch if `plain`."""
    plain: bool = False


def write_preview(
    path: Path,
    labels_path: Path,
    classes: Sequence[ClassInfo],
    nodata: int,
    *,
    title: str = "",
    shares: Mapping[int, float] | None = None,
) -> Path:
    """Draws the label raster with title, legend and, where the CRS allows, a scale bar; returns `path`.

    Args:
        path: The PNG to write.
        labels_path: The finished label raster.
        classes: Names and colours of its values.
        nodata: Value without a label, drawn as a checkerboard.
        title: Line above the map.
        shares: Part of the labelled area per class value, 0 to 1; None: as counted in the overview.

    Raises:
        SourceError: The labels cannot be read.
        SinkError: The picture cannot be written.
    """
    labels, shape, metres = overview(Path(labels_path))
    return write_picture(path, labels, classes, nodata, title=title, shares=shares, shape=shape, metres=metres)


def write_picture(
    path: Path,
    labels: Labels,
    classes: Sequence[ClassInfo],
    nodata: int,
    *,
    title: str,
    shares: Mapping[int, float] | None,
    shape: tuple[int, int],
    metres: float,
) -> Path:
    """As `write_preview`, of labels (row, col) that stand for a map of `shape`, whose columns are `metres` wide."""
    chart = resized(_colored(labels, classes, nodata), shape)
    entries = _legend_of(labels, classes, nodata, shares)
    return _save(_compose(chart, entries, _plain(title), metres * shape[1] / chart.width), path)


def write_change_preview(
    path: Path,
    change_path: Path,
    classes: Sequence[ClassInfo],
    nodata: int,
    dates: Sequence[DatePicture],
    *,
    title: str = "",
    shares: Mapping[int, float] | None = None,
) -> Path:
    """Draws before, after and change side by side, or one below the other where they are wide; returns `path`.

    Args:
        path: The PNG to write.
        change_path: The finished change raster.
        classes: Names and colours of its values.
        nodata: Value without a label, drawn as a checkerboard.
        dates: Before and after, as `geoseg.picture.picture_dates` makes them of the same area.
        title: Line above the pictures.
        shares: Part of the labelled area per class value, 0 to 1; None: as counted in the overview.

    Raises:
        SourceError: The change raster cannot be read.
        SinkError: The picture cannot be written.
    """
    labels, shape, metres = overview(Path(change_path))
    is_wide = shape[1] > 2 * shape[0]
    largest = LARGEST if is_wide else PANEL
    panels = [(resized(date.rgba, shape, largest), [_caption(date), date.colors]) for date in dates]
    change = resized(_colored(labels, classes, nodata), shape, largest)
    row = _row_of([*panels, (change, ["change"])], columns=1 if is_wide else 3)
    entries = _legend_of(labels, classes, nodata, shares, most=FEW)
    return _save(_compose(row, entries, _plain(title), metres * shape[1] / change.width, framed=False), path)


def _colored(labels: Labels, classes: Sequence[ClassInfo], nodata: int) -> Rgba:
    return color_classes(labels, [(info.value, info.color) for info in classes], [nodata])


def _legend_of(
    labels: Labels, classes: Sequence[ClassInfo], nodata: int, shares: Mapping[int, float] | None, most: int = 65535
) -> list[_Entry]:
    """All classes, or, of more than `most`, those that occur."""
    counted = shares if shares is not None else _shares(labels, nodata)
    occurring = [info for info in classes if len(classes) <= most or counted.get(info.value)]
    return _entries(occurring or classes, counted, has_nodata=bool((labels == nodata).any()))


def _save(picture: Image.Image, path: Path) -> Path:
    with durable(Path(path)) as unfinished:
        picture.save(unfinished, format="PNG", compress_level=3)  # higher: five times slower, no smaller
    return Path(path)


def _caption(date: DatePicture) -> str:
    return ", ".join(part for part in (date.name, date.moment) if part)


def _row_of(panels: Sequence[tuple[Image.Image, Sequence[str]]], columns: int) -> Image.Image:
    """Pictures of one size, each in a frame and with its lines below it."""
    width, height = panels[0][0].size
    room = width if columns == 1 else max(width, NARROWEST)
    below = GAP + LINE * max(len(lines) for _, lines in panels)
    rows = -(-len(panels) // columns)
    sheet = Image.new("RGB", (columns * (room + GAP) - GAP, rows * (height + below + GAP) - GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for index, (panel, lines) in enumerate(panels):
        row, column = divmod(index, columns)
        left, top = column * (room + GAP), row * (height + below + GAP)
        sheet.paste(panel, (left, top))
        pen.rectangle((left, top, left + width - 1, top + height - 1), outline=FRAME)
        for number, line in enumerate(lines):
            text = _fitted(_plain(line), _font(15), room)
            place = (left, top + height + GAP + number * LINE)
            pen.text(place, text, fill=FAINT if number else INK, font=_font(15), anchor="lt")
    return sheet


def _shares(labels: Labels, nodata: int) -> dict[int, float]:
    """Part of the labelled pixels per value."""
    values, counts = np.unique(labels[labels != nodata], return_counts=True)
    return {int(value): count / counts.sum() for value, count in zip(values, counts, strict=True)}


def _entries(classes: Sequence[ClassInfo], shares: Mapping[int, float], *, has_nodata: bool) -> list[_Entry]:
    """The legend: classes in the card's order; of too many those that cover most."""
    largest = sorted(classes, key=lambda info: -shares.get(info.value, 0.0))
    listed = {info.value for info in largest[: ROWS if len(classes) <= ROWS else ROWS - 1]}
    entries = [
        _Entry(text=_class_text(info), share=_percent(shares.get(info.value, 0.0)), color=info.color)
        for info in classes
        if info.value in listed
    ]
    if len(listed) < len(classes):
        rest = sum(shares.get(info.value, 0.0) for info in classes if info.value not in listed)
        entries.append(_Entry(text=f"{len(classes) - len(listed)} more", share=_percent(rest), plain=True))
    if has_nodata:
        entries.append(_Entry(text="no data"))
    return entries


def _class_text(info: ClassInfo) -> str:
    """The class's title, or its machine name where the font lacks the title's letters."""
    title = _plain(info.title)
    return title if title and "?" not in title else _plain(info.name)


def _plain(text: str) -> str:
    """`text` in the letters of Pillow's own font, which is the same on every machine: ASCII; others become ``?``.

    >>> _plain("Zürich, Łódź: straße")
    'Zurich, Lodz: strasse'
    """
    bare = unicodedata.normalize("NFKD", text.translate(_SPELLED))
    return "".join(letter if " " <= letter <= "~" else "?" for letter in bare if not unicodedata.combining(letter))


def _percent(share: float) -> str:
    """A share for people.

    >>> [_percent(share) for share in (0, 0.0004, 0.0123, 0.25, 0.9996, 1)]
    ['0 %', '< 0.1 %', '1.2 %', '25.0 %', '> 99.9 %', '100 %']
    """
    if share in {0, 1}:
        return f"{share * 100:.0f} %"
    if share < 0.001:
        return "< 0.1 %"
    return "> 99.9 %" if share > 0.999 else f"{share * 100:.1f} %"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Legend:
    """Entries set in columns, and the room that they take."""

    entries: Sequence[_Entry]
    rows: int
    """Entries per column."""
    text_width: int
    share_width: int

    @property
    def column(self) -> int:
        """Width of a column in pixels."""
        return SWATCH + GAP + self.text_width + GAP + self.share_width

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        columns = -(-len(self.entries) // self.rows)
        return columns * (self.column + MARGIN) - MARGIN, min(self.rows, len(self.entries)) * LINE

    def draw(self, sheet: Image.Image, left: int, top: int) -> None:
        """Draws all entries."""
        for index, entry in enumerate(self.entries):
            column, row = divmod(index, self.rows)
            self._draw_entry(sheet, entry, left + column * (self.column + MARGIN), top + row * LINE)

    def _draw_entry(self, sheet: Image.Image, entry: _Entry, left: int, top: int) -> None:
        pen, middle = ImageDraw.Draw(sheet), top + SWATCH // 2
        if not entry.plain:
            if entry.color is None:
                sheet.paste(checkerboard(SWATCH, SWATCH, SWATCH // 2), (left, top))
            box = (left, top, left + SWATCH - 1, top + SWATCH - 1)
            pen.rectangle(box, fill=f"#{entry.color}" if entry.color else None, outline=FRAME)
        text = _fitted(entry.text, _font(15), TEXT_WIDTH)
        pen.text((left + SWATCH + GAP, middle), text, fill=INK, font=_font(15), anchor="lm")
        pen.text((left + self.column, middle), entry.share, fill=FAINT, font=_font(15), anchor="rm")


def _set_legend(entries: Sequence[_Entry], rows: int) -> _Legend:
    font = _font(15)
    return _Legend(
        entries=entries,
        rows=max(1, rows),
        text_width=max(math.ceil(font.getlength(_fitted(entry.text, font, TEXT_WIDTH))) for entry in entries),
        share_width=max(math.ceil(font.getlength(entry.share)) for entry in entries),
    )


def _compose(
    chart: Image.Image, entries: Sequence[_Entry], title: str, metres: float, *, framed: bool = True
) -> Image.Image:
    """The whole sheet: title, map, scale bar; the legend beside the map, or below a wide one.

    Args:
        chart: The map.
        entries: The legend's.
        title: Left out where empty.
        metres: Ground width of one of its pixels; 0 where it is not known.
        framed: Whether a line is drawn around it.
    """
    bar = _bar(metres, chart.width)
    beside = _set_legend(entries, max(chart.height // LINE, -(-len(entries) // 3)))
    is_wide = chart.width > 1.4 * chart.height and chart.width > beside.size[0]
    legend = _set_legend(entries, -(-len(entries) // max(1, chart.width // (beside.column + MARGIN))))
    legend = legend if is_wide else beside
    top = MARGIN + (LINE + GAP if title else 0)
    below = top + chart.height + (LINE + GAP if bar else 0)  # first row under map and bar
    if is_wide:
        left, legend_top = MARGIN, below + GAP
    else:
        left, legend_top = MARGIN + chart.width + MARGIN, top
    room = min(math.ceil(_font(20).getlength(title)), LARGEST // 2)
    width = MARGIN + max(chart.width, left + legend.size[0] - MARGIN, room) + MARGIN
    sheet = Image.new("RGB", (width, max(below, legend_top + legend.size[1]) + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), _fitted(title, _font(20), width - 2 * MARGIN), fill=INK, font=_font(20), anchor="lt")
    sheet.paste(chart, (MARGIN, top))
    if framed:
        pen.rectangle((MARGIN - 1, top - 1, MARGIN + chart.width, top + chart.height), outline=FRAME)
    if bar:
        _draw_bar(pen, *bar, MARGIN, top + chart.height + GAP)
    legend.draw(sheet, left, legend_top)
    return sheet


def _bar(metres_per_pixel: float, width: int) -> tuple[int, str] | None:
    """Length in pixels and text of a scale bar for a map `width` pixels wide; None where none makes sense.

    >>> _bar(10.0, 800), _bar(0.3, 800), _bar(0.0, 800)
    ((200, '2 km'), (167, '50 m'), None)
    """
    # Wider than a continent, a map has no one scale; narrower than a word, it has no room.
    if not 0 < metres_per_pixel * width < 5e6 or width < 100:
        return None
    most = metres_per_pixel * min(width / 3, 250)
    power = 10.0 ** math.floor(math.log10(most))
    metres = max(step * power for step in (1, 2, 5) if step * power <= most)
    text = f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"
    return round(metres / metres_per_pixel), text


def _draw_bar(pen: ImageDraw.ImageDraw, length: int, text: str, left: int, top: int) -> None:
    bottom = top + 8
    pen.line([(left, top), (left, bottom), (left + length, bottom), (left + length, top)], fill=INK, width=2)
    pen.text((left + length + GAP, bottom), text, fill=INK, font=_font(15), anchor="lm")


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _fitted(text: str, font: Any, width: float) -> str:
    """`text`, its end replaced by an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    keep = bisect_right(range(len(text)), width, key=lambda letters: font.getlength(text[:letters] + "..."))
    return text[: max(0, keep - 1)].rstrip() + "..."
