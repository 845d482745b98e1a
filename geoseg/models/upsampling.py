"""Doubling and convolving in one step: fewer multiplications for the decoders of U-Nets, with the same scores.

A decoder repeats every pixel along both axes and convolves what it made with 3 x 3 weights, which therefore meet equal
numbers. Weights that meet the same number can be added beforehand: what remains is a transposed convolution of the
small picture with 4 x 4 weights and stride 2, which takes 4 multiplications where there were 9 (Shi et al. 2016, "Is
the deconvolution layer the same as a convolutional layer?", arXiv:1609.07009). Beyond the edge, zeros stay zeros. Sums
are added in another order, so that scores differ by rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, NodeProto, helper, numpy_helper, shape_inference

__all__ = ["fold_upsampling"]

Weights = npt.NDArray[np.float32]
"""Of a convolution: (out, in, row, col); of a transposed one: (in, out, row, col)."""

_CONVOLUTION = {"dilations": [1, 1], "group": 1, "kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1]}
_REPETITION = {"mode": b"nearest", "coordinate_transformation_mode": b"asymmetric", "nearest_mode": b"floor"}
_DOUBLING = {"kernel_shape": [4, 4], "pads": [1, 1, 1, 1], "strides": [2, 2]}


def fold_upsampling(path: Path) -> int:
    """Rewrites the ONNX file at `path`, made by torch for tiles of one size; returns how many convolutions it folded.

    Folded is a 3 x 3 convolution, padded by one, of a picture that repeats the pixels of one of half its size, alone or
    stacked with others. A graph without any stays as it is, and so does one with graphs in it (loops, conditions): they
    use what they do not name as their input.
    """
    model = shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    if any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute):
        return 0
    graph = _Graph(model.graph)
    nodes = [(node, graph.folded(node)) for node in model.graph.node]
    count = sum(bool(others) for _, others in nodes)
    if count:
        graph.replace([one for node, others in nodes for one in others or [node]])
        onnx.save(model, path)
    return count


class _Graph:
    """A graph and what is known about the names in it."""

    def __init__(self, graph: GraphProto) -> None:
        self._graph = graph
        self._makers = {name: node for node in graph.node for name in node.output}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        infos = [*graph.value_info, *graph.input, *graph.output]
        self._shapes = {info.name: [axis.dim_value for axis in info.type.tensor_type.shape.dim] for info in infos}

    def folded(self, node: NodeProto) -> list[NodeProto]:
        """Nodes that do what `node` does with fewer multiplications; none where it convolves nothing doubled."""
        weights = self._weights(node)
        parts = [] if weights is None else self._stacked(node.input[0])
        halves = [self._half(part) for part in parts]
        if weights is None or not any(halves):
            return []
        own = np.split(weights, np.cumsum([self._shapes[part][1] for part in parts])[:-1], axis=1)
        result, bias = node.output[0], list(node.input[2:])
        made, terms = _Made(result), list[str]()
        for half, few in zip(halves, own, strict=True):
            if half:
                name = self._constant(f"{result}/doubling{len(terms)}", _transposed(few))
                terms.append(made.add("ConvTranspose", [half, name, *bias], _DOUBLING))
                bias = []  # is added once
        rest = [at for at, half in enumerate(halves) if not half]
        if rest:
            stack = made.add("Concat", [parts[at] for at in rest], {"axis": 1})
            name = self._constant(f"{result}/rest", np.concatenate([own[at] for at in rest], axis=1))
            terms.append(made.add("Conv", [stack, name], _CONVOLUTION))
        while len(terms) > 1:
            terms.append(made.add("Add", [terms.pop(), terms.pop()], {}))
        return made.nodes()

    def replace(self, nodes: list[NodeProto]) -> None:
        """Puts `nodes` in the place of the graph's own, without what nothing uses any more."""
        used = {info.name for info in self._graph.output}
        kept = []
        for node in reversed(nodes):  # what makes a result comes before what uses it
            if used.intersection(node.output):
                used.update(node.input)
                kept.append(node)
        constants = [tensor for name, tensor in self._constants.items() if name in used]
        for field, entries in ((self._graph.node, kept[::-1]), (self._graph.initializer, constants)):
            del field[:]
            field.extend(entries)
        del self._graph.value_info[:]  # tells of results that are gone

    def _weights(self, node: NodeProto) -> Weights | None:
        """Weights of a convolution that may be folded."""
        if not _is(node, "Conv", _CONVOLUTION):
            return None
        name = node.input[1]
        while name in self._makers and self._makers[name].op_type == "Identity":  # so torch shares equal weights
            name = self._makers[name].input[0]
        return numpy_helper.to_array(self._constants[name]) if name in self._constants else None

    def _stacked(self, name: str) -> list[str]:
        """The pictures of which `name` is a stack; itself where it is none, or where their channels are not known."""
        maker = self._makers.get(name)
        if maker is None or not _is(maker, "Concat", {"axis": 1}):
            return [name]
        sizes = [self._shapes.get(part, []) for part in maker.input]
        return list(maker.input) if all(len(size) == 4 and size[1] for size in sizes) else [name]

    def _half(self, name: str) -> str:
        """The picture whose pixels `name` repeats, twice along both axes; empty: none."""
        maker = self._makers.get(name)
        if maker is None or not _is(maker, "Resize", _REPETITION):
            return ""
        half = maker.input[0]
        small, large = self._shapes.get(half, []), self._shapes.get(name, [])
        doubled = len(small) == 4 and all(small[1:]) and large[1:] == [small[1], 2 * small[2], 2 * small[3]]
        return half if doubled else ""

    def _constant(self, name: str, values: Weights) -> str:
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name


class _Made:
    """Nodes in the place of one, whose results are called after its own."""

    def __init__(self, result: str) -> None:
        self._result = result
        self._nodes: list[NodeProto] = []

    def add(self, kind: str, inputs: list[str], attributes: Mapping[str, Any]) -> str:
        """One node more; returns its result's name."""
        name = f"{self._result}/{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def nodes(self) -> list[NodeProto]:
        """All of them; the last makes the result."""
        self._nodes[-1].output[0] = self._result
        return self._nodes


def _is(node: NodeProto, kind: str, attributes: Mapping[str, Any]) -> bool:
    found = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    return node.op_type == kind and all(found.get(name) == value for name, value in attributes.items())


def _transposed(weights: Weights) -> Weights:
    """Weights (in, out, 4, 4) of the transposed convolution that doubles, of those that convolve what is doubled.

    A pixel of the small picture is two of the large one, and each of these is met by every weight once.
    """
    sums = np.zeros((*weights.shape[:2], 4, 4))
    for row in range(2):
        for col in range(2):
            sums[:, :, row : row + 3, col : col + 3] += weights[:, :, ::-1, ::-1]
    return sums.swapaxes(0, 1).astype(np.float32)
