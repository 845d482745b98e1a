"""The program: its commands, each imported when it is called, and what becomes of an error."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import sys
from collections.abc import Sequence

import click

from geoseg.cli.messages import say, set_up_messages
from geoseg.cli.outcome import DONE, FAILED, USAGE, exit_code, say_error
from geoseg.cli.streams import drop, stand_in

__all__ = ["LazyGroup", "program", "run"]

COMMANDS = {
    "segment": ("geoseg.cli.segment:segment", "Turn scenes into class maps, polygons and STAC items."),
    "change": ("geoseg.cli.change:change", "Turn two scenes into a map of what changed between them."),
    "vectorize": ("geoseg.cli.vectorize:vectorize", "Turn a raster of class values into polygons."),
    "evaluate": ("geoseg.cli.evaluate:evaluate", "Compare a map with the truth: scores, areas, intervals."),
    "calibrate": ("geoseg.cli.calibrate:calibrate", "Make a model as sure as it is right, on labelled scenes."),
    "chips": ("geoseg.cli.chips:chips", "Cut training chips from scenes and labels."),
    "train": ("geoseg.cli.train:train", "Train a net on chips; ends with a model package."),
    "plan": ("geoseg.cli.plan:plan", "Say what segment would do: tiles, memory, bytes, time."),
    "run": ("geoseg.cli.workflow:run_pipeline", "Carry out a pipeline: a YAML file of steps, resumable."),
    "catalog": ("geoseg.cli.catalog:catalog", "Catalog runs, find and check them, ask SQL of their polygons."),
    "view": ("geoseg.cli.view:view", "Write a finished run as one page that opens from disk."),
    "serve": ("geoseg.cli.serve:serve", "Answer requests over HTTP: jobs, maps, tiles, features."),
    "status": ("geoseg.cli.status:status", "Say how far a run is, from a second terminal."),
    "worker": ("geoseg.cli.worker:worker", "Work for a cluster: one process per GPU, or per core."),
    "models": ("geoseg.cli.models:models", "Model packages: list, show, validate, import, export, probe."),
    "doctor": ("geoseg.cli.doctor:doctor", "Check this installation and this machine."),
}
"""Name -> where it is, and one line; nothing is imported for the list of commands."""


class LazyGroup(click.Group):
    """A group that imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names, in the order of a person's way through them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """The command, imported now; None where there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: ARG001 - as above
    if value and not ctx.resilient_parsing:
        from geoseg import __version__

        click.echo(f"geoseg {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="geoseg COMMAND --help tells more.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Version.")
def program() -> None:
    """Turn satellite scenes into maps: COGs, polygons and STAC items."""


def _usage_line(error: click.ClickException) -> str:
    ctx = getattr(error, "ctx", None)
    hint = f" See {ctx.command_path} --help." if ctx is not None else ""
    text = error.format_message().strip()
    return (text if text.endswith(("?", ".", ")")) else f"{text}.") + hint


def _switched_on(switch: str, arguments: Sequence[str]) -> bool:
    """Whether a switch is on, as far as can be told before options are read: errors in them are messages too."""
    variable = f"GEOSEG_{switch.replace('-', '_').upper()}"
    return f"--{switch}" in arguments or os.environ.get(variable, "").lower() in {"1", "true", "yes", "on"}


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns the exit code; every error has become one line on standard error."""
    stand_in()
    debug = _switched_on("debug", arguments)
    set_up_messages(debug=debug, as_json=_switched_on("log-json", arguments))
    try:
        code = program.main(args=list(arguments), prog_name="geoseg", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else DONE
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.ClickException as error:
        say(_usage_line(error), level=logging.ERROR, event="error", error="UsageError")
        return USAGE
    except BrokenPipeError:  # the reader of our output has gone: nobody is left to tell
        drop(sys.stdout)
        return FAILED
    except (click.Abort, KeyboardInterrupt) as error:
        say("interrupted; nothing was written", level=logging.ERROR, event="interrupted")
        return exit_code(error, began=False) if isinstance(error, KeyboardInterrupt) else 130
    except Exception as error:  # noqa: BLE001 - the last place where an error can become a line
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
            drop(sys.stdout)
        say_error(error, debug=debug)
        return exit_code(error, began=False)
