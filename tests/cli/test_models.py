"""``geoseg models``: what people read about a package, and which packages are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Call


@pytest.fixture
def package(shared: Path, tmp_path: Path) -> Path:
    """A copy of a stranger's package."""
    return Path(shutil.copytree(shared / "models" / "ndvi-threshold", tmp_path / "package"))


def test_the_default_model_is_listed_with_one_line_about_it(call: Call) -> None:
    ended = call("models", "list")
    assert ended.code == 0
    [line] = [line for line in ended.out.splitlines() if line.startswith("spectral-baseline  ")]
    assert len(line.split()) > 3
    listed = json.loads(call("models", "list", "--json").out)
    assert {entry["name"] for entry in listed} == {line.split()[0] for line in ended.out.splitlines()}


def test_show_says_what_a_model_needs_and_gives(call: Call, package: Path) -> None:
    ended = call("models", "show", package)
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert "bands     blue, green, red, nir" in lines
    assert "tile      256 pixels, overlap 64" in lines
    assert "scaling   as the scene declares; where it declares none: x 0.0001 + 0" in lines
    assert "  0  vegetation  #228B22  Vegetation  NDVI above 0.4" in lines


def test_show_as_json_holds_the_whole_card(call: Call, package: Path) -> None:
    card = json.loads(call("models", "show", package, "--json").out)
    assert card["bands"] == ["blue", "green", "red", "nir"]
    assert [info["value"] for info in card["classes"]] == [0, 1, 2]
    assert card["path"] == str(package)


def test_a_good_package_is_valid(call: Call, package: Path) -> None:
    ended = call("models", "validate", package)
    assert (ended.code, ended.out, ended.err) == (0, f"{package}: valid\n", "")


def test_a_package_with_other_weights_than_its_card_says_is_4(call: Call, package: Path) -> None:
    weights = package / "model.onnx"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    ended = call("models", "validate", package)
    assert (ended.code, ended.out) == (4, "")
    assert len(ended.error_lines) == len(ended.err.splitlines()) >= 1
    assert "checksum" in ended.err
    document = json.loads(call("models", "validate", package, "--json").out)
    assert document["valid"] is False
    assert document["problems"]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"type": "Feature"}'])
def test_a_card_that_is_none_is_4_without_a_traceback(text: str, call: Call, package: Path) -> None:
    (package / "model.json").write_text(text)
    ended = call("models", "validate", package)
    assert ended.code == 4
    assert "Traceback" not in ended.err
    assert len(ended.error_lines) == len(ended.err.splitlines()) >= 1


@pytest.mark.parametrize("verb", ["show", "validate"])
def test_an_unknown_model_is_refused_by_name(verb: str, call: Call) -> None:
    ended = call("models", verb, "no-such-model")
    assert ended.code in {2, 4}
    assert len(ended.error_lines) == len(ended.err.splitlines()) == 1
    assert "no-such-model" in ended.err
