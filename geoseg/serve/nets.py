"""Models that stay loaded: the few that were asked for last, each with its queue and its threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geoseg.errors import ModelError
from geoseg.memory import give_back
from geoseg.protocols import Model
from geoseg.serve.batching import Batcher, Turn
from geoseg.settings import Settings
from geoseg.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ModelInTurn", "Net", "Nets", "net_of"]

_MOST = 4
"""Models that are held."""
_WINDOWS = (4, 32)
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
        self.threads.shutdown(cancel_futures=True)
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
    from geoseg.models.torch_model import threads_of_this_thread

    full = FullBatches(model, settings.batch)

    def run(tiles: Sequence[Tensor]) -> Sequence[Tensor]:
        with threads_of_this_thread(settings.threads):  # idle ones would spin beside the net
            return list(full.predict(list(tiles)))

    least, most = _WINDOWS
    at_once = min(most, max(least, 2 * settings.lanes * settings.batch))  # one batch runs, the next is got ready
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
        self._held: OrderedDict[str, Future[Net]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> Future[Net]:
        """The model of that name, when it is loaded and timed; its error, a `GeosegError`, if it cannot be used."""
        with self._lock:
            if name not in self._held:
                loading: Future[Net] = Future()
                self._held[name] = loading
                loading.set_running_or_notify_cancel()  # one who goes away leaves it to the others
                # A thread that need not be waited for: timing a model may outlast the service.
                threading.Thread(target=self._fulfil, args=(name, loading), name="geoseg-loading", daemon=True).start()
            self._held.move_to_end(name)
            return self._held[name]

    def close(self) -> None:
        """Puts all models away."""
        with self._lock:
            loaded = [each for each in self._held.values() if each.done()]
            self._held.clear()
        for each in loaded:
            _put_away(each.result())

    def _fulfil(self, name: str, loading: Future[Net]) -> None:
        try:
            made = self._load(name)
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it, and the next tries again
            with self._lock:
                self._held.pop(name, None)
            loading.set_exception(error)
            return
        with self._lock:
            if self._held.get(name) is loading:
                loading.set_result(made)
            loaded = [each for each, future in self._held.items() if future.done()]
            gone = [self._held.pop(each).result() for each in loaded[: max(0, len(loaded) - self._most)]]
        if not loading.done():  # the service ended meanwhile
            loading.set_exception(ModelError(f"model {name!r}: the service is about to end"))
            gone = [made]
        for net in gone:
            _put_away(net)

    def _load(self, name: str) -> Net:
        from geoseg.models import load_model, read_spec
        from geoseg.plan import tiling_for
        from geoseg.tuning import choose_settings

        give_back()  # once: to trim the heap for every window took half as long again as the window (measured)
        place = self._places[name]
        tile, _ = tiling_for(read_spec(place), None, None)
        settings = choose_settings(place, device=self._device, tile=tile)
        return net_of(load_model(place, settings), settings)


def _put_away(net: Net) -> None:
    from geoseg.models.held import let_go

    net.close()
    let_go(net.spec.digest)
