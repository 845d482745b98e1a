"""Debian's QGIS and GDAL: its own Python, which alone has their bindings, and the desktop on a screen of no one's."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

PYTHON = "/usr/bin/python3"
PACKAGES = {"qgis.core": "python3-qgis", "osgeo.gdal": "python3-gdal"}


def ask(script: str, *arguments: object, module: str) -> Any:
    """What `script` prints last, as JSON; skips where Debian's Python cannot import `module`."""
    probe = [PYTHON, "-c", f"import {module}"]
    if not Path(PYTHON).exists() or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip(f"Debian's {PACKAGES[module]} is not installed")
    with tempfile.TemporaryDirectory() as home:
        answer = subprocess.run(
            [PYTHON, "-c", script, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
            env={"PATH": os.environ["PATH"], "HOME": home, "XDG_RUNTIME_DIR": home, "QT_QPA_PLATFORM": "offscreen"},
        )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


def call_desktop(words: Sequence[str | Path], folder: Path) -> str:
    """Runs a command line that starts with ``xvfb-run`` in `folder` and returns what it says; nothing of it stays."""
    if not (shutil.which("qgis") and shutil.which("xvfb-run")):
        pytest.skip("QGIS or xvfb-run is not installed: apt-get install qgis xvfb")
    with tempfile.TemporaryDirectory() as home:
        process = subprocess.Popen(
            words,
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": home, "XDG_RUNTIME_DIR": home},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            return process.communicate(timeout=120)[0]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
