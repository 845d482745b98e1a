"""The scenes of one call, on the same workers: each is a run of its own, and none that fails stops the others.

On one machine a scene begins when the one before has its files. On a cluster only the chunks are worked on elsewhere:
there the files of a scene are made, in a thread of this process, while the cluster is at the next scene's chunks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from geoseg.cli.messages import say
from geoseg.cli.outcome import DONE, exit_code, say_error
from geoseg.cli.progress import Watch
from geoseg.cli.scenes import MOSAIC, Input, OutputFolders, PairInput

if TYPE_CHECKING:
    from geoseg.cli.signals import Signals
    from geoseg.cluster import Cluster
    from geoseg.config import RunConfig
    from geoseg.result import RunResult
    from geoseg.settings import MosaicRule
from geoseg.store import Place

__all__ = ["Outcome", "run_scenes"]

Status: TypeAlias = Literal["done", "skipped", "failed", "interrupted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one scene ended."""

    label: str
    """What messages call it."""
    out: Place
    """Its folder; that of all scenes, where its own was not found out."""
    status: Status
    """``skipped``: it was finished before."""
    code: int = DONE
    """Exit code, as if it had been the only one."""
    began: bool = False
    """Whether work had begun."""
    result: RunResult | None = None
    error: str = ""
    """What went wrong, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """What all scenes of a call have in common."""

    config: RunConfig
    folders: OutputFolders
    cluster: Cluster
    signals: Signals
    announce: Callable[[Outcome], None]


class _Step:
    """A piece of a call that may fail without the others; whatever happens to it is said here."""

    def __init__(self, label: str, out: Place, call: _Call) -> None:
        self.out, self.outcome = out, None
        self._label, self._call = label, call
        self._watch = Watch(label, quiet=call.config.quiet, verbose=call.config.verbose)
        self._held = ExitStack()

    out: Place
    outcome: Outcome | None

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turns whatever ends the step into its outcome, and a line about it."""
        try:
            yield
        except KeyboardInterrupt as error:
            self._call.signals.hint = ""
            kept = f"the same command resumes what stands in {self.out}" if self._watch.began else "nothing was written"
            say(f"interrupted; {kept}", level=logging.ERROR, event="interrupted", scene=self._label)
            self._give_up("interrupted", error)
        except Exception as error:  # noqa: BLE001 - the one place where everything ends as a line
            resumes = self._watch.began and not {"--restart", "--on-bad-block"} & set(str(error).split())
            advice = f"What is done stands in {self.out}; the same command resumes it" if resumes else ""
            text = say_error(error, debug=self._call.config.debug, about=self._label, advice=advice)
            self._give_up("failed", error, text)

    def _give_up(self, status: Status, error: BaseException, text: str = "") -> None:
        self._held.__exit__(type(error), error, error.__traceback__)
        code, began = exit_code(error, began=self._watch.began), self._watch.began
        self.outcome = Outcome(label=self._label, out=self.out, status=status, code=code, began=began, error=text)

    def _finish(self, result: RunResult) -> None:
        status: Status = "done" if self._watch.began else "skipped"
        self.outcome = Outcome(label=self._label, out=self.out, status=status, began=self._watch.began, result=result)
        self._call.announce(self.outcome)


class _SceneRun(_Step):
    """One scene: `predict`, then `assemble`."""

    def __init__(self, given: Input | PairInput, call: _Call) -> None:
        super().__init__(given.label, call.folders.out, call)
        self._given = given
        self._make_files: Callable[[], RunResult] | None = None

    def predict(self) -> None:
        """Runs the scene's chunks."""
        call, config = self._call, self._call.config
        with self.guarded():
            scene, more = self._given.opened(config, self._watch)
            self.out = call.folders.of(scene)
            from geoseg import pipeline  # and with it torch: bad input is refused without

            with self._watch:
                self._make_files = self._held.enter_context(
                    pipeline.predicted(
                        scene,
                        out=self.out,
                        overwrite=config.overwrite,
                        restart=config.restart,
                        skip_finished=call.folders.keep_finished,
                        cluster=call.cluster,
                        on_event=self._watch,
                        **{**config.for_pipeline(), **more},
                    )
                )

    def assemble(self, *, bar: bool) -> None:
        """Makes the files, where the chunks are done."""
        if self.outcome is not None or self._make_files is None:
            return
        with self.guarded():
            with self._watch if bar else nullcontext(), self._held:
                result = self._make_files()
            self._finish(result)


class _MosaicRun(_Step):
    """The map of all scenes."""

    def __init__(self, call: _Call) -> None:
        super().__init__(MOSAIC, call.folders.mosaic, call)

    def make(self, rule: MosaicRule, runs: Sequence[Place]) -> None:
        """Makes it of finished runs."""
        from geoseg.mosaic import make_mosaic
        from geoseg.polygon_options import PolygonOptions

        config = self._call.config
        with self.guarded():
            with self._watch:
                result = make_mosaic(
                    runs,
                    out=self.out,
                    rule=rule,
                    model=config.model,
                    polygons=PolygonOptions(formats=config.vector, **config.for_polygons()),
                    overwrite=config.overwrite,
                    cluster=self._call.cluster,
                    on_event=self._watch,
                )
            self._finish(result)


def run_scenes(
    inputs: Sequence[Input | PairInput],
    *,
    config: RunConfig,
    folders: OutputFolders,
    cluster: Cluster,
    pool: Executor,
    signals: Signals,
    announce: Callable[[Outcome], None],
) -> list[Outcome]:
    """Runs every scene, then the mosaic if one is asked for and all scenes have their files.

    Returns how each ended, in their order, the mosaic last; after an interruption, the interrupted one last.

    Args:
        inputs: The scenes.
        config: The options.
        folders: Where the results go.
        cluster: Where the chunks are worked on.
        pool: Makes the files of a scene while a cluster is at the next one's chunks.
        signals: What listens to Ctrl-C.
        announce: Called with each outcome of a scene that has its files, when it has them; must not raise.
    """
    call = _Call(config=config, folders=folders, cluster=cluster, signals=signals, announce=announce)
    signals.hint = "interrupted; the same command resumes"
    outcomes = _all_scenes(inputs, call, pool if cluster.elsewhere else None)
    missing = [outcome for outcome in outcomes if outcome.code != DONE]
    if config.mosaic is not None and not missing:
        mosaic = _MosaicRun(call)
        mosaic.make(config.mosaic, [outcome.out for outcome in outcomes])
        outcomes += [mosaic.outcome] if mosaic.outcome else []
    elif config.mosaic is not None and outcomes[-1].status != "interrupted":
        text = f"no mosaic was made: {len(missing)} of {len(outcomes)} scenes failed; mend them or leave them out"
        say(text, level=logging.WARNING, event="warning")
    return outcomes


def _all_scenes(inputs: Sequence[Input | PairInput], call: _Call, pool: Executor | None) -> list[Outcome]:
    """Runs one scene after the other; files are made in `pool`, if there is one, while the next is at work."""
    runs: list[_SceneRun] = []
    before: Future[None] | None = None
    for given in inputs:
        runs.append(run := _SceneRun(given, call))
        run.predict()
        with run.guarded():
            if before is not None:
                before.result()  # one at a time: parts that wait take disk space
            before = None if pool is None else pool.submit(run.assemble, bar=False)
            if before is None:
                run.assemble(bar=True)
            elif given is inputs[-1]:
                before.result()
        if run.outcome is not None and run.outcome.status == "interrupted":
            break
    return [run.outcome for run in runs if run.outcome is not None]
