"""The plugin for QGIS, as Debian's QGIS runs it: against a service that computes nothing, and against a real one."""

from __future__ import annotations

import ast
import configparser
import hashlib
import importlib.util
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pyproj
import pytest

from tests.clusters import running, until
from tests.conftest import CHECKOUT
from tests.debian import ask
from tests.gis.fake_service import FakeService, serving

SOURCES = CHECKOUT / "integrations" / "qgis" / "geoseg_provider"
TOKEN = "a-token-of-this-test"
PIECE = 20_000
"""Bytes of a file that are fetched at once."""

_RUN = """
import json, os, sys
sys.path[:0] = [sys.argv[1], "/usr/share/qgis/python/plugins"]
told = json.loads(sys.argv[2])
from qgis.core import *
from qgis.PyQt.QtCore import QEventLoop
application = QgsApplication([], False)
application.initQgis()
log = []
application.messageLog().messageReceived.connect(lambda text, tag, level: log.append(text))
from processing.core.Processing import Processing
from processing.core.ProcessingConfig import ProcessingConfig
from processing.gui.Postprocessing import handleAlgorithmResults
Processing.initialize()
import geoseg_provider, geoseg_provider.client
geoseg_provider.client._PIECE_BYTES = told["piece"]
plugin = geoseg_provider.classFactory(None)
plugin.initProcessing()
ProcessingConfig.setSettingValue("GEOSEG_URL", told["url"])
if told["token"]:
    vault = QgsApplication.authManager()
    vault.setMasterPassword("secret", True)
    kept = QgsAuthMethodConfig("Basic")
    kept.setName("geoseg")
    kept.setConfigMap({"username": "geoseg", "password": told["token"]})
    vault.storeAuthenticationConfig(kept)
    ProcessingConfig.setSettingValue("GEOSEG_AUTHENTICATION", kept.id())

class Feedback(QgsProcessingFeedback):
    def __init__(self):
        super().__init__(False)
        self.progress, self.texts, self.errors = [], [], []
        self.progressChanged.connect(self.hear)
    def hear(self, percent):
        self.progress.append(percent)
        if told["cancel"] is not None and percent >= told["cancel"]:
            self.cancel()
    def setProgressText(self, text):
        self.texts.append(text)
    def reportError(self, text, fatalError=False):
        self.errors.append(text)

def run(name, parameters):
    feedback, context, project = Feedback(), QgsProcessingContext(), QgsProject.instance()
    context.setProject(project)
    context.setFeedback(feedback)
    algorithm = QgsApplication.processingRegistry().createAlgorithmById(f"geoseg:{name}")
    hints = {p.name(): p.metadata().get("widget_wrapper", {}).get("value_hints", [])
             for p in algorithm.parameterDefinitions()}
    for each in algorithm.destinationParameterDefinitions():
        if each.name() in parameters:
            parameters[each.name()] = QgsProcessingOutputLayerDefinition(parameters[each.name()], project)
    good, why = algorithm.checkParameterValues(parameters, context)
    assert good, why
    task, loop, ended = QgsProcessingAlgRunnerTask(algorithm, parameters, context, feedback), QEventLoop(), []
    task.executed.connect(lambda success, results: (ended.extend([success, results]), loop.quit()))
    alive.append((task, context, feedback, algorithm))  # the task manager still uses them when the loop has ended
    if task.isCanceled():  # by the constructor: it could not be prepared
        ended = [False, {}]
    else:
        QgsApplication.taskManager().addTask(task)
        loop.exec_()
    if ended[0] and not feedback.isCanceled():
        handleAlgorithmResults(algorithm, context, feedback, False, parameters)
    return {"success": ended[0], "results": ended[1], "progress": feedback.progress, "texts": feedback.texts,
            "errors": feedback.errors, "hints": hints}

def describe(layer):
    renderer, facts = layer.renderer(), {"name": layer.name(), "valid": layer.isValid(), "source": layer.source()}
    if isinstance(layer, QgsRasterLayer):
        return {**facts, "legend": [(label, color.name()) for label, color in renderer.legendSymbologyItems()]}
    legend = [(entry.label(), entry.symbol().color().name()) for entry in renderer.legendSymbolItems()]
    box = layer.extent()
    return {**facts, "legend": legend, "rows": [feature.attributes() for feature in layer.getFeatures()],
            "extent": [box.xMinimum(), box.yMinimum(), box.xMaximum(), box.yMaximum()]}

alive = []
runs = [run(*each) for each in told["runs"]]
layers = {layer.name(): describe(layer) for layer in QgsProject.instance().mapLayers().values()}
QgsSettings().sync()
with open(QgsSettings().fileName()) as file:
    settings = file.read()
print(json.dumps({"runs": runs, "layers": layers, "log": log, "settings": settings}, default=str), flush=True)
os._exit(0)
"""


def load_packer() -> Any:
    spec = importlib.util.spec_from_file_location("package", SOURCES.parent / "package.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of plugins into which the packed one was unpacked."""
    folder = tmp_path_factory.mktemp("plugins")
    with zipfile.ZipFile(load_packer().pack(folder)) as archive:
        archive.extractall(folder)
    return folder


def in_qgis(plugins: Path, url: str, *runs: tuple[str, dict[str, Any]], token: str = "", cancel: Any = None) -> Any:
    """What became of algorithms that ran one after the other, as from QGIS's toolbox."""
    told = {"url": url, "token": token, "cancel": cancel, "piece": PIECE, "runs": runs}
    return ask(_RUN, plugins, json.dumps(told), module="qgis.core")


def legend_of(run: Path) -> list[list[str]]:
    item = json.loads((run / "item.json").read_text())
    (name,) = {"labels", "change"} & item["assets"].keys()
    classes = item["assets"][name]["bands"][0]["classification:classes"]
    return [[entry["title"], f"#{entry['color_hint'].lower()}"] for entry in classes]


# --- the package ---


def test_the_plugin_uses_nothing_that_qgis_does_not_bring() -> None:
    allowed = {"geoseg_provider", "processing", "qgis"} | sys.stdlib_module_names
    for path in SOURCES.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= allowed, path


def test_the_package_is_what_qgis_installs(tmp_path: Path) -> None:
    pack = load_packer().pack
    first, second = pack(tmp_path / "a"), pack(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        names = set(archive.namelist())
        metadata = archive.read("geoseg_provider/metadata.txt").decode()
    assert names == {f"geoseg_provider/{path.name}" for path in SOURCES.iterdir() if path.is_file()} | {
        "geoseg_provider/LICENSE"
    }
    parser = configparser.ConfigParser()
    parser.read_string(metadata)
    general = parser["general"]
    assert {"name", "description", "about", "version", "author", "qgisminimumversion"} <= set(general)
    assert general["hasProcessingProvider"] == "yes"
    assert f"geoseg_provider/{general['icon']}" in names


# --- against a service that computes nothing ---


@pytest.mark.system
def test_a_map_arrives_with_its_colors(plugins: Path, run: Path, tmp_path: Path) -> None:
    labels, polygons = tmp_path / "map é.tif", tmp_path / "polygons.gpkg"
    states = [("accepted", 0, "waits"), ("running", 40, "2 of 5 chunks"), ("successful", 100, "done")]
    parameters = {
        "SCENE": "S2A_33UWP",
        "MODEL": "flood-s2",
        "EXTENT": "600000,601000,5330000,5331500 [EPSG:32633]",
        "OPTIONS": '{"tile": 64}',
        "LABELS": str(labels),
        "POLYGONS": str(polygons),
    }
    with serving(FakeService(run=run, states=states, lost=2)) as fake:
        found = in_qgis(plugins, fake.url, ("segment", parameters), token=TOKEN)
    (job,) = found["runs"]
    assert (job["success"], job["errors"]) == (True, [])
    assert job["results"] == {"LABELS": str(labels), "POLYGONS": str(polygons)}
    assert (job["progress"], job["texts"][:3]) == ([40, 100], ["waits", "2 of 5 chunks", "done"])
    assert labels.read_bytes() == (run / "labels.tif").read_bytes()
    assert polygons.stat().st_size == (run / "polygons.gpkg").stat().st_size
    assert {path.name for path in tmp_path.iterdir()} >= {labels.name, "map é.qml", polygons.name}
    assert not list(tmp_path.glob("*.part"))
    assert {name: layer["legend"] for name, layer in found["layers"].items()} == {
        "Map": legend_of(run),
        "Polygons": legend_of(run),
    }
    assert all(layer["valid"] for layer in found["layers"].values())

    asked = next(heard for heard in fake.heard if heard.verb == "POST")
    box = asked.body["inputs"].pop("bbox")
    assert asked.body["inputs"] == {"scene": "S2A_33UWP", "model": "flood-s2", "tile": 64, "vector": ["gpkg"]}
    to_degrees = pyproj.Transformer.from_crs(32633, 4326, always_xy=True)
    assert box == pytest.approx(to_degrees.transform_bounds(6e5, 533e4, 601e3, 5331500), abs=1e-4)
    assert asked.headers["Prefer"] == "respond-async"
    assert {heard.headers.get("Authorization") for heard in fake.heard} == {f"Bearer {TOKEN}"}
    pieces = [heard for heard in fake.heard if heard.path.endswith("/polygons.gpkg")]
    assert len(pieces) == -(-(run / "polygons.gpkg").stat().st_size // PIECE) > 1
    assert TOKEN not in json.dumps([found["log"], found["settings"], job])


@pytest.mark.system
def test_cancelling_stops_the_job_at_the_service(plugins: Path, run: Path, tmp_path: Path) -> None:
    states = [("accepted", 0, "waits"), ("running", 40, "2 of 5 chunks")]
    parameters = {"SCENE": "a", "LABELS": str(tmp_path / "map.tif")}
    with serving(FakeService(run=run, states=states)) as fake:
        found = in_qgis(plugins, fake.url, ("segment", parameters), cancel=40)
    assert [heard.path for heard in fake.heard if heard.verb == "DELETE"] == ["/jobs/job%201"]
    assert found["runs"][0]["errors"] == []
    assert (found["layers"], list(tmp_path.iterdir())) == ({}, [])


@pytest.mark.system
def test_what_is_wrong_is_one_line(plugins: Path, run: Path, tmp_path: Path) -> None:
    """Each of these services is wrong in its own way."""
    problem = {"title": "No such scene", "detail": "the service lists\nno scene of that id", "status": 400}
    cases = {
        "No such scene: the service lists no scene of that id": FakeService(
            run=run, refusal=(400, json.dumps(problem).encode())
        ),
        "the service answered with status 502": FakeService(run=run, refusal=(502, b"<html>bad gateway</html>")),
        "scene.tif: has no band nir": FakeService(
            run=run, states=[("running", 1, ""), ("failed", 1, "scene.tif:\n has no band nir")]
        ),
        "the job made no labels; it made nothing of use": FakeService(run=tmp_path / "empty"),
        "no answer of a geoseg service": FakeService(run=run, refusal=(200, b"<html>hello</html>")),
    }
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "nothing of use").touch()
    parameters = {"SCENE": "a", "LABELS": str(tmp_path / "map.tif")}
    for line, fake in cases.items():
        with serving(fake):
            (job,) = in_qgis(plugins, fake.url, ("segment", parameters))["runs"]
        assert not job["success"]
        assert [len(text.splitlines()) for text in job["errors"]] == [1], job["errors"]
        assert line in job["errors"][0]
    assert not (tmp_path / "map.tif").exists()


@pytest.mark.system
@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("http://127.0.0.1:9", "http://127.0.0.1:9 does not answer"),
        ("http://maps.example.org", "a token is not sent without encryption"),
        ("maps.example.org", "is no address of a service"),
    ],
)
def test_an_address_that_cannot_be_used_is_named(plugins: Path, tmp_path: Path, url: str, line: str) -> None:
    parameters = {"SCENE": "a", "LABELS": str(tmp_path / "map.tif")}
    (job,) = in_qgis(plugins, url, ("segment", parameters), token=TOKEN)["runs"]
    assert not job["success"]
    assert line in " ".join(job["errors"])
    assert TOKEN not in json.dumps(job)


@pytest.mark.system
def test_a_token_goes_to_its_service_only(plugins: Path, run: Path, tmp_path: Path) -> None:
    parameters = {"SCENE": "a", "LABELS": str(tmp_path / "map.tif")}
    with serving(FakeService(run=run)) as store, serving(FakeService(run=run, files_url=store.url)) as fake:
        (job,) = in_qgis(plugins, fake.url, ("segment", parameters), token=TOKEN)["runs"]
    assert job["success"], job["errors"]
    assert store.heard
    assert all("Authorization" not in heard.headers for heard in store.heard)


# --- against a real service ---


@pytest.mark.slow
@pytest.mark.system
def test_scenes_a_map_and_a_change_of_a_real_service(plugins: Path, tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="needs the extra serve")
    from tests.serve.conftest import TIMES, add_scene, write_listing

    for seed, (name, when) in enumerate(TIMES.items()):
        add_scene(tmp_path / "scenes", name, seed=seed, when=when)
    write_listing(tmp_path / "scenes")
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text(f"- name: ann\n  sha256: {hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    words = ["--root", tmp_path / "root", "--catalog", tmp_path / "scenes", "--tokens", tokens, "--port", "0"]
    made = {name: str(tmp_path / f"{name}.tif") for name in ("labels", "change", "probability")}
    runs: list[tuple[str, dict[str, Any]]] = [
        ("scenes", {"OUTLINES": str(tmp_path / "outlines.gpkg")}),
        ("segment", {"SCENE": "before", "LABELS": made["labels"], "POLYGONS": str(tmp_path / "polygons.gpkg")}),
        (
            "change",
            {"BEFORE": "before", "AFTER": "after", "CHANGE": made["change"], "CHANGE_PROBABILITY": made["probability"]},
        ),
        ("segment", {"SCENE": "nowhere", "LABELS": str(tmp_path / "none.tif")}),
    ]
    log = tmp_path / "service.log"
    serve = (sys.executable, "-u", "-m", "geoseg", "serve", *words, "--device", "cpu")
    with running(*serve, log=log, env={"PYTHONPATH": str(CHECKOUT)}) as process:
        until(lambda: b"http://" in log.read_bytes() or process.poll() is not None)
        url = next(line for line in log.read_text().splitlines() if line.startswith("http://"))
        found = in_qgis(plugins, url, *runs, token=TOKEN)
    outlines, segment, change, refused = found["runs"]
    assert [each["errors"] for each in (outlines, segment, change)] == [[], [], []]
    assert segment["hints"]["SCENE"] == ["after", "before"]
    assert "spectral-baseline" in segment["hints"]["MODEL"]
    assert "index-change" in change["hints"]["MODEL"]
    assert segment["progress"][-1] == 100
    assert not refused["success"]
    assert refused["errors"][-1].startswith("No such scene")
    folders = [path for path in (tmp_path / "root" / "jobs").iterdir() if path.is_dir()]
    kept = {path.name: path for folder in folders for path in (folder / "run").glob("*.tif")}
    assert Path(made["labels"]).read_bytes() == kept["labels.tif"].read_bytes()
    assert Path(made["change"]).read_bytes() == kept["change.tif"].read_bytes()
    layers = found["layers"]
    assert set(layers) == {"Scenes", "Map", "Polygons", "Change", "Probability of change"}
    assert layers["Map"]["legend"] == legend_of(kept["labels.tif"].parent)
    assert layers["Change"]["legend"] == legend_of(kept["change.tif"].parent)
    assert sorted(row[1] for row in layers["Scenes"]["rows"]) == ["after", "before"]
    item = json.loads((tmp_path / "scenes" / "before" / "item.json").read_text())
    assert layers["Scenes"]["extent"] == pytest.approx(item["bbox"], abs=1e-6)
    assert not (tmp_path / "none.tif").exists()
