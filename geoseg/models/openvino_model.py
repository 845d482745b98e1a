"""Nets that run on OpenVINO, on the CPU (an optional extra)."""

from __future__ import annotations

from pathlib import Path
from threading import local
from typing import TYPE_CHECKING, Any

from geoseg.errors import MissingExtraError, ModelError
from geoseg.models.graph import onnx_input_shape
from geoseg.models.held import hold
from geoseg.models.onnx_model import graph_of, in_fixed_batches, size_of
from geoseg.models.torch_model import check_batch
from geoseg.protocols import Model
from geoseg.settings import Settings
from geoseg.spec import ModelSpec

if TYPE_CHECKING:
    from openvino import CompiledModel, InferRequest
    from torch import Tensor

__all__ = ["OpenvinoModel"]

_requests = local()
"""One inference request per calling thread and compiled net: a request holds one input at a time."""


class OpenvinoModel:
    """A `geoseg.protocols.Model` on OpenVINO; compiled nets are shared within the process, and may run in parallel."""

    def __init__(self, path: str, spec: ModelSpec, settings: Settings) -> None:
        """Takes the package's folder, the card that was read from it, and how to run."""
        self._path = path
        self._settings = settings
        self.spec = spec

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenvinoModel, (self._path, self.spec, self._settings)

    def load(self, shape: tuple[int, ...]) -> CompiledModel:
        """The net compiled for inputs of `shape`, once per process: fixed shapes run faster.

        Raises:
            ModelError: The package changed, is damaged, or cannot be compiled.
            MissingExtraError: OpenVINO is not installed.
        """
        settings = self._settings
        key = ("openvino", self.spec.digest, shape, settings.precision, settings.lanes, settings.threads)
        return hold(key, lambda: _compiled(graph_of(self._path, self.spec, (shape[-2], shape[-1])), shape, settings))

    def predict(self, batch: Tensor) -> Tensor:
        """Scores float32 (n, class, row, col) of a batch; see `geoseg.protocols.Model.predict`.

        Raises:
            ModelError: The graph does not take this input, or its scores have another shape than the card promises.
        """
        check_batch(batch, self.spec)
        graph = graph_of(self._path, self.spec, size_of(batch))
        return in_fixed_batches(batch, onnx_input_shape(graph)[0], self._run)

    def _run(self, batch: Tensor) -> Tensor:
        import openvino
        import torch

        compiled = self.load(tuple(batch.shape))
        request = _request(compiled)
        batch = batch.contiguous()
        expected = [batch.shape[0], self.spec.outputs, *batch.shape[-2:]]
        if list(compiled.output(0).shape) != expected:
            raise ModelError(
                f"model {self.spec.name!r} gives {list(compiled.output(0).shape)}: its card says {expected}"
            )
        scores = torch.empty(expected)
        request.set_input_tensor(openvino.Tensor(batch.numpy(), shared_memory=True))
        request.set_output_tensor(0, openvino.Tensor(scores.numpy(), shared_memory=True))
        try:
            request.infer()
        except RuntimeError as error:
            raise ModelError(
                f"model {self.spec.name!r} failed on an input of {tuple(batch.shape)}: {str(error)[:300]}"
            ) from error
        return scores


def _request(compiled: CompiledModel) -> InferRequest:
    mine: dict[int, tuple[CompiledModel, InferRequest]] = _requests.__dict__.setdefault("mine", {})
    if id(compiled) not in mine:
        mine[id(compiled)] = compiled, compiled.create_infer_request()  # holding the net keeps its id from being reused
    return mine[id(compiled)][1]


def _compiled(graph: Path, shape: tuple[int, ...], settings: Settings) -> CompiledModel:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("backend openvino is not installed: pip install 'geoseg[openvino]'") from error
    options = {
        "INFERENCE_NUM_THREADS": settings.threads * settings.lanes,
        "NUM_STREAMS": settings.lanes,
        "INFERENCE_PRECISION_HINT": "bf16" if settings.precision == "bf16" else "f32",  # its own default may be bf16
        "ENABLE_CPU_PINNING": False,  # several worker processes would all be pinned to the first cores
    }
    try:
        core = openvino.Core()
        model = core.read_model(graph.read_bytes(), b"")
        model.reshape(list(shape))
        return core.compile_model(model, "CPU", options)
    except RuntimeError as error:
        raise ModelError(f"{graph} cannot be loaded by OpenVINO for {shape}: {str(error)[:300]}") from error


_: type[Model] = OpenvinoModel
