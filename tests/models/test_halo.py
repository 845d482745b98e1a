"""How far a net sees: exact where it is known, whatever the format, the stride and the number of dates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geoseg.errors import ModelError
from geoseg.models import package_path, read_spec, save_package
from geoseg.models.halo import Halo, measure_halo
from geoseg.models.package import Format, open_package
from geoseg.models.writing import amend_card
from tests.models.cards import card_of, saved_mixer


class Opposed(nn.Module):
    """Scores f and -f of a net f with positive weights: no influence cancels another."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, batch: Tensor) -> Tensor:
        """Scores (n, 2, row, col)."""
        scores: Tensor = self.layers(batch)
        return torch.cat([scores, -scores], 1)


def positive(kernel: int, *, stride: int = 1, channels: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(channels, 1, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.constant_(layer.weight, 1 / (kernel * channels))
    return layer


def package(net: nn.Module, path: Path, *, kind: Format = "pt2", bands: int = 1, **fields: Any) -> Any:
    names = [f"b{number}" for number in range(bands)]
    options: dict[str, Any] = {"multiple_of": 1, "tile": 64} | fields
    return open_package(save_package(net, path, name="net", bands=names, classes=("a", "b"), format=kind, **options))


def measured(net: nn.Module, path: Path, **fields: Any) -> Halo:
    return measure_halo(package(net, path, **fields))


@pytest.mark.parametrize(("kernels", "radius"), [((1,), 0), ((3,), 1), ((3, 1, 5), 3), ((3, 3, 3), 3), ((15,), 7)])
def test_stacks_of_convolutions_are_measured_exactly(kernels: Sequence[int], radius: int, tmp_path: Path) -> None:
    found = measured(Opposed(*map(positive, kernels)), tmp_path / "net")
    assert (found.perturbation, found.gradient, found.reach, found.radius) == (radius,) * 4
    assert found.bounded
    assert (found.overlap_for_crop, found.overlap_for_ramp) == (2 * radius, -(-8 * radius // 3))


def test_an_onnx_graph_is_measured_without_gradients(tmp_path: Path) -> None:
    found = measured(Opposed(positive(5), positive(3)), tmp_path / "net", kind="onnx")
    assert (found.perturbation, found.gradient, found.reach, found.radius) == (3, None, None, 3)


def support(net: nn.Module, stride: int, side: int = 48) -> int:
    """The oracle: the farthest input that any output of one period about the middle depends on at all."""
    middle = side // 2 // stride * stride
    tile = torch.rand(1, 1, side, side)
    jacobian = torch.func.jacrev(lambda one: net(one)[0, 0, middle : middle + stride, middle : middle + stride])(tile)
    places = jacobian[:, :, 0, 0].nonzero()  # (output row, output col, input row, input col)
    return int((places[:, :2] + middle - places[:, 2:]).abs().max())


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_a_net_with_strides_sees_farthest_from_some_place_within_them(stride: int, tmp_path: Path) -> None:
    net = Opposed(positive(5), positive(3, stride=stride), positive(3), nn.Upsample(scale_factor=stride), positive(3))
    found = measured(net, tmp_path / "net", multiple_of=stride, tile=48)
    assert found.radius == found.gradient == found.reach == support(net, stride)
    assert 0 < found.perturbation <= found.radius  # a pixel that is certain hardly moves
    assert found.overlap_for_crop % stride == found.overlap_for_ramp % stride == 0
    assert 0 <= found.overlap_for_crop - 2 * found.radius < stride


def test_influence_below_a_thousandth_does_not_count(tmp_path: Path) -> None:
    far = positive(9)
    with torch.no_grad():
        far.weight.fill_(1e-5)
        far.weight[..., 2:7, 2:7] = 0.1
    found = measured(Opposed(far), tmp_path / "net")
    assert (found.perturbation, found.gradient, found.reach) == (2, 2, 4)


class Difference(nn.Module):
    """Sees far in what differs between the dates, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.far = Opposed(positive(7))

    def forward(self, batch: Tensor) -> Tensor:
        """Scores (n, 2, row, col)."""
        scores: Tensor = self.far(batch[:, 1] - batch[:, 0])
        return scores


def test_dates_are_changed_one_at_a_time(tmp_path: Path) -> None:
    found = measured(Difference(), tmp_path / "net", kind="onnx", dates=2, task="change-detection")
    assert found.perturbation == 3


class Global(nn.Module):
    """Every output depends on the mean of the whole tile."""

    def forward(self, batch: Tensor) -> Tensor:
        """Scores (n, 2, row, col)."""
        mean = (batch[:, :1] - 0.5).sum((2, 3), keepdim=True) * 0.05
        return torch.cat([mean.sin() + 0 * batch[:, :1], -batch[:, :1]], 1)


def test_a_net_that_sees_the_whole_tile_has_no_bound(tmp_path: Path) -> None:
    opened = package(Global(), tmp_path / "net", tile=128)
    found = measure_halo(opened, largest=512)
    assert not found.bounded
    assert found.radius == found.tile == 512


def test_what_is_measured_is_written_into_the_card(tmp_path: Path) -> None:
    path = saved_mixer(tmp_path / "net", kind="pt2")
    opened = open_package(path)
    assert amend_card(opened, {"geoseg:halo": 1}) == path
    assert (read_spec(path).halo, read_spec(path).digest == opened.spec.digest) == (1, False)
    copied = amend_card(open_package(path), {"geoseg:halo": 2}, tmp_path / "copy")
    assert (read_spec(path).halo, read_spec(copied).halo) == (1, 2)
    amend_card(open_package(copied), {"geoseg:halo": None})
    assert "geoseg:halo" not in card_of(copied)["properties"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["copy", "net"]


def test_a_card_is_not_made_wrong_and_what_comes_with_geoseg_is_not_written(tmp_path: Path) -> None:
    path = saved_mixer(tmp_path / "net")
    before = (path / "model.json").read_bytes()
    with pytest.raises(ModelError, match="geoseg:halo"):
        amend_card(open_package(path), {"geoseg:halo": "far"})
    assert (path / "model.json").read_bytes() == before
    with pytest.raises(ModelError, match="comes with geoseg"):
        amend_card(open_package(package_path("spectral-baseline")), {"geoseg:halo": 5})
    with pytest.raises(ModelError, match="already there"):
        amend_card(open_package(path), {"geoseg:halo": 5}, path)
