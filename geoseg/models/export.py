"""Packages in another format: ONNX or torch.export, compared with the net that they came from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from geoseg.errors import ModelError
from geoseg.models.convert import AGREEMENT, difference, with_sizes, write_onnx
from geoseg.models.loading import model_of, sample_of
from geoseg.models.package import CARD, Package, open_package, verify
from geoseg.models.save import write_weights
from geoseg.models.writing import write_package
from geoseg.settings import Settings
from geoseg.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.fx import GraphModule

__all__ = ["Exported", "export_package"]

_TRIAL = 64
"""Side of the tile on which a net is traced where it takes any, in pixels; its stride may ask for more."""

Target = Literal["onnx", "pt2"]
Put = Callable[[Path], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A package that was made of another."""

    path: Path
    """Its folder."""
    difference: float
    """Largest difference of its scores from those of the original, relative to the largest score or 1."""
    tiles: tuple[int, ...]
    """Sides of the tiles on which they were compared."""
    static_tile: int | None
    """The tile that its graph fixes; None: any."""


def export_package(model: str | Path, out: str | Path, kind: Target, *, overwrite: bool = False) -> Exported:
    """Makes a package with the same card and the net's graph in place of its weights.

    A net whose code allows no other is fixed to the card's own tile.

    Args:
        model: A shipped model's name, or a package's folder: of safetensors, or of torch.export for ONNX.
        out: Folder to make.
        kind: ``onnx`` or ``pt2``.
        overwrite: Whether a package that is already there is replaced.

    Raises:
        ModelError: The package is damaged or a graph of that kind already, or the graph's scores differ.
    """
    from geoseg.models.torch_model import load_net

    package = open_package(model)
    verify(package)
    if package.format in (kind, "onnx"):
        raise ModelError(f"model {package.spec.name!r} is stored as {package.format}: it cannot be exported to {kind}")
    if (Path(out) / CARD).exists() and not overwrite:
        raise ModelError(f"{out} already holds a model package: pass --overwrite or choose another folder")
    net, gaps = load_net(package), dict[int, float]()
    refused: list[str] = []
    for put, sides in _ways(package, net, kind):
        try:
            gaps.clear()
            path = _written(package, net, out, kind, put=put, sides=sides, gaps=gaps, overwrite=overwrite)
        except ModelError as error:
            refused.append(str(error))
            continue
        fixed = open_package(path).spec.static_tile
        return Exported(path=path, difference=max(gaps.values()), tiles=tuple(gaps), static_tile=fixed)
    raise ModelError(refused[-1])


def _ways(package: Package, net: nn.Module, kind: Target) -> Iterator[tuple[Put, tuple[int, ...]]]:
    """What writes the graph, from the most to the least that it can be fed, with the tiles to compare it on."""
    spec = package.spec
    unit = spec.multiple_of
    trial = unit * -(-_TRIAL // unit)
    if package.format == "safetensors":
        yield _writes(net, sample_of(package, 2, trial), kind), (trial, 2 * trial, spec.tile)
    if kind == "pt2":
        return
    sample = sample_of(package, spec.static_batch or 1, spec.tile)
    if package.format == "pt2":
        net = with_sizes(cast("GraphModule", net), sample)
    for any_batch in (True, False) if spec.static_batch is None else (False,):
        yield _writes_fixed(net, sample, any_batch=any_batch), (spec.tile,)


def _writes(net: nn.Module, sample: Tensor, kind: Target) -> Put:
    return lambda path: write_weights(net, sample, path, kind)


def _writes_fixed(net: nn.Module, sample: Tensor, *, any_batch: bool) -> Put:
    return lambda path: write_onnx(net, sample, path, any_batch=any_batch)


def _written(
    package: Package,
    net: nn.Module,
    out: str | Path,
    kind: Target,
    *,
    put: Put,
    sides: tuple[int, ...],
    gaps: dict[int, float],
    overwrite: bool,
) -> Path:
    """The package, its scores compared on tiles of `sides`; `gaps` gets the difference on each."""

    def check(made: Package) -> None:
        gaps.update((side, _gap(package.spec, net, made, side)) for side in dict.fromkeys(sides))
        if not max(gaps.values()) < 5 * AGREEMENT:
            raise ModelError(
                f"as {kind}, the scores of {package.spec.name!r} move by {max(gaps.values()):.1e}, more than "
                f"{5 * AGREEMENT:.0e}: the graph is not the same net"
            )

    fields = json.loads((package.path / CARD).read_text("utf-8"))["properties"]
    fields.pop("geoseg:arguments", None)
    fields |= {"geoseg:multiple_of": package.spec.multiple_of, "geoseg:exported_from": package.spec.digest}
    if kind == "onnx":
        fields |= {"mlm:framework": "ONNX", "mlm:framework_version": version("onnxruntime")}
    fields |= {"mlm:name": package.spec.name, "bands": fields.get("bands") or _bands(package.spec)}
    return write_package(out, fields, kind, put=put, check=check, overwrite=overwrite)


def _bands(spec: ModelSpec) -> list[dict[str, str]]:
    return [{"name": channel.name} for channel in spec.channels]


def _gap(spec: ModelSpec, net: nn.Module, made: Package, side: int) -> float:
    """Largest difference on three tiles, more than the net was traced with."""
    import torch

    batch = sample_of(made, 3 if made.spec.static_batch is None else made.spec.static_batch, side, seed=side)
    model = model_of(made, Settings(backend="onnxruntime" if made.format == "onnx" else "torch"))
    with torch.inference_mode():
        expected = torch.cat([net(part) for part in torch.split(batch, spec.static_batch or len(batch))])
    return difference(model.predict(batch), expected)
