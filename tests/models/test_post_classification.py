"""A net for one date on both: scores of before, then of after, and all else stays as the net's card has it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from geoseg.errors import ModelError
from geoseg.models import load_model
from geoseg.models.post_classification import PostClassification, on_both_dates
from geoseg.protocols import Model
from geoseg.settings import Settings
from geoseg.testing import LinearModel
from geoseg.testing.conformance import ModelConformance
from tests.models.cards import saved_mixer

NET = LinearModel([[1.0, 2.0], [-1.0, 0.5], [0.0, 3.0]])


class TestPostClassification(ModelConformance):
    def make(self) -> Model:
        return PostClassification(NET)


@pytest.fixture(scope="module", params=["onnx", "pt2"])
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_mixer(tmp_path_factory.mktemp("models") / "mixer", kind=request.param)


def test_scores_are_those_of_each_date_before_first(package: Path) -> None:
    runtime: Any = "onnxruntime" if (package / "model.onnx").exists() else "torch"
    alone = load_model(package, Settings(backend=runtime))
    batch = torch.rand(3, 2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = torch.cat([alone.predict(batch[:, date].contiguous()) for date in (0, 1)], dim=1)
    torch.testing.assert_close(PostClassification(alone).predict(batch), expected)


def test_the_net_sees_batches_of_the_planned_size() -> None:
    net = LinearModel(NET.weights)
    PostClassification(net).predict(torch.rand(5, 2, 2, 16, 16))
    assert net.batches == [(5, 2, 16, 16)] * 2


def test_the_card_is_that_of_a_pair() -> None:
    spec = on_both_dates(NET.spec)
    assert (spec.dates, spec.maps, spec.task, spec.outputs) == (2, 2, "change-detection", 6)
    assert replace(spec, dates=1, maps=1, task="segmentation") == NET.spec
    assert spec.written.classes[0].name == "unchanged"
    assert set(spec.transitions) == set(spec.written.values) - {0}


@pytest.mark.parametrize(
    "fields",
    [{"activation": "sigmoid"}, {"classes": NET.spec.classes[:1]}, {"dates": 2}],
    ids=["activation", "classes", "dates"],
)
def test_what_gives_no_class_per_pixel_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="'fake-linear' gives no map of one class per pixel"):
        on_both_dates(replace(NET.spec, **fields))
