"""Models that stay loaded: the few that were asked for last, each with its queue and its threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geoseg.protocols import Model
from geoseg.serve.batching import Batcher, Turn
from geoseg.settings import Settings
from geoseg.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ModelInTurn", "Net", "Nets", "net_of"]

_MOST = 4
"""Models that are held."""
_WINDOWS = (4, 16)
"""Windows of one model that are at work at once, at least and at most: each holds some rows of tiles."""
_TILES = 512
"""Tiles that may be waited for, of all windows of one model."""


@dataclass(frozen=True, slots=True, eq=False)
class Net:
    """A model that is ready, and who runs it."""

    spec: ModelSpec
    """Its card."""
    settings: Settings
    """How it runs: those of a run on this machine."""
    batcher: Batcher[Tensor, Tensor]
    """Takes tiles (channel, row, col), gives scores (class, row, col)."""
    threads: ThreadPoolExecutor
    """What works on windows, from the read to the file."""

    def close(self) -> None:
        """Ends its threads, when the windows that are at work are done."""
        self.threads.shutdown()
        self.batcher.close()


class ModelInTurn:
    """A `geoseg.protocols.Model` whose tiles go through a queue that others use, too."""

    def __init__(self, spec: ModelSpec, turn: Turn[Tensor, Tensor]) -> None:
        """Takes the card and the request's turn."""
        self.spec = spec
        self._turn = turn

    def predict(self, batch: Tensor) -> Tensor:
        """Scores (1, class, row, col) of a batch of one tile; the queue makes the batches.

        Raises:
            CancelledError: Nobody waits for the window any more.
        """
        (tile,) = batch
        return self._turn.submit(tile).result()[None]


def net_of(model: Model, settings: Settings) -> Net:
    """A model in front of which requests queue up."""
    from geoseg.lanes import FullBatches

    full = FullBatches(model, settings.batch)

    def run(tiles: Sequence[Tensor]) -> Sequence[Tensor]:
        return list(full.predict(list(tiles)))

    least, most = _WINDOWS
    at_once = min(most, max(least, settings.lanes * settings.batch))
    return Net(
        model.spec,
        settings,
        Batcher(run, batch=settings.batch, lanes=settings.lanes, capacity=_TILES),
        ThreadPoolExecutor(at_once, "geoseg-window"),
    )


class Nets:
    """The models of a service, loaded when they are first asked for; the one that was not for longest makes room."""

    def __init__(self, places: Mapping[str, str], device: str, most: int = _MOST) -> None:
        """Takes where the models are by name, and where nets run."""
        self._places, self._device, self._most = places, device, most
        self._held: OrderedDict[str, Net] = OrderedDict()
        self._lock = threading.Lock()
        self._loading = {name: threading.Lock() for name in places}

    def get(self, name: str) -> Net:
        """The model of that name; the first to ask waits until it is timed and loaded.

        Raises:
            ModelError: The package is damaged, or does not run here.
            MissingExtraError: Its backend is not installed.
        """
        with self._loading[name]:
            with self._lock:
                if name in self._held:
                    self._held.move_to_end(name)
                    return self._held[name]
            made = self._load(name)
            with self._lock:
                self._held[name] = made
                gone = [self._held.popitem(last=False)[1] for _ in range(len(self._held) - self._most)]
        for net in gone:
            _put_away(net)
        return made

    def close(self) -> None:
        """Puts all models away."""
        with self._lock:
            nets = list(self._held.values())
            self._held.clear()
        for net in nets:
            _put_away(net)

    def _load(self, name: str) -> Net:
        from geoseg.models import load_model, read_spec
        from geoseg.plan import tiling_for
        from geoseg.tuning import choose_settings

        place = self._places[name]
        tile, _ = tiling_for(read_spec(place), None, None)
        settings = choose_settings(place, device=self._device, tile=tile)
        return net_of(load_model(place, settings), settings)


def _put_away(net: Net) -> None:
    from geoseg.models.held import let_go

    net.close()
    let_go(net.spec.digest)
