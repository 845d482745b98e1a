"""The house keeps its rules: who imports whom, what is public, how modules grow, what travels, what pages say."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import pickle
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
from affine import Affine
from dask.base import tokenize

import geoseg
from geoseg.events import ChunkDone, ChunkRetried, ClusterReady, RowDone, StageStarted, Warned
from geoseg.grid import Axis, ChunkGrid, TileGrid
from geoseg.scene import Band, BandSet, Scaling, Scene
from geoseg.settings import Settings
from geoseg.spec import Channel, ClassInfo, ModelSpec, Rescale
from geoseg.window import GeoBox, Window

CHECKOUT = Path(__file__).resolve().parent.parent
MODULES = sorted((CHECKOUT / "geoseg").rglob("*.py"))
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]

PUBLIC = {
    "BandSet",
    "GeosegError",
    "Model",
    "ModelSpec",
    "Scene",
    "Sink",
    "Source",
    "TileGrid",
    "detect_change",
    "evaluate",
    "load_model",
    "open_scene",
    "plan_run",
    "save_package",
    "segment",
    "segment_array",
    "vectorize",
}

NOUNS = ("errors", "types", "events", "window", "scene", "grid", "spec", "settings", "protocols")


def python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=CHECKOUT,
        env=os.environ | environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- light to import ---


def test_importing_geoseg_loads_no_heavy_library(record_property: Callable[[str, object], None]) -> None:
    code = (
        "import json, sys, time\nstart = time.perf_counter()\nimport geoseg\nspent = time.perf_counter() - start\n"
        "print(json.dumps([spent, sorted({name.partition('.')[0] for name in sys.modules})]))"
    )
    seconds, loaded = min(json.loads(python(code)) for _ in range(3))
    record_property("seconds to import geoseg", seconds)
    assert not {"torch", "dask", "distributed", "rasterio", "geopandas", "pyarrow", "xarray", "numba"} & set(loaded)
    assert seconds < 1.0, "the aim is 0.15 s on an idle machine; this only catches a heavy import"


@pytest.mark.parametrize("module", NOUNS)
def test_nouns_and_sockets_load_no_heavy_library(module: str) -> None:
    """odc-geo brings the small core of dask (`dask.base`), no scheduler and no collections."""
    code = f"import sys, geoseg.{module}; print(*sys.modules)"
    loaded = set(python(code).split())
    assert not {"torch", "distributed", "dask.array", "rasterio", "xarray", "geopandas"} & loaded


def test_the_card_of_a_model_is_read_without_torch() -> None:
    code = (
        "import sys\nfrom geoseg.models import read_spec\nspec = read_spec('spectral-baseline')\n"
        "print('torch' in sys.modules, spec.name)"
    )
    assert python(code).split() == ["False", "spectral-baseline"]


# --- public names ---


def test_public_names_are_exactly_these() -> None:
    assert set(geoseg.__all__) == PUBLIC
    assert len(geoseg.__all__) == len(PUBLIC)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_name_is_there_documented_and_no_module(name: str) -> None:
    thing = getattr(geoseg, name)
    assert thing.__doc__
    assert not (CHECKOUT / "geoseg" / f"{name}.py").exists(), "importing the module would shadow the name"
    assert name in dir(geoseg)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = geoseg.no_such_name


# --- layout ---


def test_import_contracts_hold() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [str(tool), "--no-cache"], capture_output=True, text=True, check=False, cwd=CHECKOUT, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def lines_of_functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Each function's name and length, its docstring left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            yield node.name, 1 + (node.end_lineno or 0) - body[0].lineno


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_modules_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400, "which second idea moved in?"
    assert not [(name, length) for name, length in lines_of_functions(ast.parse(text)) if length > 60]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_names_say_what_is_in_them(path: Path) -> None:
    dumping_grounds = {"utils", "helpers", "manager", "handler", "common", "misc", "base"}
    names = {part.lower() for part in path.relative_to(CHECKOUT).with_suffix("").parts}
    classes = {node.name.lower() for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)}
    assert not dumping_grounds & (names | classes)


# --- values that travel ---


@dataclass(frozen=True)
class Nowhere:
    """A source that compares by value."""

    name: str = "nowhere"


GEOBOX = GeoBox((1000, 600), Affine(10, 0, 600_000, 0, -10, 5_400_000), "EPSG:32632")
GRID = TileGrid(height=1000, width=600, tile=256, overlap=64)
CHUNKS = ChunkGrid(grid=GRID, crop=Window.from_bounds(3, 4, 900, 500), rows_per_chunk=2, cols_per_chunk=1)
SPEC = ModelSpec(
    name="net",
    bands=("red", "nir"),
    channels=(
        Channel(name="red", rescale=(Rescale(gain=2.0, low=0.0),)),
        Channel(name="NDVI", expression="(nir - red) / (nir + red)"),
    ),
    classes=(ClassInfo(value=0, name="other"), ClassInfo(value=1, name="vegetation", color="00AA00")),
    halo=12,
    assume_scaling=Scaling(scale=1e-4),
    digest="ab" * 32,
)


def values() -> list[Any]:
    """One of each frozen value of the lower layers, made anew at each call."""
    bands = BandSet((Band(name="red", dtype="uint16", scaling=Scaling(scale=1e-4, offset=-0.1), nodata=0.0),))
    return [
        Window(row_off=-1, col_off=2, height=3, width=4),
        Scaling(scale=1e-4, offset=-0.1),
        bands[0],
        bands,
        Scene(
            id="s",
            source=Nowhere(),
            geobox=GeoBox(GEOBOX.shape, GEOBOX.transform, GEOBOX.crs),
            bands=bands,
            datetime=datetime(2024, 5, 1, 10, tzinfo=UTC),
        ),
        Axis(length=100, tile=10, overlap=3),
        TileGrid(height=1000, width=600, tile=256, overlap=64),
        GRID[3],
        ChunkGrid(grid=GRID, crop=CHUNKS.crop, rows_per_chunk=2, cols_per_chunk=1),
        CHUNKS[-1],
        pickle.loads(pickle.dumps(SPEC)),
        *SPEC.channels,
        SPEC.channels[0].rescale[0],
        SPEC.classes[1],
        Settings(backend="onnxruntime", batch=4, lanes=2),
        StageStarted(stage="predict", total_tiles=9),
        RowDone(chunk="r0000c0000", tiles=3, pixels=9),
        ChunkDone(chunk="r0000c0000", seconds=1.5),
        ChunkRetried(chunk="r0000c0000", reason="its worker is gone"),
        ClusterReady(address="tcp://127.0.0.1:8786", workers=2),
        Warned(message="looks unlike the training data"),
    ]


@pytest.mark.parametrize("index", range(len(values())), ids=lambda index: type(values()[index]).__name__)
def test_a_value_is_the_same_wherever_it_arrives(index: int) -> None:
    value, equal = values()[index], values()[index]
    arrived = pickle.loads(pickle.dumps(value))
    assert value == equal == arrived
    assert hash(value) == hash(equal) == hash(arrived)
    assert tokenize(value) == tokenize(equal) == tokenize(arrived)
    assert not hasattr(value, "__dict__"), "slots, so that a misspelled field is an error"
    with pytest.raises((AttributeError, TypeError)):
        value.no_such_field = 1


def test_values_that_differ_have_different_tokens() -> None:
    tokens = [tokenize(value) for value in values()]
    assert len(set(tokens)) == len(tokens)


def test_tokens_are_the_same_in_every_process() -> None:
    """Dask's keys of one run must match those of the run that resumes it."""
    code = "from tests.test_house import values, tokenize\nprint(*map(tokenize, values()))"
    here = [tokenize(value) for value in values()]
    assert python(code, PYTHONHASHSEED="1").split() == here
    assert python(code, PYTHONHASHSEED="2").split() == here


def test_large_grids_pickle_small() -> None:
    grid = TileGrid(height=2**23, width=2**23, tile=512, overlap=128)
    assert len(pickle.dumps(grid)) < 300


# --- documents that run ---

FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page."""
    return [code for tag, code in FENCE.findall(page.read_text()) if tag == language]


def command_lines(page: Path, program: str) -> list[list[str]]:
    """The words of each line of a console block that calls `program`."""
    text = "\n".join(blocks(page, "console")).replace("\\\n", " ")
    lines = (line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ "))
    words = (shlex.split(line, comments=True) for line in lines)
    return [line for line in words if line and Path(line[0]).name == program]


@pytest.fixture
def beside_a_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that holds what the pages talk about."""
    from geoseg.testing import write_scene

    for seed, name in enumerate(("before", "scene", "after")):
        write_scene(tmp_path / f"{name}.tif", 96, 80, seed=seed)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: str(page.relative_to(CHECKOUT))
)
@pytest.mark.usefixtures("beside_a_scene")
def test_python_blocks_run(page: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "page"}
    for number, block in enumerate(blocks(page, "python"), start=1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)


def parse(command: click.Command, words: list[str]) -> None:
    """Fails where `words` name a command or an option that there is not."""
    if isinstance(command, click.Group) and not words[1].startswith("-"):
        below = command.get_command(click.Context(command), words[1])
        assert below is not None, words
        parse(below, words[1:])
    else:
        with contextlib.suppress(click.exceptions.Exit):  # --help, --version
            command.make_context(words[0], words[1:])


@pytest.mark.usefixtures("beside_a_scene")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_commands_in_pages_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from geoseg.cli.root import program, run

    Path("run.yaml").write_text("\n".join(blocks(page, "yaml")))
    for words in command_lines(page, "geoseg"):
        parse(program, words)
        if words[1] in {"segment", "change", "plan"}:  # options are read, files of options too; nothing is run
            assert run([*words[1:], "--show-config"]) == 0, capsys.readouterr().err
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    for words in command_lines(page, "make"):
        assert {word for word in words[1:] if "=" not in word} <= targets


def test_the_api_pages_name_modules_that_exist() -> None:
    named = re.findall(r"^::: ([\w.]+)", "\n".join(page.read_text() for page in PAGES), re.MULTILINE)
    places = [CHECKOUT.joinpath(*name.split(".")) for name in named]
    assert len(places) > 20
    assert not [place for place in places if not (place.with_suffix(".py").exists() or place.is_dir())]


def test_the_options_page_lists_every_option() -> None:
    from geoseg.config import ChangeConfig
    from geoseg.resolved import key_of

    page = (CHECKOUT / "docs" / "reference" / "options.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `--")]
    listed = [flag for row in rows for flag in re.findall(r"--([a-z-]+)", row)]
    options = {key_of(name, field).replace("_", "-") for name, field in ChangeConfig.model_fields.items()}
    assert sorted(listed) == sorted(options - {"inputs"})


def test_the_page_on_layers_is_the_contract() -> None:
    contract = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    layers = [set(re.split(r"\s*[:|]\s*", layer)) for layer in contract["layers"]]
    page = (CHECKOUT / "docs" / "explain" / "layers.md").read_text()
    cells = [line.split("|")[2] for line in page.splitlines() if line.startswith("| ") and "`" in line]
    assert [set(re.findall(r"`(\w+)`", step)) for cell in cells for step in cell.split(";")] == layers


LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)|<img src=\"([^\"]+)\"")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = [a or b for a, b in LINK.findall(page.read_text())]
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    assert not [target for target in local if not (page.parent / target).exists()]
