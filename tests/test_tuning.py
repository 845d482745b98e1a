"""Settings are chosen once, kept, and never change what a net computes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from geoseg import tuning
from geoseg.errors import ConfigError, ModelError
from geoseg.events import Event, Warned
from geoseg.models import load_model
from geoseg.models import probe as probing
from geoseg.models.convert import AGREEMENT, difference
from geoseg.models.loading import sample_of
from geoseg.models.package import open_package
from geoseg.models.probe import Bench, Found
from geoseg.settings import Settings
from geoseg.tuning import choose_settings, probe_cost, usable_cores
from tests.models.cards import saved_mixer


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_mixer(tmp_path_factory.mktemp("tuning") / "mixer", kind="pt2")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEOSEG_CACHE", str(tmp_path / "own"))
    return tmp_path / "own"


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Makes a machine of known speed: seconds per tile by backend, times two in channels_last, by lanes and batch."""
    speeds = {"torch": 0.4, "onnxruntime": 0.3, "openvino": 0.2}

    def timed(self: Bench) -> float:
        settings = self.settings
        speed = speeds[settings.backend] * (0.9 if settings.channels_last else 1.0)
        speed *= 1.2 if settings.threads > 1 else 1.0
        speed *= 1.5 if settings.batch > 1 else 1.0
        self.best = min(self.best, speed)
        return speed

    monkeypatch.setattr(Bench, "time", timed)
    monkeypatch.setattr(tuning, "probe_apart", probing.probe)
    monkeypatch.setattr(tuning, "usable_cores", lambda: 2)
    return speeds


def test_the_fastest_that_agrees_is_chosen(package: Path, own_cache: Path, seconds: dict[str, float]) -> None:
    pytest.importorskip("openvino", reason="backend openvino is an optional extra: pip install 'geoseg[openvino]'")
    chosen = choose_settings(package)
    assert chosen == Settings(backend="openvino", batch=1, lanes=2, threads=1)
    seconds["onnxruntime"] = 0.1
    assert choose_settings(package) == chosen, "an answer that was kept is kept"
    assert choose_settings(package, cache=False).backend == "onnxruntime"
    assert len(list((own_cache / "settings").glob("*.json"))) == 1


@pytest.mark.usefixtures("seconds")
def test_a_runtime_that_disagrees_is_not_chosen_however_fast(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = Bench.scores

    def scores(self: Bench) -> torch.Tensor:
        return truth(self) + (0.01 if self.settings.backend != "torch" else 0.0)

    monkeypatch.setattr(Bench, "scores", scores)
    chosen = choose_settings(package)
    assert (chosen.backend, chosen.channels_last) == ("torch", True)


def test_a_difference_within_noise_keeps_the_plainer_setting(package: Path, seconds: dict[str, float]) -> None:
    seconds.update(onnxruntime=0.36, openvino=0.36)
    assert choose_settings(package).backend == "torch"


@pytest.mark.usefixtures("seconds")
def test_what_is_forced_is_kept(package: Path) -> None:
    assert choose_settings(package, backend="torch").backend == "torch"
    assert choose_settings(package, backend="onnxruntime").backend == "onnxruntime"
    assert choose_settings(package, batch=3).batch == 3
    assert choose_settings(package, workers=2) == Settings(backend="openvino", lanes=1, threads=1)
    assert choose_settings(package, workers=9).lanes == 1


def test_the_answer_is_asked_for_again_when_anything_changes(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def probe(_: object, wanted: object) -> Found:
        asked.append(wanted)
        return Found(settings=Settings(batch=len(asked)))

    monkeypatch.setattr(tuning, "probe_apart", probe)
    for options in ({}, {"tile": 200}, {"batch": 2}, {"workers": 2}, {"backend": "torch"}, {"precision": "bf16"}):
        before = len(asked)
        first = choose_settings(package, **options)
        assert choose_settings(package, **options) == first
        assert len(asked) == before + (1 if options != {"workers": 2} or usable_cores() > 1 else 0)
    before = len(asked)
    for tile in (129, 150, 256):
        choose_settings(package, tile=tile)
    assert len(asked) == before, "129 to 256 share an answer with 200"
    monkeypatch.setattr(tuning, "_versions", lambda: {"torch": "99"})
    assert choose_settings(package).batch == len(asked) == before + 1


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[1]", b'{"settings": {"lanes": 1}}', b'{"settings": {"x": 1}, "warning": "", "table": []}'],
)
def test_a_cache_that_cannot_be_read_is_made_again(
    package: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(tuning, "probe_apart", lambda *_: Found(settings=Settings(lanes=7)))
    choose_settings(package)
    (kept,) = (own_cache / "settings").glob("*.json")
    kept.write_bytes(content)
    assert choose_settings(package).lanes == 7
    assert json.loads(kept.read_text("utf-8"))["settings"]["lanes"] == 7


def test_a_cache_that_cannot_be_written_is_no_error(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GEOSEG_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(tuning, "probe_apart", lambda *_: Found(settings=Settings(lanes=5)))
    assert choose_settings(package).lanes == 5


def test_a_real_probe_gives_settings_that_run_and_agree(package: Path) -> None:
    chosen = choose_settings(package, tile=32)
    assert chosen.precision == "fp32"
    assert chosen.lanes * chosen.threads <= usable_cores()
    batch = sample_of(open_package(package), chosen.batch, 32)
    plain = load_model(package).predict(batch)
    assert difference(load_model(package, chosen).predict(batch), plain) < AGREEMENT


def test_lower_precision_is_taken_on_request_only_and_told(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "probe_apart", probing.probe)
    events: list[Event] = []
    for _ in range(2):  # the second answer comes from the cache, with its warning
        chosen = choose_settings(package, tile=32, backend="torch", precision="bf16", on_event=events.append)
        assert chosen.precision == "bf16"
    assert len(events) == 2
    assert isinstance(events[0], Warned)
    assert "bf16 moves this model's scores by up to" in events[0].message
    choose_settings(package, tile=32, backend="torch", on_event=events.append)
    assert len(events) == 2


def test_a_foreign_graph_runs_on_what_runs_it(shared: Path, seconds: dict[str, float]) -> None:
    path = shared / "models" / "ndvi-threshold"
    seconds.update(openvino=9.0)
    assert choose_settings(path).backend == "onnxruntime"
    with pytest.raises(ConfigError, match="ONNX graph"):
        choose_settings(path, backend="torch")
    with pytest.raises(ConfigError, match="cpu only"):
        choose_settings(path, device="cuda")


@pytest.mark.parametrize(
    "options", [{"device": "tpu"}, {"device": "cuda:99"}, {"device": "cuda:x"}, {"batch": 0}, {"batch": -1}]
)
def test_what_is_not_there_is_refused(package: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        choose_settings(package, **options)


def test_a_net_that_does_not_run_is_an_error_not_a_default(package: Path) -> None:
    with pytest.raises(ModelError):
        choose_settings(package, backend="onnxruntime", precision="bf16")


def test_the_probe_is_held_to_its_budget(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing._Clock, "spent", lambda _: 1e9)
    monkeypatch.setattr(tuning, "probe_apart", probing.probe)
    chosen = choose_settings(package, tile=32)
    assert (chosen.backend, chosen.lanes, chosen.threads) == ("torch", usable_cores(), 1)


def test_a_timing_that_dies_is_an_error_of_ours(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ModelError, match="ended with code 1: without a word"):
        choose_settings(package, cache=False)


def test_timing_leaves_no_runtime_behind(package: Path) -> None:
    code = (
        "import sys; from geoseg.tuning import choose_settings\n"
        f"print(choose_settings({str(package)!r}, tile=32, device='cpu').lanes, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(usable_cores()), "False"]


def test_the_cost_of_a_tile(package: Path) -> None:
    cost = probe_cost(package, Settings(), tile=64)
    assert 0 < cost.seconds_per_tile < 60
    assert cost.net_bytes >= (package / "model.pt2").stat().st_size
