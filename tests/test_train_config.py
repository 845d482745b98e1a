"""Options of a training: what is said counts over what is not, and what is wrong is named."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from geoseg.errors import ConfigError
from geoseg.train.options import TrainOptions
from geoseg.train_config import keys_of, resolve_training

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "train.md"


def test_settings_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("loss: {dice: 1}\nfit: {epochs: 7, batch: 2}\nfit.rate: 1e-4\nnet:\n")
    config = resolve_training(file, ["fit.batch=5", "net.arguments.encoder_depth=3", "data.channels=[red, NDVI]"])
    options = config.options
    assert (options.loss, options.fit.epochs, options.fit.batch, options.fit.rate) == ({"dice": 1}, 7, 5, 1e-4)
    assert options.net.arguments == {"encoder_name": "resnet18", "encoder_depth": 3}
    assert options.data.channels == ("red", "NDVI")
    origins = {"fit.epochs": str(file), "fit.batch": "--set", "fit.seed": "default", "net.arguments": "--set"}
    assert {key: config.origins[key] for key in origins} == origins


def test_what_is_shown_can_be_given_back(tmp_path: Path) -> None:
    settings = [
        "data.scaling=[{type: scale, value: 2}]",
        "class_weights=[1, 2.5]",
        "augment.scale=[0.5, 2]",
        "loss=dice",
    ]
    config = resolve_training(None, settings)
    (tmp_path / "shown.yaml").write_text(config.show())
    assert resolve_training(tmp_path / "shown.yaml").options == config.options
    assert "  scale: [0.5, 2.0]  # --set" in config.show().splitlines()
    assert resolve_training().options == TrainOptions()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epocs=3", "--set: epocs: no such option; did you mean fit.epochs?"),
        ("fit.bach=3", "--set: fit.bach: no such option; did you mean fit.batch?"),
        ("fit=3", "--set: fit is a section: name a key in it, like fit.epochs"),
        ("fit.epochs=soon", "--set: fit.epochs should be a whole number, not 'soon'"),
        ("fit.epochs=0", "fit.epochs is 0: give 1 or more"),
        ("fit.rate=.inf", "fit.rate is inf: give 0 or more"),
        ("fit.average=1", "fit.average is 1: give a number between 0 and 1"),
        ("fit.precision=fp8", "--set: fit.precision should be fp32 or bf16, not 'fp8'"),
        ("augment.scale=[2, 1]", "augment.scale is [2.0, 1.0]: give the least and the greatest factor"),
        ("augment.rotate=200", "augment.rotate is 200.0: give 0 to 180"),
        ("data.channels=[]", "data.channels is empty"),
        ("class_weights=some", "--set: class_weights should be balanced or should be a list, not 'some'"),
        ("pictures", "--set pictures: write key=value"),
        ("fit.rate=[", "--set fit.rate=[: the value is not YAML"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(setting: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_training(None, [setting])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fit: 3", "fit is a section: write keys below it, not 3"),
        ("fit: {epoch: 3}", "fit.epoch: no such option; did you mean fit.epochs?"),
        ("- 1", "should hold lines like 'loss: dice', not a list"),
        ("a: [", "not YAML"),
    ],
)
def test_files_that_are_wrong_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        resolve_training(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        resolve_training(tmp_path / "none.yaml")


def test_the_page_lists_every_option_with_its_default() -> None:
    rows = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    listed = {row[1].strip(" `"): row[2].strip(" `") for row in rows if len(row) == 5}  # key, default, meaning
    shown: dict[str, str] = {}
    section = ""
    for line in resolve_training().show().splitlines():
        name, _, value = line.partition("  # ")[0].partition(": ")
        section = section if name.startswith("  ") else f"{name.rstrip(':')}." if line.endswith(":") else ""
        if not line.endswith(":"):
            shown[section + name.strip()] = value
    assert listed == shown
    assert tuple(shown) == keys_of()


def test_sections_are_what_the_options_have() -> None:
    assert {each.name for each in fields(TrainOptions)} == {key.partition(".")[0] for key in keys_of()}
