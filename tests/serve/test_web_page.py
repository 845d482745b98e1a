"""The page in a real browser: with mouse and keys, with a token, on a phone, and without WebGL."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import geoseg
from tests.browser import Page, browse
from tests.pairs import COVERS, write_pair
from tests.runs import NAMES, Made, make_run
from tests.serve import pretend
from tests.serve.conftest import Start
from tests.serve.test_limits import SECRET, tokens
from tests.serve.test_tiles import COLORS, LARGE, paint, shade

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(find_spec("maplibre") is None, reason="needs maplibre, of the extra serve"),
]

SOFTWARE = "--use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader"
"""WebGL without a graphics card."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    run = make_run(tmp_path_factory.mktemp("made") / "large", geobox=LARGE)
    paint(run.folder)
    shade(run)
    return run


@pytest.fixture
def root(tmp_path: Path, made: Made) -> Path:
    folder = tmp_path / "service"
    shutil.copytree(made.folder, folder / "runs" / "large")
    return folder


@pytest.fixture(scope="module")
def change(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("change")
    before, after = write_pair(folder)
    return geoseg.detect_change(before.path, after.path, model=COVERS, out=folder / "out", vector=("parquet",))


async def load(
    page: Page, url: str, view: str = "", *, width: int = 1200, height: int = 800, dark: bool = False
) -> None:
    """Opens a view, without motion, and waits until page and map have drawn it."""
    await page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
    wishes = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
    await page.call("Emulation.setEmulatedMedia", features=[{"name": name, "value": wishes[name]} for name in wishes])
    for address in ("about:blank", f"{url}/#{view}"):
        await page.call("Page.navigate", url=address)
    await until(page, "document.readyState === 'complete' && location.href !== 'about:blank'")


async def until(page: Page, condition: str) -> None:
    """Waits until an expression is true."""
    for _ in range(600):
        if await page.evaluate(f"Boolean({condition})"):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"not in time: {condition}\n{page.messages}\n{await page.evaluate('document.body.innerText')}")


DRAWN = "['#panel', '#map'].every((one) => document.querySelector(one).getAttribute('aria-busy') === 'false')"


async def text(page: Page, selector: str) -> str:
    found = await page.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")
    return str(found)


async def press(page: Page, key: str, code: int) -> None:
    for kind in ("keyDown", "keyUp"):
        await page.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)


async def click(page: Page, x: float, y: float) -> None:
    for kind in ("mousePressed", "mouseReleased"):
        await page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


def visit(folder: Path, url: str, steps: Callable[[Page], Awaitable[None]], graphics: str = SOFTWARE) -> None:
    """Takes steps in a browser, and holds that the page asked nobody else and had nothing to complain of."""

    async def all_steps(page: Page) -> None:
        await steps(page)
        asked = [each for each in page.requests if not each.startswith((url, "blob:", "data:", "about:"))]
        assert not asked
        assert not [each for each in page.messages if "status of 401" not in each and "status of 400" not in each]

    browse(folder / "browser", all_steps, graphics=graphics)


def share(picture: npt.NDArray[np.uint8], color: tuple[int, int, int]) -> float:
    """Part of a picture that has nearly a colour."""
    return float((np.abs(picture.astype(int) - color).max(axis=-1) < 12).mean())


def flat_spot(picture: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Row and column amid pixels of one colour, none of which is an outline."""
    for row in range(20, len(picture) - 20, 7):
        for col in range(20, picture.shape[1] - 20, 7):
            around = picture[row - 3 : row + 4, col - 3 : col + 4].reshape(-1, 3)
            if (around == around[0]).all() and any(
                np.abs(around[0].astype(int) - each).max() < 12 for each in COLORS.values()
            ):
                return row, col
    raise AssertionError("there is no such place")


def test_a_map_is_shown_and_tells_of_its_polygons(start: Start, root: Path, tmp_path: Path) -> None:
    live = start(root)

    async def steps(page: Page) -> None:
        await load(page, live.url)
        await until(page, "document.querySelector('a.row')")
        await page.evaluate("document.querySelector('a.row').click()")
        await until(page, f"location.hash === '#/maps/large' && {DRAWN}")
        picture = (await page.screenshot())[60:740, 200:700]
        assert min(share(picture, color) for color in COLORS.values()) > 0.1
        for name in ("Polygons", "Confidence", "Classes"):
            assert name in await text(page, "#panel")
        row, col = flat_spot(picture)
        await click(page, 200 + col, 60 + row)
        await until(page, "document.querySelector('#card dl')?.innerText.includes('Area')")
        value = NAMES.index(await text(page, ".card-head"))
        assert np.abs(picture[row, col].astype(int) - COLORS[value]).max() < 12
        await until(page, "document.querySelector('#card').innerText.includes('cover')")  # no tile tells of the model
        await press(page, "Escape", 27)
        await until(page, "document.querySelector('#card').hidden")
        assert await page.evaluate("document.activeElement === document.querySelector('#map canvas')")
        await press(page, "Enter", 13)
        await until(page, "!document.querySelector('#card').hidden")
        await page.evaluate(
            "document.querySelectorAll('.layer input[type=checkbox]').forEach((box) => box.checked && box.click())"
        )
        await until(page, DRAWN)
        bare = (await page.screenshot())[60:740, 200:700]
        assert max(share(bare, color) for color in COLORS.values()) < 0.01

    visit(tmp_path, live.url, steps)


def test_the_colours_on_the_map_are_those_of_the_labels(start: Start, root: Path, made: Made, tmp_path: Path) -> None:
    live = start(root)

    async def steps(page: Page) -> None:
        await load(page, live.url, "/maps/large")
        await until(page, DRAWN)
        await page.evaluate("document.querySelector('#show-polygons').click()")
        await until(page, DRAWN)
        picture = (await page.screenshot())[:, :800]
        shown = {value: share(picture, color) for value, color in COLORS.items()}
        for value, part in shown.items():
            expected = float((made.labels == value).sum() / (made.labels != 255).sum())
            assert part / sum(shown.values()) == pytest.approx(expected, abs=0.02)

    visit(tmp_path, live.url, steps)


def test_a_token_is_asked_for_once_and_opens_everything(start: Start, root: Path, tmp_path: Path) -> None:
    live = start(root, tokens=tokens(tmp_path))

    async def give(page: Page, token: str) -> None:
        await until(page, "document.querySelector('#token').open")
        await page.evaluate(f"document.querySelector('#token-text').value = {json.dumps(token)}")
        await page.evaluate("document.querySelector('#token button').click()")

    async def steps(page: Page) -> None:
        await load(page, live.url, "/maps/large")
        await give(page, "not the token")
        await until(page, "document.querySelector('#token').open && document.querySelector('#token-wrong').innerText")
        await give(page, SECRET)
        await until(page, DRAWN)
        assert share((await page.screenshot())[60:740, 200:700], COLORS[0]) > 0.1
        assert not await page.evaluate("document.querySelector('#token').open")
        assert SECRET not in await page.evaluate("document.documentElement.outerHTML + location.href")
        assert not [url for url in page.requests if SECRET in url]
        assert await page.evaluate("localStorage.length") == 0

    visit(tmp_path, live.url, steps)


async def submit(page: Page, url: str, tile: int) -> None:
    """Fills the form and sends it."""
    await load(page, url, "/new/segment")
    await until(page, "document.querySelector('#input-tile')")
    await page.evaluate(f"document.querySelector('#input-tile').value = {tile}")
    await page.evaluate("document.querySelector('#panel form button.main').click()")


def test_jobs_are_asked_for_watched_and_stopped(start: Start, root: Path, tmp_path: Path) -> None:
    live = start(root, pretending=True)

    async def steps(page: Page) -> None:
        await submit(page, live.url, pretend.WAIT)
        await until(page, "document.querySelector('progress')?.value > 0")
        assert "at work" in await text(page, "#lists")
        await page.evaluate("document.querySelector('li.row button').click()")
        await until(page, "document.querySelector('.state.dismissed')")
        await submit(page, live.url, pretend.FAIL)
        await until(page, "document.querySelector('.state.failed')")
        assert "has no band nir" in await text(page, "#lists")
        assert "/etc" not in await text(page, "#lists")
        await page.evaluate("document.querySelector('li.row:has(.failed) a').click()")
        await until(page, "document.querySelector('#panel .problem')?.innerText.includes('has no band nir')")
        await page.evaluate("document.querySelector('#panel button.quiet').click()")
        await until(page, "location.hash === '#/' && document.querySelector('#lists a.row')")
        assert not await page.evaluate("document.querySelector('.failed')")
        await submit(page, live.url, pretend.SUCCEED)
        await until(page, "document.querySelectorAll('a.row').length === 2")  # the map, and the one that was there

    visit(tmp_path, live.url, steps)


def test_what_the_service_refuses_is_told_in_its_words(start: Start, root: Path, tmp_path: Path) -> None:
    live = start(root, pretending=True)

    async def steps(page: Page) -> None:
        await load(page, live.url, "/new/segment")
        await until(page, "document.querySelector('#input-bbox')")
        await page.evaluate("document.querySelector('#input-bbox').value = '10, 48, 11'")
        await page.evaluate("document.querySelector('#panel form button.main').click()")
        await until(page, "document.querySelector('#wrong').innerText.includes('four numbers')")
        await page.evaluate("document.querySelector('#input-bbox').value = '10, 48, 11, 480'")
        await page.evaluate("document.querySelector('#panel form button.main').click()")
        await until(page, "document.querySelector('#wrong').innerText.includes('Invalid input')")
        assert "bbox" in await text(page, "#wrong")
        await load(page, live.url, "/maps/none")
        await until(page, "document.querySelector('#alert').innerText.includes('No such map')")

    visit(tmp_path, live.url, steps)


def test_every_view_fits_a_phone_and_every_control_has_a_name(start: Start, root: Path, tmp_path: Path) -> None:
    live = start(root)
    views = {"": "a.row", "/maps/large": "#show-labels", "/new/segment": "#input-tile", "/new/evaluate": "#input-truth"}
    nameless = """[...document.querySelectorAll('input, select, button, a, summary')].filter((one) =>
        !(one.labels?.length || one.getAttribute('aria-label') || one.textContent.trim())).length"""

    async def steps(page: Page) -> None:
        for view, sign in views.items():
            for dark in (False, True):
                await load(page, live.url, view, width=390, height=844, dark=dark)
                await until(page, f"document.querySelector({json.dumps(sign)})")
                assert await page.evaluate("document.documentElement.scrollWidth") == 390
                assert await page.evaluate(nameless) == 0
                assert ((await page.screenshot())[-40:].mean() < 80) == dark

    visit(tmp_path, live.url, steps)


def test_without_webgl_the_runs_picture_stands_for_the_map(start: Start, change: Any, tmp_path: Path) -> None:
    shutil.copytree(change.out, tmp_path / "service" / "runs" / "pair")
    live = start()

    async def steps(page: Page) -> None:
        await load(page, live.url, "/maps/pair")
        await until(page, "document.querySelector('#instead img').naturalWidth > 0")
        assert not await page.evaluate("document.querySelector('#instead img').hidden")
        assert "no WebGL" in await text(page, "#instead")
        assert "Unchanged" in await text(page, "#panel")

    visit(tmp_path, live.url, steps, graphics="--disable-gpu --disable-3d-apis")


def test_both_dates_can_be_compared_by_keys_and_by_mouse(start: Start, change: Any, tmp_path: Path) -> None:
    shutil.copytree(change.out, tmp_path / "service" / "runs" / "pair")
    live = start()

    async def steps(page: Page) -> None:
        await load(page, live.url, "/maps/pair")
        await until(page, "document.querySelector('#open-compare')")
        await page.evaluate("document.querySelector('#open-compare').click()")
        await until(page, "document.querySelector('.dates img')?.complete")
        await page.evaluate("document.querySelector('#show-change').click()")
        left, top, width, height = (round(value) for value in await page.box(".dates"))
        seen = {}
        for key, code, part in (("Home", 36, 0), ("End", 35, 100)):
            await press(page, key, code)
            await until(page, f"document.querySelector('#compare input').value === '{part}'")
            seen[key] = (await page.screenshot())[top + 5 : top + height - 5, left + 20 : left + width - 20]
        assert (seen["Home"] != seen["End"]).any()
        await click(page, left + width / 2, top + height / 4)
        await until(page, "document.querySelector('#compare input').value === '50'")
        middle = (await page.screenshot())[top + 5 : top + height - 5, left + 20 : left + width - 20]
        half = middle.shape[1] // 2 - 20
        assert (middle[:, :half] == seen["End"][:, :half]).mean() > 0.99  # all of it is before
        assert (middle[:, -half:] == seen["Home"][:, -half:]).mean() > 0.99
        await press(page, "Escape", 27)
        await until(page, "document.querySelector('#compare').hidden")

    visit(tmp_path, live.url, steps)
