"""How each process is described: title, inputs with JSON schemas, outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from geoseg.serve.inputs import Inputs

__all__ = ["OUTPUTS", "body_schema", "input_descriptions", "output_id", "summary_of"]

_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_TEXTS = {
    "segment": ("Map a scene", "Turns a scene into a map of classes, with confidence, polygons and a STAC item."),
    "change": ("Map what changed", "Turns two scenes of one place into a map of what changed between them."),
    "vectorize": ("Make polygons", "Turns the map of a finished job into polygons, made as you like them."),
    "evaluate": ("Score a map", "Compares the map of a finished job with the truth: scores, areas, intervals."),
}
_FILES = {
    "polygons_geojson": ("Polygons as GeoJSON", "application/geo+json"),
    "polygons_parquet": ("Polygons as GeoParquet", "application/vnd.apache.parquet"),
    "preview": ("Preview with legend", "image/png"),
    "item": ("STAC item", "application/geo+json"),
    "report": ("Report: areas, counts, times", "application/json"),
}
OUTPUTS: dict[str, dict[str, tuple[str, str]]] = {
    "segment": {
        "labels": ("Class of each pixel", _COG),
        "confidence": ("Probability of the chosen class", _COG),
        "probabilities": ("Probability of every class", _COG),
        **_FILES,
    },
    "change": {
        "change": ("Change of each pixel", _COG),
        "change_probability": ("Probability of change", _COG),
        "probabilities": ("Probability of every class", _COG),
        **_FILES,
        "compare": ("Page that compares both dates", "text/html"),
    },
    "vectorize": {
        "polygons_geojson": ("Polygons as GeoJSON", "application/geo+json"),
        "polygons_geojsonl": ("Polygons as GeoJSON, one per line", "application/geo+json-seq"),
        "polygons_parquet": ("Polygons as GeoParquet", "application/vnd.apache.parquet"),
        "polygons_fgb": ("Polygons as FlatGeobuf", "application/vnd.flatgeobuf"),
        "polygons_gpkg": ("Polygons as GeoPackage", "application/geopackage+sqlite3"),
        "polygons_pmtiles": ("Polygons as PMTiles", "application/vnd.pmtiles"),
    },
    "evaluate": {"scores": ("Scores, areas and their intervals", "application/json")},
}
"""Outputs by process: title and media type. A run leaves those that were asked for, and maybe further files."""


def output_id(name: str) -> str:
    """What an output file is called among the results.

    >>> [output_id(name) for name in ("labels.tif", "polygons.geojson", "item.json", "run.json", "labels.qml")]
    ['labels', 'polygons_geojson', 'item', 'report', 'labels_qml']
    """
    if name in {"item.json", "run.json"}:
        return "item" if name == "item.json" else "report"
    stem, _, suffix = name.partition(".")
    return stem if suffix in {"tif", "png", "html"} else name.replace(".", "_")


def summary_of(process: str, version: str) -> dict[str, Any]:
    """The members of a process summary, but its links."""
    title, description = _TEXTS[process]
    by_value = process == "evaluate"
    return {
        "id": process,
        "title": title,
        "description": description,
        "version": version,
        "jobControlOptions": ["sync-execute", "async-execute", "dismiss"],
        "outputTransmission": ["value"] if by_value else ["reference"],
    }


def input_descriptions(kind: type[Inputs], scenes: Sequence[str]) -> dict[str, Any]:
    """Each input with its schema; inputs that are scenes list the ids that there are."""
    schema = kind.model_json_schema()
    required = schema.get("required", [])
    found = {}
    for name, field in schema["properties"].items():
        plain = _plain(field)
        if name in {"scene", "before", "after"}:
            plain = {"type": "string", **({"enum": list(scenes)} if scenes else {})}
        found[name] = {
            "title": name.replace("_", " ").capitalize(),
            "description": field.get("description", ""),
            "minOccurs": int(name in required),
            "maxOccurs": 1,
            "schema": plain,
        }
    return found


def body_schema(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of all inputs of a process together."""
    needed = [name for name, told in inputs.items() if told["minOccurs"]]
    properties = {name: {**told["schema"], "description": told["description"]} for name, told in inputs.items()}
    return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}


def _plain(field: Mapping[str, Any]) -> dict[str, Any]:
    """A schema without what stands in the description, and without null or link as another choice."""
    told = {key: value for key, value in field.items() if key not in {"title", "description"}}
    choices = [choice for choice in told.pop("anyOf", []) if choice.get("type") != "null" and "$ref" not in choice]
    if told.get("default", 0) is None:
        del told["default"]
    return told | choices[0] if choices else told
