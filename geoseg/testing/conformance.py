"""Conformance suites for whoever writes a Source, a Model or a Sink: subclass one, say how to make yours, run pytest.

::

    class TestMySource(SourceConformance):
        def make(self) -> Source:
            return MySource("small-scene.tif")

Each test states one promise of `geoseg.protocols`. What `make` returns should be small: a scene of at most about
1000 x 1000 pixels, whose pixels the suite reads many times over.
"""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geoseg.protocols import Model, Sink, Source
from geoseg.testing.fakes import geobox_of
from geoseg.types import Pixels, Valid
from geoseg.window import GeoBox, Window, whole

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ModelConformance", "SinkConformance", "SourceConformance"]


class SourceConformance:
    """What every Source promises."""

    def make(self) -> Source:
        """A source over a small scene; called for each test."""
        raise NotImplementedError

    def test_has_the_members_of_a_source(self) -> None:
        source = self.make()
        assert isinstance(source, Source)
        assert len(source.bands) >= 1
        assert all(side >= 1 for side in source.block)

    def test_reads_bands_rows_and_columns(self) -> None:
        source = self.make()
        pixels, valid = source.read(whole(source.geobox))
        assert pixels.shape == (len(source.bands), *source.geobox.shape)
        assert valid.shape == tuple(source.geobox.shape)
        assert valid.dtype == np.bool_
        assert all(np.can_cast(band.dtype, pixels.dtype) for band in source.bands)

    def test_usable_pixels_hold_an_observation_in_every_band(self) -> None:
        source = self.make()
        pixels, valid = source.read(whole(source.geobox))
        assert np.isfinite(pixels[:, valid]).all()
        for band, values in zip(source.bands, pixels, strict=True):
            assert band.nodata is None or not (values[valid] == band.nodata).any()

    def test_any_window_equals_the_same_part_of_the_whole(self) -> None:
        source = self.make()
        pixels, valid = source.read(whole(source.geobox))
        for window in _windows(source.geobox):
            _assert_same(source.read(window), (pixels[:, *window.slices], valid[window.slices]))

    def test_beyond_the_edge_nothing_is_usable(self) -> None:
        source = self.make()
        scene = whole(source.geobox)
        grown = Window.from_bounds(-3, -5, scene.row_stop + 7, scene.col_stop + 2)
        pixels, valid = source.read(grown)
        inside = scene.within(grown).slices
        assert pixels.shape[1:] == valid.shape == grown.shape
        assert valid.sum() == valid[inside].sum()
        _assert_same((pixels[:, *inside], valid[inside]), source.read(scene))

    def test_survives_pickle(self) -> None:
        source = self.make()
        copy = pickle.loads(pickle.dumps(source))  # noqa: S301 - made in the line above
        assert copy.geobox == source.geobox
        assert copy.bands == source.bands
        assert dict(copy.identity()) == dict(source.identity())
        _assert_same(copy.read(whole(source.geobox)), source.read(whole(source.geobox)))

    def test_threads_may_read_at_once(self) -> None:
        source = self.make()
        windows = _windows(source.geobox) * 2
        alone = [source.read(window) for window in windows]
        with ThreadPoolExecutor(4) as pool:
            for together, expected in zip(pool.map(source.read, windows), alone, strict=True):
                _assert_same(together, expected)

    def test_identity_names_the_input_without_secrets(self) -> None:
        identity = self.make().identity()
        assert identity
        for place, version in identity.items():
            assert isinstance(place, str)
            assert isinstance(version, str)
            assert version
            assert "?" not in place, "a query may hold a signature"


def _windows(geobox: GeoBox) -> list[Window]:
    """The corners, single pixels, and windows that no block size divides: always the same ones."""
    scene = whole(geobox)
    random = np.random.default_rng(0)
    corners = [(0, 0), (0, scene.width - 1), (scene.height - 1, 0), (scene.height - 1, scene.width - 1)]
    windows = [Window(row_off=row, col_off=col, height=1, width=1) for row, col in corners]
    for _ in range(8):
        row, col = int(random.integers(scene.height)), int(random.integers(scene.width))
        height = int(random.integers(1, scene.height - row + 1))
        windows.append(
            Window(row_off=row, col_off=col, height=height, width=int(random.integers(1, scene.width - col + 1)))
        )
    return windows


def _assert_same(found: tuple[Pixels, Valid], expected: tuple[Pixels, Valid]) -> None:
    """Same validity, and same numbers wherever valid; what invalid pixels hold is nobody's business."""
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0][:, found[1]], expected[0][:, expected[1]])


class ModelConformance:
    """What every Model promises; runs on the CPU."""

    tolerance = 1e-5
    """Float noise that scores may show between a tile alone and the same tile in a batch, relative and absolute."""

    def make(self) -> Model:
        """The model; called for each test."""
        raise NotImplementedError

    def test_has_the_members_of_a_model(self) -> None:
        assert isinstance(self.make(), Model)

    def test_gives_a_float32_score_per_class_and_pixel(self) -> None:
        import torch

        model = self.make()
        batch = _batch(model)
        scores = model.predict(batch)
        assert tuple(scores.shape) == (batch.shape[0], model.spec.outputs, *batch.shape[-2:])
        assert scores.dtype == torch.float32
        assert scores.device == batch.device
        assert bool(torch.isfinite(scores).all())

    def test_gives_the_same_scores_again_and_leaves_its_input_alone(self) -> None:
        import torch

        model = self.make()
        batch = _batch(model)
        before = batch.clone()
        assert torch.equal(model.predict(batch), model.predict(batch))
        assert torch.equal(batch, before)

    def test_scores_of_a_tile_do_not_depend_on_its_companions(self) -> None:
        model = self.make()
        batch = _batch(model)
        flipped = model.predict(batch.flip(0)).flip(0)
        self._assert_close(flipped, model.predict(batch))

    def test_survives_pickle(self) -> None:
        model = self.make()
        copy = pickle.loads(pickle.dumps(model))  # noqa: S301 - made in the line above
        assert copy.spec == model.spec
        batch = _batch(model)
        self._assert_close(copy.predict(batch), model.predict(batch))

    def test_threads_may_predict_at_once(self) -> None:
        model = self.make()
        batches = [_batch(model, seed) for seed in range(4)]
        alone = [model.predict(batch) for batch in batches]
        with ThreadPoolExecutor(4) as pool:
            for together, expected in zip(pool.map(model.predict, batches), alone, strict=True):
                self._assert_close(together, expected)

    def _assert_close(self, found: Tensor, expected: Tensor) -> None:
        import torch

        torch.testing.assert_close(found, expected, rtol=self.tolerance, atol=self.tolerance)


def _batch(model: Model, seed: int = 0) -> Tensor:
    """Smooth random tiles of the smallest size that the net takes, 64 pixels at least."""
    import torch

    spec = model.spec
    side = spec.static_tile or spec.multiple_of * -(-64 // spec.multiple_of)
    dates = (spec.dates,) if spec.dates > 1 else ()
    shape = (spec.static_batch or 2, *dates, len(spec.channels), side, side)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


class SinkConformance:
    """What every Sink promises."""

    height, width = 700, 600
    """Shape of the raster; windows of 256 pixels are written, so the last ones are cut."""
    count = 1
    """Bands."""
    dtype = "uint8"
    """Of the stored numbers."""

    def make(self, directory: Path, geobox: GeoBox) -> Sink:
        """A sink for a raster on `geobox` with `count` bands of `dtype`; files go to `directory`, which exists."""
        raise NotImplementedError

    def raster(self, paths: list[Path]) -> Pixels:
        """(band, row, col) of what the files that `close` returned hold."""
        raise NotImplementedError

    def test_has_the_members_of_a_sink(self, tmp_path: Path) -> None:
        sink = self.make(tmp_path, self._geobox())
        assert isinstance(sink, Sink)
        self._fill(sink)
        sink.close()

    def test_windows_may_come_in_any_order_and_twice(self, tmp_path: Path) -> None:
        sink = self.make(tmp_path, self._geobox())
        self._fill(sink, again=5)
        np.testing.assert_array_equal(self.raster(sink.close()), self._expected())

    def test_files_appear_when_closed_and_not_before(self, tmp_path: Path) -> None:
        sink = self.make(tmp_path, self._geobox())
        self._fill(sink)
        before = {path.resolve() for path in tmp_path.iterdir() if path.is_file()}
        paths = sink.close()
        assert paths
        assert all(path.is_file() for path in paths)
        assert not before & {path.resolve() for path in paths}

    def test_files_do_not_depend_on_the_order(self, tmp_path: Path) -> None:
        contents = []
        for seed in (1, 2):
            directory = tmp_path / str(seed)
            directory.mkdir()
            sink = self.make(directory, self._geobox())
            self._fill(sink, seed=seed)
            contents.append(self.raster(sink.close()))
        np.testing.assert_array_equal(contents[0], contents[1])

    def _geobox(self) -> GeoBox:
        return geobox_of(self.height, self.width)

    def _expected(self) -> npt.NDArray[Any]:
        shape = (self.count, self.height, self.width)
        return np.random.default_rng(0).integers(0, 7, shape).astype(self.dtype)

    def _fill(self, sink: Sink, *, seed: int = 0, again: int = 0) -> None:
        """Writes every window once, the first `again` of them twice, in an order that `seed` decides."""
        windows = list(whole(self._geobox()).pieces(256, 256))
        order = np.random.default_rng(seed).permutation(len(windows)).tolist()
        values = self._expected()
        for index in order + order[:again]:
            sink.write(windows[index], values[:, *windows[index].slices])
