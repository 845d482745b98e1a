"""What a raster's first bytes say, before GDAL sees it: its format, and whether its dimensions are those of an image.

GDAL sizes its buffers by the header. A header that lies (sides of 2^31 pixels, blocks of gigabytes) costs memory and
minutes there; here it costs a few reads of some bytes each.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from geoseg.errors import GridError, SourceError

__all__ = ["Header", "ReadAt", "check_blocks", "read_header"]

ReadAt = Callable[[int, int], bytes]
"""(offset, length) -> at most that many bytes of the file."""

MAX_SIDE = 2**24
"""Pixels; a header with a side of as many or more is refused."""
MAX_PIXELS = 5 * 10**11
"""Pixels; the whole of Africa at 10 m."""
MAX_BLOCK = 512 * 2**20
"""Bytes of one decoded block; a header with blocks of as many or more is refused."""
MAX_IFDS = 64
"""Directories that are looked at; more overviews and masks than that, no scene has."""
MAX_ENTRIES = 4096
"""Tags of one directory."""
MAX_METADATA = 16 * 2**20
"""Bytes of the XML that GDAL keeps in a TIFF."""

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 6: 1, 7: 1, 8: 2, 9: 4, 13: 4, 16: 8, 17: 8, 18: 8}
_CODES = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _STRIPS, _SAMPLES, _ROWS, _PLANAR = 256, 257, 258, 259, 273, 277, 278, 284
_TILE_WIDTH, _TILE_HEIGHT, _SCALE, _MATRIX, _GDAL_METADATA = 322, 323, 33550, 34264, 42112
_JP2 = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_J2K = b"\xff\x4f\xff\x51"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the first bytes say."""

    driver: str
    """GDAL's driver for exactly this format: ``GTiff`` or ``JP2OpenJPEG``."""
    placed: bool
    """Whether it holds a transform of its own, as far as its first bytes tell (without one rasterio warns)."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a TIFF writes numbers."""

    order: str
    big: bool

    def ints(self, raw: bytes, code: str) -> tuple[int, ...]:
        size = struct.calcsize(code)
        return struct.unpack(f"{self.order}{len(raw) // size}{code}", raw[: len(raw) // size * size])


def read_header(name: str, read: ReadAt) -> Header:
    """The format of the file, once its dimensions are known to be sane.

    Raises:
        SourceError: The file is empty, is neither TIFF nor JPEG 2000, or its header asks for the impossible.
        GridError: Its pixels have no size.
    """
    head = read(0, 32)
    if head[:4] in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}:
        return _tiff(name, read, head)
    if head.startswith((_JP2, _J2K)):
        return _jpeg2000(name, read)
    if not head:
        raise SourceError(f"{name}: the file is empty; fetch or write it again")
    raise SourceError(f"{name}: is {_guess(head)}, not a GeoTIFF or JPEG 2000; convert it, or fetch it again")


def _guess(head: bytes) -> str:
    """What the file seems to be instead, in words."""
    known = {
        b"\x89PNG": "a PNG picture",
        b"\xff\xd8\xff": "a JPEG picture",
        b"\x89HDF": "an HDF5 or netCDF file",
        b"PK\x03\x04": "a zip archive",
        b"\x1f\x8b": "a gzip archive",
        b"SQLite": "an SQLite or GeoPackage file",
        b"CDF": "a netCDF file",
        b"%PDF": "a PDF file",
    }
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for magic, words in known.items():
        if start.startswith(magic):
            return words
    if start[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if start.startswith(b"<"):
        return "XML (a service's answer, or a virtual raster)"
    return "JSON" if start.startswith((b"{", b"[")) else f"no known raster (it begins with {head[:4]!r})"


def _tiff(name: str, read: ReadAt, head: bytes) -> Header:
    layout = _Layout("<" if head[:1] == b"I" else ">", 43 in {head[2], head[3]})
    start = layout.ints(head[8:16] if layout.big else head[4:8], "Q" if layout.big else "I")
    placed = False
    for number, tags in enumerate(_directories(read, layout, start[0] if start else 0)):
        _check_directory(name, tags)
        if number == 0:
            placed = _SCALE in tags or _MATRIX in tags
            _check_pixel(name, read, layout, tags)
        _check_metadata(name, read, layout, tags)
    return Header(driver="GTiff", placed=placed)


_Entry = tuple[int, int, int]  # count, first value (0 where it is no integer), offset of the values


def _directories(read: ReadAt, layout: _Layout, offset: int) -> Iterator[Mapping[int, _Entry]]:
    """The tags of each directory, as far as they can be read; GDAL finds its own words for what is cut off."""
    seen: set[int] = set()
    while offset and offset not in seen and len(seen) < MAX_IFDS:
        seen.add(offset)
        width, step = (8, 20) if layout.big else (2, 12)
        count = layout.ints(read(offset, width), "Q" if layout.big else "H")
        if not count or count[0] > MAX_ENTRIES:
            return
        raw = read(offset + width, count[0] * step + (8 if layout.big else 4))
        yield dict(_entry(read, layout, raw[i : i + step]) for i in range(0, len(raw) - step + 1, step))
        following = layout.ints(raw[count[0] * step :], "Q" if layout.big else "I")
        offset = following[0] if following else 0


def _entry(read: ReadAt, layout: _Layout, raw: bytes) -> tuple[int, _Entry]:
    tag, kind = layout.ints(raw[:4], "H")
    count = layout.ints(raw[4:12], "Q")[0] if layout.big else layout.ints(raw[4:8], "I")[0]
    field = raw[12:] if layout.big else raw[8:]
    where = layout.ints(field, "Q" if layout.big else "I")[0]
    size = _SIZES.get(kind, 0)
    first = 0
    if size and count and (size * count <= len(field) or tag == _BITS):
        value = field[:size] if size * count <= len(field) else read(where, size)
        first = next(iter(layout.ints(value, _CODES[kind])), 0)
    return tag, (count, first, where)


def _first(tags: Mapping[int, _Entry], tag: int, default: int) -> int:
    return tags[tag][1] if tag in tags else default


def _check_directory(name: str, tags: Mapping[int, _Entry]) -> None:
    """Refuses a directory whose image or blocks cannot be."""
    width, height = _first(tags, _WIDTH, 0), _first(tags, _HEIGHT, 0)
    _check_size(name, height, width)
    samples = 1 if _first(tags, _PLANAR, 1) == 2 else _first(tags, _SAMPLES, 1)
    cell = samples * _first(tags, _BITS, 8) / 8
    if _TILE_WIDTH in tags or _TILE_HEIGHT in tags:
        check_blocks(name, _first(tags, _TILE_HEIGHT, 1), _first(tags, _TILE_WIDTH, 1), cell)
        return
    strips, *_ = tags.get(_STRIPS, (0, 0, 0))
    if strips == 1 and _first(tags, _COMPRESSION, 1) == 1:
        return  # libtiff reads a single uncompressed strip by small pieces
    check_blocks(name, min(height, _first(tags, _ROWS, height)), width, cell)


def _check_size(name: str, height: int, width: int) -> None:
    if max(height, width) >= MAX_SIDE or height * width > MAX_PIXELS:
        raise SourceError(
            f"{name}: its header says {height} x {width} pixels; at most {MAX_SIDE - 1} a side and "
            f"{MAX_PIXELS:.0e} in all are read: the file is damaged, or must be cut into scenes"
        )


def check_blocks(name: str, rows: int, cols: int, cell: float) -> None:
    """Refuses blocks that take half a gigabyte or more to decode.

    Raises:
        SourceError: A block of `rows` x `cols` pixels of `cell` bytes is too large.
    """
    if rows * cols * cell >= MAX_BLOCK:
        raise SourceError(
            f"{name}: its blocks of {rows} x {cols} pixels take {rows * cols * cell / 2**20:.0f} MB each, at most "
            f"{MAX_BLOCK >> 20} are read; rewrite it with gdal_translate -of COG"
        )


def _check_pixel(name: str, read: ReadAt, layout: _Layout, tags: Mapping[int, _Entry]) -> None:
    """Refuses pixels without a size, which GDAL takes for no transform at all."""
    count, _, where = tags.get(_SCALE, (0, 0, 0))
    raw = read(where, 16) if count >= 2 else b""
    if len(raw) == 16:
        across, down = struct.unpack(f"{layout.order}2d", raw)
        if not (math.isfinite(across) and math.isfinite(down) and across and down):
            raise GridError(f"{name}: its pixels measure {across:g} x {down:g}; georeference it anew")


def _check_metadata(name: str, read: ReadAt, layout: _Layout, tags: Mapping[int, _Entry]) -> None:
    """Refuses metadata by which GDAL would open a file that the metadata names."""
    count, _, where = tags.get(_GDAL_METADATA, (0, 0, 0))
    if count > MAX_METADATA:
        raise SourceError(f"{name}: holds {count} bytes of metadata, at most {MAX_METADATA} are read")
    if count > (8 if layout.big else 4):
        refuse_references(name, read(where, count))


def refuse_references(name: str, xml: bytes) -> None:
    """Refuses GDAL metadata that names another file as overviews: GDAL would open it with any driver.

    Raises:
        SourceError: There is such a reference.
    """
    if b"OVERVIEW_FILE" in xml.upper():
        raise SourceError(f"{name}: its metadata names another file as its overviews; remove OVERVIEW_FILE from it")


def _jpeg2000(name: str, read: ReadAt) -> Header:
    """Sizes from the codestream's SIZ marker, which follows the boxes at the start."""
    head = read(0, 1 << 16)
    at = head.find(_J2K)
    if at < 0 or len(head) < at + 42:
        raise SourceError(f"{name}: a JPEG 2000 file without a codestream; it is damaged")
    width, height, left, top, tile_width, tile_height = struct.unpack(">6I", head[at + 8 : at + 32])
    _check_size(name, height - top, width - left)
    components = struct.unpack(">H", head[at + 40 : at + 42])[0]
    check_blocks(name, min(tile_height, height), min(tile_width, width), 4 * components)
    return Header(driver="JP2OpenJPEG", placed=False)
