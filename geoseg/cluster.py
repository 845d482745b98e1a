"""How a run reaches its workers: this process, processes of this machine, or a Dask cluster that is somewhere.

A cluster is reached when it is first needed, so that bad input is refused before anything is started. What workers
must be (the same geoseg, a GPU where one is asked for, able to read the inputs and to write the run directory) is
checked before any work begins: what differs is named, nothing waits in silence.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from uuid import uuid4

from geoseg.cluster_file import address_in, first_line, read_cluster_file
from geoseg.errors import ClusterError, ConfigError, GeosegError, MissingExtraError
from geoseg.events import ClusterReady, OnEvent, Warned
from geoseg.protocols import Source
from geoseg.runner import DaskRunner, InlineRunner, Runner
from geoseg.settings import ClusterOptions
from geoseg.source.credentials import Credentials
from geoseg.store import Store

if TYPE_CHECKING:
    from geoseg.workers import Worker

__all__ = ["Cluster", "ClusterOptions"]

T = TypeVar("T")

ADDRESS = "DASK_SCHEDULER_ADDRESS"
"""Variable that names a scheduler, as everywhere in Dask."""
CONNECT_SECONDS = 10.0
"""What a scheduler that runs has to answer."""
STATIC_SECONDS = 15.0
"""What a cluster that starts no workers by itself has to show some: together they stay below 30 s."""
_POLL_SECONDS = 0.2
_START_SECONDS = "300s"
"""How long processes of a busy machine may take to call back."""


class Cluster:
    """The workers of one run, or of several scenes that share them."""

    def __init__(self, options: ClusterOptions | None = None, *, starts: bool = True) -> None:
        """Reads what describes the cluster; starts and connects nothing.

        Args:
            options: Which cluster; None: as the environment says, else this process.
            starts: Whether a described cluster (`ClusterOptions.cluster`) may be started; a plan needs none.

        Raises:
            ConfigError: Two places for the work are named, or the description of a cluster is wrong.
            MissingExtraError: A performance report is asked for, and bokeh is not installed.
        """
        self._options = _with_environment(options or ClusterOptions())
        self._file = read_cluster_file(self._options.cluster) if self._options.cluster else None
        if self._options.report is not None:
            _demand_report(self._options.report)
        self._starts = starts
        self._stack = ExitStack()
        self._client: Any = None
        self._workers: list[Worker] = []
        self._placement: dict[str, Any] = {}
        self._grows: Callable[[], None] | None = None
        self._handed: Credentials | None = None
        self._failure: GeosegError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client = None
        self._stack.close()

    @property
    def elsewhere(self) -> bool:
        """Whether the work is done by a cluster that was named, in place of processes of this run's own."""
        return bool(self._options.named.keys() - {"--workers"}) and (self._starts or self._file is None)

    @property
    def size(self) -> int:
        """Chunks that are worked on at once, once all workers have come."""
        if self._file is not None and self._file.expected:
            return self._file.expected
        return sum(worker.threads for worker in self._workers) or self._options.workers or 1

    @property
    def memory(self) -> int | None:
        """Bytes that the smallest worker elsewhere may use for one chunk; None: the work is done on this machine."""
        limits = [worker.memory_limit // worker.threads for worker in self._workers if worker.memory_limit]
        return min(limits, default=sys.maxsize) if self._workers else None

    @property
    def neighbours(self) -> int:
        """Chunks that are worked on at once on the machine where `call` calls."""
        if not self._workers:
            return self._options.workers or 1
        return sum(worker.threads for worker in self._workers if worker.host == self._workers[0].host)

    def ready(self, on_event: OnEvent, device: str = "auto") -> None:
        """Connects to a cluster elsewhere and looks at its workers, the first time; does nothing for processes here.

        Args:
            on_event: Is told `ClusterReady`, and what is odd about workers.
            device: What the net is to run on: ``cuda`` needs workers with a GPU, ``auto`` prefers them.

        Raises:
            ClusterError: The scheduler does not answer, there are no such workers, or they do not fit.
            ConfigError: The cluster cannot be started as described.
            MissingExtraError: The package of its class is not installed.
        """
        if not self.elsewhere or self._client is not None:
            return
        if self._failure is not None:  # the next scene need not wait for it again
            raise self._failure
        try:
            self._client = self._stack.enter_context(self._dialled())
            self._workers = self._eligible(self._awaited(device), on_event, device)
        except GeosegError as error:
            self._failure, self._client = error, None
            self._stack.close()
            raise
        self._announce(on_event, len(self._workers))

    def inspect(self) -> tuple[Any, list[Worker]]:
        """A client of the cluster, and every worker as it is, whether or not a run would take it.

        Raises:
            ClusterError: The scheduler does not answer, or has no worker.
        """
        self._client = self._stack.enter_context(self._dialled())
        return self._client, self._awaited("auto")

    def runner(self, on_event: OnEvent, device: str = "cpu") -> Runner:
        """A runner for one scene; all scenes share the workers.

        Raises:
            ClusterError: As `ready`, or this machine's processes do not start.
        """
        self.ready(on_event, device)
        options = self._options
        if self._client is None and (options.workers or 1) == 1 and options.report is None:
            return InlineRunner(on_event)
        if self._client is None:
            self._client = self._stack.enter_context(_own_processes(options.workers or 1, dashboard=options.dashboard))
            self._announce(on_event, self.size)
        self.hand_over(on_event)
        if self._grows is not None:
            self._grows()
            self._grows = None
        return DaskRunner(
            self._client,
            on_event,
            worker_timeout=options.worker_timeout,
            expected=self.size,
            placement=self._placement if device.startswith("cuda") else None,
        )

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """What `function` gives: on a worker where the work is done elsewhere, else in this process.

        Raises:
            ClusterError: No worker gives an answer.
        """
        if not self._workers:
            return function(*args, **kwargs)
        future = self._client.submit(
            partial(function, *args, **kwargs),
            key=f"geoseg-call-{uuid4().hex}",
            pure=False,
            **self._placement,
        )
        try:
            answer: T = future.result(timeout=self._options.worker_timeout)
        except TimeoutError as error:
            raise ClusterError(
                f"{self._client.scheduler.address}: no worker answers within {self._options.worker_timeout:.0f} s"
            ) from error
        return answer

    def demand_reach(self, source: Source, store: Store, on_event: OnEvent) -> None:
        """Refuses workers that cannot read what a scene is read from, or cannot write where its run lives.

        Raises:
            ClusterError: Names the workers, and what they cannot see.
        """
        if not self._workers:
            return
        from geoseg.workers import blind_workers, several, strangers

        self.hand_over(on_event)
        addresses = self._placement.get("workers") or list(self._client.scheduler_info(n_workers=-1)["workers"])
        if blind := blind_workers(self._client, addresses, source.identity):
            raise ClusterError(
                f"{several(blind)} cannot read the input ({next(iter(blind.values()))}): put it where every worker "
                "finds it under the same name, or give its URL"
            )
        if strange := strangers(self._client, addresses, store):
            raise ClusterError(
                f"{several(strange)} cannot see {store} ({next(iter(strange.values()))}): "
                "use a shared file system or an s3:// --out"
            )

    @contextmanager
    def _dialled(self) -> Iterator[Any]:
        """A client of the cluster that was named."""
        with ExitStack() as stack:
            if self._file is not None:
                place = self._file.start()
                stack.callback(place.close)
                if self._file.adapt is not None:
                    # Only once there are chunks to work on: it would end workers that wait for their first.
                    least, most = self._file.adapt
                    self._grows = partial(place.adapt, minimum=least, maximum=most)
            else:
                place = self._options.scheduler or address_in(self._options.scheduler_file or Path())
            try:
                client = stack.enter_context(_connected(place))
            except (OSError, TypeError, ValueError) as error:
                named = self._file.path if self._file else place
                raise ClusterError(
                    f"{named}: no Dask scheduler answers within {CONNECT_SECONDS:.0f} s ({first_line(error)})"
                ) from error
            yield client

    def _awaited(self, device: str) -> list[Worker]:
        """The workers, as soon as there is one that will do."""
        from geoseg.workers import ask_workers

        seconds = STATIC_SECONDS if self._file is None else self._options.worker_timeout
        end, known, workers = time.monotonic() + seconds, set[str](), list["Worker"]()
        while not any(worker.gpus or not device.startswith("cuda") for worker in workers):
            if time.monotonic() > end:
                raise ClusterError(self._nobody(workers, seconds))
            now = set(self._client.scheduler_info(n_workers=-1)["workers"])
            if now == known:
                time.sleep(_POLL_SECONDS)
            else:
                known, workers = now, ask_workers(self._client, gpus=device != "cpu")
        return workers

    def _nobody(self, workers: list[Worker], seconds: float) -> str:
        place = self._file.path if self._file else self._client.scheduler.address
        what = f"none of its {len(workers)} workers has a GPU that torch can use" if workers else "it has no worker"
        if self._file is not None:
            return f"{place}: {what} after {seconds:.0f} s; look at the cluster's queue, or raise --worker-timeout"
        return f"{place}: {what}; start some with geoseg worker --scheduler {place}"

    def _eligible(self, workers: list[Worker], on_event: OnEvent, device: str) -> list[Worker]:
        """Those that can take part; whatever must not differ does not."""
        from geoseg.workers import differences, several, versions_here

        if troubled := [worker for worker in workers if worker.trouble]:
            names = several(worker.address for worker in troubled)
            raise ClusterError(f"{names}: {troubled[0].trouble}; geoseg doctor --scheduler tells more")
        wrong, odd = differences(workers, versions_here())
        if wrong:
            raise ClusterError(f"{'; '.join(wrong)}: install the same versions on both sides")
        for difference in odd:
            on_event(Warned(message=difference))
        with_gpu = [worker for worker in workers if worker.gpus]
        if device != "cpu" and (lost := [w.address for w in workers if w.resources.get("GPU") and not w.gpus]):
            raise ClusterError(
                f"{several(lost)} should have a GPU, but torch finds none there: install torch with CUDA, or "
                "choose --device cpu"
            )
        self._placement = _placed(with_gpu, workers)
        return with_gpu or workers

    def _announce(self, on_event: OnEvent, workers: int) -> None:
        if self._options.report is not None:
            self._stack.enter_context(_reported(self._client, self._options.report, on_event))
        has_page = self.elsewhere or (self._options.dashboard and find_spec("bokeh") is not None)
        page = (self._client.dashboard_link or None) if has_page else None
        on_event(ClusterReady(address=self._client.scheduler.address, workers=workers, dashboard=page))

    def hand_over(self, on_event: OnEvent) -> None:
        """Gives every worker what it needs to read the inputs: over its connection, beside the task graph."""
        held = Credentials.held()
        if held == self._handed or not (held.environment or held.queries):
            return
        from geoseg.workers import HandOver

        if self._handed is None and self.elsewhere and _is_open(self._client.scheduler.address):
            on_event(Warned(message="credentials go to the workers unencrypted: use a scheduler at tls://"))
        name = f"geoseg-credentials-{self._client.id}"
        self._client.register_plugin(HandOver(held), name=name)
        if self._handed is None:
            self._stack.callback(_take_back, self._client, name)
        self._handed = held


def _with_environment(options: ClusterOptions) -> ClusterOptions:
    """The variable of Dask counts as ``--scheduler``; as everywhere, what is given in the call wins over it."""
    address = os.environ.get(ADDRESS, "").strip()
    if not address or options.scheduler:
        return options
    if options.named:
        first = " ".join(next(iter(options.named.items())))
        raise ConfigError(f"{first} and {ADDRESS}={address} exclude each other: unset the variable, or leave it out")
    return replace(options, scheduler=address)


def _connected(place: Any) -> Any:
    """A client; one that fails is closed at once: collected while Dask starts the next, it would wait for ever."""
    from distributed import Client

    client = Client.__new__(Client)
    try:
        Client.__init__(client, place, timeout=CONNECT_SECONDS, set_as_default=False)
    except BaseException:
        with suppress(AttributeError):  # it came to nothing before there was a thread
            client.close()
            client._loop_runner.stop()  # noqa: SLF001 - what `close` forgets of one that never connected
        raise
    return client


def _twice(start: Callable[[], T]) -> T:
    """What `start` gives; a machine under load may need a second attempt."""
    try:
        return start()
    except (OSError, RuntimeError):
        return start()


def _placed(with_gpu: Sequence[Worker], workers: Sequence[Worker]) -> dict[str, Any]:
    """Keeps what needs a GPU off workers without one; whoever declares a GPU gives it to one chunk at a time."""
    if with_gpu and all(worker.resources.get("GPU") for worker in with_gpu):
        return {"resources": {"GPU": 1}}
    return {"workers": [worker.address for worker in with_gpu]} if 0 < len(with_gpu) < len(workers) else {}


@contextmanager
def _own_processes(workers: int, *, dashboard: bool) -> Iterator[Any]:
    """A client of processes on this machine, gone when the block ends."""
    import dask
    from distributed import Client

    from geoseg.processes import LocalProcesses

    start = partial(LocalProcesses, workers=workers, memory_limit=0, dashboard=dashboard)
    with dask.config.set({"distributed.comm.timeouts.connect": _START_SECONDS, "distributed.worker.daemon": True}):
        try:
            cluster = _twice(start)
        except (OSError, RuntimeError) as error:
            raise ClusterError(f"{workers} processes on this machine did not start ({first_line(error)})") from error
        with cluster, Client(cluster, set_as_default=False) as client:
            yield client


def _demand_report(path: Path) -> None:
    """A report that could not be written is refused before the work, not after it."""
    if find_spec("bokeh") is None:
        raise MissingExtraError("--report needs the package bokeh: pip install bokeh")
    if not path.parent.is_dir() or path.is_dir():
        what = "is a directory" if path.is_dir() else f"its folder {path.parent} does not exist; create it first"
        raise ConfigError(f"--report {path}: {what}")


@contextmanager
def _reported(client: Any, path: Path, on_event: OnEvent) -> Iterator[None]:
    """Dask's page about what happens within the block; it needs no network to be read."""
    from distributed import performance_report

    with client.as_current():
        report = performance_report(filename=str(path), mode="inline")
        report.__enter__()
        try:
            yield
        finally:
            try:
                report.__exit__(None, None, None)
            except Exception as error:  # noqa: BLE001 - whatever Dask cannot tell of a run, the run itself stands
                on_event(Warned(message=f"{path}: no performance report ({first_line(error)})"))


def _take_back(client: Any, name: str) -> None:
    if client.status == "running":
        with suppress(OSError, TimeoutError, ValueError):  # the cluster has gone meanwhile, and what it knew
            client.unregister_worker_plugin(name)


def _is_open(address: str) -> bool:
    """Whether others can listen to what goes to an address."""
    scheme, _, place = address.partition("://")
    return scheme == "tcp" and not place.startswith(("127.", "localhost", "[::1]"))
