"""Nets that run on torch: safetensors by the registry, and torch.export graphs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast

from geoseg.errors import ModelError
from geoseg.models.held import hold
from geoseg.models.package import Package, open_package, verify
from geoseg.protocols import Model
from geoseg.settings import Settings
from geoseg.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["TorchModel", "check_batch", "check_scores", "load_net", "opened", "threads_of_this_thread"]


class TorchModel:
    """A `geoseg.protocols.Model` on torch; the net is loaded on first use and shared within the process."""

    def __init__(self, path: str, spec: ModelSpec, settings: Settings) -> None:
        """Takes the package's folder, the card that was read from it, and how to run."""
        self._path = path
        self._settings = settings
        self.spec = spec

    def __reduce__(self) -> tuple[Any, ...]:
        return TorchModel, (self._path, self.spec, self._settings)

    def load(self) -> nn.Module:
        """The net on its device, loaded once per process.

        Raises:
            ModelError: The package changed, is damaged, or does not fit its card.
        """
        settings = self._settings
        key = ("torch", self.spec.digest, settings.device, settings.channels_last, settings.compiled)
        return hold(key, lambda: _placed(opened(self._path, self.spec), settings))

    def predict(self, batch: Tensor) -> Tensor:
        """Scores float32 (n, class, row, col) of a batch; see `geoseg.protocols.Model.predict`.

        Raises:
            ModelError: The net failed on this input, or its scores have another shape than the card promises.
        """
        import torch

        check_batch(batch, self.spec)
        net = self.load()
        if self._settings.channels_last and batch.ndim == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if batch.device.type == "cpu":
                stack.enter_context(threads_of_this_thread(self._settings.threads))
            if self._settings.precision != "fp32":
                dtype = torch.bfloat16 if self._settings.precision == "bf16" else torch.float16
                stack.enter_context(torch.autocast(batch.device.type, dtype))
            try:
                scores = net(batch)
            except torch.OutOfMemoryError:  # the engine halves the batch
                raise
            except (RuntimeError, ValueError, AssertionError) as error:
                raise ModelError(
                    f"model {self.spec.name!r} failed on an input of {tuple(batch.shape)}: {str(error)[:300]}"
                ) from error
        return check_scores(scores, batch, self.spec)


def check_batch(batch: Tensor, spec: ModelSpec) -> None:
    """Refuses what the net was not made for, whichever runtime would take it.

    Raises:
        ModelError: `batch` has other axes, channels or sizes than the card says.
    """
    dates = (spec.dates,) if spec.dates > 1 else ()
    size = tuple(batch.shape[-2:]) if spec.static_tile is None else (spec.static_tile, spec.static_tile)
    expected = (*dates, len(spec.channels), *size)
    if tuple(batch.shape[1:]) != expected:
        raise ModelError(f"model {spec.name!r} takes tiles of {expected}, not {tuple(batch.shape[1:])}")


def check_scores(scores: object, batch: Tensor, spec: ModelSpec) -> Tensor:
    """`scores` in float32.

    Raises:
        ModelError: They are no tensor (n, class, row, col) for `batch`.
    """
    import torch

    if isinstance(scores, dict):  # torchvision's nets
        scores = scores.get("out")
    expected = (batch.shape[0], spec.outputs, *batch.shape[-2:])
    if not isinstance(scores, torch.Tensor) or tuple(scores.shape) != expected:
        found = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise ModelError(
            f"model {spec.name!r} gave {found} for an input of {tuple(batch.shape)}: its card says {expected}"
        )
    return scores.float().contiguous()  # class by class, as everything after it reads them


@contextmanager
def threads_of_this_thread(threads: int) -> Iterator[None]:
    """Lets torch use `threads` threads in operations that the calling Python thread starts.

    ``torch.set_num_threads`` holds for the calling thread and for threads that use torch for the first time later;
    those that already used it keep their number. So each lane sets its own, here, and puts back what it found.
    """
    import torch

    before = torch.get_num_threads()
    if before == threads:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def opened(path: str, spec: ModelSpec) -> Package:
    """The package at `path`, its weights verified.

    Raises:
        ModelError: It is not the one that `spec` was read from, or it is damaged.
    """
    package = open_package(path)
    if package.spec.digest != spec.digest:
        raise ModelError(
            f"the package {path} changed since its card was read: {spec.name!r} had digest {spec.digest[:12]}"
        )
    verify(package)
    return package


def load_net(package: Package) -> nn.Module:
    """The net of a safetensors or torch.export package, on the CPU, in evaluation mode. Verify the package first.

    Raises:
        ModelError: The weights do not fit the net that the card names.
    """
    if package.format == "pt2":
        from geoseg.models.exported import load_exported

        return load_exported(package.weights)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from geoseg.models.registry import build

    net = build(package.architecture, package.arguments)
    try:
        net.load_state_dict(load_file(package.weights))
    except (RuntimeError, SafetensorError, OSError) as error:
        raise ModelError(
            f"{package.weights} does not hold the weights of {package.architecture}: {str(error)[:300]}"
        ) from error
    return net.requires_grad_(False)


def _placed(package: Package, settings: Settings) -> nn.Module:
    import torch

    net = load_net(package)
    try:
        net = net.to(settings.device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"model {package.spec.name!r} cannot go to device {settings.device!r}: {str(error)[:200]}"
        ) from error
    if settings.channels_last:
        net = net.to(memory_format=torch.channels_last)
    return cast("nn.Module", torch.compile(net)) if settings.compiled else net


_: type[Model] = TorchModel
