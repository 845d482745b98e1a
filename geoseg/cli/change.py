"""``geoseg change``: two scenes in, a map of what changed out."""

from __future__ import annotations

import click

from geoseg.cli.messages import set_up_messages
from geoseg.cli.options import EPILOG, GroupedCommand, run_options
from geoseg.cli.scenes import pair_of_inputs
from geoseg.cli.segment import run_all
from geoseg.config import ChangeConfig
from geoseg.resolved import Resolved

__all__ = ["change"]


@click.command(cls=GroupedCommand, epilog=EPILOG)
@run_options(ChangeConfig, metavar="BEFORE AFTER", skip=("items", "mosaic"))
def change(resolved: Resolved[ChangeConfig]) -> int:
    """Turn two scenes of one place into a map of what changed, polygons, pictures and a STAC item in DIR.

    Prints the path of item.json. A run that was interrupted resumes when the same command is given again.
    """
    config = resolved.config
    set_up_messages(**config.for_messages())
    return run_all([pair_of_inputs(config)], config, several=False)
