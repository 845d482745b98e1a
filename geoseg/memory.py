"""Keeping a process as small as what it works on: caches as large as they need to be, freed memory given back."""

from __future__ import annotations

import ctypes
from contextlib import suppress

__all__ = ["cache_bytes", "give_back"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # glibc's numbers for the parameters
_MMAP_BYTES = 32 << 20  # the largest that glibc takes, and what it arrives at by itself where nobody interferes


def cache_bytes(block: tuple[int, int], width: int, scene_width: int, per_pixel: int) -> int:
    """Two rows of a source's blocks, as wide as a chunk reads; and as much again for bands stored interleaved.

    Args:
        block: Rows and columns of a block.
        width: Columns of the chunk.
        scene_width: Columns of the scene.
        per_pixel: Bytes of a pixel in all bands.

    >>> cache_bytes((256, 256), width=1024, scene_width=10_000, per_pixel=8)
    10485760
    """
    rows, cols = block
    across = min(-(-width // cols) + 1, -(-scene_width // cols))
    return 2 * 2 * rows * across * cols * per_pixel


def give_back() -> None:
    """Returns freed memory to the system, which glibc does only when asked to; does nothing with other C libraries.

    Each chunk has threads of its own, and threads get heaps of their own: fragments of those grew by a fifth over 15
    chunks (measured). So threads share one heap from now on, which costs nothing where buffers are few and large.

    Dask starts workers with a threshold that makes glibc map every larger buffer anew and clear it page by page: a
    U-Net takes half as long again (measured). Here a net's buffers stay on the heap until the chunk is done.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_ARENA_MAX, 1)
        libc.mallopt(_MMAP_THRESHOLD, _MMAP_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _MMAP_BYTES)
        libc.malloc_trim(0)
