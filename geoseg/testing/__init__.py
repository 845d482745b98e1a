"""What people need who write their own Source, Model or Sink: suites, fakes, strategies and a synthetic scene.

`fakes`: stand-ins that assert how they are used.  `strategies`: hypothesis strategies.  `conformance`: one suite per
socket, subclassed in five lines.  `synthetic`: a Sentinel-2-like scene of any size, made from a seed.
Importing this package loads neither hypothesis nor torch nor rasterio.
"""

from __future__ import annotations

from geoseg.testing.fakes import ArraySource, BoxModel, LinearModel, MemorySink, geobox_of, scene_of
from geoseg.testing.spectra import COVERS, Cover
from geoseg.testing.synthetic import SyntheticScene, write_scene, write_truth

__all__ = [
    "COVERS",
    "ArraySource",
    "BoxModel",
    "Cover",
    "LinearModel",
    "MemorySink",
    "SyntheticScene",
    "geobox_of",
    "scene_of",
    "write_scene",
    "write_truth",
]
