"""Chips from scenes: squares of pixels with their labels, in splits that are parted by geography.

Labels are counted first, without a look at the scenes; then only the windows of chosen chips are read. The folder holds

::

    images/ID_rROW_cCOL.tif    stored numbers of the bands, with names, scaling and a mask of what is usable
    labels/ID_rROW_cCOL.tif    uint8: number of the class, counted from 0; 255 where there is no label
    chips.csv                  a row per chip: files, split, scene, window, group, labelled pixels by class
    chips.json                 what was asked, classes, what is in each split, what was dropped and why
    split.geojson, split.png   where the splits lie

A cut that was interrupted goes on when it is asked again; the same request and seed give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import shapely

from geoseg.errors import ConfigError
from geoseg.events import OnEvent, StageStarted, Warned
from geoseg.protocols import Source
from geoseg.scene import Scene
from geoseg.store import open_store
from geoseg.store.disk import describe_file
from geoseg.store.lock import locked
from geoseg.train.chip_folder import ChipSet, Cut, claim
from geoseg.train.ground import Geometries, Ground, common_ground
from geoseg.train.label_files import open_labels
from geoseg.train.labels import LabelFile, LabelOptions, Labels
from geoseg.train.split import SPLITS, parse_rule
from geoseg.train.survey import Survey, choose, divide, survey

__all__ = ["ChipOptions", "ChipSet", "LabelFile", "LabelOptions", "cut_chips"]

_BLOCK_CHIPS = 10
"""Chips along the side of a block, where nobody says how large it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipOptions:
    """How chips are cut and parted."""

    size: int = 256
    """Side of a chip in pixels of its scene."""
    split: str = "blocks"
    """What goes to one split together: ``blocks``, ``blocks:METRES``, ``column:NAME``, ``file``, ``areas:FILE``."""
    fractions: Mapping[str, float] = field(default_factory=lambda: {"train": 0.7, "val": 0.15, "test": 0.15})
    """Part of the labelled pixels that each split should have."""
    buffer: float = 0.0
    """Metres that lie between chips of different splits, at least; 0: they do not touch."""
    per_class: int | None = None
    """Chips with each class that train gets, as far as there are; None: all."""
    seed: int = 0
    """Decides what is left to chance."""

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 <= self.buffer < np.inf or (self.per_class is not None and self.per_class < 1):
            raise ConfigError(
                f"chips of {self.size} pixels, {self.buffer:g} m apart, {self.per_class or 'all'} per class: "
                "give a positive --size, a --buffer of 0 or more, a positive --per-class"
            )
        if self.seed < 0:
            raise ConfigError(f"seed {self.seed} is negative; give 0 or more")


def cut_chips(
    scenes: Sequence[Scene[Source]],
    files: Sequence[LabelFile],
    out: Path,
    *,
    options: ChipOptions | None = None,
    labels: LabelOptions | None = None,
    overwrite: bool = False,
    on_event: OnEvent | None = None,
) -> ChipSet:
    """Cuts the chips of `scenes` that have labels into the folder `out`, and says what is there.

    Args:
        scenes: As `geoseg.open_scene` gives them; pairs too.
        files: Where labels are, in the order in which they are painted.
        out: The folder; its parent exists.
        options: How chips are cut and parted.
        labels: How labels are read.
        overwrite: Whether chips of another request go first.
        on_event: Told when cutting begins, and what a person should know.

    Raises:
        SourceError: A scene or labels cannot be read.
        GridError: No labels lie on a scene.
        ConfigError: Options make no sense, or the parts of a split by hand lie too close to each other.
        SinkError: The folder holds something else, or cannot be written.
    """
    options, reading = options or ChipOptions(), labels or LabelOptions()
    rule = parse_rule(options.split)
    if rule.kind == "column":
        reading = replace(reading, split_column=rule.place)
    _demand(scenes, files, by_file=rule.kind == "file")
    opened = open_labels(files, reading)
    cut = _planned(scenes, opened, options)
    asked = {
        "options": asdict(options),
        "labels": asdict(reading),
        "files": [asdict(file) for file in files],
        "scenes": [
            {"id": scene.id, "bands": [repr(band) for band in scene.bands], "grid": repr(scene.geobox)}
            for scene in scenes
        ],
        "identity": {key: mark for scene in scenes for key, mark in scene.source.identity().items()}
        | opened.identity()
        | ({rule.place: describe_file(Path(rule.place))["sha256"]} if rule.kind == "areas" else {}),
    }
    tell = on_event or (lambda event: None)
    store = open_store(out)
    with store.made(), locked(store):
        claim(out, asked, overwrite=overwrite)
        tell(StageStarted(stage="cut", total_tiles=int(cut.chosen.sum())))
        made = cut.write(out, asked)
    for message in _doubts(made, cut):
        tell(Warned(message=message))
    return made


def _demand(scenes: Sequence[Scene[Source]], files: Sequence[LabelFile], *, by_file: bool) -> None:
    if not (scenes and files):
        raise ConfigError(f"chips need scenes and labels; there are {len(scenes)} scenes, {len(files)} files of labels")
    named = [file for file in files if file.split]
    if named and not by_file:
        raise ConfigError(f"labels {named[0].path} are given to {named[0].split}, which needs --split file")
    if named and len(named) < len(files):
        other = next(file for file in files if not file.split)
        raise ConfigError(f"labels {other.path} are given to no split, others are; write SPLIT=FILE for each")
    if wrong := [file for file in named if file.split not in SPLITS]:
        raise ConfigError(f"labels {wrong[0].path}: split {wrong[0].split!r} is none of {', '.join(SPLITS)}")


def _planned(scenes: Sequence[Scene[Source]], labels: Labels, options: ChipOptions) -> Cut:
    """What will be cut, from labels alone."""
    placed = [labels.on(scene.geobox) for scene in scenes]
    surveyed = survey(placed, options.size, labels)
    ground = common_ground([scene.geobox for scene in scenes])
    footprints = _footprints(surveyed, scenes, ground)
    division = divide(
        surveyed,
        footprints,
        rule=parse_rule(options.split),
        ground=ground,
        labels=labels,
        block_metres=_BLOCK_CHIPS * float(np.sqrt(np.median(shapely.area(footprints)))),
        fractions=options.fractions,
        buffer=options.buffer,
        seed=options.seed,
    )
    return Cut(
        scenes=scenes,
        labels=placed,
        surveyed=surveyed,
        division=division,
        chosen=choose(division.splits, surveyed.pixels, options.per_class, options.seed),
        footprints=footprints,
        ground=ground,
    )


def _footprints(surveyed: Survey, scenes: Sequence[Scene[Source]], ground: Ground) -> Geometries:
    """(n,) in the order of the survey, which is that of the scenes."""
    parts = []
    for number, scene in enumerate(scenes):
        windows = [surveyed.windows[chip] for chip in np.flatnonzero(surveyed.scenes == number)]
        if windows:
            parts.append(ground.footprints(windows, scene.geobox))
    return np.concatenate(parts)


def _doubts(made: ChipSet, cut: Cut) -> list[str]:
    """What a person should know before training on these chips."""
    bare = [scene.id for number, scene in enumerate(cut.scenes) if not (cut.surveyed.scenes == number).any()]
    doubts = [f"no labels lie on {', '.join(bare)}"] if bare else []
    for split, pixels in made.pixels.items():
        if missing := [name for name, number in pixels.items() if not number]:
            doubts.append(f"{split} has no pixel of {', '.join(missing)}")
    wanted = {SPLITS[split] for split in np.unique(cut.division.splits).tolist() if split >= 0} | {"train"}
    doubts += [f"nothing is left for {split}" for split in SPLITS if split in wanted - set(made.chips)]
    return doubts
