"""``geoseg models``: list, show, validate, import and export model packages, and measure how far their nets see."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from geoseg.cli.options import debug_option, json_option
from geoseg.cli.outcome import CHECK_FAILED, DONE
from geoseg.cli.text import table
from geoseg.errors import ConfigError

if TYPE_CHECKING:
    from geoseg.models.halo import Halo
    from geoseg.spec import Channel, ModelSpec

__all__ = ["models"]


@click.group()
def models() -> None:
    """List, show, validate, import and export model packages; measure how far a net sees."""


@models.command("list")
@json_option
@debug_option
def list_command(as_json: bool) -> int:
    """List the models that can be named without a path."""
    from geoseg.models import list_models

    found = list_models()
    if as_json:
        click.echo(json.dumps([{"name": name, "description": text} for name, text in found], indent=2))
    elif found:
        click.echo(table(found))
    return DONE


@models.command("show")
@click.argument("model")
@json_option
@debug_option
def show_command(model: str, as_json: bool) -> int:
    """Show what MODEL (a name, or the directory of a package) needs and gives."""
    from geoseg.models import package_path, read_spec

    spec = read_spec(model)
    path = str(package_path(model))
    if as_json:
        click.echo(json.dumps({"path": path, **asdict(spec)}, indent=2, default=str))
    else:
        click.echo(_card(spec, path))
    return DONE


@models.command("validate")
@click.argument("package")
@json_option
@debug_option
def validate_command(package: str, as_json: bool) -> int:
    """Check that PACKAGE (a name or a directory) keeps what its card promises; exit code 4 if it does not."""
    from geoseg.models import validate_package

    problems = validate_package(package)
    if as_json:
        click.echo(json.dumps({"package": package, "valid": not problems, "problems": problems}, indent=2))
    for problem in problems:
        click.echo(f"geoseg: error: {package}: {' '.join(problem.split())}", err=True)
    if not problems and not as_json:
        click.echo(f"{package}: valid")
    return CHECK_FAILED if problems else DONE


@models.command("import")
@click.argument("source")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Where it goes."
)
@click.option("--name", metavar="NAME", help="Of the model; else that of SOURCE.")
@click.option("--bands", metavar="red,nir,...", help="Input channels in order; B4, B8A are those of Sentinel-2.")
@click.option("--classes", metavar="other,water,...", help="Names of the output channels in order.")
@click.option(
    "--normalise",
    multiple=True,
    metavar="KIND:NUMBERS",
    help="From reflectance to what it was trained on: z-score:MEAN,SD, min-max:LOW,HIGH, scale:DIVISOR, or none; "
    "once for all channels, or once for each.",
)
@click.option("--scale", type=float, help="Reflectance per stored unit, where scenes declare none.")
@click.option("--offset", type=float, default=0.0, help="Reflectance of a stored 0, with --scale.")
@click.option("--tile", type=click.IntRange(min=1), metavar="PIXELS", help="Side of the square that it sees.")
@click.option("--multiple-of", type=click.IntRange(min=1), metavar="PIXELS", help="Its total stride.")
@click.option(
    "--activation", type=click.Choice(["softmax", "sigmoid", "none"]), help="What makes its outputs probabilities."
)
@click.option("--description", metavar="TEXT", help="One line about it.")
@click.option("--weights", metavar="FILE", help="File or URL, in place of the address that torchgeo knows.")
@click.option("--overwrite", is_flag=True, help="Replace the package in DIR.")
@debug_option
def import_command(
    source: str,
    *,
    out: Path,
    bands: str | None,
    classes: str | None,
    normalise: tuple[str, ...],
    scale: float | None,
    offset: float,
    weights: str | None,
    overwrite: bool,
    **said: Any,
) -> int:
    """Make a model package of SOURCE.

    SOURCE is the name of a weights enum of torchgeo (Unet_Weights.SENTINEL2_3CLASS_FTW), a folder that
    segmentation_models_pytorch's save_pretrained wrote, a Lightning checkpoint of torchgeo's tasks, an ONNX file or a
    torch.export archive. Nothing of it is run as code.
    """
    from geoseg.models import validate_package
    from geoseg.models.imports import Told, import_model
    from geoseg.scene import Scaling

    told = Told(
        bands=_words(bands),
        classes=_words(classes),
        value_scaling=_scalings(normalise),
        assume_scaling=None if scale is None else Scaling(scale=scale, offset=offset),
        **said,
    )
    path = import_model(source, out, told, weights=weights, overwrite=overwrite)
    problems = validate_package(path)
    for problem in problems:
        click.echo(f"geoseg: error: {path}: {' '.join(problem.split())}", err=True)
    click.echo(str(path))
    return CHECK_FAILED if problems else DONE


@models.command("export")
@click.argument("model")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Where it goes."
)
@click.option("--format", "kind", type=click.Choice(["onnx", "pt2"]), default="onnx", show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace the package in DIR.")
@json_option
@debug_option
def export_command(model: str, *, out: Path, kind: Literal["onnx", "pt2"], overwrite: bool, as_json: bool) -> int:
    """Make a package of MODEL with its graph as ONNX or torch.export, compared with the original on random tiles."""
    from geoseg.models.export import export_package

    made = export_package(model, out, kind, overwrite=overwrite)
    if as_json:
        click.echo(json.dumps({**asdict(made), "path": str(made.path)}, indent=2))
        return DONE
    sides = " and ".join(map(str, made.tiles))
    fixed = "" if made.static_tile is None else f"; it runs tiles of {made.static_tile} pixels only"
    click.echo(f"{made.path}: largest difference {made.difference:.1e} on tiles of {sides} pixels{fixed}")
    return DONE


@models.command("probe")
@click.argument("model")
@click.option("--write", is_flag=True, help="Write geoseg:halo into the card of MODEL.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Or into that of a copy.")
@json_option
@debug_option
def probe_command(model: str, *, write: bool, out: Path | None, as_json: bool) -> int:
    """Measure how far the net of MODEL sees, and say which overlap makes tiles agree with one pass over the whole."""
    from geoseg.models.halo import measure_halo
    from geoseg.models.package import open_package, read_spec, verify
    from geoseg.models.writing import amend_card, demand_own

    package = open_package(model)
    verify(package)
    if write or out is not None:
        demand_own(package, out)
    halo = measure_halo(package)
    path = None
    if write or out is not None:
        path = amend_card(package, {"geoseg:halo": halo.radius}, out)
    if as_json:
        facts = {"halo": halo.radius, "crop": halo.overlap_for_crop, "ramp": halo.overlap_for_ramp, **asdict(halo)}
        click.echo(json.dumps({"model": model, **facts, "written": path and str(path)}, indent=2))
    else:
        click.echo(_halo_text(halo, package.spec))
        if path is not None:
            click.echo(f"{path}: geoseg:halo {halo.radius}, digest {read_spec(path).digest[:12]}")
    return DONE


def _halo_text(halo: Halo, spec: ModelSpec) -> str:
    seen = f"{halo.radius} pixels"
    if not halo.bounded:
        seen = f"all of a tile of {halo.tile} pixels: tiles agree only in part, whatever the overlap"
    rows = [("halo", seen), ("moved by a changed pixel", f"{halo.perturbation} pixels")]
    if halo.gradient is not None:
        rows += [("felt by gradient", f"{halo.gradient} pixels"), ("reached by any gradient", f"{halo.reach} pixels")]
    if halo.bounded:
        for blend, overlap in (("crop", halo.overlap_for_crop), ("ramp", halo.overlap_for_ramp)):
            rows.append((f"exact with {blend}", f"from an overlap of {overlap} pixels{_fitting(overlap, spec)}"))
    return table(rows)


def _fitting(overlap: int, spec: ModelSpec) -> str:
    """An overlap is half the tile at most."""
    if 2 * overlap <= spec.tile:
        return ""
    if spec.static_tile is not None:
        return f", more than the half of {spec.static_tile} pixels that its graph fixes"
    return f", with --tile {2 * overlap} or more"


def _words(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(word.strip() for word in text.split(",") if word.strip())


_NUMBERS = {
    "z-score": ("mean", "stddev"),
    "min-max": ("minimum", "maximum"),
    "clip": ("minimum", "maximum"),
    "scale": ("value",),
    "offset": ("value",),
}


def _scalings(texts: tuple[str, ...]) -> tuple[dict[str, Any], ...] | None:
    """MLM value scaling objects; None where nothing is said, empty for ``none``.

    >>> _scalings(("z-score:0.2,0.1",)), _scalings(("none",)), _scalings(())
    (({'type': 'z-score', 'mean': 0.2, 'stddev': 0.1},), (), None)
    """
    if not texts or texts == ("none",):
        return () if texts else None
    return tuple(map(_value_scaling, texts))


def _value_scaling(text: str) -> dict[str, Any]:
    kind, _, rest = text.partition(":")
    try:
        numbers = [float(number) for number in rest.split(",")]
        return {"type": kind, **dict(zip(_NUMBERS[kind], numbers, strict=True))}
    except (KeyError, ValueError):
        forms = [f"{name}:{','.join(words).upper()}" for name, words in _NUMBERS.items()]
        raise ConfigError(f"--normalise {text}: write one of {', '.join(forms)}, or none") from None


def _channel(channel: Channel) -> str:
    return channel.name if channel.expression is None else f"{channel.name} = {channel.expression}"


def _card(spec: ModelSpec, path: str) -> str:
    rows: list[tuple[str, str]] = [
        ("name", spec.name),
        ("what", spec.description or "-"),
        ("task", spec.task),
        ("package", path),
        ("digest", spec.digest[:12] or "-"),
        ("bands", ", ".join(spec.bands)),
        ("channels", ", ".join(map(_channel, spec.channels))),
        ("scaling", _scaling(spec)),
        ("tile", _tile(spec)),
        ("halo", "not measured" if spec.halo is None else f"{spec.halo} pixels"),
        ("output", f"{_activation(spec)}, labels {spec.label_dtype}, nodata {spec.label_nodata}"),
    ]
    classes: list[tuple[Any, ...]] = [
        (str(info.value), info.name, f"#{info.color}", info.title, info.description) for info in spec.classes
    ]
    return f"{table(rows)}\nclasses\n{table(classes, right=frozenset({0}), indent=2)}"


def _activation(spec: ModelSpec) -> str:
    return spec.activation if spec.temperature == 1 else f"{spec.activation} at temperature {spec.temperature:g}"


def _tile(spec: ModelSpec) -> str:
    overlap = spec.tile // 4 if spec.overlap is None else spec.overlap
    multiple = f", a multiple of {spec.multiple_of}" if spec.multiple_of > 1 else ""
    return f"{spec.tile} pixels{' (fixed)' if spec.static_tile else multiple}, overlap {overlap}"


def _scaling(spec: ModelSpec) -> str:
    scaling = spec.assume_scaling
    if scaling is None:
        return "as the scene declares"
    return f"as the scene declares; where it declares none: x {scaling.scale:g} + {scaling.offset:g}"
