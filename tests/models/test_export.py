"""Exported packages: the same card, the same scores, another format; and no package where they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geoseg.errors import ModelError
from geoseg.models import load_model, package_path, read_spec, save_package, validate_package
from geoseg.models.convert import AGREEMENT, difference
from geoseg.models.export import Target, export_package
from geoseg.models.registry import build
from tests.models.cards import card_of, saved_mixer

TARGETS: tuple[Target, ...] = ("onnx", "pt2")


def same(one: Path, other: Path, side: int, count: int = 2) -> float:
    """Difference of the scores of two packages."""
    spec = read_spec(one)
    dates = (spec.dates,) if spec.dates > 1 else ()
    batch = torch.rand(count, *dates, len(spec.channels), side, side)
    return difference(load_model(other).predict(batch), load_model(one).predict(batch))


SMALL: dict[str, Any] = {"encoder_name": "resnet18", "encoder_depth": 2, "decoder_channels": (8, 8), "classes": 3}
PAIRS: dict[str, Any] = {"dates": 2, "task": "change-detection"}


@pytest.mark.parametrize(
    ("architecture", "more", "kind"), [("Unet", {}, "onnx"), ("Unet", {}, "pt2"), ("FCEF", PAIRS, "onnx")]
)
def test_a_net_of_the_registry_in_another_format(
    architecture: str, more: dict[str, Any], kind: Target, tmp_path: Path
) -> None:
    net, channels = build(architecture, {**SMALL, "in_channels": 3}), 3
    fields: dict[str, Any] = {"tile": 96, "halo": 40, "value_scaling": [{"type": "scale", "value": 0.5}], **more}
    bands = [f"b{number}" for number in range(channels)]
    original = save_package(net, tmp_path / "net", name="the net", bands=bands, classes=("a", "b", "c"), **fields)
    made = export_package(original, tmp_path / "made", kind)
    assert validate_package(made.path) == []
    was, is_now = read_spec(original), read_spec(made.path)
    assert (is_now.name, is_now.bands, is_now.channels, is_now.classes) == (
        was.name,
        was.bands,
        was.channels,
        was.classes,
    )
    assert (is_now.tile, is_now.multiple_of, is_now.halo, is_now.dates) == (96, 32, 40, was.dates)
    assert (made.static_tile, is_now.static_tile) == (None, None)
    assert made.difference < 5 * AGREEMENT
    assert made.tiles == (64, 128, 96)
    assert same(original, made.path, 160) < 5 * AGREEMENT
    assert card_of(made.path)["properties"]["geoseg:exported_from"] == was.digest
    assert "geoseg:arguments" not in card_of(made.path)["properties"]


def test_a_shipped_model_and_a_torch_export_archive_become_onnx(tmp_path: Path) -> None:
    baseline = export_package("spectral-baseline", tmp_path / "baseline", "onnx")
    assert same(package_path("spectral-baseline"), baseline.path, 70) < 5 * AGREEMENT
    assert card_of(baseline.path)["properties"]["mlm:framework"] == "ONNX"
    original = saved_mixer(tmp_path / "mixer", kind="pt2")
    made = export_package(original, tmp_path / "made", "onnx")
    assert made.static_tile == 64  # tracing knows no symbolic sizes
    assert same(original, made.path, 64, count=3) < 5 * AGREEMENT


def test_what_cannot_be_exported_is_refused_in_words(tmp_path: Path) -> None:
    graph = saved_mixer(tmp_path / "graph")
    for kind in TARGETS:
        with pytest.raises(ModelError, match="stored as onnx"):
            export_package(graph, tmp_path / "made", kind)
    original = saved_mixer(tmp_path / "mixer", kind="pt2")
    with pytest.raises(ModelError, match="stored as pt2"):
        export_package(original, tmp_path / "made", "pt2")
    with pytest.raises(ModelError, match="--overwrite"):
        export_package(original, graph, "onnx")
    assert not (tmp_path / "made").exists()
    assert read_spec(export_package(original, graph, "onnx", overwrite=True).path).static_tile == 64


class Sized(nn.Module):
    """Its scores depend on how large the tile was that it was traced with."""

    def forward(self, batch: Tensor) -> Tensor:
        """Scores (n, 2, row, col)."""
        side = float(batch.shape[-1])
        return torch.cat([batch.mean(1, keepdim=True) * side, batch[:, :1]], 1)


def test_a_graph_that_is_right_for_one_size_only_is_fixed_to_the_cards_tile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = save_package(
        build("Unet", {**SMALL, "classes": 2}),
        tmp_path / "net", name="net", bands=("red", "green", "blue"), classes=("a", "b"), tile=96,
    )  # fmt: skip
    monkeypatch.setattr("geoseg.models.torch_model.load_net", lambda _: Sized())
    made = export_package(original, tmp_path / "made", "onnx")
    assert (made.static_tile, made.tiles) == (96, (96,))
    batch = torch.rand(1, 3, 96, 96)
    torch.testing.assert_close(load_model(made.path).predict(batch), Sized()(batch), atol=1e-3, rtol=1e-5)


def test_a_graph_that_differs_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = saved_mixer(tmp_path / "mixer", kind="pt2")
    monkeypatch.setattr("geoseg.models.export.difference", lambda *_: 0.25)
    with pytest.raises(ModelError, match=r"move by 2\.5e-01"):
        export_package(original, tmp_path / "made", "onnx")
    assert [each.name for each in tmp_path.iterdir()] == ["mixer"]
