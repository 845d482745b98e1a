"""An array in, a dataset out: the same engine without a run directory, for scenes that fit into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from affine import Affine

from geoseg.blend import Blend
from geoseg.decide import PROBABILITY_SCALE, Layers, layers_of
from geoseg.errors import BandError, GridError
from geoseg.models import load_model, read_spec
from geoseg.plan import plan_run, tiling_for
from geoseg.protocols import Model, Source
from geoseg.scene import Band, BandSet, Scaling, Scene
from geoseg.settings import Settings
from geoseg.source import open_scene
from geoseg.spec import ModelSpec
from geoseg.stream import stream_chunk
from geoseg.tuning import choose_settings
from geoseg.types import Pixels
from geoseg.window import GeoBox, Window

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["segment_array"]


def segment_array(
    array: Pixels | xr.DataArray,
    *,
    model: str | Path | Model = "spectral-baseline",
    bands: Sequence[str] | None = None,
    scale: float | None = None,
    offset: float | None = None,
    nodata: float | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    blend: Blend = "ramp",
    device: str = "auto",
    batch_size: int | Literal["auto"] = "auto",
    probabilities: bool = False,
) -> xr.Dataset:
    """Labels and confidence of an array in memory, as a dataset on the array's own coordinates.

    ``labels`` (y, x) holds class values and the card's nodata value (``_FillValue``); ``confidence`` (y, x) and, on
    request, ``probabilities`` (class, y, x) are float32 in steps of 0.004, NaN where there is no label.

    Args:
        array: Stored numbers (band, row, col); a DataArray with a `band` coordinate of names, or a numpy array.
        model: Name or path of a model package, or an object that fits `geoseg.protocols.Model`.
        bands: Names of a numpy array's bands, in its order.
        scale: Reflectance per stored unit, in place of what the array declares or the card assumes.
        offset: Reflectance of a stored 0, likewise.
        nodata: Stored number that means "no observation".
        tile: Side of a tile in pixels; None: the card's.
        overlap: Pixels that neighbouring tiles share; None: the card's, or a quarter of the tile.
        blend: Taper.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        batch_size: Tiles per forward pass.
        probabilities: Whether the probability of every class is kept.

    Raises:
        BandError: A band that the model needs is missing, or a numpy array came without names.
        GridError: Array, tile and overlap disagree.
        ModelError: The model package is damaged, or the net gave something that is no score.

    >>> import numpy as np
    >>> water = np.full((6, 4, 4), 200, np.uint16)
    >>> names = ["blue", "green", "red", "nir", "swir16", "swir22"]
    >>> sorted(segment_array(water, bands=names, device="cpu").data_vars)
    ['confidence', 'labels']
    """
    spec = model.spec if isinstance(model, Model) else read_spec(model)
    scene = _scene_of(array, spec, bands, scale, offset, nodata)
    if isinstance(model, Model):
        settings = Settings(
            batch=1 if batch_size == "auto" else batch_size, device="cpu" if device == "auto" else device
        )
        net: Model = model
    else:
        side = tiling_for(spec, tile, overlap)[0]
        settings = choose_settings(model, device=device, batch=batch_size, tile=side)
        net = load_model(model, settings)
    layers = layers_of(spec, probabilities=probabilities)
    rasters = _run(scene, net, layers, settings, blend, tile, overlap)
    return _dataset(rasters, scene, spec)


def _scene_of(
    array: Any,
    spec: ModelSpec,
    names: Sequence[str] | None,
    scale: float | None,
    offset: float | None,
    nodata: float | None,
) -> Scene[Source]:
    if not isinstance(array, np.ndarray):
        return open_scene(array, bands=spec.bands, scale=scale, offset=offset, nodata=nodata)
    if array.ndim != 3:
        raise GridError(f"an array of {array.ndim} dimensions is no scene; it needs (band, row, col)")
    if names is None or len(names) != len(array):
        raise BandError(f"name the {len(array)} bands of the array with bands=[...], in its order; got {names}")
    missing = [name for name in spec.bands if name not in names]
    if missing:
        raise BandError(f"model {spec.name!r} needs {', '.join(missing)}; the array has {', '.join(names)}")
    return _plain_scene(array, spec, names, scale, offset, nodata)


def _plain_scene(
    array: Pixels,
    spec: ModelSpec,
    names: Sequence[str],
    scale: float | None,
    offset: float | None,
    nodata: float | None,
) -> Scene[Source]:
    import xarray as xr

    from geoseg.source.array import XarraySource

    declared = scale is not None or offset is not None
    scaling = Scaling(scale=1.0 if scale is None else scale, offset=offset or 0.0) if declared else None
    band_set = BandSet(
        tuple(Band(name=name, dtype=str(array.dtype), scaling=scaling, nodata=nodata) for name in spec.bands)
    )
    geobox = GeoBox(array.shape[1:], Affine.identity(), None)
    source = XarraySource(
        array=xr.DataArray(array, dims=("band", "y", "x")),
        indices=tuple(list(names).index(name) for name in spec.bands),
        bands=band_set,
        geobox=geobox,
    )
    return Scene(id="array", source=source, geobox=geobox, bands=band_set)


def _run(
    scene: Scene[Source],
    model: Model,
    layers: Layers,
    settings: Settings,
    blend: Blend,
    tile: int | None,
    overlap: int | None,
) -> dict[str, Pixels]:
    """Every raster of the scene, from one chunk that holds all tiles."""
    height, width = scene.geobox.shape
    plan = plan_run(
        scene,
        model.spec,
        settings=settings,
        layers=layers,
        tile=tile,
        overlap=overlap,
        blend=blend,
        chunk=2 * max(height, width, 1),
    )
    rasters = {name: np.empty((count, height, width), layers.dtype(name)) for name, count in layers.counts.items()}

    def write(window: Window, decided: Mapping[str, Pixels]) -> None:
        for name, pixels in decided.items():
            rasters[name][:, *window.slices] = pixels

    for chunk in plan.chunks:
        stream_chunk(
            chunk, source=scene.source, model=model, blend=blend, layers=layers, settings=settings, write=write
        )
    return rasters


def _dataset(rasters: Mapping[str, Pixels], scene: Scene[Source], spec: ModelSpec) -> xr.Dataset:
    import xarray as xr
    from odc.geo.xr import xr_coords

    coords = xr_coords(scene.geobox) if scene.geobox.crs is not None else {}
    dims = scene.geobox.dimensions if scene.geobox.crs is not None else ("y", "x")
    labels = xr.DataArray(rasters["labels"][0], coords, dims, attrs={"_FillValue": spec.label_nodata})
    dataset = {"labels": labels, "confidence": xr.DataArray(_values(rasters["confidence"][0]), coords, dims)}
    if "probabilities" in rasters:
        names = [info.name for info in spec.classes]
        dataset["probabilities"] = xr.DataArray(
            _values(rasters["probabilities"]), {"class": names, **coords}, ("class", *dims)
        )
    return xr.Dataset(dataset)


def _values(stored: Pixels) -> Pixels:
    return np.where(stored == 255, np.float32(np.nan), stored * np.float32(PROBABILITY_SCALE))
