"""geoseg turns satellite and aerial scenes into maps.

The public names below are loaded when they are first used, so that importing geoseg costs nothing. Everything else
is reached by module (`geoseg.indices.ndvi`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geoseg.change import detect_change
    from geoseg.errors import GeosegError
    from geoseg.evaluation.scoring import evaluate
    from geoseg.grid import TileGrid
    from geoseg.lazy import segment_array
    from geoseg.models import load_model, save_package
    from geoseg.pipeline import segment
    from geoseg.plan import plan_run
    from geoseg.protocols import Model, Sink, Source
    from geoseg.scene import BandSet, Scene
    from geoseg.source import open_scene
    from geoseg.spec import ModelSpec
    from geoseg.vectors import vectorize

__version__ = "0.1.0"

__all__ = [
    "BandSet",
    "GeosegError",
    "Model",
    "ModelSpec",
    "Scene",
    "Sink",
    "Source",
    "TileGrid",
    "detect_change",
    "evaluate",
    "load_model",
    "open_scene",
    "plan_run",
    "save_package",
    "segment",
    "segment_array",
    "vectorize",
]

_HOME = {
    "BandSet": "geoseg.scene",
    "GeosegError": "geoseg.errors",
    "Model": "geoseg.protocols",
    "ModelSpec": "geoseg.spec",
    "Scene": "geoseg.scene",
    "Sink": "geoseg.protocols",
    "Source": "geoseg.protocols",
    "TileGrid": "geoseg.grid",
    "detect_change": "geoseg.change",
    "evaluate": "geoseg.evaluation.scoring",
    "load_model": "geoseg.models",
    "open_scene": "geoseg.source",
    "plan_run": "geoseg.plan",
    "save_package": "geoseg.models",
    "segment": "geoseg.pipeline",
    "segment_array": "geoseg.lazy",
    "vectorize": "geoseg.vectors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'geoseg' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
