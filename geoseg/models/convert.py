"""Torch nets as ONNX graphs, converted once and kept in the user's cache, so that CPU runtimes can run them."""

from __future__ import annotations

import os
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from geoseg.errors import ModelError
from geoseg.models.package import Package

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["AGREEMENT", "cache_dir", "difference", "onnx_graph", "write_onnx"]

AGREEMENT = 2e-5
"""Largest difference of scores, relative to their own size, at which two runtimes count as the same."""


def cache_dir() -> Path:
    """Where geoseg keeps what it can make again: ``$GEOSEG_CACHE``, or ``geoseg`` in the user's cache folder."""
    if own := os.environ.get("GEOSEG_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "geoseg"


def onnx_graph(package: Package, tile: int) -> Path:
    """An ONNX file that runs the package's net on tiles of `tile` pixels, batches of any size.

    An ONNX package is its own file. Others are converted (for this tile: fixed sizes run faster), compared with torch
    on random tiles, and kept by digest, tile and torch version.

    Raises:
        ModelError: The net cannot be converted, or the graph's scores differ from torch's.
    """
    if package.format == "onnx":
        return package.weights
    target = cache_dir() / "onnx" / f"{package.spec.digest[:32]}-{tile}-torch{version('torch')}.onnx"
    if not target.is_file():
        _convert(package, tile, target)
    return target


def _convert(package: Package, tile: int, target: Path) -> None:
    import torch

    from geoseg.models.torch_model import load_net

    spec, net = package.spec, load_net(package)
    dates = (spec.dates,) if spec.dates > 1 else ()
    sample = torch.randn(
        spec.static_batch or 2, *dates, len(spec.channels), tile, tile, generator=torch.Generator().manual_seed(0)
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        draft = Path(folder) / "draft.onnx"
        write_onnx(net, sample, draft, any_batch=spec.static_batch is None)
        _compare(net, sample, draft)
        draft.replace(target)


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


def _compare(net: nn.Module, sample: Tensor, path: Path) -> None:
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"input": sample.numpy()})[0])
    with torch.inference_mode():
        gap = difference(found, net(sample))
    if not gap < AGREEMENT:
        raise ModelError(f"the net's ONNX graph differs from torch by {gap:.1e}, more than {AGREEMENT:.0e}")


def difference(first: Tensor, second: Tensor) -> float:
    """Largest difference of two sets of scores, relative to the largest score of `second` or 1.

    >>> import torch
    >>> difference(torch.tensor([1.0, 4.5]), torch.tensor([1.0, 4.0]))
    0.125
    """
    scale = max(1.0, float(second.abs().max()))
    return float((first.float() - second.float()).abs().max()) / scale
