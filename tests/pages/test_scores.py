"""The page of scores: read by a parser, and opened in a real browser."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import geoseg
from geoseg.errors import SinkError
from geoseg.evaluation.scores import Scores
from geoseg.pages.scores import write_score_page
from tests.browser import Page, browse
from tests.pages.test_compare import HOSTILE, Reader, policy_of
from tests.source.rasters import write


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Scores:
    """Scores with everything that a page can show, and names that would like to be markup."""
    folder = tmp_path_factory.mktemp("scores")
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (1, 60, 60), dtype=np.uint8)
    predicted = np.where(rng.random(truth.shape) < 0.7, truth, 1).astype(np.uint8)
    files = [write(folder / f"{name}.tif", each) for name, each in (("p", predicted), ("t", truth))]
    sure = write(folder / "sure.tif", rng.uniform(0.3, 1, truth.shape).astype(np.float32))
    names = {0: "water", 1: HOSTILE, 2: "w" * 90, 9: "snow"}
    return geoseg.evaluate(*files, confidence=sure, names=names, by=200)


@pytest.fixture
def page(scores: Scores, tmp_path: Path) -> Reader:
    return Reader(write_score_page(tmp_path / "scores.html", scores))


def test_nothing_is_loaded_from_anywhere(scores: Scores, tmp_path: Path) -> None:
    path = write_score_page(tmp_path / "scores.html", scores)
    page = Reader(path)
    assert not {"link", "iframe", "object", "embed", "base", "form", "img", "script", "image", "use"} & {
        tag for tag, _ in page.elements
    }
    assert not [key for _, attributes in page.elements for key in attributes if key in {"src", "href", "style"}]
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    (style,) = page.text("style")
    assert not re.search(r"https?:|url\(|@import", style)
    digest = f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'"
    assert policy_of(page)["style-src"] == [digest]
    assert policy_of(page)["default-src"] == ["'none'"]
    assert "script-src" not in policy_of(page)


def test_names_stay_text(page: Reader) -> None:
    cells = [text for tag, text in page.texts if tag == "td"]
    assert HOSTILE in "".join(text for _, text in page.texts)
    assert "snow" in cells


def test_the_numbers_stand_in_the_tables(scores: Scores, page: Reader) -> None:
    cells = [text for tag, text in page.texts if tag == "td"]
    for each in scores.classes[:3]:
        assert f"{each.truth_pixels:,}" in cells
        assert f"{each.iou:.3f}" in cells
    assert f"{scores.overall['ece']:.3f}" in cells
    assert "-" in cells, "what is not defined"
    assert sum(text.startswith("row ") for text in cells) == len(scores.regions) == 9


def test_the_matrix_has_a_cell_for_each_pair_and_the_curve_a_bar_for_each_bin(scores: Scores, page: Reader) -> None:
    kinds = [attributes.get("class") for attributes in page.all("rect")]
    assert kinds.count("cell") == 16
    assert kinds.count("bar") == sum(each.pixels > 0 for each in scores.reliability) > 5
    first = page.all("rect")[0]
    share = scores.confusion[0, 0] / scores.confusion[0].sum()
    assert float(first["fill-opacity"] or "nan") == pytest.approx(0.75 * share, abs=1e-3)


def test_a_page_that_cannot_be_written_is_an_error(scores: Scores, tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="missing"):
        write_score_page(tmp_path / "missing" / "scores.html", scores)


@pytest.mark.system
def test_a_browser_shows_it_and_asks_nobody(scores: Scores, tmp_path: Path) -> None:
    path = write_score_page(tmp_path / "scores.html", scores)
    found: dict[str, Any] = {}

    async def visit(page: Page) -> None:
        await page.open(path)
        found["box"] = await page.box("svg.matrix")
        found["fill"] = await page.evaluate("getComputedStyle(document.querySelector('.cell')).fill")
        found["requests"], found["messages"] = page.requests, page.messages

    browse(tmp_path / "profile", visit)
    assert found["box"][2] > 100
    assert found["fill"] in {"rgb(28, 124, 125)", "rgb(79, 179, 180)"}, "the page's own style is allowed"
    assert [url for url in found["requests"] if not url.startswith(("file:", "about:"))] == []
    assert found["messages"] == []
