"""``geoseg --help``: quick, light, and complete."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib import import_module

import click
import pytest

from geoseg.cli.root import COMMANDS, program
from geoseg.config import RunConfig
from geoseg.resolved import key_of
from tests.cli.conftest import Call

HEAVY = ("torch", "dask", "distributed", "rasterio", "numpy", "pydantic", "rich", "pystac", "geopandas", "onnxruntime")

LOOK = """
import json, sys
from geoseg.cli import run
code = run(sys.argv[1:])
print(json.dumps([code, sorted(name for name in sys.modules if "." not in name)]), file=sys.stderr)
"""


def loaded_by(*words: str) -> tuple[int, set[str]]:
    """Exit code, and the top-level modules that a command line has loaded."""
    ended = subprocess.run([sys.executable, "-c", LOOK, *words], capture_output=True, text=True, check=True)
    code, names = json.loads(ended.stderr.splitlines()[-1])
    return code, set(names)


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("-h",)])
def test_help_and_version_load_nothing_heavy(words: tuple[str, ...]) -> None:
    code, names = loaded_by(*words)
    assert code == 0
    assert not names & set(HEAVY)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_of_a_command_loads_no_torch_dask_or_rasterio(command: str) -> None:
    code, names = loaded_by(command, "--help")
    assert code == 0
    assert not names & {"torch", "dask", "distributed", "rasterio", "geopandas", "onnxruntime", "rich"}


def test_help_answers_in_less_than_300_ms() -> None:
    def once() -> float:
        since = time.perf_counter()
        subprocess.run([sys.executable, "-m", "geoseg", "--help"], capture_output=True, check=True)
        return time.perf_counter() - since

    assert min(once() for _ in range(5)) < 0.3


def test_the_list_of_commands_is_what_there_is(call: Call) -> None:
    ended = call("--help")
    for name, (place, line) in COMMANDS.items():
        module, _, attribute = place.partition(":")
        assert isinstance(getattr(import_module(module), attribute), click.Command)
        assert f"  {name}" in ended.out
        assert line in ended.out


@pytest.mark.parametrize("command", ["segment", "plan"])
def test_every_option_of_a_run_is_in_the_help(command: str, call: Call) -> None:
    text = call(command, "--help").out
    for name, field in RunConfig.model_fields.items():
        if name not in {"inputs", "dry_run"}:
            assert f"--{key_of(name, field).replace('_', '-')}" in text, name
    assert ("--dry-run" in text) == (command == "segment")


def test_no_words_show_the_help_and_are_wrong_usage(call: Call) -> None:
    ended = call()
    assert ended.code == 2
    assert "Usage: geoseg" in ended.err
    assert ended.out == ""


def test_the_version_is_one_line(call: Call) -> None:
    name, version = call("--version").out.split()
    assert name == "geoseg"
    assert version[0].isdigit()


def test_the_program_is_named_geoseg_whatever_started_it() -> None:
    assert program.name == "program"  # the function's; the name that people see is given in `run`
    text = subprocess.run([sys.executable, "-m", "geoseg", "-h"], capture_output=True, text=True, check=True).stdout
    assert text.startswith("Usage: geoseg [OPTIONS] COMMAND")
