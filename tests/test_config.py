"""`RunConfig`: what is accepted, what is refused with which words, and which of several places wins."""

from __future__ import annotations

import datetime as dt
import inspect
import math
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from geoseg.config import ChangeConfig, RunConfig
from geoseg.errors import ConfigError
from geoseg.polygon_config import VectorizeConfig
from geoseg.resolved import PREFIX, key_of, read_options, resolve, show_config

DEFAULT = RunConfig.model_validate({})
KEYS = {key_of(name, field) for name, field in RunConfig.model_fields.items()}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_valid_and_every_origin_is_known() -> None:
    resolved = resolve({})
    assert resolved.config == DEFAULT
    assert set(resolved.origins) == KEYS
    assert set(resolved.origins.values()) == {"default"}


def test_every_option_is_described_and_grouped() -> None:
    for name, field in (RunConfig.model_fields | VectorizeConfig.model_fields).items():
        assert field.description, name
        assert isinstance(field.json_schema_extra, dict), name
        groups = {"Map", "Scene", "Model", "Run", "Result", "Polygons", "Messages"}
        assert field.json_schema_extra["group"] in groups, name


@given(st.lists(st.sampled_from(["command line", "environment", "file"]), unique=True))
def test_command_line_over_environment_over_file_over_default(places: list[str]) -> None:
    numbers = {"command line": 1, "environment": 2, "file": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_text", lambda *_, **__: "tile: 3\n")
        resolved = resolve(
            {"tile": "1"} if "command line" in places else {},
            environ={"GEOSEG_TILE": "2"} if "environment" in places else {},
            file=Path("run.yaml") if "file" in places else None,
        )
    winner = min(places, key=numbers.__getitem__, default=None)
    assert resolved.config.tile == (numbers[winner] if winner else None)
    names = {"command line": "command line", "environment": "GEOSEG_TILE", "file": "run.yaml", None: "default"}
    assert resolved.origins["tile"] == names[winner]


def test_what_show_config_prints_is_the_same_configuration_when_given_back(tmp_path: Path) -> None:
    first = resolve(
        {
            "inputs": ("a b.tif", "c.tif"),
            "out": "map",
            "bands": "red=3,nir=dir/B08.tif",
            "bbox": "-3.5,40,-3,41",
            "vector": "none",
            "datetime": "2024-05-17T10:20:31+02:00",
            "batch_size": "4",
            "nodata": "-9999",
            "assume_crs": 32633,
            "confidence": False,
        }
    )
    text = show_config(first)
    again = resolve({}, file=write(tmp_path / "run.yaml", text))
    assert again.config == first.config
    assert set(yaml.safe_load(text)) == KEYS
    assert "bbox: [-3.5, 40.0, -3.0, 41.0]  # command line\n" in text
    assert "tile: null  # default\n" in text


def test_keys_of_a_file_may_have_hyphens_and_nothing_in_it_is_fine(tmp_path: Path) -> None:
    assert resolve({}, file=write(tmp_path / "a.yaml", "batch-size: 3\n")).config.batch_size == 3
    assert resolve({}, file=write(tmp_path / "b.yaml", "# nothing\n")).config == DEFAULT


def test_an_empty_variable_and_those_of_other_programs_do_not_count() -> None:
    assert resolve({}, environ={"GEOSEG_TILE": "", "GEOSEG_CACHE": "/tmp", "TILE": "3"}).config.tile is None


@pytest.mark.parametrize(
    ("key", "given", "value"),
    [
        ("bands", "red=3, NIR = 4", {"red": 3, "nir": 4}),
        ("bands", "red=https://h/a.tif?x=1,y,nir=b,c.tif", {"red": "https://h/a.tif?x=1,y", "nir": "b,c.tif"}),
        ("bands", {"red": 3, "nir": "B08.tif"}, {"red": 3, "nir": "B08.tif"}),
        ("vector", "none", ()),
        ("vector", None, ()),
        ("vector", "parquet, geojson,parquet", ("parquet", "geojson")),
        ("vector", ["fgb"], ("fgb",)),
        ("bbox", [1, 2, 3, 4], (1.0, 2.0, 3.0, 4.0)),
        ("bbox", "170,-10,-170,10", (170.0, -10.0, -170.0, 10.0)),
        ("batch_size", "auto", "auto"),
        ("batch_size", 8, 8),
        ("datetime", "2024-05-17", dt.datetime(2024, 5, 17, tzinfo=dt.UTC)),
        ("datetime", dt.date(2024, 5, 17), dt.datetime(2024, 5, 17, tzinfo=dt.UTC)),
        ("datetime", "2024-05-17T01:02:03Z", dt.datetime(2024, 5, 17, 1, 2, 3, tzinfo=dt.UTC)),
        ("scale", "1e-4", 1e-4),
        ("crs", "32633", "EPSG:32633"),
        ("assume_crs", 4326, "EPSG:4326"),
        ("confidence", "no", False),
        ("inputs", "a.tif", ("a.tif",)),
    ],
)
def test_accepted(key: str, given: object, value: object) -> None:
    assert getattr(resolve({key: given}).config, key) == value


def test_nodata_may_be_nan() -> None:
    nodata = resolve({"nodata": "nan"}).config.nodata
    assert nodata is not None
    assert math.isnan(nodata)


@pytest.mark.parametrize(
    ("key", "given", "says"),
    [
        ("tile", "abc", "--tile: should be a whole number, not 'abc'"),
        ("tile", "0", "--tile: should be greater than 0, not '0'"),
        ("tile", True, "--tile: should be a value, not True"),
        ("overlap", "-1", "--overlap: should be greater than or equal to 0, not '-1'"),
        ("blend", "max", "--blend: should be ramp, linear, gaussian or crop, not 'max'"),
        ("device", "gpu", "--device: should be auto, cpu, cuda or cuda:N, not 'gpu'"),
        ("batch_size", "0", "--batch-size: should be auto or a whole number above 0, not '0'"),
        ("bands", "red", "--bands: should name bands by index or file, like red=3,nir=4 or red=B04.tif,nir=B08.tif"),
        ("bands", "red=0", "--bands: should name each band once, by an index from 1 up or by a file, not 'red=0'"),
        ("bands", "red=1,red=2", "--bands: should name each band once"),
        ("bbox", "1,2,3", "--bbox: should be four numbers W,S,E,N in degrees, not '1,2,3'"),
        ("bbox", "1,5,2,4", "--bbox: should be W,S,E,N in degrees, with S below N, not '1,5,2,4'"),
        ("bbox", "1,2,3,nan", "--bbox: should be W,S,E,N in degrees"),
        ("vector", "shp", "--vector: should be none, or a list of geojson, geojsonl, parquet, fgb, gpkg, pmtiles, not"),
        ("datetime", "yesterday", "--datetime: should be a date or time like 2024-05-17"),
        ("scale", "inf", "--scale: should be a finite number, not 'inf'"),
        ("scale", "0", "--scale 0 would make every pixel the same"),
        ("resolution", "0", "--resolution: should be greater than 0"),
        ("confidence", "maybe", "--confidence: should be true or false, not 'maybe'"),
    ],
)
def test_refused_with_the_option_and_the_value(key: str, given: object, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve({key: given})
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_an_error_names_the_variable_or_the_file_and_its_key(tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", "blend: max\n")
    with pytest.raises(ConfigError, match=rf"^{file}: blend: should be ramp.*, not 'max'$"):
        resolve({}, file=file)
    with pytest.raises(ConfigError, match=r"^GEOSEG_BLEND: should be ramp.*, not 'max'$"):
        resolve({}, file=file, environ={"GEOSEG_BLEND": "max"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tyle: 3\n", "tyle: no such option; did you mean tile?"),
        ("zzz: 3\n", "zzz: no such option"),
        ("tile: [1\n", "not YAML"),
        ("- tile\n", "should hold lines like 'tile: 512', not a list"),
        ("a: !!python/object/apply:os.system [ls]\n", "not YAML"),
        ("tile: {a: 1}\n", "tile: should be a whole number, not {'a': 1}"),
        ("datetime: 2024-13-45\n", "datetime: should be a date or time like 2024-05-17"),
        ("tile: 64\nblend: ramp\ntile: 128\n", "line 3: tile stands there twice (line 1)"),
        ("batch-size: 2\nbatch_size: 4\n", "line 2: batch_size stands there twice (line 1, as batch-size)"),
        ("bands:\n  red: 1\n  nir: 2\n  red: 3\n", "line 4: red stands there twice (line 2)"),
        ("tile: !!int x\n", "not YAML (invalid literal for int"),
    ],
)
def test_a_wrong_file_is_refused_by_name(text: str, says: str, tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", text)
    with pytest.raises(ConfigError) as caught:
        resolve({}, file=file)
    assert str(caught.value).startswith(f"{file}: {says}")
    assert "\n" not in str(caught.value)


def test_a_part_of_a_file_has_each_key_once_too() -> None:
    with pytest.raises(ConfigError, match=r"^a\.yaml: step a: batch_size stands there twice, with - and with _"):
        read_options({"batch-size": 2, "batch_size": 4}, origin="a.yaml: step a", kind=RunConfig)


def test_names_of_bands_differ_in_a_dash() -> None:
    assert resolve({"bands": {"b-1": 1, "b_1": 2}}).config.bands == {"b-1": 1, "b_1": 2}


@pytest.mark.parametrize("given", ["", " "])
def test_results_do_not_go_into_the_current_folder_for_want_of_a_name(given: str) -> None:
    with pytest.raises(ConfigError, match=r"^--out: is empty, where a directory should be named"):
        resolve({"out": given})
    assert resolve({"out": "."}).config.out == Path()


def test_every_variable_that_is_named_anywhere_is_an_option_or_known_to_be_none() -> None:
    """Whoever sets a variable for one command must not break the others by it."""
    root = Path(__file__).parents[1]
    files = [root / name for name in ("README.md", "Dockerfile", "compose.yaml")]
    for folder in ("geoseg", "docs", "deploy", "integrations", "notebooks", "pipelines"):
        files += [path for path in (root / folder).rglob("*") if path.suffix in {".py", ".md", ".yaml", ".ipynb"}]
    named = {name for path in files for name in re.findall(r"GEOSEG_[A-Z]+(?:_[A-Z]+)*", path.read_text("utf-8"))}
    assert {"GEOSEG_CATALOG", "GEOSEG_CACHE", "GEOSEG_TILE"} <= named
    for kind in (RunConfig, ChangeConfig, VectorizeConfig):
        options = {PREFIX + key_of(name, field).upper() for name, field in kind.model_fields.items()}
        for variable in sorted(named - options):
            resolve({}, environ={variable: "anything"}, kind=kind)


def test_a_missing_or_binary_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.yaml: cannot read the configuration \(No such file"):
        resolve({}, file=tmp_path / "no.yaml")
    (tmp_path / "bin.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"bin\.yaml: not YAML"):
        resolve({}, file=tmp_path / "bin.yaml")


def test_a_misspelt_variable_is_refused() -> None:
    with pytest.raises(ConfigError, match="GEOSEG_TYLE is no option of geoseg; did you mean GEOSEG_TILE"):
        resolve({}, environ={"GEOSEG_TYLE": "3"})


def test_quiet_and_verbose_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        resolve({"quiet": True}, environ={"GEOSEG_VERBOSE": "1"})


@given(st.dictionaries(st.sampled_from(sorted(KEYS)), st.text(max_size=12), max_size=3))
def test_any_text_is_accepted_or_refused_in_one_line(texts: dict[str, str]) -> None:
    try:
        resolve({}, environ={PREFIX + key.upper(): text for key, text in texts.items()})
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017  either way is right


def test_the_pipeline_takes_exactly_these_options_with_these_defaults() -> None:
    from geoseg.options import SegmentOptions
    from geoseg.pipeline import segment

    passed = DEFAULT.for_pipeline()
    assert passed.pop("model") == inspect.signature(segment).parameters["model"].default
    shared = asdict(DEFAULT.for_cluster())
    own = {"workers", "scheduler", "scheduler_file", "worker_timeout", "report"}
    assert passed | {key: shared[key] for key in own} == {
        key: value for key, value in asdict(SegmentOptions()).items() if key != "scene_id"
    }
    assert DEFAULT.for_cluster() == SegmentOptions().for_cluster()
