"""Files of pipelines: what they say with the values of their variables, and everything that is refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import ConfigError
from geoseg.workflow import Workflow, read_workflow

PIPELINE = """
variables: {scene: null, tile: 64, formats: [parquet]}
steps:
  cover:
    segment:
      inputs: ${scene}
      tile: ${tile}
      vector: ${formats}
      bands: {red: "${scene}-B04.tif"}
  regions:
    vectorize:
      inputs: ${cover.labels}
      stats: ["${cover.confidence}:mean"]
"""


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def _read(text: str, **given: str) -> Workflow:
        path = tmp_path / "p.yaml"
        path.write_text(text)
        return read_workflow(path, given)

    return _read


def test_variables_keep_their_types_alone_and_are_text_inside_text(read: Any) -> None:
    found = read(PIPELINE, scene="a.tif")
    cover, regions = found.steps
    bands = {"red": "a.tif-B04.tif"}
    assert cover.options == {"inputs": "a.tif", "tile": 64, "vector": ["parquet"], "bands": bands}
    assert (cover.name, cover.verb, cover.needs) == ("cover", "segment", ())
    assert (regions.verb, regions.needs) == ("vectorize", ("cover",))
    assert found.variables == {"scene": "a.tif", "tile": 64, "formats": ["parquet"]}


def test_what_is_set_wins_over_the_file(read: Any) -> None:
    options = read(PIPELINE, scene="[a.tif, b.tif]", tile="128", formats="none").steps[0].options
    assert (options["inputs"], options["tile"], options["vector"]) == (["a.tif", "b.tif"], "128", "none")


def test_the_environment_is_no_source_of_values(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("scene", "SCENE", "GEOSEG_SCENE"):
        monkeypatch.setenv(name, "a.tif")
    with pytest.raises(ConfigError, match="variable scene has no value; add --set scene=VALUE"):
        read(PIPELINE)


def test_references_are_filled_with_places(read: Any) -> None:
    regions = read(PIPELINE, scene="a.tif").steps[1]
    places = {"cover": {"labels": "out/cover/labels.tif", "confidence": "out/cover/confidence.tif"}}
    assert regions.filled(places) == {"inputs": "out/cover/labels.tif", "stats": ["out/cover/confidence.tif:mean"]}
    with pytest.raises(
        ConfigError, match=r"step regions: \$\{cover.confidence\}: cover has no confidence; it has labels"
    ):
        regions.filled({"cover": {"labels": "labels.tif"}})


def test_steps_may_be_a_list(read: Any) -> None:
    content = yaml.safe_load(PIPELINE)
    content["steps"] = [{"name": name, **body} for name, body in content["steps"].items()]
    assert read(yaml.safe_dump(content), scene="a.tif").steps == read(PIPELINE, scene="a.tif").steps


_SCALARS = st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="ascii", exclude_characters="${}"))
_VALUES = st.recursive(_SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text("ab"), inner), max_leaves=8)


@given(value=_VALUES)
def test_a_variable_alone_is_its_value_whatever_that_is(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("file") / "p.yaml"
    content = {"variables": {"x": {"a": value}}, "steps": {"s": {"search": {"where": ["${x}"]}}}}
    path.write_text(yaml.safe_dump(content))
    assert read_workflow(path, {}).steps[0].options == {"where": [{"a": value}]}


ONE = "steps: {a: {segment: {inputs: s.tif}}}"
REFUSED = {
    "[1]": "is no pipeline: it needs a key steps",
    "steps: {a: [": "not YAML",
    "steps: {a: {segment: {inputs: ${scene}}}}": "between brackets ${...} needs quotes around it",
    "stpes: {}": "stpes: no such key; did you mean steps?; a pipeline has variables and steps",
    "variables: {}": "steps: should be steps by name, or a list in which each has a name",
    "steps: []": "steps: there is none",
    "steps: [{segment: {}}]": "or a list in which each has a name",
    "steps: {a: {segment: {}}, a: {segment: {}}}": "line 1: a stands there twice (line 1); keep one of them",
    "steps: [{name: a, segment: {}}, {name: a, segment: {}}]": "step a: stands there twice",
    "steps: {a: {segment: {tile: 1, tile: 2}}}": "line 1: tile stands there twice",
    "steps: {../a: {segment: {}}}": "step ../a: a name is a letter, then",
    "steps: {1: {segment: {}}}": "step 1: a name is a letter, then",
    "steps: {a: {}}": "step a: does one of search, segment, change, vectorize, evaluate, publish, not none",
    "steps: {a: {segment: {}, change: {}}}": "step a: does one of search, segment, change, vectorize, evaluate",
    "steps: {a: {segmnt: {}}}": "step a: segmnt: no such verb; did you mean segment?",
    "steps: {a: {segment: [1]}}": "step a: segment: should hold lines like 'tile: 512'",
    "variables: [1]\n" + ONE: "variables: should be lines like",
    "variables: {a b: 1}\n" + ONE: "variables: a b: a name is a letter, then",
    'variables: {b: "${c}"}\n' + ONE: "variables: b: a default refers to nothing",
    "variables: {b: null}\n" + ONE: "variable b has no value; add --set b=VALUE",
    "variables: {a: 1}\n" + ONE: "step a: is also the name of a variable",
    "variables: {tile: 1}\nsteps: {a: {segment: {tile: '${tle}'}}}": "step a: ${tle}: no such variable; did you mean "
    "tile?; there are tile",
    "steps: {a: {segment: {tile: '${tile}'}}}": "step a: ${tile}: no such variable; the file declares none",
    "steps: {a: {segment: {tile: '${}'}}}": "step a: ${}: no such variable",
    "steps: {a: {segment: {tile: '${tile'}}}": "step a: ${tile: a reference is ${NAME} or ${STEP.OUTPUT}; close it",
    "steps: {a: {segment: {items: '${b.items}'}}}": "step a: refers to b: no such step",
    "steps: {a: {segment: {items: '${a.items}'}}}": "step a: refers to itself",
    "steps: {a: {segment: {items: '${b.items}'}}, b: {search: {}}}": "step a: refers to b, which comes later; put b "
    "before a",
    "steps: {a: {segment: {items: '${b.items}'}}, b: {search: {area: '${a.out}'}}}": "steps a and b wait for each "
    "other",
}


@pytest.mark.parametrize(("text", "says"), REFUSED.items())
def test_refused_with_file_and_place(read: Any, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as told:
        read(text)
    assert str(told.value).split(": ")[0].endswith("p.yaml")
    assert says in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"scene": "a", "tiel": "1"},
            "--set tiel: no such variable; did you mean tile?; there are scene, tile, formats",
        ),
        ({"scene": "[a"}, "--set scene=[a: is no list; write [A, B]"),
    ],
)
def test_values_refused(read: Any, values: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=f".*{says[:6]}") as told:
        read(PIPELINE, **values)
    assert says in str(told.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.yaml: cannot read the pipeline \(No such file"):
        read_workflow(tmp_path / "no.yaml", {})
