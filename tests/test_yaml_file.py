"""YAML that people write: nothing in it is lost without a word."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import ConfigError
from geoseg.yaml_file import read_yaml

KEYS = st.text("abc-_", min_size=1, max_size=3)


def read(text: str) -> object:
    """What a file with this text holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_text", lambda *_, **__: text)
        return read_yaml(Path("a.yaml"), "the file")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text("ab: #-", max_size=5) | st.dates(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=8,
    )
)
def test_what_has_each_key_once_is_what_yaml_says(value: object) -> None:
    assert read(yaml.safe_dump(value)) == value


@given(st.lists(KEYS, min_size=1, max_size=6))
def test_a_key_that_stands_twice_is_named_with_both_lines(keys: list[str]) -> None:
    text = "top:\n" + "".join(f"  {yaml.safe_dump(key).splitlines()[0]}: 1\n" for key in keys)
    twice = next((number for number, key in enumerate(keys) if key in keys[:number]), None)
    if twice is None:
        assert read(text) == {"top": dict.fromkeys(keys, 1)}
        return
    first = keys.index(keys[twice])
    with pytest.raises(ConfigError) as caught:
        read(text)
    said = f"a.yaml: line {twice + 2}: {keys[twice]} stands there twice (line {first + 2}); keep one of them"
    assert str(caught.value) == said


def test_merged_keys_are_none_that_stand_twice() -> None:
    assert read("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n") == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}}


@pytest.mark.parametrize("text", ["a: [", "a: \x00", "!!python/object:os.system {}", "a: !!int x", "--- a\n--- b"])
def test_what_is_no_yaml_is_said_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^a\.yaml: not YAML \(.+\)$"):
        read(text)


def test_a_date_that_does_not_exist_is_text() -> None:
    assert read("2024-13-45") == "2024-13-45"
    assert read("") is None
