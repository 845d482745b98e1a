"""The service: the engine behind HTTP, by open standards.

Jobs are OGC API - Processes, polygons OGC API - Features, runs a STAC API, maps XYZ tiles. Only this package imports a
web framework, and only ``geoseg serve`` imports this package.
"""
