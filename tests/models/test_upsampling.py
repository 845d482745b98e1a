"""Folding a doubling into the convolution behind it: the same scores, and no more than what can be folded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn.functional import interpolate

from geoseg.models.convert import AGREEMENT, difference, write_onnx
from geoseg.models.upsampling import fold_upsampling

STACKS = st.lists(st.tuples(st.booleans(), st.integers(1, 3)), min_size=1, max_size=4)
"""Pictures that are stacked: whether each is doubled, and its channels."""


class Decoder(nn.Module):
    """Convolves pictures side by side, some of them doubled, as decoders do."""

    def __init__(
        self, stack: list[tuple[bool, int]], *, factor: float = 2, mode: str = "nearest", **how: object
    ) -> None:
        super().__init__()
        self.doubled = [doubled for doubled, _ in stack]
        self.sources = nn.ModuleList(nn.Conv2d(2, channels, 1) for _, channels in stack)
        kernel = how.pop("kernel_size", 3)
        self.head = nn.Conv2d(sum(channels for _, channels in stack), 6, kernel, **{"padding": 1} | how)  # type: ignore[arg-type]
        self.factor, self.mode = factor, mode

    def forward(self, batch: Tensor) -> Tensor:
        size = tuple(int(side * self.factor) for side in batch.shape[-2:])
        pictures = []
        for doubled, source in zip(self.doubled, self.sources, strict=True):
            if doubled:
                pictures.append(interpolate(source(batch), size=size, mode=self.mode))
            else:
                pictures.append(source(interpolate(batch, size=size, mode="bilinear")))
        return self.head(torch.cat(pictures, dim=1) if len(pictures) > 1 else pictures[0])  # type: ignore[no-any-return]


def drawn(net: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for weights in net.parameters():
        weights.data = torch.randn(weights.shape, generator=generator)
    return net.eval()


def folded(net: nn.Module, batch: Tensor, path: Path) -> tuple[int, list[str], Tensor]:
    """How many convolutions were folded, what the graph consists of, and its scores."""
    write_onnx(net, batch[:1], path)
    count = fold_upsampling(path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"input": batch.numpy()})
    return count, [node.op_type for node in model.graph.node], torch.from_numpy(scores)


@given(
    stack=STACKS, rows=st.integers(1, 5), cols=st.integers(1, 5), count=st.integers(1, 2), bias=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_a_folded_graph_gives_the_same_scores(
    tmp_path_factory: pytest.TempPathFactory,
    stack: list[tuple[bool, int]],
    rows: int,
    cols: int,
    count: int,
    bias: bool,
    seed: int,
) -> None:
    net = drawn(Decoder(stack, bias=bias), seed)
    batch = torch.randn(count, 2, rows, cols, generator=torch.Generator().manual_seed(seed))
    some = any(doubled for doubled, _ in stack)
    times, kinds, scores = folded(net, batch, tmp_path_factory.mktemp("graph") / "net.onnx")
    assert times == some
    assert kinds.count("ConvTranspose") == sum(doubled for doubled, _ in stack)
    assert ("Resize" in kinds) == any(not doubled for doubled, _ in stack)  # torch shares equal ones
    with torch.inference_mode():
        assert difference(scores, net(batch)) < AGREEMENT


@pytest.mark.parametrize(
    "how",
    [
        {"factor": 3},
        {"factor": 1.5},
        {"mode": "bilinear"},
        {"kernel_size": 1, "padding": 0},
        {"padding": 0},
        {"stride": 2},
        {"dilation": 2},
        {"groups": 2},
    ],
    ids=lambda how: "-".join(f"{name} {value}" for name, value in how.items()),
)
def test_what_is_something_else_stays(how: dict[str, object], tmp_path: Path) -> None:
    net = drawn(Decoder([(True, 2), (False, 4)], **how), 0)  # type: ignore[arg-type]
    write_onnx(net, torch.randn(1, 2, 6, 6), tmp_path / "net.onnx")
    before = (tmp_path / "net.onnx").read_bytes()
    assert fold_upsampling(tmp_path / "net.onnx") == 0
    assert (tmp_path / "net.onnx").read_bytes() == before


def test_a_graph_with_a_condition_stays(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["kernel"], ["out"])], "branch", [], [_of("out", 2, 3, 3, 3)]
    )
    nodes = [
        helper.make_node("Resize", ["input", "", "factors"], ["large"], mode="nearest",
                         coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        helper.make_node("If", ["always"], ["weights"], then_branch=branch, else_branch=branch),
        helper.make_node("Conv", ["large", "kernel"], ["scores"], kernel_shape=[3, 3], pads=[1, 1, 1, 1],
                         strides=[1, 1], dilations=[1, 1], group=1),
    ]  # fmt: skip
    constants = [
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "factors"),
        numpy_helper.from_array(np.array(True), "always"),
        numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "kernel"),
    ]
    outputs = [_of("scores", 1, 2, 8, 8), _of("weights", 2, 3, 3, 3)]
    for kept, times in ((nodes, 0), ([nodes[0], nodes[2]], 1)):
        graph = helper.make_graph(kept, "net", [_of("input", 1, 3, 4, 4)], outputs[: len(kept) - 1], constants)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "net.onnx")
        assert fold_upsampling(tmp_path / "net.onnx") == times


def _of(name: str, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


@pytest.mark.parametrize(("architecture", "times"), [("Unet", 5), ("UnetPlusPlus", 11), ("DeepLabV3Plus", 0)])
def test_decoders_of_real_nets_are_folded(architecture: str, times: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = smp.create_model(architecture, "resnet18", encoder_weights=None, in_channels=4, classes=3).eval()
    batch = torch.randn(2, 4, 64, 96)
    count, _, scores = folded(net, batch, tmp_path / "net.onnx")
    assert count == times
    with torch.inference_mode():
        assert difference(scores, net(batch)) < AGREEMENT
