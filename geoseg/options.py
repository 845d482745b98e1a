"""What a person can ask of a run, with every default."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from geoseg.errors import ConfigError, without_secrets
from geoseg.polygon_options import PolygonOptions
from geoseg.settings import Backend, ClusterOptions, Precision

if TYPE_CHECKING:
    from geoseg.blend import Blend

__all__ = ["ChangeOptions", "SegmentOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentOptions:
    """Every option of `segment`, with its default; the command line's options of the same names mean the same."""

    tile: int | None = None
    """Side of a tile in pixels; None: the card's."""
    overlap: int | None = None
    """Pixels that neighbouring tiles share; None: the card's, or a quarter of the tile."""
    blend: Blend = "ramp"
    """Taper."""
    batch_size: int | Literal["auto"] = "auto"
    """Tiles per forward pass."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    precision: Precision | Literal["auto"] = "auto"
    """``auto``, ``fp32``, ``bf16`` or ``fp16``."""
    backend: Backend | Literal["auto"] = "auto"
    """``auto``, ``torch``, ``onnxruntime`` or ``openvino``."""
    bands: Mapping[str, str | int] | None = None
    """Band name -> 1-based index in the input, or a file of its own."""
    scale: float | None = None
    """Reflectance per stored unit, in place of what the scene declares."""
    offset: float | None = None
    """Reflectance of a stored 0, in place of what the scene declares."""
    nodata: float | None = None
    """Stored number that means "no observation", in place of what the scene declares."""
    bbox: tuple[float, float, float, float] | None = None
    """West, south, east, north in degrees (WGS 84): crops what is computed and written."""
    aoi: str | Path | None = None
    """File of polygons: only pixels inside get a label."""
    mask: str | None = None
    """Raster whose non-zero pixels are not used."""
    resolution: float | None = None
    """Pixel size to warp to, in units of the CRS."""
    crs: str | None = None
    """CRS to warp to."""
    chunk: int | None = None
    """Side of a chunk in pixels; None: chosen."""
    workers: int | None = None
    """Processes on this machine; None: one, where no cluster is named."""
    scheduler: str | None = None
    """Address of a Dask scheduler."""
    scheduler_file: str | Path | None = None
    """File that a Dask scheduler wrote its address to."""
    worker_timeout: float = 600.0
    """Seconds to wait for workers that are started on demand."""
    report: str | Path | None = None
    """HTML file for Dask's performance report."""
    probabilities: bool = False
    """Whether the probability of every class is written."""
    confidence: bool = True
    """Whether the probability of the chosen class is written."""
    vector: Sequence[str] = ("geojson", "parquet")
    """Formats of the polygons; empty: none."""
    connectivity: Literal[4, 8] = 4
    """As in `PolygonOptions`, like the six that follow."""
    min_area: float = 0.0
    simplify: float = 0.0
    smooth: bool = False
    max_vertices: int | None = None
    stats: Sequence[str] = ()
    to: str | None = field(default=None, repr=False)
    datetime: str | datetime | None = None
    """Time of acquisition, where the scene does not tell or tells it wrongly."""
    assume_crs: str | None = None
    """CRS of a scene that declares none."""
    on_bad_block: Literal["fail", "nodata"] = "fail"
    """What to do with a block that cannot be decoded."""
    aws_no_sign_request: bool = False
    """Read public buckets without credentials."""
    scene_id: str | None = None
    """Name of the scene; None: the file's stem or the item's id."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value, plain = getattr(self, each.name), _PLAIN.get(each.name)
            if plain is not None and value is not each.default:
                object.__setattr__(self, each.name, plain(each.name, value))
        if self.batch_size != "auto" and self.batch_size < 1:
            raise ConfigError(f"--batch-size {self.batch_size}: a batch holds at least one tile")
        self.for_polygons()

    def for_polygons(self) -> PolygonOptions:
        """How the polygons are made."""
        own = {each.name: getattr(self, each.name) for each in fields(PolygonOptions) if each.name != "formats"}
        return PolygonOptions(formats=self.vector, **own)

    def for_scene(self) -> dict[str, Any]:
        """The keyword arguments of `geoseg.source.open_scene` that do not depend on the model."""
        names = ("scale", "offset", "nodata", "mask", "resolution", "crs", "assume_crs", "datetime", "on_bad_block")
        rest = {"band_map": self.bands, "aws_no_sign_request": self.aws_no_sign_request, "scene_id": self.scene_id}
        return {name: getattr(self, name) for name in names} | rest

    def for_cluster(self, description: str | Path | None = None) -> ClusterOptions:
        """Where the work is done, with the YAML file of a cluster to start.

        Raises:
            ConfigError: Two places are named.
        """
        return ClusterOptions(
            workers=self.workers,
            scheduler=self.scheduler,
            scheduler_file=None if self.scheduler_file is None else Path(self.scheduler_file),
            cluster=None if description is None else Path(description),
            worker_timeout=self.worker_timeout,
            report=None if self.report is None else Path(self.report),
        )


def _whole(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ConfigError(f"{name} {value!r} is no whole number") from None


def _number(name: str, value: Any) -> float:
    """Whole numbers stay exact, for a nodata number may have 64 bits."""
    with suppress(TypeError):
        return operator.index(value)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} {value!r} is no number") from None


_PLAIN: Mapping[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("tile", "overlap", "chunk", "workers", "max_vertices"), _whole),
    **dict.fromkeys(("scale", "offset", "nodata", "resolution", "worker_timeout", "min_area", "simplify"), _number),
    **dict.fromkeys(("crs", "assume_crs"), lambda _, crs: str(crs)),
    "batch_size": lambda name, size: size if size == "auto" else _whole(name, size),
}
"""What makes plain values of numpy's numbers, and text of the CRS objects of rasterio, pyproj and odc-geo."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeOptions:
    """What concerns the two dates of `geoseg.detect_change`, beside `SegmentOptions`."""

    align: str | Path | None = None
    """Grid to read both dates on where they differ: ``before``, ``after``, or a raster that lies on it."""
    register: bool = False
    """Whether the shift that phase correlation finds between the dates is removed."""
    mask_before: str | None = None
    """Mask of the earlier date (``FILE``, or ``FILE:3,8,9`` for classes), in place of ``mask``."""
    mask_after: str | None = None
    """Mask of the later date."""
    bands_before: Mapping[str, str | int] | None = None
    """Where the bands of the earlier date are, in place of ``bands``."""
    bands_after: Mapping[str, str | int] | None = None
    """Where the bands of the later date are."""
    datetime_before: str | datetime | None = None
    """Time of the earlier date, where the scene does not tell or tells it wrongly."""
    datetime_after: str | datetime | None = None
    """Time of the later date."""

    def for_date(self, date: str) -> dict[str, Any]:
        """The keyword arguments of `geoseg.source.open_scene` that are given for ``before`` or ``after`` alone."""
        names = {"mask": "mask", "band_map": "bands", "datetime": "datetime"}
        given = {argument: getattr(self, f"{name}_{date}") for argument, name in names.items()}
        return {argument: value for argument, value in given.items() if value}

    def asked(self) -> dict[str, Any]:
        """What must not change between start and resume, as JSON values."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: _plain(value) for name, value in given.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: without_secrets(str(at)) for name, at in sorted(value.items())}
    return value if value is None or isinstance(value, bool) else without_secrets(str(value))
