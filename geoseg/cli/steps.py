"""What the steps of a pipeline do: each verb through the same door as the command of its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from geoseg.cli.command_words import captured, parsed, switch, with_switches, words_of
from geoseg.cli.messages import say
from geoseg.cli.outcome import DONE
from geoseg.config import ChangeConfig, RunConfig
from geoseg.errors import ConfigError, GeosegError, SourceError
from geoseg.polygon_config import PolygonConfig, VectorizeConfig
from geoseg.resolved import meant, read_options
from geoseg.step_record import plain
from geoseg.store import Place, Store, open_store
from geoseg.workflow import Step
from geoseg.yaml_file import plain_key

__all__ = ["Manner", "Prepared", "prepare"]

_FROM_OUTSIDE: Final = ("json", "log_json", "quiet", "verbose", "debug", "overwrite", "restart", "dry_run", "report")
"""Options of the call, not of a step."""
_DECIDE_NOTHING: Final = {"out", "workers", "scheduler", "scheduler_file", "cluster", "worker_timeout", "threads", "to"}
_PATHS: Final = ("inputs", "items", "aoi", "pred", "truth", "area", "runs", "confidence")
"""Options whose values are files, of which those on this machine have to be there before anything runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How the steps of a call are carried out."""

    messages: Mapping[str, bool]
    """``quiet``, ``verbose``, ``debug``, ``log_json`` and ``json_output``."""
    replaces: bool = False
    """Whether results of another request are replaced."""
    restart: bool = False
    """Whether an unfinished run of another request is dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A step whose options were found good."""

    step: Step
    folder: Place
    """Where its results go."""
    asked: Mapping[str, Any]
    """The options that decide the result, as JSON values."""
    inputs: Any
    """The options that may name files that go in."""
    outputs: Mapping[str, str]
    """Places of what it makes, for later steps."""
    files: tuple[str, ...]
    """Those of them that are files of its folder."""
    carry_out: Callable[[Manner], int]
    """Does it, and returns the exit code."""


def prepare(step: Step, *, out: Store, outputs: Mapping[str, Mapping[str, str]]) -> Prepared:
    """The step as it will be done; nothing is read but cards of models.

    Args:
        step: As the file has it.
        out: The directory of the pipeline.
        outputs: Places of what the earlier steps make, by step and name.

    Raises:
        ConfigError: An option is unknown or wrong, or a file is missing; names file and step.
    """
    options = {plain_key(key): value for key, value in step.filled(outputs).items() if value is not None}
    for key in _FROM_OUTSIDE:
        if key in options:
            raise ConfigError(f"{step.origin}: {key}: is for the whole pipeline; give it to geoseg run")
    _demand_files(step, options, {place for each in outputs.values() for place in each.values()})
    try:
        return _PREPARE[step.verb](step, options, out.below(step.name).href())
    except GeosegError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(step.origin) else f"{step.origin}: {text}") from error


def _demand_files(step: Step, options: Mapping[str, Any], made: set[str]) -> None:
    for key in _PATHS:
        value = options.get(key)
        places: list[object] = value if isinstance(value, list) else [value]
        for place in places:
            if isinstance(place, str) and place not in made and "://" not in place and not Path(place).exists():
                raise ConfigError(f"{step.origin}: {key}: {place} does not exist; paths count from where geoseg runs")


def _read(step: Step, options: Mapping[str, Any], kind: type[PolygonConfig], own: str = "out") -> Any:
    """The options of a command that has a configuration; `own` is the one that the pipeline gives."""
    if own in options:
        raise ConfigError(f"{step.origin}: {own}: the results of a step go to its own folder; leave it out")
    return read_options(options, origin=step.origin, kind=kind)


def _deciding(config: PolygonConfig, *besides: str) -> dict[str, Any]:
    """The options other than their defaults that decide what comes out."""
    given = config.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    kept = {name: plain(value) for name, value in given.items() if name not in _DECIDE_NOTHING.union(besides)}
    return kept | ({"to": plain(given["to"])} if given.get("to") else {})


def _map(step: Step, options: dict[str, Any], folder: Place, *, kind: type[RunConfig]) -> Prepared:
    from geoseg.models import read_spec

    config = _read(step, options, kind).model_copy(update={"out": folder})
    is_change = isinstance(config, ChangeConfig)
    if config.model != "index-change":
        read_spec(config.model)
    _demand_inputs(config, is_change=is_change)
    several = len(set(config.inputs)) > 1 and not is_change
    several = several or config.items is not None or config.mosaic is not None
    store = open_store(folder)
    outputs = {"out": str(folder), "items": str(store.href("catalog.json" if several else "item.json"))}
    if config.mosaic is not None or not several:
        home = store.below("mosaic") if several else store
        outputs["labels"] = str(home.href("change.tif" if is_change else "labels.tif"))
        if config.confidence:
            outputs["confidence"] = str(home.href("change_probability.tif" if is_change else "confidence.tif"))
        if config.vector:
            outputs["polygons"] = str(home.href(f"polygons.{config.vector[0]}"))
    return Prepared(
        step=step,
        folder=folder,
        asked=_deciding(config),
        inputs=_deciding(config, "datetime"),
        outputs=outputs,
        files=tuple(place for name, place in outputs.items() if name != "out"),
        carry_out=partial(_make_map, config, several=several),
    )


def _demand_inputs(config: RunConfig, *, is_change: bool) -> None:
    from geoseg.cli.scenes import inputs_of, pair_of_inputs

    if isinstance(config, ChangeConfig):
        pair_of_inputs(config)
    elif config.items is None and not is_change:
        inputs_of(config)


def _make_map(config: RunConfig, manner: Manner, *, several: bool) -> int:
    from geoseg.cli.scenes import inputs_of, pair_of_inputs
    from geoseg.cli.segment import run_all

    asked = config.model_copy(
        update={**manner.messages, "overwrite": manner.replaces or manner.restart, "restart": manner.restart}
    )
    given = [pair_of_inputs(asked)] if isinstance(asked, ChangeConfig) else inputs_of(asked)
    return run_all(given, asked, several=several, keep_finished=True)


def _vectorize(step: Step, options: dict[str, Any], folder: Place) -> Prepared:
    from geoseg.sink.vector import FORMATS

    home = _local(step, folder)
    names = options.pop("out", [] if options.get("to") else ["polygons.parquet"])
    names = names if isinstance(names, list) else [names]
    for name in names:
        _demand_name(step, "out", name, tuple(FORMATS))
    config = _read(step, options, VectorizeConfig)
    if len(config.inputs) != 1:
        raise ConfigError(f"inputs: {len(config.inputs)} maps were given; name one, or the out of a step that made one")
    config = config.model_copy(update={"out": tuple(home / name for name in names)})
    files = tuple(map(str, config.out))
    return Prepared(
        step=step,
        folder=folder,
        asked=_deciding(config, "chunk") | {"out": list(names)},
        inputs=_deciding(config, "datetime"),
        outputs={"out": str(folder)} | ({"polygons": files[0]} if files else {}),
        files=files,
        carry_out=partial(_draw, config, home),
    )


def _draw(config: VectorizeConfig, home: Path, manner: Manner) -> int:
    import shutil

    from geoseg.cli.vectorize import draw

    home.mkdir(exist_ok=True)
    for leftover in home.glob(".geoseg-*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    return draw(config.model_copy(update={**manner.messages, "overwrite": True}))


def _local(step: Step, folder: Place) -> Path:
    if isinstance(folder, Path):
        return folder
    raise ConfigError(f"{step.origin}: {step.verb} writes to folders, not to {folder}; choose a local --out")


def _demand_name(step: Step, key: str, name: object, kinds: tuple[str, ...]) -> None:
    """Refuses what is no name of a file in the step's folder."""
    text = str(name)
    if Path(text).name != text or text.startswith(".") or Path(text).suffix.removeprefix(".") not in kinds:
        raise ConfigError(f"{step.origin}: {key}: {text}: is the name of a file in the step's folder: NAME.{kinds[0]}")


def _put(folder: Place, name: str, document: Any) -> str:
    store = open_store(folder)
    store.workspace()
    store.put(name, f"{json.dumps(document, indent=2, ensure_ascii=False)}\n".encode())
    return str(store.href(name))


def _evaluate(step: Step, options: dict[str, Any], folder: Place) -> Prepared:
    from geoseg.cli.evaluate import evaluate

    options = with_switches(evaluate, options)
    asked = dict(options)
    files = [str(open_store(folder).href("scores.json"))]
    if "html" in options:
        _demand_name(step, "html", options["html"], ("html",))
        options["html"] = str(_local(step, folder) / options["html"])
        files.append(options["html"])
    context = parsed(step, evaluate, ["--json", *words_of(step, evaluate, options)])

    def carry_out(manner: Manner) -> int:
        open_store(folder).workspace()
        code, scores = captured(context)
        _tell(_put(folder, "scores.json", scores), manner)
        return code

    outputs = {"out": str(folder), "scores": files[0]} | ({"page": files[1]} if len(files) > 1 else {})
    return Prepared(
        step=step,
        folder=folder,
        asked=plain(asked),
        inputs=asked,
        outputs=outputs,
        files=tuple(files),
        carry_out=carry_out,
    )


def _search(step: Step, options: dict[str, Any], folder: Place) -> Prepared:
    from geoseg.cli.catalog import search_command

    if ("api" in options) == ("catalog" in options):
        raise ConfigError(f"{step.origin}: name where to search, either api or catalog")
    if "output" in options:
        raise ConfigError(f"{step.origin}: output: the results of a step go to its own folder; leave it out")
    options = with_switches(search_command, options)
    context = parsed(step, search_command, ["--json", *words_of(step, search_command, options)])
    place = str(open_store(folder).href("search.json"))

    def carry_out(manner: Manner) -> int:
        code, found = captured(context)
        if not found["features"]:
            raise SourceError("the search found no item; widen place, time or condition")
        _tell(_put(folder, "search.json", found), manner)
        return code

    return Prepared(
        step=step,
        folder=folder,
        asked=plain(options),
        inputs=options.get("area", ""),
        outputs={"out": str(folder), "items": place},
        files=(place,),
        carry_out=carry_out,
    )


def _publish(step: Step, options: dict[str, Any], folder: Place) -> Prepared:
    known = ("runs", "catalog", "view")
    unknown = next((key for key in options if key not in known), None)
    if unknown is not None:
        raise ConfigError(f"{step.origin}: {unknown}: no such option{meant(unknown, known)}; publish has {known}")
    runs, catalog, pages = options.get("runs"), options.get("catalog"), switch(options.get("view", False))
    runs = runs if isinstance(runs, list) else [runs]
    named = bool(runs) and all(isinstance(run, str) for run in runs)
    if not named or not isinstance(catalog, str) or not isinstance(pages, bool):
        form = "runs, a list of ${STEP.out}, and catalog, a folder; view is true or false"
        raise ConfigError(f"{step.origin}: publish needs {form}")
    if pages:
        _local(step, folder)
    place = str(open_store(folder).href("published.json"))
    return Prepared(
        step=step,
        folder=folder,
        asked={"runs": runs, "catalog": catalog, "view": pages},
        inputs=runs,
        outputs={"out": str(folder), "catalog": catalog, "published": place},
        files=(place,),
        carry_out=partial(_list, folder, runs, catalog, pages=pages),
    )


def _list(folder: Place, runs: list[str], catalog: str, manner: Manner, *, pages: bool) -> int:
    from geoseg.catalog.collection import add_runs, entries_of
    from geoseg.pages.view import write_view

    places = [run if "://" in run else Path(run) for run in runs]
    items = add_runs(catalog if "://" in catalog else Path(catalog), places)
    views = []
    for item, entry in zip(items, (entry for place in places for entry in entries_of(place)), strict=True):
        if pages and entry.file == "item.json":
            Path(folder).mkdir(exist_ok=True)
            page = write_view(entry.home, Path(folder) / f"{Path(str(item)).stem}.html")
            for note in page.notes:
                say(note, event="view")
            views.append(str(page.path))
    _tell(_put(folder, "published.json", {"catalog": catalog, "items": list(map(str, items)), "pages": views}), manner)
    return DONE


def _tell(place: str, manner: Manner) -> None:
    if not manner.messages["json_output"]:
        click.echo(place)


_PREPARE: Final[Mapping[str, Callable[[Step, dict[str, Any], Place], Prepared]]] = {
    "search": _search,
    "segment": partial(_map, kind=RunConfig),
    "change": partial(_map, kind=ChangeConfig),
    "vectorize": _vectorize,
    "evaluate": _evaluate,
    "publish": _publish,
}
