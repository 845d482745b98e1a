"""Shapes read from graphs without their runtimes, against the onnx package and torch.export."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from geoseg.errors import ModelError
from geoseg.models.graph import onnx_input_shape, pt2_input_shape
from tests.models.cards import mixer

SIZES = st.lists(st.integers(1, 2000) | st.just("any") | st.none(), min_size=1, max_size=5)


def identity(shape: list[int | str | None], element: int = TensorProto.FLOAT) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("y", element, shape)],
    )
    return helper.make_model(graph)


@given(SIZES)
def test_the_shape_of_an_onnx_graph(tmp_path_factory: pytest.TempPathFactory, shape: list[int | str | None]) -> None:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx.save(identity(shape), path)
    assert onnx_input_shape(path) == tuple(size if isinstance(size, int) else None for size in shape)


def test_weights_that_are_listed_as_inputs_are_none(tmp_path: Path) -> None:
    model = identity([1, 2])
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3]))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "w"))
    onnx.save(model, tmp_path / "model.onnx")
    assert onnx_input_shape(tmp_path / "model.onnx") == (1, 2)


def test_graphs_that_cannot_be_run_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(identity([1], TensorProto.UINT8), path)
    with pytest.raises(ModelError, match="float32"):
        onnx_input_shape(path)
    two = identity([1])
    two.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [3]))
    onnx.save(two, path)
    with pytest.raises(ModelError, match="2 inputs"):
        onnx_input_shape(path)


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    model = identity([1])
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4000, np.float32), "w"))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(ModelError, match="another file"):
        onnx_input_shape(path)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_graph_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("graph")
    for name, read in (("model.onnx", onnx_input_shape), ("model.pt2", pt2_input_shape)):
        (folder / name).write_bytes(content)
        with pytest.raises(ModelError):
            read(folder / name)


@given(st.integers(0, 400))
def test_a_graph_cut_short_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    path.write_bytes(identity([1, 3, 64, 64]).SerializeToString()[:length])
    with contextlib.suppress(ModelError):
        assert onnx_input_shape(path) in {(1, 3, 64, 64), ()}


def test_the_shape_of_an_exported_program(tmp_path: Path) -> None:
    auto = torch.export.Dim.AUTO
    for dynamic, expected in (({0: auto, 2: auto}, (None, 3, None, 16)), (None, (2, 3, 16, 16))):
        shapes = None if dynamic is None else (dynamic,)
        program = torch.export.export(mixer(), (torch.rand(2, 3, 16, 16),), dynamic_shapes=shapes)
        torch.export.save(program, tmp_path / "model.pt2")
        assert pt2_input_shape(tmp_path / "model.pt2") == expected
