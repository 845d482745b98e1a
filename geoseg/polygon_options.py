"""What a person can ask of the polygons of a map, with every default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from geoseg.errors import ConfigError, without_secrets

__all__ = ["PolygonOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolygonOptions:
    """How the polygons of a map are made, and where they go."""

    formats: Sequence[str] = ("geojson", "parquet")
    """Files, as `geoseg.sink.vector.FORMATS` names them; empty: none."""
    connectivity: Literal[4, 8] = 4
    """Whether pixels hold together along edges (4), or at corners too (8)."""
    min_area: float = 0.0
    """Square metres below which a region goes to the neighbour with the longest common border."""
    simplify: float = 0.0
    """Metres: corners whose triangle is smaller than the square of it go."""
    smooth: bool = False
    """Whether corners are rounded."""
    max_vertices: int | None = None
    """Regions with more vertices are cut into squares; None: none is."""
    stats: Sequence[str] = ()
    """Statistics of rasters over each polygon: ``RASTER:mean,max``."""
    to: str | None = field(default=None, repr=False)
    """Database that the polygons are put into: ``postgresql://...``; may hold a password."""

    def __post_init__(self) -> None:
        if self.min_area < 0 or self.simplify < 0 or (self.max_vertices is not None and self.max_vertices < 4):
            raise ConfigError("--min-area and --simplify are at least 0, --max-vertices at least 4")

    @property
    def wanted(self) -> bool:
        """Whether there are polygons to make."""
        return bool(self.formats or self.to)

    def asked(self) -> dict[str, Any]:
        """What decides the bytes of the files, as JSON values: where the polygons go besides is no part of it."""
        given = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in {"formats", "to"}}
        return {"vector": list(self.formats), **given, "stats": [without_secrets(text) for text in self.stats]}
