"""Notebooks run, and hold what they show."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.notebook import executed, main
from tests.conftest import CHECKOUT

NOTEBOOKS = sorted((CHECKOUT / "notebooks").glob("*.ipynb"))


def code(*sources: str) -> dict[str, Any]:
    cells = [{"cell_type": "code", "metadata": {}, "source": source.splitlines(keepends=True)} for source in sources]
    return {"cells": [{"cell_type": "markdown", "source": ["# Title"]}, *cells], "nbformat": 4}


def test_cells_share_names_and_show_what_they_print_and_end_with(tmp_path: Path) -> None:
    done = executed(code("a = 2\nprint('a is', a)", "a + 1", "from PIL import Image\nImage.new('L', (2, 2))"), tmp_path)
    title, printed, shown, picture = done["cells"]
    assert title == {"cell_type": "markdown", "source": ["# Title"]}
    assert [cell["execution_count"] for cell in (printed, shown, picture)] == [1, 2, 3]
    assert printed["outputs"] == [{"output_type": "stream", "name": "stdout", "text": ["a is 2\n"]}]
    assert shown["outputs"][0]["data"] == {"text/plain": ["3"]}
    assert picture["outputs"][0]["data"]["image/png"].startswith("iVBOR")


def test_cells_run_in_the_folder_and_fail_where_they_fail(tmp_path: Path) -> None:
    executed(code("open('made.txt', 'w').close()"), tmp_path)
    assert (tmp_path / "made.txt").exists()
    with pytest.raises(ZeroDivisionError):
        executed(code("1 / 0"), tmp_path)


def test_a_notebook_keeps_its_outputs(tmp_path: Path) -> None:
    path = tmp_path / "one.ipynb"
    path.write_text(json.dumps(code("6 * 7")))
    main([str(path)])
    assert json.loads(path.read_text())["cells"][1]["outputs"][0]["data"] == {"text/plain": ["42"]}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_executed_small_and_names_no_machine(path: Path) -> None:
    text = path.read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(cell["outputs"]) for cell in cells) > len(cells) / 2
    assert len(text) < 600_000
    assert not re.search(r"/(home|tmp|root|work|Users)/", text)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    stored = json.loads(path.read_text())
    done = executed(stored, tmp_path)
    assert [kinds(cell) for cell in done["cells"]] == [kinds(cell) for cell in stored["cells"]]


def kinds(cell: dict[str, Any]) -> list[str]:
    """What a cell shows, without what it says."""
    return [kind for each in cell.get("outputs", ()) for kind in each.get("data", {"text": None})]
