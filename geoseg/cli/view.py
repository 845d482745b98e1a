"""``geoseg view``: a finished run as one page that opens from disk."""

from __future__ import annotations

import logging
import webbrowser
from pathlib import Path

import click

from geoseg.cli.messages import say
from geoseg.cli.options import debug_option
from geoseg.cli.outcome import DONE
from geoseg.cli.text import byte_text

__all__ = ["view"]


@click.command()
@click.argument("folder", metavar="RUNDIR")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The page to write. Default: view.html in RUNDIR.",
)
@click.option(
    "--max-size",
    type=click.FloatRange(0.5, 500),
    default=20.0,
    show_default=True,
    metavar="MB",
    help="Size of the page at most; the smallest polygons are left out first.",
)
@click.option("--qgis", is_flag=True, help="Write a QGIS project, run.qgs in RUNDIR, in place of the page.")
@click.option("--open", "opened", is_flag=True, help="Show the page in this machine's browser.")
@debug_option
def view(folder: str, out: Path | None, *, max_size: float, qgis: bool, opened: bool) -> int:
    """Write the finished run in RUNDIR as one HTML file, and print its path.

    The page holds map, polygons, legend, areas and confidence. It opens from disk and asks no server for anything, so
    it can be sent by mail or laid on any web space. Nothing else in RUNDIR is touched.
    """
    if qgis:
        if out is not None or opened:
            raise click.UsageError("--qgis writes run.qgs in RUNDIR: -o and --open are for the page")
        from geoseg.sink.qgis import write_project

        click.echo(str(write_project(folder)))
        return DONE
    from geoseg.pages.view import write_view

    page = write_view(folder, out, largest=int(max_size * 1e6))
    for note in page.notes:
        say(note, level=logging.WARNING, event="warning")
    say(f"{page.path}: {byte_text(page.size)}", event="written", size=page.size)
    click.echo(str(page.path))
    if opened:
        webbrowser.open(page.path.absolute().as_uri() if isinstance(page.path, Path) else page.path)
    return DONE
