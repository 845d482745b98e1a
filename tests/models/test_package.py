"""Packages: found by name or path, pinned by their checksum, refused when damaged; strangers' packages unchanged."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import ModelError
from geoseg.models import list_models, load_model, package_path, read_spec, validate_package
from geoseg.models.package import open_package, verify
from geoseg.scene import Scaling
from geoseg.settings import Settings
from tests.models.cards import card_of, rewrite, saved_mixer


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_mixer(tmp_path_factory.mktemp("packages") / "mixer")


@pytest.fixture
def copy(package: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(package, tmp_path / "copy"))


def test_a_package_is_found_by_name_by_folder_and_by_card(package: Path) -> None:
    assert package_path("spectral-baseline").is_dir()
    assert package_path(package) == package_path(str(package)) == package_path(package / "model.json") == package
    with pytest.raises(ModelError, match="spectral-baseline"):
        package_path("no-such-model")


def test_shipped_models_are_listed_and_valid() -> None:
    assert "spectral-baseline" in dict(list_models())
    for name, description in list_models():
        assert description
        assert validate_package(name) == []


def test_the_digest_is_of_card_and_weights(copy: Path) -> None:
    content = (copy / "model.json").read_bytes()
    weights = hashlib.sha256((copy / "model.onnx").read_bytes()).digest()
    assert read_spec(copy).digest == hashlib.sha256(content + b"\x12\x20" + weights).hexdigest()
    before = read_spec(copy).digest
    rewrite(copy, description="another")
    assert read_spec(copy).digest != before


@given(st.data())
def test_one_flipped_bit_is_found(package: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    copy = Path(shutil.copytree(package, tmp_path_factory.mktemp("flipped") / "copy"))
    content = bytearray((copy / "model.onnx").read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (copy / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError):
        load_model(copy)


def test_weights_replaced_after_the_card_was_read_are_refused(copy: Path, tmp_path: Path) -> None:
    model = pickle.loads(pickle.dumps(load_model(copy)))
    other = saved_mixer(tmp_path / "other", seed=5)
    shutil.copytree(other, copy, dirs_exist_ok=True)
    with pytest.raises(ModelError, match="changed"):
        type(model)(str(copy), model.spec, Settings(backend="onnxruntime", threads=3)).predict(torch.rand(1, 3, 8, 8))


def _asset(card: dict[str, Any]) -> dict[str, Any]:
    asset: dict[str, Any] = card["assets"]["model"]
    return asset


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "no checksum": lambda card: _asset(card).pop("file:checksum"),
    "md5": lambda card: _asset(card).update({"file:checksum": "d50110" + "0" * 32}),
    "no digits": lambda card: _asset(card).update({"file:checksum": "1220" + "x" * 64}),
    "no asset": lambda card: card.update(assets={}),
    "two assets": lambda card: card["assets"].update(again=_asset(card)),
    "missing file": lambda card: _asset(card).update(href="./gone.onnx"),
    "outside": lambda card: _asset(card).update(href="../mixer/model.onnx"),
    "url": lambda card: _asset(card).update(href="https://example.com/model.onnx"),
    "pickle": lambda card: _asset(card).update({"href": "./model.pth", "mlm:artifact_type": "torch.save"}),
    "contradiction": lambda card: _asset(card).update({"mlm:artifact_type": "torch.save"}),
    "channels": lambda card: card["properties"]["mlm:input"][0]["bands"].append("blue"),
    "assets is a list": lambda card: card.update(assets=[]),
    "properties is text": lambda card: card.update(properties="x"),
    "no id": lambda card: card.pop("id"),
}


@pytest.mark.parametrize("what", sorted(BROKEN))
def test_a_broken_card_is_one_line_that_names_it(copy: Path, what: str) -> None:
    card = card_of(copy)
    BROKEN[what](card)
    (copy / "model.json").write_text(json.dumps(card), "utf-8")
    with pytest.raises(ModelError) as caught:
        read_spec(copy)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert validate_package(copy) == [str(caught.value)]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'"x"', b"{" * 5000, b"{}", b"null"])
def test_a_card_that_is_no_card(copy: Path, content: bytes) -> None:
    (copy / "model.json").write_bytes(content)
    with pytest.raises(ModelError):
        read_spec(copy)


def test_validation_names_what_the_extension_requires(copy: Path) -> None:
    rewrite(copy, mlm__tasks=None)
    assert validate_package(copy) == ["properties lack mlm:tasks"]


def test_a_net_that_gives_other_classes_than_its_card_is_not_valid(copy: Path) -> None:
    card = card_of(copy)
    output = card["properties"]["mlm:output"][0]
    output["result"]["shape"][1] = 3
    output["classification:classes"].append({"value": 9, "name": "third"})
    (copy / "model.json").write_text(json.dumps(card), "utf-8")
    (problem,) = validate_package(copy)
    assert "its card says" in problem


# --- packages made by others ---


def test_the_ndvi_threshold_package_runs_unchanged(shared: Path) -> None:
    path = shared / "models" / "ndvi-threshold"
    spec = read_spec(path)
    assert spec.bands == ("blue", "green", "red", "nir")
    assert spec.channels[4].expression == "(nir - red) / (nir + red)"
    assert (spec.tile, spec.overlap, spec.dates, spec.static_batch, spec.static_tile) == (256, 64, 1, None, None)
    assert spec.assume_scaling == Scaling(scale=1e-4)
    assert validate_package(path) == []
    weight, bias = _linear_weights(open_package(path).weights)
    batch = np.random.default_rng(0).uniform(-1, 1, (3, 5, 40, 40)).astype(np.float32)
    expected = np.einsum("kc,ncrw->nkrw", weight, batch.astype(np.float64)) + bias[None, :, None, None]
    np.testing.assert_allclose(load_model(path).predict(torch.from_numpy(batch)).numpy(), expected, atol=1e-4)


def _linear_weights(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Weights (class, channel) and bias of the package's single 1 x 1 convolution."""
    import onnx
    from onnx import numpy_helper

    arrays = [numpy_helper.to_array(tensor).astype(np.float64) for tensor in onnx.load(path).graph.initializer]
    (weight,) = (array for array in arrays if array.ndim == 4)
    (bias,) = (array for array in arrays if array.ndim == 1)
    return weight[:, :, 0, 0], bias


def test_the_pair_package_runs_unchanged(shared: Path) -> None:
    path = shared / "models" / "pair-diff"
    spec = read_spec(path)
    assert (spec.dates, spec.task, spec.bands) == (2, "change-detection", ("red", "nir"))
    assert validate_package(path) == []
    pairs = torch.zeros(2, 2, 3, 32, 32)
    pairs[:, 0, 2] = 0.8
    pairs[0, 1, 2], pairs[1, 1, 2] = 0.5, 0.7  # NDVI falls by 0.3 and by 0.1: only more than 0.2 is a loss
    labels = load_model(path).predict(pairs).argmax(1)
    assert (labels[0] == 1).all()
    assert (labels[1] == 0).all()


def test_verify_reads_the_file_that_the_card_names(copy: Path) -> None:
    package = open_package(copy)
    verify(package)
    package.weights.write_bytes(package.weights.read_bytes() + b"\0")
    with pytest.raises(ModelError, match="checksum"):
        verify(package)
