"""Bands have names, once each, in the order in which they are read."""

from __future__ import annotations

import pytest

from geoseg.errors import BandError
from geoseg.scene import Band, BandSet


def bands(*names: str) -> tuple[Band, ...]:
    return tuple(Band(name=name, dtype="uint16") for name in names)


def test_a_band_set_is_the_sequence_of_its_bands() -> None:
    members = bands("nir", "red", "blue")
    chosen = BandSet(members)
    assert chosen.names == ("nir", "red", "blue")
    assert (list(chosen), len(chosen), chosen[1], chosen[-1], chosen[:2]) == (
        list(members),
        3,
        members[1],
        members[2],
        members[:2],
    )
    assert members[0] in chosen


def test_bands_named_twice_are_refused_by_name() -> None:
    with pytest.raises(BandError, match="bands named twice: nir, red"):
        BandSet(bands("red", "nir", "red", "nir", "blue"))
