"""Runs the code cells of a notebook in order and puts what they show into it: ``python -m pipelines.notebook FILE``.

It needs no Jupyter. A cell may print, and end with an expression whose value is shown: as a picture if it can be one.
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["executed", "main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs notebooks in folders of their own, and writes their outputs into them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", type=Path, nargs="+", metavar="FILE")
    for path in parser.parse_args(arguments).notebooks:
        with tempfile.TemporaryDirectory() as folder:
            done = executed(json.loads(path.read_text("utf-8")), Path(folder))
        path.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", "utf-8")


def executed(notebook: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The notebook with what its cells show when they run in `folder`, one after the other.

    Args:
        notebook: As its JSON says (nbformat 4).
        folder: The working directory of the cells.
    """
    names: dict[str, Any] = {"__name__": "notebook"}
    cells = []
    with contextlib.chdir(folder):
        for cell in notebook["cells"]:
            if cell["cell_type"] != "code":
                cells.append(cell)
                continue
            count = 1 + sum(one["cell_type"] == "code" for one in cells)
            shown = _run("".join(cell["source"]), f"cell {count}", names)
            cells.append({**cell, "execution_count": count, "outputs": _outputs(*shown, count)})
    return {**notebook, "cells": cells}


def _run(code: str, called: str, names: dict[str, Any]) -> tuple[str, Any]:
    """What a cell prints, and the value of the expression that it ends with; None where it ends otherwise."""
    body, value = ast.parse(code, called).body, None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), called, "exec"), names)  # noqa: S102 - the notebook is this project's own
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), called, "eval"), names)  # noqa: S307
    return printed.getvalue(), value


def _outputs(printed: str, value: Any, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if printed:
        found.append({"output_type": "stream", "name": "stdout", "text": printed.splitlines(keepends=True)})
    if value is not None:
        found.append({"output_type": "execute_result", "execution_count": count, "metadata": {}, "data": _data(value)})
    return found


def _data(value: Any) -> dict[str, Any]:
    """A picture, or text."""
    if hasattr(value, "_repr_png_"):
        return {"image/png": base64.b64encode(value._repr_png_()).decode(), "text/plain": ["<picture>"]}
    return {"text/plain": repr(value).splitlines(keepends=True)}


if __name__ == "__main__":
    main()
