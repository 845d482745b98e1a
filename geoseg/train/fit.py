"""The loop: a plain one, in which nothing is hidden that a training would need to go on where it was killed.

What a step does depends on the weights, on the optimizer's sums, and on the step's own place in the training: its chips
and every draw follow from (seed, epoch, step). A checkpoint holds the first two and says which place comes next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from geoseg.errors import ModelError, SinkError
from geoseg.evaluation.confusion import Matrix, accuracy, count_confusion, iou, mean_defined
from geoseg.store.disk import durable
from geoseg.train import IGNORE
from geoseg.train.draws import seed_at
from geoseg.train.feed import Batch, TrainFeed
from geoseg.train.loss_names import Loss
from geoseg.train.options import FitOptions

__all__ = ["Judgement", "Loop", "Progress", "rate_at"]

_CHANCE = 2
"""What a place's chance is for: that of the net itself, like dropout."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judgement:
    """How good a net is on the chips of a split."""

    loss: float
    """Mean over batches."""
    matrix: Matrix
    """(truth, predicted) pixels."""

    @property
    def miou(self) -> float:
        """Mean over the classes that truth or prediction has; NaN where nothing is labelled."""
        return float(mean_defined(iou(self.matrix)))

    @property
    def accuracy(self) -> float:
        """Share of pixels that are right."""
        return float(accuracy(self.matrix))

    @property
    def ious(self) -> list[float]:
        """Per class; NaN for one that neither has."""
        return [float(value) for value in iou(self.matrix)]


@dataclass(slots=True, kw_only=True)
class Progress:
    """Where a training stands."""

    epoch: int = 0
    """The one that is at work, or comes next; counted from 0."""
    step: int = 0
    """The step of it that comes next."""
    losses: list[float] = field(default_factory=list)
    """Of its steps so far."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Figures of each finished epoch."""
    best: int = -1
    """The epoch whose weights are the best so far."""

    def is_over(self, options: FitOptions) -> bool:
        """Whether all epochs are done, or `patience` of them brought nothing."""
        patient = options.patience is None or self.epoch - 1 - self.best < options.patience
        return self.epoch >= options.epochs or (self.best >= 0 and not patient)


def rate_at(options: FitOptions, step: int, steps: int) -> float:
    """The learning rate of step `step` of `steps` in all.

    >>> options = FitOptions(rate=1.0, warmup=0.5, schedule="linear")
    >>> [rate_at(options, step, 8) for step in range(8)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    rising = round(options.warmup * steps)
    if step < rising:
        return options.rate * (step + 1) / rising
    part = (step - rising) / max(1, steps - rising)
    falls = {"cosine": (1 + math.cos(math.pi * part)) / 2, "linear": 1 - part, "constant": 1.0}
    return options.rate * falls[options.schedule]


class Loop:
    """A net that is trained."""

    def __init__(
        self,
        net: nn.Module,
        feed: TrainFeed,
        loss: Loss,
        options: FitOptions,
        device: torch.device,
        folder: Path,
        judged: Callable[[], Iterator[Batch]] | None,
    ) -> None:
        """Takes what is trained on what, where checkpoints go, and the batches that epochs are judged by, if any."""
        self._net, self._feed, self._loss, self._options = net.to(device), feed, loss, options
        self._device, self._folder, self._judged = device, folder, judged
        self._optimizer = _optimizer(net, options)
        self._average: AveragedModel | None = None
        if options.average is not None:
            mean = get_ema_multi_avg_fn(options.average)  # type: ignore[no-untyped-call]
            self._average = AveragedModel(net, multi_avg_fn=mean, use_buffers=True)
        self.progress = Progress()
        """Where it stands."""

    @property
    def net(self) -> nn.Module:
        """What is judged and kept: the mean of the weights where one is asked for."""
        return self._average.module if self._average is not None else self._net

    # --- checkpoints ---

    @property
    def _last(self) -> Path:
        return self._folder / "last.pt"

    def resume(self) -> bool:
        """Goes to where the last checkpoint stands; whether there was one.

        Raises:
            SinkError: It cannot be read.
        """
        if not self._last.exists():
            return False
        state = _loaded(self._last)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.progress = Progress(**state["progress"])
        return True

    def keep(self) -> None:
        """Puts a checkpoint on disk, whole or not at all.

        Raises:
            SinkError: It cannot be written.
        """
        state = {name: part.state_dict() for name, part in self._parts().items()}
        with durable(self._last) as draft:
            torch.save({**state, "progress": asdict(self.progress)}, draft)

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"net": self._net, "optimizer": self._optimizer}
        return parts if self._average is None else parts | {"average": self._average}

    def best(self) -> nn.Module:
        """The net with the weights of the best epoch, or with the last where nothing is judged.

        Raises:
            SinkError: They cannot be read.
        """
        if self.progress.best >= 0:
            self.net.load_state_dict(_loaded(self._folder / "best.pt"))
        return self.net

    # --- an epoch ---

    def run_epoch(self) -> None:
        """What is left of the epoch that is at work: its steps, judgement, and a checkpoint.

        Raises:
            ModelError: The loss is no number any more, or the net fails on what it is shown.
            SourceError: A chip cannot be read.
            SinkError: A checkpoint cannot be written.
        """
        progress, every = self.progress, self._options.checkpoint_steps
        for batches in self._feed.epoch(progress.epoch, progress.step):
            progress.losses.append(self._step(batches))
            progress.step += 1
            if every is not None and progress.step % every == 0:
                self.keep()
        total = progress.epoch * self._feed.steps + progress.step
        row = {
            "epoch": progress.epoch + 1,
            "steps": total,
            "rate": self._rate(total - 1),
            "loss": math.fsum(progress.losses) / len(progress.losses),
        }
        if self._judged is not None:
            row |= self._judge(self._judged())
        progress.history.append(row)
        progress.epoch, progress.step, progress.losses = progress.epoch + 1, 0, []
        self.keep()

    def _judge(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Figures on the chips of val; the best weights are put aside, before the checkpoint says that they are."""
        found, progress = self.judge(batches), self.progress
        row = {"val_loss": found.loss, "val_miou": found.miou, "val_accuracy": found.accuracy}
        row |= {f"val_iou_{number}": value for number, value in enumerate(found.ious)}
        if progress.best < 0 or self._worth(row) > self._worth(progress.history[progress.best]):
            with durable(self._folder / "best.pt") as draft:
                torch.save(self.net.state_dict(), draft)
            progress.best = progress.epoch
        return row

    def _worth(self, row: dict[str, float]) -> float:
        value = row["val_miou"] if self._options.monitor == "miou" else -row["val_loss"]
        return -math.inf if math.isnan(value) else value

    def _step(self, batches: Sequence[Batch]) -> float:
        """One step of the optimizer; its loss."""
        place = self.progress.epoch, self.progress.step
        torch.manual_seed(seed_at(self._options.seed, *place, _CHANCE))
        rate = self._rate(place[0] * self._feed.steps + place[1])
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._net.train()
        self._optimizer.zero_grad()
        losses = [self._backward(channels, labels, len(batches)) for channels, labels in batches]
        value = math.fsum(losses) / len(losses)
        if not math.isfinite(value):
            raise ModelError(f"the loss became {value} in epoch {place[0] + 1}, step {place[1] + 1}: lower fit.rate")
        if self._options.clip is not None:
            nn.utils.clip_grad_norm_(self._net.parameters(), self._options.clip)
        self._optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self._net)
        return value

    def _backward(self, channels: Tensor, labels: Tensor, parts: int) -> float:
        loss: Tensor = self._loss(self._scores(self._net, channels), labels.to(self._device))
        (loss / parts).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _rate(self, step: int) -> float:
        return rate_at(self._options, step, self._options.epochs * self._feed.steps)

    def _scores(self, net: nn.Module, channels: Tensor) -> Tensor:
        """Scores float32 (n, class, row, col)."""
        seen = channels.to(self._device)
        try:
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._options.precision == "bf16"):
                scores: Tensor = net(seen)
        except (RuntimeError, ValueError, AssertionError) as error:
            text = " ".join(str(error).split())[:300]
            raise ModelError(f"the net fails on an input of {tuple(seen.shape)}: {text}") from error
        return scores.float()

    # --- judgement ---

    def predict(self, channels: Tensor) -> Tensor:
        """Scores float32 (n, class, row, col) of the net that is kept, in evaluation mode."""
        self.net.eval()
        with torch.no_grad():
            return self._scores(self.net, channels)

    def judge(self, batches: Iterator[Batch]) -> Judgement:
        """How good the net that is kept is on some batches."""
        losses, matrix = [], None
        for channels, labels in batches:
            scores = self.predict(channels)
            losses.append(float(self._loss(scores, labels.to(self._device))))
            known = labels != IGNORE
            predicted = scores.argmax(1).cpu()[known].numpy()
            counted = count_confusion(labels[known].numpy(), predicted, scores.shape[1])
            matrix = counted if matrix is None else matrix + counted
        empty = np.zeros((0, 0), np.int64)
        mean = math.fsum(losses) / len(losses) if losses else math.nan
        return Judgement(loss=mean, matrix=empty if matrix is None else matrix)


def _optimizer(net: nn.Module, options: FitOptions) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) or SGD; biases and norms do not decay."""
    parameters = [one for one in net.parameters() if one.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [one for one in parameters if one.ndim > 1], "weight_decay": options.decay},
        {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
    ]
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=options.rate)


def _loaded(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch raises for a file that it cannot read
        raise SinkError(f"{path}: the checkpoint cannot be read; start anew with --overwrite") from error
    return state
