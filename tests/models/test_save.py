"""One call from a torch module to a package: valid by the extension's schema, and the same net when it comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from referencing import Registry, Resource

from geoseg.errors import ModelError
from geoseg.models import load_model, package_path, read_spec, save_package, validate_package
from geoseg.models.baseline import spectral_baseline
from geoseg.models.package import Format
from geoseg.scene import Scaling
from geoseg.spec import ClassInfo
from tests.models.cards import card_of, mixer, saved_mixer


@pytest.fixture(scope="session")
def validator(shared: Path) -> jsonschema.Draft7Validator:
    """Of the MLM extension, offline."""
    if not (shared / "stac-schemas").is_dir():
        pytest.skip(f"no STAC extension schemas at {shared / 'stac-schemas'}")
    schemas = [json.loads(path.read_text("utf-8")) for path in (shared / "stac-schemas").rglob("schema.json")]
    registry: Registry[Any] = Registry().with_resources(
        (schema["$id"].removesuffix("#"), Resource.from_contents(schema)) for schema in schemas
    )
    (mlm,) = (schema for schema in schemas if "/mlm/v1.5.2" in schema["$id"])
    return jsonschema.Draft7Validator(mlm, registry=registry)


@pytest.mark.parametrize("kind", ["safetensors", "pt2", "onnx"])
def test_a_net_comes_back_in_every_format(kind: Format, tmp_path: Path, validator: jsonschema.Draft7Validator) -> None:
    net = spectral_baseline() if kind == "safetensors" else mixer(9, 5)
    bands = [f"b{number}" for number in range(9)]
    path = save_package(net, tmp_path / "net", name="net", bands=bands, classes="abcde", format=kind, multiple_of=1)
    validator.validate(card_of(path))
    assert validate_package(path) == []
    batch = torch.rand(2, 9, 40, 40)
    with torch.inference_mode():
        torch.testing.assert_close(load_model(path).predict(batch), net(batch), rtol=1e-4, atol=1e-4)


@examples(max_examples=8)
@given(
    tile=st.integers(1, 6).map(lambda number: 16 * number),
    fill=st.floats(-2, 2),
    activation=st.sampled_from(["softmax", "sigmoid", "none"]),
    halo=st.none() | st.integers(0, 99),
    values=st.lists(st.integers(0, 65534), min_size=2, max_size=2, unique=True),
    scale=st.none() | st.floats(1e-5, 1),
)
def test_every_field_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    validator: jsonschema.Draft7Validator,
    tile: int,
    fill: float,
    activation: str,
    halo: int | None,
    values: list[int],
    scale: float | None,
) -> None:
    classes = [ClassInfo(value=value, name=f"c{value}", title="T", description="d", color="0A0B0C") for value in values]
    assumed = None if scale is None else Scaling(scale=scale, offset=-0.1)
    path = save_package(
        mixer(),
        tmp_path_factory.mktemp("fields") / "net",
        name="all fields",
        bands=["red", {"name": "ratio", "format": "rio-tiler", "expression": "nir / red"}, "NDVI"],
        classes=classes,
        format="onnx",
        tile=tile,
        overlap=tile // 4,
        multiple_of=16,
        halo=halo,
        fill=fill,
        activation=activation,
        value_scaling=[{"type": "z-score", "mean": 0.25, "stddev": 0.5}],
        assume_scaling=assumed,
        training_statistics={"red": {"mean": 0.1}},
        properties={"license": "CC-BY-4.0"},
    )
    validator.validate(card_of(path))
    spec = read_spec(path)
    assert (spec.name, spec.tile, spec.overlap, spec.multiple_of) == ("all fields", tile, tile // 4, 16)
    assert (spec.halo, spec.fill, spec.activation, spec.assume_scaling) == (halo, fill, activation, assumed)
    assert spec.classes == tuple(classes)
    assert spec.bands == ("red", "nir")
    assert [channel.expression for channel in spec.channels] == [None, "nir / red", "(nir - red) / (nir + red)"]
    assert [channel.rescale[0].gain for channel in spec.channels] == [2.0] * 3
    assert spec.training_statistics == {"red": {"mean": 0.1}}
    assert card_of(path)["properties"]["license"] == "CC-BY-4.0"


def test_the_shipped_cards_and_pairs_are_valid(tmp_path: Path, validator: jsonschema.Draft7Validator) -> None:
    validator.validate(card_of(package_path("spectral-baseline")))
    path = saved_mixer(tmp_path / "pair", dates=2, task="change-detection")
    validator.validate(card_of(path))
    assert (read_spec(path).dates, read_spec(path).task) == (2, "change-detection")


def test_a_package_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    path = saved_mixer(tmp_path / "net")
    before = read_spec(path).digest
    with pytest.raises(ModelError, match="overwrite"):
        saved_mixer(path, seed=1)
    assert read_spec(path).digest == before
    assert read_spec(saved_mixer(path, seed=1, overwrite=True)).digest != before


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "safetensors"}, "no net of the registry"),
        ({"kind": "safetensors", "architecture": "Unet", "arguments": {"in_channels": 3}}, "weights of Unet"),
        ({"tile": 50, "multiple_of": 32}, "no multiple"),
        ({"activation": "tanh"}, "activation"),
        ({"value_scaling": [{"type": "scale", "value": 0}]}, "divides by 0"),
        ({"properties": {"mlm:output": []}}, "mlm:output"),
    ],
)
def test_a_package_that_would_be_wrong_is_not_written(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        saved_mixer(tmp_path / "net", **fields)
    assert list(tmp_path.iterdir()) == []


def test_a_net_that_depends_on_its_size_is_not_stored_as_if_it_did_not(tmp_path: Path) -> None:
    class Sized(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return batch[:, :2] + float(batch.shape[-1])

    with pytest.raises(ModelError, match="move by"):
        save_package(
            Sized(),
            tmp_path / "net",
            name="sized",
            bands=("a", "b", "c"),
            classes=("x", "y"),
            format="onnx",
            multiple_of=1,
        )
