"""Doctests of modules whose optional dependency is not installed are not collected."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = ["geoseg/models/torchgeo_nets.py"] if find_spec("torchgeo") is None else []
