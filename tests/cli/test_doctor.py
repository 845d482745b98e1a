"""``geoseg doctor``: finds what is broken, says how to mend it, and never fails itself."""

from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path

import pytest

from geoseg.cli import doctor
from tests.cli.conftest import Call


def found(call: Call) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code and checks by name."""
    ended = call("doctor", "--json")
    return ended.code, {check["name"]: check for check in json.loads(ended.out)["checks"]}


def test_a_sound_machine_is_0_and_every_part_is_named(call: Call) -> None:
    ended = call("doctor")
    assert ended.code == 0
    assert ended.err == ""
    for topic in ("packages", "GDAL", "machine", "folders"):
        assert topic in ended.out.splitlines()
    for word in ("Python", "GTiff", "JP2OpenJPEG", "cores", "memory", "cache", "GB"):
        assert word in ended.out


def test_json_holds_the_same_checks(call: Call) -> None:
    code, checks = found(call)
    assert code == 0
    assert {check["state"] for check in checks.values()} <= {"ok", "missing"}
    assert all(check["mend"] for check in checks.values() if check["state"] != "ok")


def test_requirements_that_are_absent_old_or_broken_are_named_with_the_command(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = ["numpy>=2", "click>=999", "no-such-thing>=1", "pyyaml>=6", "monai>=1 ; extra == 'bench'"]
    monkeypatch.setattr(metadata, "requires", lambda _: declared)
    versions = {"geoseg": "0.1.0", "numpy": "2.3", "click": "8.1", "pyyaml": "6.0", "openvino": "2025.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setitem(doctor.LOADED, "pyyaml", "no_such_module")
    code, checks = found(call)
    assert code == 4
    assert checks["numpy"]["state"] == "ok"
    assert (checks["click"]["detail"], checks["click"]["mend"]) == ("8.1, needed is >=999", "pip install 'click>=999'")
    assert (checks["no-such-thing"]["detail"], checks["no-such-thing"]["state"]) == ("not installed", "broken")
    assert "cannot be imported (ModuleNotFoundError" in checks["pyyaml"]["detail"]
    assert checks["pyyaml"]["mend"] == "pip install --force-reinstall pyyaml"
    assert "monai" not in checks
    errors = call("doctor").error_lines
    assert len(errors) == 3
    assert "geoseg: error: click: 8.1, needed is >=999. Mend it with: pip install 'click>=999'" in errors


def test_a_missing_extra_breaks_nothing(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = metadata.version

    def version(name: str) -> str:
        if name == "openvino":
            raise metadata.PackageNotFoundError(name)
        return "0.1.0" if name == "geoseg" else plain(name)

    monkeypatch.setattr(metadata, "requires", lambda _: [])
    monkeypatch.setattr(metadata, "version", version)
    code, checks = found(call)
    assert code == 0
    assert (checks["openvino"]["state"], checks["openvino"]["mend"]) == ("missing", "pip install 'geoseg[openvino]'")


def test_a_check_that_raises_is_a_finding(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> doctor.Check:
        raise OSError("libgdal.so: cannot open\nshared object file")

    monkeypatch.setattr(doctor, "_drivers", broken)
    code, checks = found(call)
    assert code == 4
    assert checks["drivers"]["detail"] == "OSError: libgdal.so: cannot open shared object file"


def test_a_cache_that_cannot_be_written_is_missing(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(os, "access", lambda path, _: "locked" not in str(path))  # root may write everywhere
    monkeypatch.setenv("GEOSEG_CACHE", str(tmp_path / "locked" / "cache"))
    code, checks = found(call)
    assert code == 0
    assert checks["cache"]["state"] == "missing"
