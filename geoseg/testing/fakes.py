"""Stand-ins for a Source, a Model and a Sink that assert how they are used and remember what they were asked.

A wrong call fails where it is made, with an AssertionError: an empty window, a read that misses the scene, a batch that
is not float32 or holds NaN, a write beyond the raster or after `close`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from affine import Affine

from geoseg.protocols import Model, Sink, Source
from geoseg.scene import Band, BandSet, Scaling, Scene
from geoseg.spec import Channel, ClassInfo, ModelSpec
from geoseg.types import Pixels, Valid
from geoseg.window import GeoBox, Window, whole

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ArraySource", "BoxModel", "LinearModel", "MemorySink", "geobox_of", "scene_of"]

REFLECTANCE = Scaling(scale=1e-4)


def geobox_of(height: int, width: int, *, resolution: float = 10.0) -> GeoBox:
    """A north-up grid in UTM zone 32 north, of `resolution` metres.

    >>> geobox_of(2, 3).boundingbox.right
    600030.0
    """
    return GeoBox((height, width), Affine(resolution, 0, 600_000, 0, -resolution, 5_400_000), "EPSG:32632")


class ArraySource:
    """A Source over a numpy array that records each window it is asked for.

    Beyond the edge it returns conspicuous numbers (the dtype's largest, NaN for floats), so that whoever forgets Valid
    gets caught.
    """

    def __init__(
        self,
        pixels: Pixels,
        valid: Valid | None = None,
        *,
        names: Sequence[str] = ("blue", "green", "red", "nir"),
        scaling: Scaling | None = REFLECTANCE,
        nodata: float | None = None,
        block: tuple[int, int] = (64, 64),
        geobox: GeoBox | None = None,
    ) -> None:
        """Takes `pixels` (band, row, col) with one name per band, and `valid` (row, col), True = usable.

        Pixels that equal `nodata` or are not finite in any band are invalid too.
        """
        assert pixels.ndim == 3, f"pixels must be (band, row, col), not {pixels.shape}"
        assert pixels.shape[0] == len(names), f"{pixels.shape[0]} bands, but {len(names)} names"
        self._arguments = (pixels, valid, tuple(names), scaling, nodata, block, geobox)
        self.pixels = pixels
        self.valid = _usable(pixels, nodata)
        if valid is not None:
            np.logical_and(self.valid, valid, out=self.valid)
        self.geobox = geobox_of(*pixels.shape[1:]) if geobox is None else geobox
        self.bands = BandSet(
            tuple(Band(name=name, dtype=str(pixels.dtype), scaling=scaling, nodata=nodata) for name in names)
        )
        self.block = block
        self.reads: list[Window] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return _array_source, self._arguments

    def read(self, window: Window) -> tuple[Pixels, Valid]:
        """The window's pixels and validity; see `geoseg.protocols.Source.read`."""
        inside = window & whole(self.geobox)
        assert window, f"an empty window was read: {window}"
        assert inside, f"a window that misses the scene was read: {window}"
        self.reads.append(window)  # list.append is atomic: safe from several threads
        filler = np.nan if self.pixels.dtype.kind == "f" else np.iinfo(self.pixels.dtype).max
        pixels = np.full((len(self.bands), *window.shape), filler, dtype=self.pixels.dtype)
        valid = np.zeros(window.shape, dtype=np.bool_)
        target = inside.within(window).slices
        pixels[:, *target] = self.pixels[:, *inside.slices]
        valid[target] = self.valid[inside.slices]
        return pixels, valid

    def identity(self) -> Mapping[str, str]:
        """A digest of the pixels and their validity."""
        digest = hashlib.sha256(np.ascontiguousarray(self.pixels).tobytes() + self.valid.tobytes())
        return {"array": digest.hexdigest()}

    def times_read(self) -> npt.NDArray[np.int64]:
        """How often each pixel of the scene (row, col) was read."""
        counts = np.zeros(self.pixels.shape[1:], dtype=np.int64)
        for window in self.reads:
            counts[(window & whole(self.geobox)).slices] += 1
        return counts


def _usable(pixels: Pixels, nodata: float | None) -> Valid:
    """Pixels (row, col) that hold an observation in every band."""
    usable = np.isfinite(pixels)
    if nodata is not None:
        usable &= pixels != nodata
    valid: Valid = np.logical_and.reduce(usable)  # over bands
    return valid


def _array_source(  # pickle calls with positional arguments only
    pixels: Pixels,
    valid: Valid | None,
    names: tuple[str, ...],
    scaling: Scaling | None,
    nodata: float | None,
    block: tuple[int, int],
    geobox: GeoBox | None,
) -> ArraySource:
    return ArraySource(pixels, valid, names=names, scaling=scaling, nodata=nodata, block=block, geobox=geobox)


def scene_of(source: Source, *, scene_id: str = "fake") -> Scene[Source]:
    """A scene around `source`, without a time."""
    return Scene(id=scene_id, source=source, geobox=source.geobox, bands=source.bands)


class _CheckedModel:
    """A per-pixel or local net that checks each batch and remembers its shape."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.batches: list[tuple[int, ...]] = []

    @property
    def tiles_run(self) -> int:
        """Tiles that went through `predict`, those that pad a batch included."""
        return sum(shape[0] for shape in self.batches)

    def _check(self, batch: Tensor) -> None:
        import torch

        _, channels, height, width = batch.shape  # unpacking fails where the batch is not four-dimensional
        assert batch.dtype == torch.float32, f"the net got {batch.dtype}, not float32"
        assert channels == len(self.spec.channels), f"{channels} channels, the card has {len(self.spec.channels)}"
        assert height % self.spec.multiple_of == 0 == width % self.spec.multiple_of, f"a tile of {height} x {width}"
        assert bool(torch.isfinite(batch).all()), "NaN or infinity reached the net"
        self.batches.append(tuple(batch.shape))


class LinearModel(_CheckedModel):
    """Scores that are linear in the pixel's own channels, so that right answers are known in closed form.

    The sum runs channel by channel, so a pixel's scores do not depend on where in a batch it lies, to the last bit.
    """

    def __init__(self, weights: npt.ArrayLike, bias: npt.ArrayLike = 0.0, *, spec: ModelSpec | None = None) -> None:
        """Takes `weights` (class, channel) and `bias` (class,); without `spec` a card is made for the first bands."""
        self.weights = np.asarray(weights, dtype=np.float32)
        self.bias = np.broadcast_to(np.asarray(bias, dtype=np.float32), self.weights.shape[:1]).copy()
        super().__init__(_spec_for("fake-linear", *self.weights.shape) if spec is None else spec)

    def __reduce__(self) -> tuple[Any, ...]:
        return _linear_model, (self.weights, self.bias, self.spec)

    def predict(self, batch: Tensor) -> Tensor:
        """Scores (n, class, row, col)."""
        import torch

        self._check(batch)
        weights = torch.from_numpy(self.weights).to(batch.device)  # (class, channel)
        bias = torch.from_numpy(self.bias).to(batch.device)
        scores = bias[None, :, None, None].expand(batch.shape[0], -1, *batch.shape[2:])
        for channel in range(batch.shape[1]):
            scores = scores + weights[None, :, channel, None, None] * batch[:, None, channel]  # (n, class, row, col)
        return scores

    def expected_scores(self, channels: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The closed form, in double precision: (class, row, col) from (channel, row, col)."""
        flat = np.einsum("kc,crw->krw", self.weights.astype(np.float64), channels.astype(np.float64))
        return np.asarray(flat + self.bias.astype(np.float64)[:, None, None])

    def expected_probs(self, channels: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Softmax of `expected_scores`."""
        scores = self.expected_scores(channels)
        powers = np.exp(scores - scores.max(axis=0))
        return np.asarray(powers / powers.sum(axis=0))


def _linear_model(
    weights: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], spec: ModelSpec
) -> LinearModel:  # pickle calls with positional arguments only
    return LinearModel(weights, bias, spec=spec)


class BoxModel(_CheckedModel):
    """A net that sees a square of known radius: class k scores how much channel k's local mean stands out.

    Like a convolution it pads its tile with zeros, so pixels nearer than `radius` to a tile's rim are wrong there; and
    like `LinearModel` it gives a pixel the same bits wherever in a tile it lies.
    """

    def __init__(self, radius: int, *, classes: int = 3, spec: ModelSpec | None = None) -> None:
        self.radius = radius
        super().__init__(_spec_for("fake-box", classes, classes, halo=radius) if spec is None else spec)

    def __reduce__(self) -> tuple[Any, ...]:
        return _box_model, (self.radius, self.spec)

    def predict(self, batch: Tensor) -> Tensor:
        """Scores (n, class, row, col)."""
        from torch.nn.functional import pad

        self._check(batch)
        radius, (height, width) = self.radius, batch.shape[2:]
        padded = pad(batch, (radius, radius, radius, radius))
        side = range(2 * radius + 1)
        rows = sum(padded[:, :, k : k + height] for k in side)
        assert not isinstance(rows, int)  # `sum` starts from 0
        total = sum(rows[..., k : k + width] for k in side)
        assert not isinstance(total, int)
        return 10.0 * total / len(side) ** 2


def _box_model(radius: int, spec: ModelSpec) -> BoxModel:  # pickle calls with positional arguments only
    return BoxModel(radius, spec=spec)


def _spec_for(name: str, classes: int, channels: int, halo: int = 0) -> ModelSpec:
    """A card whose channels are the first bands, as reflectance."""
    bands = ("blue", "green", "red", "nir", "swir16", "swir22")[:channels]
    return ModelSpec(
        name=name,
        bands=bands,
        channels=tuple(Channel(name=band) for band in bands),
        classes=tuple(ClassInfo(value=value, name=f"class-{value}") for value in range(classes)),
        tile=64,
        overlap=16,
        halo=halo,
        assume_scaling=REFLECTANCE,
        digest=hashlib.sha256(f"{name} {classes} {channels}".encode()).hexdigest(),
    )


class MemorySink:
    """A Sink that keeps the raster in memory and asserts that every write fits."""

    def __init__(self, geobox: GeoBox, *, count: int = 1, dtype: str = "uint8", nodata: float = 255) -> None:
        self.geobox = geobox
        self.array: npt.NDArray[Any] = np.full((count, *whole(geobox).shape), nodata, dtype=dtype)
        self.writes: list[Window] = []
        self.closed = False

    def write(self, window: Window, array: Pixels) -> None:
        """Takes (band, row, col) for `window`."""
        assert not self.closed, f"a write after close: {window}"
        assert window in whole(self.geobox), f"a write beyond the raster: {window}"
        assert array.dtype == self.array.dtype, f"{array.dtype} written to a raster of {self.array.dtype}"
        expected = (self.array.shape[0], *window.shape)
        assert array.shape == expected, f"an array of {array.shape} for {expected}"
        self.writes.append(window)
        self.array[:, *window.slices] = array

    def close(self) -> list[Path]:
        """Ends writing; there are no files."""
        assert not self.closed, "closed twice"
        self.closed = True
        return []


_source: type[Source] = ArraySource
_models: tuple[type[Model], ...] = (LinearModel, BoxModel)
_sink: type[Sink] = MemorySink
