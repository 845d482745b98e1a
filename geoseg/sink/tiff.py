"""Just enough TIFF to move blocks that GDAL compressed: tags out of a small file, and headers in front of many blocks.

Only little-endian files; classic ones are read, classic and BigTIFF are written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["LAYOUT", "Tag", "header", "integers", "read_tags"]

Tags = Mapping[int, "Tag"]

_SHORT, _LONG, _LONG8 = 3, 4, 16
_SIZES = {1: 1, 2: 1, _SHORT: 2, _LONG: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, _LONG8: 8}
_NUMBERS = {_SHORT: "<u2", _LONG: "<u4", _LONG8: "<u8"}

_PROMISES = (
    b"LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)
LAYOUT = b"GDAL_STRUCTURAL_METADATA_SIZE=%06d bytes\n%s\0" % (len(_PROMISES), _PROMISES)
"""What readers may rely on: headers first; blocks row by row, each between its size and a copy of its last bytes."""


@dataclass(frozen=True, slots=True)
class Tag:
    """The values of one tag."""

    kind: int
    """TIFF's number of their type."""
    data: bytes
    """Their bytes, little-endian."""

    @property
    def count(self) -> int:
        """How many values."""
        return len(self.data) // _SIZES[self.kind]

    @property
    def numbers(self) -> npt.NDArray[np.unsignedinteger]:
        """The values of a tag of unsigned integers."""
        return np.frombuffer(self.data, _NUMBERS[self.kind])


def integers(values: Iterable[int] | npt.NDArray[np.integer], kind: int = _LONG) -> Tag:
    r"""A tag of unsigned integers: of 16 bits (kind 3), 32 (4) or 64 (16).

    >>> integers([1, 513]).data
    b'\x01\x00\x00\x00\x01\x02\x00\x00'
    """
    array = values if isinstance(values, np.ndarray) else np.array(list(values))
    return Tag(kind, array.astype(_NUMBERS[kind]).tobytes())


def read_tags(file: bytes | memoryview) -> dict[int, Tag]:
    """The tags of the first image of a classic little-endian TIFF."""
    order, version, start = struct.unpack_from("<2sHI", file)
    if (order, version) != (b"II", 42):
        raise ValueError("no classic little-endian TIFF")
    (entries,) = struct.unpack_from("<H", file, start)
    tags = {}
    for at in range(start + 2, start + 2 + 12 * entries, 12):
        number, kind, count = struct.unpack_from("<HHI", file, at)
        size = count * _SIZES[kind]
        place = at + 8 if size <= 4 else struct.unpack_from("<I", file, at + 8)[0]
        tags[number] = Tag(kind, bytes(file[place : place + size]))
    return tags


def header(images: Sequence[Tags], *, big: bool) -> bytes:
    """The beginning of a file that holds several images: everything but their blocks.

    Args:
        images: The tags of each, the full image first.
        big: Whether to write BigTIFF, which a file beyond 4 GB needs.
    """
    start = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16 + len(LAYOUT)) if big else b"II\x2a\0"
    if not big:
        start += struct.pack("<I", 8 + len(LAYOUT))
    out = bytearray(start + LAYOUT)
    for index, tags in enumerate(images):
        out += _directory(tags, len(out), big=big, last=index == len(images) - 1)
    return bytes(out)


def _directory(tags: Tags, at: int, *, big: bool, last: bool) -> bytes:
    """One image's tags, to stand at the even position `at` of a file, with a pointer to what follows them."""
    inline, entry = (8, 20) if big else (4, 12)
    number, pointer = ("<Q", "<Q") if big else ("<H", "<I")
    front = struct.pack(number, len(tags))
    behind = at + len(front) + entry * len(tags) + inline
    entries, values = bytearray(), bytearray()
    for key, tag in sorted(tags.items()):
        entries += struct.pack("<HHQ" if big else "<HHI", key, tag.kind, tag.count)
        if len(tag.data) <= inline:
            entries += tag.data.ljust(inline, b"\0")
        else:
            entries += struct.pack(pointer, behind + len(values))
            values += tag.data + b"\0" * (len(tag.data) % 2)
    following = 0 if last else behind + len(values)
    return bytes(front + entries + struct.pack(pointer, following) + values)
