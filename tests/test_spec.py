"""A card that contradicts itself is refused where it is made; labels take the smallest type that holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import ModelError
from geoseg.spec import Channel, ClassInfo, ModelSpec


def spec(*values: int, **fields: Any) -> ModelSpec:
    given_fields: dict[str, Any] = {
        "name": "net",
        "bands": ("red",),
        "channels": (Channel(name="red"),),
        "classes": tuple(ClassInfo(value=value, name=f"c{value}") for value in values),
    }
    return ModelSpec(**(given_fields | fields))


@given(st.sets(st.integers(0, 65534), min_size=1, max_size=5))
def test_label_dtype_holds_every_value_and_a_nodata_that_is_none_of_them(values: set[int]) -> None:
    card = spec(*values)
    info = np.iinfo(card.label_dtype)
    assert max(values) <= info.max
    assert card.label_nodata == info.max
    assert card.label_nodata not in values
    assert card.label_dtype == "uint8" or max(values) >= 255, "no larger than it has to be"


def test_values_keep_the_nets_order() -> None:
    assert spec(7, 2, 5).values == (7, 2, 5)


@pytest.mark.parametrize(
    ("values", "fields", "text"),
    [
        ((1,), {"bands": ()}, "names no input bands"),
        ((1,), {"channels": ()}, "names no input bands"),
        ((), {}, "names no classes"),
        ((1, 1), {}, r"\[1, 1\] must differ"),
        ((-1,), {}, "between 0 and 65534"),
        ((65535,), {}, "between 0 and 65534"),
        ((1,), {"tile": 500, "multiple_of": 32}, "tile 500 is no multiple of 32"),
        ((1,), {"multiple_of": 0}, "no multiple of 0"),
        ((1,), {"tile": 512, "static_tile": 256}, "fixes tiles of 256, its card says 512"),
    ],
)
def test_a_card_that_cannot_be_run_is_refused(values: tuple[int, ...], fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelError, match=text):
        spec(*values, **fields)
