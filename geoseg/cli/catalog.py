"""``geoseg catalog``: put runs into a catalog, find them again, check them, ask SQL of their polygons."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoseg.cli.messages import say
from geoseg.cli.options import debug_option, json_option
from geoseg.cli.outcome import CHECK_FAILED, DONE
from geoseg.cli.text import table
from geoseg.errors import ConfigError

if TYPE_CHECKING:
    from geoseg.store import Place

__all__ = ["catalog"]

_DEFAULT = "data_catalog"
_MOST = 1000

catalog_option = click.option(
    "--catalog",
    "place",
    envvar="GEOSEG_CATALOG",
    metavar="DIR",
    help=f"The catalog: a folder or s3://BUCKET/PREFIX. Default: GEOSEG_CATALOG, else {_DEFAULT} where it stands in "
    "the working directory.",
)
area_option = click.option(
    "--area",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Only what touches these polygons: GeoJSON, GeoPackage or GeoParquet.",
)
bbox_option = click.option("--bbox", metavar="W,S,E,N", help="Only what touches this box of degrees.")


def _place(given: str | None) -> Place:
    """The catalog that a person means.

    Raises:
        ConfigError: None is named, and there is none.
    """
    if given:
        return given if "://" in given else Path(given)
    if (Path(_DEFAULT) / "catalog.json").is_file():
        return Path(_DEFAULT)
    raise ConfigError(
        f"no catalog is named: write --catalog DIR (or set GEOSEG_CATALOG); there is no {_DEFAULT} in this directory"
    )


def _box(text: str) -> tuple[float, float, float, float]:
    try:
        west, south, east, north = (float(word) for word in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--bbox {text}: write W,S,E,N in degrees") from error
    return west, south, east, north


def _area(area: Path | None, bbox: str | None) -> Any:
    """What a person asks for as a polygon, or None."""
    from geoseg.catalog.query import box_shape, outline_of

    if area is not None and bbox is not None:
        raise ConfigError("--area and --bbox: give one of them")
    if area is not None:
        return outline_of(area)
    return None if bbox is None else box_shape(*_box(bbox))


@click.group()
def catalog() -> None:
    """Put runs into a catalog, find them again, check them, ask SQL of their polygons."""


@catalog.command("add")
@click.argument("runs", nargs=-1, required=True, metavar="RUNDIR...")
@catalog_option
@debug_option
def add_command(runs: tuple[str, ...], place: str | None) -> int:
    """Put finished runs into the catalog: each RUNDIR a directory or prefix that --out named, or a model package.

    Prints where the items stand. The catalog is made if it is not there. The same run again changes nothing.
    """
    from geoseg.catalog.collection import add_runs

    for item in add_runs(_place(place), [run if "://" in run else Path(run) for run in runs]):
        click.echo(str(item))
    return DONE


@catalog.command("remove")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@catalog_option
@debug_option
def remove_command(ids: tuple[str, ...], place: str | None) -> int:
    """Take items out of the catalog; the files of the runs stay."""
    from geoseg.catalog.collection import remove_items

    for item in remove_items(_place(place), ids):
        click.echo(str(item))
    return DONE


@catalog.command("search")
@catalog_option
@click.option("--api", metavar="URL", help="Search a STAC API, not a catalog.")
@bbox_option
@area_option
@click.option("--datetime", "times", metavar="FROM/TO", help="2024, 2024-05, 2024-05-17, or two of them; .. is open.")
@click.option("--where", metavar="SQL", help="A condition: model = 'flood-s2'. With --api CQL2: eo:cloud_cover < 10.")
@click.option("--collection", "collections", multiple=True, metavar="ID", help="Only of this collection.")
@click.option("--limit", type=click.IntRange(min=1), default=_MOST, show_default=True, help="How many at most.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write an ItemCollection, which geoseg segment --items takes, to FILE.",
)
@json_option
@debug_option
def search_command(
    place: str | None,
    *,
    api: str | None,
    bbox: str | None,
    area: Path | None,
    output: Path | None,
    as_json: bool,
    limit: int,
    **asked: Any,
) -> int:
    """Find items by place, time and what is known of them, the newest first.

    Prints a table on a terminal, else id and href of each, a line for each; with --json an ItemCollection.
    """
    if api is None:
        from geoseg.catalog.search import search_catalog

        found = search_catalog(_place(place), area=_area(area, bbox), limit=limit + 1, **asked)
    else:
        from geoseg.source.search import search_api

        if area is not None:
            raise ConfigError("--area: servers are searched by --bbox")
        found = search_api(api, bbox=_box(bbox) if bbox else None, limit=limit + 1, **asked)
    if len(found) > limit:
        say(f"more than {limit} items; --limit shows more", level=logging.WARNING, event="warning")
    items = found[:limit]
    text = json.dumps({"type": "FeatureCollection", "features": items}, indent=2, ensure_ascii=False)
    if output is not None:
        from geoseg.store.disk import durable

        with durable(output) as temporary:
            temporary.write_text(f"{text}\n", encoding="utf-8")
    elif as_json:
        click.echo(text)
    else:
        _show(items)
    return DONE


def _show(items: list[dict[str, Any]]) -> None:
    rows = [(str(item["id"]), _href(item)) for item in items]
    if rows and sys.stdout.isatty():
        times = [str(item["properties"].get("datetime") or "-") for item in items]
        kinds = [str(item.get("collection") or "-") for item in items]
        lines = [(name, kind, time, href) for (name, href), kind, time in zip(rows, kinds, times, strict=True)]
        click.echo(table([("id", "collection", "datetime", "item"), *lines]))
    else:
        for row in rows:
            click.echo("\t".join(row))


def _href(item: dict[str, Any]) -> str:
    return next((str(link["href"]) for link in item.get("links", ()) if link.get("rel") == "self"), "")


@catalog.command("validate")
@catalog_option
@click.option(
    "--schemas",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Also check STAC extensions by the schemas in DIR/NAME/VERSION/schema.json.",
)
@click.option("--checksums/--no-checksums", default=True, help="Read every file and compare; else sizes only.")
@json_option
@debug_option
def validate_command(place: str | None, *, schemas: Path | None, checksums: bool, as_json: bool) -> int:
    """Check that documents are valid, links lead somewhere, and files are what they were; exit code 4 if not.

    Nothing is asked of web servers.
    """
    from geoseg.catalog.audit import examine_catalog

    examined = _place(place)
    problems = examine_catalog(examined, schemas=schemas, checksums=checksums)
    if as_json:
        click.echo(json.dumps({"catalog": str(examined), "valid": not problems, "problems": problems}, indent=2))
    for problem in problems:
        say(problem, level=logging.ERROR, event="error")
    if not problems and not as_json:
        click.echo(f"{examined}: valid")
    return CHECK_FAILED if problems else DONE


@catalog.command("query")
@click.argument("sql")
@catalog_option
@area_option
@bbox_option
@click.option("--format", "kind", type=click.Choice(["table", "csv", "json", "parquet"]), help="Default: by --output.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write to FILE.")
@click.option("--spatial", is_flag=True, help="Functions of DuckDB's spatial extension, which must be installed.")
@debug_option
def query_command(
    sql: str,
    place: str | None,
    *,
    area: Path | None,
    bbox: str | None,
    kind: str | None,
    output: Path | None,
    spatial: bool,
) -> int:
    """Answer one SELECT over the polygons of all runs.

    The view polygons has a row for each polygon: item, collection, run, scene, model, datetime, class_id, class_name,
    area_m2, geometry in longitude and latitude, and more. The view items has a row for each item. With --area or
    --bbox, polygons holds only those that touch it, and inside_m2 says how much of each lies in it.
    """
    from geoseg.catalog.answer import format_of, write_answer, write_answer_file
    from geoseg.catalog.query import ask

    kind = kind or (format_of(output) if output else "table")
    if output is None and kind == "parquet":
        raise ConfigError("--format parquet: name a file with --output")
    if output is not None and kind == "table":
        raise ConfigError("--format table: is for people to read; files are csv, json or parquet")
    with ask(_place(place), sql, area=_area(area, bbox), spatial=spatial) as answer:
        if output is not None:
            write_answer_file(answer, kind, output)
        elif kind == "table":
            click.echo(_answer_table(answer))
        else:
            write_answer(answer, kind, sys.stdout)
    return DONE


def _answer_table(answer: Any) -> str:
    """Rows in columns, numbers to the right."""
    from geoseg.catalog.answer import text_rows

    kinds = ("int", "uint", "double", "float", "decimal")
    numeric = frozenset(i for i, field in enumerate(answer.schema) if str(field.type).startswith(kinds))
    return table([tuple(answer.schema.names), *text_rows(answer)], right=numeric)
