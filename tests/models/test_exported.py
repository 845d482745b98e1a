"""Archives of torch.export: run rightly, and nothing in them is ever run as Python."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch

from geoseg.errors import ModelError
from geoseg.models.exported import load_exported
from tests.models.cards import mixer


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, bytes]]:
        return _explode, (str(self.target), b"")


def _explode(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    auto = torch.export.Dim.AUTO
    axes = ({0: auto, 2: auto, 3: auto},)
    program = torch.export.export(mixer(), (torch.rand(2, 3, 32, 32),), dynamic_shapes=axes)
    torch.export.save(program, tmp_path / "model.pt2")
    return tmp_path / "model.pt2"


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None], extra: dict[str, bytes] | None = None) -> Path:
    """A copy of an archive with its members changed (None: left out) and others added."""
    target = path.with_name("changed.pt2")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            content = change(name.partition("/")[2], source.read(name))
            if content is not None:
                copy.writestr(name, content)
        for name, content in (extra or {}).items():
            copy.writestr(f"model/{name}", content)
    return target


def in_json(member: str, change: Callable[[Any], object]) -> Callable[[str, bytes], bytes]:
    def apply(name: str, content: bytes) -> bytes:
        if name != member:
            return content
        parsed = json.loads(content)
        change(parsed)
        return json.dumps(parsed).encode()

    return apply


def test_an_archive_runs_at_any_size(archive: Path) -> None:
    net = load_exported(archive)
    for shape in ((1, 3, 32, 32), (3, 3, 48, 64)):
        batch = torch.rand(shape)
        with torch.inference_mode():
            torch.testing.assert_close(net(batch), mixer()(batch), rtol=1e-5, atol=1e-6)


def test_a_real_net_passes_the_lists(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = smp.Unet("tu-mobilenetv3_small_050", in_channels=2, classes=2, encoder_weights=None).eval()
    batch = torch.rand(1, 2, 64, 64)
    torch.export.save(torch.export.export(net, (batch,)), tmp_path / "model.pt2")
    with torch.inference_mode():
        torch.testing.assert_close(load_exported(tmp_path / "model.pt2")(batch), net(batch), rtol=1e-5, atol=1e-5)


def test_pickled_example_inputs_are_never_opened(archive: Path, tmp_path: Path) -> None:
    mark = tmp_path / "exploded"
    bomb = pickle.dumps(Bomb(mark))
    changed = rewritten(archive, lambda name, content: bomb if name.endswith("sample_inputs/model.pt") else content)
    assert load_exported(changed)(torch.rand(1, 3, 32, 32)).shape == (1, 2, 32, 32)
    assert not mark.exists()


def test_guards_are_never_run(archive: Path, tmp_path: Path) -> None:
    mark = tmp_path / "exploded"
    code = f"open({str(mark)!r}, 'w')"
    net = load_exported(rewritten(archive, in_json("models/model.json", lambda p: p.update(guards_code=[code]))))
    net(torch.rand(1, 3, 32, 32))
    assert not mark.exists()


def _first_size(program: Any) -> Any:
    values = program["graph_module"]["graph"]["tensor_values"]
    return next(size for value in values.values() for size in value["sizes"] if "as_expr" in size)["as_expr"]


ATTACKS: dict[str, Callable[[Any], object]] = {
    "expression": lambda p: _first_size(p).update(expr_str="__import__('os').system('true')"),
    "expression with attribute": lambda p: _first_size(p).update(expr_str="Symbol('s1').__class__"),
    "expression calling eval": lambda p: _first_size(p).update(expr_str="sympify('s1')"),
    "text in an expression": lambda p: _first_size(p).update(expr_str="Symbol('s1 + exec(1)')"),
    "operator": lambda p: p["graph_module"]["graph"]["nodes"][0].update(target="torch.load"),
    "operator by path": lambda p: p["graph_module"]["graph"]["nodes"][0].update(target="torch.os.system"),
    "method": lambda p: p["graph_module"]["graph"]["nodes"][0].update(target="_operator.methodcaller"),
    "file reader": lambda p: p["graph_module"]["graph"]["nodes"][0].update(target="torch.ops.aten.from_file.default"),
    "name of a node": lambda p: p["graph_module"]["graph"]["nodes"][0].update(name="x = exec('1')\n"),
    "enumeration, escaped": lambda p: p["graph_module"]["module_call_graph"][0]["signature"].update(
        in_spec='[1, {"type": "x", "context": "{\\"\\u005f_enum__\\": true}", "children_spec": []}]'
    ),
    "text where there is none": lambda p: p["graph_module"]["graph"]["nodes"][0].update(
        inputs=[{"name": "x", "arg": {"as_string": {"expr_str": "exec(1)"}}, "kind": 1}]
    ),
    "enumeration": lambda p: p["graph_module"]["module_call_graph"][0]["signature"].update(
        in_spec='[1, {"type": "x", "context": "{\\"__enum__\\": true}", "children_spec": []}]'
    ),
}


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_texts_that_could_run_are_refused(archive: Path, attack: str) -> None:
    with pytest.raises(ModelError, match="list of what"):
        load_exported(rewritten(archive, in_json("models/model.json", ATTACKS[attack])))


def test_pickled_weights_are_refused(archive: Path, tmp_path: Path) -> None:
    mark = tmp_path / "exploded"

    def pickled(config: Any) -> None:
        for payload in config["config"].values():
            payload["use_pickle"] = True

    changed = rewritten(archive, in_json("data/weights/model_weights_config.json", pickled))
    with pytest.raises(ModelError, match="pickled"):
        load_exported(changed)
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["data/weights/model.pt", "data/constants/model.pt", "data/constants/opaque_obj_0", "data/aotinductor/x.so"]
)
def test_members_that_could_hold_code_are_refused(archive: Path, tmp_path: Path, name: str) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    with pytest.raises(ModelError, match="could hold code"):
        load_exported(rewritten(archive, lambda _, content: content, {name: bomb}))
    assert not (tmp_path / "exploded").exists()


def test_a_torch_checkpoint_under_that_name_is_refused(tmp_path: Path) -> None:
    torch.save({"x": Bomb(tmp_path / "exploded")}, tmp_path / "model.pt2")
    with pytest.raises(ModelError):
        load_exported(tmp_path / "model.pt2")
    assert not (tmp_path / "exploded").exists()


def test_a_damaged_archive_is_refused(archive: Path) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="cannot be read"):
        load_exported(archive)
