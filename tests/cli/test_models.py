"""``geoseg models``: what people read about a package, and which packages are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from geoseg.models import read_spec
from tests.cli.conftest import Call
from tests.models.cards import saved_mixer


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


WORDS = ("--bands", "B3,B4,B8", "--classes", "no,yes", "--normalise", "z-score:0.25,0.5")


def test_a_graph_is_imported_and_can_be_shown(call: Call, tmp_path: Path) -> None:
    file = saved_mixer(tmp_path / "made") / "model.onnx"
    ended = call("models", "import", file, "--out", tmp_path / "net", "--name", "mine", "--scale", 0.0001, *WORDS)
    assert (ended.code, ended.out, ended.err) == (0, f"{tmp_path / 'net'}\n", "")
    lines = call("models", "show", tmp_path / "net").out.splitlines()
    assert "name      mine" in lines
    assert "bands     green, red, nir" in lines
    assert "scaling   as the scene declares; where it declares none: x 0.0001 + 0" in lines
    assert read_spec(tmp_path / "net").channels[0].rescale[0].gain == 2.0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "--bands with 3"),
        (("--bands", "red", *WORDS[2:]), "--bands names 1"),
        ((*WORDS, "--normalise", "z-score:1"), "z-score:MEAN,STDDEV"),
        ((*WORDS[:4], "--normalise", "log:1"), "--normalise log:1"),
        ((*WORDS, "--weights", "a.pth"), "--weights"),
    ],
)
def test_an_import_that_lacks_something_is_one_line_and_2(
    words: tuple[str, ...], told: str, call: Call, tmp_path: Path
) -> None:
    file = saved_mixer(tmp_path / "made") / "model.onnx"
    ended = call("models", "import", file, "--out", tmp_path / "net", *words)
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (2, "", 1)
    assert told in ended.err
    assert not (tmp_path / "net").exists()


def test_an_export_says_how_far_its_scores_are(call: Call, tmp_path: Path) -> None:
    ended = call("models", "export", "spectral-baseline", "--out", tmp_path / "net")
    assert ended.code == 0
    assert ended.out.startswith(f"{tmp_path / 'net'}: largest difference ")
    told = json.loads(call("models", "export", "spectral-baseline", "--out", tmp_path / "b", "--json").out)
    assert told["difference"] < 1e-4
    assert call("models", "export", tmp_path / "net", "--out", tmp_path / "c").code == 2


def test_a_probe_says_which_overlap_is_enough_and_writes_it_down(call: Call, tmp_path: Path) -> None:
    path = saved_mixer(tmp_path / "net", kind="pt2", tile=32)
    lines = call("models", "probe", path).out.splitlines()
    assert lines[0].split("  ")[-1] == "1 pixels"
    assert lines[-2:] == [
        "exact with crop           from an overlap of 2 pixels",
        "exact with ramp           from an overlap of 3 pixels",
    ]
    assert read_spec(path).halo is None
    before = read_spec(path).digest
    ended = call("models", "probe", path, "--write")
    assert (ended.code, read_spec(path).halo) == (0, 1)
    assert ended.out.splitlines()[-1] == f"{path}: geoseg:halo 1, digest {read_spec(path).digest[:12]}"
    assert read_spec(path).digest != before
    assert "halo      1 pixels" in call("models", "show", path).out
    told = json.loads(call("models", "probe", path, "--json", "--out", tmp_path / "copy").out)
    assert (told["halo"], told["crop"], told["ramp"], told["written"]) == (1, 2, 3, str(tmp_path / "copy"))


def test_a_model_that_comes_with_geoseg_is_probed_but_not_written(call: Call) -> None:
    ended = call("models", "probe", "spectral-baseline")
    assert ended.out.splitlines()[0].split("  ")[-1] == "0 pixels"
    ended = call("models", "probe", "spectral-baseline", "--write")
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (2, "", 1)
    assert "comes with geoseg" in ended.err
