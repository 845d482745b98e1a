"""A finished run as one page that opens from disk: ``view.html``, with a map, a legend, areas, confidence and facts.

Everything is inside it, and it asks nobody for anything (`geoseg.pages.document`). The page stands beside the run's
outputs, which stay as they are; a run that replaces this one removes it.
"""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from affine import Affine

from geoseg.earth import crs_of
from geoseg.errors import ConfigError, SinkError
from geoseg.journal import RunDirectory
from geoseg.pages.compare import UNCHANGED, area_text
from geoseg.pages.document import filled_page
from geoseg.pages.figures import confidence_figure, legend_row, pairs_figure, paragraph
from geoseg.pages.layers import NODES, RunLayers, read_layers
from geoseg.picture import metres_per_column
from geoseg.result import ClassArea, RunResult, read_result
from geoseg.sink.parts import durable
from geoseg.store import Place, open_store

__all__ = ["LARGEST", "ViewPage", "write_view"]

LARGEST = 20_000_000
"""Bytes of a page, unless another number is given."""
_NAME = "view.html"
_FRAME = 120_000
"""Bytes of the page without what it shows."""
_LISTED = 12
"""Of more classes only those that occur are listed."""
_UNLISTED = ("class_id", "class_name", "first")
"""Columns that say nothing to people, or what stands above them."""
_TOLD = ("scene", "model")
"""Columns that are told of the run, unless polygons differ in them."""
_TITLES = {
    "from_class": "From",
    "to_class": "To",
    "area_m2": "Area",
    "perimeter_m": "Perimeter",
    "confidence_mean": "Mean confidence",
    "probability_mean": "Mean probability",
    "ndvi_before": "Mean NDVI before",
    "ndvi_after": "Mean NDVI after",
    "datetime": "Time (UTC)",
    "before": "Before (UTC)",
    "after": "After (UTC)",
    "scene": "Scene",
    "model": "Model",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewPage:
    """A page that was written."""

    path: Place
    """Where it is."""
    size: int
    """Bytes."""
    notes: Sequence[str]
    """What it does not show, and why; it says so itself."""


def write_view(run: Place, path: Path | None = None, *, largest: int = LARGEST) -> ViewPage:
    """Writes the page of a finished run.

    Args:
        run: The run directory.
        path: The HTML file to write; None: ``view.html`` in the run directory.
        largest: Bytes that it may have.

    Raises:
        ConfigError: No finished run stands there.
        SourceError: An output of the run cannot be read.
        SinkError: The page cannot be written, or not so small.
    """
    directory = RunDirectory(run)
    if not directory.is_finished:
        raise ConfigError(f"{directory.out}: holds no finished run; name the --out of one, or a folder below it")
    result = read_result(directory.out)
    report, item = (_document(result.out, name) for name in ("run.json", "item.json"))
    layers = read_layers(result, report, largest - _FRAME)
    page = _page(result, report, item["properties"], layers).encode()
    if len(page) > largest:
        raise SinkError(f"{path or _NAME}: cannot be smaller than {len(page):,} bytes; give a larger --max-size")
    if path is None:
        directory.store.put(_NAME, page)
    else:
        with durable(Path(path), len(page)) as unfinished:
            unfinished.write_bytes(page)
    return ViewPage(path=path or directory.store.href(_NAME), size=len(page), notes=layers.notes)


def _document(out: Place, name: str) -> Any:
    with open_store(out).open(name) as file:
        return json.load(file)


def _page(result: RunResult, report: Mapping[str, Any], properties: Mapping[str, Any], layers: RunLayers) -> str:
    areas, here = result.areas, Path(__file__)
    total = max(1, sum(area.pixels for area in areas))
    model = report["request"]["asked"]["model"]["name"]
    listed = [place for place, area in enumerate(areas) if area.pixels or len(areas) <= _LISTED]
    kind = "Kinds of change" if result.is_change else "Classes"
    sections = [pairs_figure(report["from_to"])] if report.get("from_to") else []
    if layers.bins is not None and layers.bins.any():
        sections.append(confidence_figure(layers, areas, is_change=result.is_change))
    return filled_page(
        here.with_suffix(".html"),
        title=html.escape(str(properties["geoseg:scene"])),
        subtitle=f"{'Change found' if result.is_change else 'Mapped'} by <b>{html.escape(model)}</b>",
        kinds=kind,
        layers="\n".join(_layer_row(**layer) for layer in _layers(result, layers)),
        legend="\n".join(legend_row(areas, place, total, pressed=_is_shown(result, areas[place])) for place in listed),
        unlisted=paragraph(f"{len(areas) - len(listed)} others do not occur.") if len(listed) < len(areas) else "",
        sections="\n".join(sections),
        facts="\n".join(
            f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in _facts(result, report, properties, layers)
        ),
        notes=_notes(layers.notes),
        colors="\n".join(
            f".class{place} {{ background: #{rgb}; }}\n.fill{place} {{ fill: #{rgb}; }}"
            for place, rgb in ((place, bytes.fromhex(areas[place].color).hex()) for place in listed)
        ),
        shades="\n".join(
            f"td.shade{step} {{ background: color-mix(in srgb, var(--accent) {8 * step}%, var(--wash)); }}"
            for step in range(1, 9)
        ),
        data="\n".join(_data(result, layers)),
        script=here.with_suffix(".js").read_text(encoding="utf-8"),
    )


def _is_shown(result: RunResult, area: ClassArea) -> bool:
    """Whether a class can be seen at first: what did not change would cover both dates."""
    return not (result.is_change and area.value == UNCHANGED)


# --- layers ---


def _layers(result: RunResult, layers: RunLayers) -> list[dict[str, Any]]:
    """From the lowest to the topmost: id, title, text, and whether it is shown at first."""
    titles = {"scene": "Scene", "before": "Before", "after": "After"}
    found = [{"id": scene.name, "title": titles[scene.name], "text": scene.text, "on": True} for scene in layers.scenes]
    found.append({"id": "labels", "title": "Map of change" if result.is_change else "Map", "text": "", "on": True})
    if layers.confidence:
        title = "Probability of change" if result.is_change else "Confidence"
        found.append({"id": "confidence", "title": title, "text": "black 0, white 1", "on": False})
    if layers.polygons is not None and layers.polygons.count:
        text = f"{layers.polygons.count:,}; small ones appear when you zoom in"
        found.append({"id": "polygons", "title": "Polygons", "text": text, "on": True})
    return found


def _layer_row(id: str, title: str, text: str, on: bool) -> str:  # noqa: A002 - the element's
    told = f"<small>{html.escape(text)}</small>" if text else ""
    return (
        f'<div class="layer"><label><input type="checkbox" id="show-{id}"{" checked" if on else ""}> {title}</label>'
        f'<input type="range" id="opacity-{id}" min="0" max="100" step="5" value="100" aria-label="Opacity of {title}">'
        f"{told}</div>"
    )


def _data(result: RunResult, layers: RunLayers) -> Iterable[str]:
    """What the script reads: blocks of JSON and base64, which no browser runs."""
    packed, (height, width) = layers.polygons, layers.geobox.shape
    wide, high = (metres_per_column(turn, layers.geobox.crs, shape) for turn, shape in _both_ways(layers))
    few = " or smaller than what fits into this file" if packed and packed.count < packed.total else ""
    facts = {
        "width": width,
        "height": height,
        "aspect": wide / high if wide and high else 1.0,
        "metres": math.sqrt(wide * high) or 1.0,
        "nodes": NODES,
        "places": layers.places,
        "classes": [
            {
                "value": area.value,
                "title": area.title or area.name,
                "color": area.color,
                "shown": _is_shown(result, area),
            }
            for area in result.areas
        ],
        "labels": {
            "height": layers.labels.shape[0],
            "width": layers.labels.shape[1],
            "bytes": layers.labels.dtype.itemsize,
        },
        "layers": [{"id": layer["id"]} for layer in _layers(result, layers)],
        "polygons": {"count": packed.count, "steps": packed.steps} if packed and packed.count else None,
        "titles": _TITLES,
        "unlisted": _UNLISTED,
        "told": _TOLD,
        "noPolygon": f"No polygon is shown here: its class is hidden, or it has none{few}.",
    }
    yield _block("facts", json.dumps(facts, separators=(",", ":")).replace("<", "\\u003c"), "application/json")
    yield _block("labels", base64.b64encode(layers.deflated_labels).decode())
    for scene in layers.scenes:
        yield _block(scene.name, scene.webp)
    if layers.confidence:
        yield _block("confidence", layers.confidence)
    if packed and packed.count:
        yield _block("outlines", base64.b64encode(packed.outlines).decode())
        yield _block("attributes", base64.b64encode(packed.attributes).decode())


def _block(name: str, text: str, kind: str = "text/plain") -> str:
    return f'<script type="{kind}" id="{name}">{text}</script>'


def _both_ways(layers: RunLayers) -> Iterable[tuple[Affine, tuple[int, int]]]:
    """The map's transform and shape, then those with rows as columns."""
    (height, width), (a, b, c, d, e, f) = layers.geobox.shape, layers.geobox.transform[:6]
    return ((Affine(a, b, c, d, e, f), (height, width)), (Affine(b, a, c, e, d, f), (width, height)))


# --- the run in words ---


def _facts(
    result: RunResult, report: Mapping[str, Any], properties: Mapping[str, Any], layers: RunLayers
) -> Iterable[tuple[str, str]]:
    """What the run was, line by line."""
    (height, width), counts = layers.geobox.shape, result.counts
    yield "Date", _date(properties)
    yield "Model", report["request"]["asked"]["model"]["name"]
    yield "Size", f"{width:,} by {height:,} pixels"
    yield "Mapped", area_text(sum(area.km2 for area in result.areas))
    yield "CRS", f"{crs_of(layers.geobox).name} ({properties.get('proj:code') or 'no code'})"
    yield "Tiles", f"{counts['tiles']:,} in {counts['chunks']:,} chunk{'s' * (counts['chunks'] != 1)}"
    yield "Forward passes", f"{counts['forward_passes']:,}"
    yield "Time", _time_text(result.timings["seconds"])
    yield "Peak memory", f"{result.peak_memory / 1e6:,.0f} MB"
    yield "Run", report["started"][:16].replace("T", " ") + " UTC"
    yield "geoseg", report["versions"]["geoseg"]


def _date(properties: Mapping[str, Any]) -> str:
    if properties["geoseg:datetime_source"] == "run":
        return "not known"
    times = [properties.get(name) for name in ("start_datetime", "end_datetime")]
    days = [str(time)[:10] for time in times if time] or [str(properties["datetime"])[:16].replace("T", " ") + " UTC"]
    return " to ".join(dict.fromkeys(days))


def _time_text(seconds: float) -> str:
    """A duration.

    >>> _time_text(3.77), _time_text(75), _time_text(7260)
    ('3.8 s', '1 min 15 s', '2 h 1 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    lines = "\n".join(f"<li>{html.escape(note)}</li>" for note in notes)
    head = '<div class="head"><h2 id="notes-title">Not shown</h2></div>'
    return f'<section aria-labelledby="notes-title">\n{head}\n<ul class="notes">\n{lines}\n</ul>\n</section>'
