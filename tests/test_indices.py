"""Band maths against Python's own arithmetic, and what must never be evaluated."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoseg import indices
from geoseg.errors import GeosegError, ModelError
from geoseg.indices import named, names_of_indices, normalized, parse

BANDS = ("blue", "green", "red", "nir")
WITHOUT_NUMBERS = {
    "CRSWIR", "DVIplus", "FAI", "FDI", "NDGI", "NIRvH2", "NIRvP", "kEVI", "kIPVI", "kNDVI", "kRVI", "kVARI",
}  # fmt: skip
"""They need wavelengths, radiation or kernels that depend on the sensor."""


def formulas() -> st.SearchStrategy[str]:
    leaves = st.sampled_from(BANDS) | st.floats(0.1, 4).map(lambda number: repr(round(number, 3)))
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda parts: f"({' '.join(parts)})"),
            inner.map(lambda part: f"(-{part})"),
            inner.map(lambda part: f"abs({part})"),
            st.tuples(inner, inner).map(lambda parts: f"maximum({parts[0]}, {parts[1]})"),
            st.tuples(inner, st.sampled_from((2, 3))).map(lambda parts: f"({parts[0]} ** {parts[1]})"),
        ),
        max_leaves=8,
    )


def by_python(expression: str, values: dict[str, float]) -> float | None:
    """The same formula by Python's eval, in double precision; None where it is not defined."""
    try:
        return float(eval(expression, {"__builtins__": {}, "abs": abs, "maximum": max}, dict(values)))
    except (ZeroDivisionError, OverflowError):
        return None


@given(formulas(), st.lists(st.floats(0, 1).map(lambda value: round(value, 2)), min_size=4, max_size=4))
def test_a_formula_equals_python(expression: str, numbers: list[float]) -> None:
    values = dict(zip(BANDS, numbers, strict=True))
    if not any(band in expression for band in BANDS):
        expression = f"{expression} + 0 * nir"
    expected = by_python(expression, values)
    bands = {name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()}
    found = float(parse(expression).evaluate(bands))
    if expected is None or abs(expected) > 1e30:
        assert found == 0 or abs(found) > 1e29
    else:
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


@given(st.sampled_from(names_of_indices()), st.integers(0, 2**32 - 1))
def test_every_index_of_the_catalogue_equals_numpy(name: str, seed: int) -> None:
    if name in WITHOUT_NUMBERS:
        with pytest.raises(ModelError, match="no number"):
            named(name)
        return
    expression = named(name)
    formula = parse(expression)
    random = np.random.default_rng(seed)
    bands = {band: random.uniform(0.05, 0.9, (2, 3)).astype(np.float32) for band in sorted(formula.names)}
    found = formula.evaluate({band: torch.from_numpy(values) for band, values in bands.items()}).numpy()
    with np.errstate(all="ignore"):
        doubles: dict[str, Any] = {band: values.astype(np.float64) for band, values in bands.items()}
        expected = np.broadcast_to(eval(expression, {"__builtins__": {}}, doubles), found.shape)
    fine = np.isfinite(expected) & (np.abs(expected) < 1e6)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[fine], expected[fine], rtol=5e-3, atol=1e-3)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("expression", "zero"),
    [
        ("(nir - red) / (nir + red)", {"nir": 0.0, "red": 0.0}),
        ("1 - red / (nir / (green - green))", {"nir": 0.3, "red": 0.2, "green": 0.1}),
        ("green + nir / red", {"nir": 0.3, "red": 0.0, "green": 0.1}),
        ("nir ** -1 + 1", {"nir": 0.0}),
        ("nir * (1 / 0)", {"nir": 0.5}),
        ("sqrt(nir - red) + 1", {"nir": 0.1, "red": 0.2}),
        ("log(nir)", {"nir": 0.0}),
        ("exp(nir * 1e9)", {"nir": 1.0}),
    ],
)
def test_where_an_index_is_not_defined_it_is_zero(expression: str, zero: dict[str, float]) -> None:
    bands = {name: torch.tensor([value, 0.5]) for name, value in zero.items()}
    assert parse(expression).evaluate(bands)[0] == 0


def test_a_branch_that_is_not_taken_does_no_harm() -> None:
    found = parse("where(red > 0, nir / red, 5)").evaluate({"red": torch.tensor([0.0, 0.5]), "nir": torch.ones(2)})
    assert found.tolist() == [5, 2]


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "().__class__.__bases__[0].__subclasses__()",
        "nir.__class__",
        "[nir for nir in (1, 2)]",
        "(lambda: nir)()",
        "nir if nir else red",
        "nir and red",
        "f'{nir}'",
        "nir[0]",
        "'nir'",
        "nir == 'a'",
        "True + nir",
        "1j * nir",
        "open(nir)",
        "abs(nir, red)",
        "sqrt(nir, key=red)",
        "sqrt(*nir)",
        "(x := nir)",
        "nir; red",
        "import os",
        "nir @ red",
        "nir // red",
        "nir % red",
        "nir < red < 1",
        "",
        "1 + 1",
        "1e40 * nir",
        "nir +",
        "(" * 500 + "nir" + ")" * 500,
        "-" * 1000 + "nir",
        "nir + " * 800 + "nir",
        "nir\x00",
    ],
)
def test_anything_off_the_list_is_refused_in_one_line(expression: str) -> None:
    with pytest.raises(ModelError) as caught:
        parse(expression)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_huge_powers_of_constants_cost_nothing() -> None:
    assert parse("nir * 9**9**9**9").evaluate({"nir": torch.ones(1)}) == 0


@given(st.text(max_size=60))
def test_arbitrary_text_is_parsed_or_refused(text: str) -> None:
    try:
        formula = parse(text)
    except GeosegError:
        return
    bands = {name: torch.ones(1) for name in formula.names}
    assert math.isfinite(float(formula.evaluate(bands).sum()))


def test_the_named_functions_are_the_catalogue() -> None:
    random = torch.Generator().manual_seed(1)
    bands = {name: torch.rand(8, generator=random) for name in ("green", "red", "nir", "swir16")}
    for name, found in {
        "NDVI": indices.ndvi(bands["red"], bands["nir"]),
        "NDWI": indices.ndwi(bands["green"], bands["nir"]),
        "MNDWI": indices.mndwi(bands["green"], bands["swir16"]),
        "NDBI": indices.ndbi(bands["swir16"], bands["nir"]),
        "NDSI": indices.ndsi(bands["green"], bands["swir16"]),
    }.items():
        torch.testing.assert_close(found, parse(named(name)).evaluate(bands), rtol=0, atol=0)


def test_names_are_found_whatever_their_case_and_unknown_ones_are_refused() -> None:
    assert named("ndvi") == named("NDVI") == "(nir - red) / (nir + red)"
    assert parse(named("EVI")).names == {"nir", "red", "blue"}
    with pytest.raises(ModelError, match="NOPE"):
        named("NOPE")


def test_normalized_of_equal_zeros() -> None:
    assert normalized(torch.zeros(3), torch.zeros(3)).tolist() == [0, 0, 0]


def test_reading_formulas_imports_neither_spyndex_nor_torch() -> None:
    code = "import sys; from geoseg.indices import named, parse; parse(named('EVI')); print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not {"spyndex", "torch", "numpy"} & loaded
