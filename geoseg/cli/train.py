"""``geoseg train``: a folder of chips in, a model package out."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from geoseg.cli.messages import log_is_json, say, set_up_messages
from geoseg.cli.options import json_option
from geoseg.cli.outcome import DONE, exit_code, say_error
from geoseg.cli.signals import Signals
from geoseg.cli.text import count_text
from geoseg.errors import ConfigError
from geoseg.events import Warned

if TYPE_CHECKING:
    from geoseg.train.training import EpochDone, TrainBegan, Trained

__all__ = ["train"]

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(epilog="docs/reference/train.md lists every key; --show-config shows what holds.")
@click.option("-c", "--config", "file", type=_FILE, metavar="FILE.yaml", help="Options: loss, fit.epochs, ...")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="One option, like fit.epochs=20; wins over the file."
)
@click.option(
    "-o", "--out", metavar="DIR", help="Folder of checkpoints, history, pictures and package; as --set out=DIR."
)
@click.option("--show-config", "show", is_flag=True, help="Print every option and where it came from, and stop.")
@click.option("--overwrite", is_flag=True, help="Replace another training in DIR.")
@json_option
@click.option("--log-json", is_flag=True, help="Messages as JSON, one object per line.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors.")
@click.option("--debug", is_flag=True, help="Tracebacks and library messages.")
def train(
    *,
    file: Path | None,
    settings: tuple[str, ...],
    out: str | None,
    show: bool,
    overwrite: bool,
    as_json: bool,
    log_json: bool,
    quiet: bool,
    debug: bool,
) -> int:
    """Train a net on the chips that geoseg chips cut, and write a model package.

    Prints the package's folder. A training that was interrupted goes on when the same command is given again.
    """
    from geoseg.train_config import resolve_training

    config = resolve_training(file, (*settings, *((f"out={json.dumps(out)}",) if out is not None else ())))
    if show:
        click.echo(config.show(), nl=False)
        return DONE
    if config.options.out is None:
        raise ConfigError("--out is missing: name the folder of the training")
    set_up_messages(debug=debug, verbose=not quiet, quiet=quiet, as_json=log_json)
    place = Path(config.options.out)
    teller = _Teller()
    with Signals() as signals:
        try:
            from geoseg.train.training import train as train_net

            made = train_net(config.options, place, overwrite=overwrite, on_event=teller)
        except KeyboardInterrupt as error:
            signals.hint = ""
            kept = teller.advice(place) if teller.began else "nothing was written"
            say(f"interrupted; {kept}", level=logging.ERROR, event="interrupted")
            return exit_code(error, began=teller.began)
        except Exception as error:
            if not teller.began:
                raise
            say_error(error, debug=debug, advice=f"{teller.advice(place).capitalize()}")
            return exit_code(error, began=True)
    _tell_end(made, as_json=as_json)
    return DONE


class _Teller:
    """Says how a training gets on, and remembers whether it began."""

    began = False

    def __call__(self, event: TrainBegan | EpochDone | Warned) -> None:
        from geoseg.train.training import TrainBegan

        if isinstance(event, Warned):
            say(event.message, level=logging.WARNING, event="warning")
        elif isinstance(event, TrainBegan):
            self.began = True
            say(_begun(event), event="began", epoch=event.epoch, step=event.step, chips=dict(event.chips))
        else:
            say(_epoch_line(event), event="epoch", is_best=event.is_best, row=dict(event.row))

    def advice(self, place: Path) -> str:
        return f"the same command goes on from the last checkpoint in {place}"


def _begun(event: TrainBegan) -> str:
    chips = ", ".join(f"{count_text(number)} to {_USES[split]}" for split, number in event.chips.items())
    where = f", step {event.step + 1}" if event.step else ""
    on = f"; goes on with epoch {event.epoch + 1}{where}" if event.epoch or event.step else ""
    return f"{count_text(event.parameters)} parameters on {event.device}; chips: {chips}{on}"


_USES = {"train": "learn from", "val": "judge by", "test": "test with"}


def _epoch_line(event: EpochDone) -> str:
    row = event.row
    told = f"epoch {row['epoch']} of {event.epochs}: loss {row['loss']:.4f}"
    if "val_loss" in row:
        told += f", val loss {row['val_loss']:.4f}, mean IoU {row['val_miou']:.4f}"
    return told + (", the best so far" if event.is_best else "")


def _tell_end(made: Trained, *, as_json: bool) -> None:
    if as_json:
        document = {"package": str(made.package), "history": str(made.history), "epochs": made.epochs}
        click.echo(json.dumps({**document, "metrics": made.metrics}, indent=2))
        return
    if not log_is_json():
        for split, figures in made.metrics.items():
            say(f"{split}: mean IoU {figures['miou']}, " + ", ".join(f"{k} {v}" for k, v in figures["iou"].items()))
    click.echo(str(made.package))
