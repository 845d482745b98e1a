"""Two dates in, a map of what changed out: a pair of scenes takes the way of any scene.

::

    pair   = compare(before, after, model=...)     # one grid, joint validity, shift known
    result = segment(pair.scene, model=pair.model) # the same engine, the same outputs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.errors import BandError, ConfigError, GridError, SourceError, without_secrets
from geoseg.events import Event, OnEvent, Warned
from geoseg.index_change import IndexChange, index_bands, index_change_model
from geoseg.models import read_spec
from geoseg.options import ChangeOptions, SegmentOptions
from geoseg.pipeline import predicted
from geoseg.protocols import Model, Source
from geoseg.request import Comparison
from geoseg.result import RunResult
from geoseg.scene import DATES, Scene
from geoseg.source import bands_in, given_for, open_scene
from geoseg.source.pair import PairSource, differences, pair_of, seen_on
from geoseg.source.shift import Shift, estimate_shift, registered

if TYPE_CHECKING:
    from geoseg.cluster import Cluster
    from geoseg.request import SceneLike
    from geoseg.store import Place

__all__ = ["INDEX_CHANGE", "Compared", "compare", "detect_change"]

INDEX_CHANGE = "index-change"
"""Name of the model without training."""
_SEEN = ("blue", "green", "red", "nir", "swir16")
"""Bands that people look at, where both dates have them."""
_OF_DATES = {field.name for field in fields(ChangeOptions)}
_FAR = 0.3
"""Pixels of shift from which on a person is warned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Two dates that are ready to be run on."""

    scene: Scene[Source]
    """Both on one grid, with the bands of the model."""
    model: str | Path | Model
    """What is run on them."""
    comparison: Comparison
    """What else the run needs to know."""


@dataclass(frozen=True, slots=True)
class _Dates:
    """How both dates are opened, whichever bands are asked for."""

    before: Any
    after: Any
    align: str | None
    options: tuple[Mapping[str, Any], Mapping[str, Any]]

    def pair(self, bands: Sequence[str]) -> Scene[PairSource]:
        before, after = (_opened(*date, bands) for date in zip((self.before, self.after), self.options, strict=True))
        return pair_of(before, after, align=self.align)

    def alone(self, names: Sequence[str]) -> _Dates:
        """The same, with what is given by hand for `names` alone."""
        before, after = (given_for(names, options) for options in self.options)
        return replace(self, options=(before, after))

    def shared(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those of `names` that both dates have."""
        dates = zip((self.before, self.after), self.options, strict=True)
        found = [_bands_there(inputs, names, options) for inputs, options in dates]
        return tuple(name for name in names if all(name in there for there in found))


def _opened(inputs: Any, options: Mapping[str, Any], bands: Sequence[str]) -> Scene[Source]:
    return inputs if isinstance(inputs, Scene) else open_scene(inputs, bands=bands, **options)


def _bands_there(inputs: Any, names: Sequence[str], options: Mapping[str, Any]) -> Sequence[str]:
    return inputs.bands.names if isinstance(inputs, Scene) else bands_in(inputs, names, **options)


def compare(
    before: SceneLike | None,
    after: SceneLike | None,
    *,
    model: str | Path | Model,
    options: ChangeOptions,
    for_scene: Mapping[str, Any],
    on_event: OnEvent | None = None,
) -> Compared:
    """Both dates on one grid, and the model that is run on them; the shift between them is estimated on the way.

    Args:
        before: As for `detect_change`.
        after: Likewise.
        model: Likewise.
        options: What concerns one date or the other.
        for_scene: Arguments of `geoseg.source.open_scene` that hold for both dates.
        on_event: Told of what a person should know.

    Raises:
        SourceError: A date cannot be read.
        BandError: A band is missing.
        GridError: The dates do not touch, or lie on different grids and nothing says how to align them.
        ModelError: There is no such model.
    """
    notify = on_event or _ignore
    shared = {key: value for key, value in for_scene.items() if key not in {"scene_id", "datetime"}}
    first, second = ({**shared, **options.for_date(date)} for date in DATES)
    dates = _Dates(before, after, None if options.align is None else str(options.align), (first, second))
    scene = dates.pair(_bands_for(model, dates))
    _say_order(scene, notify)
    _say_alignment(scene, dates.align, notify)
    shift = estimate_shift(scene.source)
    _say_shift(scene, shift, register=options.register, notify=notify)
    there = _seen_bands(dates)
    view, ndvi = _on_its_grid(dates, scene, there) or scene, None
    if {"red", "nir"} <= set(there):
        ndvi = _on_its_grid(dates, scene, ("red", "nir"))
    if options.register and shift is not None:
        scene, view = registered(scene, shift), registered(view, shift)
        ndvi = ndvi and registered(ndvi, shift)
    chosen = index_change_model(scene) if model == INDEX_CHANGE else model
    facts = {
        "differences": differences(*scene.dates),
        "shift": None if shift is None else asdict(shift),
        "registered": options.register and shift is not None,
        **(chosen.facts() if isinstance(chosen, IndexChange) else {}),
    }
    asked = {
        "dates": [without_secrets(date.href or date.id) for date in scene.dates],
        "grid": [str(scene.geobox.crs), *scene.geobox.transform[:6]],
        **options.asked(),
    }
    comparison = Comparison(asked={"pair": asked}, view=view, ndvi=ndvi, facts=facts)
    return Compared(scene=scene, model=chosen, comparison=comparison)


def _bands_for(model: str | Path | Model, dates: _Dates) -> tuple[str, ...]:
    if isinstance(model, Model):
        return model.spec.bands
    if model != INDEX_CHANGE:
        return read_spec(model).bands
    return index_bands(dates.shared(("green", "red", "nir", "swir16", "swir22")))


def _seen_bands(dates: _Dates) -> tuple[str, ...]:
    """What people look at of what both dates have; a file that is not there is no reason to fail."""
    with suppress(SourceError):  # mostly all can be opened, and then each header is read once
        return dates.shared(_SEEN)
    names: list[str] = []
    for name in _SEEN:
        with suppress(SourceError):
            names += dates.shared((name,))
    return tuple(names)


def _on_its_grid(dates: _Dates, scene: Scene[PairSource], names: Sequence[str]) -> Scene[PairSource] | None:
    """The pair with other bands on the grid of `scene`, for they may have smaller pixels; None where that cannot be."""
    with suppress(BandError, GridError, SourceError, ConfigError):
        seen = dates.alone(names).pair(names)
        source = PairSource(*(seen_on(date, scene.geobox) for date in (seen.source.before, seen.source.after)))
        return replace(seen, source=source, geobox=scene.geobox)
    return None


def _say_alignment(scene: Scene[PairSource], align: str | None, notify: OnEvent) -> None:
    if align is not None and (lines := differences(*scene.dates)):
        notify(Warned(message=f"the dates lie on different grids ({'; '.join(lines)}): read on that of {align}"))


def _say_order(scene: Scene[PairSource], notify: OnEvent) -> None:
    before, after = (date.datetime for date in scene.dates)
    if before is not None and after is not None and before > after:
        times = f"{before.isoformat()} and {after.isoformat()}"
        notify(Warned(message=f"BEFORE is later than AFTER ({times}): swap them, unless the change is meant backwards"))


def _say_shift(scene: Scene[PairSource], shift: Shift | None, *, register: bool, notify: OnEvent) -> None:
    if shift is None or shift.pixels <= _FAR:
        return
    advice = "removed" if register else "--register removes it"
    notify(
        Warned(
            message=f"{scene.dates[1].id} lies {shift.pixels:.2f} pixels off {scene.dates[0].id} "
            f"({shift.rows:+.2f} rows, {shift.cols:+.2f} columns; {shift.windows} windows agree): {advice}"
        )
    )


def detect_change(
    before: SceneLike | None,
    after: SceneLike | None,
    *,
    model: str | Path | Model = "flood-s2",
    out: Place,
    overwrite: bool = False,
    restart: bool = False,
    cluster: Cluster | str | Path | None = None,
    on_event: OnEvent | None = None,
    **options: Any,
) -> RunResult:
    """A map of what changed between two dates, its polygons, pictures and a STAC item, in the directory `out`.

    The same call again resumes a run that was interrupted.

    Args:
        before: The earlier date: path or URL of a raster or a STAC item, a DataArray (band, y, x), or an open scene.
        after: The later date.
        model: A model for pairs; ``index-change`` for a comparison of indices without training; or a model for one
            date, which then maps both (post-classification comparison).
        out: Output directory; created if its parent exists.
        overwrite: Replace a finished run.
        restart: Forget an unfinished run of another request.
        cluster: Workers that several runs share, or the YAML file of a cluster to start.
        on_event: Called with each `geoseg.events` event, in the calling thread.
        options: As in `geoseg.options.ChangeOptions` (``align``, ``register``, masks, bands and times of each date) and
            in `geoseg.options.SegmentOptions`; what these say of a scene holds for both dates.

    Raises:
        SourceError: A date cannot be read, or changed while it was.
        BandError: A band is missing.
        GridError: The dates do not touch, or lie on different grids and `align` says nothing.
        ModelError: The model package is damaged, or the net gave something that is no score.
        PlanError: Memory or disk will not do.
        ClusterError: The workers cannot be reached, or lack what the run needs.
        ConfigError: `out` holds something else.
        SinkError: Outputs cannot be written.
    """
    own = {name: options.pop(name) for name in _OF_DATES & options.keys()}
    rest = SegmentOptions(**options)
    if rest.bands and any(not str(place).isdigit() for place in rest.bands.values()):
        raise ConfigError("bands that name files would be both dates': use bands_before and bands_after")
    found = compare(
        before,
        after,
        model=model,
        options=ChangeOptions(**{"datetime_after": rest.datetime, **own}),
        for_scene=rest.for_scene(),
        on_event=on_event,
    )
    with predicted(
        found.scene,
        model=found.model,
        out=out,
        overwrite=overwrite,
        restart=restart,
        cluster=cluster,
        comparison=found.comparison,
        on_event=on_event,
        **options,
    ) as finish:
        return finish()


def _ignore(event: Event) -> None:
    """Nobody watches."""
