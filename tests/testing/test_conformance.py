"""The suites themselves: what fits passes (by subclassing), what breaks a promise fails in the test of that promise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from geoseg.protocols import Model, Sink, Source
from geoseg.testing import ArraySource, BoxModel, LinearModel, MemorySink, SyntheticScene
from geoseg.testing.conformance import ModelConformance, SinkConformance, SourceConformance
from geoseg.types import Pixels, Valid
from geoseg.window import GeoBox, Window, whole

if TYPE_CHECKING:
    from torch import Tensor


def _pixels() -> Pixels:
    pixels = np.random.default_rng(1).integers(1, 5000, (2, 90, 70)).astype(np.uint16)
    pixels[:, 20:30, 40:] = 0
    return pixels


class TestArraySource(SourceConformance):
    def make(self) -> Source:
        return ArraySource(_pixels(), names=("red", "nir"), nodata=0)


class TestSyntheticScene(SourceConformance):
    def make(self) -> Source:
        return SyntheticScene(150, 210, seed=3, names=("nir", "red"))


class TestLinearModel(ModelConformance):
    def make(self) -> Model:
        return LinearModel([[1.0, -2.0], [0.5, 3.0], [0.0, 1.0]], [0.0, 0.1, -0.2])


class TestBoxModel(ModelConformance):
    def make(self) -> Model:
        return BoxModel(3)


class NumpySink(MemorySink):
    """Writes what it holds as .npy on close."""

    def __init__(self, directory: Path, geobox: GeoBox) -> None:
        super().__init__(geobox)
        self.path = directory / "raster.npy"

    def close(self) -> list[Path]:
        super().close()
        np.save(self.path, self.array)
        return [self.path]


class TestNumpySink(SinkConformance):
    def make(self, directory: Path, geobox: GeoBox) -> Sink:
        return NumpySink(directory, geobox)

    def raster(self, paths: list[Path]) -> Pixels:
        return np.asarray(np.load(paths[0]))


class ShiftedSource(ArraySource):
    """Reads one pixel off where a window does not start at 0."""

    def __reduce__(self) -> tuple[Any, ...]:
        return ShiftedSource, (self.pixels,), {"bands": self.bands, "valid": self.valid}

    def read(self, window: Window) -> tuple[Pixels, Valid]:
        off = min(1, max(0, window.col_off))
        moved = Window(row_off=window.row_off, col_off=window.col_off - off, height=window.height, width=window.width)
        return super().read(moved)


class GenerousSource(ArraySource):
    """Calls what lies beyond the edge usable."""

    def read(self, window: Window) -> tuple[Pixels, Valid]:
        pixels, valid = super().read(window)
        return pixels, np.ones_like(valid)


class ForgetfulSource(ArraySource):
    """Another scene after pickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return ArraySource, (self.pixels[:, ::-1].copy(), None), {"bands": self.bands}


class CompanionModel(LinearModel):
    """Normalises by the batch."""

    def predict(self, batch: Tensor) -> Tensor:
        return super().predict(batch) * (1 + 0.1 * batch[:1].mean())


class GreedyModel(LinearModel):
    """Overwrites its input."""

    def predict(self, batch: Tensor) -> Tensor:
        return super().predict(batch.mul_(0.5))


class HastySink(NumpySink):
    """Leaves half a file under the final name."""

    def write(self, window: Window, array: Pixels) -> None:
        super().write(window, array)
        np.save(self.path, self.array)


class AddingSink(NumpySink):
    """Adds up what comes twice."""

    def write(self, window: Window, array: Pixels) -> None:
        before = self.array[:, *window.slices].copy() if window in self.writes else np.zeros_like(array)
        super().write(window, np.asarray(before + array, dtype=array.dtype))


SOURCES = [
    (lambda: ShiftedSource(_pixels()[:1], names=("red",)), "test_any_window_equals_the_same_part_of_the_whole"),
    (lambda: GenerousSource(_pixels(), names=("red", "nir")), "test_beyond_the_edge_nothing_is_usable"),
    (lambda: ForgetfulSource(np.concatenate([_pixels()] * 2)), "test_survives_pickle"),
]
MODELS = [
    (lambda: CompanionModel(np.eye(2)), "test_scores_of_a_tile_do_not_depend_on_its_companions"),
    (lambda: GreedyModel(np.eye(2)), "test_gives_the_same_scores_again_and_leaves_its_input_alone"),
]
SINKS = [
    (HastySink, "test_files_appear_when_closed_and_not_before"),
    (AddingSink, "test_windows_may_come_in_any_order_and_twice"),
]


@pytest.mark.parametrize(("make", "promise"), SOURCES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_source_that_breaks_a_promise_fails(make: Callable[[], Source], promise: str) -> None:
    suite = SourceConformance()
    suite.make = make  # type: ignore[method-assign]
    with pytest.raises(AssertionError):
        getattr(suite, promise)()


@pytest.mark.parametrize(("make", "promise"), MODELS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_model_that_breaks_a_promise_fails(make: Callable[[], Model], promise: str) -> None:
    suite = ModelConformance()
    suite.make = make  # type: ignore[method-assign]
    with pytest.raises(AssertionError):
        getattr(suite, promise)()


@pytest.mark.parametrize(("make", "promise"), SINKS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_sink_that_breaks_a_promise_fails(make: Callable[[Path, GeoBox], Sink], promise: str, tmp_path: Path) -> None:
    suite = TestNumpySink()
    suite.make = make  # type: ignore[method-assign,assignment]
    with pytest.raises(AssertionError):
        getattr(suite, promise)(tmp_path)


def test_a_fake_source_refuses_windows_that_miss_the_scene_and_counts_those_that_do_not() -> None:
    source = ArraySource(_pixels(), names=("red", "nir"))
    source.read(Window(row_off=-5, col_off=60, height=10, width=20))
    assert source.times_read().sum() == 5 * 10
    for window in (
        Window(row_off=90, col_off=0, height=5, width=5),
        Window(row_off=0, col_off=0, height=0, width=5),
    ):
        with pytest.raises(AssertionError):
            source.read(window)


def test_a_fake_sink_refuses_writes_that_do_not_fit() -> None:
    sink = MemorySink(whole_geobox := ArraySource(_pixels(), names=("red", "nir")).geobox)
    good = np.zeros((1, 90, 70), dtype=np.uint8)
    with pytest.raises(AssertionError, match="beyond"):
        sink.write(Window(row_off=1, col_off=0, height=90, width=70), good)
    with pytest.raises(AssertionError, match="uint16"):
        sink.write(whole(whole_geobox), good.astype(np.uint16))
    sink.close()
    with pytest.raises(AssertionError, match="after close"):
        sink.write(whole(whole_geobox), good)


def test_a_fake_model_refuses_what_no_net_should_see() -> None:
    torch = pytest.importorskip("torch")
    model = LinearModel(np.eye(2))
    with pytest.raises(AssertionError, match="NaN"):
        model.predict(torch.full((1, 2, 8, 8), float("nan")))
    with pytest.raises(AssertionError, match="channels"):
        model.predict(torch.zeros(1, 3, 8, 8))
    with pytest.raises(AssertionError, match="float64"):
        model.predict(torch.zeros(1, 2, 8, 8, dtype=torch.float64))
    assert model.tiles_run == 0


def test_the_closed_form_of_a_linear_model_is_what_it_predicts() -> None:
    torch = pytest.importorskip("torch")
    model = LinearModel([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]], [0.5, -0.5])
    channels = np.random.default_rng(2).random((3, 9, 7), dtype=np.float32)
    scores = model.predict(torch.from_numpy(channels)[None])
    np.testing.assert_allclose(scores[0].numpy(), model.expected_scores(channels), atol=1e-5)
    np.testing.assert_allclose(torch.softmax(scores, dim=1)[0].numpy(), model.expected_probs(channels), atol=1e-6)
