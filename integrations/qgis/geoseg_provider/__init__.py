"""The plugin: algorithms of QGIS Processing whose work a geoseg service does."""

from __future__ import annotations

from typing import Any


def classFactory(iface: Any) -> Any:  # noqa: ARG001 - QGIS gives it
    """The plugin, as QGIS asks for it."""
    from geoseg_provider.provider import Plugin

    return Plugin()
