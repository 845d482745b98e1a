"""``geoseg view`` at the door: what it prints, where it writes, how it ends."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import pytest

from geoseg.result import RunResult
from tests.cli.conftest import Call
from tests.pages.test_layers import map_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return map_of(tmp_path_factory.mktemp("run"))


def test_the_page_stands_in_the_run_and_its_path_is_printed(run: RunResult, call: Call) -> None:
    called = call("view", run.out)
    assert (called.code, called.err) == (0, "")
    assert called.out == f"{run.out}/view.html\n"
    assert Path(called.out.strip()).read_text().startswith("<!doctype html>")


def test_it_can_stand_elsewhere_and_be_small(run: RunResult, tmp_path: Path, call: Call) -> None:
    page = tmp_path / "page.html"
    called = call("view", run.out, "-o", page, "--max-size", "0.5")
    assert (called.code, called.out) == (0, f"{page}\n")
    assert page.stat().st_size <= 500_000


def test_what_is_not_shown_is_said(tmp_path: Path, call: Call) -> None:
    run = map_of(tmp_path)
    (tmp_path / "scene.tif").unlink()
    called = call("view", run.out)
    assert called.code == 0
    assert called.err.startswith("geoseg: warning: The scene is not shown: ")


def test_the_browser_is_asked_only_on_request(run: RunResult, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(webbrowser, "open", shown.append)
    call("view", run.out)
    assert shown == []
    call("view", run.out, "--open")
    assert shown == [(Path(run.out) / "view.html").as_uri()]


def test_a_project_for_qgis(run: RunResult, call: Call) -> None:
    called = call("view", run.out, "--qgis")
    assert (called.code, called.out, called.err) == (0, f"{run.out}/run.qgs\n", "")
    assert "<qgis" in Path(called.out.strip()).read_text()


def test_wrong_usage_is_code_2(run: RunResult, tmp_path: Path, call: Call) -> None:
    for words in (
        ["view"],
        ["view", tmp_path],
        ["view", run.out, "--max-size", "0.1"],
        ["view", run.out, "-o", tmp_path],
        ["view", run.out, "--qgis", "--open"],
        ["view", tmp_path, "--qgis"],
    ):
        called = call(*words)
        assert (called.code, called.out) == (2, ""), words
        assert len(called.err.splitlines()) == 1
