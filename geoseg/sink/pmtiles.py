"""A PMTiles archive without features, which GDAL refuses to write."""

from __future__ import annotations

import json
import struct

__all__ = ["empty_pmtiles"]


def empty_pmtiles(layer: str) -> bytes:
    """A PMTiles 3 archive of one tile, the whole world, whose vector layer `layer` holds nothing.

    >>> empty_pmtiles("polygons")[:7]
    b'PMTiles'
    """
    name = layer.encode()
    # Mapbox vector tile 2.1: layers = 3 {name = 1, extent = 5 (4096), version = 15 (2)}.
    body = b"\x0a" + bytes([len(name)]) + name + b"\x28\x80\x20\x78\x02"
    tile = b"\x1a" + bytes([len(body)]) + body
    directory = bytes([1, 0, 1, len(tile), 1])  # one entry: tile 0, run of 1, its length, offset 0 (+ 1)
    metadata = json.dumps({"name": layer, "vector_layers": [{"id": layer, "fields": {}, "minzoom": 0, "maxzoom": 0}]})
    data = 127 + len(directory) + len(metadata)
    sections = (127, len(directory), 127 + len(directory), len(metadata), data, 0, data, len(tile))
    header = b"PMTiles\x03" + struct.pack("<8Q", *sections) + struct.pack("<3Q", 1, 1, 1)
    plain, vector_tile = 1, 1
    header += struct.pack("<6B", 1, plain, plain, vector_tile, 0, 0)
    header += struct.pack("<4i", -1800000000, -850000000, 1800000000, 850000000) + struct.pack("<B2i", 0, 0, 0)
    return header + directory + metadata.encode() + tile
