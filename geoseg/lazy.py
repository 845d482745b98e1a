"""An array in, a lazy dataset out: `segment` for people who live in xarray and Dask, without a run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from uuid import uuid4

import numpy as np
from affine import Affine

from geoseg.blend import Blend
from geoseg.blocks import Work, lazy_rasters
from geoseg.decide import layers_of
from geoseg.errors import BandError, GridError, ModelError
from geoseg.models import package_path, read_spec
from geoseg.plan import plan_run, tiling_for
from geoseg.protocols import Model
from geoseg.scene import Band, BandSet, Scaling, Scene
from geoseg.settings import Settings
from geoseg.source import open_scene
from geoseg.source.array import XarraySource
from geoseg.spec import ModelSpec
from geoseg.tuning import choose_settings
from geoseg.types import Pixels
from geoseg.window import GeoBox

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr

__all__ = ["segment_array"]

_BLOCK = 2048
"""Side of a block of the result in pixels, about: what people who work with Dask are used to."""
_BLOCKS_PER_AXIS = 4
"""Blocks along the longer side of a small scene, so that several threads have work."""


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
    chunk: int | None = None,
    device: str = "auto",
    batch_size: int | Literal["auto"] = "auto",
    probabilities: bool = False,
) -> xr.Dataset:
    """Labels and confidence of an array, as a lazy dataset on the array's own coordinates.

    Nothing of the array is computed and no tile is run here: the variables are backed by Dask. Whatever computes them,
    with any scheduler, runs the tiles of the chunks that meet in the blocks it needs, each once. The values are those
    that `geoseg.segment` writes, however array and result are chunked. Compute variables together
    (``dataset.compute()``, ``dataset.to_zarr(...)``): one after the other they run the tiles once each.

    ``labels`` (y, x) holds class values and the card's nodata value (``_FillValue``); ``confidence`` (y, x) and, on
    request, ``probabilities`` (class, y, x) are float32 in steps of 0.004, NaN where there is no label.

    Args:
        array: Stored numbers (band, row, col): a DataArray with a `band` coordinate of names, or a plain array. Blocks
            of one that is backed by Dask are computed as the tiles need them.
        model: Name or path of a model package, or an object that fits `geoseg.protocols.Model`. Workers of a cluster
            find the package under the same path.
        bands: Names of the array's bands, in its order; None: those of its `band` coordinate.
        scale: Reflectance per stored unit, in place of what the array declares or the card assumes.
        offset: Reflectance of a stored 0, likewise.
        nodata: Stored number that means "no observation".
        tile: Side of a tile in pixels; None: the card's.
        overlap: Pixels that neighbouring tiles share; None: the card's, or a quarter of the tile.
        blend: Taper.
        chunk: Side of the result's blocks in pixels, rounded down to whole strides; None: about 2048, less for a small
            scene.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``, as this process sees them.
        batch_size: Tiles per forward pass.
        probabilities: Whether the probability of every class is kept.

    Raises:
        BandError: A band that the model needs is missing, or a plain array came without names.
        GridError: Array, tile and overlap disagree.
        ModelError: The model package is damaged; when tiles are run, also that the net gave something that is no score.

    >>> import numpy as np
    >>> water = np.full((6, 4, 4), 200, np.uint16)
    >>> names = ["blue", "green", "red", "nir", "swir16", "swir22"]
    >>> dataset = segment_array(water, bands=names, device="cpu")
    >>> sorted(dataset.data_vars), dataset.labels.values.shape
    (['confidence', 'labels'], (4, 4))
    """
    spec = model.spec if isinstance(model, Model) else read_spec(model)
    if spec.dates > 1:
        raise ModelError(f"model {spec.name!r} compares {spec.dates} dates, an array is one: use geoseg.detect_change")
    scene = _scene_of(array, spec, bands, scale, offset, nodata)
    plan = plan_run(
        scene,
        spec,
        settings=_settings(model, device, batch_size, tiling_for(spec, tile, overlap)[0]),
        layers=layers_of(spec, probabilities=probabilities),
        tile=tile,
        overlap=overlap,
        blend=blend,
        chunk=chunk if chunk is not None else _block_side(scene.geobox),
    )
    net = model if isinstance(model, Model) else str(package_path(model).resolve())
    work = Work(plan=plan, model=net, spec=spec, bands=scene.bands, geobox=scene.geobox)
    pixels = _lazy(scene.source, plan.chunks.rows_per_chunk * plan.grid.stride)
    return _dataset(lazy_rasters(pixels, scene.source.indices, work), scene.source, work)


def _block_side(geobox: GeoBox) -> int:
    return min(_BLOCK, max(1, max(geobox.shape) // _BLOCKS_PER_AXIS))


def _settings(model: str | Path | Model, device: str, batch: int | Literal["auto"], tile: int) -> Settings:
    """As a run's, but for one lane: side by side stand the threads of whichever scheduler runs the graph."""
    if isinstance(model, Model):
        return Settings(batch=1 if batch == "auto" else batch, device="cpu" if device == "auto" else device)
    return replace(choose_settings(model, device=device, batch=batch, tile=tile), lanes=1)


def _scene_of(
    array: Any,
    spec: ModelSpec,
    names: Sequence[str] | None,
    scale: float | None,
    offset: float | None,
    nodata: float | None,
) -> Scene[XarraySource]:
    if hasattr(array, "dims") or not hasattr(array, "ndim"):
        named = array if names is None else _named(array, names)
        opened = open_scene(named, bands=spec.bands, scale=scale, offset=offset, nodata=nodata)
        return cast("Scene[XarraySource]", opened)
    if array.ndim != 3:
        raise GridError(f"an array of {array.ndim} dimensions is no scene; it needs (band, row, col)")
    if names is None or len(names) != len(array):
        raise BandError(f"name the {len(array)} bands of the array with bands=[...], in its order; got {names}")
    missing = [name for name in spec.bands if name not in names]
    if missing:
        raise BandError(f"model {spec.name!r} needs {', '.join(missing)}; the array has {', '.join(names)}")
    return _plain_scene(array, spec, names, scale, offset, nodata)


def _named(array: xr.DataArray, names: Sequence[str]) -> xr.DataArray:
    if array.sizes.get("band") != len(names):
        raise BandError(f"bands=[...] names {len(names)} bands, the array has {array.sizes.get('band', 'no band dim')}")
    return array.assign_coords(band=list(names))


def _plain_scene(
    array: Pixels,
    spec: ModelSpec,
    names: Sequence[str],
    scale: float | None,
    offset: float | None,
    nodata: float | None,
) -> Scene[XarraySource]:
    import xarray as xr

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


def _lazy(source: XarraySource, side: int) -> da.Array:
    """The array's pixels (band, row, col) in Dask blocks: its own, or squares of `side` of one that has none."""
    variable = source.array.variable
    if variable.chunks is None:  # a name of its own, because hashing all pixels would take longer than copying them
        band, row, col = variable.dims
        variable = variable.chunk({band: -1, row: side, col: side}, name=f"array-{uuid4().hex}")
    return cast("da.Array", variable.data)


def _dataset(rasters: Mapping[str, da.Array], source: XarraySource, work: Work) -> xr.Dataset:
    import xarray as xr

    coords, reference = _coordinates(source)
    if "probabilities" in rasters:
        coords["class"] = xr.DataArray([info.name for info in work.spec.classes], dims=("class",))
    place, attributes = source.array.dims[1:], _attributes(work.spec)
    variables = {
        name: xr.Variable(("class", *place), raster, attributes[name])
        if name == "probabilities"
        else xr.Variable(place, raster[0], attributes[name])
        for name, raster in rasters.items()
    }
    if reference in coords:
        for variable in variables.values():
            variable.encoding["grid_mapping"] = reference
    grid = work.plan.grid
    about = {"model": work.spec.name, "tile": grid.tile, "overlap": grid.overlap, "blend": work.plan.blend}
    return xr.Dataset(variables, coords, about)


def _coordinates(source: XarraySource) -> tuple[dict[Any, Any], str]:
    """The array's own, band by band ones left out, beside those of its grid; and the name of the CRS among them."""
    from odc.geo.xr import xr_coords

    array = source.array
    band, row, col = array.dims
    own: dict[Any, Any] = {name: values for name, values in array.coords.items() if band not in values.dims}
    named = str(array.encoding.get("grid_mapping", array.attrs.get("grid_mapping")))
    reference = named if named in own else "spatial_ref"
    if source.geobox.crs is None:
        return own, reference
    grid: dict[Any, Any] = xr_coords(source.geobox, crs_coord_name=reference, dims=(str(row), str(col)))
    return grid | own, reference


def _attributes(spec: ModelSpec) -> dict[str, dict[str, Any]]:
    """What readers of CF conventions know: class values with their names and colours, and what means "none"."""
    dtype = np.dtype(spec.label_dtype)
    labels = {
        "long_name": f"classes of {spec.name}",
        "flag_values": np.array(spec.values, dtype),
        "flag_meanings": " ".join("_".join(info.name.split()) for info in spec.classes),
        "flag_colors": " ".join(f"#{info.color}" for info in spec.classes),
        "_FillValue": dtype.type(spec.label_nodata),
    }
    share = {"units": "1", "_FillValue": np.float32(np.nan)}
    return {
        "labels": labels,
        "confidence": {"long_name": "probability of the label", **share},
        "probabilities": {"long_name": "probability of each class", **share},
    }
