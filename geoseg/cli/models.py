"""``geoseg models``: list, show and validate model packages."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.options import debug_option, json_option
from geoseg.cli.outcome import CHECK_FAILED, DONE
from geoseg.cli.text import table

if TYPE_CHECKING:
    from geoseg.spec import Channel, ModelSpec

__all__ = ["models"]


@click.group()
def models() -> None:
    """List, show and validate model packages."""


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
        ("output", f"{spec.activation}, labels {spec.label_dtype}, nodata {spec.label_nodata}"),
    ]
    classes: list[tuple[Any, ...]] = [
        (str(info.value), info.name, f"#{info.color}", info.title, info.description) for info in spec.classes
    ]
    return f"{table(rows)}\nclasses\n{table(classes, right=frozenset({0}), indent=2)}"


def _tile(spec: ModelSpec) -> str:
    overlap = spec.tile // 4 if spec.overlap is None else spec.overlap
    multiple = f", a multiple of {spec.multiple_of}" if spec.multiple_of > 1 else ""
    return f"{spec.tile} pixels{' (fixed)' if spec.static_tile else multiple}, overlap {overlap}"


def _scaling(spec: ModelSpec) -> str:
    scaling = spec.assume_scaling
    if scaling is None:
        return "as the scene declares"
    return f"as the scene declares; where it declares none: x {scaling.scale:g} + {scaling.offset:g}"
