"""Nets that run on ONNX Runtime, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.errors import MissingExtraError, ModelError
from geoseg.models.convert import Size, onnx_graph
from geoseg.models.held import hold
from geoseg.models.torch_model import check_batch, check_scores, opened
from geoseg.protocols import Model
from geoseg.settings import Settings
from geoseg.spec import ModelSpec

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from torch import Tensor

__all__ = ["OnnxModel", "graph_of", "in_fixed_batches", "size_of"]


class OnnxModel:
    """A `geoseg.protocols.Model` on ONNX Runtime; sessions are shared within the process, and may run in parallel."""

    def __init__(self, path: str, spec: ModelSpec, settings: Settings) -> None:
        """Takes the package's folder, the card that was read from it, and how to run."""
        self._path = path
        self._settings = settings
        self.spec = spec

    def __reduce__(self) -> tuple[Any, ...]:
        return OnnxModel, (self._path, self.spec, self._settings)

    def load(self, size: Size) -> InferenceSession:
        """The session for tiles of `size`, made once per process.

        Raises:
            ModelError: The package changed, is damaged, or cannot be converted.
        """
        graph, threads = graph_of(self._path, self.spec, size), self._settings.threads
        return hold(("onnxruntime", self.spec.digest, graph, threads), lambda: _session(graph, threads))

    def predict(self, batch: Tensor) -> Tensor:
        """Scores float32 (n, class, row, col) of a batch; see `geoseg.protocols.Model.predict`.

        Raises:
            ModelError: The graph does not take this input, or its scores have another shape than the card promises.
        """
        check_batch(batch, self.spec)
        session = self.load(size_of(batch))
        count = session.get_inputs()[0].shape[0]
        fixed = count if isinstance(count, int) else None
        return in_fixed_batches(batch, fixed, lambda part: self._run(session, part))

    def _run(self, session: InferenceSession, batch: Tensor) -> Tensor:
        import torch

        array = batch.contiguous().numpy()  # a view: torch and numpy share the memory
        try:
            (scores, *_) = session.run(None, {session.get_inputs()[0].name: array})
        except Exception as error:  # onnxruntime's errors share no root but Exception
            raise ModelError(
                f"model {self.spec.name!r} failed on an input of {tuple(batch.shape)}: {str(error)[:300]}"
            ) from error
        return check_scores(torch.from_numpy(scores), batch, self.spec)


def in_fixed_batches(batch: Tensor, fixed: int | None, run: Callable[[Tensor], Tensor]) -> Tensor:
    """`run` on `batch`, cut into the batch size that the graph fixes, the last one padded with zeros."""
    import torch

    if fixed is None or fixed == batch.shape[0]:
        return run(batch)
    parts = []
    for part in torch.split(batch, fixed):
        padding = part.new_zeros((fixed - part.shape[0], *part.shape[1:]))
        parts.append(run(torch.cat([part, padding]))[: part.shape[0]])
    return torch.cat(parts)


def size_of(batch: Tensor) -> Size:
    """(rows, cols) of its tiles."""
    rows, cols = batch.shape[-2:]
    return rows, cols


def graph_of(path: str, spec: ModelSpec, size: Size) -> Path:
    """The ONNX file that runs tiles of `size`, verified or made once per process.

    Raises:
        ModelError: The package changed, is damaged, or cannot be converted.
    """
    return hold(("graph", path, spec.digest, size), lambda: onnx_graph(opened(path, spec), size))


def _session(graph: Path, threads: int) -> InferenceSession:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("backend onnxruntime is not installed: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning starves the reader's threads
    try:
        return onnxruntime.InferenceSession(graph.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no root but Exception
        raise ModelError(f"{graph} cannot be loaded by ONNX Runtime: {str(error)[:300]}") from error


_: type[Model] = OnnxModel
