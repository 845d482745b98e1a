"""Numbers and tables for people."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["byte_text", "count_text", "speed_text", "table", "time_text"]


def byte_text(count: float) -> str:
    """Bytes in decimal units.

    >>> byte_text(512), byte_text(1_540_000), byte_text(2.5e10)
    ('512 B', '1.5 MB', '25 GB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.1f} {unit}" if count < 10 and unit != "B" else f"{count:.0f} {unit}"
        count /= 1000
    raise AssertionError


def time_text(seconds: float) -> str:
    """A duration in the unit that fits.

    >>> time_text(0.42), time_text(75), time_text(7260)
    ('0.4 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def speed_text(pixels_per_second: float) -> str:
    """A throughput in millions of pixels.

    >>> speed_text(12_345_678), speed_text(961_000), speed_text(4_321)
    ('12.3 Mpx/s', '1.0 Mpx/s', '0.004 Mpx/s')
    """
    speed = pixels_per_second / 1e6
    return f"{speed:.1f} Mpx/s" if speed >= 0.1 else f"{speed:.1g} Mpx/s"


def count_text(count: int) -> str:
    """A whole number with its thousands apart.

    >>> count_text(16777216)
    '16,777,216'
    """
    return f"{count:,}"


def table(rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset(), indent: int = 0) -> str:
    """Rows of text in columns as wide as their widest cell; the columns `right` are aligned to the right.

    >>> print(table([("water", "12"), ("snow", "3")], right=frozenset({1})))
    water  12
    snow    3
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(" " * indent + line.rstrip() for line in lines)
