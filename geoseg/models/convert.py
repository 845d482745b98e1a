"""Torch nets as ONNX graphs, converted once and kept in the user's cache, so that CPU runtimes can run them."""

from __future__ import annotations

import os
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from geoseg.errors import ModelError
from geoseg.models.package import Package

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.fx import GraphModule

__all__ = ["AGREEMENT", "Size", "cache_dir", "difference", "onnx_graph", "with_sizes", "write_onnx"]

Size = tuple[int, int]
"""(rows, cols) of a tile."""
CONVERSION = 2
"""Counts the ways in which graphs were made: those kept from an earlier one are made again."""
AGREEMENT = 2e-5
"""Largest difference of scores, relative to their own size, at which two runtimes count as the same."""


def cache_dir() -> Path:
    """Where geoseg keeps what it can make again: ``$GEOSEG_CACHE``, or ``geoseg`` in the user's cache folder."""
    if own := os.environ.get("GEOSEG_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "geoseg"


def onnx_graph(package: Package, size: Size) -> Path:
    """An ONNX file that runs the package's net on tiles of `size` (rows, cols), in batches of any size where it can.

    An ONNX package is its own file. Others are converted (for this size: fixed sizes run faster), spared what they need
    not multiply, compared with torch on random tiles, and kept by digest, size and torch version.

    Raises:
        ModelError: The net cannot be converted, or the graph's scores differ from torch's.
    """
    if package.format == "onnx":
        return package.weights
    name = f"{package.spec.digest[:32]}-{size[0]}x{size[1]}-torch{version('torch')}-{CONVERSION}.onnx"
    target = cache_dir() / "onnx" / name
    if not target.is_file():
        _convert(package, size, target)
    return target


def _convert(package: Package, size: Size, target: Path) -> None:
    import torch

    from geoseg.models.torch_model import load_net
    from geoseg.models.upsampling import fold_upsampling

    spec, net = package.spec, load_net(package)
    dates = (spec.dates,) if spec.dates > 1 else ()
    count = spec.static_batch or 1
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(2 * count, *dates, len(spec.channels), *size, generator=generator)
    if package.format == "pt2":
        net = with_sizes(cast("GraphModule", net), sample[:count])  # which is what torch.export makes
    target.parent.mkdir(parents=True, exist_ok=True)
    gap = float("inf")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        draft = Path(folder) / "draft.onnx"
        for any_batch in (True, False) if spec.static_batch is None else (False,):
            write_onnx(net, sample[:count], draft, any_batch=any_batch)
            fold_upsampling(draft)
            gap = max(_gap(net, part, draft) for part in (sample[:count], sample if any_batch else sample[count:]))
            if gap < AGREEMENT:
                draft.replace(target)
                return
    raise ModelError(f"the net's ONNX graph differs from torch by {gap:.1e}, more than {AGREEMENT:.0e}")


def with_sizes(net: GraphModule, sample: Tensor) -> GraphModule:
    """An exported graph with its symbolic sizes replaced by those that `sample` has: tracing knows no symbols."""
    import torch
    from torch.fx import GraphModule, Interpreter, Node
    from torch.fx.node import map_arg

    numbers: dict[Node, Any] = {}

    class Recorder(Interpreter):
        def run_node(self, n: Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, bool | int | float):
                numbers[n] = result
            return result

    with torch.inference_mode():
        Recorder(net).run(sample)
    for node in list(net.graph.nodes):
        if node.op == "call_module" and not node.users:  # checks of sizes
            net.graph.erase_node(node)
            continue
        node.args = map_arg(node.args, lambda one: numbers.get(one, one))
        node.kwargs = map_arg(node.kwargs, lambda one: numbers.get(one, one))
    net.graph.eliminate_dead_code()
    return GraphModule(net, net.graph)


def write_onnx(net: nn.Module, sample: Tensor, path: Path, *, any_batch: bool = True, any_size: bool = False) -> None:
    """Writes `net` as an ONNX graph for inputs like `sample`.

    Raises:
        ModelError: torch cannot express the net in ONNX.
    """
    import torch

    axes = {0: "batch"} if any_batch else {}
    if any_size:
        axes |= {sample.ndim - 2: "height", sample.ndim - 1: "width"}
    out = {axis if axis == 0 else axis - sample.ndim + 4: name for axis, name in axes.items()}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                net,
                (sample,),
                str(path),
                input_names=["input"],
                output_names=["scores"],
                dynamic_axes={"input": axes, "scores": out},
                dynamo=False,  # the newer exporter needs onnxscript and takes 10 times longer
            )
        except Exception as error:  # the exporter raises whatever the net's own code does
            raise ModelError(f"the net cannot be converted to ONNX: {str(error)[:300]}") from error


def _gap(net: nn.Module, batch: Tensor, path: Path) -> float:
    """How far ONNX Runtime's scores are from torch's; infinite where the graph does not take the batch."""
    import onnxruntime
    import torch

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(None, {"input": batch.numpy()})[0])
    except Exception:  # noqa: BLE001 - onnxruntime's errors share no root but Exception
        return float("inf")
    with torch.inference_mode():
        return difference(found, net(batch))


def difference(first: Tensor, second: Tensor) -> float:
    """Largest difference of two sets of scores, relative to the largest score of `second` or 1.

    >>> import torch
    >>> difference(torch.tensor([1.0, 4.5]), torch.tensor([1.0, 4.0]))
    0.125
    """
    scale = max(1.0, float(second.abs().max()))
    return float((first.float() - second.float()).abs().max()) / scale
