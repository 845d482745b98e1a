"""One net on every runtime: the same scores, from any thread, after any journey."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from geoseg.errors import GeosegError, ModelError
from geoseg.models import load_model, read_spec
from geoseg.models.convert import AGREEMENT, cache_dir, difference, onnx_graph
from geoseg.models.loading import sample_of, try_package
from geoseg.models.package import Format, open_package
from geoseg.models.torch_model import threads_of_this_thread
from geoseg.protocols import Model
from geoseg.settings import Backend, Settings
from geoseg.testing.conformance import ModelConformance
from tests.models.cards import mixer, saved_mixer

BACKENDS: tuple[Backend, ...] = ("torch", "onnxruntime", "openvino")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[Format, int], Path]:
    folder = tmp_path_factory.mktemp("packages")
    kinds: tuple[Format, ...] = ("pt2", "onnx")
    return {
        (kind, dates): saved_mixer(folder / f"{kind}-{dates}", kind=kind, dates=dates)
        for kind in kinds
        for dates in (1, 2)
    }


def loaded(path: Path, backend: Backend, **options: object) -> Model:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="backend openvino is an optional extra: pip install 'geoseg[openvino]'")
    return load_model(path, Settings(backend=backend, **options))  # type: ignore[arg-type]


CASES = [(backend, kind) for backend in BACKENDS for kind in ("pt2", "onnx") if (backend, kind) != ("torch", "onnx")]


@pytest.mark.parametrize(("backend", "kind"), CASES)
@pytest.mark.parametrize("dates", [1, 2])
@examples(max_examples=6)
@given(count=st.integers(1, 3), side=st.sampled_from([8, 24]), seed=st.integers(0, 99))
def test_every_runtime_gives_the_scores_of_the_module(
    packages: dict[tuple[Format, int], Path],
    backend: Backend,
    kind: Format,
    dates: int,
    count: int,
    side: int,
    seed: int,
) -> None:
    package = open_package(packages[kind, dates])
    batch = sample_of(package, count, side, seed)[..., : side // 2, :]
    assert batch.shape == (count, *((2,) if dates == 2 else ()), 3, side // 2, side)
    with torch.inference_mode():
        expected = mixer(dates=dates)(batch)
    found = loaded(package.path, backend).predict(batch)
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    assert difference(found, expected) < AGREEMENT


@pytest.mark.parametrize(("backend", "kind"), CASES)
def test_a_model_travels_and_runs_in_many_threads_at_once(
    packages: dict[tuple[Format, int], Path], backend: Backend, kind: Format
) -> None:
    model = loaded(packages[kind, 1], backend, lanes=4)
    away: Model = pickle.loads(pickle.dumps(model))
    assert away.spec == model.spec
    assert len(pickle.dumps(model)) < 4000
    batches = [torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in range(24)]
    alone = [model.predict(batch) for batch in batches]
    gate = threading.Barrier(4)

    def lane(numbers: range) -> list[torch.Tensor]:
        gate.wait()
        return [away.predict(batches[number]) for number in numbers]

    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lane, [range(start, 24, 4) for start in range(4)])
        for start, scores in enumerate(together):
            for number, found in zip(range(start, 24, 4), scores, strict=True):
                assert torch.equal(found, alone[number])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_scene_of_other_channels_is_an_error_of_ours(
    packages: dict[tuple[Format, int], Path], backend: Backend
) -> None:
    model = loaded(packages["pt2", 1], backend)
    with pytest.raises(ModelError, match="mixer"):
        model.predict(torch.rand(1, 5, 16, 16))


def test_channels_last_and_bf16_change_speed_not_meaning(packages: dict[tuple[Format, int], Path]) -> None:
    batch = torch.rand(2, 3, 32, 32)
    plain = loaded(packages["pt2", 1], "torch").predict(batch)
    last = loaded(packages["pt2", 1], "torch", channels_last=True).predict(batch)
    half = loaded(packages["pt2", 1], "torch", precision="bf16").predict(batch)
    assert difference(last, plain) < AGREEMENT
    assert AGREEMENT < difference(half, plain) < 0.05
    assert half.dtype == torch.float32


def test_a_lane_uses_its_threads_and_puts_back_what_it_found() -> None:
    def lane() -> tuple[int, int]:
        torch.set_num_threads(3)
        with threads_of_this_thread(2):
            inside = torch.get_num_threads()
        return inside, torch.get_num_threads()

    here = torch.get_num_threads()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lane).result() == (2, 3)
    assert torch.get_num_threads() == here


def _fixed(path: Path, batch: int, side: int) -> Path:
    """An ONNX package whose graph takes nothing but `batch` tiles of `side` pixels."""
    package = saved_mixer(path, kind="onnx")
    model = onnx.load(package / "model.onnx")
    for value in (model.graph.input[0], model.graph.output[0]):
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip((dims[0], dims[2], dims[3]), (batch, side, side), strict=True):
            dim.ClearField("dim_param")
            dim.dim_value = size
    return _restored(package, model)


def _restored(package: Path, model: onnx.ModelProto) -> Path:
    """Writes other weights into a package, and their checksum on its card."""
    import hashlib
    import json

    content = model.SerializeToString()
    (package / "model.onnx").write_bytes(content)
    card = json.loads((package / "model.json").read_text("utf-8"))
    card["assets"]["model"]["file:checksum"] = "1220" + hashlib.sha256(content).hexdigest()
    (package / "model.json").write_text(json.dumps(card), "utf-8")
    return package


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_graph_of_fixed_batch_takes_any_number_of_tiles(tmp_path: Path, backend: Backend, count: int) -> None:
    path = _fixed(tmp_path / "fixed", 2, 16)
    spec = read_spec(path)
    assert (spec.static_batch, spec.static_tile, spec.tile) == (2, 16, 16)
    batch = torch.rand(count, 3, 16, 16)
    with torch.inference_mode():
        expected = mixer()(batch)
    found = loaded(path, backend, batch=2).predict(batch)
    assert difference(found, expected) < AGREEMENT
    with pytest.raises(ModelError):
        loaded(path, backend, batch=2).predict(torch.rand(2, 3, 32, 32))


def test_a_graph_that_gives_nan_is_found_before_it_is_used(tmp_path: Path) -> None:
    package = saved_mixer(tmp_path / "nan", kind="onnx")
    model = onnx.load(package / "model.onnx")
    bias = numpy_helper.to_array(model.graph.initializer[-1]).copy()
    bias[:] = float("nan")
    model.graph.initializer[-1].CopyFrom(numpy_helper.from_array(bias, model.graph.initializer[-1].name))
    with pytest.raises(ModelError, match="NaN"):
        try_package(open_package(_restored(package, model)))


def test_a_graph_with_an_unknown_operator_is_refused(tmp_path: Path) -> None:
    package = saved_mixer(tmp_path / "odd", kind="onnx")
    shape: list[str | int | None] = ["n", 3, "h", "w"]
    graph = helper.make_graph(
        [helper.make_node("RunsMyLibrary", ["x"], ["y"], domain="my.own")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("my.own", 1)]
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(_restored(package, helper.make_model(graph, opset_imports=imports)))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("onnx", {"backend": "torch"}),
        ("pt2", {"backend": "onnxruntime", "precision": "bf16"}),
        ("pt2", {"backend": "onnxruntime", "device": "cuda:0"}),
        ("pt2", {"device": "cuda:99"}),
    ],
)
def test_what_does_not_go_together_is_refused(
    packages: dict[tuple[Format, int], Path], kind: Format, options: dict[str, object]
) -> None:
    with pytest.raises(GeosegError):
        load_model(packages[kind, 1], Settings(**options))  # type: ignore[arg-type]


# --- conversion ---


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEOSEG_CACHE", str(tmp_path / "own"))
    return tmp_path / "own"


def test_a_net_is_converted_once_per_tile(
    packages: dict[tuple[Format, int], Path], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = open_package(packages["pt2", 1])
    first = onnx_graph(package, (16, 16))
    monkeypatch.setattr("geoseg.models.convert._convert", lambda *_: pytest.fail("converted twice"))
    assert onnx_graph(package, (16, 16)) == first
    assert [path.parent for path in own_cache.rglob("*") if path.is_file()] == [own_cache / "onnx"]
    assert onnx_graph(open_package(packages["onnx", 1]), (16, 16)) == packages["onnx", 1] / "model.onnx"


def test_a_conversion_that_is_not_true_is_not_used(
    packages: dict[tuple[Format, int], Path], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geoseg.models.convert.AGREEMENT", 0.0)
    with pytest.raises(ModelError, match="differs from torch"):
        onnx_graph(open_package(packages["pt2", 1]), (16, 16))
    assert not [path for path in own_cache.rglob("*") if path.is_file()]


def test_the_cache_is_where_the_user_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOSEG_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("GEOSEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "geoseg"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dates", [1, 2])
class TestPackage(ModelConformance):
    """A package of one date and of two, on every runtime."""

    @pytest.fixture(autouse=True)
    def _package(self, packages: dict[tuple[Format, int], Path], backend: Backend, dates: int) -> None:
        self.path, self.backend = packages["pt2" if backend == "torch" else "onnx", dates], backend

    def make(self) -> Model:
        return loaded(self.path, self.backend)
