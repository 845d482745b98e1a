"""Two dates in, a map of what changed out: a pair of scenes takes the way of any scene.

::

    pair   = compare(before, after, model=...)     # one grid, joint validity, shift known
    result = segment(pair.scene, model=pair.model) # the same engine, the same outputs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.errors import BandError, ConfigError, GridError, SourceError, without_secrets
from geoseg.events import Event, OnEvent, Warned
from geoseg.index_change import IndexChange, index_bands, index_change_model
from geoseg.models import read_spec
from geoseg.options import SegmentOptions
from geoseg.pipeline import predicted
from geoseg.protocols import Model, Source
from geoseg.request import Comparison
from geoseg.result import RunResult
from geoseg.scene import DATES, Scene
from geoseg.source import bands_in, open_scene
from geoseg.source.pair import PairSource, differences, pair_of, seen_on
from geoseg.source.shift import Shift, estimate_shift, registered

if TYPE_CHECKING:
    import datetime as dt

    from geoseg.cluster import Cluster
    from geoseg.request import SceneLike
    from geoseg.store import Place

__all__ = ["INDEX_CHANGE", "Compared", "compare", "detect_change"]

INDEX_CHANGE = "index-change"
"""Name of the model without training."""
_SEEN = ("blue", "green", "red", "nir", "swir16")
"""Bands that pictures and statistics ask for, where both dates have them."""
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
    model: str | Path | Model = "flood-s2",
    align: str | Path | None = None,
    register: bool = False,
    mask_before: str | None = None,
    mask_after: str | None = None,
    bands_before: Mapping[str, str | int] | None = None,
    bands_after: Mapping[str, str | int] | None = None,
    datetime_before: str | dt.datetime | None = None,
    datetime_after: str | dt.datetime | None = None,
    on_event: OnEvent | None = None,
    **for_scene: Any,
) -> Compared:
    """Both dates on one grid, and the model that is run on them; the shift between them is estimated on the way.

    Arguments are those of `detect_change`; `for_scene` holds those of `geoseg.source.open_scene`, for both dates.

    Raises:
        SourceError: A date cannot be read.
        BandError: A band is missing.
        GridError: The dates do not touch, or lie on different grids and `align` says nothing.
        ModelError: There is no such model.
    """
    notify = on_event or _ignore
    shared = {key: value for key, value in for_scene.items() if key not in {"scene_id", "datetime"}}
    own = (
        {"mask": mask_before, "band_map": bands_before, "datetime": datetime_before},
        {"mask": mask_after, "band_map": bands_after, "datetime": datetime_after},
    )
    options = tuple({**shared, **{key: value for key, value in date.items() if value}} for date in own)
    dates = _Dates(before, after, None if align is None else str(align), (options[0], options[1]))
    scene = dates.pair(_bands_for(model, dates))
    _say_alignment(scene, dates.align, notify)
    shift = estimate_shift(scene.source)
    _say_shift(scene, shift, register=register, notify=notify)
    view = _view(dates, scene)
    if register and shift is not None:
        scene, view = registered(scene, shift), registered(view, shift)
    chosen = index_change_model(scene) if model == INDEX_CHANGE else model
    asked = {
        "dates": [without_secrets(date.href or date.id) for date in scene.dates],
        "align": dates.align,
        "grid": [str(scene.geobox.crs), *scene.geobox.transform[:6]],
        "register": register,
        **{f"mask_{name}": _plain(date["mask"]) for name, date in zip(DATES, own, strict=True)},
        **{f"bands_{name}": _plain_bands(date["band_map"]) for name, date in zip(DATES, own, strict=True)},
        **{f"datetime_{name}": _plain(date["datetime"]) for name, date in zip(DATES, own, strict=True)},
    }
    facts = {
        "differences": differences(*scene.dates),
        "shift": None if shift is None else asdict(shift),
        "registered": register and shift is not None,
        **(chosen.facts() if isinstance(chosen, IndexChange) else {}),
    }
    return Compared(scene=scene, model=chosen, comparison=Comparison(asked={"pair": asked}, view=view, facts=facts))


def _bands_for(model: str | Path | Model, dates: _Dates) -> tuple[str, ...]:
    if isinstance(model, Model):
        return model.spec.bands
    if model != INDEX_CHANGE:
        return read_spec(model).bands
    return index_bands(dates.shared(("green", "red", "nir", "swir16", "swir22")))


def _view(dates: _Dates, scene: Scene[PairSource]) -> Scene[PairSource]:
    """The pair with the bands that people look at; as the model sees it where there are none, or none can be opened.

    It lies on the model's grid: other bands may have smaller pixels. A file that is not there is no reason to fail.
    """
    names: list[str] = []
    for name in _SEEN:
        with suppress(SourceError):
            names += dates.shared((name,))
    with suppress(BandError, GridError, SourceError):
        if names:
            seen = dates.pair(names)
            source = PairSource(*(seen_on(date, scene.geobox) for date in (seen.source.before, seen.source.after)))
            return replace(seen, source=source, geobox=scene.geobox)
    return scene


def _say_alignment(scene: Scene[PairSource], align: str | None, notify: OnEvent) -> None:
    if align is not None and (lines := differences(*scene.dates)):
        notify(Warned(message=f"the dates lie on different grids ({'; '.join(lines)}): read on that of {align}"))


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


def _plain(place: object) -> str | None:
    return None if place is None else without_secrets(str(place))


def _plain_bands(bands: object) -> dict[str, str]:
    return {name: without_secrets(str(at)) for name, at in sorted(bands.items())} if isinstance(bands, Mapping) else {}


def detect_change(
    before: SceneLike | None,
    after: SceneLike | None,
    *,
    model: str | Path | Model = "flood-s2",
    out: Place,
    align: str | Path | None = None,
    register: bool = False,
    mask_before: str | None = None,
    mask_after: str | None = None,
    bands_before: Mapping[str, str | int] | None = None,
    bands_after: Mapping[str, str | int] | None = None,
    datetime_before: str | dt.datetime | None = None,
    datetime_after: str | dt.datetime | None = None,
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
        align: The grid to read both dates on where they differ: ``before``, ``after``, or a raster that lies on it.
        register: Whether the shift that phase correlation finds between the dates is removed.
        mask_before: Mask of the earlier date (``FILE``, or ``FILE:3,8,9`` for classes), in place of ``mask``.
        mask_after: Mask of the later date.
        bands_before: Where the bands of the earlier date are, in place of ``bands``.
        bands_after: Where the bands of the later date are.
        datetime_before: Time of the earlier date, where the scene does not tell or tells it wrongly.
        datetime_after: Time of the later date.
        overwrite: Replace a finished run.
        restart: Forget an unfinished run of another request.
        cluster: Workers that several runs share, or the YAML file of a cluster to start.
        on_event: Called with each `geoseg.events` event, in the calling thread.
        options: As in `geoseg.options.SegmentOptions`; what concerns a scene holds for both dates.

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
    asked = SegmentOptions(**options)
    if asked.bands and any(not str(place).isdigit() for place in asked.bands.values()):
        raise ConfigError("bands that name files would be both dates': use bands_before and bands_after")
    found = compare(
        before,
        after,
        model=model,
        align=align,
        register=register,
        mask_before=mask_before,
        mask_after=mask_after,
        bands_before=bands_before,
        bands_after=bands_after,
        datetime_before=datetime_before,
        datetime_after=datetime_after or asked.datetime,
        on_event=on_event,
        **asked.for_scene(),
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
