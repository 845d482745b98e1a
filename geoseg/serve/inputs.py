"""What each process takes: models of its inputs, made of the fields of the command line's own configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from geoseg.config import ChangeConfig, RunConfig
from geoseg.option_values import VectorFormat
from geoseg.polygon_config import VectorizeConfig
from geoseg.serve.runs import RUN_ID

__all__ = ["INDEX_CHANGE", "Inputs", "Link", "inputs_of_processes", "model_field"]

INDEX_CHANGE = "index-change"
"""As `geoseg.change` calls it, which loads torch."""


class Inputs(BaseModel):
    """The inputs of one execution, as JSON has them: no number is taken for a text, nor a text for a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Link(Inputs):
    """Something that stands elsewhere, on a host that the service reads from."""

    href: Annotated[str, Field(max_length=2000)]
    """http(s) or s3 URL."""
    type: Annotated[str, Field(max_length=100)] | None = None
    """Media type."""


_SceneId = Annotated[str, Field(min_length=1, max_length=200)]
_Scene = _SceneId | Link
_Crs = Annotated[str, Field(pattern=r"^EPSG:[0-9]{4,6}$")]
_Side = Annotated[int, Field(gt=0, le=1 << 14)]
_Longitude = Annotated[float, Field(ge=-180, le=180)]
_Latitude = Annotated[float, Field(ge=-90, le=90)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Bands = Annotated[
    dict[Annotated[str, Field(pattern=r"^[\w.-]{1,40}$")], Annotated[int, Field(gt=0, le=1000)]],
    Field(max_length=64),
]

_Align = Annotated[Literal["before", "after"] | None, Field()]

_RunId = Annotated[str, Field(pattern=f"^{RUN_ID}$", description="Id of the finished job that made the map.")]
_FileFormats = Annotated[tuple[VectorFormat, ...], Field(min_length=1, max_length=10)]
_Formats = Annotated[tuple[VectorFormat, ...], Field(max_length=10)]
_POLYGON_OPTIONS: dict[str, Any] = {
    "connectivity": Literal[4, 8],
    "min_area": None,
    "simplify": None,
    "smooth": None,
    "max_vertices": None,
}
_OPTIONS: dict[str, Any] = {
    "tile": _Side | None,
    "overlap": Annotated[int, Field(ge=0, le=1 << 13)] | None,
    "blend": None,
    "bands": _Bands,
    "scale": _Number | None,
    "offset": _Number | None,
    "nodata": _Number | None,
    "bbox": tuple[_Longitude, _Latitude, _Longitude, _Latitude] | None,
    "resolution": Annotated[float, Field(gt=0, allow_inf_nan=False)] | None,
    "crs": _Crs | None,
    "assume_crs": _Crs | None,
    "datetime": datetime | None,
    "on_bad_block": None,
    "confidence": None,
    "probabilities": None,
    "vector": _Formats,
    **_POLYGON_OPTIONS,
}
"""The options of a run that a client may choose, and what their values may be where a command line takes more."""

_TOLD = {
    "bands": 'Where bands are in the scene\'s file, by index from 1: {"red": 3, "nir": 4}.',
    "vector": "Polygons to write.",
    "align": "Read both dates on one grid: before's, or after's.",
}
"""Descriptions of inputs that take less than the options of these names."""


def _options(kind: type[BaseModel], names: Mapping[str, Any]) -> dict[str, Any]:
    fields = {}
    for name, annotation in names.items():
        field = kind.model_fields[name]
        taken = field.annotation if annotation is None else annotation
        fields[name] = (taken, Field(field.default, description=_TOLD.get(name, field.description)))
    return fields


def model_field(names: Sequence[str], kind: type[RunConfig]) -> Any:
    """The field of a request that names one of these models: what the command line takes by itself, if it is there."""
    default = kind.model_fields["model"].default
    chosen = default if default in names else names[0]
    return (Literal[tuple(names)], Field(chosen, description="The model that makes the map, by name."))


class _Consistent(Inputs):
    """What has to hold between inputs."""

    @model_validator(mode="after")
    def _box_has_area(self) -> _Consistent:
        box = getattr(self, "bbox", None)
        if box is not None and not box[1] < box[3]:
            raise ValueError("bbox: W,S,E,N in degrees, with S below N")
        if getattr(self, "scale", None) == 0:
            raise ValueError("scale: 0 would make every pixel the same")
        return self


class EvaluateInputs(Inputs):
    """A map that a job of this service made, and the truth."""

    run: _RunId
    truth: Annotated[
        dict[str, Any] | Link,
        Field(description="Polygons of the truth: a GeoJSON FeatureCollection, or a link to polygons or a raster."),
    ]
    class_column: Annotated[
        str | None, Field(max_length=100, pattern=r"^[^-]", description="Column of the polygons with their classes.")
    ] = None
    class_value: Annotated[int | None, Field(ge=0, le=65535, description="Class of all polygons.")] = None
    background: Annotated[int | None, Field(ge=0, le=65535, description="Class of what no polygon covers.")] = None
    all_touched: Annotated[bool, Field(description="Polygons take every pixel that they touch.")] = False
    boundary: Annotated[int, Field(ge=0, le=100, description="Width of the band along borders; 0: none.")] = 3
    draws: Annotated[int, Field(ge=0, le=10_000, description="Bootstrap samples of the regions.")] = 1000
    seed: Annotated[int, Field(ge=0, le=1 << 31, description="Seed of the bootstrap.")] = 0


def inputs_of_processes(one_date: Sequence[str], two_dates: Sequence[str]) -> dict[str, type[Inputs]]:
    """The model of each process's inputs.

    Args:
        one_date: Names of the models that map one date; they may map both dates of a change, too.
        two_dates: Names of the models that take two dates.
    """
    found: dict[str, type[Inputs]] = {"evaluate": EvaluateInputs}
    scene = "The scene: id of one that the service lists, or a link."
    if one_date:
        found["segment"] = create_model(
            "SegmentInputs",
            __base__=_Consistent,
            scene=(_Scene, Field(description=scene)),
            model=model_field(one_date, RunConfig),
            **_options(RunConfig, _OPTIONS),
        )
    found["change"] = create_model(
        "ChangeInputs",
        __base__=_Consistent,
        before=(_Scene, Field(description=f"{scene} The earlier date.")),
        after=(_Scene, Field(description=f"{scene} The later date.")),
        model=model_field([*two_dates, *one_date, INDEX_CHANGE], ChangeConfig),
        align=(_Align, Field(None, description=_TOLD["align"])),
        **_options(ChangeConfig, _OPTIONS),
    )
    found["vectorize"] = create_model(
        "VectorizeInputs",
        __base__=Inputs,
        run=(_RunId, ...),
        vector=(_FileFormats, Field(("geojson",), description=_TOLD["vector"])),
        **_options(VectorizeConfig, _POLYGON_OPTIONS),
    )
    order = ("segment", "change", "vectorize", "evaluate")
    return {name: found[name] for name in order if name in found}
