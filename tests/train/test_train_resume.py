"""Interruptions leave no trace in what a training makes: not Ctrl-C, not SIGKILL at any moment."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from geoseg.train.fit import Loop
from geoseg.train.options import TrainOptions
from geoseg.train.training import train
from tests.train.fields import make_chips, options_for

CHECKOUT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chips(tmp_path_factory.mktemp("single") / "chips")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def traces(out: Path) -> dict[str, bytes]:
    """All that must not depend on interruptions."""
    files = [
        out / "history.csv",
        out / "data.json",
        out / "package" / "model.safetensors",
        *(out / "pictures").iterdir(),
    ]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


@pytest.mark.parametrize("fit", [{}, {"average": 0.9, "accumulate": 2, "checkpoint_steps": 1, "optimizer": "sgd"}])
def test_a_training_that_stops_anywhere_ends_as_if_it_had_not(
    chips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fit: dict[str, Any]
) -> None:
    wanted = options_for(chips, epochs=2, steps=3, **fit)
    train(wanted, tmp_path / "whole")
    step = Loop._step
    for stops in (1, 3):
        calls = [0]

        def failing(self: Loop, batches: Any, calls: list[int] = calls, stops: int = stops) -> float:
            calls[0] += 1
            if calls[0] > stops:
                raise KeyboardInterrupt
            return step(self, batches)

        monkeypatch.setattr(Loop, "_step", failing)
        with pytest.raises(KeyboardInterrupt):
            train(wanted, tmp_path / "parts")
        assert not (tmp_path / "parts" / "package").exists()
    monkeypatch.setattr(Loop, "_step", step)
    train(wanted, tmp_path / "parts")
    assert traces(tmp_path / "parts") == traces(tmp_path / "whole")


def killed_training(chips: Path) -> TrainOptions:
    return replace(options_for(chips, epochs=4, steps=5, checkpoint_steps=2), pictures=0)


KILLED = (
    "import sys, torch\nfrom pathlib import Path\nfrom tests.train.test_train_resume import killed_training\n"
    "from geoseg.train.training import train\ntorch.set_num_threads(1)\n"
    "train(killed_training(Path(sys.argv[1])), Path(sys.argv[2]))"
)


def test_a_training_that_was_killed_has_the_same_losses(chips: Path, tmp_path: Path) -> None:
    """SIGKILL at a moment that nobody chose, after the first checkpoint and before the end."""
    train(killed_training(chips), tmp_path / "whole")
    last = tmp_path / "parts" / "checkpoints" / "last.pt"
    began = subprocess.Popen([sys.executable, "-c", KILLED, str(chips), str(tmp_path / "parts")], cwd=CHECKOUT)
    deadline = time.monotonic() + 60
    while not last.exists() and began.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(random.uniform(0, 0.3))
    began.send_signal(signal.SIGKILL)
    assert began.wait() == -signal.SIGKILL
    assert last.exists()
    train(killed_training(chips), tmp_path / "parts")
    assert traces(tmp_path / "parts") == traces(tmp_path / "whole")


def test_what_is_done_is_not_done_again(chips: Path, tmp_path: Path) -> None:
    first = train(options_for(chips), tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "package").iterdir()}
    events: list[object] = []
    assert train(options_for(chips), tmp_path / "out", on_event=events.append) == first
    assert not events
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "package").iterdir()}


def test_checkpointed_gradients_change_no_bit(chips: Path, tmp_path: Path) -> None:
    wanted = options_for(chips, steps=3)
    twice = replace(wanted, net=replace(wanted.net, checkpoint_gradients=True))
    for name, options in (("once", wanted), ("twice", twice)):
        train(options, tmp_path / name)
    assert traces(tmp_path / "once") == traces(tmp_path / "twice")
