"""A run as one page: read by a parser, and used in a real browser with mouse, keys and fingers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pyproj
import pytest
from PIL import Image

import geoseg
from geoseg.errors import ConfigError, SinkError
from geoseg.journal import RunDirectory
from geoseg.pages.compare import area_text
from geoseg.pages.view import write_view
from geoseg.result import RunResult
from tests.browser import Page, browse
from tests.buckets import Bucket
from tests.pages.test_compare import Reader, policy_of
from tests.pages.test_layers import BRIGHTEST, COLORS, HOSTILE, map_of, painted, write_painted
from tests.pairs import COVERS, write_pair

RGB = [tuple(bytes.fromhex(color)) for color in COLORS]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return map_of(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def change(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("change")
    before, after = write_pair(folder)
    return geoseg.detect_change(before.path, after.path, model=COVERS, out=folder / "out")


def written(run: RunResult, folder: Path, **options: Any) -> Path:
    return Path(write_view(run.out, folder / "page.html", **options).path)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir() if path.is_file()}


# --- by a parser ---


def test_nothing_is_loaded_from_anywhere(change: RunResult, tmp_path: Path) -> None:
    path = written(change, tmp_path)
    page = Reader(path)
    assert not {"link", "iframe", "object", "embed", "base", "form", "img", "image", "use"} & {
        tag for tag, _ in page.elements
    }
    named = {key for _, attributes in page.elements for key in attributes}
    assert not {"src", "href", "srcset", "action", "style"} & named
    assert not [key for key in named if key.startswith("on")]
    (code,) = (text for text in page.text("script") if "use strict" in text)
    (style,) = page.text("style")
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttp|WebSocket|import\(|innerHTML", code + style)
    policy = policy_of(page)
    assert policy["default-src"] == ["'none'"]
    assert len(policy["script-src"]) == len(policy["style-src"]) == 1


def test_the_run_stays_as_it_is_and_what_replaces_it_removes_the_page(tmp_path: Path) -> None:
    run = map_of(tmp_path)
    before = contents(Path(run.out))
    page = write_view(run.out)
    assert page.path == Path(run.out) / "view.html"
    after = contents(Path(run.out))
    assert page.size == len(after.pop("view.html")[0])
    assert after == before
    assert RunDirectory(run.out).is_finished
    geoseg.segment(tmp_path / "scene.tif", model=BRIGHTEST, out=run.out, overwrite=True, vector=("parquet",))
    assert "view.html" not in contents(Path(run.out))


def test_same_bytes_again(run: RunResult, tmp_path: Path) -> None:
    assert written(run, tmp_path).read_bytes() == written(run, tmp_path).read_bytes()


def test_figures_are_those_of_the_report(run: RunResult, tmp_path: Path) -> None:
    page = Reader(written(run, tmp_path))
    report = json.loads(Path(run.report).read_text())
    bars = [box for tag, box in page.elements if tag == "rect"]
    charts = [box for tag, box in page.elements if tag == "svg" and box.get("class") == "track"]
    most, total = (each(area["pixels"] for area in report["areas"]) for each in (max, sum))
    spans = page.text("span")
    for area, bar, chart in zip(report["areas"], bars, charts, strict=True):
        assert float(str(bar["width"]).rstrip("%")) == pytest.approx(100 * area["pixels"] / most, abs=1e-3)
        assert str(chart["aria-label"]) == f"{area['title']}: {area['km2']:.6g} square kilometres"
        assert spans[spans.index(area["title"]) + 1] == area_text(area["km2"])
        assert spans[spans.index(area["title"]) + 2] == f"{100 * area['pixels'] / total:.1f} %"
    facts = dict(zip(page.text("dt"), page.text("dd"), strict=True))
    assert facts["Model"] == "net"
    assert facts["Date"] == "2024-06-14 10:20 UTC"
    assert facts["Size"] == "120 by 90 pixels"
    assert facts["CRS"] == "WGS 84 / UTM zone 33N (EPSG:32633)"
    assert facts["Tiles"].startswith(f"{report['counts']['tiles']} in ")


def test_who_became_what_is_in_the_table(change: RunResult, tmp_path: Path) -> None:
    page = Reader(written(change, tmp_path))
    table = json.loads(Path(change.report).read_text())["from_to"]
    cells = page.text("td")
    names = page.text("th")
    assert len(names) == 3
    assert [cell for cell in cells if cell != "·"] == [
        area_text(next(row["km2"] for row in table if (row["from"], row["to"]) == (one, other)))
        for one in names
        for other in names
        if one != other
    ]
    pressed = {str(box["data-place"]): box["aria-pressed"] for tag, box in page.elements if box.get("class") == "class"}
    assert pressed.pop("0") == "false", "what did not change would cover both dates"
    assert set(pressed.values()) == {"true"}


def test_texts_of_strangers_are_texts(run: RunResult, tmp_path: Path) -> None:
    page = Reader(written(run, tmp_path))
    assert [tag for tag, _ in page.elements].count("script") == 7, "six of data, one of code"
    assert HOSTILE in page.text("span")


def test_a_page_is_no_larger_than_it_may_be(tmp_path: Path) -> None:
    """Noise: nothing is harder to compress, and nothing has more polygons."""
    noise = np.random.default_rng(0).integers(0, 3, (300, 400)).astype(np.uint8)
    run = map_of(tmp_path, noise)
    full = write_view(run.out, tmp_path / "full.html")
    small = write_view(run.out, tmp_path / "small.html", largest=500_000)
    assert full.notes == []
    assert small.size == (tmp_path / "small.html").stat().st_size <= 500_000 < full.size
    (note,) = small.notes
    left, total, below = (float(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", note)[:3])
    areas = geopandas.read_parquet(Path(run.out) / "polygons.parquet")["area_m2"]
    assert total == len(areas)
    assert left == (areas < below * (1 + 1e-3)).sum() > 0
    assert note in Reader(tmp_path / "small.html").text("li")
    with pytest.raises(SinkError, match=r"tiny\.html: cannot be smaller than [\d,]+ bytes"):
        write_view(run.out, tmp_path / "tiny.html", largest=60_000)
    assert not (tmp_path / "tiny.html").exists()


def test_only_a_finished_run_is_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no finished run"):
        write_view(tmp_path)


def test_a_run_in_a_bucket_is_shown(bucket: Bucket, tmp_path: Path) -> None:
    scene = write_painted(tmp_path / "scene.tif", painted())
    run = geoseg.segment(scene, model=BRIGHTEST, out=bucket.url, vector=("parquet",))
    page = write_view(run.out)
    assert page.path == f"{run.out}/view.html"
    assert page.notes == []
    assert "view.html" in RunDirectory(run.out).store.entries()


# --- in a browser ---


async def opened(page: Page, path: Path, **fragment: object) -> None:
    await page.open(path, "&".join(f"{name}={value}" for name, value in fragment.items()))
    await settled(page)


async def settled(page: Page) -> None:
    for _ in range(200):
        if await page.evaluate("document.documentElement.dataset.ready === 'yes' && !drawing && !asked"):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"the map is not drawn: {page.messages}")


async def color_at(page: Page, column: float, row: float) -> npt.NDArray[np.uint8]:
    """What is drawn over the middle of a pixel of the map."""
    await settled(page)
    left, top, _, _ = await page.box("#map")
    x, y = await page.evaluate(f"onScreen({column + 0.5}, {row + 0.5})")
    found: npt.NDArray[np.uint8] = (await page.screenshot())[round(top + y), round(left + x)]
    return found


async def click(page: Page, column: float, row: float) -> None:
    left, top, _, _ = await page.box("#map")
    x, y = await page.evaluate(f"onScreen({column + 0.5}, {row + 0.5})")
    at: Mapping[str, Any] = {"button": "left", "buttons": 1, "clickCount": 1, "x": left + x, "y": top + y}
    for kind in ("mousePressed", "mouseReleased"):
        await page.call("Input.dispatchMouseEvent", type=kind, **at)


async def press(page: Page, key: str) -> None:
    for kind in ("keyDown", "keyUp"):
        await page.call("Input.dispatchKeyEvent", type=kind, key=key)


async def card(page: Page) -> dict[str, str] | None:
    """What the card tells; None where it is closed."""
    found: dict[str, str] | None = await page.evaluate(
        "by('card').hidden ? null : Object.fromEntries([['title', by('card-title').textContent], "
        "['note', by('card-note').textContent], "
        "...[...by('card-facts').querySelectorAll('dt')].map((dt) => [dt.textContent, dt.nextSibling.textContent])])"
    )
    return found


def near(color: npt.NDArray[np.uint8], expected: tuple[int, ...]) -> bool:
    return bool(np.abs(color.astype(int) - expected).max() <= 2)


@pytest.mark.system
def test_in_a_browser_the_map_has_the_colours_of_its_classes(run: RunResult, tmp_path: Path) -> None:
    path = written(run, tmp_path)

    async def visit(page: Page) -> None:
        await opened(page, path)
        places = {(60, 10): 1, (110, 10): 2, (5, 80): 0, (12, 38): 2, (17, 27): 0}
        for (column, row), place in places.items():
            assert near(await color_at(page, column, row), RGB[place]), (column, row)
        assert (await color_at(page, 110, 85)).min() > 200, "no data"
        await opened(page, path, column=25, row=30, scale=20)
        assert near(await color_at(page, 12, 38), RGB[2])
        assert near(await color_at(page, 17, 27), RGB[0])
        await page.evaluate("document.querySelectorAll('.class')[2].click()")
        assert not near(await color_at(page, 12, 38), RGB[2]), "hidden by the legend"
        assert near(await color_at(page, 17, 27), RGB[0])
        assert await page.evaluate("document.querySelectorAll('.class')[2].getAttribute('aria-pressed')") == "false"
        await page.evaluate("by('none').click()")
        assert not near(await color_at(page, 17, 27), RGB[0])
        await page.evaluate("by('all').click()")
        assert near(await color_at(page, 12, 38), RGB[2])
        await opened(page, path, layers="scene")
        assert (await color_at(page, 5, 80)).argmax() == 2, "the scene is blue where the water is"
        await opened(page, path, layers="confidence")
        red, green, blue = (await color_at(page, 60, 10)).tolist()
        assert red == green == blue > 200
        assert not page.messages

    browse(tmp_path / "profile", visit)


@pytest.mark.system
def test_in_a_browser_outlines_are_drawn_where_polygons_meet(run: RunResult, tmp_path: Path) -> None:
    path = written(run, tmp_path)

    async def visit(page: Page) -> None:
        for layers, is_outlined in (("labels,polygons", True), ("labels", False)):
            await opened(page, path, column=40, row=60, scale=20, layers=layers)
            await settled(page)
            left, top, _, _ = await page.box("#map")
            x, y = await page.evaluate("onScreen(40, 60.5)")  # between water and forest
            line = (await page.screenshot())[round(top + y), round(left + x) - 2 : round(left + x) + 3].astype(int)
            darkest = line.sum(axis=1).min()
            assert (darkest < 0.75 * min(sum(RGB[0]), sum(RGB[1]))) == is_outlined

    browse(tmp_path / "profile", visit)


@pytest.mark.system
def test_in_a_browser_a_click_tells_what_is_there(run: RunResult, tmp_path: Path) -> None:
    path = written(run, tmp_path)
    frame = geopandas.read_parquet(Path(run.out) / "polygons.parquet")
    to_lonlat = pyproj.Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)

    async def visit(page: Page) -> None:
        await opened(page, path)
        assert await card(page) is None
        for column, row, value, title in ((60, 10, 2, "Forest"), (12, 38, 7, HOSTILE), (17, 27, 1, "Water")):
            await click(page, column, row)
            told = await card(page)
            assert told is not None
            assert told["title"] == title
            x, y = 5e5 + 10 * column + 5, 5e6 - 10 * row - 5
            found = frame[frame.contains(geopandas.points_from_xy([x], [y])[0])].iloc[0]
            assert found["class_id"] == value
            assert told["Area"] == area_text(found["area_m2"] / 1e6)
            assert float(told["Mean confidence"]) == pytest.approx(found["confidence_mean"], abs=1e-4)
            assert told["Time (UTC)"] == "2024-06-14 10:20"
            lon, lat = to_lonlat.transform(x, y)
            north, east = (float(part.split("°")[0]) for part in told["Place"].split(", "))
            assert [north, east] == pytest.approx([lat, lon], abs=1e-4)
        await click(page, 110, 85)
        assert await card(page) is None, "no data"
        await page.evaluate("document.querySelectorAll('.class')[1].click()")
        await click(page, 60, 10)
        told = await card(page)
        assert told is not None
        assert told["note"].startswith("No polygon is shown here: its class is hidden")
        assert await page.evaluate("document.querySelectorAll('script').length") == 7, "no name became an element"
        assert not page.messages

    browse(tmp_path / "profile", visit)


@pytest.mark.system
def test_in_a_browser_keys_wheel_and_fingers_move_the_map(run: RunResult, tmp_path: Path) -> None:
    path = written(run, tmp_path)

    async def visit(page: Page) -> None:
        await opened(page, path)
        start = await page.evaluate("({...view})")
        await page.evaluate("map.focus()")
        for key in ("+", "+", "ArrowRight", "ArrowDown"):
            await press(page, key)
        now = await page.evaluate("({...view})")
        assert now["scale"] == pytest.approx(start["scale"] * 2.25)
        assert now["x"] > start["x"]
        assert now["y"] > start["y"]
        await press(page, "Enter")
        told = await card(page)
        assert told is not None
        assert told["title"] == "Forest"
        await press(page, "Escape")
        assert await card(page) is None
        await press(page, "0")
        assert await page.evaluate("({...view})") == start

        left, top, width, height = await page.box("#map")
        x, y = round(left + 0.7 * width), round(top + 0.6 * height)
        under = f"onMap({x - left}, {y - top})"
        before = await page.evaluate(under)
        await page.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-300)
        assert await page.evaluate("view.scale") > 1.5 * start["scale"]
        assert await page.evaluate(under) == pytest.approx(before, abs=0.01), "the place under the pointer stays"
        drag: Mapping[str, Any] = {"button": "left", "buttons": 1, "clickCount": 1}
        await page.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, **drag)
        await page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x - 50, y=y - 30, **drag)
        await page.call("Input.dispatchMouseEvent", type="mouseReleased", x=x - 50, y=y - 30, **drag)
        assert await page.evaluate(f"onMap({x - left - 50}, {y - top - 30})") == pytest.approx(before, abs=0.01)
        assert await card(page) is None, "a drag is no click"
        await page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        assert "°\N{NO-BREAK SPACE}N" in await page.evaluate("by('where').textContent")

        scale = await page.evaluate("view.scale")
        await page.call("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
        for kind, apart in (("touchStart", 60), ("touchMove", 90), ("touchMove", 120), ("touchEnd", None)):
            points = [] if apart is None else [{"x": x + sign * apart / 2, "y": y, "id": sign} for sign in (0, 1)]
            await page.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)
        assert await page.evaluate("view.scale") == pytest.approx(2 * scale, rel=0.05)
        assert not page.messages

    browse(tmp_path / "profile", visit)


@pytest.mark.system
def test_in_a_browser_all_can_be_reached_with_the_tabulator(run: RunResult, tmp_path: Path) -> None:
    path = written(run, tmp_path)

    async def visit(page: Page) -> None:
        await opened(page, path)
        reached = set()
        for _ in range(30):
            await page.call("Input.dispatchKeyEvent", type="keyDown", key="Tab", windowsVirtualKeyCode=9)
            reached.add(await page.evaluate("document.activeElement.id || document.activeElement.dataset.place"))
        layers = {f"{what}-{name}" for what in ("show", "opacity") for name in ("scene", "labels", "polygons")}
        assert {"map", "nearer", "farther", "whole", "all", "none", "0", "1", "2", *layers} <= reached
        unnamed = await page.evaluate(
            "[...document.querySelectorAll('button, input, canvas')].filter((each) => !(each.textContent.trim() || "
            "each.ariaLabel || each.labels?.length)).length"
        )
        assert unnamed == 0

    browse(tmp_path / "profile", visit)


@pytest.mark.system
def test_in_a_browser_both_dates_lie_under_the_change(change: RunResult, tmp_path: Path) -> None:
    path = written(change, tmp_path)

    async def visit(page: Page) -> None:
        pictures = []
        for layers in ("before", "after", "before,after,labels"):
            await opened(page, path, layers=layers)
            await settled(page)
            pictures.append((await page.screenshot()).astype(int))
        assert np.abs(pictures[0] - pictures[1]).mean() > 1
        assert np.abs(pictures[1] - pictures[2]).mean() > 1
        assert not page.messages

    browse(tmp_path / "profile", visit)


@pytest.mark.system
def test_in_a_browser_no_request_leaves_the_page(run: RunResult, tmp_path: Path) -> None:
    path = written(run, tmp_path)

    async def visit(page: Page) -> None:
        await opened(page, path)
        assert {url.partition(":")[0] for url in page.requests if url != "about:blank"} <= {"file", "data"}
        assert not page.messages
        refused = await page.evaluate(
            "new Promise((tell) => { document.addEventListener('securitypolicyviolation', (event) => "
            "tell(event.violatedDirective)); new Image().src = 'http://127.0.0.1:9/x'; })"
        )
        assert refused == "img-src"
        assert not await page.evaluate("fetch('http://127.0.0.1:9/x').then(() => true, () => false)")

    browse(tmp_path / "profile", visit)


@pytest.mark.system
def test_in_a_browser_it_fits_a_phone_and_the_night(run: RunResult, tmp_path: Path) -> None:
    path = written(run, tmp_path)

    async def visit(page: Page) -> None:
        await page.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
        await opened(page, path)
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390
        _, _, width, height = await page.box("#map")
        assert width == 390
        assert 300 < height < 600, "the panel below is seen"
        await click(page, 60, 45)
        left, top, wide, high = await page.box("#card")
        assert left >= 0
        assert left + wide <= 390
        assert top + high <= height + 1
        by_day = await page.screenshot()
        await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        await asyncio.sleep(0.1)
        by_night = await page.screenshot()
        assert by_day[-5, 5].min() > 230
        assert by_night[-5, 5].max() < 50
        Image.fromarray(by_night).save(tmp_path / "night.png")

    browse(tmp_path / "profile", visit)
