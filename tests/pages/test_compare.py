"""The page that compares two dates: read by a parser, and used in a real browser."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from geoseg.errors import SinkError, SourceError
from geoseg.pages import compare
from geoseg.pages.compare import write_compare
from geoseg.picture import DatePicture
from geoseg.result import ClassArea
from tests.browser import Page, browse
from tests.test_look import write_labels

RED, BLUE, GREEN = (200, 30, 30), (30, 30, 200), (20, 180, 60)
HOSTILE = "<script>alert(1)</script>\"'><img src=http://example.org/x> & $policy ${title} </style>"


def area(value: int, name: str, color: str, pixels: int) -> ClassArea:
    return ClassArea(value=value, name=name, title=name, color=color, pixels=pixels, km2=pixels / 1e4)


AREAS = (area(0, "unchanged", "CCCCCC", 30_000), area(1, "flood", bytes(GREEN).hex(), 10_000))


def plain(name: str, color: tuple[int, ...], shape: tuple[int, int], **other: Any) -> DatePicture:
    rgba = np.empty((*shape, 4), np.uint8)
    rgba[:] = (*color, 255)
    facts = {"scene_id": f"scene {name}", "datetime": datetime(2024, 5, 1, 10, 30, tzinfo=UTC)}
    return DatePicture(**{"name": name, "bands": ("red", "green", "blue"), "rgba": rgba, **facts, **other})


def square(side: int) -> npt.NDArray[np.uint8]:
    """Change in the middle, nodata in a corner."""
    labels = np.zeros((side, side), np.uint8)
    labels[side // 4 : -side // 4, side // 4 : -side // 4] = 1
    labels[: side // 8, : side // 8] = 255
    return labels


def write(
    folder: Path, *, side: int = 200, areas: tuple[ClassArea, ...] = AREAS, title: str = "a title", **other: Any
) -> Path:
    change = write_labels(folder / "change.tif", square(side))
    dates = [plain(name, color, (side, side), **other) for name, color in [("before", RED), ("after", BLUE)]]
    return write_compare(folder / "compare.html", change, dates, areas, 255, title=title, model="net")


class Reader(HTMLParser):
    """Elements with their attributes, and the texts of elements."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._within = [""]
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self._within = self._within[: max(index for index, name in enumerate(self._within) if name == tag)]

    def handle_data(self, data: str) -> None:
        self.texts.append((self._within[-1], data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> list[str]:
        return [text for within, text in self.texts if within == tag]


def policy_of(page: Reader) -> dict[str, list[str]]:
    content = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert content is not None
    return {words[0]: words[1:] for words in (part.split() for part in content.split(";"))}


def test_nothing_is_loaded_from_anywhere(tmp_path: Path) -> None:
    path = write(tmp_path)
    page = Reader(path)
    addresses = [
        value
        for _, attributes in page.elements
        for key, value in attributes.items()
        if key in {"src", "href", "srcset", "action", "data", "poster", "background", "style"}
    ]
    assert len(addresses) == 3
    assert all(address and address.startswith("data:image/webp;base64,") for address in addresses)
    markup = re.sub(r'"data:[^"]*"', "", path.read_text())
    assert not re.search(r"https?:|url\(|@import|//\w", markup)
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.elements}


def test_the_policy_allows_exactly_what_the_page_is_made_of(tmp_path: Path) -> None:
    page = Reader(write(tmp_path))
    policy = policy_of(page)
    assert policy["default-src"] == ["'none'"]
    assert policy["img-src"] == ["data:"]
    for kind in ("script", "style"):
        (text,) = page.text(kind)
        assert policy[f"{kind}-src"] == [
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        ]
    assert not [attributes for _, attributes in page.elements if any(key.startswith("on") for key in attributes)]


def test_texts_of_strangers_are_texts(tmp_path: Path) -> None:
    areas = (AREAS[0], area(1, HOSTILE, "00FF00", 5))
    calm, hostile = tmp_path / "calm", tmp_path / "hostile"
    calm.mkdir()
    hostile.mkdir()
    expected = Reader(write(calm))
    page = Reader(write(hostile, areas=areas, title=HOSTILE, scene_id=HOSTILE, bands=(HOSTILE,) * 3))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in expected.elements]
    assert page.text("title") == page.text("h1") == [HOSTILE]
    assert HOSTILE in page.text("td")
    assert HOSTILE in page.text("small")
    assert all(HOSTILE in str(image["alt"]) for image in page.all("img")[:2])
    assert policy_of(page)["default-src"] == ["'none'"]


def test_what_it_tells(tmp_path: Path) -> None:
    page = Reader(write(tmp_path))
    text = " ".join(" ".join(words for _, words in page.texts).split())
    for told in ("a title", "net", "scene before", "scene after", "2024-05-01 10:30 UTC", "true colour: red, green"):
        assert told in text
    assert "unchanged 3.00 km² 75.0 % flood 1.00 km² 25.0 %" in text
    labelled = {label.get("for") for label in page.all("label")}
    assert {element["id"] for element in page.all("input") if element["type"] == "range"} <= labelled


def test_the_pictures_are_the_dates_and_the_change(tmp_path: Path) -> None:
    images = [str(image["src"]).partition(",")[2] for image in Reader(write(tmp_path, side=400)).all("img")]
    after, before, change = (np.asarray(Image.open(io.BytesIO(base64.b64decode(image)))) for image in images)
    assert np.abs(before[..., :3].astype(int) - RED).max() < 12
    assert np.abs(after[..., :3].astype(int) - BLUE).max() < 12
    is_change = square(400) == 1
    np.testing.assert_array_equal(change[..., 3], np.where(is_change, 255, 0))
    assert (change[is_change] == (*GREEN, 255)).all()


def test_of_many_classes_those_that_occur_are_listed(tmp_path: Path) -> None:
    areas = tuple(area(value, f"kind {value}", "123456", value % 2) for value in range(100))
    page = Reader(write(tmp_path, areas=areas))
    named = [text for text in page.text("td") if text.startswith("kind")]
    assert named == [f"kind {value}" for value in range(1, 100, 2)]


def test_noise_stays_below_the_largest_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is harder to compress; what would be too large becomes smaller."""
    monkeypatch.setattr(compare, "SIDES", (500, 350, 200))
    monkeypatch.setattr(compare, "LARGEST", 300_000)
    rng = np.random.default_rng(0)
    change = write_labels(tmp_path / "change.tif", rng.integers(0, 100, (500, 500), np.uint8))
    dates = [
        plain(name, RED, (500, 500), rgba=rng.integers(0, 256, (500, 500, 4), np.uint8)) for name in ("before", "after")
    ]
    areas = [area(value, str(value), f"{value:06x}", 1) for value in range(100)]
    path = write_compare(tmp_path / "compare.html", change, dates, areas, 255)
    assert path.stat().st_size <= 300_000
    images = [str(image["src"]).partition(",")[2] for image in Reader(path).all("img")]
    assert {Image.open(io.BytesIO(base64.b64decode(image))).size for image in images} <= {(350, 350), (200, 200)}


def test_same_bytes_again(tmp_path: Path) -> None:
    assert write(tmp_path).read_bytes() == write(tmp_path).read_bytes()


def test_errors_name_the_file(tmp_path: Path) -> None:
    dates = [plain(name, RED, (9, 9)) for name in ("before", "after")]
    with pytest.raises(SourceError, match=r"missing\.tif"):
        write_compare(tmp_path / "compare.html", tmp_path / "missing.tif", dates, AREAS, 255)
    change = write_labels(tmp_path / "change.tif", square(9))
    with pytest.raises(SinkError, match=r"compare\.html"):
        write_compare(tmp_path / "missing" / "compare.html", change, dates, AREAS, 255)


# --- in a browser ---


async def share_of(page: Page, color: tuple[int, ...]) -> float:
    """Part of a line across the picture, near its upper rim, that is of `color`."""
    left, top, width, height = await page.box("#stage")
    line = (await page.screenshot())[round(top + 0.2 * height), round(left) + 2 : round(left + width) - 2]
    return float((np.abs(line.astype(int) - color).max(axis=-1) < 25).mean())


async def middle_of(page: Page) -> npt.NDArray[np.uint8]:
    """The colour at three tenths of the width and half of the height, where there is change."""
    left, top, width, height = await page.box("#stage")
    color: npt.NDArray[np.uint8] = (await page.screenshot())[round(top + 0.5 * height), round(left + 0.3 * width)]
    return color


@pytest.mark.system
def test_in_a_browser_the_slider_uncovers_the_dates(tmp_path: Path) -> None:
    path = write(tmp_path)

    async def visit(page: Page) -> None:
        for position in (30, 70):
            await page.open(path, f"position={position}&change=off")
            assert await share_of(page, RED) == pytest.approx(position / 100, abs=0.02)
            assert await share_of(page, BLUE) == pytest.approx(1 - position / 100, abs=0.02)

        async def value() -> float:
            return float(await page.evaluate("document.getElementById('position').value"))

        left, top, width, height = await page.box("#stage")

        def at(part: float) -> dict[str, float]:
            return {"x": left + part * width, "y": top + height / 3}

        mouse = {"button": "left", "buttons": 1, "clickCount": 1}
        await page.call("Input.dispatchMouseEvent", type="mousePressed", **at(0.7), **mouse)
        await page.call("Input.dispatchMouseEvent", type="mouseMoved", **at(0.4), **mouse)
        await page.call("Input.dispatchMouseEvent", type="mouseReleased", **at(0.4), **mouse)
        await page.call("Input.dispatchMouseEvent", type="mouseMoved", **at(0.9))
        assert await value() == pytest.approx(40, abs=1)
        assert await share_of(page, RED) == pytest.approx(0.4, abs=0.02)

        before = await value()
        for _ in range(3):
            for kind in ("keyDown", "keyUp"):
                await page.call("Input.dispatchKeyEvent", type=kind, key="ArrowRight", windowsVirtualKeyCode=39)
        assert await value() == before + 3

        await page.call("Emulation.setTouchEmulationEnabled", enabled=True)
        await page.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[at(0.5)])
        for part in (0.6, 0.7, 0.8):
            await page.call("Input.dispatchTouchEvent", type="touchMove", touchPoints=[at(part)])
        await page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        assert await value() == pytest.approx(80, abs=1)
        assert not page.messages

    browse(tmp_path / "profile", visit)


@pytest.mark.system
def test_in_a_browser_the_change_lies_on_top(tmp_path: Path) -> None:
    path = write(tmp_path)

    async def visit(page: Page) -> None:
        await page.open(path, "position=100&opacity=100")
        assert np.abs(await middle_of(page) - np.array(GREEN)).max() < 12
        assert await share_of(page, RED) > 0.8  # the unchanged is not covered
        await page.open(path, "position=100&opacity=50")
        assert np.abs(await middle_of(page) - (np.array(GREEN) + RED) / 2).max() < 15
        await page.evaluate("document.getElementById('shown').click()")
        assert np.abs(await middle_of(page) - np.array(RED)).max() < 15

    browse(tmp_path / "profile", visit)


@pytest.mark.system
def test_in_a_browser_no_request_leaves_the_page(tmp_path: Path) -> None:
    path = write(tmp_path, title=HOSTILE)

    async def visit(page: Page) -> None:
        await page.open(path)
        requests = {url.partition(":")[0] for url in page.requests if url != "about:blank"}
        assert requests <= {"file", "data"}
        assert not page.messages
        refused = await page.evaluate(
            "new Promise((tell) => { document.addEventListener('securitypolicyviolation', (event) => "
            "tell(event.violatedDirective)); new Image().src = 'http://127.0.0.1:9/x'; })"
        )
        assert refused == "img-src"
        assert not await page.evaluate("fetch('http://127.0.0.1:9/x').then(() => true, () => false)")

    browse(tmp_path / "profile", visit)


@pytest.mark.system
def test_in_a_browser_it_fits_a_phone_and_the_night(tmp_path: Path) -> None:
    path = write(tmp_path, title="a_long_title_without_a_single_space" * 5, scene_id="x" * 100)

    async def visit(page: Page) -> None:
        await page.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
        await page.open(path)
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360
        left, _, width, _ = await page.box("#stage")
        assert left >= 0
        assert width > 300
        by_day = (await page.screenshot())[2, 2]
        await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        by_night = (await page.screenshot())[2, 2]
        assert by_day.min() > 230
        assert by_night.max() < 50

    browse(tmp_path / "profile", visit)
