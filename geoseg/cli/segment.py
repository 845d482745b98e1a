"""``geoseg segment``: scenes in, maps out, one after the other."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.answers import Answers
from geoseg.cli.messages import log_is_json, say, set_up_messages, tell
from geoseg.cli.options import EPILOG, GroupedCommand, run_options
from geoseg.cli.outcome import DONE, FAILED, INTERRUPTED, USAGE
from geoseg.cli.plan import plan_scenes
from geoseg.cli.runs import Outcome, run_scenes
from geoseg.cli.scenes import MOSAIC, Input, OutputFolders, PairInput, inputs_of
from geoseg.cli.signals import Signals
from geoseg.cli.text import byte_text, count_text, speed_text, table, time_text
from geoseg.config import RunConfig
from geoseg.errors import ConfigError
from geoseg.resolved import Resolved

if TYPE_CHECKING:
    from geoseg.result import RunResult
    from geoseg.store import Place

__all__ = ["run_all", "segment"]

_AS = {"skipped": " as finished"}
_LISTED = 12
"""Of more classes only those that occur are listed."""


@click.command(cls=GroupedCommand, epilog=EPILOG)
@run_options()
def segment(resolved: Resolved[RunConfig]) -> int:
    """Turn each INPUT into a class map, polygons, a preview and a STAC item in DIR.

    Prints the path of item.json. A run that was interrupted resumes when the same command is given again.
    """
    config = resolved.config
    set_up_messages(**config.for_messages())
    given = inputs_of(config)
    several = len(given) > 1 or config.items is not None or config.mosaic is not None
    return run_all(given, config, several=several)


def run_all(
    given: Sequence[Input | PairInput], config: RunConfig, *, several: bool, keep_finished: bool | None = None
) -> int:
    """Runs, or plans, every input of a call and says how it went; returns the exit code.

    Args:
        given: The scenes, or pairs of them.
        config: The options.
        several: Whether each gets a folder of its own.
        keep_finished: Whether a finished run of the same request is taken as it stands; None: of several, unless they
            are to be replaced.

    Raises:
        ConfigError: No output directory is named.
    """
    if config.dry_run:
        return plan_scenes(given, config, probe=True)
    if config.out is None:
        raise ConfigError("--out is missing: name the directory of the results")
    kept = several and not config.overwrite if keep_finished is None else keep_finished
    folders = OutputFolders(out=config.out, several=several, keep_finished=kept)
    answers = Answers()
    outcomes, catalog = _run_all(given, folders, config, answers)
    if config.json_output:
        documents = [_document(outcome) for outcome in outcomes]
        listed = {"runs": documents, "catalog": None if catalog is None else str(catalog)}
        answers.put(json.dumps(listed if several else documents[0], indent=2))
    return answers.code(_code(outcomes))


def _run_all(
    inputs: Sequence[Input | PairInput], folders: OutputFolders, config: RunConfig, answers: Answers
) -> tuple[list[Outcome], Place | None]:
    """How each scene ended, and where the catalog of several is."""
    from geoseg.cluster import Cluster

    # A cluster that was started goes before what is still being assembled is waited for.
    with (
        Signals() as signals,
        folders.made(),
        ThreadPoolExecutor(1, thread_name_prefix="assemble") as pool,
        Cluster(config.for_cluster()) as cluster,
    ):
        outcomes = run_scenes(
            inputs,
            config=config,
            folders=folders,
            cluster=cluster,
            pool=pool,
            signals=signals,
            announce=lambda outcome: _announce(outcome, config, answers),
        )
        catalog = _listed(outcomes, folders.out) if folders.several else None
    if folders.several and not config.quiet and not config.json_output:
        _say_summary(outcomes)
    return outcomes, catalog


def _listed(outcomes: Sequence[Outcome], out: Place) -> Place | None:
    """The catalog of all finished runs in DIR."""
    from geoseg.catalog.item import write_catalog

    items = [outcome.result.item for outcome in outcomes if outcome.result is not None]
    return write_catalog(out, items) if items else None


def _code(outcomes: Sequence[Outcome]) -> int:
    """The exit code of the whole call.

    An interruption's; that of the only scene; of several what all have in common; 2 if none began; else 1.
    """
    codes = {outcome.code for outcome in outcomes}
    if outcomes[-1].code > INTERRUPTED or len(codes) == 1:
        return outcomes[-1].code
    return FAILED if DONE in codes or FAILED in codes else USAGE


def _say_summary(outcomes: Sequence[Outcome]) -> None:
    """How many scenes ended how, and a line for each."""
    scenes = [outcome for outcome in outcomes if outcome.label != MOSAIC]
    counts = Counter(outcome.status for outcome in scenes)
    told = ", ".join(f"{number} {status}{_AS.get(status, '')}" for status, number in counts.items())
    say(f"{len(scenes)} scenes: {told}", level=logging.WARNING, event="summary", counts=dict(counts))
    if not log_is_json():
        rows = [(outcome.label, outcome.status, outcome.error or str(outcome.out)) for outcome in outcomes]
        tell(table(rows, indent=2))


def _announce(outcome: Outcome, config: RunConfig, answers: Answers) -> None:
    """The table of a scene that was done now, and where its item is."""
    if config.json_output or outcome.result is None:
        return
    if log_is_json():
        facts: dict[str, Any] = {"scene": outcome.label, "out": str(outcome.out), "areas": _areas(outcome.result)}
        facts |= {"counts": dict(outcome.result.counts), "timings": dict(outcome.result.timings)}
        say(outcome.status, event="done", **facts)
    elif not config.quiet and outcome.status == "done":
        tell(summary(outcome.result))
    answers.put(str(outcome.result.item))


def _document(outcome: Outcome) -> dict[str, Any]:
    """What ``--json`` says about one scene."""
    document = {"status": outcome.status, "input": outcome.label, "out": str(outcome.out)}
    if outcome.result is not None:
        return document | result_document(outcome.result)
    return document | ({"error": outcome.error} if outcome.error else {}) | {"exit_code": outcome.code}


def result_document(result: RunResult) -> dict[str, Any]:
    """What ``--json`` says about a finished run: paths, areas, counts, timings in seconds, memory in bytes."""
    names = ("labels", "confidence", "probabilities", "preview", "compare", "item", "report")
    paths = {name: getattr(result, name) for name in names}
    if result.is_change:
        paths = {
            {"labels": "change", "confidence": "change_probability"}.get(name, name): paths[name] for name in names
        }
    return {
        **{name: None if path is None else str(path) for name, path in paths.items()},
        "polygons": [str(path) for path in result.polygons],
        "areas": _areas(result),
        "counts": dict(result.counts),
        "timings": dict(result.timings),
        "peak_memory_bytes": result.peak_memory,
    }


def _areas(result: RunResult) -> list[dict[str, Any]]:
    return [
        {"value": area.value, "name": area.name, "title": area.title, "pixels": area.pixels, "km2": area.km2}
        for area in result.areas
    ]


def summary(result: RunResult) -> str:
    """The table of a finished run: pixels and km2 per class, time, throughput, memory."""
    total = sum(area.pixels for area in result.areas)
    rows = [("class", "pixels", "km2", "share")]
    for area in result.areas if len(result.areas) <= _LISTED else [area for area in result.areas if area.pixels]:
        share = f"{100 * area.pixels / total:.1f} %" if total else "-"
        rows.append((area.title or area.name, count_text(area.pixels), f"{area.km2:,.3f}", share))
    passes = result.counts["forward_passes"]
    seconds = float(result.timings["seconds"])
    speed = int(result.counts["pixels"]) / max(seconds, 1e-9)
    facts = (
        f"{passes} forward {'pass' if passes == 1 else 'passes'}, {time_text(seconds)}, {speed_text(speed)}, "
        f"peak memory {byte_text(result.peak_memory)}"
    )
    return f"{table(rows, right=frozenset({1, 2, 3}))}\n{facts}"
