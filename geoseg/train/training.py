"""From a folder of chips to a model package: `train`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from geoseg.events import Warned
from geoseg.models.package import CARD
from geoseg.picture import Rgba
from geoseg.store import open_store
from geoseg.store.lock import locked
from geoseg.train.augment import Augmenter
from geoseg.train.board import Board
from geoseg.train.encoder import checkpoint_stages
from geoseg.train.feed import Batch, TrainFeed, judged_batches
from geoseg.train.fit import Loop
from geoseg.train.folder import TrainFolder
from geoseg.train.net import device_of, make_net
from geoseg.train.options import TrainOptions
from geoseg.train.package import write_trained
from geoseg.train.pictures import draw_samples, write_samples
from geoseg.train.setting import Setting
from geoseg.train.split import SPLITS

__all__ = ["EpochDone", "OnTrainEvent", "TrainBegan", "Trained", "train"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainBegan:
    """The folder is claimed; from now on the same call goes on."""

    epoch: int
    """Epochs that are done."""
    step: int
    """Steps of the next one that are done."""
    epochs: int
    """Epochs, at most."""
    parameters: int
    """Numbers that the net learns."""
    chips: Mapping[str, int]
    """By split."""
    device: str
    """Where the net is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochDone:
    """An epoch is done, and on disk."""

    row: Mapping[str, float]
    """As the history has it."""
    epochs: int
    """Epochs, at most."""
    is_best: bool
    """Whether its weights are the best so far."""


OnTrainEvent: TypeAlias = Callable[[TrainBegan | EpochDone | Warned], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What came out."""

    package: Path
    """The model package."""
    history: Path
    """Figures of every epoch."""
    epochs: int
    """That were done."""
    metrics: Mapping[str, Any]
    """Split -> figures of the net in the package, as its card has them."""


def train(
    options: TrainOptions, out: Path, *, overwrite: bool = False, on_event: OnTrainEvent | None = None
) -> Trained:
    """Trains a net on chips, and ends with a model package in ``out/package``.

    What an earlier call with the same options left in `out` is gone on with: on a CPU, with as many threads, the result
    is the same to the last bit as if it had never been interrupted.

    Args:
        options: What to do.
        out: Folder of all that is made; its parent exists.
        overwrite: Whether another training there goes first.
        on_event: Told of each epoch, and what a person should know.

    Raises:
        ConfigError: Options do not fit the chips or each other.
        ModelError: The net cannot be built, or its loss is no number any more.
        SourceError: Chips cannot be read.
        SinkError: The folder holds something else, is in use, or cannot be written.
    """
    device = device_of(options.fit.device)
    setting, folder, store = Setting.of(options), TrainFolder(path=out), open_store(out)
    net = make_net(setting.recipe, options.net, setting.view.spec, seed=options.fit.seed)
    with store.made(), locked(store), torch.random.fork_rng():
        folder.claim(options, overwrite=overwrite)
        tell = on_event or (lambda event: None)
        return _Training(setting.measured(folder), net, folder, device, tell).run()


class _Training:
    """One training, in a folder that is its own."""

    def __init__(
        self, setting: Setting, net: nn.Module, folder: TrainFolder, device: torch.device, tell: OnTrainEvent
    ) -> None:
        self._setting, self._net, self._folder, self._device, self._tell = setting, net, folder, device, tell
        self._shown = setting.chips.of("val")[: setting.options.pictures]

    def run(self) -> Trained:
        loop = self._loop()
        if not (self._folder.package / CARD).exists():
            self._announce(loop)
            self._fit(loop)
            self._finish(loop)
        card = json.loads((self._folder.package / CARD).read_text("utf-8"))
        return Trained(
            package=self._folder.package,
            history=self._folder.history,
            epochs=loop.progress.epoch,
            metrics=card["properties"]["geoseg:provenance"]["metrics"],
        )

    def _loop(self) -> Loop:
        setting, options, net = self._setting, self._setting.options, self._net
        if options.net.checkpoint_gradients and not checkpoint_stages(net):
            name = options.net.architecture
            self._tell(Warned(message=f"net.checkpoint_gradients does nothing: {name} has no encoder with stages"))
        feed = TrainFeed(
            chips=setting.chips,
            chosen=setting.chips.of("train"),
            view=setting.view,
            augmenter=Augmenter(options=options.augment, side=setting.side, statistics=setting.statistics),
            fit=options.fit,
            balanced=options.data.sampling == "balanced",
        )
        judged = (lambda: self._batches("val")) if setting.chips.of("val") else None
        loop = Loop(net, feed, setting.loss, options.fit, self._device, self._folder.checkpoints, judged)
        loop.resume()
        return loop

    def _batches(self, split: str) -> Iterator[Batch]:
        setting = self._setting
        size, stride = setting.options.fit.batch, setting.recipe.stride
        return judged_batches(setting.chips, setting.chips.of(split), setting.view, size, stride)

    def _announce(self, loop: Loop) -> None:
        chips = self._setting.chips
        began = TrainBegan(
            epoch=loop.progress.epoch,
            step=loop.progress.step,
            epochs=self._setting.options.fit.epochs,
            parameters=sum(one.numel() for one in loop.net.parameters()),
            chips={split: len(chips.of(split)) for split in SPLITS if chips.of(split)},
            device=str(self._device),
        )
        self._tell(began)
        if not chips.of("val"):
            self._tell(Warned(message="no chip is in val: the last epoch is kept, and nothing says how good it is"))

    def _fit(self, loop: Loop) -> None:
        progress, fit = loop.progress, self._setting.options.fit
        names = [each.name for each in self._setting.classes]
        board = Board(self._folder.events, wanted=self._setting.options.tensorboard, after=progress.epoch)
        self._folder.write_history(progress.history, names)
        try:
            while not progress.is_over(fit):
                loop.run_epoch()
                row = progress.history[-1]
                self._folder.write_history(progress.history, names)
                board.add(row, self._picture(loop))
                self._tell(EpochDone(row=row, epochs=fit.epochs, is_best=progress.best == progress.epoch - 1))
        finally:
            board.close()

    def _picture(self, loop: Loop) -> Rgba | None:
        """What the net says of a few chips of val, drawn, and on disk; None where none is to be shown."""
        if not self._shown:
            return None
        setting = self._setting
        batches = judged_batches(setting.chips, self._shown, setting.view, 1, setting.recipe.stride)
        predicted = [loop.predict(channels).argmax(1)[0].cpu().numpy().astype("uint8") for channels, _ in batches]
        samples = [setting.chips.read(chip) for chip in self._shown]
        sheet = draw_samples(samples, predicted, setting.chips.bands, setting.classes)
        write_samples(self._folder.pictures / f"epoch-{loop.progress.epoch:04d}.webp", sheet)
        return sheet

    def _finish(self, loop: Loop) -> None:
        net, chips = loop.best(), self._setting.chips
        found = {split: loop.judge(self._batches(split)) for split in ("val", "test") if chips.of(split)}
        write_trained(net, self._setting, found, loop.progress, self._folder.package)
